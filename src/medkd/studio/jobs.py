"""Starting, stopping and watching runs: the same detached runs as `medkd ... --detach`, started by
that very command.

In: the words of a command and the folders of the studio. Out: what runs, how far it is, its log and
its curves.
Not done here: forms (`studio.forms`), keeping a run alive (`background_jobs` does; the studio is
not its parent).
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from medkd import background_jobs
from medkd.core.config import read_recipe
from medkd.core.errors import InputError, MedkdError
from medkd.core.html import line_plot
from medkd.core.stage_output import MANIFEST, is_locked
from medkd.studio.places import Places, Step

START_LIMIT_S, LOOK_LIMIT_S = 60, 600
TAIL_BYTES = 64 * 1024
RUNNING, DONE, FINISHED = "running", "done", "finished"
UNFINISHED = "unfinished"
"""State of a run that was begun and is not detached: it may run in a terminal, or have been killed
there."""
ERROR = "error: "
"""How a command begins the line that says why it ended."""
CURVES = {
    "loss": ("loss", "eval_loss"),
    "learning_rate": ("learning_rate",),
    "length": ("length",),
    "reward": ("reward",),
}
"""Plot to what the names of its numbers hold; the first two are whole names."""
MAX_POINTS = 400
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
        return next(
            (run for run in self.detached if background_jobs.read_state(run) == RUNNING), None
        )


class Progress(NamedTuple):
    """The last thing that a log says about how far the work has come."""

    name: str
    done: int
    total: int
    seconds_left: float | None
    note: str


def start(words: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None) -> str:
    """Start a command detached; returns what it said. Raises InputError with its own line where it
    is refused."""
    done = subprocess.run(  # noqa: S603 - this very program
        [sys.executable, "-m", "medkd", *words, "--detach"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        cwd=cwd,
        timeout=START_LIMIT_S,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise InputError(find_problem(lines) or (lines or ["the command could not be started"])[-1])
    return done.stdout.strip()


def look(words: Sequence[str]) -> list[str]:
    """Run `medkd doctor` and give what it says."""
    try:
        done = subprocess.run(  # noqa: S603 - this very program
            [sys.executable, "-m", "medkd", "doctor", *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=LOOK_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"medkd doctor did not end within {LOOK_LIMIT_S} seconds; run it in a terminal"
        ) from error
    return f"{done.stdout}\n{done.stderr}".strip().splitlines()


def find_out(run: background_jobs.Job) -> Path | None:
    """Find where a detached run writes; None for a command that writes nowhere."""
    given = next((word.partition("=")[2] or following for word, following in zip(run.words, [*run.words[1:], ""], strict=True)
                  if word.partition("=")[0] == "--out"), "")  # fmt: skip
    if not given and run.words[0] == "run" and len(run.words) > 1:
        try:
            given = str(
                read_recipe(run.cwd / run.words[1]).get("out") or f"runs/{Path(run.words[1]).stem}"
            )
        except MedkdError:
            return None
    return run.cwd / given if given else None


def list_jobs(places: Places) -> list[Job]:
    """List all runs, the newest first."""
    steps: dict[str, list[Step]] = {}
    for step in places.list_steps():
        steps.setdefault(step.run, []).append(step)
    made: dict[str, list[background_jobs.Job]] = {}
    for run in reversed(background_jobs.list_runs()):
        name = _name_run(places, run)
        if name:
            made.setdefault(name, []).append(run)
    jobs = [
        make_job(name, steps.get(name, []), made.get(name, []))
        for name in dict.fromkeys([*steps, *made])
    ]
    return sorted(jobs, key=lambda job: (job.started_at, job.name), reverse=True)


def find_job(places: Places, name: str) -> Job:
    """Find one run, looking at no other; raises InputError where there is none."""
    steps = places.list_steps(name)
    made = [run for run in reversed(background_jobs.list_runs()) if _name_run(places, run) == name]
    if not steps and not made:
        raise InputError(f"{name}: no such run")
    return make_job(name, steps, made)


def _name_run(places: Places, run: background_jobs.Job) -> str:
    """Name the run that a detached command works on; empty where it lies elsewhere."""
    out = find_out(run)
    try:
        path = out.resolve().relative_to(places.runs.resolve()) if out else Path()
    except ValueError:
        return ""
    return path.parent.as_posix() if len(path.parts) > 1 else path.as_posix() if path.parts else ""


def make_job(name: str, steps: Sequence[Step], made: Sequence[background_jobs.Job]) -> Job:
    """Put together what is known of a run."""
    states = [background_jobs.read_state(run) for run in made]
    started = max(
        [*(step.manifest.started_at for step in steps), *(run.started_at for run in made)],
        default="",
    )
    if RUNNING in states:
        state = RUNNING
    elif states and states[0] != DONE:
        state = str(states[0])
    else:
        state = FINISHED if all(step.manifest.state == "finished" for step in steps) else UNFINISHED
    return Job(name, state, started, tuple(steps), tuple(made))


def write_cost(steps: Sequence[Step]) -> str:
    """Add up what the steps of a run cost."""
    sums: dict[str, float] = {}
    for step in steps:
        if step.manifest.cost.amount:
            sums[step.manifest.cost.currency] = (
                sums.get(step.manifest.cost.currency, 0.0) + step.manifest.cost.amount
            )
    return " + ".join(f"{amount:.4f} {currency}" for currency, amount in sums.items())


def delete(places: Places, job: Job) -> None:
    """Delete a run's steps, its report and its detached runs; raises InputError where it is alive.

    Other runs below its directory, and files that no step made, stay.
    """
    if job.alive or any(is_locked(step.path) for step in job.steps):
        raise InputError(f"{job.name}: is running; stop it first")
    folder = places.runs / job.name
    if (
        folder.is_symlink()
        or folder.resolve() == places.runs.resolve()
        or not folder.resolve().is_relative_to(places.runs.resolve())
    ):
        raise InputError(f"{job.name}: is a link or lies elsewhere; remove it by hand")
    for step in job.steps:
        if step.path.is_symlink() or any(
            found.parent != step.path for found in step.path.rglob(MANIFEST)
        ):
            raise InputError(f"{step.name}: holds another run or is a link; remove it by hand")
    for step in job.steps:
        shutil.rmtree(step.path)
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    for run in job.detached:
        shutil.rmtree(background_jobs.log_path(run).parent, ignore_errors=True)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()


def read_tail(run: background_jobs.Job, n_lines: int = 200) -> list[str]:
    """Read the last lines that a run printed."""
    try:
        size = background_jobs.log_path(run).stat().st_size
        return background_jobs.read_log(run, max(0, size - TAIL_BYTES))[0].splitlines()[-n_lines:]
    except OSError:
        return []


def find_problem(lines: Sequence[str]) -> str:
    """Find what a run that did not come to its end said last of why.

    >>> find_problem(["read: 3", "error: a.jsonl: no such file; check the path"])
    'a.jsonl: no such file; check the path'
    """
    return next(
        (line.removeprefix(ERROR) for line in reversed(lines) if line.startswith(ERROR)), ""
    )


_PROGRESS = re.compile(
    r"^([\w ()./-]+): (\d+)/(\d+) \S+, [\d.]+/s(?:, about (\d+) s left)?(?:, (.*))?$"
)


def find_progress(lines: Sequence[str]) -> Progress | None:
    """Find the last line of progress.

    >>> find_progress(["train: 75/114 steps, 1.3/s, about 31 s left, loss 0.019"])
    Progress(name='train', done=75, total=114, seconds_left=31.0, note='loss 0.019')
    """
    found = next((match for line in reversed(lines) if (match := _PROGRESS.match(line))), None)
    if found is None:
        return None
    name, done, total, left, note = found.groups()
    return Progress(name, int(done), int(total), float(left) if left else None, note or "")


def draw_curves(job: Job, titles: Mapping[str, str], x_label: str) -> str:
    """Draw what a run's trainings have measured so far."""
    files = [
        (step.path.name, step.path / "metrics.jsonl")
        for step in job.steps
        if (step.path / "metrics.jsonl").exists()
    ]
    stamps = tuple((name, str(path), path.stat().st_mtime_ns) for name, path in files)
    return _draw(stamps, tuple(titles.items()), x_label) if stamps else ""


