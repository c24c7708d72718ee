import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.prepare.aliases import collect_aliases, make_plain, read_plain


def test_a_diagnosis_is_also_known_by_its_parts_short_forms_and_synonyms() -> None:
    answer = collect_aliases(
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
    answer = collect_aliases(["脑膜瘤高血压", "右输尿管结石慢性病毒性乙型肝炎右侧液气胸"])
    assert {"脑膜瘤", "高血压", "输尿管结石", "慢性乙肝", "液气胸"} <= answer.derived


def test_words_that_name_no_disease_are_not_derived() -> None:
    answer = collect_aliases(["肺炎（真菌感染）", "左肾结石", "阵发性室上性心动过速伴功能不全"])
    assert answer.derived.isdisjoint({"真菌感染", "结石", "功能不全", "感染"})


def test_plain_form_is_in_one_width_script_and_case() -> None:
    assert make_plain("ＨＩＶ（+），H1N1 Ⅱ型，膽囊。") == "hivh1n1ii型胆囊"


@given(st.lists(st.text(max_size=60), max_size=4))
def test_any_diagnosis_can_be_named(diagnoses: list[str]) -> None:
    aliases = collect_aliases(diagnoses)
    assert not aliases.listed.keys() & aliases.derived
    assert "" not in aliases.names


@given(st.text(max_size=200))
def test_every_character_of_the_plain_form_leads_back_to_its_place(text: str) -> None:
    plain = read_plain(text)
    assert len(plain.text) == len(plain.starts) == len(plain.ends)
    assert plain.starts == sorted(plain.starts)
    assert all(
        0 <= start < end <= len(text) for start, end in zip(plain.starts, plain.ends, strict=True)
    )
    assert plain.breaks <= plain.gaps and plain.commas <= plain.breaks


@pytest.mark.parametrize(
    "diagnosis",
    [
        "Acute inferior wall myocardial infarction",
        "Community-acquired pneumonia due to Streptococcus pneumoniae with parapneumonic effusion",
        "Pneumonoultramicroscopicsilicovolcanoconiosis " * 20,
        "a" * 5000,
        "IVX" * 3000,
        "（" * 3000 + "肺炎",
        " " * 5000 + "肺炎",
        "急性" * 2000,
        "1." * 3000,
    ],
)
def test_the_names_of_a_long_diagnosis_are_found_at_once(diagnosis: str) -> None:
    assert collect_aliases([diagnosis]).names
