"""The view of a text in which the rules search: one width, script and kind of dash and space, no
mark-up, no gaps inside words and numbers; with a map back to the original.

In: any text. Out: a view; and the same with the line breaks closed that may cut an identifier.
Not done here: the rules (`search`).
"""

import html
import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from medkd.deidentify.rules import any_of, load_table
from medkd.text.normalize import View, make_view

_MARKUP = re.compile(
    r"<(?P<tag>/?[A-Za-z][A-Za-z0-9]{0,9})(?:\s[^<>]{0,300})?/?>"
    r"|&(?:[A-Za-z]{2,8}|#\d{1,6});"
)
_INLINE = frozenset(
    [
        "b",
        "strong",
        "i",
        "em",
        "u",
        "s",
        "span",
        "font",
        "a",
        "sup",
        "sub",
        "mark",
        "small",
        "label",
    ]
)
_CELLS = frozenset(["td", "th"])
_SPACED_HANZI = re.compile(r"(?<![一-鿿A-Za-z\d])[一-鿿](?: {1,4}[一-鿿](?![一-鿿A-Za-z\d])){1,9}")
_SPACED_DIGITS = re.compile(r"(?<![\d.])\d(?: {1,2}\d(?![\d.])){5,}")
_BROKEN = re.compile(r"(?<=[一-鿿\d-]) ?\n ?(?=[一-鿿\d-])")
_GAP = re.compile(" +")


class _Edit(NamedTuple):
    start: int
    end: int
    written: str


def make_search_view(text: str) -> View:
    """Make the view in which rules search.

    >>> make_search_view("姓 名：<b>于   洋</b>&nbsp;").text
    '姓名:于洋 '
    """
    view = make_view(text)
    view = _edited(view, _without_markup(view.text))
    return _edited(view, _without_gaps(view.text))


def close_breaks(view: View) -> tuple[View, list[int]] | None:
    """Close the line breaks that may cut an identifier in two; tell where they were. None where
    there are none."""
    edits = [_Edit(*found.span(), "") for found in _BROKEN.finditer(view.text)]
    if not edits:
        return None
    seams: list[int] = []
    closed = 0
    for edit in edits:
        seams.append(edit.start - closed)
        closed += edit.end - edit.start
    return _edited(view, edits), seams


def _without_markup(text: str) -> list[_Edit]:
    if "<" not in text and "&" not in text:
        return []
    edits: list[_Edit] = []
    for found in _MARKUP.finditer(text):
        tag = (found["tag"] or "").lower().lstrip("/")
        if not tag:
            written = html.unescape(found[0]).replace("\xa0", " ")
        else:
            written = "" if tag in _INLINE else "\t" if tag in _CELLS else "\n"
        edits.append(_Edit(*found.span(), written))
    return edits


@cache
def _label() -> re.Pattern[str]:
    """Match the labels of forms, whose characters are often spaced out."""
    return re.compile(f"(?:{any_of(load_table('labels.yaml')['spaced'])})$")


def _without_gaps(text: str) -> list[_Edit]:
    """Close the gaps in what is written with a space after each character; a label at the end stays
    apart from what stands before it."""
    edits: list[_Edit] = []
    for run in _SPACED_HANZI.finditer(text):
        label = _label().search(run[0].replace(" ", ""))
        n_before = label.start() if label else 0
        edits += [
            _Edit(run.start() + gap.start(), run.start() + gap.end(), "")
            for number, gap in enumerate(_GAP.finditer(run[0]), start=1)
            if number != n_before
        ]
    for run in _SPACED_DIGITS.finditer(text):
        edits += [
            _Edit(run.start() + gap.start(), run.start() + gap.end(), "")
            for gap in _GAP.finditer(run[0])
        ]
    return sorted(edits)


def _edited(view: View, edits: Iterable[_Edit]) -> View:
    """Apply edits to a view's text and its map."""
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    position = 0
    for edit in edits:
        pieces += [view.text[position : edit.start], edit.written]
        starts += view.starts[position : edit.start]
        ends += view.ends[position : edit.start]
        starts += [view.starts[edit.start]] * len(edit.written)
        ends += [view.ends[edit.end - 1]] * len(edit.written)
        position = edit.end
    if not pieces:
        return view
    pieces.append(view.text[position:])
    starts += view.starts[position:]
    ends += view.ends[position:]
    return View("".join(pieces), starts, ends)
