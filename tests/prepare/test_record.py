from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.core.records import Language
from medkd.core.task import QuestionPart, load_task
from medkd.prepare.draft import (
    clean_sections,
    clean_text,
    fold_sections,
    is_empty,
    join_sections,
)

PART = load_task("diagnosis").question


def clean(sections: dict[str, str], part: QuestionPart, language: Language) -> dict[str, str]:
    views = clean_sections(sections, part, language)
    return fold_sections({name: view.text for name, view in views.items()}, part, language)


def test_a_record_is_one_line_in_the_order_of_the_format() -> None:
    sections = {
        "诊治经过": "予对症治疗。",
        "主诉": "发热\n3天。",
        "基本信息": "男，49岁",
        "诊断结果": "肺炎",
        "辅助检查": "暂缺",
        "既往史": "无",
        "查体": "神清。",
        "现病史": "患者\r\n发热。",
    }
    line = join_sections(clean(sections, PART, "zh"), PART, "zh")
    assert (
        line
        == "【基本信息】男，49岁 【主诉】发热，3天。 【现病史】患者，发热。 【查体】神清。 【诊治经过】予对症治疗。"
    )


def test_what_a_crawler_broke_is_repaired() -> None:
    examination = "T是36.5度，P是111次/min，BP是109/84mmHg,一般情况是中年男性，屈髋90度，双扁桃体II度肿大，但是无充血。。,专科情况是神清。"
    assert clean_text(examination, "查体").text == (
        "T：36.5℃，P：111次/min，BP：109/84mmHg，一般情况：中年男性，屈髋90度，双扁桃体II度肿大，但是无充血。专科情况：神清。"
    )
    assert (
        clean_text("常规检查均正常；,2.B超：脾大。,3.CT:正常,4.其他", "辅助检查").text
        == "常规检查均正常；2.B超：脾大。3.CT:正常；4.其他"
    )


def test_natural_text_is_left_as_it_is() -> None:
    text = "体温最高超过39度，这是第二次发作，血压120/80mmHg。"
    assert clean_text(text, "现病史").text == text
    assert (
        clean_text("一般情况好，四肢活动是正常的。", "查体").text
        == "一般情况好，四肢活动是正常的。"
    )


def test_brackets_of_the_format_inside_a_section_are_disarmed() -> None:
    assert clean_text("【体温】38℃【").text == "体温：38℃"


def test_rare_histories_are_told_with_the_past_history() -> None:
    sections = {"既往史": "体健。", "个人史": "吸烟20年", "家族史": "无"}
    assert clean(sections, PART, "zh") == {"既往史": "体健。个人史：吸烟20年。"}


@given(st.dictionaries(st.sampled_from(["主诉", "现病史", "查体", "个人史"]), st.text(max_size=80)))
def test_any_sections_make_one_line(sections: dict[str, str]) -> None:
    line = join_sections(clean(sections, PART, "zh"), PART, "zh")
    assert "\n" not in line
    assert line.count("【") == line.count("】")


@pytest.mark.parametrize(
    "text",
    [
        r"\N",
        r"#N/A",
        r"#REF!",
        r"#VALUE!",
        r"undefined",
        r"[]",
        r"{}",
        r"()",
        r"--",
        r"———",
        r"未填写",
        r"nan",
        r"NaN",
        r"None",
        r"NULL",
        r"(null)",
        r"<NA>",
        r"N/A",
        r"n.a.",
        r"暂无。",
        r"（无）",
        r"【】",
        r"…",
        r"＃Ｎ／Ａ",
        r"​",
    ],
)
def test_a_word_for_nothing_is_no_section(text: str) -> None:
    assert is_empty(text)
    assert clean({"主诉": "发热", "既往史": text, "个人史": text}, PART, "zh") == {"主诉": "发热"}


@pytest.mark.parametrize("text", ["+", "（++）", "无异常", "未见异常。", "0", "阴性", "Nandrolone"])
def test_a_short_finding_is_a_section(text: str) -> None:
    assert not is_empty(text)


def test_an_english_record_has_a_line_a_section_and_labels_without_brackets() -> None:
    sections = {
        "主诉": "Cough\nfor 3 days.",
        "既往史": "Hypertension.",
        "过敏史": "Penicillin",
        "查体": "T 38.1 C.\n Lungs clear",
    }
    assert join_sections(clean(sections, PART, "en"), PART, "en").split("\n") == [
        "Chief complaint: Cough; for 3 days.",
        "Past history: Hypertension. Allergies: Penicillin.",
        "Examination: T 38.1 C. Lungs clear",
    ]


def test_a_question_without_labels_keeps_its_lines() -> None:
    part = load_task("multiple-choice").question
    sections = {"question": "Which one?\r\n", "options": "A. one\n B. two"}
    assert join_sections(clean(sections, part, "en"), part, "en") == ("Which one?\nA. one\nB. two")


def test_a_task_of_the_user_s_asks_for_its_answer_by_name(tmp_path: Path) -> None:
    path = tmp_path / "pump.yaml"
    path.write_text("question: {sections: [现象]}\nanswer: {section: 故障原因}\n")
    part = load_task(path).question
    assert join_sections({"现象": "漏水。"}, part, "zh") == "【现象】漏水。 故障原因是什么？"
    assert join_sections({"现象": "Leaks."}, part, "en") == "现象: Leaks.\nWhat is the 故障原因?"
