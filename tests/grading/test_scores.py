from medkd.core import thinking
from medkd.core.records import FinishReason, Prediction
from medkd.grading.scores import (
    Row,
    break_down,
    find_range,
    list_accuracies,
    make_scores,
    score,
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


def test_a_blank_label_counts_as_llamafactory_counts_it_and_a_missing_one_not_at_all():
    columns = to_columns(rows_of([predict(0), predict(1, teacher="")]))
    assert columns["rouge-l"] == [100.0, 0.0]


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
    found = break_down(rows_of(predictions), {"t:0": "wrong", "t:1": "wrong"})
    assert set(found) == {"department", "length", "diagnoses", "base"}
    assert found["base"]["base was wrong"] == {
        "n": 2,
        "diagnosis_accuracy": 0.5,
        "high": 0.5,
        "interval": [0.094531, 0.905469],
    }
    assert sum(group["n"] for group in found["length"].values()) == 30
    assert list(found["diagnoses"]) == ["1"]


def test_an_accuracy_with_undecided_answers_is_two_numbers_and_one_interval():
    answers = ["双相情感障碍抑郁发作"] * 4 + ["双相障碍"] * 10 + ["肺炎"] * 6
    asked = [predict(n, answer=text, reference="双相障碍") for n, text in enumerate(answers)]
    scores = scores_of(asked, [], None, 0)
    found = find_range(scores, "diagnosis_accuracy")
    assert (found.low, found.high, found.decided) == (0.5, 0.7, 0.8)
    assert found.interval[0] == scores["intervals"]["diagnosis_accuracy"][0] < 0.5
    assert found.interval[1] == scores["intervals"]["diagnosis_accuracy_high"][1] > 0.7


def test_the_number_of_questions_of_an_accuracy_is_no_accuracy():
    general = [Row(id="g:1", scores={"general_accuracy": 1.0})]
    scores = make_scores(rows_of([predict(0), predict(1)]), [predict(0)], [], None, 0, general)
    assert scores["n_general_accuracy"] == 1
    assert list_accuracies(scores) == ["diagnosis_accuracy", "general_accuracy"]


def test_every_kind_of_answer_has_the_scores_of_its_own_name():
    kinds = {
        "multiple-choice": ("答案：B", "B", {"exam_accuracy": 1.0, "exam_unreadable": 0.0}),
        "open-question": ("多饮水，休息", "静脉补液", {"text_accuracy": 0.0, "text_decided": 0.0}),
    }
    for task, (answer, reference, expected) in kinds.items():
        (row,) = rows_of([predict(0, answer=answer, reference=reference, task=task)])
        assert expected.items() <= row.scores.items()
        assert "diagnosis_accuracy" not in row.scores


def test_what_the_record_tells_is_counted_apart():
    told = {"reference": "肺炎；高血压；糖尿病", "known": ("高血压", "糖尿病")}
    listed, silent = rows_of([predict(0, answer="肺炎；高血压", **told), predict(1, **told)])
    assert (listed.scores["told_rate"], silent.scores["told_rate"]) == (0.5, 0.0)
    assert listed.scores["diagnosis_f1"] == silent.scores["diagnosis_f1"] == 1.0
