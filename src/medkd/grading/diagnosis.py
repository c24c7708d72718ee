"""Grades an answer against the known diagnosis, by rules alone.

In: an answer as a model wrote it, and the known diagnoses joined by semicolons. Out: a `Grade`; any two texts have one, nothing is raised.
Not done here: asking a judge where the rules cannot tell (`decided` is False there, and neither `exact` nor `principal` is claimed).

>>> grade("<think>…</think>考虑 T2DM；高血压病", "2型糖尿病；原发性高血压").exact
True
>>> grade("右侧输尿管结石", "左侧输尿管结石")
Grade(exact=False, principal=False, f1=0.0, decided=True, relation='near_miss', stated=('右侧输尿管结石',))
>>> near = grade("阑尾炎", "急性化脓性阑尾炎")
>>> near.principal, near.decided, near.f1
(False, False, 0.7)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medkd.core import thinking
from medkd.core.records import Record
from medkd.grading.answers import Stated, extract_diagnoses, split_list
from medkd.grading.names import Name, Relation, compare, parse_name
from medkd.grading.writing import normalise

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
_SETTLED = {Relation.SAME, Relation.NEAR_MISS, Relation.DIFFERENT}


class Grade(Record):
    """How right an answer is."""

    exact: bool
    """The answer states the known diagnoses, all of them and no other, in any order."""
    principal: bool
    """The first known diagnosis is among the first that the answer states, as many as are known: a longer list gains nothing."""
    f1: float
    """Soft F1 over both lists, 0 to 1; a near name counts in part, a dangerous near miss nothing."""
    decided: bool
    """Whether the rules could tell; False asks for a judge."""
    relation: Relation
    """How the nearest stated diagnosis stands to the first known one."""
    stated: tuple[str, ...]
    """What was read out of the answer, denied diagnoses left out."""

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        return [(name, str(value) if isinstance(value, Relation) else value) for name, value in super().__repr_args__()]


def grade(answer: str, reference: str, synonyms_path: Path | None = None) -> Grade:
    """Grade an answer; `synonyms_path` adds names to the shipped table (same form as `synonyms.yaml`)."""
    known = _read(split_list(reference), synonyms_path)
    found = extract_diagnoses(answer)
    stated = tuple(diagnosis.text for diagnosis in found if not diagnosis.denied)
    if not known:
        return Grade(exact=False, principal=False, f1=0.0, decided=False, relation=Relation.DIFFERENT, stated=stated)
    readings = _read(found, synonyms_path)
    affirmed = [reading for reading in readings if not reading.name.negated or any(k.name.negated for k in known)]
    if not affirmed:
        return _grade_without_names(answer, known[0].name, [reading.name for reading in readings])
    table = [[_relate(reading, target) for target in known] for reading in affirmed]
    n_principal = 1 + sum(not k.is_companion for k in known[1:])
    principal = Relation.SAME in [row[0] for row, r in zip(table, affirmed, strict=True) if not r.is_companion][:n_principal]
    nearest = _find_nearest(table, known, readings)
    if principal:
        nearest = Relation.SAME
    nearness = _pair_up([[NEARNESS[relation] for relation in row] for row in table])
    f1 = 2 * sum(nearness) / (len(affirmed) + len(known))
    return Grade(
        exact=f1 == 1.0,
        principal=principal or f1 == 1.0,
        f1=round(f1, 4),
        decided=principal or f1 == 1.0 or nearest in _SETTLED,
        relation=nearest,
        stated=stated,
    )


class _Reading(NamedTuple):
    """A diagnosis of a list, read."""

    name: Name
    alias: Name | None
    is_companion: bool


def _read(listed: Sequence[Stated], synonyms_path: Path | None) -> list[_Reading]:
    """Read every diagnosis of a list once."""
    readings: dict[str, _Reading] = {}
    for stated in listed:
        name = parse_name(stated.text, stated.denied, synonyms_path)
        alias = parse_name(stated.alias, stated.denied, synonyms_path) if stated.alias else None
        readings.setdefault(f"{name.plain}{name.negated}", _Reading(name, alias, stated.is_companion))
    return list(readings.values())


def _relate(answer: _Reading, reference: _Reading) -> Relation:
    """Compare two diagnoses; a name in brackets counts only where the name before it does not contradict it."""
    relation = compare(answer.name, reference.name)
    if relation in (Relation.SAME, Relation.NEAR_MISS, Relation.DIFFERENT):
        if relation is not Relation.DIFFERENT or reference.alias is None or compare(answer.name, reference.alias) is not Relation.SAME:
            return relation
        return Relation.SAME
    others = [compare(answer.alias, reference.name)] if answer.alias else []
    others += [compare(answer.name, reference.alias)] if reference.alias else []
    others += [compare(answer.alias, reference.alias)] if answer.alias and reference.alias else []
    return Relation.SAME if Relation.SAME in others else relation


def _find_nearest(table: Sequence[Sequence[Relation]], known: Sequence[_Reading], readings: Sequence[_Reading]) -> Relation:
    """Give how the nearest stated diagnosis stands to the principal one; what only came along with that one is a part of it."""
    nearest = max((row[0] for row in table), key=lambda relation: (NEARNESS[relation], relation is Relation.NEAR_MISS))
    if any(r.name.negated and not known[0].name.negated and compare(r.name, known[0].name) is Relation.NEAR_MISS for r in readings):
        return Relation.NEAR_MISS
    n_companions = next((n for n, k in enumerate(known[1:]) if not k.is_companion), len(known) - 1)
    if nearest is Relation.DIFFERENT and any(Relation.SAME in row[1 : 1 + n_companions] for row in table):
        return Relation.PART
    return Relation.UNCLEAR if nearest is Relation.SAME else nearest


def _grade_without_names(answer: str, principal: Name, denied: Sequence[Name]) -> Grade:
    """Grade prose, a denial or silence: a name that is only mentioned leaves the question open."""
    if any(compare(name, principal) is Relation.NEAR_MISS for name in denied):
        return Grade(exact=False, principal=False, f1=0.0, decided=True, relation=Relation.NEAR_MISS, stated=())
    is_mentioned = len(principal.core) >= 2 and principal.core in normalise(thinking.read(answer).answer)
    relation = Relation.UNCLEAR if is_mentioned else Relation.DIFFERENT
    return Grade(
        exact=False, principal=False, f1=MENTIONED_F1 if is_mentioned else 0.0, decided=not is_mentioned, relation=relation, stated=()
    )


def _pair_up(nearness: Sequence[Sequence[float]]) -> list[float]:
    """Pair stated with known diagnoses, nearest first, each used once; give what each pair counts."""
    pairs = sorted(((value, row, column) for row, values in enumerate(nearness) for column, value in enumerate(values)), reverse=True)
    rows, columns, counted = set[int](), set[int](), list[float]()
    for value, row, column in pairs:
        if value > 0 and row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            counted.append(value)
    return counted
