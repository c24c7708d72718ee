"""Reads an English diagnosis for the words that give it away, and finds them in a text.

In: the principal diagnosis; a text. Out: spans of the text that name the disease, in whatever order
and with whatever else of the name: "cancer of the left breast" for "Left breast carcinoma", "STEMI"
by its initials. Not done here: who has the disease (`statements`), what is cut (`leakage`).

>>> name = read_english("Left breast carcinoma, invasive ductal")
>>> find_name("A lady with cancer of the left breast; breast tender.", name)
[(12, 37)]
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple, cast

from medkd.core.config import read_shipped_yaml

_MIN_STEM, _SHARE = 4, 0.6
"""Two words are one where they share this many first letters and this share of the longer one:
embolism, emboli."""
_WORD = re.compile(r"[A-Za-zÀ-ɏ]+(?:['’]s\b)?|\d+")
_LEADING = re.compile(
    r"[,;:(\n]|\b(?:with|due to|secondary to|complicated by|caused by|following)\b",
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"\(([^()]*)\)")
_OF = re.compile(r"\b(?:of|in)\b", re.IGNORECASE)
_JOIN = re.compile(r"[\s/'’-]{0,2}")
_LINKS = frozenset({"of", "the", "in", "his", "her", "a", "an"})
_ADJECTIVE = re.compile(r"(?:(?<!ot)ic|al|ar|ary|ous|ive|ed|ing)$")
_OTHER_THING = re.compile(
    r"(?:ectomy|otomy|ostomy|plasty|scopy|graph|graphy|gram|ology|ologist|ine?|ase"
    r"|cyte|crit|phil|ium|eum)$"
)
"""An operation, a test, a speciality, a substance, a cell, a tissue."""
_OF_AN_ORGAN = re.compile(r"(?:itis|iti|oma|osis|osi)$")
_INFLAMED = re.compile(r"iti(?:s|des)?$")
_MIN_CUT = 3
"""Letters of a word that is cut short, beside another of the name: dig toxicity."""
_MAX_INITIALS = 6
_SPACE = re.compile(r"[ -]")
_CARRIED = re.compile(
    r"\b(?:scores?|index|scale|criteria|risk|probability|tests?|titres?|screen(?:ing|ed)?|serology|"
    r"prophylaxis|vaccinated) (?:for|of|against) (?:an? |the )?$",
    re.IGNORECASE,
)
_MAX_CARRIER_WORDS = 3
_STOPS = re.compile(
    r"(?:and|or|but|with|without|on|in|at|of|for|to|by|from|as|was|is|are|were|has|had|that|this"
    r"|which|who|after|before|since|due|no|not)\b",
    re.IGNORECASE,
)


class EnglishName(NamedTuple):
    """The words of a diagnosis, in the form in which words are compared."""

    leading: frozenset[str]
    """The words of the name itself."""
    words: frozenset[str]
    """All that say what it is, and other words for them."""
    heads: frozenset[str]
    """What kind of disease it is: with another of its words they tell it."""
    telling: frozenset[str]
    """Each tells it alone."""
    initials: frozenset[str]
    """What it is called for short, in capitals."""


class _Tables(NamedTuple):
    modifiers: frozenset[str]
    generic: frozenset[str]
    places: frozenset[str]
    carriers: frozenset[str]
    short: frozenset[str]
    germs: frozenset[str]
    species: frozenset[str]
    other_short: frozenset[str]
    same: dict[str, frozenset[str]]
    short_for: dict[frozenset[str], str]
    of_a_drug: frozenset[str]
    combining: tuple[str, ...]


@cache
def _tables() -> _Tables:
    table = cast("dict[str, Any]", read_shipped_yaml("medkd.prepare", "english.yaml"))
    same: dict[str, frozenset[str]] = {}
    for row in table["same"]:
        group = _plain_words(row)
        for word in group:
            same[word] = same.get(word, frozenset()) | group
    return _Tables(
        modifiers=_plain_words(table["modifiers"]),
        generic=_plain_words(table["generic"]),
        places=_plain_words(table["places"]),
        carriers=_plain_words(table["carriers"]),
        germs=_plain_words(table["germs"]),
        species=_plain_words(table["species"]),
        short=frozenset(table["short"].split()),
        other_short=frozenset(table["other_short"].split()),
        same=same,
        short_for={_plain_words(name): short for name, short in table["short_for"].items()},
        of_a_drug=_plain_words(table["of_a_drug"]),
        combining=tuple(table["combining"].split()),
    )


def _plain_words(text: str) -> frozenset[str]:
    return frozenset(map(_plain, text.split()))


@lru_cache(maxsize=2**16)
def _plain(word: str) -> str:
    """Write a word in the form in which words are compared."""
    word = re.sub(r"['’]s$", "", word.lower())
    word = word.replace("ae", "e").replace("oe", "e").replace("our", "or")
    return word[:-1] if re.search(r"[^siu]s$", word) and len(word) > _MIN_STEM else word


def _is_same(one: str, other: str) -> bool:
    """Tell whether two plain words are forms of one word."""
    if one == other:
        return True
    if "oid" in (one[-3:], other[-3:]):  # pemphigoid is no pemphigus
        return False
    if bool(_OTHER_THING.search(one)) != bool(_OTHER_THING.search(other)):
        return False
    n = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), -1)
    n = min(len(one), len(other)) if n < 0 else n
    return n >= _MIN_STEM and n >= _SHARE * max(len(one), len(other))


def _is_cut(word: str, words: Iterable[str]) -> bool:
    """Tell whether a word is one of the words cut short."""
    return len(word) >= _MIN_CUT and any(
        len(other) > len(word) + 1 and other.startswith(word) for other in words
    )


def _is_among(word: str, words: Iterable[str]) -> bool:
    return any(_is_same(word, other) for other in words)


def read_english(diagnosis: str) -> EnglishName | None:
    """Read a diagnosis; None where it is not English or says nothing but how and where."""
    if not re.search("[A-Za-z]{3}", diagnosis) or re.search("[一-鿿]", diagnosis):
        return None
    tables = _tables()
    leading = next(
        (p for p in _LEADING.split(_BRACKETS.sub(" ", diagnosis)) if p.strip()), ""
    ).strip()
    inside = [_words_of(text) for text in _BRACKETS.findall(diagnosis)]
    words: set[str] = set()
    heads: set[str] = set()
    telling: set[str] = set()
    initials = {found[0] for found in inside if len(found) == 1 and found[0].isupper()}
    other_names = [found for found in inside if found and _plain(found[-1]) in tables.generic]
    for found in (_words_of(leading), *other_names):
        content = [_plain(word) for word in found if _plain(word) not in tables.modifiers]
        if not content:
            continue
        before_of = [_plain(word) for word in _words_of(_OF.split(leading)[0])]
        head = next((word for word in reversed(before_of) if word in content), content[-1])
        words |= set(content)
        heads |= {head} | tables.same.get(head, frozenset())
        if head not in tables.generic | tables.places:
            telling |= {head} | tables.same.get(head, frozenset()) - tables.generic
        elif head not in tables.of_a_drug:
            telling |= set(content) - tables.generic - tables.places
        if not all(word[0].isupper() for word in found):  # Acute Heart Failure: no proper names
            proper = {_plain(word) for word in found[1:] if word.istitle()} & set(content)
            telling |= proper - tables.generic - tables.places
        initials |= set(_shorten(found, head))
    if not words:
        return None
    nouns = {
        other
        for word in words
        for other in tables.same.get(word, ())
        if not _ADJECTIVE.search(other)
    }
    named = set(words)
    telling |= nouns - tables.generic - tables.places
    initials -= tables.other_short
    initials |= {short for name, short in tables.short_for.items() if name <= words}
    words |= {_plain(word) for word in _words_of(diagnosis)} - tables.modifiers
    words |= heads | {other for word in words for other in tables.same.get(word, ())}
    return EnglishName(*map(frozenset, (named, words, heads, telling, initials)))


def _words_of(text: str) -> list[str]:
    found = cast("list[str]", _WORD.findall(text))
    return [
        word
        for word in found
        if word.lower() not in _LINKS and not word.isdigit() and not _STOPS.fullmatch(word)
    ]


def _shorten(words: list[str], head: str) -> Iterator[str]:
    """Yield the initials of the last words up to the head, as many as make a short name."""
    at = max((i for i, word in enumerate(words) if _plain(word) == head), default=len(words) - 1)
    shorts = {""}
    for word in reversed(words[: at + 1]):
        made = {letters + short for letters in _letters(word) for short in shorts}
        shorts = {short for short in made if len(short) <= _MAX_INITIALS}
        for short in shorts:
            if len(short) >= 3 or short in _tables().short:
                yield short


def _letters(word: str) -> set[str]:
    """Return what stands for a word in a short name."""
    if word.isupper():
        return {word}
    parts = [
        part
        for part in _tables().combining
        if word.lower().startswith(part) and word.lower() != part
    ]
    return {word[0].upper(), *(f"{word[0]}{word[len(part)]}".upper() for part in parts)}


class _Token(NamedTuple):
    start: int
    end: int
    plain: str


def find_name(text: str, name: EnglishName) -> list[tuple[int, int]]:
    """Find the spans that name the disease, in order and apart."""
    spans = [*_find_runs(text, name)]
    taken = bytearray(len(text))
    for start, end in spans:
        taken[start:end] = b"\1" * (end - start)
    spans += [span for span in _find_initials(text, name) if 1 not in taken[slice(*span)]]
    return sorted(spans)


def _find_runs(text: str, name: EnglishName) -> Iterator[tuple[int, int]]:
    """Yield the runs of words that name the disease."""
    tables = _tables()
    tokens = [
        _Token(*m.span(), _plain(m[0]))
        for m in _WORD.finditer(text)
        if m[0] != "CA"  # CA 15-3
    ]
    run: list[_Token] = []
    for token in [*tokens, None]:
        joins = token is not None and (
            not run or _JOIN.fullmatch(text, run[-1].end, token.start) is not None
        )
        is_part = token is not None and (
            token.plain in tables.modifiers
            or token.plain in _LINKS
            or _is_among(token.plain, name.words)
            or _is_cut(token.plain, name.words)
        )
        if token is not None and joins and is_part:
            run.append(token)
            continue
        yield from _read_run(text, run, name)
        run = [token] if token is not None and is_part else []


def _read_run(text: str, run: list[_Token], name: EnglishName) -> Iterator[tuple[int, int]]:
    """Yield the span of a run of words where it tells the disease, without links at its ends."""
    kinds: set[str] = set()
    matched: list[_Token] = []
    for token in run:
        forms = [word for word in sorted(name.words) if _is_same(token.plain, word)]
        if forms or _is_cut(token.plain, name.words):
            matched.append(token)
            kinds.add(forms[0] if forms else token.plain)
    if not matched:
        return
    has_head = any(_is_among(token.plain, name.heads) for token in matched)
    tells = any(_tells(token.plain, word) for token in matched for word in name.telling)
    if not tells and not (has_head and len(kinds) > 1):
        return
    first = next(i for i, token in enumerate(run) if token.plain not in _LINKS)
    start = run[first].start
    if run[first] is not matched[0] or not _is_species(text, matched[0], name):
        yield _open_hyphen(text, start), matched[-1].end


def _is_species(text: str, token: _Token, name: EnglishName) -> bool:
    """Tell whether a word is the second of a germ's name: Streptococcus pneumoniae, M.
    tuberculosis; but not of a disease by it: Klebsiella pneumonia."""
    before = re.search(r"([A-Z][a-z]*)\.? $", text[max(0, token.start - 20) : token.start])
    is_germ = before and (
        _plain(before[1]) in _tables().germs
        or (before[0].endswith(". ") and text[token.start].islower())
    )
    return bool(is_germ) and (token.plain in _tables().species or token.plain not in name.words)


def _tells(word: str, telling: str) -> bool:
    """Tell whether a word is a form of one that tells: schizophrenic, but not pancreatic
    or prostate."""
    is_organ = (_OF_AN_ORGAN.search(telling) and _ADJECTIVE.search(word)) or (
        _INFLAMED.search(telling) and not _INFLAMED.search(word)
    )
    return word == telling or (not is_organ and _is_same(word, telling))


def _open_hyphen(text: str, start: int) -> int:
    """Move a start to the beginning of the word that is joined by a hyphen: smear-positive TB."""
    joined = re.search(r"[A-Za-z]{1,20}-$", text[max(0, start - 20) : start])
    return start - len(joined[0]) if joined else start


def covers(text: str, name: EnglishName) -> bool:
    """Tell whether a span holds every word of the name but those that say how, or its initials."""
    if text.upper() in name.initials:
        return True
    found = [_plain(word) for word in _words_of(text)]
    same = _tables().same
    return all(
        any(_is_same(word, other) or other in same.get(word, ()) for other in found)
        for word in name.leading
    )


def _find_initials(text: str, name: EnglishName) -> Iterator[tuple[int, int]]:
    """Yield where the short name stands: not as room air (on RA), nor as a heading (PE:)."""
    if not name.initials:
        return
    pattern = "|".join(sorted(map(re.escape, name.initials), key=len, reverse=True))
    for found in re.finditer(
        rf"(?<![A-Za-z0-9])(?<!on )[a-z]?(?:{pattern})s?(?![A-Za-z0-9:])", text
    ):
        yield _open_hyphen(text, found.start()), found.end()


def is_carried(text: str, start: int, end: int) -> bool:
    """Tell whether the words around a name make it that of a test, a score or a germ."""
    if _CARRIED.search(text, max(0, start - 30), start):
        return True
    for _ in range(_MAX_CARRIER_WORDS):
        joined = _SPACE.match(text, end)
        following = _WORD.match(text, joined.end()) if joined else None
        if following is None or _STOPS.match(following[0]):
            return False
        if _plain(following[0]) in _tables().carriers:
            return True
        end = following.end()
    return False
