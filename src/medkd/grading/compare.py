"""How one name of a diagnosis stands to another, by what can be proven or a table of codes says.

In: two names, taken apart; a table of the user's. Out: a `Relation`. The words are in
`modifiers.yaml` and `is_a.yaml`. Not done here: lists of diagnoses (`grading.diagnosis`).

>>> compare(parse_name("Ⅱ型糖尿病"), parse_name("2 型糖尿病"))
<Relation.SAME: 'same'>
>>> compare(parse_name("左侧输尿管结石"), parse_name("右输尿管结石"))
<Relation.NEAR_MISS: 'near_miss'>
"""

import re
from collections import Counter
from collections.abc import Container, Mapping
from enum import StrEnum
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, cast

from medkd.core.config import RUNTIME
from medkd.core.errors import InputError
from medkd.grading import load_table
from medkd.grading.names import (
    N_CACHED_NAMES,
    Name,
    are_other_lesions,
    have_other_sites,
    is_known,
    modifier_patterns,
    normalize_name,
    parse_name,
    share_information,
    shorten,
    soft_axes,
    squeeze,
)
from medkd.text.tables import read_rows

_PIECE = re.compile(r"[a-z0-9]+|.")
_LIGHT = "眼耳侧部区处位段多发"
"""Characters that say no more than a side or another word has said already."""
_FILLERS = "性型的之病症伴并"
_DETAIL = re.compile(
    "(?:妊娠[早中晚]?期?合并?|[部侧端段叶支椎体上下前后内外中额颞枕顶颈胸腰骶臂肘腕手指掌拇趾跖膝踝足跟髋肩肢腿股桡尺胫腓左右双"
    "0-9至-]|(?<![a-z])[ctls](?=[0-9]))+"
)
"""What an addition says that only tells where a disease sits, or in whom."""
_SEPARATE = {"side", "stage"}
"""Axes that a listed kind of a disease says nothing of."""
_NO_DETAIL = {"origin", "nature", "reverse"}
"""Axes of which a value makes another disease of one that has none."""
_NO_DETAIL_VALUES = {("cause", "外伤"), ("course", "陈旧性")}
"""Values that do so too: a bleeding by injury and an old infarction are other ones."""
_MINOR = {"risk", "age", "state", "heart_class"}
"""Axes that one writer names and another does not, of one and the same diagnosis."""
_BENIGN = re.compile("良性|benign")
_MALIGNANT = re.compile(
    "癌|肉瘤|恶性|白血病|淋巴瘤|骨髓瘤|黑色素瘤|母细胞瘤|精原细胞瘤|carcinoma|cancer|sarcoma|malignan"
)
"""What grows is malignant, whether the name says so or not."""


class Relation(StrEnum):
    """How an answer's diagnosis stands to the known one."""

    SAME = "same"
    """The same diagnosis, by name or by synonym: right."""
    MORE_SPECIFIC = "more_specific"
    """The known one with a detail added, or a listed kind of it: right."""
    MORE_GENERAL = "more_general"
    """The known one with something left out: undecided."""
    PART = "part"
    """One name stands within the other; whether it is a kind of it is not proven: undecided."""
    UNCLEAR = "unclear"
    """Something that tells is shared and nothing is proven: undecided."""
    OTHER_STAGE = "other_stage"
    """The same but for another stage, grade or risk: wrong, though near."""
    NEAR_MISS = "near_miss"
    """The same but for a word that makes it another diagnosis: side, type, course, nature, cause, a
    negation: wrong."""
    DIFFERENT = "different"
    """Another diagnosis: wrong."""


def compare(answer: Name, reference: Name) -> Relation:
    """Relate an answer's diagnosis to the known one."""
    is_denied = answer.negated != reference.negated
    if (
        answer.plain == reference.plain
        or _can_stand_for(answer, reference)
        or _can_stand_for(reference, answer)
    ):
        return Relation.NEAR_MISS if is_denied else Relation.SAME
    inserted = _find_inserted(answer.core, reference.core)
    is_same_core = (
        answer.core == reference.core or inserted == "" or _is_reordered(answer, reference)
    )
    if not is_denied and (listed := _find_listed(answer, reference)):
        return listed
    if is_denied or has_clash(answer, reference):
        is_kin = is_same_core or share_information(answer, reference)
        return Relation.NEAR_MISS if is_kin else Relation.DIFFERENT
    if is_same_core:
        return _compare_modifiers(answer, reference)
    return _compare_cores(answer, reference)


