"""How one name of a diagnosis stands to another.

In: two names, taken apart. Out: a `Relation`. The words are in `modifiers.yaml` and `is_a.yaml`.
Not done here: lists of diagnoses (`grading.diagnosis`).

>>> compare(parse_name("Ⅱ型糖尿病"), parse_name("2 型糖尿病"))
<Relation.SAME: 'same'>
>>> compare(parse_name("左侧输尿管结石"), parse_name("右输尿管结石"))
<Relation.NEAR_MISS: 'near_miss'>
"""

import re
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from functools import cache, lru_cache
from typing import cast

from rapidfuzz.distance import Indel, Postfix, Prefix

from medkd.grading.names import (
    N_CACHED_NAMES,
    Name,
    is_known,
    modifier_patterns,
    normalize_name,
    parse_name,
    shorten,
)
from medkd.grading.tables import load_table

LIKENESS = 0.75
"""Share of common characters from which two different cores may be spellings of one name."""
_LIGHT = "眼耳侧部区处位段多单发"
"""Characters that say no more than a side or another word has said already."""
_FILLERS = "性型的之病症伴并"
OTHER_ORGAN = re.compile("[膜盂髓旁囊管瓣包周]|内膜")
"""Put into the name of an organ, they make it another one: 脑炎, 脑膜炎."""
_MINOR = {"risk", "age", "state", "heart_class"}
"""Axes that one writer names and another does not, of one and the same diagnosis."""


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
    """The same but for a word that makes it another diagnosis: side, type, course, nature, cause, a
    negation."""
    DIFFERENT = "different"
    """Another diagnosis."""


def compare(answer: Name, reference: Name) -> Relation:
    """Relate an answer's diagnosis to the known one."""
    if answer.plain == reference.plain:
        return Relation.SAME if answer.negated == reference.negated else Relation.NEAR_MISS
    if _can_stand_for(answer, reference) or _can_stand_for(reference, answer):
        return Relation.SAME if answer.negated == reference.negated else Relation.NEAR_MISS
    inserted = find_inserted(answer.core, reference.core)
    same_core = answer.core == reference.core or inserted == "" or _is_reordered(answer, reference)
    if answer.kind != reference.kind and answer.negated == reference.negated:
        for special, general, relation in (
            (answer, reference, Relation.MORE_SPECIFIC),
            (reference, answer, Relation.MORE_GENERAL),
        ):
            is_listed = general.kind in _kinds().get(
                special.kind, ()
            )  # 原发性醛固酮增多症 of 继发性高血压, whatever the words say
            if is_listed or (
                general.kind in _find_parents(special.kind) and not has_clash(answer, reference)
            ):
                return relation
    if (
        not same_core
        and inserted is None
        and not are_kin(answer.core, reference.core)
        and not are_kin(answer.essence, reference.essence)
    ):
        return _compare_strangers(answer, reference)
    return (
        Relation.NEAR_MISS
        if _is_another(answer, reference)
        else _compare_kin(answer, reference, same_core, inserted)
    )


def _is_another(answer: Name, reference: Name) -> bool:
    return answer.negated != reference.negated or has_clash(answer, reference)


def _compare_kin(answer: Name, reference: Name, same_core: bool, inserted: str | None) -> Relation:
    """Compare two names that share words and do not contradict each other."""
    if same_core:
        relation = _compare_modifiers(answer, reference)
    elif inserted is None and is_replaced(answer.essence, reference.essence):
        return Relation.NEAR_MISS
    elif inserted and OTHER_ORGAN.match(inserted):
        return Relation.DIFFERENT
    else:
        relation = _compare_lengths(answer, reference, bool(inserted))
    return Relation.DIFFERENT if not same_core and _are_siblings(answer, reference) else relation


def _compare_lengths(answer: Name, reference: Name, is_inserted: bool) -> Relation:
    """Compare two names of which one may hold the other; where each also says what the other does
    not, the rules cannot tell."""
    shorter, longer = sorted((answer.core, reference.core), key=len)
    if not is_inserted and not longer.endswith(shorter):
        for general, special, relation in (
            (answer, reference, Relation.MORE_GENERAL),
            (reference, answer, Relation.MORE_SPECIFIC),
        ):
            if re.search("(?:疾病|疾患|病变)$", general.plain) and general.core in special.core:
                return relation
        return Relation.PART if shorter in longer else Relation.UNCLEAR
    fewer, more = (answer, reference) if shorter == answer.core else (reference, answer)
    if not _spread(fewer.modifiers) <= _spread(more.modifiers) | _spread(more.written):
        return Relation.UNCLEAR
    return Relation.MORE_GENERAL if fewer is answer else Relation.MORE_SPECIFIC


_GROWTH = re.compile("(?:肿瘤|占位变?|占位|肿物|新生物|肿块)$")
"""Ends of names that leave open what grows there."""


