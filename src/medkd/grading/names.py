"""One name of a diagnosis taken apart, and two such names compared.

In: a diagnosis as somebody wrote it. Out: its core and its qualities (side, course, type, stage ...), and how one name stands to another.
The words are in `qualities.yaml` and `synonyms.yaml`. Not done here: finding the diagnoses in an answer (`grading.answers`).

>>> compare(parse_name("Ⅱ型糖尿病"), parse_name("2 型糖尿病"))
<Relation.SAME: 'same'>
>>> compare(parse_name("左侧输尿管结石"), parse_name("右输尿管结石"))
<Relation.NEAR_MISS: 'near_miss'>
"""

import re
import unicodedata
from collections.abc import Mapping
from enum import StrEnum
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from rapidfuzz.distance import Indel

TABLES_DIR = Path(__file__).parent
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


def normalise(text: str) -> str:
    """Bring a name to one width, case and numbering; white space, punctuation and quotation marks go.

    >>> normalise("Ⅱ型 糖尿病（T2DM）")
    '2型糖尿病t2dm'
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("°", "度").replace("综合症", "综合征")
    plain = re.sub(r"(?<![a-z])(viii|vii|vi|iv|v|iii|ii|i)(?=[a-c]?[型期级度类])", lambda found: _ROMAN[found[1]], re.sub(r"\s", "", plain))
    plain = re.sub(r"(?<=type)(iv|iii|ii|i)(?=[a-z])", lambda found: _ROMAN[found[1]], plain)
    plain = re.sub(r"[一二三四五六](?=[型期级度](?!联))", lambda found: str("一二三四五六".index(found[0]) + 1), plain)
    return re.sub(r"[\W_]", "", plain)


_ROMAN = {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5", "vi": "6", "vii": "7", "viii": "8"}
_TYPE = re.compile(r"([0-9a-z甲乙丙丁戊]+)型")
_STAGE = re.compile(r"([0-9]+[a-c]?)[期级度]")


@lru_cache(maxsize=N_CACHED_NAMES)
def parse_name(text: str, negated: bool = False, synonyms_path: Path | None = None) -> Name:
    """Take a diagnosis apart; a name that is nothing but qualities is its own core."""
    plain = _use_one_name(normalise(text), synonyms_path)
    rest = plain
    qualities: Qualities = {}
    for axis, value, pattern in _quality_patterns():
        if pattern.search(rest):
            rest = pattern.sub("", rest)
            qualities[axis] = qualities.get(axis, frozenset()) | {value}
    for axis, pattern in (("type", _TYPE), ("stage", _STAGE)):
        values = frozenset(str(value) for value in pattern.findall(rest))
        if values:
            rest = pattern.sub("", rest)
            qualities[axis] = qualities.get(axis, frozenset()) | values
    core = _shorten(rest)
    return Name(core, qualities, negated) if core else Name(plain, {}, negated)


def _shorten(core: str) -> str:
    """Leave out what two writers of one name do or do not write."""
    core = re.sub(r"[性型的之]|(?<=.)部(?!分)|疾(?=病)", "", core)
    return re.sub(r"(?<=..)(症|病)+$", "", core)


def compare(answer: Name, reference: Name) -> Relation:
    """Say how an answer's diagnosis stands to the known one."""
    same_core = answer.core == reference.core
    if not same_core and not _are_kin(answer.core, reference.core):
        return Relation.DIFFERENT
    if answer.negated != reference.negated or _clash(answer.qualities, reference.qualities):
        return Relation.NEAR_MISS
    if same_core:
        return _compare_qualities(answer.qualities, reference.qualities)
    shorter, longer = sorted((answer.core, reference.core), key=len)
    if longer.endswith(shorter):
        return Relation.MORE_GENERAL if shorter == answer.core else Relation.MORE_SPECIFIC
    return Relation.PART if shorter in longer else Relation.UNCLEAR


def _are_kin(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) >= 2 and shorter in longer:
        return shorter not in _tables()["generic"]
    return re.sub(r"\D", "", one) == re.sub(r"\D", "", other) and Indel.normalized_similarity(one, other) >= LIKENESS


def _clash(one: Mapping[str, frozenset[str]], other: Mapping[str, frozenset[str]]) -> bool:
    tables = _tables()
    if any(one.get(axis) != other.get(axis) for axis in tables["strict"]):
        return True
    shared = [axis for axis in tables["exclusive"] if axis in one and axis in other]
    return any(one[axis].isdisjoint(other[axis]) for axis in shared)


def _compare_qualities(answer: Mapping[str, frozenset[str]], reference: Mapping[str, frozenset[str]]) -> Relation:
    ours = {(axis, value) for axis, values in answer.items() for value in values}
    theirs = {(axis, value) for axis, values in reference.items() for value in values}
    if ours == theirs:
        return Relation.SAME
    if {axis for axis, _ in ours ^ theirs} <= set(_tables()["soft"]):
        return Relation.OTHER_STAGE
    if ours < theirs:
        return Relation.MORE_GENERAL
    return Relation.MORE_SPECIFIC if ours > theirs else Relation.UNCLEAR


@cache
def _tables() -> dict[str, Any]:
    import yaml

    return cast(dict[str, Any], yaml.safe_load((TABLES_DIR / "qualities.yaml").read_text(encoding="utf-8")))


@cache
def _quality_patterns() -> list[tuple[str, str, re.Pattern[str]]]:
    """List the words of all axes in the order in which they are looked for: soft ones first, since 急性加重 is no 急性."""
    tables = _tables()
    axes = [item for kind in ("soft", "strict", "exclusive") for item in tables[kind].items()]
    return [(axis, value, re.compile(pattern)) for axis, values in axes for value, pattern in values.items()]


def _use_one_name(plain: str, synonyms_path: Path | None) -> str:
    names, pattern = _synonyms(synonyms_path)
    return pattern.sub(lambda found: names[found[0]], plain)


@cache
def _synonyms(path: Path | None) -> tuple[dict[str, str], re.Pattern[str]]:
    """Read the shipped synonyms, and those of `path` on top of them."""
    import yaml

    names: dict[str, str] = {}
    for file in (TABLES_DIR / "synonyms.yaml", path):
        if file is not None:
            groups = cast(dict[str, list[str]], yaml.safe_load(file.read_text(encoding="utf-8")))
            for name, others in groups.items():
                names.update((normalise(other), normalise(name)) for other in (name, *others))
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    whole_words = (rf"(?<![a-z]){re.escape(n)}(?![a-z])" if n.isascii() else re.escape(n) for n in longest_first)
    return names, re.compile("|".join(whole_words))
