import numpy as np
import pytest

from medkd.core import thinking
from medkd.core.records import FinishReason, Prediction
from medkd.evaluate.scoring import grade_all, score
from medkd.evaluate.statistics import (
    bootstrap_interval,
    break_down,
    compare_paired,
    make_scores,
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
    return score(predictions, grade_all(predictions))


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
    assert scores["intervals"]["diagnosis_accuracy"] == [1.0, 1.0]
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
    values = np.random.default_rng(0).random(400) < 0.7
    low, high = bootstrap_interval(list(values.astype(float)))
    spread = 1.96 * (values.mean() * (1 - values.mean()) / 400) ** 0.5
    assert (low, high) == pytest.approx((values.mean() - spread, values.mean() + spread), abs=0.01)
    assert bootstrap_interval(list(values.astype(float))) == [low, high]


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


def test_the_paired_bootstrap_is_used_for_scores_that_are_not_yes_or_no():
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
        "interval": [0.0, 1.0],
    }
    assert sum(group["n"] for group in found["length"].values()) == 30
    assert list(found["diagnoses"]) == ["1"]
