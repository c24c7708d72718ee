from hypothesis import given
from hypothesis import strategies as st

from medkd.prepare.answers import name_answer
from medkd.prepare.words import make_plain


def test_a_diagnosis_is_also_known_by_its_parts_short_forms_and_synonyms() -> None:
    answer = name_answer(
        [
            "1.慢性乙型肝炎（重度）",
            "2.左股骨转子间骨折",
            "3.冠心病不稳定型心绞痛冠脉造影术后",
            "4.支气管扩张伴咯血",
        ]
    )
    assert "慢性乙型肝炎重度" in answer.listed
    assert {
        "慢性乙型肝炎",
        "慢性乙肝",
        "股骨转子间骨折",
        "股骨粗隆间骨折",
        "冠心病",
        "支气管扩张",
        "支扩",
    } <= answer.derived


def test_run_together_diagnoses_are_known_one_by_one() -> None:
    answer = name_answer(["脑膜瘤高血压", "右输尿管结石慢性病毒性乙型肝炎右侧液气胸"])
    assert {"脑膜瘤", "高血压", "输尿管结石", "慢性乙肝", "液气胸"} <= answer.derived


def test_words_that_name_no_disease_are_not_derived() -> None:
    answer = name_answer(["肺炎（真菌感染）", "左肾结石", "阵发性室上性心动过速伴功能不全"])
    assert answer.derived.isdisjoint({"真菌感染", "结石", "功能不全", "感染"})


def test_plain_form_is_half_width_and_lower_case_and_keeps_every_character() -> None:
    assert make_plain("ＨＩＶ（+），H1N1 Ⅱ型。") == "hivh1n1ⅱ型"


@given(st.lists(st.text(max_size=60), max_size=4))
def test_any_diagnosis_can_be_named(diagnoses: list[str]) -> None:
    answer = name_answer(diagnoses)
    assert not answer.listed & answer.derived
    assert "" not in answer.names


@given(st.text(max_size=200))
def test_plain_form_has_one_character_for_each_that_counts(text: str) -> None:
    assert len(make_plain(text)) == sum(
        character.isalnum() or character.isnumeric() for character in text
    )