def _find_listed(answer: Name, reference: Name) -> Relation | None:
    """Relate two diagnoses of which `is_a.yaml` knows one for a kind of the other."""
    ours, theirs = _forms(answer), _forms(reference)
    if ours & theirs:
        return None
    for special, general, names, relation in (
        (ours, theirs, (answer, reference), Relation.MORE_SPECIFIC),
        (theirs, ours, (reference, answer), Relation.MORE_GENERAL),
    ):
        if any(general & _kinds().get(form, set()) for form in special):
            return relation if _has_modifiers(*names, _SEPARATE) else Relation.UNCLEAR
        is_inferred = any(general & _find_parents(form) for form in special)
        if is_inferred and not has_clash(answer, reference):
            return relation if _has_modifiers(*names) else Relation.UNCLEAR
    return None


def _forms(name: Name) -> frozenset[str]:
    """List what a diagnosis may be called in `is_a.yaml`."""
    return frozenset((name.kind, squeeze(name.plain)))


def _has_modifiers(special: Name, general: Name, axes: Container[str] | None = None) -> bool:
    """Tell whether a name says all that the modifiers of the other one say, on some axes or all."""
    own = special.modifiers if is_known(special.plain) else special.written
    said = _spread(own) | _spread(special.written)
    return all(
        value in said for value in _spread(general.modifiers) if axes is None or value[0] in axes
    )


def _compare_cores(answer: Name, reference: Name) -> Relation:
    """Compare two names of different cores that do not contradict each other by a modifier."""
    for special, general, relation in (
        (answer, reference, Relation.MORE_SPECIFIC),
        (reference, answer, Relation.MORE_GENERAL),
    ):
        if holds := _find_holding(special, general):
            return relation if holds == "detail" or special is reference else Relation.PART
    if _is_latin(answer.plain) != _is_latin(reference.plain):
        is_positive = not answer.negated and not reference.negated
        return Relation.UNCLEAR if is_positive else Relation.DIFFERENT
    if (
        not share_information(answer, reference)
        or have_other_sites(answer, reference)
        or are_other_lesions(answer, reference)
        or _are_siblings(answer, reference)
    ):
        return Relation.DIFFERENT
    return Relation.UNCLEAR


def _find_holding(special: Name, general: Name) -> str:
    """Tell how a name holds another: with a `detail` of the disease, with `more` than that, or
    not at all."""
    core, held = special.core, general.core
    if (len(held) < 2 and held != "癌") or len(held) >= len(core):
        return ""
    if not _has_modifiers(special, general):
        return ""
    if not core.endswith(held):
        return "more" if held in core or _find_inserted(core, held) else ""
    is_detail = _DETAIL.fullmatch(core.removesuffix(held)) and held not in _generic()
    return "detail" if is_detail and is_known(general.plain) else "more"


def _compare_modifiers(answer: Name, reference: Name) -> Relation:
    """Compare two names of one core that do not contradict each other."""
    ours, theirs = _spread(answer.modifiers), _spread(reference.modifiers)
    apart = {axis for axis, _ in ours ^ theirs}
    in_both = {axis for axis in apart if axis in answer.modifiers and axis in reference.modifiers}
    if apart <= _MINOR - in_both or _adds_spread_of_growth(answer, reference, apart):
        return Relation.SAME
    if in_both:
        return Relation.OTHER_STAGE if in_both <= soft_axes() else Relation.UNCLEAR
    if ours <= theirs | _spread(reference.written):
        return Relation.MORE_GENERAL
    is_more = theirs <= ours | _spread(answer.written) and not apart & _NO_DETAIL
    is_more = is_more and _NO_DETAIL_VALUES.isdisjoint(ours ^ theirs)
    return Relation.MORE_SPECIFIC if is_more else Relation.UNCLEAR


