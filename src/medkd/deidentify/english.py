"""English clinical text: what a pattern cannot say of labelled numbers, places, and names that a
label, a title or a relation announces.

In: normalised text. Out: spans, through `RULES` (in `english.yaml`). Not done here: names without
such a sign, which are a tagger's (`recognizers`); dates and ages, which `dates` finds in any
language.
"""

import re
from collections.abc import Iterable

from medkd.deidentify.rules import Table, any_of


def _spell(words: Iterable[str]) -> str:
    """Write a pattern for the ways in which labels are spelt: mrn, Mrn, MRN; medical record,
    Medical Record."""
    return any_of(
        way for word in words for way in (word, word.capitalize(), word.title(), word.upper())
    )


_TABLE = Table("english.yaml")
_TABLE.define(
    RELATIVE=any_of(way for w in _TABLE.words("relatives") for way in (w, w.capitalize())),
    **{f"{kind}_LABELS": _spell(labels) for kind, labels in _TABLE["numbers"].items()},
)
_NO_NAME = frozenset(_TABLE.words("no_name"))
_GENERIC = frozenset(_TABLE.words("generic_hospital"))
_NAME = _TABLE.compile("{WORD}|{FULL}|{INITIALS}|{LAST_FIRST}")


def _holds_no_other_word(words: str) -> bool:
    return _NO_NAME.isdisjoint(re.findall(r"[A-Za-z]{2,}", words))


def is_plausible_name(words: str) -> bool:
    """Tell whether words read as an English personal name.

    >>> is_plausible_name("Desmond Lee"), is_plausible_name("Chest Pain")
    (True, False)
    """
    return _NAME.fullmatch(words) is not None and _holds_no_other_word(words)


def _is_name(match: re.Match[str]) -> bool:
    return _holds_no_other_word(match["x"])


def _is_own_hospital(match: re.Match[str]) -> bool:
    return not _GENERIC.issuperset(match["n"].split())


def _has_three_digits(match: re.Match[str]) -> bool:
    return sum(map(str.isdecimal, match["x"])) >= 3


RULES = _TABLE.rules(_is_name, _is_own_hospital, _has_three_digits)
