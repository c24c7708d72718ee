"""One page that shows an evaluation: numbers with their doubt, plots, some answers, and what was not measured.

In: scores and predictions. Out: a self-contained `report.html`, everything from models and data escaped.
Not done here: comparing several models.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medkd.core.pages import write_page
from medkd.core.plots import bar_plot, histogram
from medkd.core.records import Prediction
from medkd.grading.diagnosis import grade

N_ANSWERS = 12
"""Answers shown on the page; all of them are in `predictions.jsonl`."""

DESCRIPTIONS = {
    "diagnosis_accuracy": "principal diagnosis right",
    "diagnosis_exact": "all diagnoses right, and no other",
    "diagnosis_f1": "soft F1 over the lists of diagnoses",
    "diagnosis_decided": "answers that the rules could judge",
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
}

ALWAYS_MISSING = (
    "Medical soundness: nobody with a licence read these answers.",
    "Whether the reasoning led to the answer: only its form and its overlap with the teacher's are measured.",
    "Other trainings: the intervals cover the choice of questions, not another seed.",
)


def write_report(
    path: Path,
    scores: Mapping[str, Any],
    predictions: Sequence[Prediction],
    title: str,
    settings: Mapping[str, Any],
    missing: Sequence[str] = (),
) -> None:
    """Write the page."""
    write_page(
        path,
        "medkd.evaluate",
        "report.html.jinja",
        title=title,
        n=scores["n"],
        rows=_make_rows(scores),
        plots=_draw(scores, predictions),
        answers=[_show(prediction) for prediction in choose_answers(predictions)],
        settings={key: value for key, value in settings.items() if value is not None},
        missing=[*missing, *_find_missing(scores), *ALWAYS_MISSING],
    )


def choose_answers(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Choose some answers: the first ones wrong, and the first ones right, in equal parts."""
    right = [p for p in predictions if _is_right(p)]
    wrong = [p for p in predictions if not _is_right(p)]
    n_wrong = max(N_ANSWERS // 2, N_ANSWERS - len(right))
    chosen = wrong[:n_wrong]
    return chosen + right[: N_ANSWERS - len(chosen)]


def _is_right(prediction: Prediction) -> bool:
    return bool(prediction.reference) and grade(prediction.answer, prediction.reference).principal


def _make_rows(scores: Mapping[str, Any]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for name in DESCRIPTIONS:
        if name not in scores:
            continue
        interval = scores["intervals"].get(name)
        doubt = f"{write_number(interval[0])} – {write_number(interval[1])}" if interval else ""
        rows.append({"name": name, "value": write_number(scores[name]), "interval": doubt, "description": DESCRIPTIONS[name]})
    return rows


def write_number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _draw(scores: Mapping[str, Any], predictions: Sequence[Prediction]) -> list[str]:
    names = [name for name in ("diagnosis_accuracy", "think_format_rate", "think_unprompted_rate", "stop_rate") if name in scores]
    labels = [name.removesuffix("_rate").replace("_", "\n") for name in names]
    bars = bar_plot(
        labels, {"": [scores[name] for name in names]}, "Rates", intervals={"": [tuple(scores["intervals"][name]) for name in names]}
    )
    lengths = histogram({"": [prediction.n_tokens for prediction in predictions]}, "Length of answers", "tokens", "answers")
    return [bars, lengths]


def _show(prediction: Prediction) -> dict[str, Any]:
    return {**prediction.model_dump(), "is_right": _is_right(prediction)}


def _find_missing(scores: Mapping[str, Any]) -> list[str]:
    missing: list[str] = []
    if "diagnosis_accuracy" not in scores:
        missing.append("Diagnoses: no question has a known one.")
    if "bleu-4" not in scores:
        missing.append("Overlap: no question has a teacher's output to compare with.")
    if "samples_per_second" not in scores:
        missing.append("Speed: all answers were there already.")
    return missing
