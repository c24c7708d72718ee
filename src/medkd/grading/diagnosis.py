"""Grades an answer against the known diagnosis, by rules alone.

In: an answer as a model wrote it, and the known diagnoses joined by semicolons. Out: a `Grade`,
right, wrong or undecided. Not done here: asking a judge about the undecided (`grading.judge`).

>>> grade("<think>…</think>考虑 T2DM；高血压病", "2型糖尿病；原发性高血压").exact
True
>>> other_side = grade("右侧输尿管结石", "左侧输尿管结石")
>>> other_side.verdict, str(other_side.relation)
('wrong', 'near_miss')
>>> grade("急性化脓性阑尾炎", "急性阑尾炎").verdict, grade("阑尾炎", "急性阑尾炎").verdict
('right', 'undecided')
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Literal, NamedTuple

from medkd.core import thinking
from medkd.core.records import Record
from medkd.grading.compare import (
    Relation,
    Terms,
    are_together,
    compare,
    has_clash,
    holds_all,
    is_generic,
    load_terms,
)
from medkd.grading.extract import StatedDiagnosis, extract_diagnoses, split_list
from medkd.grading.names import Name, measure_likeness, normalize_name, parse_name

RIGHT = frozenset({Relation.SAME, Relation.MORE_SPECIFIC})
"""The known diagnosis, or one that says more about it."""
UNDECIDED = frozenset({Relation.MORE_GENERAL, Relation.PART, Relation.UNCLEAR})
"""Something that tells is shared, and no rule is proven."""
NEAR = UNDECIDED | {Relation.OTHER_STAGE}
"""Neither the known diagnosis nor one that has nothing to do with it."""
WORTH = {
    Relation.SAME: 1.0,
    Relation.MORE_SPECIFIC: 0.95,
    Relation.OTHER_STAGE: 0.5,
    Relation.NEAR_MISS: 0.0,
    Relation.DIFFERENT: 0.0,
}
"""What one diagnosis counts for another in the soft F1, where the rules decide."""
UNDECIDED_WORTH = 0.9
"""What counts of the likeness of two names, where they do not."""
MENTIONED_F1 = 0.3
"""Soft F1 of prose in which the known diagnosis stands somewhere."""
GradeVerdict = Literal["right", "wrong", "undecided"]


class Grade(Record):
    """How right an answer is."""

    exact: bool = False
    """The answer states the known diagnoses, all of them and no other, in any order."""
    principal: bool = False
    """The first known diagnosis, or a more specific one, is among the first that the answer states,
    as many as are known: a longer list gains nothing."""
    f1: float = 0.0
    """Soft F1 over both lists, 0 to 1; what is alike counts in part, a dangerous near miss
    nothing."""
    decided: bool = True
    """Whether the rules could tell; False asks for a judge."""
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
    answer: str, reference: str, terms_path: Path | None = None, known: Sequence[str] = ()
) -> Grade:
    """Grade an answer; `terms_path` is a table of codes and names of the user's.

    The diagnoses in `known` count neither where they are stated nor where they are left out: the
    record itself tells them.
    """
    if thinking.read(answer).answer.strip() == reference.strip() and (
        listed := split_list(reference)
    ):
        stated = tuple(diagnosis.text for diagnosis in listed)
        return Grade(exact=True, principal=True, f1=1.0, relation=Relation.SAME, stated=stated)
    terms = load_terms(terms_path) if terms_path else None
    told = _read_list("；".join(known), False)
    expected = _leave_out(_read_list(reference, False), told)
    best = _grade_lists(answer, extract_diagnoses(answer), expected, told, terms)
    if best.principal or not any(mark in f"{answer}{reference}" for mark in "伴并"):
        return best
    expected = _leave_out(_read_list(reference, True), told)
    stated_whole = extract_diagnoses(answer, keep_companions=True)
    whole = _grade_lists(answer, stated_whole, expected, told, terms)
    return whole if whole.principal else best


def _grade_lists(
    answer: str,
    found: Sequence[StatedDiagnosis],
    known: Sequence["_Reading"],
    told: Sequence["_Reading"],
    terms: Terms | None,
) -> Grade:
    """Grade the diagnoses that were read out of an answer against the known ones."""
    stated = tuple(diagnosis.text for diagnosis in found if not diagnosis.denied)
    if not known:
        return Grade(decided=False, relation=Relation.UNCLEAR, stated=stated)
    readings = [r for r in _read(found) if r.name.negated or not _is_told(r, told)]
    affirmed = [
        reading
        for reading in readings
        if not reading.name.negated or any(k.name.negated for k in known)
    ]
    if not affirmed:
        return _grade_without_names(answer, known[0].name, [reading.name for reading in readings])
    table = [[_relate(reading, target, terms) for target in known] for reading in affirmed]
    if len(affirmed) > 1 and are_together(affirmed[0].name, affirmed[1].name, known[0].name):
        table[0][0] = Relation.SAME
    n_principal = 1 + sum(not k.is_companion for k in known[1:])
    first = _find_first(table, affirmed, n_principal)
    right = next((relation for relation in WORTH if relation in RIGHT and relation in first), None)
    firm = [
        row
        for row, reading in zip(table, affirmed, strict=True)
        if not reading.is_doubtful and not reading.is_companion
    ]
    is_denied = right is None and _deny(readings, known[0])
    nearest = right or (
        Relation.NEAR_MISS if is_denied else _find_nearest(firm or table, table, known)
    )
    if nearest in (Relation.NEAR_MISS, Relation.DIFFERENT):
        table = [_drop_idle(row, known, nearest) for row in table]
    worth = [
        [_weigh(relation, reading, target) for relation, target in zip(row, known, strict=True)]
        for row, reading in zip(table, affirmed, strict=True)
    ]
    f1 = 2 * sum(_pair_up(worth)) / (len(affirmed) + len(known))
    is_right = right is not None or f1 == 1.0
    return Grade(
        exact=f1 == 1.0,
        principal=is_right,
        f1=round(f1, 4),
        decided=is_right or nearest not in UNDECIDED,
        relation=Relation.SAME if f1 == 1.0 else nearest,
        stated=stated,
    )


def _weigh(relation: Relation, answer: "_Reading", reference: "_Reading") -> float:
    """Weigh what a stated diagnosis counts for a known one."""
    if relation not in UNDECIDED:
        return WORTH[relation]
    ours = answer.full or answer.name
    names = (reference.name, *reference.asides)
    return UNDECIDED_WORTH * max(measure_likeness(ours, name) for name in names)


def _drop_idle(
    row: Sequence[Relation], known: Sequence["_Reading"], nearest: Relation
) -> list[Relation]:
    """Let a dangerously missed diagnosis count nothing, nor the companions of a missed one where
    they are no disease of their own: the bleeding of another ulcer is another bleeding."""
    return [
        Relation.DIFFERENT
        if (nearest is Relation.NEAR_MISS and not n)
        or (k.is_companion and (nearest is Relation.NEAR_MISS or is_generic(k.name.core)))
        else relation
        for n, (relation, k) in enumerate(zip(row, known, strict=True))
    ]


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


@lru_cache(maxsize=4096)
def _read_list(text: str, keep_companions: bool) -> list[_Reading]:
    """Read known diagnoses: many answers are held against the same ones."""
    return _read(split_list(text, keep_companions=keep_companions))


def _read(listed: Sequence[StatedDiagnosis]) -> list[_Reading]:
    """Read every diagnosis of a list once."""
    readings: dict[str, _Reading] = {}
    for stated in listed:
        name = parse_name(stated.text, stated.denied)
        asides = [parse_name(one, stated.denied) for one in stated.alias.split("/") if one]
        full = parse_name(f"{stated.alias} {stated.text}", stated.denied) if stated.alias else None
        readings.setdefault(
            f"{(full or name).plain}{name.negated}",
            _Reading(name, asides, full, stated.is_companion, stated.is_doubtful),
        )
    return list(readings.values())


def _leave_out(readings: Sequence[_Reading], told: Sequence[_Reading]) -> list[_Reading]:
    """Leave out the diagnoses that the record tells; the principal one stays."""
    return [r for n, r in enumerate(readings) if not n or not _is_told(r, told)]


def _is_told(reading: _Reading, told: Sequence[_Reading]) -> bool:
    return any(compare(reading.name, one.name) is Relation.SAME for one in told)


def _relate(answer: _Reading, reference: _Reading, terms: Terms | None) -> Relation:
    """Compare two diagnoses; what stands in brackets, another name or details, counts only where it
    does not contradict."""
    relation = compare(answer.name, reference.name)
    if terms and relation is not Relation.NEAR_MISS:
        relation = terms.relate(answer.name, reference.name) or relation
    if answer.full is None and reference.full is None:
        return relation
    whole, known = answer.full or answer.name, reference.full or reference.name
    if relation is Relation.NEAR_MISS or has_clash(whole, known):
        return Relation.NEAR_MISS
    between = compare(whole, known)
    is_other = between is Relation.UNCLEAR and whole.core == known.core
    if between is Relation.OTHER_STAGE or is_other or relation is Relation.SAME:
        return between if between is Relation.OTHER_STAGE or is_other else relation
    pairs = [
        *((one, reference.name) for one in (whole, *answer.asides)),
        *((answer.name, other) for other in (known, *reference.asides)),
        (whole, known),
    ]
    if any(compare(one, other) is Relation.SAME for one, other in pairs) or (
        answer.full
        and relation is not Relation.MORE_SPECIFIC
        and holds_all(answer.full.plain, known.plain)
        and not holds_all(answer.name.plain, known.plain)
    ):
        return Relation.SAME
    return relation


_NEARNESS = (
    Relation.SAME,
    Relation.MORE_SPECIFIC,
    Relation.MORE_GENERAL,
    Relation.PART,
    Relation.UNCLEAR,
    Relation.OTHER_STAGE,
    Relation.NEAR_MISS,
    Relation.DIFFERENT,
)


def _find_nearest(
    firm: Sequence[Sequence[Relation]],
    table: Sequence[Sequence[Relation]],
    known: Sequence[_Reading],
) -> Relation:
    """Relate the nearest stated diagnosis to the principal one; a companion of that is a part."""
    nearest = min((row[0] for row in firm), key=_NEARNESS.index)
    companions = takewhile(lambda n: known[n].is_companion, range(1, len(known)))
    telling = [n for n in companions if not is_generic(known[n].name.core)]
    if nearest is Relation.DIFFERENT and any(
        row[n] is Relation.SAME for row in table for n in telling
    ):
        return Relation.PART
    return Relation.UNCLEAR if nearest in RIGHT else nearest


def _deny(readings: Sequence[_Reading], principal: _Reading) -> bool:
    """Tell whether the principal diagnosis is among those that an answer denies."""
    return not principal.name.negated and any(
        reading.name.negated and compare(reading.name, principal.name) is Relation.NEAR_MISS
        for reading in readings
    )


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