def _compare_strangers(answer: Name, reference: Name) -> Relation:
    """Compare names that share no word: one may say no more than where a growth is, or be a foreign
    name that no table knows."""
    for general, special, relation in (
        (answer, reference, Relation.MORE_GENERAL),
        (reference, answer, Relation.MORE_SPECIFIC),
    ):
        if _is_bare(general, special) and not _is_another(answer, reference):
            return relation
        organ = _GROWTH.sub("", general.core)
        if (
            organ
            and organ != general.core
            and re.search("[癌瘤]$", special.core)
            and organ in special.core
        ):
            return Relation.NEAR_MISS if _is_another(answer, reference) else relation
    if _is_another(answer, reference) and (_BENIGN.search(answer.plain + reference.plain)):
        return Relation.NEAR_MISS
    is_untranslated = _is_latin(answer.plain) != _is_latin(reference.plain)
    return (
        Relation.UNCLEAR
        if is_untranslated and not answer.negated and not reference.negated
        else Relation.DIFFERENT
    )


def _is_bare(general: Name, special: Name) -> bool:
    """Tell whether a name is nothing but the word that the other one ends in: 骨折, 贫血."""
    is_word = is_generic(general.core) and (len(general.core) > 1 or general.core == "癌")
    return (
        is_word
        and special.core.endswith(general.core)
        and _spread(general.modifiers) <= _spread(special.modifiers)
    )


def _is_latin(plain: str) -> bool:
    """Tell whether a name is, in the main, one that no table has a Chinese name for."""
    return not is_known(plain) and (plain.isascii() or bool(re.search(r"[a-z]{6}", plain)))


def _can_stand_for(short: Name, full: Name) -> bool:
    """Tell whether a name is a short form of several meanings, and the other one of them."""
    return full.core in _meanings().get(short.plain, ())


def _is_reordered(one: Name, other: Name) -> bool:
    """Tell whether two names are the same characters in another order; with two sides in play,
    order matters."""
    is_one_sided = all(len(name.modifiers.get("side", ())) <= 1 for name in (one, other))
    return len(one.core) >= 4 and is_one_sided and sorted(one.core) == sorted(other.core)


def has_clash(one: Name, other: Name) -> bool:
    """Tell whether a word in one name makes it another disease than the other name."""
    tables = load_table("modifiers")
    if one.core != other.core and other.core in _distinct().get(one.core, ()):
        return True
    if _is_reversed(one.plain, other.plain) or _is_reversed(other.plain, one.plain):
        return True
    if any(
        (_BENIGN.search(a.plain) and _MALIGNANT.search(b.plain) and not _BENIGN.search(b.plain))
        or ("肉瘤" in b.plain and a.plain == b.plain.replace("肉瘤", "瘤"))
        for a, b in ((one, other), (other, one))
    ):
        return True
    pairs = ((one.modifiers, other.modifiers), (one.written, other.written))
    return any(
        axis in ours and axis in theirs and ours[axis].isdisjoint(theirs[axis])
        for ours, theirs in pairs
        for axis in tables["exclusive"]
    )


_BENIGN = re.compile("良性|benign")
_MALIGNANT = re.compile(
    "癌|肉瘤|恶性|白血病|淋巴瘤|骨髓瘤|黑色素瘤|母细胞瘤|精原细胞瘤|carcinoma|cancer|sarcoma|malignan"
)
"""What grows is malignant, whether the name says so or not."""


@cache
def _distinct() -> dict[str, set[str]]:
    """Map the core of a name to those that look like forms of it and are not."""
    found: dict[str, set[str]] = {}
    for group in cast(list[list[str]], load_table("modifiers")["distinct"]):
        cores = {parse_name(name).core for name in group}
        for core in cores:
            found.setdefault(core, set()).update(cores - {core})
    return found


@cache
def _strict_patterns() -> list[re.Pattern[str]]:
    return [
        pattern
        for axis, _, pattern in modifier_patterns()
        if axis in load_table("modifiers")["strict"]
    ]


def _is_reversed(one: str, other: str) -> bool:
    """Tell whether a word such as 非 in one name turns round what the other name says."""
    for pattern in _strict_patterns():
        found = pattern.search(one)
        if found and not pattern.search(other):
            beside = (
                one[found.end() : found.end() + 2] or one[max(0, found.start() - 2) : found.start()]
            )
            if beside in other:
                return True
    return False


def _spread(modifiers: Mapping[str, frozenset[str]]) -> set[tuple[str, str]]:
    return {(axis, value) for axis, values in modifiers.items() for value in values}


