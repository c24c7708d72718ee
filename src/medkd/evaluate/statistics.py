"""Means of scores, their 95 % intervals, and tests of two models on the same questions.

In: rows of scores. Out: one number a name with its interval; paired differences with p-values.
Intervals cover the choice of questions, not another training. Not done here: what is right, pages.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from medkd.core import thinking
from medkd.core.records import Prediction
from medkd.evaluate.scoring import Row

LEVEL = 0.05
MIN_QUESTIONS = 20
"""Fewest questions on which a difference may be called significant."""
N_RESAMPLES = 2000
"""Bootstrap resamples of the questions."""
MOST_RESAMPLED = 5000
"""Questions up to which they are resampled."""
MOST_FLIPPED = 500
"""Differences up to which signs are flipped at random; beyond, the normal limit is used."""
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


def summarise(columns: Columns, seed: int = 0) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the mean of every column and its 95 % interval."""
    means = {
        name: round(sum(values) / len(values), 6) for name, values in columns.items() if values
    }
    return means, {name: interval(values, seed) for name, values in columns.items() if values}


def interval(values: Sequence[float], seed: int = 0) -> list[float]:
    """Return low and high of the mean: Wilson's interval where all values are 0 or 1, else
    percentiles of bootstrap resamples.

    >>> interval([0.0, 0.0, 0.0])
    [0.0, 0.561497]
    """
    import numpy as np

    if is_yes_or_no(values):
        return list(wilson_interval(int(sum(values)), len(values)))
    low, high = _bootstrap_interval(np.asarray(values, dtype=float), seed)
    return [round(low, 6), round(high, 6)]


def is_yes_or_no(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """Return Wilson's score interval of a share; it has a width even for none or all of n.

    >>> wilson_interval(2, 2)
    (0.34238, 1.0)
    """
    z_squared = 1.959964**2
    share = n_right / n
    centre = share + z_squared / (2 * n)
    spread = 1.959964 * math.sqrt(share * (1 - share) / n + z_squared / (4 * n * n))
    low, high = ((centre + sign * spread) / (1 + z_squared / n) for sign in (-1, 1))
    return round(max(low, 0.0), 6), round(min(high, 1.0), 6)


def _bootstrap_interval(column: Any, seed: int) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of the means of seeded resamples of a column (n,), or
    their normal limit where it is long."""
    import numpy as np

    n = len(column)
    if n > MOST_RESAMPLED:
        centre, spread = float(column.mean()), 1.959964 * float(column.std()) / math.sqrt(n)
        return centre - spread, centre + spread
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES)
    low, high = np.quantile(drawn @ column / n, [0.025, 0.975])
    return float(low), float(high)


class Difference(NamedTuple):
    """Two models on the same questions."""

    n: int
    difference: float
    """Mean of the second minus mean of the first."""
    low: float
    high: float
    p: float
    """Two-sided: McNemar's exact test where both scores are yes or no, else a sign-flip test."""
    n_first_only: int
    n_second_only: int
    """Questions that one alone got right; zero for scores that are not yes or no."""
    is_yes_or_no: bool


def compare_paired(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Difference:
    """Compare two columns of the same questions.

    >>> compare_paired([0.2, 0.4], [0.3, 0.6]).p
    0.5
    """
    import numpy as np
    from scipy.stats import binomtest

    apart = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    is_binary = is_yes_or_no(first) and is_yes_or_no(second)
    n_first = n_second = 0
    if is_binary:
        n_first, n_second = int((apart < 0).sum()), int((apart > 0).sum())
        p = float(binomtest(n_first, n_first + n_second).pvalue) if n_first + n_second else 1.0
        low, high = _newcombe_interval(first, second)
    else:
        p = sign_flip_p(apart, seed)
        low, high = _bootstrap_interval(apart, seed)
    return Difference(
        n=len(apart),
        difference=round(float(apart.mean()), 6),
        low=round(low, 6),
        high=round(high, 6),
        p=p,
        n_first_only=n_first,
        n_second_only=n_second,
        is_yes_or_no=is_binary,
    )


def sign_flip_p(differences: Any, seed: int = 0) -> float:
    """Return the two-sided p of a mean difference when each sign is equally likely.

    Exact up to 13 differences that are not zero, 10,000 random flips up to 500, beyond that the
    normal limit of the same distribution.
    """
    import numpy as np
    from scipy.stats import norm, permutation_test

    moved = np.asarray(differences, dtype=float)
    moved = moved[moved != 0]
    if len(moved) < 2:
        return 1.0
    if len(moved) > MOST_FLIPPED:
        return float(2 * norm.sf(abs(moved.sum()) / math.sqrt(float((moved**2).sum()))))
    found = permutation_test(
        (moved,), np.mean, permutation_type="samples", n_resamples=9999, rng=seed, batch=1000
    )
    return float(min(found.pvalue, 1.0))


def _newcombe_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return Newcombe's interval (1998, method 10) of the difference of two paired shares."""
    n = len(first)
    pairs = list(zip(first, second, strict=True))
    both, only_first, only_second, neither = (
        pairs.count(pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0))
    )
    share_1, share_2 = (both + only_first) / n, (both + only_second) / n
    low_1, high_1 = wilson_interval(both + only_first, n)
    low_2, high_2 = wilson_interval(both + only_second, n)
    product = (both + only_first) * (only_second + neither)
    product *= (both + only_second) * (only_first + neither)
    apart = both * neither - only_first * only_second
    if apart > 0:  # the continuity correction of the correlation
        apart = max(apart - n / 2, 0)
    correlation = apart / math.sqrt(product) if product else 0.0

    def spread(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))

    difference = share_2 - share_1
    return (
        max(difference - spread(share_2 - low_2, high_1 - share_1), -1.0),
        min(difference + spread(high_2 - share_2, share_1 - low_1), 1.0),
    )


