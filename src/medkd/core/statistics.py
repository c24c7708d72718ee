"""Intervals and paired tests of scores, and the agreement of two raters.

In: numbers, one a question. Out: 95 % intervals, p-values, Cohen's kappa. An interval covers the
choice of questions, not another training. Not done here: which scores there are (`evaluate`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LEVEL = 0.05
MIN_QUESTIONS = 20
"""Fewest questions on which anything is called significant or proven."""
N_RESAMPLES = 2000
"""Bootstrap resamples of the questions."""
MOST_RESAMPLED = 5000
"""Questions up to which they are resampled; beyond, the normal limit is used."""
MOST_FLIPPED = 500
"""Differences up to which signs are flipped at random; beyond, the normal limit is used."""
_Z = 1.959964


def interval(values: Sequence[float], seed: int = 0, largest: float | None = 1.0) -> list[float]:
    """Return low and high of the mean: Wilson's interval where all values are 0 or 1, else BCa.

    `largest` is the largest value there may be, the smallest being 0. Equal values tell no spread:
    within these bounds, theirs is taken to be the largest possible; without, there is no interval.

    >>> interval([0.0, 0.0, 0.0]), interval([50.0, 50.0], largest=100), interval([8.0], 0, None)
    ([0.0, 0.561497], [9.4531, 90.5469], [])
    """
    import numpy as np

    if largest == 1 and is_yes_or_no(values):
        return list(wilson_interval(sum(values), len(values)))
    if min(values) == max(values):
        if largest is None or not 0 <= values[0] <= largest:
            return []
        ends = wilson_interval(values[0] / largest * len(values), len(values))
        return [round(end * largest, 6) for end in ends]
    low, high = bca_interval(np.asarray(values, dtype=float), seed)
    return [round(low, 6), round(high, 6)]


def is_yes_or_no(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)


def wilson_interval(n_right: float, n: int) -> tuple[float, float]:
    """Return Wilson's score interval of a share; it has a width even for none or all of n.

    >>> wilson_interval(2, 2), wilson_interval(0, 0)
    ((0.34238, 1.0), (0.0, 1.0))
    """
    if not n:
        return 0.0, 1.0
    z_squared = _Z**2
    share = n_right / n
    centre = share + z_squared / (2 * n)
    spread = _Z * math.sqrt(share * (1 - share) / n + z_squared / (4 * n * n))
    low, high = ((centre + sign * spread) / (1 + z_squared / n) for sign in (-1, 1))
    return round(max(low, 0.0), 6), round(min(high, 1.0), 6)


def bca_interval(column: Any, seed: int) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval of a mean (Efron 1987), or its
    normal limit where the column (n,) is long.

    The jackknife of a mean is known in closed form, so that memory is linear in n.
    """
    import numpy as np
    from scipy.stats import norm

    n, mean = len(column), float(column.mean())
    apart = mean - column
    spread = float((apart**2).sum())
    if n < 2 or spread < 1e-24:
        return mean, mean
    if n > MOST_RESAMPLED:
        half = _Z * math.sqrt(spread) / n
        return mean - half, mean + half
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES)
    means = drawn @ column / n
    below = ((means < mean).sum() + (means <= mean).sum()) / (2 * N_RESAMPLES)
    bias = float(norm.ppf(min(max(below, 1 / N_RESAMPLES), 1 - 1 / N_RESAMPLES)))
    acceleration = float((apart**3).sum()) / (6 * spread**1.5)
    ends = [float(norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))) for z in (-_Z, _Z)]
    low, high = np.quantile(means, ends)
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
    most: float | None = None
    """The difference if undecided answers go the other way; `difference` and `most` then hold it
    between them, and interval and p are those of the worse case."""


def compare_paired(
    first: Sequence[float], second: Sequence[float], seed: int = 0, largest: float = 1.0
) -> Difference:
    """Compare two columns of the same questions, whose values lie between 0 and `largest`.

    >>> compare_paired([0.2, 0.4], [0.3, 0.6]).p, compare_paired([0.5] * 20, [0.5] * 20).high
    (0.5, 0.401404)
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
        span = max(largest, float(abs(apart).max()))
        ends = interval([round(float(d) + span, 9) for d in apart], seed, 2 * span)
        low, high = (end - span for end in ends)
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


def compare_undecided(
    first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]
) -> Difference:
    """Compare two columns of right or wrong, each value given as its lowest and its highest.

    The difference lies between the second's worst case against the first's best one, and the
    reverse. The interval spans both cases; p is the larger one, and 1 where the cases differ in
    sign: nothing is significant that the undecided answers could turn round.

    >>> found = compare_undecided([(0, 1), (0, 0)], [(1, 1), (0, 1)])
    >>> found.difference, found.most, found.p
    (0.0, 1.0, 1.0)
    """
    lowest = compare_paired([high for _, high in first], [low for low, _ in second])
    highest = compare_paired([low for low, _ in first], [high for _, high in second])
    if lowest.difference == highest.difference:
        return lowest
    is_turned = lowest.difference <= 0 <= highest.difference
    worse = lowest if abs(lowest.difference) < abs(highest.difference) else highest
    return worse._replace(
        difference=lowest.difference,
        most=highest.difference,
        low=lowest.low,
        high=highest.high,
        p=1.0 if is_turned else max(lowest.p, highest.p),
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


def cohen_kappa(first: Sequence[object], second: Sequence[object]) -> float | None:
    """Return Cohen's kappa of two raters' labels for the same things; None where both gave one and
    the same label everywhere.

    >>> cohen_kappa(["right", "wrong", "right", "wrong"], ["right", "wrong", "wrong", "wrong"])
    0.5
    """
    n = len(first)
    labels = {*first, *second}
    by_chance = sum(first.count(label) * second.count(label) for label in labels) / n**2
    if by_chance == 1:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    return round((observed - by_chance) / (1 - by_chance), 3)


class Stratum(NamedTuple):
    """What people said of a sample of the answers that one verdict was passed on."""

    n_all: int
    """Answers of the whole evaluation in this stratum."""
    n_reviewed: int
    n_right: int


def correct_rate(strata: Mapping[str, Stratum]) -> tuple[float, float, float]:
    """Return the share right by people's word over a whole evaluation, with low and high.

    Post-stratified on the verdicts of the rules: each stratum counts by its size. Its Wilson
    interval is joined with the others' by MOVER (Zou and Donner 2008), to which comes the choice of
    the questions themselves. A stratum that nobody reviewed may lie anywhere.

    >>> correct_rate({"right": Stratum(90, 30, 30), "wrong": Stratum(10, 10, 1)})
    (0.91, 0.794653, 0.971037)
    """
    total = sum(stratum.n_all for stratum in strata.values())
    parts = [
        (s.n_all / total, s.n_right / s.n_reviewed if s.n_reviewed else 0.5, s)
        for s in strata.values()
        if s.n_all
    ]
    rate = math.fsum(weight * share for weight, share, _ in parts)
    below = above = _Z**2 * math.fsum(w * (share - rate) ** 2 for w, share, _ in parts) / total
    for weight, share, stratum in parts:
        low, high = wilson_interval(stratum.n_right, stratum.n_reviewed)
        below += (weight * (share - low)) ** 2
        above += (weight * (high - share)) ** 2
    low, high = rate - math.sqrt(below), rate + math.sqrt(above)
    return round(rate, 6), round(max(low, 0.0), 6), round(min(high, 1.0), 6)
