import numpy as np
import pytest

from medkd.core import thinking
from medkd.core.records import FinishReason, Prediction
from medkd.evaluate.statistics import bootstrap_interval, make_scores, measure


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


def test_a_perfect_answer_scores_full():
    scores = make_scores([predict(0), predict(1)], [], 2.0, 0)
    assert (scores["bleu-4"], scores["rouge-l"]) == (100.0, 100.0)
    assert (scores["diagnosis_accuracy"], scores["think_format_rate"], scores["stop_rate"], scores["loop_rate"]) == (1, 1, 1, 0)
    assert scores["intervals"]["diagnosis_accuracy"] == [1.0, 1.0]
    assert scores["samples_per_second"] == 2.0


def test_every_score_but_n_and_speed_has_an_interval_that_holds_it():
    answers = [predict(n, answer="肺炎" if n % 3 else "阑尾炎", reasoning="" if n % 4 == 0 else "发热。") for n in range(40)]
    scores = make_scores(answers, [], 1.0, 0)
    for name in scores.keys() - {"n", "samples_per_second", "intervals"}:
        low, high = scores["intervals"][name]
        assert low <= scores[name] <= high


def test_failures_of_form_are_counted():
    scores = make_scores(
        [
            predict(0, finish_reason=FinishReason.LENGTH, raw="<think>\n发热", reasoning="", answer=""),
            predict(1, finish_reason=FinishReason.LOOP),
            predict(2, reasoning="", raw="肺炎"),
            predict(3),
        ],
        [],
        None,
        0,
    )
    assert (scores["truncated_rate"], scores["loop_rate"], scores["stop_rate"], scores["think_format_rate"]) == (0.25, 0.25, 0.5, 0.5)
    assert "samples_per_second" not in scores


def test_overlap_counts_only_rows_with_a_teacher_and_diagnosis_only_rows_with_a_known_one():
    columns = measure([predict(0), predict(1, teacher=""), predict(2, reference="")])
    assert (len(columns["bleu-4"]), len(columns["diagnosis_accuracy"]), len(columns["stop_rate"])) == (2, 2, 3)


def test_the_unprompted_rate_is_that_of_the_plain_template_where_there_is_one():
    own, plain = [predict(0), predict(1)], [predict(0), predict(1, reasoning="")]
    assert make_scores(own, plain, None, 0)["think_unprompted_rate"] == 0.5
    assert make_scores(own, [], None, 0)["think_unprompted_rate"] == 1.0


def test_the_bootstrap_agrees_with_the_normal_approximation():
    values = np.random.default_rng(0).random(400) < 0.7
    low, high = bootstrap_interval(list(values.astype(float)))
    spread = 1.96 * (values.mean() * (1 - values.mean()) / 400) ** 0.5
    assert (low, high) == pytest.approx((values.mean() - spread, values.mean() + spread), abs=0.01)
    assert bootstrap_interval(list(values.astype(float))) == [low, high]
