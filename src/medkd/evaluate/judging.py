"""A judge for what rules leave open: undecided diagnoses, and open questions.

In: predictions and their grades, a judge behind an endpoint. Out: grades decided, and scores of
open answers; what the judge could not say stays as it was and is counted. Not done here: the rubric
and its reading (`grading.judge`), the money (`completers`).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from medkd.core.records import Prediction
from medkd.grading import judge as judging
from medkd.grading.diagnosis import Grade

if TYPE_CHECKING:
    from medkd.completers.dispatch import PaidCompleter


class Judgements(NamedTuple):
    """What a judge came to."""

    grades: dict[str, Grade]
    said: dict[str, str]
    """Id of a prediction to what the judge said."""
    open_scores: dict[str, float]
    n_failed: int
    amount: float
    """Money of all judgements on the ledger."""
    currency: str


def judge_all(
    predictions: Sequence[Prediction],
    grades: Mapping[str, Grade],
    open_judge: Callable[[judging.RubricName, ExitStack], "PaidCompleter"],
) -> Judgements:
    """Have the undecided diagnoses judged, and the answers to open questions scored against the
    teacher's, 0 to 1."""
    settled, said, scores, n_failed, amount, currency = (
        dict(grades),
        dict[str, str](),
        dict[str, float](),
        0,
        0.0,
        "CNY",
    )
    undecided = [p for p in predictions if p.id in grades and not grades[p.id].decided]
    opened = [p for p in predictions if not p.reference and p.teacher]
    texts: list[tuple[judging.RubricName, list[Prediction], list[dict[str, str]]]] = [
        (
            "diagnosis",
            undecided,
            [judging.diagnosis_texts(p.answer, p.reference) for p in undecided],
        ),
        (
            "open",
            opened,
            [judging.open_texts(p.question or p.prompt, p.answer, p.teacher or "") for p in opened],
        ),
    ]
    for rubric, group, material in texts:
        if not group:
            continue
        with ExitStack() as servers:
            completer = open_judge(rubric, servers)
            judged = judging.judge(material, judging.load_rubric(rubric), completer)
            amount, currency = completer.ledger.spent(), completer.target.provider.currency
        for prediction, result in zip(group, judged, strict=True):
            if result.judgement is None:
                n_failed += 1
            elif rubric == "diagnosis":
                settled[prediction.id] = judging.settle(grades[prediction.id], result.judgement)
                said[prediction.id] = (
                    f"{result.judgement.said['principal']}: {result.judgement.why}"
                )
            else:
                scores[prediction.id] = result.judgement.score
                said[prediction.id] = result.judgement.why
    return Judgements(settled, said, scores, n_failed, amount, currency)
