"""Scores of each answer (form, overlap, grade, grounding, votes, a judge's word) and over all.

In: predictions. Out: a `Row` a question; means with 95 % intervals; the accuracy by group.
Not done here: what is right (`grading`), intervals and tests (`core.statistics`), pages.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from medkd.completers.session import Session
from medkd.core import thinking
from medkd.core.parallel import map_in_order
from medkd.core.records import Cost, FinishReason, Prediction, Record
from medkd.core.statistics import interval
from medkd.core.task import AnswerKind, find_task
from medkd.grading import judge
from medkd.grading.bleu_rouge import score_pair
from medkd.grading.compare import Relation, compare
from medkd.grading.diagnosis import Grade, GradeVerdict
from medkd.grading.graders import get_grader
from medkd.grading.grounding import grounded_rate
from medkd.grading.names import parse_name
from medkd.grading.repetition import is_looping

FILE_NAME = "rows.jsonl"
GENERAL = "general_rows.jsonl"
"""Scores of the questions outside the task."""
NO_ANSWER = "no_answer"
"""The finish reason of a row whose file holds no answer (`predict: null`)."""


Scores = dict[str, dict[str, float]]
"""Id of a question to further scores of it."""
PREFIXES: Mapping[AnswerKind, str] = {
    "diagnosis": "diagnosis",
    "choice": "exam",
    "text": "text",
    "number": "number",
}
"""Kind of answer to the name that its scores begin with: `exam_accuracy`, `exam_decided`."""


Columns = dict[str, list[float]]
"""Name of a score to its value for each question it applies to."""
PERCENTILES = (50, 90, 99)
ACCURACY, DECIDED, HIGH = "_accuracy", "_decided", "_accuracy_high"
"""Ends of names: right if every undecided answer is wrong; share decided; right if every undecided
answer is right."""


class Row(Record):
    """The scores of one question: a line of `rows.jsonl`."""

    id: str
    department: tuple[str, ...] = ()
    n_known: int = 0
    """Known diagnoses."""
    n_characters: int = 0
    """Length of the question."""
    scores: dict[str, float]
    """Only those that apply: an open question has no diagnosis score."""
    relation: str = ""
    """How the nearest stated diagnosis stands to the known one."""
    judged: str = ""
    """What a judge said where rules could not tell."""

    def add(self, *more: Mapping[str, float], judged: str = "") -> "Row":
        """Return the row with further scores, and with what a judge said."""
        scores = dict(self.scores)
        for found in more:
            scores |= found
        return self.model_copy(update={"scores": scores, "judged": judged or self.judged})


def score(
    predictions: Iterable[Prediction], task: str = "", terms: Path | None = None
) -> Iterator[Row]:
    """Score predictions in order, by rules alone; many of them on several cores. `task` is a task
    file of the user's, `terms` a table of codes and names."""
    return map_in_order(partial(score_prediction, task=task, terms=terms), predictions)


def score_prediction(prediction: Prediction, task: str = "", terms: Path | None = None) -> Row:
    """Score one prediction by rules alone."""
    scores = score_form(prediction)
    if prediction.teacher is not None:
        overlap = score_pair(prediction.raw, prediction.teacher)
        scores |= {
            "bleu-4": overlap.bleu_4,
            "rouge-1": overlap.rouge_1,
            "rouge-2": overlap.rouge_2,
            "rouge-l": overlap.rouge_l,
        }
    found = None
    if prediction.reference:
        kind = find_kind(prediction, task)
        grader = get_grader(kind, terms)
        found = grader(prediction.answer, prediction.reference, known=prediction.known)
        scores |= score_grade(kind, found)
        if prediction.known:
            scores["told_rate"] = count_told(found.stated, prediction.known)
    if prediction.question and prediction.reasoning:
        grounded = grounded_rate(prediction.reasoning, prediction.question)
        scores |= {} if grounded is None else {"grounded_rate": grounded}
    return Row(
        id=prediction.id,
        department=prediction.department,
        n_known=len([part for part in prediction.reference.split("；") if part]),
        n_characters=len(prediction.question or prediction.prompt),
        scores=scores,
        relation=str(found.relation) if found else "",
    )


