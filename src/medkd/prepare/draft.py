"""One case on its way to a question: its language, its known answer, its text without that answer.

In: a case and the task. Out: a `Draft`, or the reason why the case cannot be asked. Not done here:
what two cases have in common, splits (`stage`).
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from medkd.core.records import Case, Language, Removal
from medkd.core.task import KNOWN_DIAGNOSIS, AnswerKind, Task
from medkd.grading.graders import get_grader
from medkd.prepare.aliases import AnswerAliases, collect_aliases, load_synonyms
from medkd.prepare.leakage import Rule, find_cuts
from medkd.prepare.record import (
    clean_sections,
    fold_sections,
    is_empty,
    join_sections,
    keep_lines,
)
from medkd.prepare.removals import Decisions, Reviewed, remove_spans
from medkd.prepare.statements import (
    Tier,
    find_answer,
    find_known,
    is_complaint,
    joins_answer,
)
from medkd.text.diagnoses import clean_diagnosis, split_diagnoses
from medkd.text.normalize import View, is_chinese, normalize

_MIN_SHARE_LEFT = 1 / 3
_COMPLAINT = "主诉"
_MAX_WOVEN_IN = 3
"""Sentences of a record that may lose a name and keep the rest."""


class DropReason(StrEnum):
    """Why a case becomes no question."""

    NO_DIAGNOSIS = "no_diagnosis"
    """No known diagnosis, so nothing to answer with."""
    NO_ANSWER = "no_answer"
    """The section of the known answer is not there or says nothing."""
    UNFIT_ANSWER = "unfit_answer"
    """The known answer is not of the task's kind: no letter of an option, no number."""
    TOO_SHORT = "too_short"
    """The question is shorter than the task's min_characters."""
    NO_FINDING = "no_finding"
    """None of the sections is left that the task needs."""
    TOO_LITTLE_LEFT = "too_little_left"
    """Less than a third of the record was left without the answer."""
    ANSWER_IS_COMPLAINT = "answer_is_complaint"
    """The chief complaint is the principal diagnosis itself: there is nothing to find out."""
    ANSWER_WOVEN_IN = "answer_woven_in"
    """Its name stands in too many sentences that say more: 室早总数14526, 室早三联律."""
    ANSWER_LEFT = "answer_left"
    """The answer comes together across two sections; such a record is not used."""
    DUPLICATE = "duplicate"
    """The same record or the same id was there before."""
    NEAR_DUPLICATE = "near_duplicate"
    """Nearly the same record was there before."""


class Draft(NamedTuple):
    """A record on its way to a question."""

    case: Case
    language: Language
    reference: str
    before: dict[str, str]
    """Sections as they were, repaired."""
    after: dict[str, str]
    """The same without the answer, where the task wants it removed."""
    line: str
    told: Mapping[str, frozenset[str]] = MappingProxyType({})
    """Sections that were looked at, and those that state the principal diagnosis, before and after;
    empty where the task removes nothing."""
    known: tuple[str, ...] = ()
    """Diagnoses of the reference that the record itself tells as known."""
    removals: tuple[Removal, ...] = ()
    texts: Mapping[str, str] = MappingProxyType({})
    """`after`, each section by itself."""


def draft_question(
    case: Case, task: Task, answers: Path | None = None, decisions: Decisions | None = None
) -> Draft | DropReason:
    """Repair a case's sections and remove the answer from them where the task says so, or say why
    it cannot be used. `decisions` are those of people about removals."""
    part = task.question
    language = find_language(case, task)
    answer = find_answers(case, task)
    if isinstance(answer, DropReason):
        return answer
    views = clean_sections(case.sections, part, language)
    before = fold_sections({name: view.text for name, view in views.items()}, part, language)
    if measure(before) < part.min_characters:
        return DropReason.TOO_SHORT
    reference = "；".join(dict.fromkeys(answer))
    if not part.remove_answer:
        if part.needs and not any(name in before for name in part.needs):
            return DropReason.NO_FINDING
        line = join_sections(before, part, language)
        return Draft(case, language, reference, before, before, line)
    listed = [*answer, *split_diagnoses(case.sections.get(KNOWN_DIAGNOSIS, ""))]
    aliases = collect_aliases(listed, load_synonyms(answers))
    if _COMPLAINT in views and is_complaint(views[_COMPLAINT].text, aliases):
        return DropReason.ANSWER_IS_COMPLAINT
    texts, removals = _remove(case, views, aliases, (decisions or {}).get(case.id, ()))
    if sum(one.rule == Rule.NAME for one in removals if one.state == "removed") > _MAX_WOVEN_IN:
        return DropReason.ANSWER_WOVEN_IN
    after = fold_sections(texts, part, language)
    if part.needs and not any(name in after for name in part.needs):
        return DropReason.NO_FINDING
    if measure(after) < measure(before) * _MIN_SHARE_LEFT:
        return DropReason.TOO_LITTLE_LEFT
    line = join_sections(after, part, language)
    if joins_answer(line, aliases):
        return DropReason.ANSWER_LEFT
    told = _find_told(views, texts, removals, aliases)
    known = _list_known(answer, texts, aliases)
    return Draft(
        case, language, reference, before, after, line, told, known, tuple(removals), texts
    )


