from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from medkd.core.statistics import (
    Stratum,
    bca_interval,
    cohen_kappa,
    compare_paired,
    compare_undecided,
    correct_rate,
    find_significant,
    interval,
    sign_flip_p,
    wilson_interval,
)


def test_the_bootstrap_agrees_with_the_normal_approximation():
    values = list(np.random.default_rng(0).normal(20, 5, 400))
    low, high = interval(values)
    spread = 1.96 * np.std(values) / 400**0.5
    assert (low, high) == pytest.approx(
        (np.mean(values) - spread, np.mean(values) + spread), abs=0.1
    )
    assert interval(values) == [low, high]
    many = list(np.random.default_rng(0).normal(20, 5, 5001))
    assert interval(many) == pytest.approx(interval(many[:5000]), abs=0.02)


@pytest.mark.parametrize(("n_right", "n"), [(0, 1), (0, 20), (3, 10), (20, 20), (81, 263)])
def test_the_interval_of_a_share_is_wilsons_and_never_without_width(n_right, n):
    low, high = interval([1.0] * n_right + [0.0] * (n - n_right))
    expected = binomtest(n_right, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert high - low > 0.05


def test_the_interval_of_a_paired_difference_is_newcombes():
    """The third line of table II in Newcombe 1998: 36, 12, 2, 0."""
    pairs = [(1.0, 1.0)] * 36 + [(0.0, 1.0)] * 12 + [(1.0, 0.0)] * 2
    found = compare_paired([one for one, _ in pairs], [two for _, two in pairs])
    assert (found.difference, found.low, found.high) == pytest.approx(
        (0.2, 0.0569, 0.3404), abs=1e-4
    )
    alike = compare_paired([0.0] * 30, [0.0] * 30)
    assert alike.low < 0 < alike.high


def test_two_questions_prove_nothing():
    found = compare_paired([0.1, 0.2], [0.7, 0.9])
    assert found.p == 0.5
    few = compare_paired([0.0] * 19, [1.0] * 19)
    enough = compare_paired([0.0] * 20, [1.0] * 20)
    assert few.p < 1e-5 and find_significant([few, enough]) == {1}


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 2)), min_size=1, max_size=8))
def test_the_sign_flip_test_counts_every_flip(differences):
    moved = [d for d in differences if d]
    total = abs(sum(moved))
    sums = [
        abs(sum(s * d for s, d in zip(signs, moved, strict=True)))
        for signs in product((1, -1), repeat=len(moved))
    ]
    expected = sum(found >= total - 1e-9 for found in sums) / len(sums) if len(moved) > 1 else 1.0
    assert sign_flip_p(differences) == pytest.approx(expected, abs=1e-9)


def test_random_flips_and_the_normal_limit_agree():
    draws = np.random.default_rng(0).normal(0.1, 1, 500)
    assert sign_flip_p(np.append(draws, 1e-9)) == pytest.approx(sign_flip_p(draws), abs=0.01)


def test_paired_tests_see_what_unpaired_ones_cannot():
    first = [float(n % 2) for n in range(200)]
    second = [1.0 if n < 20 else value for n, value in enumerate(first)]
    found = compare_paired(first, second)
    assert (found.n_first_only, found.n_second_only) == (0, 10)
    assert found.p == pytest.approx(2 / 2**10) and found.low > 0
    assert compare_paired(first, first).p == 1.0


def test_signs_are_flipped_for_scores_that_are_not_yes_or_no():
    generator = np.random.default_rng(1)
    first = generator.normal(20, 5, 150)
    found = compare_paired(list(first), list(first + generator.normal(1, 1, 150)))
    assert found.p < 0.01 and found.low < found.difference < found.high and found.n_second_only == 0


def test_the_bca_interval_is_that_of_scipy():
    values = np.random.default_rng(3).exponential(10, 60)
    theirs = bootstrap((values,), np.mean, n_resamples=9999, method="BCa", rng=1)
    assert bca_interval(values, 0) == pytest.approx(theirs.confidence_interval, rel=0.03)
    low, high = bca_interval(values, 0)
    assert values.mean() - low < high - values.mean()  # a long tail on the right reaches further


def test_a_difference_that_undecided_answers_could_turn_is_never_significant():
    first = [(0.0, 0.0)] * 20 + [(0.0, 1.0)] * 20
    second = [(1.0, 1.0)] * 15 + [(0.0, 0.0)] * 25
    found = compare_undecided(first, second)
    assert (found.difference, found.most) == (-0.125, 0.375)
    assert found.p == 1.0 and not find_significant([found])
    sure = compare_undecided([(0.0, 0.0)] * 40, [(1.0, 1.0)] * 25 + [(0.0, 1.0)] * 15)
    assert (sure.difference, sure.most) == (0.625, 1.0)
    assert find_significant([sure]) and sure.low < 0.625 and sure.high > 0.9


def test_without_undecided_answers_it_is_the_plain_comparison():
    pairs = [(1.0, 1.0), (0.0, 0.0)] * 15
    other = [(1.0, 1.0)] * 30
    plain = compare_paired([low for low, _ in pairs], [low for low, _ in other])
    assert compare_undecided(pairs, other) == plain


@given(st.integers(0, 30), st.integers(0, 30))
def test_every_share_has_an_interval_with_a_width(n_right, n_more):
    n = n_right + n_more
    low, high = wilson_interval(n_right, n)
    assert 0 <= low < high <= 1
    if n:
        assert low - 1e-6 <= n_right / n <= high + 1e-6


def test_kappa_is_one_for_equal_labels_and_none_where_there_is_but_one():
    assert cohen_kappa(["a", "b", "a"], ["a", "b", "a"]) == 1.0
    assert cohen_kappa(["a", "a"], ["a", "a"]) is None
    assert cohen_kappa([True, False], [False, True]) == -1.0


def test_the_corrected_rate_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(5)
    n_covered = 0
    for _ in range(300):
        truth = generator.random(400) < 0.7
        verdict = np.where(generator.random(400) < 0.9, truth, ~truth)
        sample = generator.permutation(400)[:80]
        strata = {}
        for said in (True, False):
            here = [i for i in sample if verdict[i] == said]
            n_all = int((verdict == said).sum())
            strata[str(said)] = Stratum(n_all, len(here), int(truth[here].sum()))
        _, low, high = correct_rate(strata)
        n_covered += low <= 0.7 <= high
    assert 0.92 <= n_covered / 300 <= 1


def test_a_stratum_nobody_reviewed_leaves_the_rate_open():
    rate, low, high = correct_rate({"right": Stratum(50, 20, 20), "undecided": Stratum(50, 0, 0)})
    assert (rate, low <= 0.5, high == 1.0) == (0.75, True, True)
