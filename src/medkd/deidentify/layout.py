"""What the layout of a text tells: its view without mark-up and gaps, in which the rules search;
the values in tables under or behind the heading of an identifier.

In: any text. Out: a view with a map back, the same with line breaks closed; spans, through `RULES`.
Not done here: labels in running text; tables of aligned blanks.
"""

import html
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

from medkd.deidentify.names import is_blank
from medkd.deidentify.rules import Category, Rule, Table, any_of
from medkd.text.normalize import Edit, View, make_view

_LABELS = Table("labels.yaml")
_SPACED_LABEL = re.compile(f"(?:{any_of(_LABELS['spaced'])})$")
"""The labels of forms, whose characters are often spaced out."""
_MARKUP = re.compile(
    r"<(?P<tag>/?[A-Za-z][A-Za-z0-9]{0,9})(?:\s[^<>]{0,300})?/?>"
    r"|&(?:[A-Za-z]{2,8}|#\d{1,6});"
)
_INLINE = re.compile("b|strong|i|em|u|s|span|font|a|sup|sub|mark|small|label")
_SPACED_HANZI = re.compile(r"(?<![一-鿿A-Za-z\d])[一-鿿](?: {1,4}[一-鿿](?![一-鿿A-Za-z\d])){1,9}")
_SPACED_DIGITS = re.compile(r"(?<![\d.])\d(?: {1,2}\d(?![\d.])){5,}")
_BROKEN = re.compile(r"(?<=[一-鿿\d-]) ?\n ?(?=[一-鿿\d-])")
_GAP = re.compile(" +")
_SPACED_LINE = re.compile(r"(?<!\S)\S(?: \S){9,}(?!\S)")
_LETTER_IN_YEAR = re.compile(r"(?<![A-Za-z\d][12])(?<=[12])[Oo](?=\d\d\s?[年/.-])")
"""2O22年, as scanned pages have it."""


view_of = lru_cache(maxsize=4)(make_view)
"""The texts of a case are looked at twice: for identifiers, and for what is left of them."""


def make_search_view(text: str) -> View:
    """Make the view in which rules search.

    >>> make_search_view("姓 名：<b>于   洋</b>&nbsp;").text
    '姓名:于洋 '
    """
    view = view_of(text)
    view = view.edit(_without_markup(view.text))
    view = view.sub(_LETTER_IN_YEAR, "0")
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
            written = "" if _INLINE.fullmatch(tag) else "\t" if tag in {"td", "th"} else "\n"
        edits.append(Edit(*found.span(), written))
    return edits


def _without_gaps(text: str) -> list[Edit]:
    """Close the gaps in what is written with a space after each character; a label at the end stays
    apart from what stands before it."""
    edits: list[Edit] = []
    for run in _SPACED_LINE.finditer(text):
        if re.search(r"\d", run[0]) and re.search("[一-鿿]", run[0]):
            gaps = range(run.start() + 1, run.end(), 2)
            text = text[: run.start()] + run[0].replace(" ", "\0") + text[run.end() :]
            edits += [Edit(at, at + 1, "") for at in gaps]
    for run in _SPACED_HANZI.finditer(text):
        label = _SPACED_LABEL.search(run[0].replace(" ", ""))
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


_KINDS = {
    heading: Category[kind] for kind, words in _LABELS["headings"].items() for heading in words
}
_LONGEST_HEADING = 10
_CELL = re.compile(r"[^\t|\n]+")
_LINE = re.compile(r"^[^\n]*[\t|][^\n]*", re.MULTILINE)
_NAME = re.compile(r"[一-鿿·•]{2,15}|[A-Z][A-Za-z'’-]+(?:,? [A-Z][A-Za-z.'’-]*){0,3}")

Cell = tuple[int, int, str]


@lru_cache(maxsize=4096)
def kind_of_heading(cell: str) -> Category | None:
    """Tell what stands under or behind a heading; None where nothing that identifies does.

    >>> kind_of_heading("患者姓名"), kind_of_heading("Attending"), kind_of_heading("性别")
    (<Category.NAME: '姓名'>, <Category.NAME: '姓名'>, None)
    """
    word = cell.strip(" :*#.").lower()
    if not word or len(word) > _LONGEST_HEADING + 10 or word in _LABELS["other"]:
        return None
    if word.isascii():
        return _KINDS.get(word) or _KINDS.get(word.split()[-1])
    for n in range(min(len(word), 5), 0, -1):
        if kind := _KINDS.get(word[-n:]):
            return kind if len(word) <= _LONGEST_HEADING else None
    return None


def _is_value(category: Category, text: str) -> bool:
    n_digits = sum(character.isdecimal() for character in text)
    match category:
        case Category.NAME:
            return _NAME.fullmatch(text) is not None and not is_blank(text)
        case Category.AGE:
            number = re.match(r"\d+", text)
            return number is not None and int(number[0]) > 89
        case Category.BED | Category.WARD:
            return n_digits > 0 and len(text) <= 12
        case Category.ADDRESS | Category.HOSPITAL:
            return len(text) >= 4 and not is_blank(text)
        case Category.DATE:
            return False  # found by its own form, which can be shifted
        case _:
            return n_digits >= 3


def _values(text: str) -> Iterator[tuple[Category, int, int]]:
    """Walk the rows: a row with two headings side by side heads the rows below it, a heading with
    something else behind it heads that."""
    columns: list[Category | None] = []
    last_end = -1
    for line in _LINE.finditer(text):
        if line.start() > last_end + 1:
            columns = []
        last_end = line.end()
        cells: list[Cell] = []
        for found in _CELL.finditer(line[0]):
            value = found[0].strip(" ")
            if value:
                start = line.start() + found.start() + found[0].index(value)
                cells.append((start, start + len(value), value))
        if not cells or set("".join(cell[2] for cell in cells)) <= set("-: "):
            continue
        kinds = [kind_of_heading(cell[2]) for cell in cells]
        if _is_header(kinds):
            columns = kinds
        elif len(cells) == len(columns):
            yield from _accepted(zip(columns, cells, strict=True))
        else:
            yield from _accepted(zip(kinds, cells[1:], strict=False))


def _is_header(kinds: list[Category | None]) -> bool:
    """Tell a row of headings from one of headings and values in turn."""
    return any(a and b for a, b in pairwise(kinds))


def _accepted(
    pairs: Iterable[tuple[Category | None, Cell]],
) -> Iterator[tuple[Category, int, int]]:
    for kind, (start, end, value) in pairs:
        if kind and _is_value(kind, value):
            yield kind, start, end


def _of(category: Category) -> Callable[[str], Iterator[tuple[int, int]]]:
    def spans(text: str) -> Iterator[tuple[int, int]]:
        if "\t" in text or "|" in text:
            for kind, start, end in _values(text):
                if kind is category:
                    yield start, end

    return spans


RULES = tuple(
    Rule(f"table_{category.name.lower()}", category, _of(category))
    for category in dict.fromkeys(_KINDS.values())
    if category is not Category.DATE
)
