"""Identifiers in tables, known by the heading over or before them: cells between tabs or bars,
files of values with commas between, keys and values of JSON.

In: a normalised text. Out: spans, through `TABLE_RULES`; the words are in `labels.yaml`. Not done
here: dates, which are found by their own form.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

from medkd.deidentify import names
from medkd.deidentify.rules import Category, Rule, Table

_LABELS = Table("labels.yaml")

_KINDS = {
    heading: Category[kind] for kind, words in _LABELS["headings"].items() for heading in words
}
_LONGEST_HEADING = 10
_CELL = re.compile(r"[^\t|\n]+")
_PAIR = re.compile(
    r'"(?P<key>[^"\n]{1,24})" ?: ?(?:"(?P<value>[^"\n]{1,80})"|\[(?P<list>[^\[\]{}\n]{1,200})\])'
)
"""A key and its value in JSON, or its list of values."""
_QUOTED = re.compile(r'(?<=")[^"\n,]{1,80}(?=")')
_NEW_WORD = re.compile(r"_|(?<=[a-z])(?=[A-Z])")
_LINE = re.compile(r"^[^\n]*[\t|][^\n]*", re.MULTILINE)
_COMMA_CELL = re.compile(r"[^,\n]+|(?<=,)(?=,)")
_COMMA_HEADER = re.compile(r"^[^\s,:。;\d]{1,12}(?:,[^\s,:。;\d]{1,12}){3,}$", re.MULTILINE)
"""The first line of a file of values with commas between."""
_NAME = re.compile(r"[一-鿿·•]{2,15}|[A-Z][A-Za-z'’-]+(?:,? [A-Z][A-Za-z.'’-]*){0,3}")
_LOGIN = re.compile(r"[A-Za-z\d][\w.-]{3,30}", re.ASCII)

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
        *_, last = ["", *word.split()]  # a drug name is nobody's
        return _KINDS.get(word) or (None if last in _LABELS["whole"] else _KINDS.get(last))
    for n in range(min(len(word), 5), 0, -1):
        if kind := _KINDS.get(word[-n:]):
            return kind if len(word) <= _LONGEST_HEADING else None
    return None


def _is_value(category: Category, text: str) -> bool:
    n_digits = sum(character.isdecimal() for character in text)
    match category:
        case Category.NAME:
            return _NAME.fullmatch(text) is not None and not names.is_blank(text)
        case Category.AGE:
            number = re.match(r"\d+", text)
            return number is not None and int(number[0]) > 89
        case Category.BED | Category.WARD:
            return n_digits > 0 and len(text) <= 12
        case Category.ADDRESS | Category.HOSPITAL:
            return len(text) >= 4 and not names.is_blank(text)
        case Category.DATE:
            return False  # found by its own form, which can be shifted
        case Category.ACCOUNT:
            return _LOGIN.fullmatch(text) is not None
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
        cells = _cells(_CELL, line)
        if not cells or set("".join(cell[2] for cell in cells)) <= set("-: "):
            continue
        kinds = _kinds([cell[2] for cell in cells])
        if _is_header(kinds):
            columns = kinds
        elif len(cells) == len(columns):
            yield from _accepted(zip(columns, cells, strict=True))
        else:
            yield from _accepted(zip(kinds, cells[1:], strict=False))


def _comma_values(text: str) -> Iterator[tuple[Category, int, int]]:
    """Walk the rows below a header with commas, as long as they have as many cells."""
    last_end = -1
    for header in _COMMA_HEADER.finditer(text):
        if header.start() < last_end:
            continue  # a row of the table before
        columns = _kinds(header[0].split(","))
        if not _is_header(columns):
            continue
        for line in re.compile("[^\n]+").finditer(text, header.end() + 1):
            if line[0].count(",") + 1 != len(columns):
                break
            last_end = line.end()
            yield from _accepted(zip(columns, _cells(_COMMA_CELL, line), strict=False))


def _cells(cell: re.Pattern[str], line: re.Match[str]) -> list[Cell]:
    cells: list[Cell] = []
    for found in cell.finditer(line[0]):
        value = found[0].strip(" ")
        if value or cell is _COMMA_CELL:
            start = line.start() + found.start() + found[0].index(value)
            cells.append((start, start + len(value), value))
    return cells


def _pairs(text: str) -> Iterator[tuple[Category, int, int]]:
    """Walk the keys of JSON and their values."""
    pairs = list(_PAIR.finditer(text))
    kinds = _kinds([_NEW_WORD.sub(" ", pair["key"]) for pair in pairs])
    for kind, pair in zip(kinds, pairs, strict=True):
        part = "value" if pair["value"] else "list"
        spans = [pair.span(part)]
        if part == "list":
            spans = [found.span() for found in _QUOTED.finditer(text, *pair.span("list"))]
        for start, end in spans if kind else ():
            if kind and _is_value(kind, text[start:end]):
                yield kind, start, end


@lru_cache(maxsize=4)
def _table_values(text: str) -> list[tuple[Category, int, int]]:
    """List the values of tables in a text, for the rules of all kinds at once."""
    values: list[tuple[Category, int, int]] = []
    if '":' in text or '" :' in text:
        values += _pairs(text)
    if "\t" in text or "|" in text:
        values += _values(text)
    return [*values, *_comma_values(text)]


def _kinds(cells: list[str]) -> list[Category | None]:
    kinds = [kind_of_heading(cell) for cell in cells]
    words = [cell.strip(" :*#.").lower() for cell in cells]
    for n, pair in enumerate(pairwise(words) if any(kinds) else ()):
        if set(pair) == set(_LABELS["paired"]):
            kinds[n : n + 2] = [Category.NAME, Category.NAME]
    return kinds


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
        return ((start, end) for kind, start, end in _table_values(text) if kind is category)

    return spans


TABLE_RULES = tuple(
    Rule(f"table_{category.name.lower()}", category, _of(category))
    for category in dict.fromkeys(_KINDS.values())
    if category is not Category.DATE
)
