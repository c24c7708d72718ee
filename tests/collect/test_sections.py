"""Names are unified, white space is tidied, lists of diagnoses are split."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.collect.sections import (
    find_diagnosis,
    join_sections,
    load_names,
    normalize_whitespace,
    unify_departments,
)
from medkd.core.errors import InputError


@given(st.text())
def test_tidying_twice_changes_nothing_more(text: str):
    assert normalize_whitespace(normalize_whitespace(text)) == normalize_whitespace(text)
    normalize_whitespace(text).encode()


def test_tidying_touches_white_space_alone():
    assert normalize_whitespace(" 　体温\t38℃\r\n\r\n 咳嗽\xa0 3天 ") == "体温 38℃\n咳嗽 3天"


def test_names_are_unified_and_unknown_ones_kept():
    assert [
        load_names().unify(name)
        for name in ("一般资料", "【基本信息】", "2. 体格检查：", "月经史", "", "HISTORY:", "Exam")
    ] == [
        "基本信息",
        "基本信息",
        "查体",
        "月经史",
        "",
        "现病史",
        "查体",
    ]


def test_a_second_text_of_one_name_follows_the_first():
    assert join_sections(
        [("一般资料", "男"), ("基本信息", "男"), ("基本信息", "49岁"), ("主诉", " "), ("", "附记")],
        load_names(),
    ) == {
        "基本信息": "男\n49岁",
        "其他": "附记",
    }


def test_the_diagnosis_comes_from_the_most_certain_section():
    assert find_diagnosis({"临床诊断": "甲", "初步诊断": "乙", "诊断结果": "丙"}) == ("丙",)
    assert find_diagnosis({"临床诊断": "甲", "初步诊断": "乙", "诊断结果": "。"}) == ("乙",)
    assert find_diagnosis({"临床诊断": "甲"}) == ("甲",)
    assert find_diagnosis({"主诉": "咳嗽"}) == ()


def test_departments_lose_the_suffix_of_the_site():
    assert unify_departments(["内科病例", " 感染科病例", "内科", ""]) == ("内科", "感染科")


def test_a_user_s_table_goes_on_top_of_the_package_s(tmp_path: Path):
    path = tmp_path / "names.yaml"
    path.write_text("现病史: [Verlauf]\n护理记录: [护理]\n", encoding="utf-8")
    names = load_names(path)
    assert [
        names.unify(name) for name in ("Verlauf", "verlauf：", "护 理", "现 病 史", "Past history")
    ] == [
        "现病史",
        "现病史",
        "护理记录",
        "现病史",
        "既往史",
    ]


@pytest.mark.parametrize(
    "content",
    ["[", "- a", "主诉: x", "1: [a]", "", "主诉: [a", "主诉: 2021-13-45", "[" * 5000, "? [a]\n: b"],
)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path: Path, content: str):
    path = tmp_path / "names.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"names\.yaml: .*主诉: \[主要症状, Complaint\]"):
        load_names(path)
    with pytest.raises(InputError, match="check --section-names"):
        load_names(tmp_path / "none.yaml")


def test_running_text_is_cut_at_its_headings_and_other_text_is_not():
    names = load_names()
    text = "男，49岁【主诉】 发热。\n体格检查：T38℃\n1.诊断：肺炎"
    assert names.cut(text) == [
        ("【主诉】", " 发热。\n"),
        ("体格检查：", "T38℃\n"),
        ("1.诊断：", "肺炎"),
    ]
    assert names.cut("主诉：发热。") == []
    assert names.cut("诊断：肺炎。\n讨论：略。") == []