@lru_cache(maxsize=32)
def _draw(
    stamps: tuple[tuple[str, str, int], ...], titles: tuple[tuple[str, str], ...], x_label: str
) -> str:
    lines = {name: read_metrics(Path(path)) for name, path, _ in stamps}
    plots: list[str] = []
    for kind, title in titles:
        series: dict[str, tuple[list[float], list[float]]] = {}
        for step, points in lines.items():
            for key in dict.fromkeys(
                key for point in points for key in point if _belongs(key, kind)
            ):
                chosen = [(point["step"], point[key]) for point in points if key in point]
                thin = chosen[:: max(1, len(chosen) // MAX_POINTS)]
                series[f"{step} {key}" if len(lines) > 1 or key != kind else step] = (
                    [x for x, _ in thin],
                    [y for _, y in thin],
                )
        if series:
            plots.append(line_plot(series, title, x_label))
    return f'<div class="plots">{"".join(plots)}</div>'


def _belongs(key: str, kind: str) -> bool:
    return key in CURVES[kind] if kind in ("loss", "learning_rate") else CURVES[kind][0] in key


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the lines that a training has written; a torn last one is left out."""
    points: list[dict[str, float]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            point: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(point, dict) and "step" in point:
            points.append(
                {
                    str(key): float(value)
                    for key, value in point.items()
                    if isinstance(value, int | float)
                }
            )
    return points
