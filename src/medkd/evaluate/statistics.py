"""Scores of predictions, and how sure they are.

In: predictions. Out: one number a name, and a 95 % interval beside it. Not done here: what is right (`grading`), pages.

Intervals are percentiles of 2,000 bootstrap resamples of the questions, seeded. They tell how much the score would move with other
questions of the same kind, not with other trainings; where all questions came out alike they have no width, whatever their number.
"""

from collections.abc import Sequence
from typing import Any

from medkd.core import thinking
from medkd.core.records import FinishReason, Prediction
from medkd.grading.checks import is_looping
from medkd.grading.diagnosis import grade
from medkd.grading.overlap import score_pair

N_RESAMPLES = 2000
Columns = dict[str, list[float]]
"""Name of a score to its value for each question it applies to."""


def measure(predictions: Sequence[Prediction]) -> Columns:
    """Score every prediction by itself.

    `diagnosis_accuracy` counts answers whose principal diagnosis is right; `diagnosis_exact` wants the whole list, no more and no less.
    Overlap (0 to 100) compares the whole output with the teacher's, where the teacher's is known.
    """
    columns: Columns = {}
    for prediction in predictions:
        scores = {**_score_form(prediction), **_score_overlap(prediction), **_score_diagnosis(prediction)}
        for name, value in scores.items():
            columns.setdefault(name, []).append(value)
    return columns


def measure_unprompted(predictions: Sequence[Prediction]) -> list[float]:
    """Say of each prediction under a plain template whether it is well-formed thinking."""
    return [float(thinking.is_well_formed(prediction.raw)) for prediction in predictions]


def _score_form(prediction: Prediction) -> dict[str, float]:
    looped = prediction.finish_reason == FinishReason.LOOP or is_looping(prediction.raw)
    return {
        "think_format_rate": float(thinking.is_well_formed(prediction.raw)),
        "stop_rate": float(prediction.finish_reason == FinishReason.STOP),
        "loop_rate": float(looped),
        "truncated_rate": float(prediction.finish_reason == FinishReason.LENGTH),
        "mean_tokens": float(prediction.n_tokens),
    }


def _score_overlap(prediction: Prediction) -> dict[str, float]:
    if not prediction.teacher:
        return {}
    overlap = score_pair(prediction.raw, prediction.teacher)
    return {"bleu-4": overlap.bleu_4, "rouge-1": overlap.rouge_1, "rouge-2": overlap.rouge_2, "rouge-l": overlap.rouge_l}


def _score_diagnosis(prediction: Prediction) -> dict[str, float]:
    if not prediction.reference:
        return {}
    found = grade(prediction.answer, prediction.reference)
    return {
        "diagnosis_accuracy": float(found.principal),
        "diagnosis_exact": float(found.exact),
        "diagnosis_f1": found.f1,
        "diagnosis_decided": float(found.decided),
    }


def summarise(columns: Columns, seed: int = 0) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Give the mean of every column and its 95 % bootstrap interval."""
    means = {name: round(sum(values) / len(values), 6) for name, values in columns.items() if values}
    return means, {name: bootstrap_interval(values, seed) for name, values in columns.items() if values}


def bootstrap_interval(values: Sequence[float], seed: int = 0, level: float = 0.95) -> list[float]:
    """Give low and high of the mean: percentiles over resamples with replacement.

    >>> bootstrap_interval([1.0, 1.0, 1.0])
    [1.0, 1.0]
    """
    import numpy as np

    column = np.asarray(values, dtype=float)
    weights = np.random.default_rng(seed).multinomial(len(column), np.full(len(column), 1 / len(column)), size=N_RESAMPLES)
    means = weights @ column / len(column)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return [round(float(low), 6), round(float(high), 6)]


def make_scores(
    predictions: Sequence[Prediction], unprompted: Sequence[Prediction], samples_per_second: float | None, seed: int
) -> dict[str, Any]:
    """Make what `scores.json` holds: name to number, and `intervals`, name to low and high.

    Without a template of its own that begins the thinking, a model was asked plainly already: both think rates are one.
    """
    columns = measure(predictions)
    columns["think_unprompted_rate"] = measure_unprompted(unprompted or predictions)
    means, intervals = summarise(columns, seed)
    speed = {} if samples_per_second is None else {"samples_per_second": round(samples_per_second, 3)}
    return {"n": len(predictions), **means, **speed, "intervals": intervals}