def find_kind(prediction: Prediction, task: str = "") -> AnswerKind:
    """Return the kind of answer that a prediction's task asks for."""
    return find_task(prediction.task, task).answer.kind


def count_told(stated: Sequence[str], known: Sequence[str]) -> float:
    """Return the share of the diagnoses told by the record that an answer lists too."""
    names = [parse_name(name) for name in stated]
    told = [parse_name(name) for name in known]
    return sum(any(compare(n, k) is Relation.SAME for n in names) for k in told) / len(told)


def score_form(prediction: Prediction) -> dict[str, float]:
    """Score how an answer is formed and how it ended; a text from a file that does not tell how it
    ended has no such score."""
    is_loop = prediction.finish_reason == FinishReason.LOOP or is_looping(prediction.raw)
    scores = {
        "think_format_rate": float(thinking.is_well_formed(prediction.raw)),
        "loop_rate": float(is_loop),
        "empty_rate": float(not prediction.answer.strip()),
    }
    if prediction.finish_reason not in ("", NO_ANSWER):
        scores |= {
            "stop_rate": float(prediction.finish_reason == FinishReason.STOP),
            "truncated_rate": float(prediction.finish_reason == FinishReason.LENGTH),
        }
    return scores | ({"mean_tokens": float(prediction.n_tokens)} if prediction.n_tokens else {})


def score_grade(kind: AnswerKind, found: Grade) -> dict[str, float]:
    """Score a grade under the names of its kind; what is undecided counts as wrong here, and
    `_decided` says so."""
    prefix = PREFIXES[kind]
    scores = {
        f"{prefix}_accuracy": float(found.principal),
        f"{prefix}_decided": float(found.decided),
    }
    if kind == "choice":
        scores["exam_unreadable"] = float(not found.decided)
    if kind == "text":
        scores["text_f1"] = found.f1
    if kind == "diagnosis":
        scores |= {"diagnosis_exact": float(found.exact), "diagnosis_f1": found.f1}
    return scores


def find_verdict(scores: Mapping[str, float], prefixes: Iterable[str] = ()) -> GradeVerdict | None:
    """Read the verdict out of a row's scores; None for a question without a known answer.

    `prefixes` names other scores to read than those of the rules: `judged` first, for instance.
    """
    for prefix in (*prefixes, *PREFIXES.values()):
        if f"{prefix}_accuracy" in scores:
            if scores.get(f"{prefix}_decided", 1) == 0:
                return "undecided"
            return "right" if scores[f"{prefix}_accuracy"] == 1 else "wrong"
    return None


def score_samples(
    samples: Sequence[Prediction], task: str = "", terms: Path | None = None
) -> dict[str, float]:
    """Score several answers to one question: whether one is right, whether the vote is, and the
    share that agrees with it; names carry their number."""
    if len(samples) < 2 or not samples[0].reference:
        return {}
    kind = find_kind(samples[0], task)
    grader = get_grader(kind, terms)
    grades: list[Grade] = [grader(p.answer, p.reference, known=p.known) for p in samples]
    votes = ["；".join(g.stated) for g in grades]
    if kind == "diagnosis":
        votes = [parse_name(g.stated[0]).plain if g.stated else "" for g in grades]
    winner, n = Counter(votes).most_common(1)[0]
    k = len(samples)
    return {
        f"pass@{k}": float(any(g.principal for g in grades)),
        f"majority@{k}": float(grades[votes.index(winner)].principal),
        f"agreement@{k}": n / k,
    }


@dataclass
class Judgements:
    """What a judge came to."""

    rows: list[Row] = field(default_factory=list[Row])
    """All rows, with the judge's scores beside those of the rules."""
    n_asked: int = 0
    n_failed: int = 0
    """Judgements that failed or could not be read."""
    n_split: int = 0
    """Answers on which the two orders disagreed; they stay undecided."""
    cost: Cost = field(default_factory=Cost)
    """Money of all judgements on the ledger."""


OpenJudge = Callable[[judge.RubricName], AbstractContextManager[Session]]


