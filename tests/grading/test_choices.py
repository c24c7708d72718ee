"""Letters are read where an answer states them, and nowhere else."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medkd.grading.choices import read_choice

ROWS = yaml.safe_load((Path(__file__).parent / "choices.yaml").read_text(encoding="utf-8"))


def read_row(row):
    answer, letters, *rest = row
    options = next((given for given in rest if given), "ABCDE")
    return answer, frozenset(letters) or None, options


def find_misread(kind):
    rows = map(read_row, ROWS[kind])
    return [
        (answer, sorted(wanted or ()), sorted(found or ()))
        for answer, wanted, options in rows
        if (found := read_choice(answer, options)) != wanted
    ]


def test_of_answers_that_state_their_letters_nearly_all_are_read():
    assert len(ROWS["stated"]) == 60
    assert len(find_misread("stated")) <= 2, find_misread("stated")


def test_of_answers_that_state_no_letter_none_is_read():
    assert len(ROWS["unstated"]) == 20
    assert not find_misread("unstated")


LATER = yaml.safe_load((Path(__file__).parent / "choices_later.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", LATER)
def test_answers_written_later_are_read_too(name):
    options = LATER[name]["options"]
    misread = [
        (answer, letters, sorted(found))
        for answer, letters in LATER[name]["rows"]
        if (found := read_choice(answer, options) or frozenset()) != frozenset(letters)
    ]
    assert not misread


@given(st.text(alphabet="答案是选项：ABC、和 \n*()[]{}\\boxedanswer is.or", max_size=200))
def test_any_text_is_read_as_options_or_none(text):
    letters = read_choice(text, "ABC")
    assert letters is None or (letters and letters <= set("ABC"))


@pytest.mark.parametrize(
    "piece", ["答案", "A、", "answer is ", "(", "\\boxed{", "A\n", "选", "- A\n"]
)
def test_long_answers_are_read(piece):
    assert read_choice(piece * 5000 + "\n\n答案：B", "ABCD") == {"B"}
