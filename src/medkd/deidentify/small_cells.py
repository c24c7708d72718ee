"""Lists small cells: cases that few others are like in age, sex, place and rare disease.

In: de-identified cases. Out: a row a cell with fewer than five cases. Not done here: making a cell
larger, which is a person's choice: leave a case out, or write its place or disease less exactly.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from medkd.core.records import Case

SMALL = 5
_AGE = re.compile(r"(\d{1,3})\s?岁|(\d{1,3})[- ]?(?:years?[- ]old|y/?o\b)|(90\+)")
_SEX = re.compile(r"[男女]|\b(?:fe)?male\b|\b(?:wo)?man\b", re.IGNORECASE)
_PLACE = re.compile(r"(?![自从在于到至去往来由住])[一-鿿]{2,3}(?:省|市|自治区|自治州)")


class Cell(NamedTuple):
    """What a few cases share."""

    age: str
    """A band of ten years, as 60-69."""
    sex: str
    place: str
    """A province or city that the case still names."""
    rare_disease: str
    """The first diagnosis, where fewer than five cases have it."""
    n: int = 0


def list_small_cells(cases: Iterable[Case]) -> list[Cell]:
    """List the cells with fewer than five cases that name a place or a rare disease."""
    seen = [_cell_of(case) for case in cases]
    diseases = Counter(cell.rare_disease for cell in seen)
    cells = Counter(
        cell if diseases[cell.rare_disease] < SMALL else cell._replace(rare_disease="")
        for cell in seen
    )
    return sorted(
        cell._replace(n=n)
        for cell, n in cells.items()
        if n < SMALL and (cell.place or cell.rare_disease)
    )


def _cell_of(case: Case) -> Cell:
    text = "\n".join(case.sections.values())
    age, sex, place = _AGE.search(text), _SEX.search(text), _PLACE.search(text)
    years = 90 if age and age[3] else int(age[1] or age[2]) if age else -1
    band = (
        "" if years < 0 else "90+" if years >= 90 else f"{years // 10 * 10}-{years // 10 * 10 + 9}"
    )
    said = sex[0].lower() if sex else ""
    return Cell(
        band,
        "" if not said else "女" if said in {"女", "female", "woman"} else "男",
        place[0] if place else "",
        case.diagnosis[0] if case.diagnosis else "",
    )