def _remove(
    case: Case, views: Mapping[str, View], aliases: AnswerAliases, decisions: Sequence[Reviewed]
) -> tuple[dict[str, str], list[Removal]]:
    """Remove the answer from every section; return what is left, and the removals."""
    texts: dict[str, str] = {}
    removals: list[Removal] = []
    for name, view in views.items():
        cuts = find_cuts(view.text, aliases, name)
        text, removed = remove_spans(case, name, view, cuts, decisions)
        removals += removed
        if text.strip("。，； "):
            texts[name] = text
    return texts, removals


def _find_told(
    views: Mapping[str, View],
    texts: Mapping[str, str],
    removals: Sequence[Removal],
    aliases: AnswerAliases,
) -> dict[str, frozenset[str]]:
    """Find the sections that stated the answer before and state it after; one without a removal
    never did."""
    told = {"asked": frozenset(views)}
    changed = {removal.section for removal in removals}
    for side, told_by in (
        ("before", {n: view.text for n, view in views.items()}),
        ("after", texts),
    ):
        told[side] = frozenset(
            name
            for name in changed
            if any(
                mention.tier is Tier.PRINCIPAL
                for mention in find_answer(told_by.get(name, ""), aliases, name)
            )
        )
    return told


def _list_known(
    answer: Sequence[str], texts: Mapping[str, str], aliases: AnswerAliases
) -> tuple[str, ...]:
    """List the answer's diagnoses that the record tells as known; never the principal one."""
    known = {one for name, text in texts.items() for one in find_known(text, aliases, name)}
    return tuple(
        dict.fromkeys(one for one in answer[1:] if one != answer[0] and normalize(one) in known)
    )


def find_language(case: Case, task: Task) -> Language:
    """Find the language of a case's question: the task's, or that of its sections."""
    part = task.question
    names = (*part.sections, *(name for folded in part.fold.values() for name in folded))
    return task.find_language(is_chinese(" ".join(case.sections.get(name, "") for name in names)))


def find_answers(case: Case, task: Task) -> tuple[str, ...] | DropReason:
    """Find the known answer of a case: its diagnoses in order, or one text."""
    found = (case.sections.get(name, "").strip() for name in task.answer.section)
    text = next(filter(None, found), "")
    if task.answer.kind != "diagnosis":
        if is_empty(text):
            return DropReason.NO_ANSWER
        answer = keep_lines(text).text
        return (answer,) if fits(task.answer.kind, answer) else DropReason.UNFIT_ANSWER
    is_listed = not text or task.answer.section[0] == KNOWN_DIAGNOSIS
    diagnoses = (
        clean_diagnosis(item)
        for listed in (case.diagnosis if is_listed else (text,))
        for item in split_diagnoses(listed)
    )
    return tuple(filter(None, diagnoses)) or DropReason.NO_DIAGNOSIS


def fits(kind: AnswerKind, answer: str) -> bool:
    """Tell whether a known answer can be of a kind: its grader calls it right.

    >>> fits("choice", "B. 肺炎"), fits("choice", "肺炎"), fits("number", "无")
    (True, False, False)
    """
    return get_grader(kind)(answer, answer).verdict == "right"


def measure(sections: Mapping[str, str]) -> int:
    """Count the characters of sections."""
    return sum(map(len, sections.values()))
