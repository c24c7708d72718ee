"""What a rule for finding identifiers is made of, and how the tables of rules are read.

In: a YAML file of words, pattern parts and rules. Out: the rules that `search` applies, in the
order in which they claim text. Not done here: any rule; they are in the YAML files, and what a
pattern cannot say in `numbers`, `dates`, `places`, `names` and `english`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, cast

from medkd.core.config import read_shipped_yaml

VERSION = "medkd-rules 10"
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

    @property
    def english(self) -> str:
        """What stands for the value in an English record: [name 1]."""
        return _ENGLISH[self]


_ENGLISH = {
    Category.NAME: "name",
    Category.ID_CARD: "ID",
    Category.PHONE: "phone",
    Category.EMAIL: "email",
    Category.WEB: "web address",
    Category.ACCOUNT: "account",
    Category.PLATE: "plate",
    Category.ADDRESS: "address",
    Category.HOSPITAL: "hospital",
    Category.WARD: "ward",
    Category.BED: "bed",
    Category.RECORD: "number",
    Category.DATE: "date",
    Category.AGE: "age",
}


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
Condition = Callable[[re.Match[str]], bool]


class Rule(NamedTuple):
    """A named way to find identifiers of one category."""

    name: str
    category: Category
    spans: Finder


def by_pattern(
    pattern: str, conditions: Sequence[Condition] = (), needs: Sequence[str] = (), look: str = ""
) -> Finder:
    """Find what a pattern matches and all conditions accept, or its group `x` where it has one.

    `needs` are words of which a text must hold one, `look` a cheaper pattern: each spares the
    pattern most texts.
    """
    compiled = re.compile(pattern, re.ASCII)  # a word ends where Chinese begins
    group = "x" if "x" in compiled.groupindex else 0
    cheap = re.compile(look)

    def spans(text: str) -> Iterator[tuple[int, int]]:
        if (needs and not any(word in text for word in needs)) or not cheap.search(text):
            return
        for match in compiled.finditer(text):
            if all(accepts(match) for accepts in conditions):
                yield match.span(group)

    return spans


def by_what_follows(pattern: str, follows: str, conditions: Sequence[Condition] = ()) -> Finder:
    """Find what a pattern matches in front of another one, which is rarer and searched first."""
    sign = re.compile(follows, re.ASCII)
    compiled = re.compile(rf"(?:{pattern})\Z", re.ASCII)

    def spans(text: str) -> Iterator[tuple[int, int]]:
        for found in sign.finditer(text):
            end = found.start()
            match = compiled.search(text, max(0, end - _LONGEST_BEFORE), end)
            if match and all(accepts(match) for accepts in conditions):
                yield match.span("x")

    return spans


_LONGEST_BEFORE = 60


def by_pieces(pattern: str, piece: str, least: int = 1) -> Finder:
    """Find the dates of a range or list: what stands before group `tail`, each piece in it. The
    last number of a piece is a day or a month."""
    whole, part, number = re.compile(pattern), re.compile(piece), re.compile(r"\d+(?=\D*$)")

    def spans(text: str) -> Iterator[tuple[int, int]]:
        for match in whole.finditer(text):
            pieces = [found.span() for found in part.finditer(text, *match.span("tail"))]
            numbers = [number.search(text[start:end]) for start, end in pieces]
            if all(found is None or least <= int(found[0]) <= 31 for found in numbers):
                yield match.start(), match.start("tail")
                yield from pieces

    return spans


class Table:
    """The words, named parts of patterns and rules of one of this package's YAML files.

    In a pattern, `{NAME}` stands for a part, or for one of the words, of that name; `{^NAME}` for
    the characters with which they begin.
    """

    def __init__(self, name: str) -> None:
        self._content = cast(dict[str, Any], read_shipped_yaml("medkd.deidentify", name))
        self._parts = dict(cast(dict[str, str], self._content.get("parts", {})))

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def words(self, key: str) -> list[str]:
        """List the words under a key: with blanks between, a list, or a list of lists."""
        found = self._content[key]
        rows = found.split() if isinstance(found, str) else found
        return [str(w) for row in rows for w in ([row] if isinstance(row, str) else row)]

    def define(self, **parts: str) -> None:
        """Add parts that are computed."""
        self._parts |= parts

    def fill(self, pattern: str) -> str:
        """Put parts and words in the places of their names."""

        def put(found: re.Match[str]) -> str:
            name = found[2]
            if name in self._parts:
                part = self.fill(self._parts[name])
            else:
                part = any_of(self.words(name.lower()))
            return first_characters(part) if found[1] else part

        return re.sub(r"\{(\^?)([A-Z][A-Z\d_]+)\}", put, pattern)

    def compile(self, pattern: str, flags: int = 0) -> re.Pattern[str]:
        """Compile a pattern with its parts put in."""
        return re.compile(self.fill(pattern), flags)

    def rules(self, *functions: Callable[..., Any]) -> tuple[Rule, ...]:
        """Read the rules: a pattern; a pattern (`find`) with `if`, `needs` and `look`, with
        `follows` or with `pieces`; or the name of a function (`by`). `functions` are those that
        rules name, as finders or conditions."""
        named = {function.__name__.lstrip("_"): function for function in functions}
        return tuple(
            Rule(name, Category[category], self._read(rule, named))
            for group in self._content["rules"]
            for category, rules in group.items()
            for name, rule in rules.items()
        )

    def _read(self, rule: str | dict[str, Any], named: dict[str, Callable[..., Any]]) -> Finder:
        match rule:
            case str():
                return by_pattern(self.fill(rule))
            case {"by": by}:
                return named[by]
            case {"find": find, "follows": follows}:
                conditions = [named[name] for name in rule.get("if", "").split()]
                return by_what_follows(self.fill(find), self.fill(follows), conditions)
            case {"find": find, "pieces": piece}:
                return by_pieces(self.fill(find), self.fill(piece), rule.get("least", 1))
            case _:
                return by_pattern(
                    self.fill(rule["find"]),
                    [named[name] for name in rule.get("if", "").split()],
                    rule.get("needs", "").split(),
                    self.fill(rule.get("look", "")),
                )


def any_of(words: Iterable[str]) -> str:
    """Write a pattern for one of several words, the longest first, in which words that begin alike
    share their beginning: the engine looks at each character once.

    >>> any_of(["患者", "患儿", "病人", "病人家属"])
    '患[儿者]|病人(?:家属)?'
    """
    return _share(frozenset(words), is_whole=True)


def _share(words: frozenset[str], is_whole: bool = False) -> str:
    ends: dict[str, set[str]] = {}
    for word in sorted(words - {""}):
        ends.setdefault(word[0], set()).add(word[1:])
    last = [re.escape(first) for first, rest in ends.items() if rest == {""}]
    branches = [
        re.escape(first) + _share(frozenset(rest)) for first, rest in ends.items() if rest != {""}
    ]
    if last:
        branches.append(f"[{''.join(last)}]" if len(last) > 1 else last[0])
    joined = "|".join(branches)
    if "" in words:
        return f"(?:{joined})?" if joined else ""
    return joined if is_whole or len(branches) == 1 else f"(?:{joined})"


def first_characters(pattern: str) -> str:
    """List the characters, for a set in a pattern, with which the alternatives of a pattern begin.

    A look ahead at them spares the engine trying every word at every place. No alternative may
    begin with a group.

    >>> first_characters("患者|[其之]父|医生")
    '患其之医'
    """
    outer = ""
    while outer != pattern:
        outer, pattern = pattern, re.sub(r"\([^()]*\)", "", pattern)
    firsts = (re.match(r"\A(?:\[([^]]*)\]|\\?(.))", word) for word in outer.split("|"))
    return "".join(dict.fromkeys("".join(first[1] or first[2] for first in firsts if first)))
