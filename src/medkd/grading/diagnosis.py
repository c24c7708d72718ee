"""Grades an answer against the known diagnosis, by rules alone.

In: an answer as a model wrote it, and the known diagnoses joined by semicolons. Out: a `Grade`.
Not done here: asking a judge where the rules cannot tell (`decided` is False there).

>>> grade("<think>…</think>考虑 T2DM；高血压病", "2型糖尿病；原发性高血压").exact
True
>>> other_side = grade("右侧输尿管结石", "左侧输尿管结石")
>>> other_side.principal, other_side.decided, str(other_side.relation)
(False, True, 'near_miss')
>>> near = grade("阑尾炎", "急性化脓性阑尾炎")
>>> near.principal, near.decided, near.f1
(False, True, 0.7)
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Literal, NamedTuple

from medkd.core import thinking
from medkd.core.records import Record
from medkd.grading.compare import Relation, are_together, compare, has_clash, holds_all, is_generic
from medkd.grading.extract import StatedDiagnosis, extract_diagnoses, split_list
from medkd.grading.names import Name, normalize_name, parse_name

NEARNESS = {
    Relation.SAME: 1.0,
    Relation.MORE_GENERAL: 0.7,
    Relation.MORE_SPECIFIC: 0.7,
    Relation.OTHER_STAGE: 0.7,
    Relation.PART: 0.4,
    Relation.UNCLEAR: 0.3,
    Relation.NEAR_MISS: 0.0,
    Relation.DIFFERENT: 0.0,
}
"""What one diagnosis counts for another in the soft F1."""
MENTIONED_F1 = 0.3
"""Soft F1 of prose in which the known diagnosis stands somewhere."""
NEAR = {relation for relation, worth in NEARNESS.items() if 0 < worth < 1}
"""Neither the known diagnosis nor another one."""
_OPEN = {Relation.UNCLEAR, Relation.PART}
"""Where the rules cannot tell; a name that they know for more general, more specific or of another
stage is not the known diagnosis."""


_SENTENCE = re.compile("[是了像您我们吗呢吧很就也]|可能")
"""What no name of a diagnosis holds: there is more to the piece than was understood."""


GradeVerdict = Literal["right", "wrong", "undecided"]


class Grade(Record):
    """How right an answer is."""

    exact: bool = False
    """The answer states the known diagnoses, all of them and no other, in any order."""
    principal: bool = False
    """The first known diagnosis is among the first that the answer states, as many as are known: a
    longer list gains nothing."""
    f1: float = 0.0
    """Soft F1 over both lists, 0 to 1; a near name counts in part, a dangerous near miss
    nothing."""
    decided: bool = True
    """Whether the rules could tell; False asks for a judge. A name known to be more general or more
    specific is not the known one."""
    relation: Relation = Relation.DIFFERENT
    """How the nearest stated diagnosis stands to the first known one."""
    stated: tuple[str, ...] = ()
    """What was read out of the answer, denied diagnoses left out."""

    @property
    def verdict(self) -> GradeVerdict:
        """Whether the answer states the principal diagnosis, as far as the rules can tell."""
        if not self.decided:
            return "undecided"
        return "right" if self.principal else "wrong"

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        return [
            (name, str(value) if isinstance(value, Relation) else value)
            for name, value in super().__repr_args__()
        ]


def grade(
    answer: str,
    reference: str,
    synonyms_path: Path | None = None,
    known: Sequence[str] = (),
) -> Grade:
    """Grade an answer; `synonyms_path` adds names to the shipped table (same form as
    `synonyms.yaml`).

    The diagnoses in `known` count neither where they are stated nor where they are left out: the
    record itself tells them.
    """
    if thinking.read(answer).answer.strip() == reference.strip() and (
        listed := split_list(reference)
    ):
        stated = tuple(diagnosis.text for diagnosis in listed)
        return Grade(exact=True, principal=True, f1=1.0, relation=Relation.SAME, stated=stated)
    told = _read_known("；".join(known), False, synonyms_path)
    expected = _leave_out(_read_known(reference, False, synonyms_path), told)
    best = _grade_lists(answer, extract_diagnoses(answer), expected, told, synonyms_path)
    if best.principal or not any(mark in f"{answer}{reference}" for mark in "伴并"):
        return best
    expected = _leave_out(_read_known(reference, True, synonyms_path), told)
    stated_whole = extract_diagnoses(answer, keep_companions=True)
    whole = _grade_lists(answer, stated_whole, expected, told, synonyms_path)
    return whole if whole.principal else best


def _grade_lists(
    answer: str,
    found: Sequence[StatedDiagnosis],
    known: Sequence["_Reading"],
    told: Sequence["_Reading"],
    synonyms_path: Path | None,
) -> Grade:
    """Grade the diagnoses that were read out of an answer against the known ones."""
    stated = tuple(diagnosis.text for diagnosis in found if not diagnosis.denied)
    if not known:
        return Grade(decided=False, stated=stated)
    readings = [r for r in _read(found, synonyms_path) if r.name.negated or not _is_told(r, told)]
    affirmed = [
        reading
        for reading in readings
        if not reading.name.negated or any(k.name.negated for k in known)
    ]
    if not affirmed:
        return _grade_without_names(answer, known[0].name, [reading.name for reading in readings])
    table = [[_relate(reading, target) for target in known] for reading in affirmed]
    n_principal = 1 + sum(not k.is_companion for k in known[1:])
    if len(affirmed) > 1 and are_together(affirmed[0].name, affirmed[1].name, known[0].name):
        table[0][0] = Relation.SAME
    principal = Relation.SAME in _find_first(table, affirmed, n_principal)
    firm = [row for row, reading in zip(table, affirmed, strict=True) if not reading.is_doubtful]
    nearest = _find_nearest(firm or table, known, readings)
    if principal:
        nearest = Relation.SAME
    if nearest in (
        Relation.NEAR_MISS,
        Relation.DIFFERENT,
    ):  # the bleeding of another ulcer is another bleeding
        idle = [
            k.is_companion and (nearest is Relation.NEAR_MISS or is_generic(k.name.core))
            for k in known
        ]
        table = [
            [Relation.DIFFERENT if i else relation for relation, i in zip(row, idle, strict=True)]
            for row in table
        ]
    nearness = _pair_up([[NEARNESS[relation] for relation in row] for row in table])
    f1 = 2 * sum(nearness) / (len(affirmed) + len(known))
    return Grade(
        exact=f1 == 1.0,
        principal=principal or f1 == 1.0,
        f1=round(f1, 4),
        decided=principal or f1 == 1.0 or nearest not in _OPEN,
        relation=nearest,
        stated=stated,
    )


def _find_first(
    table: Sequence[Sequence[Relation]], affirmed: Sequence["_Reading"], n_principal: int
) -> list[Relation]:
    """Relate the first stated diagnoses to the principal one.

    What came along with another takes no place of its own, nor does the kind of disease named
    before the disease: 冠心病, 不稳定型心绞痛.
    """
    first: list[Relation] = []
    n_places = 0
    for n, reading in enumerate(affirmed):
        if reading.is_companion:
            continue
        is_kind = (
            n + 1 < len(affirmed)
            and compare(affirmed[n + 1].name, reading.name) is Relation.MORE_SPECIFIC
        )
        if n_places < n_principal:
            first.append(table[n][0])
        n_places += not is_kind
    return first


class _Reading(NamedTuple):
    """A diagnosis of a list, read."""

    name: Name
    asides: Sequence[Name]
    """What stood in its brackets, piece by piece: its other name, or details."""
    full: Name | None
    """The name together with what stood in its brackets: 左侧基底节脑出血 of
    脑出血（左侧基底节）."""
    is_companion: bool
    is_doubtful: bool


def _leave_out(readings: Sequence[_Reading], told: Sequence[_Reading]) -> list[_Reading]:
    """Leave out the diagnoses that the record tells; the principal one stays."""
    return [r for n, r in enumerate(readings) if not n or not _is_told(r, told)]


def _is_told(reading: _Reading, told: Sequence[_Reading]) -> bool:
    return any(compare(reading.name, one.name) is Relation.SAME for one in told)


@lru_cache(maxsize=4096)
def _read_known(
    reference: str, keep_companions: bool, synonyms_path: Path | None
) -> list[_Reading]:
    """Read the known diagnoses: many answers are held against the same ones."""
    return _read(split_list(reference, keep_companions=keep_companions), synonyms_path)


def _read(listed: Sequence[StatedDiagnosis], synonyms_path: Path | None) -> list[_Reading]:
    """Read every diagnosis of a list once."""
    readings: dict[str, _Reading] = {}
    for stated in listed:
        name = parse_name(stated.text, stated.denied, synonyms_path)
        asides = [
            parse_name(aside, stated.denied, synonyms_path)
            for aside in stated.alias.split("/")
            if aside
        ]
        full = (
            parse_name(f"{stated.alias} {stated.text}", stated.denied, synonyms_path)
            if stated.alias
            else None
        )
        readings.setdefault(
            f"{(full or name).plain}{name.negated}",
            _Reading(name, asides, full, stated.is_companion, stated.is_doubtful),
        )
    return list(readings.values())


def _relate(answer: _Reading, reference: _Reading) -> Relation:
    """Compare two diagnoses; what stands in brackets, another name or details, counts only where it
    does not contradict."""
    relation = compare(answer.name, reference.name)
    if relation in (Relation.MORE_SPECIFIC, Relation.OTHER_STAGE) and _SENTENCE.search(
        answer.name.plain
    ):
        relation = Relation.UNCLEAR
    if answer.full is None and reference.full is None:
        return relation
    ours = [name for name in (answer.name, answer.full, *answer.asides) if name]
    theirs = [name for name in (reference.name, reference.full, *reference.asides) if name]
    whole, known = answer.full or answer.name, reference.full or reference.name
    if relation is Relation.NEAR_MISS or has_clash(whole, known):
        return Relation.NEAR_MISS
    if (
        compare(whole, known) is Relation.OTHER_STAGE
        and "stage" in whole.modifiers
        and "stage" in known.modifiers
    ):
        return Relation.OTHER_STAGE
    if relation is Relation.SAME or any(
        compare(one, other) is Relation.SAME for one in ours for other in theirs
    ):
        return Relation.SAME
    if (
        answer.full
        and relation is not Relation.MORE_SPECIFIC
        and holds_all(answer.full.plain, known.plain)
    ):
        return Relation.SAME
    return relation


def _find_nearest(
    table: Sequence[Sequence[Relation]], known: Sequence[_Reading], readings: Sequence[_Reading]
) -> Relation:
    """Relate the nearest stated diagnosis to the principal one; a companion of that is a part."""
    nearest = max(
        (row[0] for row in table),
        key=lambda relation: (NEARNESS[relation], relation is Relation.NEAR_MISS),
    )
    if any(
        r.name.negated
        and not known[0].name.negated
        and compare(r.name, known[0].name) is Relation.NEAR_MISS
        for r in readings
    ):
        return Relation.NEAR_MISS
    companions = takewhile(lambda n: known[n].is_companion, range(1, len(known)))
    telling = [n for n in companions if not is_generic(known[n].name.core)]
    if nearest is Relation.DIFFERENT and any(
        row[n] is Relation.SAME for row in table for n in telling
    ):
        return Relation.PART
    return Relation.UNCLEAR if nearest is Relation.SAME else nearest


def _grade_without_names(answer: str, principal: Name, denied: Sequence[Name]) -> Grade:
    """Grade prose, a denial or silence: a name that is only mentioned leaves the question open."""
    if any(compare(name, principal) is Relation.NEAR_MISS for name in denied):
        return Grade(relation=Relation.NEAR_MISS)
    said = normalize_name(thinking.read(answer).answer)
    if len(principal.core) >= 2 and principal.core in said:
        return Grade(f1=MENTIONED_F1, decided=False, relation=Relation.UNCLEAR)
    return Grade()


def _pair_up(nearness: Sequence[Sequence[float]]) -> list[float]:
    """Pair stated with known diagnoses, nearest first, each once; return what each pair counts."""
    pairs = sorted(
        (
            (value, row, column)
            for row, values in enumerate(nearness)
            for column, value in enumerate(values)
        ),
        reverse=True,
    )
    rows, columns, counted = set[int](), set[int](), list[float]()
    for value, row, column in pairs:
        if value > 0 and row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            counted.append(value)
    return counted
