"""Names are unified, white space is tidied, lists of diagnoses are split."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.collect.sections import (
    find_diagnosis,
    join_sections,
    load_names,
    split_diagnoses,
    tidy,
    unify_departments,
)
from medkd.core.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.肺炎；2.脑梗死；3.肾囊肿", ["肺炎", "脑梗死", "肾囊肿"]),
        (
            "1.肺炎2.高血压病3级（很高危）3.2型糖尿病",
            ["肺炎", "高血压病3级（很高危）", "2型糖尿病"],
        ),
        ("1、肺炎\n2、甲型H1N1流感。", ["肺炎", "甲型H1N1流感"]),
        ("①肺炎②胸腔积液", ["肺炎", "胸腔积液"]),
        ("（1）肺炎（2）胸腔积液", ["肺炎", "胸腔积液"]),
        ("1)肺炎 2)胸腔积液", ["肺炎", "胸腔积液"]),
        ("1.窦性停搏（最长间歇2.11s）2.肺炎", ["窦性停搏（最长间歇2.11s）", "肺炎"]),
        ("一、1.肺结核2.肺气肿,二、1.肾结石2.肠梗阻。", ["肺结核", "肺气肿", "肾结石", "肠梗阻"]),
        ("右眼钝挫伤：1.晶状体脱位；2.继发性青光眼", ["右眼钝挫伤", "晶状体脱位", "继发性青光眼"]),
        ("发热查因：,1.脓毒血症？,2.扁桃体炎？", ["脓毒血症？", "扁桃体炎？"]),
        ("肺炎\n心力衰竭", ["肺炎", "心力衰竭"]),
        ("肺炎（左侧；重）；肾结石", ["肺炎（左侧；重）", "肾结石"]),
        ("1.右肾结石；左肾囊肿2.肠梗阻", ["右肾结石", "左肾囊肿", "肠梗阻"]),
        ("室早二、三联律", ["室早二、三联律"]),
        ("第1、2腰椎骨折", ["第1、2腰椎骨折"]),
        ("1.腰1、2、3椎体骨折2.肺炎", ["腰1、2、3椎体骨折", "肺炎"]),
        ("登革热。", ["登革热"]),
        ("1.肺炎2.肺炎", ["肺炎"]),
        ("", []),
        ("。", []),
    ],
)
def test_a_list_of_diagnoses_is_split_at_its_numbers(text: str, expected: list[str]):
    assert list(split_diagnoses(text)) == expected


@given(st.text())
def test_any_text_is_split_into_tidy_diagnoses(text: str):
    for diagnosis in split_diagnoses(text):
        assert diagnosis and diagnosis == tidy(diagnosis)


@given(
    st.lists(
        st.text(alphabet="肺炎心梗肾病左右", min_size=2, max_size=6),
        min_size=1,
        max_size=30,
        unique=True,
    )
)
def test_a_numbered_list_is_read_back(diagnoses: list[str]):
    text = "；".join(f"{i}.{diagnosis}" for i, diagnosis in enumerate(diagnoses, start=1))
    assert list(split_diagnoses(text)) == diagnoses


@given(st.text())
def test_tidying_twice_changes_nothing_more(text: str):
    assert tidy(tidy(text)) == tidy(text)
    tidy(text).encode()


def test_tidying_touches_white_space_alone():
    assert tidy(" 　体温\t38℃\r\n\r\n 咳嗽\xa0 3天 ") == "体温 38℃\n咳嗽 3天"


def test_names_are_unified_and_unknown_ones_kept():
    assert [
        load_names().unify(name)
        for name in ("一般资料", "【基本信息】", "2. 体格检查：", "月经史", "")
    ] == [
        "基本信息",
        "基本信息",
        "查体",
        "月经史",
        "",
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
