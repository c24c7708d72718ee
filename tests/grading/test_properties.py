"""What holds for any text: a grade has bounds, a name answers itself, a near miss gains nothing,
and better answers score higher."""

import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opencc import OpenCC

from medkd.grading import load_table
from medkd.grading.choices import read_choice
from medkd.grading.compare import Relation
from medkd.grading.diagnosis import RIGHT, grade
from medkd.grading.graders import get_grader, read_number
from medkd.grading.grounding import find_claims
from medkd.grading.judge import (
    UnreadableJudgementError,
    load_rubric,
    make_fault_finder,
    read_judgement,
)
from medkd.grading.names import parse_name
from medkd.grading.rubric import UnusableRubricError, read_criteria
from medkd.text.similarity import is_looping

SYNONYMS = load_table("synonyms.yaml")
NAMES = [str(name) for name, others in SYNONYMS.items() for name in (name, *others)]
ORDERS = [
    (group, *row)
    for group, rows in yaml.safe_load(
        (Path(__file__).parent / "orders.yaml").read_text(encoding="utf-8")
    ).items()
    for row in rows
]
MIRRORED = {
    Relation.MORE_GENERAL: {Relation.MORE_SPECIFIC, Relation.PART},
    Relation.MORE_SPECIFIC: {Relation.MORE_GENERAL},
    Relation.PART: {Relation.MORE_GENERAL, Relation.PART},
}
SIDED = st.sampled_from(
    [
        "输尿管结石",
        "气胸",
        "股骨颈骨折",
        "肾盂肾炎",
        "腹股沟疝",
        "突发性耳聋",
        "乳腺癌",
        "基底节区脑出血",
        "卵巢囊肿",
    ]
)
SENTENCES = [
    "诊断为{}。",
    "考虑{}可能性大。",
    "首先考虑{}，建议完善检查。",
    "**最终诊断：{}**\n\n诊断依据：发热3天。",
    "患者最可能的诊断是{}，需要进一步检查。",
    "根据病史及检查，符合{}的诊断。",
    "（1）{}",
    "初步诊断：1、{}；2、高血压病",
    "患者为老年男性，考虑{}",
    "{}待查",
    "从影像上看更像是{}。",
    "这是一例典型的{}。",
    "首先考虑{}，其次考虑多发性硬化，不能排除肺吸虫病。",
]
ENGLISH = [
    "The most likely diagnosis is {}.",
    "Diagnosis: {}",
    "This is consistent with {}.",
    "Suspected {}",
    "The patient most likely has {}.",
]
TRADITIONAL = OpenCC("s2t")
WILD = st.text(max_size=300) | st.text(
    alphabet="诊断为是不无考虑急慢性左右炎癌（）()、，；。:：\n-*#<>1.2三Ⅱ型期级 abcdeT\x00\ud800",
    max_size=300,
)


def test_every_name_of_the_table_answers_for_its_disease():
    missed = [
        (name, str(key))
        for key, others in SYNONYMS.items()
        for name in others
        if not grade(str(name), str(key)).exact
    ]
    assert not missed


def test_no_name_stands_for_two_diseases():
    owners: dict[str, set[str]] = {}
    for key, others in SYNONYMS.items():
        for name in (key, *others):
            owners.setdefault(str(name).lower(), set()).add(str(key))
    assert not {name: keys for name, keys in owners.items() if len(keys) > 1}


@pytest.mark.parametrize(("group", "reference", "better", "worse"), ORDERS)
def test_soft_f1_orders_answers_as_a_physician_would(group, reference, better, worse):
    assert grade(better, reference).f1 > grade(worse, reference).f1


def test_there_are_at_least_a_hundred_orders():
    assert len({tuple(row) for row in ORDERS}) >= 100


@settings(deadline=None, max_examples=300)
@given(WILD, WILD)
def test_any_two_texts_have_a_grade_within_bounds(answer, reference):
    found = grade(answer, reference)
    assert 0 <= found.f1 <= 1
    assert found.exact <= found.principal <= found.decided
    assert not (found.principal and found.relation not in RIGHT)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
def test_a_list_answers_itself_in_any_order(names):
    found = grade("；".join(reversed(names)), "；".join(names))
    assert found.exact and found.f1 == 1.0


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_two_names_stand_to_each_other_alike_from_both_sides(one, other):
    there, back = grade(one, other), grade(other, one)
    mirrored = MIRRORED.get(back.relation, {back.relation})
    assert there.relation in mirrored or len(there.stated) > 1


@settings(deadline=None, max_examples=100)
@given(
    SIDED,
    st.sampled_from(["左{}", "左侧{}", "{}（左）", "{}（左侧）"]),
    st.sampled_from(["右{}", "右侧{}", "{}（右）", "{}（右侧）"]),
)
def test_the_other_side_gains_nothing_however_it_is_written(name, left, right):
    found = grade(left.format(name), right.format(name))
    assert (found.principal, found.f1, found.decided) == (False, 0.0, True)


