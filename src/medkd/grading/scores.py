"""Scores of each answer (form, overlap, grade, grounding, votes) and of all of them together.

In: predictions. Out: a `Row` a question, and what `scores.json` holds, shares with their bounds.
Not done here: a judge's word, tests between models, pages.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core import thinking
from medkd.core.parallel import map_in_order
from medkd.core.records import FinishReason, Prediction, Record
from medkd.core.statistics import interval
from medkd.core.task import AnswerKind, find_task
from medkd.grading.bleu_rouge import score_pair
from medkd.grading.compare import Relation, compare
from medkd.grading.diagnosis import Grade, GradeVerdict
from medkd.grading.graders import get_grader
from medkd.grading.grounding import grounded_rate
from medkd.grading.names import parse_name
from medkd.text.similarity import is_looping

ACCURACY, DECIDED, HIGH = "_accuracy", "_decided", "_accuracy_high"
"""Ends of names: right if every undecided answer is wrong; share decided; right if every undecided
answer is right."""
PREFIX: Mapping[AnswerKind, str] = {
    "diagnosis": "diagnosis",
    "choice": "exam",
    "text": "text",
    "number": "number",
}
"""Kind of answer to the name that its scores begin with: `exam_accuracy`, `exam_decided`."""
OVERLAP = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")
LARGEST: Mapping[str, float | None] = {**dict.fromkeys(OVERLAP, 100.0), "mean_tokens": None}
"""The largest value of a score that may be above 1; None for one without a bound."""
PERCENTILES = (50, 90, 99)
NO_ANSWER = "no_answer"
"""The finish reason of a row whose file holds no answer (`predict: null`)."""
SEED = 0
"""Seed of the bootstrap and of the sign flips, where no setting names one."""
Columns = dict[str, list[float]]
"""Name of a score to its value for each question it applies to."""
Scores = dict[str, dict[str, float]]
"""Id of a question to further scores of it."""
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


def find_verdict(scores: Mapping[str, float], first: str = "") -> GradeVerdict | None:
    """Read the verdict out of a row's scores; None for a question without a known answer.

    `first` names a score to read before those of the rules: `judged`.
    """
    for prefix in filter(None, (first, *PREFIX.values())):
        if prefix + ACCURACY in scores:
            if scores.get(prefix + DECIDED, 1) == 0:
                return "undecided"
            return "right" if scores[prefix + ACCURACY] == 1 else "wrong"
    return None


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


# Of one question


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
        scores |= dict(zip(OVERLAP, overlap, strict=True))
    found = None
    if prediction.reference:
        found = grade_prediction(prediction, task, terms)
        scores |= score_grade(find_kind(prediction, task), found)
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


def grade_prediction(p: Prediction, task: str = "", terms: Path | None = None) -> Grade:
    """Grade an answer as its task says, by rules alone."""
    return get_grader(find_kind(p, task), terms)(p.answer, p.reference, known=p.known)


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
    prefix = PREFIX[kind]
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


def score_samples(
    samples: Sequence[Prediction], task: str = "", terms: Path | None = None
) -> dict[str, float]:
    """Score several answers to one question: whether one is right, whether the vote is, and the
    share that agrees with it; names carry their number."""
    if len(samples) < 2 or not samples[0].reference:
        return {}
    grades = [grade_prediction(sample, task, terms) for sample in samples]
    votes = ["；".join(g.stated) for g in grades]
    if find_kind(samples[0], task) == "diagnosis":
        votes = [parse_name(g.stated[0]).plain if g.stated else "" for g in grades]
    winner, n = Counter(votes).most_common(1)[0]
    k = len(samples)
    return {
        f"pass@{k}": float(any(g.principal for g in grades)),
        f"majority@{k}": float(grades[votes.index(winner)].principal),
        f"agreement@{k}": n / k,
    }


# Over all questions


def to_columns(rows: Iterable[Row]) -> Columns:
    """Turn rows into columns; a score holds the questions it applies to. Beside each accuracy
    stands what it would be if every undecided answer were right."""
    columns: Columns = {}
    for row in rows:
        for name, value in row.scores.items():
            columns.setdefault(name, []).append(value)
            if name.endswith(ACCURACY):
                high = find_bounds(row.scores, name)[1]
                columns.setdefault(name.removesuffix(ACCURACY) + HIGH, []).append(high)
    return columns


def summarise(
    columns: Columns, seed: int = SEED
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the mean of every column, and its 95 % interval where one can be told."""
    filled = {name: values for name, values in columns.items() if values}
    means = {name: round(sum(values) / len(values), 6) for name, values in filled.items()}
    intervals = {n: interval(v, seed, LARGEST.get(n, 1.0)) for n, v in filled.items()}
    return means, {name: ends for name, ends in intervals.items() if ends}


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


def break_down(
    rows: Sequence[Row], before: Mapping[str, str] | None = None, seed: int = SEED
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
            found[axis] = {name: _sum_up(groups[name], seed) for name in sorted(groups, key=_rank)}
    return found


def _rank(group: str) -> tuple[int, str]:
    """Rank a group by its name, lengths from short to long."""
    lengths = ["short", "middle", "long"]
    word = group.partition(" ")[0]
    return (lengths.index(word) if word in lengths else 0), group


def _sum_up(bounds: Sequence[tuple[float, float]], seed: int) -> dict[str, Any]:
    """Sum up a group; its first key is called so whatever the kind of answer, as in version 0.1."""
    low, high = ([pair[end] for pair in bounds] for end in (0, 1))
    n = len(bounds)
    (bottom, _), (_, top) = interval(low, seed), interval(high, seed)
    summed = {"n": n, "diagnosis_accuracy": round(sum(low) / n, 6)}
    return {**summed, "high": round(sum(high) / n, 6), "interval": [bottom, top]}


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
