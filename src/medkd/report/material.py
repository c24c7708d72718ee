"""What a report is made of: the steps of a run, its evaluations with the base first, its losses.

In: a run directory, or the directory of one step. Out: `Material`. Not done here: measuring, which
the steps did; wording (`sections`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core.errors import InputError
from medkd.core.stage_output import MANIFEST, Manifest, read_manifest
from medkd.evaluate.compare import (
    compare,
    find_shared,
    hold_against_first,
    keep_shared,
    load,
    show_tests,
)
from medkd.evaluate.report import Evaluation

SEED = 0
REHEARSAL = "rehearsal"


class Material(NamedTuple):
    """What a report is made of."""

    folder: Path
    steps: Mapping[str, Manifest]
    """Name of each step to its manifest, in order of time."""
    evaluations: Sequence[Evaluation] = ()
    """The base first."""
    tests: Sequence[Mapping[str, Any]] = ()
    """How the other models differ from the first, on the same questions."""
    apart: str = ""
    """Why the models cannot be held against each other."""

    def of(self, *stages: str) -> dict[str, Manifest]:
        """Return the steps of some stages."""
        return {name: step for name, step in self.steps.items() if step.stage in stages}

    @property
    def is_rehearsal(self) -> bool:
        """Whether the cases are invented: the demo's own site, teacher or rows."""
        return any(
            step.config.get("teacher") == REHEARSAL
            or "//127.0.0.1" in str(step.config.get("base_url"))
            or any(REHEARSAL in Path(path).parts for path in step.inputs)
            for step in self.steps.values()
        )


def read_material(folder: Path, models: Mapping[str, str] | None = None) -> Material:
    """Read a run or one step of it; `models` maps names to the steps that evaluated them, the base
    first. Raises InputError where nothing is finished there."""
    if (folder / MANIFEST).exists():
        steps = {folder.resolve().name: read_manifest(folder)}
        places = _find_evaluated(folder, next(iter(steps.values())))
    else:
        paths = sorted(folder.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime_ns)
        found = {path.parent.name: read_manifest(path.parent) for path in paths}
        steps = dict(sorted(found.items(), key=lambda item: item[1].started_at))
        places = {name: folder / step for name, step in (models or _order(steps)).items()}
    if not any(step.state == "finished" for step in steps.values()):
        raise InputError(
            "{}: no finished step in it; name a run directory, or that of one step", folder
        )
    evaluations = [load(place, name) for name, place in places.items()]
    return _hold_together(Material(folder, steps, evaluations), list(places.values()))


def _find_evaluated(folder: Path, manifest: Manifest) -> dict[str, Path]:
    """Find what one step evaluated: itself, or what it compares."""
    if manifest.state != "finished":
        return {}
    if manifest.stage == "evaluate":
        return {folder.resolve().name: folder}
    if manifest.stage == "compare":
        places = [Path(path).parent for path in manifest.roles["input"]]
        return dict(zip(manifest.names["input"], places, strict=True))
    return {}


def _order(steps: Mapping[str, Manifest]) -> dict[str, str]:
    """Put the evaluations in order: models without an adapter first, then as they were made."""
    done = [n for n, s in steps.items() if s.stage == "evaluate" and s.state == "finished"]
    ordered = sorted(done, key=lambda name: bool(steps[name].config.get("adapter")))
    return {name: name for name in ordered}


def _hold_together(material: Material, places: Sequence[Path]) -> Material:
    evaluations = material.evaluations
    if len(evaluations) < 2:
        return material
    try:
        ids = find_shared(evaluations, places)
    except InputError as error:  # evaluated on other questions: each stands for itself
        return material._replace(apart=str(error))
    shared = [keep_shared(evaluation, ids, SEED) for evaluation in evaluations]
    tests = show_tests(hold_against_first(shared, SEED))
    if len(shared[0].rows) == max(len(e.rows) for e in evaluations):
        shared = compare(shared, SEED)
        return material._replace(evaluations=shared, tests=tests)
    return material._replace(tests=tests)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines that a training wrote while it ran; none where it wrote none."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def read_series(
    metrics: Sequence[Mapping[str, Any]], name: str
) -> tuple[Sequence[float], Sequence[float]]:
    """Take one measure out of a training's lines: steps and values."""
    points = [point for point in metrics if name in point and "step" in point]
    return [point["step"] for point in points], [float(point[name]) for point in points]