@settings(deadline=None, max_examples=300)
@given(WILD)
def test_any_text_that_names_something_answers_itself(text):
    found = grade(text, text)
    assert (found.exact and found.f1 == 1.0) or not found.decided or "<" in text or "{" in text


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([name for name in NAMES if not name.isascii() and len(name) > 1]),
    st.sampled_from(SENTENCES),
)
@example("21三体综合征", "初步诊断：1、{}；2、高血压病")
def test_a_name_is_found_in_any_sentence_that_commits_itself_to_it(name, sentence):
    assert grade(sentence.format(name), name).principal


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([name for name in NAMES if name.isascii()]), st.sampled_from(ENGLISH))
def test_an_english_name_is_found_in_any_sentence_that_commits_itself_to_it(name, sentence):
    assert grade(sentence.format(name), name).principal


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(NAMES))
def test_a_name_in_traditional_characters_is_the_same(name):
    assert grade(TRADITIONAL.convert(name), name).exact


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(
        [name for name in NAMES if not name.isascii() and len(name) > 3 and not {*name} & {*"伴并"}]
    ),
    st.sampled_from(["排除{}", "不考虑{}", "{}可能性小", "无{}"]),
)
def test_a_denied_diagnosis_gains_nothing(name, denial):
    assert grade(denial.format(name), name).f1 == 0.0


@settings(deadline=None, max_examples=15)
@given(st.text(min_size=1, max_size=12))
def test_a_hundred_thousand_characters_of_anything_have_a_grade_from_both_sides(piece):
    text = (piece * (100_000 // len(piece) + 1))[:100_000]
    parse_name.cache_clear()
    assert 0 <= grade(text, "急性阑尾炎").f1 <= 1
    assert 0 <= grade("急性阑尾炎", text).f1 <= 1


@settings(deadline=None, max_examples=300)
@given(WILD | st.text(alphabet="ABCDE答案选是option (){}\\boxed.:,、。\n", max_size=200))
def test_any_answer_states_letters_of_its_options_or_none(answer):
    letters = read_choice(answer, {"A": "胸片", "B": "CT", "C": "超声"})
    assert letters is None or (letters and letters <= frozenset("ABC"))


@settings(deadline=None, max_examples=300)
@given(WILD | st.text(alphabet="0123456789.,-+e/%\\frac{}答案是 =²½", max_size=200))
def test_any_answer_has_a_finite_number_or_none(answer):
    number = read_number(answer)
    assert number is None or math.isfinite(number)
    for kind in ("number", "choice", "text"):
        found = get_grader(kind)(answer, "12")
        assert 0 <= found.f1 <= 1 and found.exact <= found.principal <= found.decided


@settings(deadline=None, max_examples=300)
@given(
    WILD
    | st.text(alphabet="0123456789.，,。%万度点十百两体温血压无未见发热T BP/×^-至", max_size=200),
    WILD
    | st.text(alphabet="0123456789.，,。%万度点十百两体温血压无未见发热T BP/×^-至", max_size=200),
)
def test_any_reasoning_claims_what_stands_in_any_record_or_not(reasoning, record):
    claims = find_claims(reasoning, record)
    assert len({claim for claim, _ in claims}) == len(claims)
    assert all(isinstance(stands, bool) for _, stands in claims)


STUTTER = re.compile(r"([^\W\d_]{1,8}?)\1{9,}")


@settings(deadline=None, max_examples=300)
@given(
    st.text(alphabet="发热咳嗽 1,", max_size=40),
    st.text(alphabet="发热咳嗽a", min_size=1, max_size=10),
    st.integers(0, 14),
    st.text(max_size=40),
)
def test_ten_times_the_same_is_a_loop_wherever_it_stands(before, piece, n, behind):
    letters = "".join(filter(str.isalpha, before + piece * n + behind))
    if len(letters) < 160:  # too short for a stretch that comes back otherwise
        assert is_looping(letters) >= (STUTTER.search(letters) is not None)
    if n >= 10 and len(piece) <= 8:
        assert is_looping(before + piece * n + behind)


@settings(deadline=None, max_examples=300)
@given(
    WILD
    | st.text(alphabet='{}[]",:verdictrgha ', max_size=200)
    | st.sampled_from(["right", "wrong", "sure", 1, None, True, [], 1e300]).map(
        lambda said: f'{{"verdict": {said!r}, "why": "so"}}'.replace("'", '"')
    )
)
def test_any_reply_of_a_judge_is_a_verdict_or_a_fault(text):
    rubric = load_rubric("diagnosis")
    fault = make_fault_finder(rubric)("", text)
    try:
        assert read_judgement(rubric, text).said["verdict"] in rubric.criteria["verdict"]
        assert not fault
    except UnreadableJudgementError as error:
        assert fault == str(error) and "\n" not in fault
    with pytest.raises(UnusableRubricError):
        read_criteria(text, "头痛", "偏头痛")