def _adds_spread_of_growth(answer: Name, reference: Name, apart: set[str]) -> bool:
    """Tell whether one of two names only adds how far a growth has spread: 胃癌IIIA期."""
    stages = [name.modifiers["stage"] for name in (answer, reference) if "stage" in name.modifiers]
    return (
        apart == {"stage"}
        and len(stages) == 1
        and bool(re.search("[癌瘤]$", answer.core))
        and all(stage.isascii() for stage in stages[0])
    )


@lru_cache(maxsize=N_CACHED_NAMES)
def _find_parents(kind: str) -> frozenset[str]:
    """List whatever a diagnosis is a kind of, and what that is a kind of; a longer name is what the
    known one in it is."""
    kinds = _kinds()
    found: set[str] = set()
    ahead = {kind} if kind in kinds else _list_known_within(kind) & kinds.keys()
    while ahead:
        parents = {parent for known in ahead for parent in kinds.get(known, ())} - found
        found |= parents
        ahead = parents
    return frozenset(found)


def _list_known_within(kind: str) -> set[str]:
    """List the ends of a name that may be the name of a disease: the head of a name ends it."""
    return {kind[start:] for start in range(len(kind) - 2)}


def _are_siblings(one: Name, other: Name) -> bool:
    """Tell whether two names are known for different kinds of one disease."""
    ours, theirs = _forms(one), _forms(other)
    is_other_course = one.kind.lstrip("亚急慢") == other.kind.lstrip("亚急慢")
    return (
        not ours & theirs
        and not is_other_course
        and any(_kinds().get(a, set()) & _kinds().get(b, set()) for a in ours for b in theirs)
    )


@cache
def _kinds() -> dict[str, set[str]]:
    """Map a diagnosis to what it is a kind of."""
    found: dict[str, set[str]] = {}
    for general, specifics in cast(dict[str, list[str]], load_table("is_a.yaml")).items():
        for specific in specifics:
            key, parent = (squeeze(parse_name(name).plain) for name in (specific, general))
            found.setdefault(key, set()).add(parent)
    return found