def _compare_modifiers(answer: Name, reference: Name) -> Relation:
    ours, theirs = _spread(answer.modifiers), _spread(reference.modifiers)
    apart = {axis for axis, _ in ours ^ theirs}
    if not apart or all(
        axis in _MINOR and not (axis in answer.modifiers and axis in reference.modifiers)
        for axis in apart
    ):
        return Relation.SAME
    stages = [name.modifiers["stage"] for name in (answer, reference) if "stage" in name.modifiers]
    if (
        apart == {"stage"}
        and len(stages) == 1
        and re.search("[癌瘤]$", answer.core)
        and all(stage.isascii() for stage in stages[0])
    ):
        return Relation.SAME  # the figure of how far a growth has spread is a detail of it
    if apart <= set(load_table("modifiers")["soft"]):
        return Relation.OTHER_STAGE
    if ours <= theirs | _spread(reference.written):
        return Relation.MORE_GENERAL
    return Relation.MORE_SPECIFIC if theirs <= ours | _spread(answer.written) else Relation.UNCLEAR


@lru_cache(maxsize=N_CACHED_NAMES)
def _find_parents(kind: str) -> frozenset[str]:
    """List whatever a diagnosis is a kind of, and what that is a kind of; a longer name is what the
    known one in it is."""
    kinds = _kinds()
    found: set[str] = set()
    ahead = (
        {kind}
        if kind in kinds
        else {
            known
            for known in kinds
            if (len(known) >= 4 and known in kind) or (len(known) == 3 and kind.endswith(known))
        }
    )
    while ahead:
        parents = {parent for known in ahead for parent in kinds.get(known, ())} - found
        found |= parents
        ahead = parents
    return frozenset(found)


def _are_siblings(one: Name, other: Name) -> bool:
    """Tell whether two names are known for different kinds of one disease."""
    kinds = _kinds()
    is_other_course = one.kind.lstrip("亚急慢") == other.kind.lstrip("亚急慢")
    return (
        one.kind != other.kind
        and not is_other_course
        and not kinds.get(one.kind, set()).isdisjoint(kinds.get(other.kind, set()))
    )


@cache
def _kinds() -> dict[str, set[str]]:
    """Map a diagnosis to what it is a kind of."""
    found: dict[str, set[str]] = {}
    for general, specifics in cast(dict[str, list[str]], load_table("is_a")).items():
        for specific in specifics:
            found.setdefault(parse_name(specific).kind, set()).add(parse_name(general).kind)
    return found


@cache
def _meanings() -> dict[str, set[str]]:
    """Map a short form of several meanings to the cores of all of them."""
    return {
        normalize_name(short): {parse_name(name).core for name in names}
        for short, names in load_table("modifiers")["ambiguous"].items()
    }


def are_together(one: Name, other: Name, reference: Name) -> bool:
    """Tell whether two diagnoses together are what the reference says in one name.

    >>> names = map(parse_name, ("急性胆囊炎", "胆囊结石", "急性结石性胆囊炎"))
    >>> are_together(*names)
    True
    """
    for first, second in ((one, other), (other, one)):
        missing = Counter(reference.core) - Counter(first.core)
        if (
            compare(first, reference) is Relation.MORE_GENERAL
            and missing.total() >= 2
            and not missing - Counter(second.core)
        ):
            return _spread(reference.modifiers) <= _spread(first.modifiers) | _spread(
                second.modifiers
            )
    return False


def are_kin(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) >= 2 and shorter in longer:
        return not is_generic(shorter)
    return Indel.normalized_similarity(one, other) >= LIKENESS


def find_inserted(one: str, other: str) -> str | None:
    """Return what the longer of two cores of one disease has more than the shorter, in any order;
    None where neither holds the other.

    >>> find_inserted("胃癌", "胃窦腺癌")
    '窦腺'
    """
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) < 2 or shorter in _generic() or shorter[-1] != longer[-1] or shorter.isascii():
        return None
    rest = longer
    for character in reversed(shorter):
        at = rest.rfind(character)
        if at < 0:
            return None
        rest = rest[:at] + rest[at + 1 :]
    return "" if all(character in _LIGHT for character in rest) else rest


def is_replaced(one: str, other: str) -> bool:
    """Tell whether one name is the other with a word replaced by another: 房间隔缺损,
    室间隔缺损."""
    n_before = Prefix.similarity(one, other)
    one, other = one[n_before:], other[n_before:]
    n_after = Postfix.similarity(one, other)
    return n_after < min(len(one), len(other))


def holds_all(text: str, other: str) -> bool:
    """Tell whether every character of the other text that says something stands in the first, in
    any order.

    >>> holds_all("脑出血左侧基底节", "左侧基底节区脑出血")
    True
    """
    return all(
        character in text or character in _LIGHT or character in _FILLERS for character in other
    )


def is_generic(core: str) -> bool:
    """Tell whether a core is a word that two diagnoses may share without being kin: 出血, 感染."""
    return core in _generic()


@cache
def _generic() -> set[str]:
    """List the words that two diagnoses may share without being kin."""
    return {form for word in load_table("modifiers")["generic"] for form in (word, shorten(word))}
