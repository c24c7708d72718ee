"""The page about one evaluation or several: scores with intervals, plots, answers, what is missing.

In: evaluations. Out: a self-contained `report.html` without script, everything from models escaped.
Not done here: measuring; which evaluations may be compared (`evaluate.compare`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core.html import bar_plot, histogram, write_page
from medkd.core.records import FinishReason, Prediction
from medkd.core.stage_output import Manifest
from medkd.evaluate.scoring import Row
from medkd.grading.diagnosis import NEAR

N_ANSWERS = 200
"""Answers in the page's browser; all of them are in `predictions.jsonl`."""
N_DEPARTMENTS = 8

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
"""The scores of a run's report, in its order."""
MORE = {
    "exam_accuracy": "multiple choice, generated and read: the right letters and no other",
    "exam_unreadable": "answers in which no letter could be read; they count as wrong",
    "grounded_rate": "numbers and denied findings of the reasoning that stand in the record",
    "judge_score": "a judge's score of answers to open questions, 0 to 1",
    "empty_rate": "no answer at all",
    "tokens_p50": "half of the answers are no longer",
    "tokens_p90": "nine of ten answers are no longer",
    "tokens_p99": "99 of 100 answers are no longer",
    "characters_p50": "half of the answers are no longer",
    "characters_p90": "nine of ten answers are no longer",
    "characters_p99": "99 of 100 answers are no longer",
}
RATES = (
    "diagnosis_accuracy",
    "think_format_rate",
    "think_unprompted_rate",
    "stop_rate",
    "loop_rate",
)
ALWAYS_MISSING = (
    "Medical soundness: nobody with a licence read these answers.",
    "Whether the reasoning led to the answer: only its form, its grounding and its overlap with "
    "the teacher's are measured.",
    "Other trainings: the intervals cover the choice of questions, not another seed.",
)
SHOWN_FACTS = ("generator", "device", "dtype", "n_seen_in_training", "n_holding_their_answer")
FILTERS = {
    "wrong": "wrong",
    "near": "near the known one",
    "undecided": "undecided",
    "looped": "looped",
    "unthinking": "did not think",
    "cut": "cut off",
}


class Evaluation(NamedTuple):
    """One evaluation, ready to be shown."""

    name: str
    scores: Mapping[str, Any]
    predictions: Sequence[Prediction]
    rows: Sequence[Row]
    breakdown: Mapping[str, Any]
    asked: Sequence[Prediction]
    """Answers to questions that have no known one."""
    manifest: Manifest