def find_significant(differences: Sequence[Difference]) -> set[int]:
    """Return the places of the differences that pass Holm's correction over all of them; one over
    fewer than `MIN_QUESTIONS` questions never does."""
    by_p = sorted(range(len(differences)), key=lambda at: differences[at].p)
    significant = set[int]()
    for rank, at in enumerate(by_p):
        if differences[at].p * (len(differences) - rank) >= LEVEL:
            break
        if differences[at].n >= MIN_QUESTIONS:
            significant.add(at)
    return significant


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
) -> dict[str, Any]:
    """Make what `scores.json` holds: name to number, and `intervals`, name to low and high.

    Without a template of its own that begins the thinking, a model was asked plainly already: both
    think rates are one.
    """
    columns = to_columns(rows)
    plain = unprompted or predictions
    columns["think_unprompted_rate"] = [float(thinking.is_well_formed(p.raw)) for p in plain]
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
    """Return the accuracy by department, length of the question, number of known diagnoses, and
    where another model was wrong."""
    marks = {
        row.id: row.scores.get("diagnosis_accuracy", row.scores.get("exam_accuracy"))
        for row in rows
    }
    graded = [row for row in rows if marks[row.id] is not None]
    edges = sorted(row.n_characters for row in graded) or [0]
    short, long = edges[len(edges) // 3], edges[2 * len(edges) // 3]

    def name_length(n: int) -> str:
        return f"short (< {short})" if n < short else f"long (> {long})" if n > long else "middle"

    axes: dict[str, Callable[[Row], str]] = {
        "department": lambda row: row.department[-1] if row.department else "unknown",
        "length": lambda row: name_length(row.n_characters),
        "diagnoses": lambda row: str(row.n_known) if row.n_known < 4 else "4 or more",
    }
    if wrong_before:
        axes["base"] = lambda row: f"base was {'wrong' if row.id in wrong_before else 'right'}"
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for axis, name_group in axes.items():
        groups: dict[str, list[float]] = {}
        for row in graded:
            groups.setdefault(name_group(row), []).append(marks[row.id] or 0.0)
        if groups:
            found[axis] = {name: _sum_up(values, seed) for name, values in sorted(groups.items())}
    return found


def _sum_up(marks: Sequence[float], seed: int) -> dict[str, Any]:
    return {
        "n": len(marks),
        "diagnosis_accuracy": round(sum(marks) / len(marks), 6),
        "interval": interval(marks, seed),
    }
