from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from medkd.core.errors import InputError
from medkd.prepare.aliases import collect_aliases, load_synonyms


def test_a_diagnosis_is_also_known_by_its_leading_part_short_forms_and_synonyms() -> None:
    names = collect_aliases(["左股骨转子间骨折（A2型）"]).principal
    assert {"左股骨转子间骨折a2型", "股骨转子间骨折", "股骨粗隆间骨折"} <= names
    assert {"慢性乙型肝炎", "慢性乙肝"} <= collect_aliases(["1.慢性乙型肝炎（重度）"]).principal
    assert "hiv" in collect_aliases(["获得性免疫缺陷综合征（HIV）"]).principal


def test_the_parts_behind_the_leading_one_and_the_other_diagnoses_tell_less() -> None:
    aliases = collect_aliases(["肥厚型心肌病心律失常频发室早", "高血压病3级", "支气管扩张伴咯血"])
    assert "肥厚型心肌病" in aliases.principal and "肥厚性心肌病" in aliases.principal
    assert {"频发室早", "频发室性早搏"} <= aliases.further
    assert aliases.others["高血压"] == "高血压病3级"
    assert aliases.others["支扩"] == "支气管扩张伴咯血"


def test_a_kind_of_disease_leads_together_with_the_disease() -> None:
    aliases = collect_aliases(["心律失常阵发性室上性心动过速射频消融术后"])
    assert {"心律失常", "室上性心动过速", "室上速"} <= aliases.principal


def test_a_malformation_without_the_ending_of_a_disease_leads_and_a_place_does_not() -> None:
    aliases = collect_aliases(["下腔静脉后输尿管（右侧）血尿泌尿道感染"])
    assert aliases.leading.plain == "下腔静脉后输尿管"
    assert collect_aliases(["右肺及左肺尖结核"]).leading.plain == "左肺尖结核"


def test_words_that_name_no_disease_are_not_derived() -> None:
    aliases = collect_aliases(["肺炎（真菌感染）", "左肾结石"])
    assert {"真菌感染", "结石", "感染"}.isdisjoint(
        {*aliases.principal, *aliases.further, *aliases.others}
    )


def test_a_synonym_inside_another_word_is_left_alone() -> None:
    names = collect_aliases(["Essential hypertension", "心房顫動"]).names
    assert not any("ten" in name and not name.isascii() for name in names)
    assert "心房颤动" in names and not any("心心" in name for name in names)


@given(st.lists(st.text(max_size=60), max_size=4))
def test_any_diagnosis_can_be_named(diagnoses: list[str]) -> None:
    aliases = collect_aliases(diagnoses)
    assert "" not in aliases.names
    assert aliases.principal.isdisjoint(aliases.others.keys() | aliases.further)


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


PIECES = [
    "a",
    "synonyms",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "\n",
    "  ",
    "2021-13-45",
    "&x",
    "*x",
    "'",
    '"',
    "? ",
    "|",
    "%",
    "\t",
    "1",
    "~",
]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.lists(st.sampled_from(PIECES), max_size=20).map(lambda parts: "".join(parts).encode()),
    )
)
@example(content=b"generic: 2021-13-45")
@example(content=b"[" * 5000)
@example(content=b"synonyms: [[a, 1]]")
def test_no_table_of_words_ends_in_a_stack_trace(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "words.yaml"
    path.write_bytes(content)
    load_synonyms.cache_clear()
    try:
        load_synonyms(path)
    except InputError as error:
        assert "\n" not in str(error)