@cache
def _meanings() -> dict[str, set[str]]:
    """Map a short form of several meanings to the cores of all of them."""
    return {
        normalize_name(short): {parse_name(name).core for name in names}
        for short, names in load_table("modifiers.yaml")["ambiguous"].items()
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


def _find_inserted(one: str, other: str) -> str | None:
    """Return what the longer of two cores of one disease has more than the shorter, in any order;
    None where neither holds the other.

    >>> _find_inserted("胃癌", "胃窦腺癌")
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


def holds_all(text: str, other: str) -> bool:
    """Tell whether every hanzi and every Latin word of the other text that says something stands in
    the first, in any order.

    >>> holds_all("脑出血左侧基底节", "左侧基底节区脑出血"), holds_all("pulmonaryembolism", "bile")
    (True, False)
    """
    return all(
        piece in text or piece in _LIGHT or piece in _FILLERS for piece in _PIECE.findall(other)
    )


def is_generic(core: str) -> bool:
    """Tell whether a core is a word that two diagnoses may share without being kin: 出血, 感染."""
    return core in _generic()


@cache
def _generic() -> set[str]:
    """List the words that two diagnoses may share without being kin."""
    return {
        form for word in load_table("modifiers.yaml")["generic"] for form in (word, shorten(word))
    }


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
    exclusive = load_table("modifiers.yaml")["exclusive"]
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
        for axis in exclusive
    )


@cache
def _distinct() -> dict[str, set[str]]:
    """Map the core of a name to those that look like forms of it and are not."""
    found: dict[str, set[str]] = {}
    for group in cast(list[list[str]], load_table("modifiers.yaml")["distinct"]):
        cores = {parse_name(name).core for name in group}
        for core in cores:
            found.setdefault(core, set()).update(cores - {core})
    return found


@cache
def _strict_patterns() -> list[re.Pattern[str]]:
    return [
        pattern
        for axis, _, pattern in modifier_patterns()
        if axis in load_table("modifiers.yaml")["strict"]
    ]


_TURNING = re.compile(
    r"(?:non|pseudo|a(?=septic|typical|symptomatic)|un(?=stable|displaced|ruptured|complicated)"
    r"|in(?=complete|active)|de(?=compensated))(?=(?P<word>[a-z]{5}))"
)


def _is_reversed(one: str, other: str) -> bool:
    """Tell whether a word such as 非, or non-, in one name turns round what the other name says."""
    for found in _TURNING.finditer(one):
        if found["word"] in other and found[0] + found["word"] not in other:
            return True
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


# A table of the user's

_CODE_HEADINGS = re.compile(r"code|icd|编码|代码|编号", re.IGNORECASE)
_NAME_HEADINGS = re.compile(r"name|term|diagnosis|synonym|名称|诊断|术语|疾病|病名", re.IGNORECASE)
_ICD = re.compile(r"([A-Z]\d{2})(?:\.([0-9A-Z]{1,6}))?")
_ALIAS = re.compile(r"[\[\]()（）［］/]")


TermsFile = Annotated[Path | None, RUNTIME]
"""A table of codes and names; what it holds decides results, its path does not."""


def list_terms_inputs(path: Path | None) -> dict[str, Path]:
    """Return the table as an input of a stage, so that its content is hashed."""
    return {} if path is None else {"terms": path}


class Terms:
    """Names of diagnoses by code."""

    def __init__(self, codes: dict[str, frozenset[str]]) -> None:
        self._codes = codes

    def __len__(self) -> int:
        return len(self._codes)

    def relate(self, answer: Name, reference: Name) -> Relation | None:
        """Relate two names: one code is the same diagnosis, a longer code of a category a more
        specific one; None where the table does not tell."""
        ours, theirs = self._find(answer), self._find(reference)
        if not ours or not theirs or answer.negated != reference.negated:
            return None
        if ours & theirs:
            return Relation.SAME
        for special, general, relation in (
            (ours, theirs, Relation.MORE_SPECIFIC),
            (theirs, ours, Relation.MORE_GENERAL),
        ):
            if any(
                one.startswith(other) for one in special for other in general if other[0] != "="
            ):
                return relation
        return None

    def _find(self, name: Name) -> frozenset[str]:
        found = (self._codes.get(form) for form in (*name.spellings, name.kind))
        return next((codes for codes in found if codes), frozenset())


@lru_cache(maxsize=4)
def load_terms(path: Path) -> Terms:
    """Read a table of codes and names; raises InputError where it has no such columns.

    A table without headings is read by what its first row holds.
    """
    codes: dict[str, set[str]] = {}
    columns: tuple[str, str] | None = None
    for row in read_rows(path):
        if not isinstance(row.content, dict):
            continue
        content = cast(dict[Any, Any], row.content)
        cells = {str(key): str(value or "").strip() for key, value in content.items()}
        if columns is None:
            columns, is_headed = _find_columns(list(cells), path)
            if not is_headed:
                _add(codes, *columns)
        _add(codes, cells.get(columns[0], ""), cells.get(columns[1], ""))
    if not codes:
        raise InputError(
            "{}: no row has both a code and a name; see docs/en/verify.md, --terms", path
        )
    return Terms({name: frozenset(found) for name, found in codes.items()})


def _find_columns(headings: list[str], path: Path) -> tuple[tuple[str, str], bool]:
    """Find the headings of the code and of the name, and tell whether they are headings at all."""
    code = next((one for one in headings if _CODE_HEADINGS.search(one)), None)
    name = next((one for one in headings if one != code and _NAME_HEADINGS.search(one)), None)
    if code is not None and name is not None:
        return (code, name), True
    code = next((one for one in headings if _ICD.match(one)), None)
    name = next((one for one in headings if one != code and re.search("[^\\W\\d_]{2}", one)), None)
    if code is not None and name is not None:
        return (code, name), False
    raise InputError(
        "{}: no columns of codes and names among {}; head them `code` and `name`",
        path,
        ", ".join(headings[:6]),
    )


def _add(codes: dict[str, set[str]], code: str, name: str) -> None:
    """Note a name, and each of the names it holds in brackets, under a code."""
    found = _ICD.match(code.upper())
    key = f"{found[1]}{found[2] or ''}" if found else f"={code}"
    if not code or not name:
        return
    for one in {name, *_ALIAS.split(name)}:
        if len(one.strip()) >= 2:
            codes.setdefault(squeeze(normalize_name(one)), set()).add(key)
