"""What each answer by itself is worth: form, overlap, diagnosis, grounding.

In: predictions. Out: one `Row` of numbers a question. Not done here: what is right (`grading`),
means and doubt (`evaluate.statistics`).
"""

from collections.abc import Mapping, Sequence

from medkd.core import thinking
from medkd.core.records import FinishReason, Prediction, Record
from medkd.grading.diagnosis import Grade, grade
from medkd.grading.grounding import grounded_rate
from medkd.grading.loops import is_looping
from medkd.grading.overlap import Overlap, score_pairs

FILE_NAME = "rows.jsonl"


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


def score(
    predictions: Sequence[Prediction],
    grades: Mapping[str, Grade],
    judged: Mapping[str, str] | None = None,
) -> list[Row]:
    """Score every prediction; `grades` holds one for each question with a known diagnosis."""
    compared = [p for p in predictions if p.teacher is not None]
    overlaps = dict(
        zip(
            (p.id for p in compared),
            score_pairs([(p.raw, p.teacher or "") for p in compared]),
            strict=True,
        )
    )
    return [
        _make_row(p, grades.get(p.id), overlaps.get(p.id), (judged or {}).get(p.id, ""))
        for p in predictions
    ]


def grade_all(predictions: Sequence[Prediction]) -> dict[str, Grade]:
    """Grade what has a known diagnosis, by rules alone."""
    return {p.id: grade(p.answer, p.reference) for p in predictions if p.reference}


def score_form(prediction: Prediction) -> dict[str, float]:
    """Say how an answer is formed and how it ended; a text from a file that does not tell how it
    ended has no such score."""
    scores = {
        "think_format_rate": float(thinking.is_well_formed(prediction.raw)),
        "loop_rate": float(
            prediction.finish_reason == FinishReason.LOOP or is_looping(prediction.raw)
        ),
        "empty_rate": float(not prediction.answer.strip()),
    }
    if prediction.finish_reason:
        scores |= {
            "stop_rate": float(prediction.finish_reason == FinishReason.STOP),
            "truncated_rate": float(prediction.finish_reason == FinishReason.LENGTH),
        }
    return scores | ({"mean_tokens": float(prediction.n_tokens)} if prediction.n_tokens else {})


def _make_row(
    prediction: Prediction, found: Grade | None, overlap: Overlap | None, judged: str
) -> Row:
    scores = score_form(prediction)
    if overlap is not None:
        scores |= {
            "bleu-4": overlap.bleu_4,
            "rouge-1": overlap.rouge_1,
            "rouge-2": overlap.rouge_2,
            "rouge-l": overlap.rouge_l,
        }
    if found is not None:
        scores |= {
            "diagnosis_accuracy": float(found.principal),
            "diagnosis_exact": float(found.exact),
            "diagnosis_f1": found.f1,
            "diagnosis_decided": float(found.decided),
        }
    grounded = (
        grounded_rate(prediction.reasoning, prediction.question)
        if prediction.question and prediction.reasoning
        else None
    )
    if grounded is not None:
        scores["grounded_rate"] = grounded
    return Row(
        id=prediction.id,
        department=prediction.department,
        n_known=len([part for part in prediction.reference.split("；") if part]),
        n_characters=len(prediction.question or prediction.prompt),
        scores=scores,
        relation=str(found.relation) if found else "",
        judged=judged,
    )
