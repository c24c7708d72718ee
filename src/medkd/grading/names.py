"""One name of a diagnosis, taken apart.

In: a diagnosis as somebody wrote it. Out: its core and its qualities (side, course, type, stage
...). The words are in `qualities.yaml` and `synonyms.yaml`. Not done here: comparing two names
(`grading.relations`), finding the diagnoses in an answer (`grading.answers`).

>>> name = parse_name("左侧 Ⅱ型 糖尿病足")
>>> name.core, sorted(name.qualities)
('糖尿病足', ['side', 'type'])
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from medkd.grading.writing import normalise, read_qualities, use_one_name

N_CACHED_NAMES = 16384
MAX_NAME = 400
"""Characters of a name that are read; what is longer is no name."""
Qualities = dict[str, frozenset[str]]


class Name(NamedTuple):
    """A diagnosis taken apart."""

    core: str
    qualities: Mapping[str, frozenset[str]]
    negated: bool = False
    plain: str = ""
    """The whole name under its one name."""
    essence: str = ""
    """The whole name without side, course and soft qualities: where two of these differ by a
    replaced word, so do the diseases."""
    kind: str = ""
    """The whole name without side and soft qualities: what `kinds.yaml` knows it by."""
    written: Mapping[str, frozenset[str]] = {}
    """The qualities as they were written, before one name took the place of many: 原发性 of
    原发性高血压."""


_TYPE = re.compile(r"(?:[a-z]{3,})?([0-9]+[a-z]?|[a-z]{1,2}|[甲乙丙丁戊])型")
_DEGREE = re.compile(r"([0-9]+)度(?=[^度]{0,5}传导阻滞)")
_STAGE = re.compile(r"([0-9]+[a-c]?)[期级度]")


@lru_cache(maxsize=N_CACHED_NAMES)
def parse_name(text: str, negated: bool = False, synonyms_path: Path | None = None) -> Name:
    """Take a diagnosis apart; a name that is nothing but qualities is its own core."""
    written = normalise(text[:MAX_NAME])
    plain = use_one_name(written, synonyms_path)
    rest, qualities = _take_qualities(plain)
    _, as_written = _take_qualities(written)
    if (
        rest.endswith("炎")
        and qualities.get("stage") == frozenset({"急性加重"})
        and "course" not in qualities
    ):
        qualities = {axis: values for axis, values in qualities.items() if axis != "stage"} | {
            "course": frozenset({"急性"})
        }
    core = shorten(rest)
    if _always_acute().search(core):
        qualities["course"] = qualities.get("course", frozenset()) - {"急性"}
        qualities = {axis: values for axis, values in qualities.items() if values}
    essence = kind = plain
    for axis, _, pattern in quality_patterns():
        if axis in _PASSING or axis in read_qualities()["soft"]:
            essence = pattern.sub("", essence)
            kind = kind if axis == "course" else pattern.sub("", kind)
    essence = shorten(_STAGE.sub("", _TYPE.sub("", essence)))
    kind = re.sub("[性型的症]", "", _STAGE.sub("", kind))
    if not core:
        return Name(plain, {}, negated, plain, plain, kind, as_written)
    return Name(core, qualities, negated, plain, essence, kind, as_written)


def _take_qualities(plain: str) -> tuple[str, Qualities]:
    rest = plain
    qualities: Qualities = {}
    for axis, value, pattern in quality_patterns():
        if pattern.search(rest):
            rest = pattern.sub("", rest)
            qualities[axis] = qualities.get(axis, frozenset()) | {value}
    for axis, pattern in (("degree", _DEGREE), ("type", _TYPE), ("stage", _STAGE)):
        values = frozenset("".join(found.groups("")) for found in pattern.finditer(rest))
        if values:
            rest = pattern.sub("", rest)
            qualities[axis] = qualities.get(axis, frozenset()) | values
    return rest, qualities


_PASSING = {"side", "course"}
"""Axes whose words may stand beside any other."""


def shorten(core: str) -> str:
    """Leave out what two writers of one name do or do not write."""
    core = re.sub(
        r"[性型的之]|(?<=血栓)形成|(?<=.)部(?!分)|疾(?=病)|(?<=.)[伴并](?=.)|(?<=..)区(?!获得|性)|(?<=..)氏(?=.)",
        "",
        core,
    )
    return re.sub(r"(?<=..)(?:症(?![候状])|病+$)", "", core)


@cache
def _always_acute() -> re.Pattern[str]:
    """Find what is acute by itself, so that nobody need say so."""
    return re.compile(
        f"(?:{'|'.join(shorten(normalise(name)) for name in read_qualities()['always_acute'])})$"
    )


@cache
def quality_patterns() -> list[tuple[str, str, re.Pattern[str]]]:
    """List the words of all axes in the order in which they are looked for: soft ones first, since
    急性加重 is no 急性."""
    tables = read_qualities()
    axes = [item for kind in ("soft", "strict", "exclusive") for item in tables[kind].items()]
    return [
        (axis, value, re.compile(pattern))
        for axis, values in axes
        for value, pattern in values.items()
    ]
