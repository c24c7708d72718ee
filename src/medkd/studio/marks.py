"""Texts in pieces, marked or not: where a reasoning cites its record, what it cites that is not
there, what de-identification has put in and `prepare` taken out.

In: texts. Out: pieces with the name of their mark. Not done here: judging (`grading.checks`), HTML.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from medkd.grading.checks import find_claims

RUN = 4
"""Characters that record and reasoning must share in a row."""
_BREAK = re.compile(r"[\s，。、；：！？,;:!?()（）\[\]【】<>\"“”]")
_NUMBER_AT_END = re.compile(r"\d{1,9}(?:\.\d{1,9})?$")
"""A claim is a number, a measure and its number, or a finding behind 无 or 有."""
_MASK = re.compile(r"\[[^\[\]\n]{1,20}\]|⟦[^⟦⟧]{0,5000}⟧")


class Piece(NamedTuple):
    """A stretch of text and its mark: `cited`, `unfounded`, `found`, `masked`,
    `removed` or none."""

    text: str
    mark: str = ""


Span = tuple[int, int, str]
"""Where a mark begins and ends, and its name."""


def cut(text: str, spans: Iterable[Span]) -> list[Piece]:
    """Cut a text where its marks change; of marks that overlap the later one counts.

    >>> cut("abc", [(1, 2, "found")])
    [Piece(text='a', mark=''), Piece(text='b', mark='found'), Piece(text='c', mark='')]
    """
    marks = [""] * len(text)
    for start, end, mark in spans:
        marks[start:end] = [mark] * (min(end, len(text)) - start)
    pieces: list[Piece] = []
    at = 0
    for mark, group in groupby(marks):
        n = len(list(group))
        pieces.append(Piece(text[at : at + n], mark))
        at += n
    return pieces


def mark_record(record: str, reasoning: str) -> list[Piece]:
    """Mark in the record what the reasoning cites."""
    flat = _fold(record)
    parts = _BREAK.split(_fold(reasoning))
    known = {part[at : at + RUN] for part in parts for at in range(len(part) - RUN + 1)}
    runs = (at for at in range(len(flat) - RUN + 1) if flat[at : at + RUN] in known)
    spans = [(at, at + RUN, "cited") for at in runs]
    for claim, is_founded in find_claims(reasoning, record):
        if is_founded and (number := _NUMBER_AT_END.search(claim)):
            spans += _find_number(flat, number[0], "cited")
    return cut(record, spans)


def mark_reasoning(reasoning: str, record: str) -> list[Piece]:
    """Mark in the reasoning the numbers and denied findings that do not stand in the record."""
    flat = _fold(reasoning)
    spans: list[Span] = []
    for claim, is_founded in find_claims(reasoning, record):
        if not is_founded and (number := _NUMBER_AT_END.search(claim)):
            spans += _find_number(flat, number[0], "unfounded")
        elif not is_founded and claim.startswith("无"):
            denied = rf"(?:否认|未见|没有|无)(?:明显的?)?{re.escape(claim[1:])}"
            spans += [(*found.span(), "unfounded") for found in re.finditer(denied, flat)]
    return cut(reasoning, spans)


def mark_masks(text: str) -> list[Piece]:
    """Mark what de-identification has put in the place of an identifier, and ⟦what was taken
    out⟧.

    >>> mark_masks("患者[姓名1]，男")
    [Piece(text='患者', mark=''), Piece(text='[姓名1]', mark='masked'), Piece(text='，男', mark='')]
    """
    names = {"⟦": "removed", "[": "masked"}
    return cut(text, ((*found.span(), names[found[0][0]]) for found in _MASK.finditer(text)))


def _fold(text: str) -> str:
    """Fold width, character by character, so that places stay the same."""
    return "".join(
        folded if len(folded := unicodedata.normalize("NFKC", character)) == 1 else character
        for character in text
    )


def _find_number(text: str, number: str, mark: str) -> Iterator[Span]:
    for found in re.finditer(rf"(?<![\d.]){re.escape(number)}(?![\d])(?!\.\d)", text):
        yield (*found.span(), mark)
