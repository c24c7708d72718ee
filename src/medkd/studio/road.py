"""The road of a run: its stages in a line, each with its state, counts and cost; how far the one at
work has come, what has been measured so far, and what to do next.

In: a run; the manifests, metrics and records of its steps. Not done here: drawing
(`templates/run_body.html`), starting anything.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.completers.ledger import open_reader
from medkd.core.config import read_recipe
from medkd.core.errors import MedkdError
from medkd.core.i18n import Texts
from medkd.core.reviews import REVIEWS, read_reviews
from medkd.core.stage_output import read_manifest
from medkd.stages import STAGES
from medkd.studio.charts import Point
from medkd.studio.jobs import FINISHED, RUNNING, Job, write_cost
from medkd.studio.workspace import Step

ROAD = tuple(stage for stage in STAGES if stage not in ("select", "reinforce", "compare", "rubric"))
"""Stages that every run passes; the others are shown where they were made."""
WAITING, AHEAD = "waiting", "todo"
TRAINING = ("train", "reinforce")
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
        return write_cost(self.steps)

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
    planned = {name.split("-")[0] for name in list_planned(job)}
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
        return RUNNING if job.alive else "stopped"
    return "stopped" if "stopped" in states else FINISHED


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


# --- How far it has come ------------------------------------------------------------------------


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
