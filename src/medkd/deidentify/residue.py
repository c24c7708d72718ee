"""Finds what may still identify somebody after replacing, for a person to look at.

In: a text, the matches in it and what a tagger flagged. Out: spans by kind that no match covers.
Not done here: deciding whether what is left identifies anybody.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from medkd.deidentify.rules import Category, Match
from medkd.text.normalize import make_view

_DATE_SHAPE = re.compile(
    r"(?<![\d.])(?:19|20)\d\d\s?(?:年|[-/.]\d{1,2}(?:[-/.]\d{1,2})?(?![\d.]))"
    r"|\d{1,2}月份?\d{1,2}(?:[日号]|(?!\d))|(?<![\d.])\d{1,2}[-/.]\d{1,2}[-/](?:\d\d|\d{4})(?!\d)"
    r"|(?<!\d)(?:19|20)\d\d[01]\d[0-3]\d(?!\d)"
)
_LONG_NUMBER = re.compile(r"(?<![\d.])\d(?:[ -]?\d){6,}(?![\d.]|[x×*^])")
_KEPT = 12
"""Characters shown on each side of what is left."""


class ResidueKind(StrEnum):
    """Why something that is left deserves a look."""

    ORIGINAL = "original"
    """The text of something that was masked elsewhere in the case."""
    DATE_SHAPE = "date_shape"
    """It is written like a calendar date."""
    LONG_NUMBER = "long_number"
    """Seven digits or more."""
    FLAG = "flag"
    """A tagger took it for an identifier, and it is no plausible name."""


class Residue(NamedTuple):
    """One thing that is left in a case."""

    kind: ResidueKind
    text: str
    around: str


def find_residue(texts: Sequence[str], found: Sequence[Sequence[Match]]) -> list[Residue]:
    """Find what is left in the texts of a case."""
    originals = {
        match.text
        for matches in found
        for match in matches
        if not match.is_flag and _is_telling(match)
    }
    return [
        residue
        for text, matches in zip(texts, found, strict=True)
        if text
        for residue in _left_in(text, matches, originals)
    ]


def find_date_shapes(text: str, matches: Iterable[Match]) -> list[tuple[int, int]]:
    """Find what is written like a calendar date and lies in no match."""
    taken = _cover(text, matches)
    view = make_view(text)
    spans = [view.original_span(*found.span()) for found in _DATE_SHAPE.finditer(view.text)]
    return [(start, end) for start, end in spans if 1 not in taken[start:end]]


def _is_telling(match: Match) -> bool:
    """Leave out what is also met as an ordinary word or number: a surname, a bed, an age."""
    if match.category in {Category.AGE, Category.BED, Category.DATE, Category.WARD}:
        return False
    return len(match.text) >= 3


def _cover(text: str, matches: Iterable[Match]) -> bytearray:
    taken = bytearray(len(text))
    for match in matches:
        if not match.is_flag:
            taken[match.start : match.end] = b"\1" * (match.end - match.start)
    return taken


def _left_in(text: str, matches: Sequence[Match], originals: Iterable[str]) -> Iterator[Residue]:
    taken = _cover(text, matches)
    view = make_view(text)
    spans: list[tuple[int, int, ResidueKind]] = [
        (match.start, match.end, ResidueKind.FLAG) for match in matches if match.is_flag
    ]
    for kind, pattern in (
        (ResidueKind.DATE_SHAPE, _DATE_SHAPE),
        (ResidueKind.LONG_NUMBER, _LONG_NUMBER),
    ):
        spans += [(*view.original_span(*m.span()), kind) for m in pattern.finditer(view.text)]
    for original in originals:
        start = view.text.find(original)
        while start >= 0:
            span = view.original_span(start, start + len(original))
            spans.append((*span, ResidueKind.ORIGINAL))
            start = view.text.find(original, start + 1)
    for start, end, kind in sorted(spans):
        if 1 not in taken[start:end]:
            around = text[max(0, start - _KEPT) : end + _KEPT]
            yield Residue(kind, text[start:end], " ".join(around.split()))
