"""The page about one evaluation or several: what is right first, then all scores.

In: evaluations. Out: a self-contained `report.html` without script, everything from models escaped.
Not done here: measuring; which evaluations may be compared (`evaluate.compare`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core.html import bar_figure, histogram, write_page, write_svg
from medkd.core.records import FinishReason, Language, Prediction
from medkd.core.stage_output import Manifest
from medkd.core.statistics import MIN_QUESTIONS
from medkd.core.yaml_io import read_shipped_yaml
from medkd.evaluate.scoring import ACCURACY, Row, find_range, find_verdict, list_accuracies
from medkd.grading.diagnosis import NEAR


class Note(NamedTuple):
    """A line of a report, and the values of its placeholders."""

    text: str
    values: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return self.text.format(**self.values)


class Catalogue:
    """Says texts in one language; one that the catalogue does not hold stays English.

    >>> Catalogue("zh")("Answers"), Catalogue("en")(Note("{n} questions", {"n": 3}))
    ('回答', '3 questions')
    """

    def __init__(self, language: Language) -> None:
        self.language = language
        shipped: dict[str, dict[str, str]] = read_shipped_yaml(
            "medkd.evaluate", "report_texts.yaml"
        )
        self._texts = shipped.get(language, {})

    def __call__(self, text: str | Note, **values: Any) -> str:
        note = text if isinstance(text, Note) else Note(text, values)
        said = self._texts.get(note.text, note.text)
        told = {k: self(v) if isinstance(v, Note) else v for k, v in note.values.items()}
        return said.format(**told) if told else said


N_ANSWERS = 200
"""Answers in the page's browser; all of them are in `predictions.jsonl`."""
N_DEPARTMENTS = 8
OVERLAP = ("bleu-4", "rouge-1", "rouge-2", "rouge-l", "samples_per_second")

