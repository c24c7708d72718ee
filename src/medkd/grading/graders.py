"""Graders by kind of answer: a diagnosis, the letters of a choice, a free text, a number.

In: the kind that a task names, and a table of terms where the user has one. Out: a function
`grader(answer, reference, known=())` that returns a `Grade`.

>>> get_grader("number")("所以共需 1,250 mL。", "1250").verdict
'right'
>>> get_grader("text")("多饮水，休息", "静脉补液").verdict
'undecided'
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from medkd.core import thinking
from medkd.core.task import AnswerKind
from medkd.grading import diagnosis
from medkd.grading.choices import read_choice
from medkd.grading.compare import Relation
from medkd.grading.diagnosis import Grade
from medkd.text.normalize import make_plain, normalize
from medkd.text.similarity import similarity

Grader = Callable[..., Grade]
"""Called `grader(answer, reference, known=())`."""

NUMBER_TOLERANCE = 1e-6
"""Relative difference up to which two numbers are one."""
_OPTIONS = "ABCDE"
"""Letters that an exam has at the least."""
_OPTION_TEXT = re.compile(r"\s*([A-Z])\s*[.、:：．)）]\s*(\S.*)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?(?:e[-+]?\d{1,3})?", re.I)
_FRACTION = re.compile(
    r"([-+]?\d{1,15})\s?/\s?(\d{1,15})(?![\d/])|\\d?frac\{(-?\d{1,15})\}\{(\d{1,15})\}"
)
_RESULT = re.compile(
    r"\\boxed\s?\{([^\n]{1,80})\}|(?:答案|结果|answer|result)(?:[是为:：=\s]|is){1,8}([^\n。]{1,80})",
    re.IGNORECASE,
)
_MAX_READ = 4000
"""Characters of an answer in which its number is looked for: its end."""


def get_grader(kind: AnswerKind, terms_path: Path | None = None) -> Grader:
    """Return the grader of a kind of answer; `terms_path` serves diagnoses alone."""
    if kind == "diagnosis":
        return partial(diagnosis.grade, terms_path=terms_path)
    return {"choice": grade_choice, "text": grade_text, "number": grade_number}[kind]


def grade_choice(
    answer: str,
    reference: str,
    known: Sequence[str] = (),
    options: Mapping[str, str] | str | None = None,
) -> Grade:
    """Grade the letters that an answer states; without any it is undecided.

    `options` are those of the question; without them, A to E or the last letter of the reference.
    """
    expected, named = _read_letters(reference)
    if not expected:
        return Grade(decided=False, relation=Relation.UNCLEAR)
    if options is None:
        last = max(*_OPTIONS, *expected)
        options = {chr(code): "" for code in range(ord("A"), ord(last) + 1)} | named
    found = read_choice(answer, options)
    if found is None:
        return _grade_unreadable(answer)
    shared = len(found & expected)
    return _make_grade(
        found == expected, f1=2 * shared / (len(found) + len(expected)), stated=sorted(found)
    )


def grade_text(answer: str, reference: str, known: Sequence[str] = ()) -> Grade:
    """Grade a free text: the same words are right, silence is wrong, and rules cannot tell the
    rest; `f1` is the likeness of the two."""
    said = make_plain(thinking.read(answer).answer)
    expected = make_plain(reference)
    if not said or not expected:
        return Grade(decided=not said)
    if said == expected:
        return _make_grade(True, f1=1.0, stated=())
    alike = min(round(similarity(said, expected, 2), 4), 0.99)
    return Grade(f1=alike, decided=False, relation=Relation.UNCLEAR)


def grade_number(answer: str, reference: str, known: Sequence[str] = ()) -> Grade:
    """Grade the number that an answer ends with, or states in a box or behind 答案; 12.5% is
    0.125, 3/4 is 0.75. Where either side has no number it is undecided."""
    said, expected = read_number(answer), read_number(reference)
    if expected is None or said is None:
        return _grade_unreadable(answer)
    is_right = abs(said - expected) <= NUMBER_TOLERANCE * max(abs(said), abs(expected))
    return _make_grade(is_right, f1=float(is_right), stated=(f"{said:g}",))


def read_number(text: str) -> float | None:
    """Read the number that a text commits itself to; None where it has none.

    >>> read_number("先补 500 mL，再补 250 mL，答案是 750 mL，分 3 次。")
    750.0
    """
    said = normalize(thinking.read(text).answer[-_MAX_READ:])
    results = [next(filter(None, found.groups())) for found in _RESULT.finditer(said)]
    for stretch, place in (*((one, 0) for one in reversed(results)), (said, -1)):
        if numbers := _list_numbers(stretch):
            return numbers[place]
    return None


def _list_numbers(text: str) -> list[float]:
    """List the numbers of a text in order, fractions and percentages as their value."""
    found: list[float] = []
    at = 0
    while number := _NUMBER.search(text, at):
        fraction = _FRACTION.search(text, max(at, number.start() - 8), number.end() + 40)
        if fraction and fraction.start() <= number.start() < fraction.end():
            above, below = (float(part) for part in fraction.groups() if part)
            at = fraction.end()
            if not below:
                continue
            value = above / below
        else:
            value, at = float(number[0].replace(",", "")), number.end()
        if not math.isfinite(value):  # 1e999 would be as near to 12 as to itself
            continue
        found.append(value / 100 if re.match(r"\s?\\?%", text[at : at + 3]) else value)
    return found


def _read_letters(reference: str) -> tuple[frozenset[str], dict[str, str]]:
    """Read the letters of a reference, and the text of its option where it gives one."""
    if option := _OPTION_TEXT.fullmatch(reference):
        return frozenset(option[1]), {option[1]: option[2]}
    bare = re.sub(r"[\s,，、;；/]", "", reference)
    if re.fullmatch("[A-Za-z]{1,26}", bare):
        return frozenset(bare.upper()), {}
    return read_choice(reference, "ABCDEFGHIJ") or frozenset(), {}


def _grade_unreadable(answer: str) -> Grade:
    """Grade an answer in which nothing can be read: silence is wrong."""
    is_empty = not thinking.read(answer).answer.strip()
    return Grade(decided=is_empty, relation=Relation.DIFFERENT if is_empty else Relation.UNCLEAR)


def _make_grade(is_right: bool, f1: float, stated: Sequence[str]) -> Grade:
    return Grade(
        exact=is_right,
        principal=is_right,
        f1=round(f1, 4),
        relation=Relation.SAME if is_right else Relation.DIFFERENT,
        stated=tuple(stated),
    )
