"""What each answer by itself is worth: form, overlap, diagnosis, grounding; votes; a judge's word.

In: predictions. Out: one `Row` of numbers a question.
Not done here: what is right (`grading`), means and intervals (`evaluate.statistics`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from medkd.completers.client import LedgerClient
from medkd.core import thinking
from medkd.core.parallel import map_in_order
from medkd.core.records import Cost, FinishReason, Prediction, Record
from medkd.grading import judge
from medkd.grading.bleu_rouge import score_pair
from medkd.grading.diagnosis import Grade, grade
from medkd.grading.grounding import grounded_rate
from medkd.grading.names import parse_name
from medkd.grading.repetition import is_looping

FILE_NAME = "rows.jsonl"
NO_ANSWER = "no_answer"
"""The finish reason of a row whose file holds no answer (`predict: null`)."""


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


def score(predictions: Iterable[Prediction]) -> Iterator[Row]:
    """Score predictions in order, by rules alone; many of them on several cores."""
    return map_in_order(score_prediction, predictions)


def score_prediction(prediction: Prediction) -> Row:
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
    found = grade(prediction.answer, prediction.reference) if prediction.reference else None
    if found is not None:
        scores |= _score_grade(found)
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


def _score_grade(found: Grade) -> dict[str, float]:
    return {
        "diagnosis_accuracy": float(found.principal),
        "diagnosis_exact": float(found.exact),
        "diagnosis_f1": found.f1,
        "diagnosis_decided": float(found.decided),
    }


def score_samples(samples: Sequence[Prediction]) -> dict[str, float]:
    """Score several answers to one question: whether one is right, whether the vote is, and the
    share that agrees with it; names carry their number."""
    if len(samples) < 2 or not samples[0].reference:
        return {}
    grades = [grade(p.answer, p.reference) for p in samples]
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

    changes: dict[str, Row] = field(default_factory=dict[str, Row])
    """The rows that the judge changed, by id."""
    n_failed: int = 0
    cost: Cost = field(default_factory=Cost)
    """Money of all judgements on the ledger."""


def judge_rows(
    predictions: Sequence[Prediction],
    rows: Mapping[str, Row],
    open_judge: Callable[[judge.RubricName, ExitStack], LedgerClient],
) -> Judgements:
    """Have the undecided diagnoses judged, and the answers to open questions scored against the
    teacher's; what the judge could not say stays as it was and is counted."""
    found = Judgements()
    undecided = [p for p in predictions if rows[p.id].scores.get("diagnosis_decided") == 0]
    opened = [p for p in predictions if not p.reference and p.teacher]
    work: list[tuple[judge.RubricName, list[Prediction], list[dict[str, str]]]] = [
        ("diagnosis", undecided, [judge.diagnosis_texts(p.answer, p.reference) for p in undecided]),
        (
            "open",
            opened,
            [judge.open_texts(p.question or p.prompt, p.answer, p.teacher or "") for p in opened],
        ),
    ]
    for rubric, group, texts in work:
        if not group:
            continue
        with ExitStack() as servers:
            completer = open_judge(rubric, servers)
            results = judge.judge(texts, judge.load_rubric(rubric), completer)
            found.cost = Cost(
                amount=round(completer.ledger.spent(), 6),
                currency=completer.target.provider.currency,
            )
        for prediction, result in zip(group, results, strict=True):
            if result.judgement is None:
                found.n_failed += 1
            else:
                row = rows[prediction.id]
                found.changes[row.id] = _apply(row, prediction, result.judgement)
    return found


def _apply(row: Row, prediction: Prediction, judgement: judge.Judgement) -> Row:
    """Put a judgement in the place of what rules left open."""
    if not prediction.reference:
        scores = {**row.scores, "judge_score": judgement.score}
        return row.model_copy(update={"scores": scores, "judged": judgement.why})
    settled = judge.settle(grade(prediction.answer, prediction.reference), judgement)
    return row.model_copy(
        update={
            "scores": row.scores | _score_grade(settled),
            "relation": str(settled.relation),
            "judged": f"{judgement.said['principal']}: {judgement.why}",
        }
    )
