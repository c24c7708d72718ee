"""Means of scores, how sure they are, and whether two models differ.

In: rows of scores. Out: one number a name, and a 95 % interval beside it; tests of two models on
the same questions.
Not done here: what is right (`grading`), pages.

Intervals are percentiles of 2,000 bootstrap resamples of the questions, seeded. They tell how much
the score would move with other questions of the same kind, not with other trainings; where all
questions came out alike they have no width, whatever their number.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from medkd.core import thinking
from medkd.core.records import Prediction
from medkd.evaluate.scoring import Row

N_RESAMPLES = 2000
Columns = dict[str, list[float]]
"""Name of a score to its value for each question it applies to."""
PERCENTILES = (50, 90, 99)


def to_columns(rows: Sequence[Row]) -> Columns:
    """Turn rows into columns; a score holds the questions it applies to."""
    columns: Columns = {}
    for row in rows:
        for name, value in row.scores.items():
            columns.setdefault(name, []).append(value)
    return columns


def measure_unprompted(predictions: Sequence[Prediction]) -> list[float]:
    """Say of each prediction under a plain template whether it is well-formed thinking."""
    return [float(thinking.is_well_formed(prediction.raw)) for prediction in predictions]


def summarise(columns: Columns, seed: int = 0) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Give the mean of every column and its 95 % bootstrap interval."""
    means = {
        name: round(sum(values) / len(values), 6) for name, values in columns.items() if values
    }
    return means, {
        name: bootstrap_interval(values, seed) for name, values in columns.items() if values
    }


def bootstrap_interval(values: Sequence[float], seed: int = 0, level: float = 0.95) -> list[float]:
    """Give low and high of the mean: percentiles over resamples with replacement.

    >>> bootstrap_interval([1.0, 1.0, 1.0])
    [1.0, 1.0]
    """
    import numpy as np

    column = np.asarray(values, dtype=float)
    low, high = np.quantile(
        _resample(len(column), seed) @ column / len(column), [(1 - level) / 2, (1 + level) / 2]
    )
    return [round(float(low), 6), round(float(high), 6)]


def _resample(n: int, seed: int) -> Any:
    """Draw how often each of n questions stands in each resample (resamples, n)."""
    import numpy as np

    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES)


class Difference(NamedTuple):
    """Two models on the same questions."""

    n: int
    difference: float
    """Mean of the second minus mean of the first."""
    low: float
    high: float
    p: float
    """Exact McNemar where both scores are yes or no, else by the paired bootstrap, two-sided."""
    n_first_only: int
    n_second_only: int
    """Questions that one alone got right; zero for scores that are not yes or no."""
    is_yes_or_no: bool


def compare_paired(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Difference:
    """Compare two columns of the same questions."""
    import numpy as np
    from scipy.stats import binomtest

    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    apart = two - one
    means = _resample(len(apart), seed) @ apart / len(apart)
    low, high = np.quantile(means, [0.025, 0.975])
    is_yes_or_no = bool(np.isin(one, (0, 1)).all() and np.isin(two, (0, 1)).all())
    n_first, n_second = (int((apart < 0).sum()), int((apart > 0).sum())) if is_yes_or_no else (0, 0)
    if is_yes_or_no:
        p = float(binomtest(n_first, n_first + n_second).pvalue) if n_first + n_second else 1.0
    else:
        p = min(
            1.0, 2 * (1 + min(int((means <= 0).sum()), int((means >= 0).sum()))) / (len(means) + 1)
        )
    return Difference(
        len(apart),
        round(float(apart.mean()), 6),
        round(float(low), 6),
        round(float(high), 6),
        p,
        n_first,
        n_second,
        is_yes_or_no,
    )


def describe_lengths(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Give percentiles of the answers' lengths, in tokens where they were counted, else in
    characters."""
    import numpy as np

    has_tokens = any(prediction.n_tokens for prediction in predictions)
    lengths = [
        prediction.n_tokens if has_tokens else len(prediction.raw) for prediction in predictions
    ]
    unit = "tokens" if has_tokens else "characters"
    return (
        {f"{unit}_p{p}": float(np.percentile(lengths, p)) for p in PERCENTILES} if lengths else {}
    )


def make_scores(
    rows: Sequence[Row],
    predictions: Sequence[Prediction],
    unprompted: Sequence[Prediction],
    samples_per_second: float | None,
    seed: int,
) -> dict[str, Any]:
    """Make what `scores.json` holds: name to number, and `intervals`, name to low and high.

    Without a template of its own that begins the thinking, a model was asked plainly already: both
    think rates are one.
    """
    columns = to_columns(rows)
    columns["think_unprompted_rate"] = measure_unprompted(unprompted or predictions)
    means, intervals = summarise(columns, seed)
    speed = (
        {} if samples_per_second is None else {"samples_per_second": round(samples_per_second, 3)}
    )
    return {
        "n": len(rows),
        **means,
        **describe_lengths(predictions),
        **speed,
        "intervals": intervals,
    }


def break_down(
    rows: Sequence[Row], wrong_before: frozenset[str] = frozenset(), seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """Give the accuracy of diagnoses by department, length of the question, number of known ones,
    and where another model was wrong."""
    graded = [row for row in rows if _find_mark(row) is not None]
    edges = sorted(row.n_characters for row in graded)
    short, long = (edges[len(edges) // 3], edges[2 * len(edges) // 3]) if edges else (0, 0)
    groups: dict[str, dict[str, list[Row]]] = {
        "department": {},
        "length": {},
        "diagnoses": {},
        "base": {},
    }
    for row in graded:
        for department in row.department[-1:] or ("unknown",):
            groups["department"].setdefault(department, []).append(row)
        name = (
            "short" if row.n_characters < short else "long" if row.n_characters > long else "middle"
        )
        groups["length"].setdefault(
            f"{name} (< {short})"
            if name == "short"
            else f"{name} (> {long})"
            if name == "long"
            else name,
            [],
        ).append(row)
        groups["diagnoses"].setdefault(
            str(row.n_known) if row.n_known < 4 else "4 or more", []
        ).append(row)
        if wrong_before:
            groups["base"].setdefault(
                "base was wrong" if row.id in wrong_before else "base was right", []
            ).append(row)
    return {
        axis: {name: _sum_up(members, seed) for name, members in sorted(found.items())}
        for axis, found in groups.items()
        if found
    }


def _find_mark(row: Row) -> float | None:
    """Give whether a question was answered right, by whatever decides that."""
    return row.scores.get("diagnosis_accuracy", row.scores.get("exam_accuracy"))


def _sum_up(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    values = [mark for row in rows if (mark := _find_mark(row)) is not None]
    return {
        "n": len(values),
        "diagnosis_accuracy": round(sum(values) / len(values), 6),
        "interval": bootstrap_interval(values, seed),
    }
