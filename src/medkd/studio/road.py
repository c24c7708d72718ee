"""The road of a run: its stages in a line, each with its state, counts and cost, and what to do
next.

In: a run. Out: stops and one next action. Not done here: drawing (`templates/run.html`), starting
anything.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core.errors import MedkdError
from medkd.core.i18n import Texts
from medkd.core.reviews import REVIEWS, read_reviews
from medkd.stages import STAGES
from medkd.studio import jobs
from medkd.studio.jobs import Job
from medkd.studio.workspace import Step

ROAD = tuple(stage for stage in STAGES if stage not in ("reinforce", "compare", "rubric"))
"""Stages that every run passes; the others are shown where they were made."""
WAITING, AHEAD = "waiting", "todo"


class Stop(NamedTuple):
    """A stage on the road."""

    stage: str
    state: str
    steps: Sequence[Step]

    @property
    def n_kept(self) -> int:
        return self.steps[-1].manifest.counts.kept if self.steps else 0

    @property
    def n_dropped(self) -> int:
        return sum(self.steps[-1].manifest.counts.dropped.values()) if self.steps else 0

    @property
    def cost(self) -> str:
        return jobs.write_cost(self.steps)

    @property
    def seconds(self) -> float:
        return sum(step.manifest.seconds for step in self.steps)


class Action(NamedTuple):
    """What a person does next."""

    text: str
    label: str
    path: str
    """Of the page that it is done on."""
    query: Mapping[str, Any]


def make_road(job: Job) -> list[Stop]:
    """Line the stages of a run up, those to come too."""
    planned = {name.split("-")[0] for name in jobs.list_planned(job)}
    made: dict[str, list[Step]] = {}
    for step in job.steps:
        made.setdefault(step.manifest.stage, []).append(step)
    stages = [stage for stage in STAGES if stage in ROAD or stage in made]
    return [
        Stop(stage, _find_state(job, made.get(stage, []), stage in planned), made.get(stage, []))
        for stage in stages
    ]


def _find_state(job: Job, steps: Sequence[Step], is_planned: bool) -> str:
    if not steps:
        return WAITING if is_planned and job.alive else AHEAD
    states = {step.manifest.state for step in steps}
    if "running" in states:
        return jobs.RUNNING if job.alive else "stopped"
    return "stopped" if "stopped" in states else jobs.FINISHED


def find_actions(job: Job, t: Texts) -> list[Action]:
    """Find what to do next, the most useful first."""
    made = {step.manifest.stage: step for step in job.steps}
    if job.alive:
        return []
    actions: list[Action] = []
    if verified := made.get("verify"):
        n_open = verified.manifest.counts.kept - count_reviewed(verified.path)
        if n_open > 0 and "merge" not in made:
            said = t.n("{n} rationale waits for review", "{n} rationales wait for review", n_open)
            query = {"file": f"{verified.name}/verified.jsonl"}
            actions.append(Action(said, t("Review"), "review", query))
    last = next((stage for stage in reversed(ROAD) if stage in made), "")
    following = ROAD[ROAD.index(last) + 1 :][:1] if last else ()
    for stage in following:
        said = t.word("next", stage)
        actions.append(Action(said, t.word("stage", stage), "start", _start(stage, job)))
    if last == "export":
        query = {"after": str(made["export"].path)}
        actions.append(Action(t("The model is ready"), t("Talk to it"), "chat", query))
    if "evaluate" in made:
        steps = [step.name for step in job.steps if step.manifest.stage == "evaluate"]
        said = t.n("{n} evaluation", "{n} evaluations", len(steps))
        actions.append(Action(said, t("See the scores"), "evaluate", {"steps": steps}))
    return actions


def _start(stage: str, job: Job) -> dict[str, Any]:
    return {"kind": stage, "run": job.name}


def count_reviewed(folder: Path) -> int:
    """Count the rationales that somebody has judged."""
    try:
        return _count_reviewed(folder, (folder / REVIEWS).stat().st_mtime_ns)
    except (OSError, MedkdError):
        return 0


@lru_cache(maxsize=256)
def _count_reviewed(folder: Path, changed_at: int) -> int:
    return len(read_reviews(folder))
