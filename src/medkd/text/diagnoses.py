"""Splits a list of diagnoses as records write it.

In: the text of a diagnosis section or field. Out: its items, in order.
Not done here: finding diagnoses in prose (`grading`), comparing them.

>>> split_diagnoses("1.肺部真菌感染；2)肝硬化失代偿期 ③2型糖尿病。")
('肺部真菌感染', '肝硬化失代偿期', '2型糖尿病')
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_CIRCLED = {
    chr(ord(first) + n): n + 1
    for first, length in (("①", 20), ("⑴", 20), ("⒈", 20), ("❶", 10))
    for n in range(length)
}
_HANZI = {hanzi: n for n, hanzi in enumerate("一二三四五六七八九十", start=1)}
_FULL_WIDTH = {ord("０") + n: str(n) for n in range(10)}
_HANZI_NUMBER = f"[{''.join(_HANZI)}]{{1,2}}"
_AFTER_FIGURE = (
    r"\s?(?:[)）]|[.、．:：](?![0-9])|[.、．:：](?=[0-9]{1,2}(?:[型级度期]|三体|号染色体)))"
)
"""2.2型糖尿病 and 1、21三体综合征 hold a list number and a name; 2.11s is one number."""
_BRACKETED = rf"[(（]\s?(?:[0-9]{{1,2}}|{_HANZI_NUMBER})\s?[)）]"
_MARK = re.compile(
    rf"[{''.join(_CIRCLED)}]"
    rf"|{_BRACKETED}"
    r"|(?<![0-9第颈胸腰骶])(?<![0-9]\.)(?<!stage )(?<!grade )(?<!type )(?<!class )"
    rf"(?:(?<![A-Za-z])[0-9]{{1,2}}{_AFTER_FIGURE}|(?<=[A-Z]{{3}})[0-9][.．](?=[一-鿿]))"
    rf"|{_HANZI_NUMBER}[、.．]",
    re.IGNORECASE,
)
_NUMBERING = re.compile(
    rf"{_HANZI_NUMBER}[、.．](?![{''.join(_HANZI)}])|{_BRACKETED}"
    rf"|[0-9]{{1,2}}{_AFTER_FIGURE}|[{''.join(_CIRCLED)}]"
)
_SEPARATED = set(" \t\n\u3000,，;；。:：")
"""What may stand before the first number of a list."""
_MAX_GAP = 2
"""How far the numbers of one list may skip: 1.肺炎2.高血压4.糖尿病."""
_SEMICOLON = re.compile("[;；]")
_LEAD = re.compile(r"查因|待查|待排|诊断$|^考虑$")
"""A text before the first number that only leads up to the list."""
_CLOSING = "。.；;，,、：: \t\r\n\u3000"
_BULLETS = "-•·●◆■▪*"


class _Mark(NamedTuple):
    """A number that may open an item of a list."""

    start: int
    end: int
    number: int
    is_hanzi: bool
    is_circled: bool
    is_bracketed: bool


def split_diagnoses(text: str) -> tuple[str, ...]:
    """Split a list at its numbers, else at line breaks, and at semicolons outside brackets.

    A text before the first number stays when it is a diagnosis itself (左眼钝挫伤：1.…) and goes
    when it only leads up to the list (发热查因：1.…). Question marks stay: see `clean_diagnosis`.

    >>> split_diagnoses("1)肺炎 2)糖尿病")
    ('肺炎', '糖尿病')
    """
    lead, items = split_numbered(text)
    if items:
        pieces = [] if _LEAD.search(lead.strip(_CLOSING)) else lead.split("\n")
        pieces += [item.replace("\n", " ") for item in items]
    else:
        pieces = text.split("\n")
    parts = [part for piece in pieces for part in _split_at_semicolons(piece)]
    tidy = (" ".join(part.split()).strip(_CLOSING).lstrip(_BULLETS + _CLOSING) for part in parts)
    return tuple(dict.fromkeys(part for part in tidy if part))


def clean_diagnosis(text: str) -> str:
    """Strip numbering, closing punctuation and question marks from one diagnosis.

    >>> clean_diagnosis("一、1.肺结核？；")
    '肺结核'
    """
    previous = None
    while previous != text:
        previous = text = text.strip(f"{_CLOSING}?？")
        if mark := _NUMBERING.match(text.translate(_FULL_WIDTH)):
            text = text[mark.end() :]
    return text


def split_numbered(text: str) -> tuple[str, list[str]]:
    """Cut a text at the numbers of its list: what leads up to the list, and its items.

    A number opens an item at the beginning of a part, and inside one where it counts on. Numbers
    of the text itself stay: 8.11s, 2型, 第1、2腰椎, 二、三联律, and whatever brackets hold.
    """
    marks = list(_find_list_marks(text))
    if not marks:
        return text, []
    ends = [*(mark.start for mark in marks[1:]), len(text)]
    items = [text[mark.end : end] for mark, end in zip(marks, ends, strict=True)]
    return text[: marks[0].start], items


def _find_list_marks(text: str) -> Iterator[_Mark]:
    """Find the marks that open an item, in order."""
    candidates = _find_candidates(text)
    last_second = max((mark.start for mark in candidates if mark.number == 2), default=-1)
    end = 0
    figure = hanzi = 0
    for mark in candidates:
        before = text[mark.start - 1 : mark.start]
        is_at_beginning = mark.start == end or before in _SEPARATED
        if mark.is_hanzi:
            is_glued = mark.is_bracketed and hanzi > 0
            opens = mark.number == hanzi + 1 and (is_at_beginning or is_glued)
        elif mark.is_circled or figure < mark.number <= figure + (_MAX_GAP if figure else 0):
            opens = True
        elif mark.number == 1:
            is_in_words = before == " " and text[mark.start - 2].isascii()
            opens = (is_at_beginning and not is_in_words) or (
                not figure and mark.start < last_second
            )
        else:
            opens = mark.start == end or (is_at_beginning and before not in " ,，")
        if not opens:
            continue
        end = mark.end
        figure, hanzi = (0, mark.number) if mark.is_hanzi else (mark.number, hanzi)
        yield mark


def _find_candidates(text: str) -> list[_Mark]:
    inside = _find_bracketed(text)
    found: list[_Mark] = []
    for match in _MARK.finditer(text.translate(_FULL_WIDTH)):
        start, end = match.span()
        is_bracketed = match[0][0] in "(（"
        if inside[start] > is_bracketed:
            continue
        digits = match[0].strip().strip("()（）.、．:：").strip()
        number = _CIRCLED.get(digits) or _read_number(digits)
        is_hanzi, is_circled = digits[0] in _HANZI, digits in _CIRCLED
        found.append(_Mark(start, end, number, is_hanzi, is_circled, is_bracketed))
    return found


def _read_number(digits: str) -> int:
    if digits.isdecimal():
        return int(digits)
    tens = digits.startswith("十")
    return (10 if tens else 0) + (_HANZI[digits[-1]] if len(digits) > tens else 0)


def _find_bracketed(text: str) -> list[int]:
    """Say of every character in how many pairs of brackets it stands, the brackets themselves
    included; a bracket without its partner counts for nothing."""
    steps = [0] * (len(text) + 1)
    open_at: list[int] = []
    for place, character in enumerate(text):
        if character in "(（":
            open_at.append(place)
        elif character in ")）" and open_at:
            steps[open_at.pop()] += 1
            steps[place + 1] -= 1
    depth = 0
    depths: list[int] = []
    for step in steps[:-1]:
        depth += step
        depths.append(depth)
    return depths


def _split_at_semicolons(text: str) -> list[str]:
    depths = _find_bracketed(text)
    parts: list[str] = []
    start = 0
    for mark in _SEMICOLON.finditer(text):
        if not depths[mark.start()]:
            parts.append(text[start : mark.start()])
            start = mark.end()
    return [*parts, text[start:]]
