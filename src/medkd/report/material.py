"""What a report is made of: the steps of a run, its evaluations with the base first, and wording.

In: a run directory, or the directory of one step. Out: `Material`. Not done here: measuring, which
the steps did; sections.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medkd.core.errors import InputError
from medkd.core.i18n import Texts
from medkd.core.jsonl import MANIFEST
from medkd.core.stage_output import Manifest, read_manifest
from medkd.report.document import Plot
from medkd.report.evaluations import (
    PREDICTIONS,
    Comparison,
    Evaluation,
    Note,
    compare,
    read_evaluation,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

REHEARSAL = "rehearsal"
MEASURES = {
    "diagnosis_accuracy": "principal diagnosis right",
    "judged_accuracy": "right, the judge deciding what the rules leave undecided",
    "diagnosis_exact": "all diagnoses right, and no other",
    "diagnosis_f1": "soft F1 over the lists of diagnoses",
    "diagnosis_decided": "answers that the rules could judge",
    "judged_decided": "answers that the rules or the judge could judge",
    "told_rate": "diagnoses that the record tells, listed again; they count nowhere else",
    "exam_accuracy": "multiple choice, generated and read: the right letters and no other",
    "exam_unreadable": "answers in which no letter could be read",
    "text_accuracy": "free text right",
    "text_decided": "free texts that the rules could judge",
    "text_f1": "likeness to the reference, 0 to 1",
    "number_accuracy": "the right number",
    "number_decided": "answers in which a number could be read",
    "rubric_score": "points earned of the points possible, unread criteria counted against it",
    "rubric_score_high": "the same, unread criteria counted for it",
    "rubric_unreadable": "criteria on which the judge could not be read",
    "general_accuracy": "instructions followed and sums right, outside the task",
    "bleu-4": "overlap with the teacher's whole output, 0 to 100",
    "rouge-1": "overlap with the teacher's whole output, 0 to 100",
    "rouge-2": "overlap with the teacher's whole output, 0 to 100",
    "rouge-l": "overlap with the teacher's whole output, 0 to 100",
    "think_format_rate": "one closed thought and an answer, under the model's own template",
    "think_unprompted_rate": "the same under the plain template, where it must begin by itself",
    "stop_rate": "ended its turn by itself",
    "loop_rate": "repeated itself",
    "truncated_rate": "cut off at the token limit",
    "mean_tokens": "tokens an answer",
    "samples_per_second": "speed of generation on this machine",
    "grounded_rate": "numbers and denied findings of the reasoning that stand in the record",
    "judge_score": "a judge's score of answers to open questions, 0 to 1",
    "empty_rate": "no answer at all",
    "exam_consistent": "the same option chosen in every order of the options",
    "exam_accuracy_shuffled": "right over all orders of the options",
    "removal_follows": "the diagnosis changes when a finding it cites is taken out of the record",
    "inversion_follows": "the diagnosis changes when a finding it cites is turned round",
    "recovery_rate": "the right diagnosis comes although the thought began with a wrong one",
    "tokens_p50": "half of the answers are no longer",
    "tokens_p90": "nine of ten answers are no longer",
    "tokens_p99": "99 of 100 answers are no longer",
    "characters_p50": "half of the answers are no longer",
    "characters_p90": "nine of ten answers are no longer",
    "characters_p99": "99 of 100 answers are no longer",
}
"""The scores that a report shows, in its order."""
SAMPLED = "over several samples a question"
"""What a score is whose name carries the number of samples: `pass@4`."""


class Wording:
    """Says the texts of a report in one language; one that has no translation stays English."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    def __call__(self, text: str | Note, **values: Any) -> str:
        note = text if isinstance(text, Note) else Note(text, values)
        told = {k: self(v) if isinstance(v, Note) else v for k, v in note.values.items()}
        return self.texts.of("report", note.text, **told)

    def describe(self, score: str) -> str:
        """Say what a score measures."""
        if score not in MEASURES:
            return self(SAMPLED)
        return self.texts.field("measures", score, MEASURES[score])[1]


