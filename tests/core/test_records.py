import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medkd.core.errors import InputError
from medkd.core.records import (
    Case,
    Cost,
    Example,
    Lineage,
    Preference,
    Question,
    RawCase,
    Rejected,
    Usage,
    check_deidentified,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
COUNTS = st.integers(0, 10**9)
USAGES = st.builds(Usage, prompt=COUNTS, cache_hit=COUNTS, completion=COUNTS, reasoning=COUNTS)


def test_patient_text_becomes_a_case_only_with_the_name_of_what_cleaned_it() -> None:
    raw = RawCase(id="files:1", source="files", sections={"主诉": "发热3天"})
    with pytest.raises(ValidationError, match="deidentified_by"):
        Case.model_validate(raw.model_dump())
    with pytest.raises(ValidationError, match="deidentified_by"):
        Case.model_validate(raw.model_dump() | {"deidentified_by": ""})
    assert Case.model_validate(raw.model_dump() | {"deidentified_by": "rules 1"}).id == raw.id


def test_a_question_without_the_name_of_what_cleaned_it_has_an_empty_mark() -> None:
    fields = {
        "id": "a:1",
        "case_id": "a:1",
        "source": "a",
        "system": "",
        "instruction": "",
        "input": "发热",
        "reference": "感冒",
        "split": "val",
    }
    question = Question.model_validate(fields)
    assert question.deidentified_by == ""
    with pytest.raises(InputError, match="1 of 1 rows have no deidentified_by"):
        check_deidentified([question.deidentified_by], "questions.jsonl", "the teacher", False)
    with pytest.raises(ValidationError, match="split"):
        Question.model_validate(fields | {"deidentified_by": "rules 1", "split": "dev"})


def test_a_record_cannot_be_changed_and_takes_no_field_it_does_not_know() -> None:
    raw = RawCase(id="files:1", source="files", sections={})
    with pytest.raises(ValidationError, match="frozen"):
        raw.title = "another"
    with pytest.raises(ValidationError, match="patient_name"):
        RawCase.model_validate(raw.model_dump() | {"patient_name": "somebody"})
    with pytest.raises(ValidationError, match="id"):
        RawCase(id="", source="files", sections={})


@given(sections=st.dictionaries(TEXTS, TEXTS), diagnosis=st.lists(TEXTS).map(tuple), title=TEXTS)
def test_any_text_survives_a_line_of_a_file(
    sections: dict[str, str], diagnosis: tuple[str, ...], title: str
) -> None:
    raw = RawCase(id="files:1", source="files", title=title, sections=sections, diagnosis=diagnosis)
    line = raw.model_dump_json()
    assert "\n" not in line
    assert RawCase.model_validate_json(line) == raw


@given(USAGES, USAGES, USAGES)
def test_usage_adds_up_in_any_order(a: Usage, b: Usage, c: Usage) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + Usage() == a


def test_two_lineages_do_not_share_a_cost() -> None:
    assert Lineage(origin="a").cost == Cost() == Lineage(origin="b").cost


def test_a_preference_is_an_example_with_a_worse_answer_beside_it() -> None:
    example = Example(
        id="a:1",
        source="a",
        style="bare",
        input="发热伴颈强直",
        reasoning="感染征象",
        answer="脑膜炎",
        lineage=Lineage(origin="a"),
    )
    rejected = Rejected(reasoning="", answer="感冒", why="wrong_answer", origin="student")
    preference = Preference(**dict(example), rejected=rejected)
    line = preference.model_dump_json()
    assert Preference.model_validate_json(line) == preference
    with pytest.raises(ValidationError, match="rejected"):
        Preference.model_validate(dict(example))
    with pytest.raises(ValidationError, match="why"):
        Rejected(reasoning="", answer="感冒", why="", origin="student")


def test_one_row_without_a_mark_is_refused_and_counted():
    with pytest.raises(InputError, match=r"rows\.jsonl: 1 of 3 rows .*--accept-identified"):
        check_deidentified(["rules 3", "", "rules 3"], "rows.jsonl", "the endpoint", False)


def test_accepted_rows_are_counted():
    assert check_deidentified(["", "", "rules 3"], "rows.jsonl", "the judge", True) == 2
