"""Rows of any shape are a question with its answer, none, or a problem in one line."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.text.question_rows import (
    REASONING_FIELDS,
    SCHEMAS,
    RowError,
    find_question,
    find_schema,
    name_fields,
    read_question_row,
)

NAMES = sorted({name for schema in SCHEMAS.values() for name in schema.needed})
NAMES += [*REASONING_FIELDS, "history", "system", "options", "A", "B", "cop", "role", "content"]
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["A", "user", "assistant", "<think>想</think>答", "</think>", "[1, 2]", "nan", "1" * 5000]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4)
        | st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "GPT", ""]), "content": inner}
        )
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=400)
@given(
    st.dictionaries(
        st.sampled_from([*NAMES, *map(str.upper, NAMES)]) | st.text(max_size=4), VALUES, max_size=6
    )
)
def test_any_row_is_read_or_told_apart_in_one_line(row):
    assert "\n" not in name_fields(row)
    assert isinstance(find_question(row), str)
    schema = find_schema(frozenset(row))
    if schema is None:
        return
    try:
        found = read_question_row(row, schema, Counter())
    except RowError as error:
        assert "\n" not in str(error)
    else:
        assert found is None or (found.question.strip() and "<think>" not in found.answer)
