"""Starting, stopping and watching runs: the same detached runs as `medkd ... --detach`, started by
that very command.

In: the words of a command and the workspace. Out: what runs, how far it is, its log and its curves.
Not done here: forms (`studio.forms`), keeping a run alive (`background_jobs` does).
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from medkd import background_jobs
from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.completers.ledger import open_reader
from medkd.core.config import read_recipe
from medkd.core.errors import InputError, MedkdError
from medkd.core.stage_output import MANIFEST, is_locked, read_manifest
from medkd.stages import STAGES
from medkd.studio.charts import Point
from medkd.studio.workspace import Step, Workspace

START_LIMIT_S, DOCTOR_LIMIT_S = 60, 600
TAIL_BYTES = 64 * 1024
RUNNING, DONE, FINISHED = "running", "done", "finished"
UNFINISHED = "unfinished"
"""State of a run that was begun and is not detached: it may run in a terminal, or have been killed
there."""
STOPPED = ("stopped", "failed", "crashed", "killed")
ERROR = "error: "
"""How a command begins the line that says why it ended."""
CURVES = {
    "loss": ("loss", "eval_loss"),
    "reward": ("reward",),
    "length": ("length",),
    "rate": ("rate", "accuracy"),
    "learning_rate": ("learning_rate",),
}
"""Chart to what the names of its numbers are (`loss`, `learning_rate`) or hold."""
GROWING = ("rationales.jsonl", "predictions.jsonl", "raw_cases.jsonl", "cases.jsonl")
"""Files of records that a stage appends to while it works."""
RUN_FILES = ("report.html", "summary.json")
"""What a run writes beside its steps."""


class Job(NamedTuple):
    """A run as the list shows it: a directory below the runs, and the detached runs that make it or
    made it."""

    name: str
    state: str
    started_at: str
    steps: tuple[Step, ...]
    detached: tuple[background_jobs.Job, ...]
    """The newest first."""

    @property
    def alive(self) -> background_jobs.Job | None:
        """The detached run that works on it now."""
        return self.detached[0] if self.state == RUNNING and self.detached else None


class Progress(NamedTuple):
    """How far a step has come."""

    step: str
    done: int
    total: int
    """0 where it is not known."""
    unit: str
    seconds_left: float | None

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 0.0


def start(words: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None) -> None:
    """Start a command detached. Raises InputError with its own line where it is refused."""
    done = _run_medkd([*words, "--detach"], START_LIMIT_S, environment, cwd)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise InputError(find_problem(lines) or (lines or ["the command could not be started"])[-1])


def examine(words: Sequence[str]) -> list[str]:
    """Run `medkd doctor` and return what it says."""
    try:
        done = _run_medkd(["doctor", *words], DOCTOR_LIMIT_S, {}, None)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"medkd doctor did not end within {DOCTOR_LIMIT_S} seconds; run it in a terminal"
        ) from error
    return f"{done.stdout}\n{done.stderr}".strip().splitlines()


def _run_medkd(
    words: Sequence[str], limit_s: int, environment: Mapping[str, str], cwd: Path | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - this very program; words never reach a shell
        [sys.executable, "-m", "medkd", *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        cwd=cwd,
        timeout=limit_s,
        check=False,
    )


def find_out(run: background_jobs.Job) -> Path | None:
    """Find where a detached run writes; None for a command that writes nowhere."""
    given = ""
    for word, following in zip(run.words, [*run.words[1:], ""], strict=True):
        flag, mark, value = word.partition("=")
        if flag == "--out":
            given = value if mark else following
            break
    if not given and run.words[0] == "run" and len(run.words) > 1:
        try:
            content = read_recipe(run.cwd / run.words[1])
        except MedkdError:
            return None
        given = str(content.get("out") or f"runs/{Path(run.words[1]).stem}")
    return run.cwd / given if given else None


def list_jobs(workspace: Workspace) -> list[Job]:
    """List all runs, the newest first."""
    steps: dict[str, list[Step]] = {}
    for step in workspace.list_steps():
        steps.setdefault(step.run, []).append(step)
    made: dict[str, list[background_jobs.Job]] = {}
    for run in reversed(background_jobs.list_runs()):
        if name := _name_run(workspace, run):
            made.setdefault(name, []).append(run)
    jobs = [
        make_job(name, steps.get(name, []), made.get(name, []))
        for name in dict.fromkeys([*steps, *made])
    ]
    return sorted(jobs, key=lambda job: (job.started_at, job.name), reverse=True)


def find_job(workspace: Workspace, name: str) -> Job:
    """Find one run, looking at no other; raises InputError where there is none."""
    steps = workspace.list_steps(name)
    listed = reversed(background_jobs.list_runs())
    made = [run for run in listed if _name_run(workspace, run) == name]
    if not steps and not made:
        raise InputError(f"{name}: no such run")
    return make_job(name, steps, made)


def _name_run(workspace: Workspace, run: background_jobs.Job) -> str:
    """Name the run that a detached command works on; empty where it lies elsewhere."""
    out = find_out(run)
    try:
        path = out.resolve().relative_to(workspace.runs.resolve()) if out else Path()
    except ValueError:
        return ""
    return path.parent.as_posix() if len(path.parts) > 1 else path.as_posix() if path.parts else ""


def make_job(name: str, steps: Sequence[Step], made: Sequence[background_jobs.Job]) -> Job:
    """Put together what is known of a run."""
    states = [(background_jobs.read_state(run), run) for run in made]
    made = [run for _, run in sorted(states, key=lambda pair: pair[0] != RUNNING)]
    times = [*(step.manifest.started_at for step in steps), *(run.started_at for run in made)]
    if any(state == RUNNING for state, _ in states):
        state = RUNNING
    elif states and states[0][0] != DONE:
        state = str(states[0][0])
    else:
        is_whole = all(step.manifest.state == "finished" for step in steps)
        state = FINISHED if is_whole else UNFINISHED
    return Job(name, state, max(times, default=""), tuple(steps), tuple(made))


def write_cost(steps: Sequence[Step]) -> str:
    """Add up what the steps of a run cost."""
    sums: dict[str, float] = {}
    for cost in (step.manifest.cost for step in steps if step.manifest.cost.amount):
        sums[cost.currency] = sums.get(cost.currency, 0.0) + cost.amount
    return " + ".join(f"{amount:.4f} {currency}" for currency, amount in sums.items())


def stop(job: Job) -> bool:
    """Interrupt what works on a run, and wait until it has saved its work; False where nothing
    does."""
    if job.alive is None:
        return False
    background_jobs.stop(job.alive, say=lambda _: None)
    return True


def delete(workspace: Workspace, job: Job) -> None:
    """Delete a run's steps, its report and its detached runs; raises InputError where it is alive.

    Other runs below its directory, and files that no step made, stay.
    """
    if job.alive or any(is_locked(step.path) for step in job.steps):
        raise InputError(f"{job.name}: is running; stop it first")
    top, folder = workspace.runs.resolve(), workspace.runs / job.name
    real = folder.resolve()
    if folder.is_symlink() or real == top or not real.is_relative_to(top):
        raise InputError(f"{job.name}: is a link or lies elsewhere; remove it by hand")
    for step in job.steps:
        inner = (found.parent for found in step.path.rglob(MANIFEST))
        if step.path.is_symlink() or any(found != step.path for found in inner):
            raise InputError(f"{step.name}: holds another run or is a link; remove it by hand")
    for step in job.steps:
        shutil.rmtree(step.path)
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    for run in job.detached:
        shutil.rmtree(background_jobs.log_path(run).parent, ignore_errors=True)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()
    workspace.forget()


def read_tail(run: background_jobs.Job, n_lines: int = 200) -> list[str]:
    """Read the last lines that a run printed."""
    try:
        size = background_jobs.log_path(run).stat().st_size
        text = background_jobs.read_log(run, max(0, size - TAIL_BYTES))[0]
    except OSError:
        return []
    return text.splitlines()[-n_lines:]


def find_problem(lines: Sequence[str]) -> str:
    """Find what a run that did not come to its end said last of why.

    >>> find_problem(["read: 3", "error: a.jsonl: no such file; check the path"])
    'a.jsonl: no such file; check the path'
    """
    found = (line.removeprefix(ERROR) for line in reversed(lines) if line.startswith(ERROR))
    return next(found, "")


def list_planned(job: Job) -> list[str]:
    """Name the steps of the recipe that a run was started with, in order; empty without one."""
    words = next((run.words for run in job.detached if run.words[0] == "run"), [])
    if len(words) < 2:
        return []
    try:
        content = read_recipe(job.detached[0].cwd / words[1])
    except MedkdError:
        return []
    return [name for name in content if str(name).split("-")[0] in STAGES]


def find_progress(job: Job) -> Progress | None:
    """Find how far the step at work has come, from its manifest, its metrics and the records it has
    written; None where nothing is at work."""
    step = next((step for step in reversed(job.steps) if step.manifest.state == "running"), None)
    if step is None or job.alive is None:
        return None
    manifest = step.manifest
    began = max(manifest.started_at, job.alive.started_at)
    metrics = read_metrics(step.path / "metrics.jsonl") if manifest.stage in TRAINING else []
    elapsed = (datetime.now(UTC) - datetime.fromisoformat(began)).total_seconds() if began else 0
    if metrics:
        done, total, unit = _count_steps(metrics, manifest.config)
        elapsed = metrics[-1].get("seconds", elapsed)
    else:
        done = _count_records(step.path)
        total, unit = manifest.counts.read or _count_input(manifest.roles), "rows"
    left = elapsed * (total - done) / done if 0 < done <= total else None
    return Progress(step.path.name, done, total, unit, left)


TRAINING = ("train", "reinforce")


def _count_steps(
    metrics: Sequence[Mapping[str, float]], config: Mapping[str, Any]
) -> tuple[int, int, str]:
    """Return the steps done and to do: of `steps`, or of as many epochs as the config wants."""
    last = metrics[-1]
    done = int(last["step"])
    if isinstance(config.get("steps"), int):
        return done, int(config["steps"]), "steps"
    epoch = last.get("epoch", 0.0)
    total = round(done / epoch * float(config.get("epochs") or 1)) if epoch else 0
    return done, max(total, done), "steps"


def _count_input(roles: Mapping[str, Sequence[str]]) -> int:
    """Count the records of a step's input by the manifest beside them."""
    for path in (Path(path) for path in roles.get("input", ())):
        folder = path if path.is_dir() else path.parent
        with contextlib.suppress(MedkdError, OSError):
            if manifest := read_manifest(folder):
                return manifest.counts.kept
    return 0


