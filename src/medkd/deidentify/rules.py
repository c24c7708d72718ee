"""What a rule for finding identifiers is made of.

In: nothing. Out: the types that `numbers`, `dates`, `places`, `names` and `english` fill and
`search` applies. Not done here: any rule.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple, cast

from medkd.core.yaml_io import read_shipped_yaml

VERSION = "medkd-rules 6"
"""Name and version of the rules, written into every case; raised with every change of what they
find."""


class Category(StrEnum):
    """What kind of identifier was found; the value is the surrogate's name."""

    NAME = "姓名"
    """A person: patient, relative, doctor."""
    ID_CARD = "证件号"
    """Identity card, passport, insurance and social security numbers."""
    PHONE = "电话"
    """Mobile and landline numbers."""
    EMAIL = "邮箱"
    """Electronic mail."""
    WEB = "网址"
    """Web addresses."""
    ACCOUNT = "账号"
    """Bank cards and accounts of messengers."""
    PLATE = "车牌"
    """Licence plates."""
    ADDRESS = "地址"
    """Places down from a city, home addresses, places of work."""
    HOSPITAL = "医院"
    """A hospital by its own name."""
    WARD = "病区"
    """A numbered ward."""
    BED = "床号"
    """A numbered bed."""
    RECORD = "编号"
    """Admission, record, image, pathology and other running numbers."""
    DATE = "日期"
    """A calendar date; shifted, or masked where the calendar does not have it."""
    AGE = "年龄"
    """An age over 89; told as 90 or older."""


class Match(NamedTuple):
    """One identifier in a text."""

    start: int
    end: int
    rule: str
    category: Category
    text: str
    """What was found, normalised."""
    is_flag: bool = False
    """Whether it is only shown to a person, and stays."""


Finder = Callable[[str], Iterable[tuple[int, int]]]
"""Finds spans in a normalised text."""


class Rule(NamedTuple):
    """A named way to find identifiers of one category."""

    name: str
    category: Category
    spans: Finder


def by_pattern(
    pattern: str,
    accepts: Callable[[re.Match[str]], bool] | None = None,
    needs: str | re.Pattern[str] = "",
) -> Finder:
    """Find what a pattern matches and a condition accepts, or its group `x` where it has one.

    `needs` are words of which a text must hold one, or a cheaper pattern: a quick look that spares
    the pattern most texts.
    """
    compiled = re.compile(pattern, re.ASCII)  # a word ends where Chinese begins
    group = "x" if "x" in compiled.groupindex else 0
    words = needs.split() if isinstance(needs, str) else ()
    look = needs if isinstance(needs, re.Pattern) else None

    def spans(text: str) -> Iterator[tuple[int, int]]:
        if (words and not any(word in text for word in words)) or (look and not look.search(text)):
            return
        for match in compiled.finditer(text):
            if accepts is None or accepts(match):
                yield match.span(group)

    return spans


def rules_of(category: Category, **finders: str | Finder) -> tuple[Rule, ...]:
    """Make the rules of a category, each under its name, from patterns or functions."""
    return tuple(
        Rule(name, category, by_pattern(found) if isinstance(found, str) else found)
        for name, found in finders.items()
    )


@cache
def load_table(name: str) -> dict[str, Any]:
    """Read one of this package's YAML tables."""
    return cast(dict[str, Any], read_shipped_yaml("medkd.deidentify", name))


def any_of(words: Iterable[str]) -> str:
    """Write a pattern for one of several words, the longest first."""
    return "|".join(re.escape(word) for word in sorted(set(words), key=lambda w: (-len(w), w)))


def first_characters(pattern: str) -> str:
    """List the characters, for a set in a pattern, with which the alternatives of a pattern begin.

    A look ahead at them spares the engine trying every word at every place. No alternative may
    begin with a group.

    >>> first_characters("患者|[其之]父|医生")
    '患其之医'
    """
    alternatives = re.sub(r"\((?:[^()]|\([^()]*\))*\)", "", pattern).split("|")
    return "".join(
        dict.fromkeys(
            "".join(
                word[1 : word.index("]")] if word[0] == "[" else word[0] for word in alternatives
            )
        )
    )
