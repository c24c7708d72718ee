from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from medkd.core import thinking
from medkd.core.records import FinishReason, Prediction
from medkd.evaluate.scoring import score
from medkd.evaluate.statistics import (
    break_down,
    compare_paired,
    find_significant,
    interval,
    make_scores,
    sign_flip_p,
    to_columns,
)


def predict(number, reasoning="发热咳嗽，双肺湿啰音。", answer="肺炎", **changes):
    raw = thinking.write(reasoning, answer) if reasoning else answer
    values = {
        "id": f"t:{number}",
        "prompt": "…",
        "reasoning": reasoning,
        "answer": answer,
        "raw": raw,
        "reference": "肺炎",
        "teacher": thinking.write("发热咳嗽，双肺湿啰音。", "肺炎"),
        "finish_reason": FinishReason.STOP,
        "n_tokens": 10,
    }
    return Prediction.model_validate(values | changes)


def rows_of(predictions):
    return list(score(predictions))


def scores_of(predictions, unprompted, speed, seed):
    return make_scores(rows_of(predictions), predictions, unprompted, speed, seed)


def test_a_perfect_answer_scores_full():
    scores = scores_of([predict(0), predict(1)], [], 2.0, 0)
    assert (scores["bleu-4"], scores["rouge-l"]) == (100.0, 100.0)
    assert (
        scores["diagnosis_accuracy"],
        scores["think_format_rate"],
        scores["stop_rate"],
        scores["loop_rate"],
    ) == (1, 1, 1, 0)
    assert scores["intervals"]["diagnosis_accuracy"] == [0.34238, 1.0]
    assert scores["samples_per_second"] == 2.0


def test_every_score_but_n_and_speed_has_an_interval_that_holds_it():
    answers = [
        predict(n, answer="肺炎" if n % 3 else "阑尾炎", reasoning="" if n % 4 == 0 else "发热。")
        for n in range(40)
    ]
    scores = scores_of(answers, [], 1.0, 0)
    for name in scores["intervals"]:
        low, high = scores["intervals"][name]
        assert low <= scores[name] <= high


def test_failures_of_form_are_counted():
    scores = scores_of(
        [
            predict(
                0, finish_reason=FinishReason.LENGTH, raw="<think>\n发热", reasoning="", answer=""
            ),
            predict(1, finish_reason=FinishReason.LOOP),
            predict(2, reasoning="", raw="肺炎"),
            predict(3),
        ],
        [],
        None,
        0,
    )
    assert (
        scores["truncated_rate"],
        scores["loop_rate"],
        scores["stop_rate"],
        scores["think_format_rate"],
    ) == (0.25, 0.25, 0.5, 0.5)
    assert "samples_per_second" not in scores


def test_overlap_counts_only_rows_with_a_teacher_and_diagnosis_only_rows_with_a_known_one():
    columns = to_columns(rows_of([predict(0), predict(1, teacher=None), predict(2, reference="")]))
    assert (
        len(columns["bleu-4"]),
        len(columns["diagnosis_accuracy"]),
        len(columns["stop_rate"]),
    ) == (2, 2, 3)


def test_the_unprompted_rate_is_that_of_the_plain_template_where_there_is_one():
    own, plain = [predict(0), predict(1)], [predict(0), predict(1, reasoning="")]
    assert scores_of(own, plain, None, 0)["think_unprompted_rate"] == 0.5
    assert scores_of(own, [], None, 0)["think_unprompted_rate"] == 1.0


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


def test_a_blank_label_counts_as_llamafactory_counts_it_and_a_missing_one_not_at_all():
    columns = to_columns(rows_of([predict(0), predict(1, teacher="")]))
    assert columns["rouge-l"] == [100.0, 0.0]


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


def test_accuracy_is_broken_down_by_department_length_number_and_where_the_base_was_wrong():
    departments = ("外科",), ("内科",)
    predictions = [
        predict(
            n,
            answer="肺炎" if n % 3 else "阑尾炎",
            department=departments[n % 2],
            question="咳" * (n + 1),
        )
        for n in range(30)
    ]
    found = break_down(rows_of(predictions), frozenset({"t:0", "t:1"}))
    assert set(found) == {"department", "length", "diagnoses", "base"}
    assert found["base"]["base was wrong"] == {
        "n": 2,
        "diagnosis_accuracy": 0.5,
        "interval": [0.094531, 0.905469],
    }
    assert sum(group["n"] for group in found["length"].values()) == 30
    assert list(found["diagnoses"]) == ["1"]
