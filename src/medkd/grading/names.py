"""One name of a diagnosis taken apart, and two such names compared.

In: a diagnosis as somebody wrote it. Out: its core and its qualities (side, course, type, stage ...), and how one name stands to another.
The words are in `qualities.yaml`, `synonyms.yaml` and `kinds.yaml`. Not done here: finding the diagnoses in an answer (`grading.answers`).

>>> compare(parse_name("Ⅱ型糖尿病"), parse_name("2 型糖尿病"))
<Relation.SAME: 'same'>
>>> compare(parse_name("左侧输尿管结石"), parse_name("右输尿管结石"))
<Relation.NEAR_MISS: 'near_miss'>
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple, cast

from rapidfuzz.distance import Indel, Postfix, Prefix

from medkd.grading.writing import normalise, read_qualities, read_table, use_one_name

N_CACHED_NAMES = 16384
LIKENESS = 0.75
"""Share of common characters from which two different cores may be spellings of one name."""

Qualities = dict[str, frozenset[str]]


class Relation(StrEnum):
    """How an answer's diagnosis stands to the known one."""

    SAME = "same"
    """The same diagnosis, by name or by synonym."""
    MORE_GENERAL = "more_general"
    """The known one with something left out."""
    MORE_SPECIFIC = "more_specific"
    """The known one with something added."""
    OTHER_STAGE = "other_stage"
    """The same but for its stage, grade, risk or age group."""
    PART = "part"
    """One name stands within the other, not as its head."""
    UNCLEAR = "unclear"
    """Spelt alike; the rules cannot tell."""
    NEAR_MISS = "near_miss"
    """The same but for a word that makes it another diagnosis: side, type, course, nature, cause, a negation."""
    DIFFERENT = "different"
    """Another diagnosis."""


class Name(NamedTuple):
    """A diagnosis taken apart."""

    core: str
    qualities: Mapping[str, frozenset[str]]
    negated: bool = False
    plain: str = ""
    """The whole name under its one name."""
    essence: str = ""
    """The whole name without side, course and soft qualities: where two of these differ by a replaced word, so do the diseases."""
    written: Mapping[str, frozenset[str]] = {}
    """The qualities as they were written, before one name took the place of many: 原发性 of 原发性高血压."""


_TYPE = re.compile(r"(?:[a-z]{3,})?([0-9]+[a-z]?|[a-z]{1,2}|[甲乙丙丁戊])型|([0-9]+)度(?=[^度]{0,4}传导阻滞)")
_STAGE = re.compile(r"([0-9]+[a-c]?)[期级度]")


@lru_cache(maxsize=N_CACHED_NAMES)
def parse_name(text: str, negated: bool = False, synonyms_path: Path | None = None) -> Name:
    """Take a diagnosis apart; a name that is nothing but qualities is its own core."""
    written = normalise(text)
    plain = use_one_name(written, synonyms_path)
    rest, qualities = _take_qualities(plain)
    _, as_written = _take_qualities(written)
    core = _shorten(rest)
    essence = plain
    for axis, _, pattern in _quality_patterns():
        if axis in _PASSING or axis in read_qualities()["soft"]:
            essence = pattern.sub("", essence)
    essence = _shorten(_STAGE.sub("", _TYPE.sub("", essence)))
    return Name(core, qualities, negated, plain, essence, as_written) if core else Name(plain, {}, negated, plain, plain, as_written)


def _take_qualities(plain: str) -> tuple[str, Qualities]:
    rest = plain
    qualities: Qualities = {}
    for axis, value, pattern in _quality_patterns():
        if pattern.search(rest):
            rest = pattern.sub("", rest)
            qualities[axis] = qualities.get(axis, frozenset()) | {value}
    for axis, pattern in (("type", _TYPE), ("stage", _STAGE)):
        values = frozenset("".join(found.groups("")) for found in pattern.finditer(rest))
        if values:
            rest = pattern.sub("", rest)
            qualities[axis] = qualities.get(axis, frozenset()) | values
    return rest, qualities


_PASSING = {"side", "course"}
"""Axes whose words may stand beside any other."""
_MINOR = {"risk", "age", "state"}
"""Axes that one writer names and another does not, of one and the same diagnosis."""


def _shorten(core: str) -> str:
    """Leave out what two writers of one name do or do not write."""
    core = re.sub(r"[性型的之]|(?<=.)部(?!分)|疾(?=病)|(?<=.)[伴并](?=.)|(?<=..)氏(?=.)", "", core)
    return re.sub(r"(?<=..)(?:症(?![候状])|病+$)", "", core)


def compare(answer: Name, reference: Name) -> Relation:
    """Say how an answer's diagnosis stands to the known one."""
    if answer.plain == reference.plain:
        return Relation.SAME if answer.negated == reference.negated else Relation.NEAR_MISS
    if _can_stand_for(answer, reference) or _can_stand_for(reference, answer):
        return Relation.SAME if answer.negated == reference.negated else Relation.NEAR_MISS
    same_core = answer.core == reference.core or _is_reordered(answer, reference)
    if not same_core and not _are_kin(answer.core, reference.core) and not _are_kin(answer.essence, reference.essence):
        return _compare_strangers(answer, reference)
    if answer.negated != reference.negated or _clash(answer, reference):
        return Relation.NEAR_MISS
    if same_core:
        return _compare_qualities(answer.qualities, reference.qualities)
    if _is_replaced(answer.essence, reference.essence):
        return Relation.NEAR_MISS
    shorter, longer = sorted((answer.core, reference.core), key=len)
    if longer.endswith(shorter):
        return Relation.MORE_GENERAL if shorter == answer.core else Relation.MORE_SPECIFIC
    return Relation.PART if shorter in longer else Relation.UNCLEAR


