"""Replacing identifiers: consistent surrogates within a case, dates moved by one offset, so that
intervals survive.

In: a raw case. Out: the same case de-identified, and how often each rule found something. The text
that was found is never kept. Not done here: the rules (`detect`), how a date is moved (`dates`),
what stands in a name's place (`surrogates`).

The offset of a case is drawn from a hash of its whole raw content: the same run gives the same
dates again, and who does not hold the original cannot compute it. Who holds the original has the
dates anyway.
"""

import hashlib
from collections import Counter
from typing import NamedTuple

from medkd.core.records import Case, RawCase
from medkd.deidentify.dates import DateShifter
from medkd.deidentify.detect import find_identifiers, find_repeated
from medkd.deidentify.rules import VERSION, Category, Find
from medkd.deidentify.shape import is_ordinary_word
from medkd.deidentify.surrogates import Style, Surrogates

_MAX_OFFSET_DAYS = 365
_SEAM = "。\n"
"""Between two texts of a case: nothing that identifies goes on over it."""


class Deidentified(NamedTuple):
    """A case without its identifiers, and the audit: finds by rule."""

    case: Case
    finds: Counter[str]


class Replacer:
    """Replaces the finds of one case; the same text of a category gets the same surrogate
    throughout."""

    def __init__(self, offset_days: int, style: Style = "mask", seed: int = 0) -> None:
        self._dates = DateShifter(offset_days)
        self._surrogates = Surrogates(style, seed)

    def replace(self, text: str, finds: list[Find]) -> str:
        """Give the text with every find replaced."""
        parts: list[str] = []
        position = 0
        for find in finds:
            parts += [
                text[position : find.start],
                self._surrogate(find.category, text[find.start : find.end]),
            ]
            position = find.end
        return "".join([*parts, text[position:]])

    def _surrogate(self, category: Category, text: str) -> str:
        match category:
            case Category.DATE:
                return self._dates.shift(text)
            case Category.AGE:
                return "90+" if text.isdecimal() else "90岁以上"
            case _:
                return self._surrogates.of(category, text)


def deidentify(case: RawCase, style: Style = "mask") -> Deidentified:
    """Replace the identifiers in a case's title, sections and diagnoses; id, source and address of
    the page stay."""
    texts = texts_of(case)
    found = find_all(texts)
    if not any(found):
        return Deidentified(Case(**case.model_dump(), deidentified_by=VERSION), Counter())
    drawn = _draw(case)
    replacer = Replacer(_offset(drawn), style, drawn)
    clean = iter([replacer.replace(text, finds) for text, finds in zip(texts, found, strict=True)])
    cleaned = case.model_copy(
        update={
            "sections": {name: next(clean) for name in case.sections},
            "title": next(clean),
            "diagnosis": tuple(clean),
        }
    )
    return Deidentified(
        Case(**cleaned.model_dump(), deidentified_by=VERSION),
        Counter(find.rule for finds in found for find in finds),
    )


def texts_of(case: RawCase) -> list[str]:
    """Give the texts of a case that are searched: its sections, its title, its diagnoses."""
    return [*case.sections.values(), case.title, *case.diagnosis]


def find_all(texts: list[str]) -> list[list[Find]]:
    """Find the identifiers in all texts of a case, also where a name met elsewhere in it stands
    without its context."""
    found = _find_in_all(texts)
    known = _known_names(texts, found)
    return (
        [find_repeated(text, known, finds) for text, finds in zip(texts, found, strict=True)]
        if known
        else found
    )


def _find_in_all(texts: list[str]) -> list[list[Find]]:
    """Search the texts of a case at once, which takes a third of the time of one by one, and sort
    the finds by text."""
    finds = iter([*find_identifiers(_SEAM.join(texts)), None])
    find = next(finds)
    found: list[list[Find]] = []
    start = 0
    for text in texts:
        found.append([])
        while find and find.start < start + len(text):
            if start <= find.start and find.end <= start + len(text):
                found[-1].append(find._replace(start=find.start - start, end=find.end - start))
            find = next(finds)
        start += len(text) + len(_SEAM)
    return found


def _known_names(texts: list[str], found: list[list[Find]]) -> dict[str, Category]:
    """Collect the names of persons and hospitals that are sure enough to be looked for without
    context."""
    known: dict[str, Category] = {}
    for text, finds in zip(texts, found, strict=True):
        for find in finds:
            name = text[find.start : find.end]
            is_person = find.category is Category.NAME and not is_ordinary_word(name)
            if is_person or (find.category is Category.HOSPITAL and len(name) >= 4):
                known[name] = find.category
    return known


def draw_offset(case: RawCase) -> int:
    """Draw the days by which a case's dates move into the past, 1 to 365, from its raw content."""
    return _offset(_draw(case))


def _offset(drawn: int) -> int:
    return -1 - drawn % _MAX_OFFSET_DAYS


def _draw(case: RawCase) -> int:
    content = case.model_dump_json(include={"id", "title", "sections"})
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8])
