"""Where a reasoning cites its record: numbers and runs of words that stand in both, and what it
cites that is not there.

In: the record and the reasoning. Out: each text in pieces, marked or not. Not done here: judging it
(`grading.checks`), HTML.
"""

import re
import unicodedata
from itertools import groupby
from typing import NamedTuple

from medkd.grading.checks import find_claims

RUN = 4
"""Characters that record and reasoning must share in a row."""
_BREAK = re.compile(r"[\s，。、；：！？,;:!?()（）\[\]【】<>\"“”]")

_NUMBER_AT_END = re.compile(r"\d{1,9}(?:\.\d{1,9})?$")
"""A claim is a number, a measure and its number, or a finding behind 无 or 有."""


class Piece(NamedTuple):
    """A stretch of text and its mark: `cited`, `unfounded` or none."""

    text: str
    mark: str = ""


def mark_record(record: str, reasoning: str) -> list[Piece]:
    """Mark in the record what the reasoning cites."""
    marks = [""] * len(record)
    known = _list_runs(_fold(reasoning))
    flat = _fold(record)
    for at in range(len(flat) - RUN + 1):
        if flat[at : at + RUN] in known:
            marks[at : at + RUN] = ["cited"] * RUN
    for claim, is_founded in find_claims(reasoning, record):
        if is_founded and (number := _NUMBER_AT_END.search(claim)):
            _mark_number(flat, number[0], marks)
    return _cut(record, marks)


def mark_reasoning(reasoning: str, record: str) -> list[Piece]:
    """Mark in the reasoning the numbers and denied findings that do not stand in the record."""
    marks = [""] * len(reasoning)
    flat = _fold(reasoning)
    for claim, is_founded in find_claims(reasoning, record):
        if is_founded:
            continue
        if number := _NUMBER_AT_END.search(claim):
            _mark_number(flat, number[0], marks, "unfounded")
        elif claim.startswith("无"):
            for found in re.finditer(
                rf"(?:否认|未见|没有|无)(?:明显的?)?{re.escape(claim[1:])}", flat
            ):
                marks[found.start() : found.end()] = ["unfounded"] * (found.end() - found.start())
    return _cut(reasoning, marks)


def _fold(text: str) -> str:
    """Fold width, character by character, so that places stay the same."""
    return "".join(
        folded if len(folded := unicodedata.normalize("NFKC", character)) == 1 else character
        for character in text
    )


def _list_runs(text: str) -> set[str]:
    return {part[at : at + RUN] for part in _BREAK.split(text) for at in range(len(part) - RUN + 1)}


def _mark_number(text: str, number: str, marks: list[str], mark: str = "cited") -> None:
    for found in re.finditer(rf"(?<![\d.]){re.escape(number)}(?![\d])(?!\.\d)", text):
        marks[found.start() : found.end()] = [mark] * (found.end() - found.start())


def _cut(text: str, marks: list[str]) -> list[Piece]:
    pieces: list[Piece] = []
    at = 0
    for mark, group in groupby(marks):
        n = len(list(group))
        pieces.append(Piece(text[at : at + n], mark))
        at += n
    return pieces


_MASK = re.compile(r"\[[^\[\]\n]{1,20}\]|⟦[^⟦⟧]{0,5000}⟧")


def mark_masks(text: str) -> list[Piece]:
    """Mark what de-identification has put in the place of an identifier, and ⟦what was taken
    out⟧.

    >>> mark_masks("患者[姓名1]，男")
    [Piece(text='患者', mark=''), Piece(text='[姓名1]', mark='masked'), Piece(text='，男', mark='')]
    """
    marks = [""] * len(text)
    for found in _MASK.finditer(text):
        mark = "removed" if found[0][0] == "⟦" else "masked"
        marks[found.start() : found.end()] = [mark] * (found.end() - found.start())
    return _cut(text, marks)