def _compare_strangers(answer: Name, reference: Name) -> Relation:
    """Compare names that share no word: one may be a kind of the other, or a foreign name that no table knows."""
    if answer.negated == reference.negated:
        if reference.core in _kinds().get(answer.core, ()):
            return Relation.MORE_SPECIFIC
        if answer.core in _kinds().get(reference.core, ()):
            return Relation.MORE_GENERAL
    is_untranslated = _is_latin(answer.plain) != _is_latin(reference.plain)
    return Relation.UNCLEAR if is_untranslated and not answer.negated and not reference.negated else Relation.DIFFERENT


def _is_latin(plain: str) -> bool:
    """Tell whether a name is, in the main, one that no table has a Chinese name for."""
    return plain.isascii() or bool(re.search(r"[a-z]{6}", plain))


def _can_stand_for(short: Name, full: Name) -> bool:
    """Tell whether a name is a short form of several meanings, and the other one of them."""
    return full.core in _meanings().get(short.plain, ())


def _are_kin(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) >= 2 and shorter in longer:
        return shorter not in _generic()
    return Indel.normalized_similarity(one, other) >= LIKENESS


def _is_reordered(one: Name, other: Name) -> bool:
    """Tell whether two names are the same characters in another order; with two sides in play, order matters."""
    is_one_sided = all(len(name.qualities.get("side", ())) <= 1 for name in (one, other))
    return len(one.core) >= 4 and is_one_sided and sorted(one.core) == sorted(other.core)


def _is_replaced(one: str, other: str) -> bool:
    """Tell whether one name is the other with a word replaced by another: 房间隔缺损, 室间隔缺损."""
    n_before = Prefix.similarity(one, other)
    one, other = one[n_before:], other[n_before:]
    n_after = Postfix.similarity(one, other)
    return n_after < min(len(one), len(other))


def _clash(one: Name, other: Name) -> bool:
    """Tell whether a word in one name makes it another disease than the other name."""
    tables = read_qualities()
    if any({one.core, other.core} <= {parse_name(name).core for name in group} for group in tables["distinct"] if one.core != other.core):
        return True
    if _is_reversed(one.plain, other.plain) or _is_reversed(other.plain, one.plain):
        return True
    pairs = ((one.qualities, other.qualities), (one.written, other.written))
    return any(
        axis in ours and axis in theirs and ours[axis].isdisjoint(theirs[axis]) for ours, theirs in pairs for axis in tables["exclusive"]
    )


def _is_reversed(one: str, other: str) -> bool:
    """Tell whether a word such as 非 in one name turns round what the other name says."""
    for axis, _, pattern in _quality_patterns():
        found = pattern.search(one) if axis in read_qualities()["strict"] else None
        if found and not pattern.search(other):
            beside = one[found.end() : found.end() + 2] or one[max(0, found.start() - 2) : found.start()]
            if beside in other:
                return True
    return False


def _compare_qualities(answer: Mapping[str, frozenset[str]], reference: Mapping[str, frozenset[str]]) -> Relation:
    ours = {(axis, value) for axis, values in answer.items() for value in values}
    theirs = {(axis, value) for axis, values in reference.items() for value in values}
    apart = {axis for axis, _ in ours ^ theirs}
    if not apart or all(axis in _MINOR and not (axis in answer and axis in reference) for axis in apart):
        return Relation.SAME
    if apart <= set(read_qualities()["soft"]):
        return Relation.OTHER_STAGE
    if ours < theirs:
        return Relation.MORE_GENERAL
    return Relation.MORE_SPECIFIC if ours > theirs else Relation.UNCLEAR


@cache
def _generic() -> set[str]:
    """List the words that two diagnoses may share without being kin."""
    return {form for word in read_qualities()["generic"] for form in (word, _shorten(word))}


@cache
def _kinds() -> dict[str, set[str]]:
    """Map the core of a diagnosis to the cores of what it is a kind of."""
    found: dict[str, set[str]] = {}
    for general, specifics in cast(dict[str, list[str]], read_table("kinds.yaml")).items():
        for specific in specifics:
            found.setdefault(parse_name(specific).core, set()).add(parse_name(general).core)
    return found


@cache
def _meanings() -> dict[str, set[str]]:
    """Map a short form of several meanings to the cores of all of them."""
    return {normalise(short): {parse_name(name).core for name in names} for short, names in read_qualities()["ambiguous"].items()}


@cache
def _quality_patterns() -> list[tuple[str, str, re.Pattern[str]]]:
    """List the words of all axes in the order in which they are looked for: soft ones first, since 急性加重 is no 急性."""
    tables = read_qualities()
    axes = [item for kind in ("soft", "strict", "exclusive") for item in tables[kind].items()]
    return [(axis, value, re.compile(pattern)) for axis, values in axes for value, pattern in values.items()]
