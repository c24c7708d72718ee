"""The measures behind the checks; the verdicts on whole rationales are tested with `verify`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.grading.checks import (
    Reason,
    check_copy,
    check_filler,
    check_form,
    check_grounding,
    check_hint,
    check_identifiers,
    check_language,
    check_refusal,
    copied_share,
)
from medkd.grading.grounding import grounded_rate
from medkd.text.similarity import is_looping

RECORD = "【主诉】发热3天。 【现病史】最高体温39.2℃，咳嗽有痰，无胸痛。 【查体】血压120/80mmHg，右下肺湿啰音。 【辅助检查】白细胞13.5×10^9/L。"
PROSE = "患者发热三天，最高体温三十九度，咳嗽有黄痰，右下肺可闻及湿啰音，白细胞升高，提示细菌性肺部感染，胸片见右下肺斑片影，符合肺炎的表现。"


def test_what_the_user_never_said_was_read_in_the_answer() -> None:
    question = "Mahaim型旁路与WPW综合征有什么不同？心电图上有什么表现？"
    told = "用户提到的QRS波起始部有预激波，但宽度不如WPW明显，这可能是传导较慢。"
    assert check_hint(told, "", question).reason == Reason.HINT_LEAK
    assert check_hint("用户提到的旁路与综合征的不同，需要比较心电图。", "", question).passed
    assert check_hint("用户没有提到的QRS波起始部有预激波也要考虑。", "", question).passed


@pytest.mark.parametrize(
    ("told", "is_said"),
    [
        ("另外，用户提到青霉素类，需要说明。", False),
        ("问题中提到“每年发作七次以上”，所以先讲标准。", False),
        ("用户提到的“扁桃体周围脓肿”可能指的是并发症。", False),
        ("用户提到的扁桃体炎属于上呼吸道感染的一种。", True),
        ("用户提到的“扁桃体反复发作”可能指的是慢性扁桃体炎。", True),
        ("用户还提到自己最近感到不适，需要分析。", True),
        ("用户提到自己的情况，需要安慰。如果用户提到青霉素类，再说。", True),
    ],
)
def test_a_short_or_quoted_statement_of_the_user_is_looked_up_too(told: str, is_said: bool) -> None:
    question = "孩子的扁桃体炎反复发作，要不要切除？切除有什么标准？"
    assert check_hint(told, "", question).passed is is_said


@pytest.mark.parametrize(
    "text",
    [
        PROSE + "因此考虑肺炎。" * 12,
        PROSE + "咳" * 30,
        "思考思考思考思考思考思考思考思考思考思考思考",
        "<think" * 40,
        "".join(f"第{n}次复查血常规，白细胞{n}.2，仍高于正常，继续抗感染治疗。" for n in range(12)),
        (PROSE * 3)[:-1] * 3,
        "The patient has a fever and therefore pneumonia is likely. " * 8,
        PROSE + ("经过反复的思考我们认为这位病人需要更多的检查才能够明确诊断" * 5)[:-2] * 3,
    ],
)
def test_a_loop_is_found(text):
    assert is_looping(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        PROSE,
        "-" * 300,
        "| 1.2 | 3.4 | 5.6 |\n" * 40,
        "无发热，无咳嗽，无胸痛，无腹泻，无皮疹，无关节痛，无口腔溃疡，无脱发，无光过敏，无雷诺现象，无肌痛，无乏力，无盗汗，无消瘦。",
        "哈哈哈",
    ],
)
def test_prose_lists_and_tables_are_no_loops(text):
    assert not is_looping(text)


def test_a_hundred_thousand_characters_without_a_loop_are_looked_through():
    assert not is_looping("".join(chr(0x4E00 + n * 7919 % 20000) for n in range(100_000)))


@pytest.mark.parametrize(
    "reasoning",
    [
        "根据提供的诊断，应为肺炎。",
        "参考答案是肺炎。",
        "这与给出的诊断一致。",
        "题目已告知诊断为肺炎。",
        "既然诊断已为肺炎，只需解释。",
        "As the diagnosis is given, we explain it.",
        "This is consistent with the provided diagnosis.",
        "用户提供的答案里说是肺炎。",
    ],
)
def test_a_betrayed_hint_is_found(reasoning):
    assert not check_hint(reasoning).passed


@pytest.mark.parametrize(
    "reasoning",
    [
        PROSE,
        "结合病史和查体，诊断为肺炎。",
        "题目中没有提到吸烟史。",
        "The diagnosis is pneumonia.",
    ],
)
def test_plain_reasoning_betrays_nothing(reasoning):
    assert check_hint(reasoning).passed


def test_a_phrase_in_any_case_is_told_as_it_was_written():
    assert check_hint("THE Provided DIAGNOSIS fits.").detail == "THE Provided DIAGNOSIS"


@pytest.mark.parametrize("n", [0, 40, 400])
def test_findings_of_the_record_are_met_late_in_a_reasoning_too(n):
    other = "".join(map(chr, range(0x5000, 0x5000 + n)))
    assert check_filler(f"{other}{RECORD}", RECORD, 1.0).passed
    assert not check_filler(other, RECORD, 1.0).passed


def test_numbers_and_denials_are_looked_up_in_the_record():
    assert grounded_rate("体温３９.２℃，白细胞13.50，无胸痛。", RECORD) == 1.0
    assert grounded_rate("体温40.1℃，白细胞13.5。", RECORD) == 0.5
    assert grounded_rate("患者无咳嗽。", RECORD.replace("咳嗽", "，咳嗽，")) == 0.0
    assert grounded_rate("1. 先看病史。\n2. 再看查体。", RECORD) is None
    assert check_grounding("没有可以核对的内容。", RECORD, 1.0).passed


def test_copying_is_measured_in_long_runs():
    assert copied_share(RECORD, RECORD) == 1.0
    assert copied_share(PROSE, RECORD) == 0.0
    assert not check_copy(RECORD, RECORD, 0.6).passed


def test_identifiers_are_found_and_not_repeated():
    verdict = check_identifiers("电话13912345678，身份证110101199003077758", "肺炎")
    assert not verdict.passed
    assert "139" not in verdict.detail
    assert check_identifiers("Less likely.\n- CVID: onset after 4 years", "CVID").passed
    assert check_identifiers("白细胞13.5×10^9/L，血压120/80mmHg，病程2023年5月起。", "肺炎").passed


def test_language_follows_the_record():
    assert check_language("患者CT示GGO，CRP升高，考虑COVID-19。", RECORD).passed
    assert not check_language("患者に発熱がありますので肺炎と考えられます", RECORD).passed
    assert check_language(
        "The patient has fever and a productive cough.", "A 40-year-old man with fever."
    ).passed
    assert not check_language(PROSE, "A 40-year-old man with fever and cough.").passed


def test_refusals_are_found_at_the_opening():
    assert not check_refusal("抱歉，我无法提供医疗诊断。", "肺炎").passed
    assert not check_refusal("As an AI language model, I cannot diagnose.", "x").passed
    assert check_refusal("患者无法平卧，不能行走。", "心力衰竭").passed


@given(st.text(), st.text(), st.text())
def test_any_text_has_verdicts(reasoning, answer, record):
    check_form(reasoning, answer)
    check_language(reasoning, record)
    check_hint(reasoning)
    check_refusal(reasoning, answer)
    check_identifiers(reasoning, answer)
    assert check_copy(reasoning, record, 1.0).passed
    assert check_grounding(reasoning, record, 0.0).passed
    is_looping(reasoning)