class Material(NamedTuple):
    """What a report is made of."""

    folder: Path
    steps: Mapping[str, Manifest]
    """Name of each step to its manifest, in order of time."""
    evaluations: Sequence[Evaluation] = ()
    """The base first."""
    tests: Sequence[Mapping[str, Any]] = ()
    """How the other models differ from the first, on the same questions."""
    notes: Sequence[Note] = ()
    """What the evaluations could not measure, or what makes them unlike each other."""
    title: Note | None = None
    """Title where the report is of one step."""
    lengths: Mapping[str, Sequence[int]] = {}
    """Lengths in tokens of the rows of a training that has just been done."""

    def of(self, *stages: str) -> dict[str, Manifest]:
        """Return the steps of some stages."""
        return {name: step for name, step in self.steps.items() if step.stage in stages}

    def find_folder(self, step: str) -> Path:
        """Find the directory of a step."""
        return self.folder / step if (self.folder / step / MANIFEST).exists() else self.folder

    @property
    def are_cases_invented(self) -> bool:
        """Whether the cases are invented: those of the demo's own site, or its rows."""
        return any(
            (step.stage == "collect" and "//127.0.0.1" in str(step.config.get("base_url")))
            or any(REHEARSAL in Path(path).parts for path in step.inputs)
            for step in self.steps.values()
        )

    @property
    def is_teacher_rehearsal(self) -> bool:
        """Whether the reasoning is that of the rehearsal teacher, be the cases invented or not."""
        return any(step.config.get("teacher") == REHEARSAL for step in self.steps.values())


def read_run(folder: Path, models: Mapping[str, str] | None = None) -> Material:
    """Read a run; `models` maps names to the steps that evaluated them, the base first. Raises
    InputError where nothing is finished there."""
    paths = folder.glob(f"*/{MANIFEST}")
    found = {path.parent.name: read_manifest(path.parent) for path in paths}
    steps = dict(sorted(found.items(), key=lambda item: item[1].started_at))
    if not any(step.state == "finished" for step in steps.values()):
        raise InputError(
            "{}: no finished step in it; name a run directory, or that of one step", folder
        )
    places = {name: folder / step for name, step in (models or _order(steps)).items()}
    evaluations = [read_evaluation(place, name) for name, place in places.items()]
    material = Material(folder, steps, evaluations)
    if len(evaluations) < 2:
        return material
    try:
        return _hold_together(material, list(places.values()))
    except InputError as error:  # evaluated on other questions: each stands for itself
        line = "The models against each other: {why}."
        return material._replace(notes=[Note(line, {"why": str(error)})])


def _order(steps: Mapping[str, Manifest]) -> dict[str, str]:
    """Put the evaluations in order: models without an adapter first, then as they were made."""
    done = [n for n, s in steps.items() if s.stage == "evaluate" and s.state == "finished"]
    ordered = sorted(done, key=lambda name: bool(steps[name].config.get("adapter")))
    return {name: name for name in ordered}


def _hold_together(material: Material, places: Sequence[Path]) -> Material:
    found = compare(material.evaluations, places)
    most = max(len(e.rows) for e in material.evaluations)
    whole = len(found.evaluations[0].rows) == most
    return material._replace(
        evaluations=found.evaluations if whole else material.evaluations,
        tests=found.tests,
        notes=found.notes,
    )


def read_step(folder: Path, manifest: Manifest | None = None) -> Material:
    """Read one step; its own manifest may not be written yet."""
    manifest = manifest or read_manifest(folder)
    if manifest.stage == "evaluate" and (folder / PREDICTIONS).exists():
        return show_evaluation(folder, read_evaluation(folder, manifest=manifest))
    if manifest.stage == "compare":
        names, places = manifest.names["input"], [Path(p).parent for p in manifest.roles["input"]]
        read = [read_evaluation(place, name) for place, name in zip(places, names, strict=True)]
        return show_comparison(folder, manifest, compare(read, places))
    material = Material(folder, {folder.resolve().name: manifest})
    if manifest.stage in ("train", "reinforce"):
        named = {"name": manifest.config.get("model")}
        if manifest.stage == "train":
            return material._replace(title=Note("Training of {name}", named))
        return material._replace(title=Note("Reinforcement of {name}", named))
    return material


def show_evaluation(folder: Path, evaluation: Evaluation) -> Material:
    """Make the material of one evaluation."""
    title = Note("Evaluation of {name}", {"name": evaluation.name})
    notes = [Note(**note) for note in evaluation.breakdown.get("notes", ())]
    steps = {folder.resolve().name: evaluation.manifest}
    return Material(folder, steps, [evaluation], notes=notes, title=title)


def show_comparison(folder: Path, manifest: Manifest, found: Comparison) -> Material:
    """Make the material of a comparison."""
    first, *others = [e.name for e in found.evaluations]
    title = Note("{n} evaluations against {first}", {"first": first, "n": len(others)})
    if len(others) == 1:
        title = Note("{other} against {first}", {"first": first, "other": others[0]})
    steps = {folder.resolve().name: manifest}
    return Material(folder, steps, found.evaluations, found.tests, found.notes, title)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines that a kill may have torn, without the lines that cannot be read."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def plot(name: str, title: str, draw: "Callable[[], Figure]") -> list[Plot]:
    """Draw a figure; none where matplotlib is not installed, as on the data side alone."""
    return [Plot(name, title, draw())] if find_spec("matplotlib") else []