def judge_rows(
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    open_judge: OpenJudge,
    task: str = "",
) -> Judgements:
    """Have what the rules left undecided judged, and answers to open questions scored against the
    teacher's.

    The rules' figures stay; `judged_accuracy` and `judged_decided` hold the rules' verdict where
    there is one and the judge's elsewhere.
    """
    found = Judgements()
    verdicts: list[GradeVerdict | None] = [find_verdict(row.scores) for row in rows]
    undecided = [p for p, v in zip(predictions, verdicts, strict=True) if v == "undecided"]
    opened = [p for p in predictions if not p.reference and p.teacher]
    opinions: dict[str, judge.Opinion] = {}
    scored: dict[str, judge.Judgement] = {}
    if undecided:
        with open_judge("diagnosis") as session:
            said = judge.judge_answers([to_judge(p, task) for p in undecided], session)
            found.cost = session.tell_cost()
        opinions = {p.id: opinion for p, opinion in zip(undecided, said, strict=True)}
    if opened:
        texts = [
            judge.open_texts(p.question or p.prompt, p.answer, p.teacher or "") for p in opened
        ]
        with open_judge("open") as session:
            judged = judge.judge(texts, judge.load_rubric("open"), session)
            found.cost = session.tell_cost()
        read = ((p.id, result.judgement) for p, result in zip(opened, judged, strict=True))
        scored = {i: judgement for i, judgement in read if judgement}
    found.n_asked = len(undecided) + len(opened)
    found.n_split = sum(opinion.is_split for opinion in opinions.values())
    found.n_failed = len(opened) - len(scored) + sum(not o.label for o in opinions.values())
    for row, verdict in zip(rows, verdicts, strict=True):
        found.rows.append(_add_judgement(row, verdict, opinions.get(row.id), scored.get(row.id)))
    return found


def to_judge(prediction: Prediction, task: str = "") -> judge.AnswerToJudge:
    """Make what a judge is shown of a prediction."""
    question = prediction.question or prediction.prompt
    kind = find_kind(prediction, task)
    return judge.AnswerToJudge(kind, question, prediction.answer, prediction.reference)


def _add_judgement(
    row: Row,
    verdict: GradeVerdict | None,
    opinion: judge.Opinion | None,
    judgement: judge.Judgement | None,
) -> Row:
    if judgement:
        return row.add({"judge_score": judgement.score}, judged=judgement.why)
    if verdict is None:
        return row
    judged = ""
    if opinion is not None and opinion.verdict:
        verdict, judged = opinion.verdict, f"{opinion.verdict}: {opinion.why}"
    marks = {
        "judged_accuracy": float(verdict == "right"),
        "judged_decided": float(verdict != "undecided"),
    }
    return row.add(marks, judged=judged)


# Over all questions


def to_columns(rows: Sequence[Row]) -> Columns:
    """Turn rows into columns; a score holds the questions it applies to. Beside each accuracy
    stands what it would be if every undecided answer were right."""
    columns: Columns = {}
    for row in rows:
        for name, value in row.scores.items():
            columns.setdefault(name, []).append(value)
            if name.endswith(ACCURACY):
                high = find_bounds(row.scores, name)[1]
                columns.setdefault(name + HIGH.removeprefix(ACCURACY), []).append(high)
    return columns


def find_bounds(scores: Mapping[str, float], name: str) -> tuple[float, float]:
    """Return the lowest and the highest that a score of one question may be.

    >>> find_bounds({"exam_accuracy": 0.0, "exam_decided": 0.0}, "exam_accuracy")
    (0.0, 1.0)
    """
    value = scores[name]
    is_open = (
        name.endswith(ACCURACY) and scores.get(name.removesuffix(ACCURACY) + DECIDED, 1.0) == 0
    )
    return value, 1.0 if is_open else value


class AccuracyRange(NamedTuple):
    """An accuracy with undecided answers."""

    low: float
    """Share right if every undecided answer is wrong."""
    high: float
    """Share right if every undecided answer is right."""
    interval: tuple[float, float]
    """From the low end of the one's 95 % interval to the high end of the other's."""
    decided: float
    """Share of the answers that were decided."""


def list_accuracies(scores: Mapping[str, Any]) -> list[str]:
    """List the accuracies among scores, the judged one behind that of the rules."""
    found = [n for n in scores if n.endswith(ACCURACY) and not n.startswith("n_")]
    return sorted(found, key=lambda name: name.startswith("judged"))


