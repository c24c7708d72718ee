"""A list of diagnoses is split as records write it, and nothing that belongs to a name is a number
of the list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.text.diagnoses import clean_diagnosis, split_diagnoses, split_numbered

LISTS = [
    ("1.肺炎；2.脑梗死；3.肾囊肿", ["肺炎", "脑梗死", "肾囊肿"]),
    ("1.肺炎2.高血压病3级（很高危）3.2型糖尿病", ["肺炎", "高血压病3级（很高危）", "2型糖尿病"]),
    ("1、肺炎\n2、甲型H1N1流感。", ["肺炎", "甲型H1N1流感"]),
    ("①肺炎②胸腔积液", ["肺炎", "胸腔积液"]),
    ("⑴肺炎⑵胸腔积液", ["肺炎", "胸腔积液"]),
    ("（1）肺炎（2）胸腔积液", ["肺炎", "胸腔积液"]),
    ("(1) 肺炎 (2) 胸腔积液", ["肺炎", "胸腔积液"]),
    ("1)肺炎 2)胸腔积液", ["肺炎", "胸腔积液"]),
    ("１．肺炎２．糖尿病", ["肺炎", "糖尿病"]),
    ("1)肺炎2)糖尿病", ["肺炎", "糖尿病"]),
    ("1）肺炎，2）2型糖尿病", ["肺炎", "2型糖尿病"]),
    ("1：肺炎 2：糖尿病", ["肺炎", "糖尿病"]),
    ("（一）肺炎（二）糖尿病", ["肺炎", "糖尿病"]),
    ("（一）肺炎；（二）糖尿病", ["肺炎", "糖尿病"]),
    ("一、肺炎 二、糖尿病", ["肺炎", "糖尿病"]),
    ("1.窦性停搏（最长间歇2.11s）2.肺炎", ["窦性停搏（最长间歇2.11s）", "肺炎"]),
    ("一、1.肺结核2.肺气肿,二、1.肾结石2.肠梗阻。", ["肺结核", "肺气肿", "肾结石", "肠梗阻"]),
    ("右眼钝挫伤：1.晶状体脱位；2.继发性青光眼", ["右眼钝挫伤", "晶状体脱位", "继发性青光眼"]),
    ("发热查因：,1.脓毒血症？,2.扁桃体炎？", ["脓毒血症？", "扁桃体炎？"]),
    ("入院诊断：1.肺炎2.糖尿病", ["肺炎", "糖尿病"]),
    ("肺炎\n心力衰竭", ["肺炎", "心力衰竭"]),
    ("- 肺炎\n- 心力衰竭", ["肺炎", "心力衰竭"]),
    ("肺炎（左侧；重）；肾结石", ["肺炎（左侧；重）", "肾结石"]),
    ("1.肺癌（T2；PS 1）2.肾结石", ["肺癌（T2；PS 1）", "肾结石"]),
    ("1.肺炎（1.重症 2.左侧）2.肾结石", ["肺炎（1.重症 2.左侧）", "肾结石"]),
    ("1.右肾结石；左肾囊肿2.肠梗阻", ["右肾结石", "左肾囊肿", "肠梗阻"]),
    ("1.肺炎2.高血压病4.2型糖尿病", ["肺炎", "高血压病", "2型糖尿病"]),
    ("2.高血压病3.2型糖尿病", ["高血压病", "2型糖尿病"]),
    ("2.高血压病；4.痛风", ["高血压病", "痛风"]),
    ("1.COPD2.高血压病", ["COPD", "高血压病"]),
    ("诊断1.肺炎2.高血压病", ["肺炎", "高血压病"]),
    (
        "1.左下肢急性蜂窝组织炎2.2型糖尿病；3、双眼青光眼（OD晚期；OS早期）。",
        ["左下肢急性蜂窝组织炎", "2型糖尿病", "双眼青光眼（OD晚期；OS早期）"],
    ),
    ("1. Pneumonia 2. Type 2 diabetes", ["Pneumonia", "Type 2 diabetes"]),
    ("Pneumonia; type 2 diabetes", ["Pneumonia", "type 2 diabetes"]),
    ("CKD stage 3. Hypertension", ["CKD stage 3. Hypertension"]),
    ("室早二、三联律", ["室早二、三联律"]),
    ("第1、2腰椎骨折", ["第1、2腰椎骨折"]),
    ("1.腰1、2、3椎体骨折2.肺炎", ["腰1、2、3椎体骨折", "肺炎"]),
    ("1.腰1、腰2、腰3椎体骨折2.肺炎", ["腰1、腰2、腰3椎体骨折", "肺炎"]),
    ("登革热。", ["登革热"]),
    ("1.肺炎2.肺炎", ["肺炎"]),
    ("", []),
    ("。", []),
]


@pytest.mark.parametrize(("text", "expected"), LISTS)
def test_a_list_of_diagnoses_is_split_at_its_numbers(text: str, expected: list[str]):
    assert list(split_diagnoses(text)) == expected


@given(st.text(alphabet="1234.、)（(）；;\n一二①肺炎 AZ:"))
def test_any_text_is_split_into_tidy_diagnoses(text: str):
    for diagnosis in split_diagnoses(text):
        assert diagnosis and diagnosis == " ".join(diagnosis.split()).strip("。；，：")


@given(
    st.lists(
        st.text(alphabet="肺炎心梗肾病左右", min_size=2, max_size=6),
        min_size=1,
        max_size=30,
        unique=True,
    ),
    st.sampled_from(["{}.{}；", "{}、{}", "{}){} ", "（{}）{}", "{}．{}\n"]),
)
def test_a_numbered_list_is_read_back(diagnoses: list[str], form: str):
    text = "".join(form.format(i, diagnosis) for i, diagnosis in enumerate(diagnoses, start=1))
    assert list(split_diagnoses(text)) == diagnoses


@given(st.text())
def test_nothing_but_numbers_is_lost(text: str):
    lead, items = split_numbered(text)
    assert text.startswith(lead) and all(item in text for item in items)


def test_numbering_and_closing_marks_are_no_part_of_a_diagnosis():
    assert clean_diagnosis("一、1.肺结核？；") == "肺结核"
    assert clean_diagnosis("2.2型糖尿病。") == "2型糖尿病"
    assert clean_diagnosis("（1）肺炎?") == "肺炎"
    assert clean_diagnosis("二、三尖瓣关闭不全") == "二、三尖瓣关闭不全"
