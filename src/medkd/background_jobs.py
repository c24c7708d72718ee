"""Commands that outlive the terminal: started, listed, followed and stopped, by name.

In: the words of a `medkd` command. Out: a folder a run, with `run.json` (what was started),
`log.txt` (all it said) and, when it has ended, `end.json`. Whoever holds the lock of `alive` is
that run, so a number that another process got later is never mistaken for it.
Not done here: what the command does. Needs a POSIX system; a run is seen as running only from the
machine it runs on.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medkd.core.config import did_you_mean
from medkd.core.errors import InputError
from medkd.core.jsonl import write_text

State = Literal["running", "done", "stopped", "failed", "killed"]
STATES: dict[int, State] = {0: "done", 2: "failed", 3: "stopped"}
PATIENCE_S = 30.0
"""How long an interrupted run may take to keep what it has."""
POLL_S = 0.2


class Job(BaseModel):
    """A command that was started to outlive its terminal."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    words: list[str]
    """Of the command, without `medkd`."""
    cwd: Path
    pid: int
    """Of the process group that is interrupted to stop it."""
    started_at: str


class JobResult(BaseModel):
    """How a run ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    code: int
    ended_at: str


def runs_dir() -> Path:
    """Give the folder that holds all runs of this user."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "medkd" / "runs"


def start(words: Sequence[str], directory: Path | None = None) -> Job:
    """Start `medkd WORDS` in a session of its own and return at once."""
    folder = _make_folder(words[0], directory or runs_dir())
    log = (folder / "log.txt").open("ab")
    with log:
        process = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-m", "medkd.background_jobs", str(folder), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    run = Job(
        name=folder.name, words=list(words), cwd=Path.cwd(), pid=process.pid, started_at=_now()
    )
    write_text(folder / "run.json", run.model_dump_json() + "\n")
    return run


def _make_folder(command: str, directory: Path) -> Path:
    """Make the next free folder of a command: train-1, train-2."""
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


def list_runs(directory: Path | None = None) -> list[Job]:
    """List all runs, the latest last."""
    found: list[Job] = []
    for path in (directory or runs_dir()).glob("*/run.json"):
        try:
            found.append(Job.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    return sorted(found, key=lambda run: (run.started_at, _number(Path(run.name))))


def find_run(name: str, directory: Path | None = None) -> Job:
    """Find a run by its name; raises InputError naming the nearest one."""
    runs = {run.name: run for run in list_runs(directory)}
    if name in runs:
        return runs[name]
    raise InputError(
        f"{name}: no such run{did_you_mean(name, list(runs)) if runs else '; none was started with --detach yet'}"
    )


def read_state(run: Job, directory: Path | None = None) -> State:
    """Tell how a run is."""
    folder = (directory or runs_dir()) / run.name
    try:
        return STATES.get(
            JobResult.model_validate_json((folder / "end.json").read_bytes()).code, "killed"
        )
    except (OSError, ValidationError):
        return "running" if _is_alive(folder) else "killed"


def _is_alive(folder: Path) -> bool:
    """Tell whether a run's process still holds its lock; one that has not come to take it is young
    enough to be alive."""
    alive = folder / "alive"
    if not alive.exists():
        return time.time() - folder.stat().st_mtime < PATIENCE_S
    with alive.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def log_path(run: Job, directory: Path | None = None) -> Path:
    """Give the file that holds all a run said."""
    return (directory or runs_dir()) / run.name / "log.txt"


def read_log(run: Job, offset: int = 0, directory: Path | None = None) -> tuple[str, int]:
    """Read what a run said from an offset on; gives the text and the next offset."""
    with log_path(run, directory).open("rb") as file:
        file.seek(offset)
        content = file.read()
    return content.decode("utf-8", "replace"), offset + len(content)


def follow_log(run: Job, offset: int = 0, directory: Path | None = None) -> Iterator[str]:
    """Yield what a run says as it says it, until it has ended."""
    while True:
        is_over = read_state(run, directory) != "running"
        text, offset = read_log(run, offset, directory)
        if text:
            yield text
        if is_over:
            return
        time.sleep(POLL_S)


def stop(run: Job, directory: Path | None = None, say: Callable[[str], None] = print) -> State:
    """Interrupt a run, as Ctrl-C would, and wait until it has kept what it has; one that does not
    end is killed."""
    folder = (directory or runs_dir()) / run.name
    for sign, what in (
        (signal.SIGINT, ""),
        (signal.SIGTERM, "it did not end; told to end"),
        (signal.SIGKILL, "it did not end; killed"),
    ):
        if read_state(run, directory) != "running" or not _is_alive(folder):
            break
        if what:
            say(f"{run.name}: {what}")
        try:
            os.killpg(run.pid, sign)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + PATIENCE_S
        while _is_alive(folder) and time.monotonic() < deadline:
            time.sleep(POLL_S / 4)
    return read_state(run, directory)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _pass_over(_number: int, _frame: object) -> None:
    """Leave an interruption to the command, which got it too."""


def _supervise(folder: Path, words: Sequence[str]) -> int:
    """Run the command, holding the lock of its folder, and write down how it ended."""
    # A handler, and not to ignore it: what is ignored here would be ignored by the command too.
    signal.signal(signal.SIGINT, _pass_over)
    alive = (folder / "alive").open("wb")
    fcntl.flock(alive, fcntl.LOCK_EX)
    command = [sys.executable, "-m", "medkd", *words]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[alive.fileno()])  # noqa: S603 - this very program
    code = process.wait()
    write_text(folder / "end.json", JobResult(code=code, ended_at=_now()).model_dump_json() + "\n")
    return code


if __name__ == "__main__":
    sys.exit(_supervise(Path(sys.argv[1]), sys.argv[2:]))
