"""How alike two names of diagnoses are, and whether they share anything that tells.

In: two names, taken apart. Out: a number that orders, and plain answers. Rare characters weigh
more: frequencies are those of the shipped names and of jieba's dictionary.
Not done here: deciding that two names are one (`grading.compare`).
"""

import math
import re
from collections import Counter
from functools import cache, lru_cache
from itertools import chain

from medkd.grading.names import N_CACHED_NAMES, Name, normalize_name
from medkd.grading.tables import load_table

MIN_SHARED = 1.4
"""Information, in nats over `_COMMON`, that two names share at the least if they may be kin."""
_COMMON = 0.5
"""Information of a character that nearly every second name holds: 性, 病."""
_POWER = 6
"""How far the rarest character outweighs the others."""
_RUN = 5
_QUALITY, _ALIKE = 9.0, 9.0
"""Weight, in nats, of a quality and of an end for which there are other words."""
_RAREST = 20.0
"""No character weighs more, in nats."""
_SHARES = (0.5, 0.3, 0.2)
"""What counts for likeness: how much of the known name is said, its site, its rarest character."""


def measure_likeness(answer: Name, reference: Name) -> float:
    """Measure how much of the known name an answer says, 0 to 1, the rare parts before the others.

    A part stands for its region (膝, 下肢), and what physicians use for one another counts as said
    (包块, 占位).
    """
    said, known = _plain(answer.plain), _plain(reference.plain)
    parts = _with_regions(said)
    matched: list[float] = []
    missing: list[float] = []
    for quality in set(_pattern("qualities").findall(known)):
        (matched if quality in said else missing).append(_QUALITY)
    known = _pattern("qualities").sub("", known)
    for number in sorted(_find_alike(said) & _find_alike(known)):
        words = _alike()[number]
        if words.search(known):
            known = words.sub("", known)
            matched.append(_ALIKE)
    for part in _list_parts(known):
        (matched if part in parts else missing).append(min(_rarity()[part], _RAREST))
    whole = sum(weight**_POWER for weight in chain(matched, missing))
    coverage = sum(weight**_POWER for weight in matched) / whole if whole else 0.0
    names_site = reference.core[:1] in parts or known[:_RUN] in parts
    rarest = 1 - max(missing, default=0.0) / _RAREST
    return sum(
        share * part for share, part in zip(_SHARES, (coverage, names_site, rarest), strict=True)
    )


def share_information(one: Name, other: Name) -> bool:
    """Tell whether two names share characters that few names hold."""
    shared = _list_parts(_plain(one.plain)) & _list_parts(_plain(other.plain))
    weights = _information()
    return sum(max(0.0, weights[part] - _COMMON) for part in shared) > MIN_SHARED


def have_other_sites(one: Name, other: Name) -> bool:
    """Tell whether each name speaks of an organ, and of none that the other one speaks of."""
    organs = set(load_table("likeness")["organs"])
    ours, theirs = (organs & set(name.plain) for name in (one, other))
    if not ours or not theirs or ours & theirs:
        return False
    return not (_with_regions(one.plain) & theirs or _with_regions(other.plain) & ours)


def are_other_lesions(one: Name, other: Name) -> bool:
    """Tell whether two names end in different kinds of disease, neither of which the other name
    speaks of: 肺炎, 肺癌."""
    first, second = _find_lesion(one.core), _find_lesion(other.core)
    if not first or not second or first == second:
        return False
    kinds = _lesions()
    return not kinds[first].search(other.plain) and not kinds[second].search(one.plain)


@lru_cache(maxsize=N_CACHED_NAMES)
def _find_lesion(core: str) -> str:
    ends = {kind: [m.end() for m in pattern.finditer(core)] for kind, pattern in _lesions().items()}
    return next((kind for kind, places in ends.items() if len(core) in places), "")


@lru_cache(maxsize=N_CACHED_NAMES)
def _list_parts(plain: str) -> frozenset[str]:
    """List what a name is made of: its hanzi, and the runs of five letters of its Latin words."""
    parts = {character for character in plain if not character.isascii()}
    for word in re.findall("[a-z0-9]+", plain):
        parts.update(word[at : at + _RUN] for at in range(max(1, len(word) - _RUN + 1)))
    return frozenset(parts)


@lru_cache(maxsize=N_CACHED_NAMES)
def _plain(plain: str) -> str:
    return _pattern("fillers").sub("", plain)


@lru_cache(maxsize=N_CACHED_NAMES)
def _with_regions(plain: str) -> frozenset[str]:
    """List the parts of a name, and those of the regions whose parts it names."""
    found = set(_list_parts(plain))
    for region, parts in load_table("likeness")["regions"].items():
        if not found.isdisjoint(parts):
            found.update(region)
    return frozenset(found)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    listed = load_table("likeness")[name]
    return re.compile(listed if isinstance(listed, str) else "|".join(listed))


@lru_cache(maxsize=N_CACHED_NAMES)
def _find_alike(plain: str) -> frozenset[int]:
    """Find the groups of words for one thing of which a name holds one."""
    return frozenset(number for number, words in enumerate(_alike()) if words.search(plain))


@cache
def _alike() -> list[re.Pattern[str]]:
    return [re.compile(words) for words in load_table("likeness")["alike"]]


@cache
def _lesions() -> dict[str, re.Pattern[str]]:
    return {kind: re.compile(words) for kind, words in load_table("likeness")["lesions"].items()}


class _Weights(dict[str, float]):
    """Weights in nats; what was never met weighs as much as the rarest."""

    def __missing__(self, part: str) -> float:
        return max(self.values())


@cache
def _information() -> dict[str, float]:
    """Map parts of the shipped names to how few of these hold them, in nats."""
    tables = (load_table("synonyms"), load_table("is_a"))
    groups = chain.from_iterable(table.items() for table in tables)
    names = {normalize_name(str(name)) for key, others in groups for name in (key, *others)}
    counts = Counter(chain.from_iterable(map(_list_parts, names)))
    return _Weights({part: math.log((len(names) + 1) / (n + 1)) for part, n in counts.items()})


@cache
def _rarity() -> dict[str, float]:
    """Map characters to how rarely Chinese texts hold them, in nats."""
    bands = load_table("rarity").items()
    return _Weights({part: float(nats) for nats, parts in bands for part in parts})
