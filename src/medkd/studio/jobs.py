"""Starting, stopping and watching runs: the same detached runs as `medkd ... --detach`, started by
that very command.

In: the words of a command and the workspace. Out: what runs, how far it is, its log and its curves.
Not done here: forms (`studio.forms`), keeping a run alive (`background_jobs` does).
"""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medkd import background_jobs
from medkd.core.config import read_recipe
from medkd.core.errors import InputError, MedkdError, Said
from medkd.core.stage_output import MANIFEST, is_locked
from medkd.studio.workspace import Step, Workspace

TAIL_BYTES = 64 * 1024
RUNNING, DONE, FINISHED = "running", "done", "finished"
UNFINISHED = "unfinished"
"""State of a run that was begun and is not detached: it may run in a terminal, or have been killed
there."""
STOPPED = ("stopped", "failed", "crashed", "killed")
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


def start(words: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None) -> None:
    """Start a command detached; what a key is given for stands in its environment alone."""
    background_jobs.start(words, environment=environment, cwd=cwd)


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


class Found(NamedTuple):
    """A run in the list, not yet looked at: there may be thousands, of which a page shows a few."""

    name: str
    steps: Sequence[Step]
    detached: Sequence[background_jobs.Job]

    @property
    def started_at(self) -> str:
        detached = self.detached[0].started_at if self.detached else ""
        return max(self.steps[-1].manifest.started_at if self.steps else "", detached)

    def look(self) -> Job:
        """Find out how it stands."""
        return make_job(self.name, self.steps, self.detached)


def list_jobs(workspace: Workspace) -> list[Found]:
    """List all runs, the newest first."""
    steps = workspace.scan().of_run
    made: dict[str, list[background_jobs.Job]] = {}
    for run in reversed(background_jobs.list_runs()):
        if name := _name_run(workspace, run):
            made.setdefault(name, []).append(run)
    names = dict.fromkeys([*steps, *made])
    found = [Found(name, steps.get(name, ()), made.get(name, ())) for name in names]
    return sorted(found, key=lambda one: (one.started_at, one.name), reverse=True)


def find_job(workspace: Workspace, name: str) -> Job:
    """Find one run, looking at no other; raises InputError where there is none."""
    steps = workspace.list_steps(name)
    listed = reversed(background_jobs.list_runs())
    made = [run for run in listed if _name_run(workspace, run) == name]
    if not steps and not made:
        raise InputError("{}: no such run", name)
    return make_job(name, steps, made)


def _name_run(workspace: Workspace, run: background_jobs.Job) -> str:
    """Name the run that a detached command works on; empty where it lies elsewhere."""
    out = find_out(run)
    try:
        path = out.resolve().relative_to(workspace.runs.resolve()) if out else Path()
    except ValueError:
        return ""
    return path.parent.as_posix() if len(path.parts) > 1 else path.as_posix() if path.parts else ""


def is_alive(workspace: Workspace, name: str) -> bool:
    """Tell whether something works on a run of this name."""
    try:
        return find_job(workspace, name).alive is not None
    except InputError:
        return False


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
        raise InputError("{}: is running; stop it first", job.name)
    top, folder = workspace.runs.resolve(), workspace.runs / job.name
    real = folder.resolve()
    if folder.is_symlink() or real == top or not real.is_relative_to(top):
        raise InputError("{}: is a link or lies elsewhere; remove it by hand", job.name)
    for step in job.steps:
        inner = (found.parent for found in step.path.rglob(MANIFEST))
        if step.path.is_symlink() or any(found != step.path for found in inner):
            raise InputError("{}: holds another run or is a link; remove it by hand", step.name)
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


def find_problem(job: Job) -> Said | None:
    """Find why a run did not come to its end."""
    end = background_jobs.read_end(job.detached[0]) if job.detached else None
    return Said.from_json(end.problem) if end and end.problem else None
