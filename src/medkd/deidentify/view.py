"""The view of a text in which the rules search: one width, script and kind of dash and space, no
mark-up, no gaps inside words and numbers; with a map back to the original.

In: any text. Out: a view; and the same with the line breaks closed that may cut an identifier.
Not done here: the rules (`search`).
"""

import html
import re
from functools import cache

from medkd.deidentify.rules import any_of, load_table
from medkd.text.normalize import Edit, View, make_view

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


def make_search_view(text: str) -> View:
    """Make the view in which rules search.

    >>> make_search_view("姓 名：<b>于   洋</b>&nbsp;").text
    '姓名:于洋 '
    """
    view = make_view(text)
    view = view.edit(_without_markup(view.text))
    return view.edit(_without_gaps(view.text))


def close_breaks(view: View) -> tuple[View, list[int]] | None:
    """Close the line breaks that may cut an identifier in two; tell where they were. None where
    there are none."""
    edits = [Edit(*found.span(), "") for found in _BROKEN.finditer(view.text)]
    if not edits:
        return None
    seams: list[int] = []
    closed = 0
    for edit in edits:
        seams.append(edit.start - closed)
        closed += edit.end - edit.start
    return view.edit(edits), seams


def _without_markup(text: str) -> list[Edit]:
    if "<" not in text and "&" not in text:
        return []
    edits: list[Edit] = []
    for found in _MARKUP.finditer(text):
        tag = (found["tag"] or "").lower().lstrip("/")
        if not tag:
            written = html.unescape(found[0]).replace("\xa0", " ")
        else:
            written = "" if tag in _INLINE else "\t" if tag in _CELLS else "\n"
        edits.append(Edit(*found.span(), written))
    return edits


@cache
def _label() -> re.Pattern[str]:
    """Match the labels of forms, whose characters are often spaced out."""
    return re.compile(f"(?:{any_of(load_table('labels.yaml')['spaced'])})$")


def _without_gaps(text: str) -> list[Edit]:
    """Close the gaps in what is written with a space after each character; a label at the end stays
    apart from what stands before it."""
    edits: list[Edit] = []
    for run in _SPACED_HANZI.finditer(text):
        label = _label().search(run[0].replace(" ", ""))
        n_before = label.start() if label else 0
        edits += [
            Edit(run.start() + gap.start(), run.start() + gap.end(), "")
            for number, gap in enumerate(_GAP.finditer(run[0]), start=1)
            if number != n_before
        ]
    for run in _SPACED_DIGITS.finditer(text):
        edits += [
            Edit(run.start() + gap.start(), run.start() + gap.end(), "")
            for gap in _GAP.finditer(run[0])
        ]
    return sorted(edits)