def _count_records(folder: Path) -> int:
    """Count what a step has written so far: answers on its ledger, else lines of records."""
    try:
        if (folder / LEDGER).exists():
            with open_reader(folder / LEDGER) as ledger:
                return ledger.count_items()[1]
        names = (name for name in GROWING if (folder / name).exists())
        return (folder / next(names, GROWING[0])).read_bytes().count(b"\n")
    except (OSError, MedkdError):
        return 0


def read_metrics(path: Path) -> tuple[Mapping[str, float], ...]:
    """Read the lines that a training has written; a torn last one is left out."""
    try:
        return _read_metrics(path, path.stat().st_mtime_ns)
    except OSError:
        return ()


@lru_cache(maxsize=64)
def _read_metrics(path: Path, changed_at: int) -> tuple[Mapping[str, float], ...]:
    points: list[Mapping[str, float]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            point: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(point, dict) and isinstance(point.get("step"), int | float):
            items = cast(dict[str, Any], point).items()
            points.append({k: float(v) for k, v in items if isinstance(v, int | float)})
    return tuple(points)


def list_curves(jobs: Sequence[Job]) -> dict[str, dict[str, list[Point]]]:
    """List what trainings have measured so far: chart to name of a line to its points; lines of
    several runs are named by run."""
    found: dict[str, dict[str, list[Point]]] = {}
    trained = [
        (step.name if len(jobs) > 1 else step.path.name, metrics)
        for job in jobs
        for step in job.steps
        if (metrics := read_metrics(step.path / "metrics.jsonl"))
    ]
    for name, metrics in trained:
        for key in dict.fromkeys(key for point in metrics for key in point):
            chart = next((chart for chart in CURVES if _belongs(key, chart)), "")
            if chart:
                line = key if len(trained) == 1 else name if key == chart else f"{name} {key}"
                points = [(point["step"], point[key]) for point in metrics if key in point]
                found.setdefault(chart, {})[line] = points
    return {chart: found[chart] for chart in CURVES if chart in found}


def _belongs(key: str, chart: str) -> bool:
    if chart in ("loss", "learning_rate"):
        return key in CURVES[chart]
    return key != "learning_rate" and any(part in key for part in CURVES[chart])
