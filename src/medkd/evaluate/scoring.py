"""Scores of each answer (form, overlap, grade, grounding, votes, a judge's word) and over all.

In: predictions. Out: a `Row` a question; `scores.json`, also under LLaMA-Factory's names.
Not done here: what is right (`grading`), intervals and tests (`core.statistics`), pages.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from medkd.completers.client import LedgerClient
from medkd.core import thinking
from medkd.core.jsonl import write_json
from medkd.core.parallel import map_in_order
from medkd.core.records import Cost, FinishReason, Prediction
from medkd.core.task import AnswerKind, find_task
from medkd.grading import judge
from medkd.grading.bleu_rouge import score_pair
from medkd.grading.compare import Relation, compare
from medkd.grading.diagnosis import Grade, GradeVerdict
from medkd.grading.graders import get_grader
from medkd.grading.grounding import grounded_rate
from medkd.grading.names import parse_name
from medkd.report.evaluations import OVERLAP, Row, find_verdict, summarise, to_columns
from medkd.text.similarity import is_looping

NO_ANSWER = "no_answer"
"""The finish reason of a row whose file holds no answer (`predict: null`)."""
RESULTS = "predict_results.json"
Scores = dict[str, dict[str, float]]
"""Id of a question to further scores of it."""
PREFIX: Mapping[AnswerKind, str] = {
    "diagnosis": "diagnosis",
    "choice": "exam",
    "text": "text",
    "number": "number",
}
"""Kind of answer to the name that its scores begin with: `exam_accuracy`, `exam_decided`."""
PERCENTILES = (50, 90, 99)


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


OpenJudge = Callable[[judge.RubricName], AbstractContextManager[LedgerClient]]


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


def write_results(
    path: Path, scores: Mapping[str, Any], seconds: float, n_samples: int, n_steps: int
) -> None:
    """Write LLaMA-Factory's `predict_results.json`: its names, its rounding."""
    results: dict[str, Any] = {
        f"predict_{name}": scores[name] for name in OVERLAP if name in scores
    }
    results |= {
        "predict_runtime": round(seconds, 4),
        "predict_samples_per_second": round(n_samples / seconds, 3) if seconds else 0.0,
        "predict_steps_per_second": round(n_steps / seconds, 3) if seconds else 0.0,
    }
    write_json(path, results)