DESCRIPTIONS = {
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
}
"""The scores of a run's report, in its order."""
MORE = {
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
RATES = ("think_format_rate", "think_unprompted_rate", "stop_rate", "loop_rate")
ALWAYS_MISSING = (
    Note("Medical soundness: nobody with a licence read these answers."),
    Note("Other trainings: the intervals cover the choice of questions, not another seed."),
)
SHOWN_FACTS = ("generator", "device", "dtype", "n_seen_in_training", "n_holding_their_answer")
FILTERS = ("wrong", "near", "undecided", "looped", "unthinking", "cut")


class Evaluation(NamedTuple):
    """One evaluation, ready to be shown."""

    name: str
    scores: Mapping[str, Any]
    predictions: Sequence[Prediction]
    rows: Sequence[Row]
    breakdown: Mapping[str, Any]
    manifest: Manifest
    general: Sequence[Row] = ()
    """Scores of the questions outside the task."""
    people: Mapping[str, Any] | None = None
    """What people said of a sample (`agreement.json`)."""


class Table(NamedTuple):
    """A table of the page; a cell is a text, or a text and its small print."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | tuple[str, str]]]
    bold: frozenset[int] = frozenset()
    """Rows that stand out."""


def write_report(
    path: Path,
    evaluations: Sequence[Evaluation],
    title: Note,
    missing: Sequence[Note] = (),
    tests: Sequence[Mapping[str, Any]] = (),
    language: Language = "en",
) -> None:
    """Write the page; `tests` says how the others differ from the first, which is the base."""
    say = Catalogue(language)
    write_page(
        path,
        "medkd.evaluate",
        "report.html.jinja",
        **make_values(evaluations, title, missing, tests, say),
        say=say,
        language=language,
    )


def make_values(
    evaluations: Sequence[Evaluation],
    title: Note,
    missing: Sequence[Note],
    tests: Sequence[Mapping[str, Any]],
    say: Catalogue,
) -> dict[str, Any]:
    """Make what the page's template shows of every evaluation."""
    shown = choose_answers(evaluations)
    departments = sorted({answer["department"] for answer in shown if answer["department"]})[:40]
    return {
        "title": say(title),
        "n": evaluations[0].scores["n"],
        "names": [e.name for e in evaluations],
        "lead": make_lead(evaluations, tests),
        "table": make_table([e.scores for e in evaluations]),
        "min_questions": MIN_QUESTIONS,
        "tests": make_test_tables(tests, say),
        "before_after": _show_before_after(evaluations, say),
        "plots": draw(evaluations, say),
        "extras": _make_extras(evaluations, say),
        "loops": [(e.name, e.breakdown["loops"]) for e in evaluations if "loops" in e.breakdown],
        "breakdown": _make_breakdown(evaluations, say),
        "filters": FILTERS,
        "departments": departments,
        "answers": shown,
        "n_answers": len(evaluations[-1].predictions),
        "settings": [(e.name, _list_settings(e.manifest)) for e in evaluations],
        "missing": [*missing, *_find_missing(evaluations), *ALWAYS_MISSING],
    }


# Numbers


def make_lead(
    evaluations: Sequence[Evaluation], tests: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Make the page's first table: how much is right, between what bounds, and what was decided."""
    lines: list[dict[str, Any]] = []
    names = dict.fromkeys(name for e in evaluations for name in list_accuracies(e.scores))
    for name in names:
        for e in evaluations:
            if name not in e.scores:
                continue
            found = find_range(e.scores, name)
            test = next((t for t in tests if t["model"] == e.name and t["score"] == name), None)
            lines.append(
                {
                    "score": name,
                    "model": e.name,
                    "right": _write_range(found.low, found.high),
                    "interval": " – ".join(map(write_number, found.interval)),
                    "decided": write_number(found.decided),
                    "n": sum(name in row.scores for row in (*e.rows, *e.general)),
                    "test": test,
                }
            )
    return lines


def write_lead(lead: Sequence[Mapping[str, Any]]) -> str:
    """Write the first table for a terminal: each line a score of a model."""
    width = max((len(str(line["model"])) for line in lead), default=0)
    lines: list[str] = []
    for line in lead:
        said = f"  {line['score']:<20}{line['model']:<{width}}  right {line['right']}"
        said += f"  95 % {line['interval']}, decided {line['decided']}, n {line['n']}"
        if test := line["test"]:
            said += f"; {test['difference']}, p {test['p']}, {test['finding']}"
        lines.append(said)
    return "\n".join(lines)


def list_scores(scores: Mapping[str, Any]) -> str:
    """Write the scores that a person looks for first, each with its interval."""
    return "\n".join(
        f"  {row['name']:<24}{row['cells'][0]['value']:>8}"
        + (f"  [{row['cells'][0]['interval']}]" if row["cells"][0]["interval"] else "")
        for row in make_table([scores])
        if "_p" not in row["name"]
    )


def write_number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _write_range(low: float, high: float) -> str:
    return write_number(low) if low == high else f"{write_number(low)} – {write_number(high)}"


def make_table(every: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make a row for each score that any model has, a cell for each model."""
    known = {**DESCRIPTIONS, **MORE}
    extra = [name for scores in every for name in scores if "@" in name]
    known |= dict.fromkeys(dict.fromkeys(extra), "over several samples a question")
    return [
        {
            "name": name,
            "description": description,
            "cells": [_make_cell(scores, name) for scores in every],
        }
        for name, description in known.items()
        if any(name in scores for scores in every)
    ]


def _make_cell(scores: Mapping[str, Any], name: str) -> dict[str, str]:
    """Write a score and its interval; an accuracy with undecided answers spans both bounds."""
    if name not in scores:
        return {"value": "–", "interval": ""}
    if name.endswith(ACCURACY):
        found = find_range(scores, name)
        ends: Sequence[float] | None = found.interval
        value = _write_range(found.low, found.high)
    else:
        ends, value = scores["intervals"].get(name), write_number(scores[name])
    small = " – ".join(map(write_number, ends)) if ends else ""
    if n := scores.get(f"n_{name}"):
        small += f", n {n}"
    return {"value": value, "interval": small}


# Plots and tables


def draw(evaluations: Sequence[Evaluation], say: Catalogue) -> list[str]:
    """Draw what is right, rates, lengths and departments."""
    names = [*list_accuracies(evaluations[-1].scores), *RATES]
    names = [name for name in names if all(name in e.scores for e in evaluations)]
    labels = [name.removesuffix("_rate").replace("_", "\n") for name in names]
    bars = {e.name: [e.scores[name] for name in names] for e in evaluations}
    doubt = {e.name: [_find_ends(e.scores, name) for name in names] for e in evaluations}
    unit = "tokens" if any(p.n_tokens for e in evaluations for p in e.predictions) else "characters"
    lengths = {
        e.name: [float(p.n_tokens if unit == "tokens" else len(p.raw)) for p in e.predictions]
        for e in evaluations
    }
    plots = [
        bar_figure(labels, bars, say("Rates"), intervals=doubt),
        histogram(lengths, say("Length of answers"), say(unit), say("answers")),
    ]
    departments = evaluations[-1].breakdown.get("department", {})
    largest = sorted(departments, key=lambda name: -departments[name]["n"])[:N_DEPARTMENTS]
    if len(largest) > 1:
        groups = [(e.name, e.breakdown.get("department", {})) for e in evaluations]
        heights = {
            name: [found.get(d, {}).get("diagnosis_accuracy", 0.0) for d in largest]
            for name, found in groups
        }
        plots.append(bar_figure(largest, heights, say("Accuracy by department")))
    return [write_svg(plot) for plot in plots]


def _find_ends(scores: Mapping[str, Any], name: str) -> tuple[float, float]:
    if name.endswith(ACCURACY):
        return find_range(scores, name).interval
    low, high = scores["intervals"].get(name, (scores[name], scores[name]))
    return low, high


def make_test_tables(tests: Sequence[Mapping[str, Any]], say: Catalogue) -> list[Table]:
    """Make a table for each model of how it differs from the first one."""
    head = [say(name) for name in ("score", "questions", "difference", "95 % interval")]
    head += ["p", say("test"), say("finding")]
    tables: list[Table] = []
    for model in dict.fromkeys(test["model"] for test in tests):
        lines = [test for test in tests if test["model"] == model]
        rows = [
            [
                t["score"],
                str(t["n"]),
                t["difference"],
                t["interval"],
                t["p"],
                say(t["test"]),
                say(t["finding"]),
            ]
            for t in lines
        ]
        bold = frozenset(at for at, test in enumerate(lines) if test["is_significant"])
        tables.append(Table(str(model), head, rows, bold))
    return tables


def _show_before_after(evaluations: Sequence[Evaluation], say: Catalogue) -> list[Table]:
    """Make the table in which the worked example showed its result: overlap and speed."""
    if not any("bleu-4" in e.scores for e in evaluations):
        return []
    rows = [
        [e.name, *(f"{e.scores[name]:.2f}" if name in e.scores else "–" for name in OVERLAP)]
        for e in evaluations
    ]
    head = [say("model"), "BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L", say("samples/s")]
    title = say("Before and after, in the terms of the worked example")
    return [Table(title, head, rows)]


def _make_extras(evaluations: Sequence[Evaluation], say: Catalogue) -> list[Table]:
    """Make the tables of forgetting, of orders of options and of people's reviews."""
    tables: list[Table] = []
    for e in evaluations:
        if found := e.breakdown.get("forgetting"):
            low, high = found["interval"]
            change = (f"{found['difference']:+.3f}", f"{low:+.3f} – {high:+.3f}")
            ends = [write_number(found[name]) for name in ("base", "student")]
            head = [say(name) for name in ("questions", "base", "student", "difference")]
            row = [str(found["n"]), *ends, change, f"{found['p']:.4f}"]
            title = f"{say('Outside the task, before and after')}: {e.name}"
            tables.append(Table(title, [*head, "p"], [row]))
        if found := e.breakdown.get("positions"):
            rows = [
                [letter, f"{row['chosen']:.3f}", f"{row['right']:.3f}"]
                for letter, row in found.items()
            ]
            head = [say("option"), say("share chosen"), say("share right")]
            tables.append(Table(f"{say('Order of the options')}: {e.name}", head, rows))
        if e.people:
            tables.append(_show_people(e.name, e.people, say))
    return tables


def _show_people(name: str, people: Mapping[str, Any], say: Catalogue) -> Table:
    """Make the table of what people said of a sample of the answers."""
    rows: list[list[str | tuple[str, str]]] = []
    for rater in people["raters"]:
        kappa = "–" if rater["kappa"] is None else f"{rater['kappa']:.2f}"
        agreed = (write_number(rater["agreed"]), " – ".join(map(write_number, rater["interval"])))
        rows.append([rater["name"], str(rater["n"]), agreed, kappa, say(rater["finding"])])
    low, high = people["corrected_interval"]
    corrected = (write_number(people["corrected"]), f"{write_number(low)} – {write_number(high)}")
    rows.append([say("right, by people's word"), str(people["n"]), corrected, "", ""])
    head = [say(word) for word in ("rater", "answers", "agrees with people", "kappa", "finding")]
    return Table(f"{say('What people say')}: {name}", head, rows)


def _make_breakdown(evaluations: Sequence[Evaluation], say: Catalogue) -> list[Table]:
    """Make a table an axis: the accuracy of every model in every group."""
    tables: list[Table] = []
    axes = {
        "department": "By department",
        "length": "By length of the question, in characters",
        "diagnoses": "By number of known answers",
        "base": "By what the first model answered",
        "general": "Outside the task, by kind of question",
    }
    for axis, title in axes.items():
        last = evaluations[-1].breakdown.get(axis, {})
        groups = [e.breakdown.get(axis, {}) for e in evaluations]
        rows = [
            [
                _say_group(name, say),
                str(last[name]["n"]),
                *(_show_group(g.get(name)) for g in groups),
            ]
            for name in last
        ]
        if len(rows) > 1:
            head = ["", say("questions"), *(e.name for e in evaluations)]
            tables.append(Table(say(title), head, rows))
    return tables


def _say_group(name: str, say: Catalogue) -> str:
    word, bracket, rest = name.partition(" (")
    return say(word) + bracket + rest


def _show_group(found: Mapping[str, Any] | None) -> str | tuple[str, str]:
    if not found:
        return "–"
    low = found["diagnosis_accuracy"]
    ends = " – ".join(map(write_number, found["interval"]))
    return _write_range(low, found.get("high", low)), ends


# Answers


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
    verdict = find_verdict(scores, ["judged"])
    flags = {
        "wrong": verdict == "wrong",
        "near": row is not None and row.relation in NEAR,
        "undecided": verdict == "undecided",
        "looped": scores.get("loop_rate") == 1,
        "unthinking": scores.get("think_format_rate") == 0,
        "cut": prediction.finish_reason == FinishReason.LENGTH,
    }
    kinds = [kind for kind, holds in flags.items() if holds]
    return {
        **prediction.model_dump(),
        "department": prediction.department[-1] if prediction.department else "",
        "kinds": kinds,
        "verdict": verdict or "not graded",
        "relation": row.relation.replace("_", " ") if row else "",
        "judged": row.judged if row else "",
        "others": others,
    }


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


def _find_missing(evaluations: Sequence[Evaluation]) -> list[Note]:
    """Say what these evaluations did not measure, and what would."""
    scored = {name for e in evaluations for name in e.scores}
    verdicts = {find_verdict(row.scores) for e in evaluations for row in e.rows}
    is_judged = any(e.manifest.config.get("judge") for e in evaluations)
    is_measured = {
        "Right and wrong: no question has a known answer.": verdicts != {None},
        "Overlap: no question has a teacher's output to compare with.": "bleu-4" in scored,
        "Speed: all answers were there already.": "samples_per_second" in scored,
        "Grounding: no reasoning cites what could be looked up in its record.": "grounded_rate"
        in scored,
        "Consistency: --samples N with a temperature asks for several answers a question.": any(
            "@" in name for name in scored
        ),
        "Undecided answers: --judge asks another model; medkd review answers asks people.": (
            is_judged or "undecided" not in verdicts
        ),
        "Whether the reasoning leads to the answer: --faithfulness N asks again.": bool(
            {"removal_follows", "recovery_rate"} & scored
        ),
        "What was forgotten outside the task: --general builtin asks it.": "general_accuracy"
        in scored,
    }
    return [Note(line) for line, holds in is_measured.items() if not holds]
