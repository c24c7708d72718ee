"""Commands that outlive the terminal: started, listed, followed and stopped, by name.

In: the words of a `medkd` command. Out: a folder a run, with `run.json` (what was started),
`log.txt` and, at its end, `end.json`. A run holds the lock of `alive` in its folder. Needs a POSIX
system; a run is seen from its own machine only. Not done here: what the command does.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medkd.core.config import did_you_mean
from medkd.core.errors import InputError, Said
from medkd.core.jsonl import write_text

State = Literal["running", "done", "stopped", "failed", "crashed", "killed"]
STATES: dict[int, State] = {0: "done", 1: "crashed", 2: "failed", 3: "stopped"}
"""Exit code to state; a run that ended without writing its code was killed."""
PATIENCE_S = 30.0
"""How long an interrupted run may take to save its work."""
POLL_S = 0.2


class Job(BaseModel):
    """A detached run: a command that was started to outlive its terminal."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    words: list[str]
    """The command's, without `medkd`."""
    cwd: Path
    pid: int
    """Of the process group, which is interrupted to stop the run."""
    started_at: str

    @property
    def folder(self) -> Path:
        return runs_dir() / self.name

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"


class JobResult(BaseModel):
    """How a run ended."""

    model_config = ConfigDict(extra="forbid")
    code: int
    ended_at: str = ""
    problem: dict[str, Any] = {}
    """Why it did not come to its end, as `Said.to_json` writes it; empty where it did."""


def state_dir() -> Path:
    """Return the folder in which medkd keeps what it knows of this user's work."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "medkd"


def runs_dir() -> Path:
    """Return the folder that holds all runs of this user."""
    return state_dir() / "runs"


def start(
    words: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Job:
    """Start `medkd WORDS` in a session of its own and return at once."""
    folder = _make_folder(words[0], runs_dir())
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-m", "medkd.cli.jobs", str(folder), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
        )
    at = cwd or Path.cwd()
    run = Job(name=folder.name, words=list(words), cwd=at, pid=process.pid, started_at=_now())
    write_text(folder / "run.json", run.model_dump_json() + "\n")
    return run


@contextmanager
def record_end(folder: Path) -> Generator[JobResult]:
    """Hold the lock of a run's folder while its command runs, then write down the exit code that
    the caller puts into the result."""
    young = folder / "young"
    with young.open("wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        young.replace(folder / "alive")  # locked from the moment that others see it
        result = JobResult(code=1)
        try:
            yield result
        finally:
            result.ended_at = _now()
            write_text(folder / "end.json", result.model_dump_json() + "\n")


def _make_folder(command: str, directory: Path) -> Path:
    """Make the next free folder for a command: train-1, train-2."""
    directory.mkdir(parents=True, exist_ok=True)
    number = 1 + max((_number(path) for path in directory.glob(f"{command}-*")), default=0)
    while True:
        try:
            (directory / f"{command}-{number}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return directory / f"{command}-{number}"


def _number(path: Path) -> int:
    last = path.name.rpartition("-")[2]
    return int(last) if last.isdigit() else 0


def list_runs() -> list[Job]:
    """List all runs, the latest last."""
    found: list[Job] = []
    for path in runs_dir().glob("*/run.json"):
        try:
            found.append(Job.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    return sorted(found, key=lambda run: (run.started_at, _number(Path(run.name))))


def find_run(name: str) -> Job:
    """Find a run by its name; raises InputError naming the nearest one."""
    runs = {run.name: run for run in list_runs()}
    if name in runs:
        return runs[name]
    hint = did_you_mean(name, runs) if runs else Said("; none was started with --detach yet")
    raise InputError("{}: no such run{}", name, hint)


def read_state(run: Job) -> State:
    """Tell how a run is."""
    if _is_alive(run.folder):
        return "running"
    result = read_end(run)
    return "killed" if result is None or result.code < 0 else STATES.get(result.code, "crashed")


def read_end(run: Job) -> JobResult | None:
    """Read how a run ended; None where it did not write that down."""
    try:
        return JobResult.model_validate_json((run.folder / "end.json").read_bytes())
    except (OSError, ValidationError):
        return None


def _is_alive(folder: Path) -> bool:
    """Tell whether a run's process holds its lock, or is too young to have taken it."""
    try:
        with (folder / "alive").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return folder.exists() and time.time() - folder.stat().st_mtime < PATIENCE_S
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks: what has written no end is taken to run
        return not (folder / "end.json").exists()
    return False


def read_log(run: Job, offset: int = 0) -> tuple[str, int]:
    """Read a log from an offset on, a negative one counted from its end; returns the text and the
    next offset."""
    with run.log.open("rb") as file:
        file.seek(offset if offset >= 0 else max(0, run.log.stat().st_size + offset))
        content = file.read()
        return content.decode("utf-8", "replace"), file.tell()


def follow_log(run: Job, offset: int = 0) -> Iterator[str]:
    """Yield a log as it is written, until the run has ended."""
    while True:
        is_over = read_state(run) != "running"
        text, offset = read_log(run, offset)
        if text:
            yield text
        if is_over:
            return
        time.sleep(POLL_S)


def stop(run: Job, say: Callable[[str], None] = print) -> State:
    """Interrupt a run, as Ctrl-C would, and wait until it has saved its work; one that does not
    end is killed."""
    for sign, what in (
        (signal.SIGINT, ""),
        (signal.SIGTERM, "it did not end; terminated"),
        (signal.SIGKILL, "it did not end; killed"),
    ):
        if read_state(run) != "running":
            break
        if what:
            say(f"{run.name}: {what}")
        try:
            os.killpg(run.pid, sign)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + PATIENCE_S
        while _is_alive(run.folder) and time.monotonic() < deadline:
            time.sleep(POLL_S / 4)
    return read_state(run)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
