"""The road of a run: its stages in a line, each with its state, counts and cost; how far the one at
work has come, what has been measured so far as curves, and what to do next.

In: a run; the manifests, metrics and records of its steps. Not done here: drawing
(`templates/run_body.html`, `templates/plot.html`), starting anything.
"""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from medkd.completers.costs import count_items
from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.completers.ledger import open_reader
from medkd.core.config import read_recipe
from medkd.core.errors import MedkdError
from medkd.core.i18n import Texts
from medkd.core.reviews import REVIEWS, read_reviews
from medkd.core.stage_output import Manifest, read_manifest
from medkd.export.push import UNPROVEN
from medkd.report.lineage import CURVES, REWARD
from medkd.stages import STAGES
from medkd.studio.jobs import FINISHED, RUNNING, Job, write_cost
from medkd.studio.jsonl_index import open_index
from medkd.studio.workspace import Facts, Step

ROAD = tuple(stage for stage in STAGES if stage not in ("select", "reinforce", "compare", "rubric"))
"""Stages that every run passes; the others are shown where they were made."""
WAITING, AHEAD = "waiting", "todo"
TRAINING = ("train", "reinforce")
CHARTS = {
    "loss": r"(eval_)?loss",
    "reward": r".*reward.*",
    "length": r".*length.*",
    "rate": r"(?!learning_rate$).*(rate|accuracy).*",
    "learning_rate": r"learning_rate",
}
"""Chart to the names of the numbers that are drawn on it, as an expression."""
SPLITS = {"train": "train", "reinforce": "train", "evaluate": "test"}
"""Stage to the split of a dataset that it works on, where it is not the whole."""
MAX_EPOCHS = 1e6
GROWING = ("rationales.jsonl", "predictions.jsonl", "raw_cases.jsonl", "cases.jsonl")
"""Files of records that a stage appends to while it works."""

LINES = {
    key: name
    for chart in ("loss", "rewards against the start", "lengths in tokens")
    for key, name in CURVES[chart].items()
}
"""Number to the name of its line, where the chart says the rest."""

Point = tuple[float, float]
WIDTH, HEIGHT = 480, 200
LEFT, RIGHT, TOP, BOTTOM = 76, 10, 12, 26
MAX_POINTS = 300
N_GRID = 4


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


class Action(NamedTuple):
    """What a person does next."""

    text: str
    label: str
    path: str
    """Of the page that it is done on."""
    query: Mapping[str, Any]


class Progress(NamedTuple):
    """How far a step has come."""

    step: str
    stage: str
    done: int
    total: int
    """0 where it is not known."""
    unit: str
    seconds_left: float | None

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 0.0


def make_road(job: Job) -> list[Stop]:
    """Line the stages of a run up, those to come too."""
    planned = list_planned(job) if job.alive else set[str]()
    made: dict[str, list[Step]] = {}
    for step in job.steps:
        made.setdefault(step.manifest.stage, []).append(step)
    return [
        Stop(stage, _find_state(job, made.get(stage, []), stage in planned), made.get(stage, []))
        for stage in STAGES
        if stage in ROAD or stage in made
    ]


def _find_state(job: Job, steps: Sequence[Step], is_planned: bool) -> str:
    states = {step.manifest.state for step in steps}
    if not states:
        return WAITING if is_planned else AHEAD
    if "running" in states and job.alive:
        return RUNNING
    return "stopped" if states & {"running", "stopped"} else FINISHED


def list_planned(job: Job) -> set[str]:
    """Name the stages of the recipe that a run was started with; none without one."""
    run = next((run for run in job.detached if run.words[0] == "run" and run.words[1:]), None)
    with contextlib.suppress(MedkdError):
        return {str(n).split("-")[0] for n in read_recipe(run.words[1], run.cwd)} if run else set()
    return set()


