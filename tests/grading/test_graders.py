"""Every kind of answer has a grader with three verdicts."""

import pytest

from medkd.grading.graders import get_grader, grade_choice, read_number


@pytest.mark.parametrize(
    ("kind", "answer", "reference", "verdict"),
    [
        ("diagnosis", "急性阑尾炎", "急性阑尾炎", "right"),
        ("diagnosis", "急性胰腺炎", "急性阑尾炎", "wrong"),
        ("diagnosis", "Xanthogranulomatous whatever", "急性胆囊炎", "undecided"),
        ("choice", "<think>A？</think>答案：B", "B", "right"),
        ("choice", "答案：B、D", "BD", "right"),
        ("choice", "答案：B", "BD", "wrong"),
        ("choice", "这题很难说。", "B", "undecided"),
        ("choice", "", "B", "wrong"),
        ("choice", "答案是J", "J", "right"),
        ("choice", "应行腹腔镜手术", "B. 腹腔镜手术", "right"),
        ("text", "多饮水，休息。", "多饮水 休息", "right"),
        ("text", "卧床休息并补液", "多饮水，休息", "undecided"),
        ("text", "", "多饮水", "wrong"),
        ("number", "答案是 12.5%", "0.125", "right"),
        ("number", "\\boxed{\\frac{3}{4}}", "0.75", "right"),
        ("number", "共 1,250 mL", "1250", "right"),
        ("number", "共 1,250 mL", "1350", "wrong"),
        ("number", "不知道", "1350", "undecided"),
        ("number", "<think>1350", "1350", "wrong"),
    ],
)
def test_a_kind_of_answer_has_three_verdicts(kind, answer, reference, verdict):
    found = get_grader(kind)(answer, reference)
    assert found.verdict == verdict
    assert 0 <= found.f1 <= 1


def test_letters_are_read_among_the_options_of_the_question():
    options = {"A": "青霉素", "B": "头孢曲松"}
    assert grade_choice("应选用头孢曲松。", "B", options=options).verdict == "right"
    assert grade_choice("应选用青霉素。", "B", options=options).verdict == "wrong"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("先补 500 mL，再补 250 mL，答案是 750 mL，分 3 次。", 750),
        ("体表面积 1.5 m²，故剂量为 75 mg", 75),
        ("-3.5", -3.5),
        ("1e-3", 0.001),
        ("１２", 12),
        ("没有", None),
        ("3/0", None),
    ],
)
def test_the_number_that_a_text_commits_itself_to_is_read(text, number):
    assert read_number(text) == (None if number is None else pytest.approx(number))


def test_what_the_record_tells_counts_neither_for_nor_against_an_answer():
    grader = get_grader("diagnosis")
    reference, known = "急性脑梗死；高血压病；2型糖尿病", ("高血压病", "2型糖尿病")
    plain = grader("急性脑梗死", reference, known=known)
    assert plain.exact and plain.f1 == 1.0
    assert grader("急性脑梗死；T2DM；原发性高血压", reference, known=known) == plain.model_copy(
        update={"stated": ("急性脑梗死", "T2DM", "原发性高血压")}
    )
    assert grader("高血压；急性脑梗死", reference, known=known).principal
    assert grader("高血压；糖尿病2型", reference, known=known).verdict == "wrong"
    assert grader("急性脑梗死；肺炎", reference, known=known).f1 < 1


@pytest.mark.parametrize("answer", ["1e999", "答案是 1e999", "9" * 40 + "e300"])
def test_a_number_without_bounds_is_none(answer):
    assert read_number(answer) is None
    assert get_grader("number")(answer, "12").verdict == "undecided"
