import sys
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.core import yaml_io
from medkd.core.yaml_io import BrokenYamlError, parse_yaml, read_shipped_yaml

LEVELS = range(1, 40)
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in LEVELS)
MERGES = "a0: &a0 {k: v}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n" for n in LEVELS
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "more than 1000000 values"),
        (MERGES, "more than 1000000 values"),
        ("[" * 2000, "levels deep"),
        ("[" * 200_000, "levels deep"),
        ("- " * 2000 + "a", "levels deep"),
        ("{a: " * 2000, "levels deep"),
        ("a: &a [*a]", "holds itself"),
        ("a: &a {b: *a}", "holds itself"),
        ("a: *b", "undefined alias"),
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice"),
        ("train:\n  epochs: 1\n  epochs: 2", "the key 'epochs' is given twice"),
        ("x" * (yaml_io.MAX_CHARACTERS + 1), "longer than"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("? [a]\n: b", "unhashable"),
        ("a: " + "9" * 5000, "integer string conversion"),
        ("day: 2021-13-45", "month must be"),
        ("a: b: c", "mapping values are not allowed"),
        ("a\0b", "NUL|special characters|control characters"),
        ("--- a\n--- b", "found another document"),
    ],
)
def test_what_cannot_be_read_or_is_too_much_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(BrokenYamlError, match=says) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_the_place_of_a_repeated_key_is_told() -> None:
    with pytest.raises(BrokenYamlError) as caught:
        parse_yaml("a: 1\nb: 2\na: 3")
    assert caught.value.line == 3


def test_anchors_and_merges_of_an_honest_recipe_are_read() -> None:
    text = "train: &t {epochs: 1}\ntrain-more: {<<: *t, epochs: 2}\nevaluate: *t"
    assert parse_yaml(text) == {
        "train": {"epochs": 1},
        "train-more": {"epochs": 2},
        "evaluate": {"epochs": 1},
    }


def test_an_empty_text_is_nothing() -> None:
    assert parse_yaml("") is None


PLAIN: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(PLAIN)
def test_what_yaml_writes_is_read_back(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value)) == value


@settings(deadline=None)
@given(st.text(alphabet="[]{}:,&*a- \n?!|>'\"#%\t<@`", max_size=40))
def test_any_text_is_read_or_refused_with_one_error(text: str) -> None:
    try:
        parse_yaml(text)
    except BrokenYamlError as error:
        assert "\n" not in str(error)


def test_without_the_c_loader_the_same_is_read_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert parse_yaml("a: [1, {b: c}]") == {"a": [1, {"b": "c"}]}
    for text in (BOMB, "[" * 5000, "a: 1\na: 2"):
        with pytest.raises(BrokenYamlError):
            parse_yaml(text)
    assert sys.getrecursionlimit() >= 1000


def test_a_shipped_table_is_read_once() -> None:
    first = read_shipped_yaml("medkd", "tasks/diagnosis.yaml")
    assert first is read_shipped_yaml("medkd", "tasks/diagnosis.yaml")
    assert first["name"] == "diagnosis"