def find_actions(job: Job, t: Texts) -> list[Action]:
    """Find what to do next, the most useful first; nothing while something is at work."""
    made = {step.manifest.stage: step for step in job.steps}
    if job.alive:
        return []
    actions: list[Action] = []
    if cut := next((step for step in reversed(job.steps) if step.manifest.state != FINISHED), None):
        if (cut.path / UNPROVEN).exists():
            said, query = t("The model has not proved itself"), {"step": cut.name}
            actions.append(Action(said, t("Look at its answers"), "export", query))
            models = {"before": cut.base, "after": str(cut.path)}
            actions.append(
                Action(t("It can be tried all the same"), t("Talk to it"), "chat", models)
            )
        else:
            said = t("{stage} has not come to its end", stage=t.word("stage", cut.path.name))
            actions.append(Action(said, t("Look"), "run", {"name": job.name}))
    if verified := made.get("verify"):
        n_open = verified.manifest.counts.kept - count_reviewed(verified.path)
        if n_open > 0 and "merge" not in made:
            said = t.n("{n} rationale waits for review", "{n} rationales wait for review", n_open)
            query = {"file": f"{verified.name}/verified.jsonl"}
            actions.append(Action(said, t("Review"), "review", query))
    last = next((stage for stage in reversed(ROAD) if stage in made), "")
    if last and made[last].manifest.state != FINISHED:
        last = ""
    if last == "export":
        query = {"before": made["export"].base, "after": str(made["export"].path)}
        actions.append(Action(t("The model is ready"), t("Talk to it"), "chat", query))
    elif last:
        stage = ROAD[ROAD.index(last) + 1]
        query = {"kind": stage, "run": job.name}
        actions.append(Action(t.word("next", stage), t.word("stage", stage), "start", query))
    if steps := [step.name for step in job.steps if step.manifest.stage == "evaluate"]:
        said = t.n("{n} evaluation", "{n} evaluations", len(steps))
        actions.append(Action(said, t("See the scores"), "evaluate", {"steps": steps}))
    return actions


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


def find_progress(job: Job) -> Progress | None:
    """Find how far the step at work has come, from its manifest, its metrics and the records it has
    written; None where nothing is at work."""
    step = next((step for step in reversed(job.steps) if step.manifest.state == "running"), None)
    if step is None or job.alive is None:
        return None
    manifest = step.manifest
    if metrics := read_metrics(step.path):
        done, unit = int(metrics[-1]["step"]), "steps"
        total = _count_steps(metrics, manifest.config)
    else:
        done, unit = _count_records(step.path), "rows"
        total = manifest.counts.read or _count_input(manifest)
    began = datetime.fromisoformat(max(manifest.started_at, job.alive.started_at))
    elapsed = (datetime.now(UTC) - began).total_seconds()
    if metrics:
        elapsed = metrics[-1].get("seconds", elapsed)
    left = elapsed * (total - done) / done if 0 < done <= total else None
    return Progress(step.path.name, manifest.stage, done, total, unit, left)


def _count_steps(metrics: Sequence[Mapping[str, float]], config: Mapping[str, Any]) -> int:
    """Count the steps of a whole training: `steps`, or as many as its epochs take."""
    if isinstance(config.get("steps"), int):
        return int(config["steps"])
    done, epoch = metrics[-1]["step"], metrics[-1].get("epoch", 0.0)
    total = done / epoch * (read_epochs(config) or 1) if epoch else 0
    return max(round(total), int(done))


def read_epochs(config: Mapping[str, Any]) -> float:
    """Read the epochs of a training; 0 where somebody has edited them into something else."""
    given = config.get("epochs")
    return float(given) if isinstance(given, int | float) and 0 < given < MAX_EPOCHS else 0.0


def _count_input(manifest: Manifest) -> int:
    counts = (count_taken(Path(p), manifest.stage) for p in manifest.roles.get("input", ()))
    total, limit = next(filter(None, counts), 0), manifest.config.get("limit")
    return min(total, limit) if isinstance(limit, int) else total


def count_taken(path: Path, stage: str) -> int:
    """Count the records that a stage takes of a file or folder by the manifest beside them, those
    of its split alone; 0 where it is not known."""
    try:
        made = read_manifest(path if path.is_dir() else path.parent)
    except (MedkdError, OSError):
        return 0
    splits = Facts.model_validate(made.facts).splits
    return splits.get(path.stem, splits.get(SPLITS.get(stage, ""), made.counts.kept))