def write_report(
    path: Path,
    evaluations: Sequence[Evaluation],
    title: str,
    missing: Sequence[str] = (),
    tests: Sequence[Mapping[str, Any]] = (),
    before_after: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the page; `tests` says how the others differ from the first, `before_after` is the
    worked example's table."""
    write_page(
        path,
        "medkd.evaluate",
        "report.html.jinja",
        **make_values(evaluations, title, missing),
        tests=tests,
        before_after=before_after,
    )


def make_values(
    evaluations: Sequence[Evaluation], title: str, missing: Sequence[str] = ()
) -> dict[str, Any]:
    """Make what the page's template shows of every evaluation."""
    shown = choose_answers(evaluations)
    departments = sorted({answer["department"] for answer in shown if answer["department"]})[:40]
    broken = [(e.name, e.breakdown) for e in evaluations]
    return {
        "title": title,
        "n": evaluations[0].scores["n"],
        "names": [e.name for e in evaluations],
        "table": make_table([e.scores for e in evaluations]),
        "plots": draw(evaluations),
        "wordings": [(name, found["wordings"]) for name, found in broken if "wordings" in found],
        "loops": [(name, found["loops"]) for name, found in broken if "loops" in found],
        "breakdown": _make_breakdown(evaluations),
        "filters": FILTERS,
        "departments": departments,
        "answers": shown,
        "n_answers": len(evaluations[-1].predictions),
        "asked": _set_side_by_side(evaluations),
        "settings": [(e.name, _list_settings(e.manifest)) for e in evaluations],
        "missing": [*missing, *_find_missing(evaluations), *ALWAYS_MISSING],
    }


def list_scores(scores: Mapping[str, Any]) -> str:
    """Write the scores that a person looks for first, each with its interval."""
    lines: list[str] = []
    for name in [name for name in {**MORE, **DESCRIPTIONS} if name in scores and "_p" not in name]:
        interval = scores["intervals"].get(name)
        doubt = f"  [{write_number(interval[0])}, {write_number(interval[1])}]" if interval else ""
        lines.append(f"  {name:<24}{write_number(scores[name]):>8}{doubt}")
    return "\n".join(lines)


def write_number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def make_table(every: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make a row for each score that any model has, a cell for each model."""
    known = {**DESCRIPTIONS, **MORE}
    extra = [name for scores in every for name in scores if "@" in name]
    known |= dict.fromkeys(dict.fromkeys(extra), "over several samples a question")
    return [
        {
            "name": name,
            "description": description,
            "cells": [
                _make_cell(scores.get(name), scores["intervals"].get(name)) for scores in every
            ],
        }
        for name, description in known.items()
        if any(name in scores for scores in every)
    ]


def _make_cell(value: float | None, interval: Sequence[float] | None) -> dict[str, str]:
    if value is None:
        return {"value": "–", "interval": ""}
    doubt = f"{write_number(interval[0])} – {write_number(interval[1])}" if interval else ""
    return {"value": write_number(value), "interval": doubt}


def draw(evaluations: Sequence[Evaluation]) -> list[str]:
    """Draw rates, lengths, departments and wordings."""
    names = [name for name in RATES if all(name in e.scores for e in evaluations)]
    labels = [name.removesuffix("_rate").replace("_", "\n") for name in names]
    bars = {e.name: [e.scores[name] for name in names] for e in evaluations}
    doubt = {e.name: [tuple(e.scores["intervals"][name]) for name in names] for e in evaluations}
    unit = "tokens" if any(p.n_tokens for e in evaluations for p in e.predictions) else "characters"
    lengths = {
        e.name: [float(p.n_tokens if unit == "tokens" else len(p.raw)) for p in e.predictions]
        for e in evaluations
    }
    plots = [
        bar_plot(labels, bars, "Rates", intervals=doubt),
        histogram(lengths, "Length of answers", unit, "answers"),
    ]
    departments = evaluations[-1].breakdown.get("department", {})
    largest = sorted(departments, key=lambda name: -departments[name]["n"])[:N_DEPARTMENTS]
    if len(largest) > 1:
        groups = [(e.name, e.breakdown.get("department", {})) for e in evaluations]
        heights = {
            name: [found.get(d, {}).get("diagnosis_accuracy", 0.0) for d in largest]
            for name, found in groups
        }
        plots.append(bar_plot(largest, heights, "Diagnosis accuracy by department"))
    worded = [e for e in evaluations if e.breakdown.get("wordings")]
    if worded:
        wordings = [row["wording"] for row in worded[0].breakdown["wordings"]]
        thought = {
            e.name: [row["think_format_rate"] for row in e.breakdown["wordings"]] for e in worded
        }
        plots.append(bar_plot(wordings, thought, "Thinks without being asked"))
    return plots


def _make_breakdown(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Make a table an axis: the accuracy of every model in every group."""
    tables: list[dict[str, Any]] = []
    axes = {
        "department": "By department",
        "length": "By length of the question, in characters",
        "diagnoses": "By number of known diagnoses",
    }
    for axis, title in {**axes, "base": "Where the first model was wrong"}.items():
        last = evaluations[-1].breakdown.get(axis, {})
        rows = [
            {
                "name": name,
                "n": group["n"],
                "cells": [
                    _make_cell(found.get("diagnosis_accuracy"), found.get("interval"))
                    for found in (e.breakdown.get(axis, {}).get(name, {}) for e in evaluations)
                ],
            }
            for name, group in last.items()
        ]
        if len(rows) > 1:
            tables.append({"title": title, "rows": rows})
    return tables


def choose_answers(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Choose answers of the last model to browse: those with something wrong first, as many right
    ones as there is room for."""
    *others, last = evaluations
    rows = {row.id: row for row in last.rows}
    texts = [(e.name, {p.id: p.raw for p in e.predictions}) for e in others]
    shown = [
        _show(p, rows.get(p.id), [(name, found[p.id]) for name, found in texts if p.id in found])
        for p in last.predictions
    ]
    troubled = [answer for answer in shown if answer["kinds"]]
    fine = [answer for answer in shown if not answer["kinds"]]
    n_fine = min(len(fine), max(N_ANSWERS // 3, N_ANSWERS - len(troubled)))
    return troubled[: N_ANSWERS - n_fine] + fine[:n_fine]


def _show(prediction: Prediction, row: Row | None, others: list[tuple[str, str]]) -> dict[str, Any]:
    scores = row.scores if row else {}
    flags = {
        "wrong": 0 in (scores.get("diagnosis_accuracy"), scores.get("exam_accuracy")),
        "near": row is not None and row.relation in NEAR,
        "undecided": scores.get("diagnosis_decided") == 0,
        "looped": scores.get("loop_rate") == 1,
        "unthinking": scores.get("think_format_rate") == 0,
        "cut": prediction.finish_reason == FinishReason.LENGTH,
    }
    kinds = [kind for kind, holds in flags.items() if holds]
    is_graded = bool({"diagnosis_accuracy", "exam_accuracy"} & scores.keys())
    verdict = "not graded" if not is_graded else "wrong" if "wrong" in kinds else "right"
    return {
        **prediction.model_dump(),
        "department": prediction.department[-1] if prediction.department else "",
        "kinds": kinds,
        "verdict": verdict,
        "relation": row.relation.replace("_", " ") if row else "",
        "judged": row.judged if row else "",
        "others": others,
    }


def _set_side_by_side(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    questions = dict.fromkeys(p.question for e in evaluations for p in e.asked)
    return [
        {
            "question": q,
            "answers": [(e.name, p.raw) for e in evaluations for p in e.asked if p.question == q],
        }
        for q in questions
    ]


def _list_settings(manifest: Manifest) -> dict[str, Any]:
    """List the settings, what it was made from, with what, and what it cost."""
    empty: tuple[object, ...] = (None, "", [], {}, False)
    settings = {key: value for key, value in manifest.config.items() if value not in empty}
    settings |= {f"read: {path}": digest[:16] for path, digest in manifest.inputs.items()}
    settings |= {key: manifest.facts[key] for key in SHOWN_FACTS if key in manifest.facts}
    settings["versions"] = ", ".join(f"{name} {v}" for name, v in manifest.versions.items())
    if manifest.cost.amount:
        settings["cost"] = f"{manifest.cost.amount:.4f} {manifest.cost.currency}"
    return settings


def _find_missing(evaluations: Sequence[Evaluation]) -> list[str]:
    """Say what these evaluations did not measure, and what would."""
    scored = {name for e in evaluations for name in e.scores}
    is_open = any(row.scores.get("diagnosis_decided") == 0 for e in evaluations for row in e.rows)
    is_judged = any(e.manifest.config.get("judge") for e in evaluations)
    is_measured = {
        "Diagnoses: no question has a known one.": "diagnosis_accuracy" in scored,
        "Overlap: no question has a teacher's output to compare with.": "bleu-4" in scored,
        "Speed: all answers were there already.": "samples_per_second" in scored,
        "Grounding: no reasoning cites what could be looked up in its record.": "grounded_rate"
        in scored,
        "Other wordings of the questions: --wordings N asks them.": any(
            e.breakdown.get("wordings") for e in evaluations
        ),
        "Consistency: --samples N with a temperature asks for several answers a question.": any(
            "@" in name for name in scored
        ),
        "Diagnoses that rules could not decide: they count as wrong; --judge asks another model.": (
            is_judged or not is_open
        ),
    }
    return [line for line, holds in is_measured.items() if not holds]