def find_range(scores: Mapping[str, Any], name: str) -> AccuracyRange:
    """Read an accuracy out of `scores.json`; one without undecided answers is a single number."""
    low, intervals = scores[name], scores["intervals"]
    top = name.removesuffix(ACCURACY) + HIGH
    ends = intervals.get(name, (low, low))
    return AccuracyRange(
        low,
        scores.get(top, low),
        (ends[0], intervals.get(top, ends)[1]),
        scores.get(name.removesuffix(ACCURACY) + DECIDED, 1.0),
    )


def summarise(columns: Columns, seed: int = 0) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the mean of every column and its 95 % interval."""
    means = {
        name: round(sum(values) / len(values), 6) for name, values in columns.items() if values
    }
    return means, {name: interval(values, seed) for name, values in columns.items() if values}


def describe_lengths(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Return percentiles of the answers' lengths, in tokens where they were counted, else in
    characters."""
    import numpy as np

    has_tokens = any(p.n_tokens for p in predictions)
    unit = "tokens" if has_tokens else "characters"
    lengths = [p.n_tokens if has_tokens else len(p.raw) for p in predictions]
    return {f"{unit}_p{p}": float(np.percentile(lengths, p)) for p in PERCENTILES if predictions}


def make_scores(
    rows: Sequence[Row],
    predictions: Sequence[Prediction],
    unprompted: Sequence[Prediction],
    samples_per_second: float | None,
    seed: int,
    general: Sequence[Row] = (),
) -> dict[str, Any]:
    """Make what `scores.json` holds: name to number, and `intervals`, name to low and high; of a
    score that not all questions have, `n_NAME` is their number.

    Without a template of its own that begins the thinking, a model was asked plainly already: both
    think rates are one.
    """
    columns = to_columns([*rows, *general])
    plain = unprompted or predictions
    columns["think_unprompted_rate"] = [float(thinking.is_well_formed(p.raw)) for p in plain]
    means, intervals = summarise(columns, seed)
    speed = (
        {} if samples_per_second is None else {"samples_per_second": round(samples_per_second, 3)}
    )
    few = {f"n_{name}": len(column) for name, column in columns.items() if len(column) != len(rows)}
    return {
        "n": len(rows),
        **means,
        **few,
        **describe_lengths(predictions),
        **speed,
        "intervals": intervals,
    }


def break_down(
    rows: Sequence[Row], before: Mapping[str, str] | None = None, seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the accuracy by department, length of the question, number of known answers, and by
    another model's verdicts."""
    bounds: dict[str, tuple[float, float]] = {}
    for row in rows:
        if name := next((name for name in row.scores if name.endswith(ACCURACY)), ""):
            bounds[row.id] = find_bounds(row.scores, name)
    graded = [row for row in rows if row.id in bounds]
    edges = sorted(row.n_characters for row in graded) or [0]
    short, long = edges[len(edges) // 3], edges[2 * len(edges) // 3]

    def name_length(n: int) -> str:
        return f"short (< {short})" if n < short else f"long (> {long})" if n > long else "middle"

    axes: dict[str, Callable[[Row], str]] = {
        "department": lambda row: row.department[-1] if row.department else "unknown",
        "length": lambda row: name_length(row.n_characters),
        "diagnoses": lambda row: str(row.n_known) if row.n_known < 4 else "4 or more",
    }
    if before:
        axes["base"] = lambda row: f"base was {before.get(row.id, 'not asked')}"
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for axis, name_group in axes.items():
        groups: dict[str, list[tuple[float, float]]] = {}
        for row in graded:
            groups.setdefault(name_group(row), []).append(bounds[row.id])
        if groups:
            found[axis] = {name: _sum_up(values, seed) for name, values in sorted(groups.items())}
    return found


def _sum_up(bounds: Sequence[tuple[float, float]], seed: int) -> dict[str, Any]:
    """Sum up a group; its first key is called so whatever the kind of answer, as in version 0.1."""
    low, high = ([pair[end] for pair in bounds] for end in (0, 1))
    n = len(bounds)
    summed = {"n": n, "diagnosis_accuracy": round(sum(low) / n, 6)}
    ends = [interval(low, seed)[0], interval(high, seed)[1]]
    return {**summed, "high": round(sum(high) / n, 6), "interval": ends}