def _count_records(folder: Path) -> int:
    """Count what a step has written so far: answers on its ledger, else lines of records."""
    try:
        if (folder / LEDGER).exists():
            with open_reader(folder / LEDGER) as ledger:
                return count_items(ledger)[1]
        names = (name for name in GROWING if (folder / name).exists())
        return (folder / next(names, GROWING[0])).read_bytes().count(b"\n")
    except (OSError, MedkdError):
        return 0


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Read the numbers that a training has written; a torn last line is left out."""
    try:
        index = open_index(folder / "metrics.jsonl")
    except OSError:
        return []
    rows = (index.row(number) for number in range(len(index)))
    points = ({n: float(v) for n, v in row.items() if isinstance(v, int | float)} for row in rows)
    return [point for point in points if "step" in point]


# --- Curves -------------------------------------------------------------------------------------


class Plot(NamedTuple):
    """Lines over a common x axis."""

    title: str
    lines: Mapping[str, Sequence[tuple[str, str]]]
    """Name of a line to its points, as an SVG has them."""
    grid: Sequence[tuple[str, str]]
    """Height and value of each line of the grid."""
    ends: tuple[str, str]
    """The first and the last value of the x axis."""
    spans: tuple[float, float, float, float]
    """What the four edges stand for: left, right, bottom, top."""
    last: Mapping[str, str]
    """Name of a line to its newest value."""


def name_line(key: str, t: Texts) -> str:
    """Name a number of `metrics.jsonl` in words, as the report does."""
    reward = REWARD.fullmatch(key)
    known = t.word("curve", reward[1] if reward else key.removeprefix("eval_"))
    if key in LINES:
        return t.of("report", LINES[key])
    return t("{line}, validation", line=known) if key.startswith("eval_") else known


def list_curves(jobs: Sequence[Job], t: Texts) -> dict[str, dict[str, list[Point]]]:
    """List what trainings have measured so far: chart to name of a line to its points; lines of
    several trainings are named by training."""
    found: dict[str, dict[str, list[Point]]] = {chart: {} for chart in CHARTS}
    trained = [
        (step.name if len(jobs) > 1 else step.path.name, metrics)
        for job in jobs
        for step in job.steps
        if step.manifest.stage in TRAINING and (metrics := read_metrics(step.path))
    ]
    for name, metrics in trained:
        for key in dict.fromkeys(key for point in metrics for key in point):
            for chart in (chart for chart, names in CHARTS.items() if re.fullmatch(names, key)):
                said = name_line(key, t)
                line = said if len(trained) == 1 else name if key == chart else f"{name}: {said}"
                points = [(point["step"], point[key]) for point in metrics if key in point]
                found[chart][line] = points
    return {chart: lines for chart, lines in found.items() if lines}


def draw_lines(series: Mapping[str, Sequence[Point]], title: str) -> Plot | None:
    """Draw lines; points that are no numbers are left out."""
    finite = {
        name: [point for point in line if all(map(math.isfinite, point))]
        for name, line in series.items()
    }
    points = [point for line in finite.values() for point in line]
    if not points:
        return None
    x_low, x_high = _spread([x for x, _ in points])
    y_low, y_high = _spread([y for _, y in points])

    def place(x: float, y: float) -> tuple[str, str]:
        right = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return f"{right:.1f}", f"{down:.1f}"

    lines: dict[str, list[tuple[str, str]]] = {}
    for name, line in finite.items():
        step = max(1, len(line) // MAX_POINTS)
        lines[name] = [place(*point) for point in (*line[:-1:step], *line[-1:])]
    values = [y_low + (y_high - y_low) * at / (N_GRID - 1) for at in range(N_GRID)]
    grid = [(place(x_low, value)[1], _write(value)) for value in values]
    last = {name: _write(line[-1][1]) for name, line in finite.items() if line}
    spans = (x_low, x_high, y_low, y_high)
    return Plot(title, lines, grid, (_write(x_low), _write(x_high)), spans, last)


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis; of a single value, zero is the other one."""
    low, high = min(values), max(values)
    if high > low:
        return low, high
    return min(low, 0.0), max(high, 0.0 if low else 1.0)


def _write(value: float) -> str:
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
