"""A rule for tables: what stands in a column, or behind a cell, whose heading names an identifier.

In: normalised text whose cells are split by tabs or bars. Out: spans, through `RULES`. Not done
here: tables of aligned blanks; labels in running text (`numbers`, `names`, `places`).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

from medkd.deidentify.names import is_blank
from medkd.deidentify.rules import Category, Rule, load_table

_TABLE = load_table("labels.yaml")
_KINDS = {
    heading: Category[kind] for kind, words in _TABLE["headings"].items() for heading in words
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
    if not word or len(word) > _LONGEST_HEADING + 10 or word in _TABLE["other"]:
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
