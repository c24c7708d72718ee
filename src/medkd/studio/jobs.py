"""Runs as the pages show them: what works on them, how they stand, what they said; stopping and
deleting.

In: the workspace, the detached commands of this user. Out: a `Job` a run. Not done here: starting
and keeping alive (`background_jobs`), the road of a run (`studio.road`).
"""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medkd import background_jobs
from medkd.core.config import read_recipe
from medkd.core.errors import InputError, MedkdError
from medkd.core.jsonl import MANIFEST
from medkd.core.stage_output import is_locked
from medkd.report.lineage import is_play_money
from medkd.studio.workspace import Step, Workspace

TAIL_BYTES = 64 * 1024
RUNNING, FINISHED = "running", "finished"
UNFINISHED = "unfinished"
"""State of a run that was begun and is not detached: it may run in a terminal, or have been killed
there."""
RUN_FILES = ("report.html", "summary.json")
"""What a run writes beside its steps."""


class Job(NamedTuple):
    """A run: a directory below the runs, and the detached commands that make it or made it."""

    name: str
    state: str
    steps: Sequence[Step]
    detached: Sequence[background_jobs.Job]
    """The newest first, before them what is at work."""

    @property
    def alive(self) -> background_jobs.Job | None:
        """The detached command that works on it now."""
        return self.detached[0] if self.state == RUNNING else None

    @property
    def started_at(self) -> str:
        times = (*(step.manifest.started_at for step in self.steps), *_list_starts(self.detached))
        return max(times, default="")

    @property
    def cost(self) -> str:
        return write_cost(self.steps)


def list_jobs(workspace: Workspace) -> dict[str, Sequence[background_jobs.Job]]:
    """List all runs, the newest first: name to the detached commands that made it, the newest
    first. How they stand is not looked at: there may be thousands, of which a page shows a few."""
    newest = {step.run: step.manifest.started_at for step in workspace.list_steps()}
    made: dict[str, list[background_jobs.Job]] = {}
    for run in reversed(background_jobs.list_runs()):
        if name := _name_run(workspace, run):
            made.setdefault(name, []).append(run)
    for name, of_run in made.items():
        newest[name] = max(newest.get(name, ""), *_list_starts(of_run))
    names = sorted(newest, key=lambda name: (newest[name], name), reverse=True)
    return {name: made.get(name, ()) for name in names}


def _list_starts(made: Sequence[background_jobs.Job]) -> list[str]:
    return [run.started_at for run in made]


def look(workspace: Workspace, name: str, made: Sequence[background_jobs.Job]) -> Job:
    """Find out how a run stands.

    What works on it is looked at before what it has written: of a run that ends in between, all is
    seen.
    """
    states = [(background_jobs.read_state(run), run) for run in made]
    steps = workspace.list_steps(name)
    if any(state == RUNNING for state, _ in states):
        state = RUNNING
    elif states and states[0][0] != "done":
        state = str(states[0][0])
    else:
        is_whole = all(step.manifest.state == FINISHED for step in steps)
        state = FINISHED if is_whole else UNFINISHED
    ordered = sorted(states, key=lambda pair: pair[0] != RUNNING)
    return Job(name, state, steps, [run for _, run in ordered])


def find_job(workspace: Workspace, name: str) -> Job:
    """Find one run, looking at no other; raises InputError where there is none."""
    listed = reversed(background_jobs.list_runs())
    made = [run for run in listed if name and _name_run(workspace, run) == name]
    job = look(workspace, name, made)
    if not job.steps and not job.detached:
        raise InputError("{}: no such run", name)
    return job


def is_alive(workspace: Workspace, name: str) -> bool:
    """Tell whether something works on a run of this name."""
    try:
        return find_job(workspace, name).alive is not None
    except InputError:
        return False


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
            content = read_recipe(run.words[1], run.cwd)
        except MedkdError:
            return None
        given = str(content.get("out") or f"runs/{Path(run.words[1]).stem}")
    return run.cwd / given if given else None


def _name_run(workspace: Workspace, run: background_jobs.Job) -> str:
    """Name the run that a detached command works on; empty where it lies elsewhere."""
    out = find_out(run)
    try:
        path = out.resolve().relative_to(workspace.runs.resolve()) if out else Path()
    except ValueError:
        return ""
    return (path.parent if len(path.parts) > 1 else path).as_posix() if path.parts else ""


def write_cost(steps: Sequence[Step]) -> str:
    """Add up what steps cost; the rehearsal teacher's play money is none."""
    sums: dict[str, float] = {}
    paid = (step.manifest for step in steps if not is_play_money(step.manifest))
    for cost in (manifest.cost for manifest in paid if manifest.cost.amount):
        sums[cost.currency] = sums.get(cost.currency, 0.0) + cost.amount
    return write_money(sums)


def write_money(amounts: Mapping[str, float]) -> str:
    """Write money in every currency there is.

    >>> write_money({"CNY": 1.5, "USD": 0.25}), write_money({})
    ('1.5000 CNY + 0.2500 USD', '')
    """
    return " + ".join(f"{amount:,.4f} {currency}" for currency, amount in amounts.items())


def stop(job: Job) -> None:
    """Interrupt what works on a run, and wait until it has saved its work."""
    if job.alive:
        background_jobs.stop(job.alive, say=lambda _: None)


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
        shutil.rmtree(run.folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()
    workspace.forget()


def read_tail(run: background_jobs.Job, n_lines: int) -> list[str]:
    """Read the last lines that a run printed."""
    try:
        return background_jobs.read_log(run, -TAIL_BYTES)[0].splitlines()[-n_lines:]
    except OSError:
        return []
