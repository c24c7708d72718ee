"""One case on its way to a question: its sections repaired, its known answer, its text without it.

In: a case and the task. Out: a `Draft`, or the reason why the case cannot be asked. Not done here:
what is cut (`leakage`), what two cases have in common, splits (`stage`).

>>> from medkd.core.task import load_task
>>> part = load_task("diagnosis").question
>>> join_sections({"主诉": "发热3天。", "基本信息": "男，49岁"}, part, "zh")
'【基本信息】男，49岁 【主诉】发热3天。'
>>> join_sections({"主诉": "Fever.", "基本信息": "Man of 49"}, part, "en")
'Patient: Man of 49\\nChief complaint: Fever.'
"""

import html
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from medkd.core.errors import Said
from medkd.core.records import Case, Language, Removal
from medkd.core.task import KNOWN_DIAGNOSIS, AnswerKind, QuestionPart, Task
from medkd.grading.graders import get_grader
from medkd.prepare.aliases import AnswerAliases, collect_aliases, load_synonyms
from medkd.prepare.leakage import Decisions, Reviewed, Rule, find_cuts, remove_spans
from medkd.prepare.statements import (
    EXAMINATION,
    TESTS,
    Tier,
    find_answer,
    find_known,
    is_complaint,
    joins_answer,
)
from medkd.text.diagnoses import clean_diagnosis, split_diagnoses
from medkd.text.normalize import View, drop_unseen, is_chinese, normalize

_MIN_SHARE_LEFT = 1 / 3
_COMPLAINT = "主诉"
_FINDINGS = frozenset({EXAMINATION, TESTS})
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


_WANTED: dict[AnswerKind, str] = {"choice": "letter of an option", "number": "number"}


def list_next_steps(task: Task, unasked: Mapping[str, int]) -> dict[str, Said]:
    """Say what to do where many cases cannot be asked for a reason."""
    answer, part = task.answer, task.question
    others = ", ".join([*unasked][:8]) or "–"
    return {
        DropReason.NO_DIAGNOSIS: Said(
            "they have no diagnosis in {}; questions of another kind are asked with --task "
            "open-question or a task of your own",
            answer.section[0],
        ),
        DropReason.NO_ANSWER: Said(
            "they have no section {}; name yours in the task's answer.section (there are: {})",
            " / ".join(answer.section),
            others,
        ),
        DropReason.UNFIT_ANSWER: Said(
            "their answers hold no {}, as answer.kind {} wants; write answer.kind: text",
            Said(_WANTED.get(answer.kind, "answer")),
            answer.kind,
        ),
        DropReason.TOO_SHORT: Said(
            "they have less than {} characters in {}; name their sections in the task's "
            "question.sections (there are: {}), or lower question.min_characters",
            part.min_characters,
            ", ".join(part.sections),
            others,
        ),
        DropReason.NO_FINDING: Said(
            "they have none of {}; name what they have in the task's question.sections "
            "(there are: {})",
            ", ".join(part.needs),
            others,
        ),
        DropReason.ANSWER_IS_COMPLAINT: Said(
            "their complaint is the diagnosis itself; look at 主诉"
        ),
        DropReason.ANSWER_WOVEN_IN: Said(
            "their findings name the diagnosis throughout, as a rhythm on an electrocardiogram "
            "does; ask them under a task that does not remove the answer"
        ),
        DropReason.TOO_LITTLE_LEFT: Said(
            "most of their text tells the answer; look at their sections"
        ),
        DropReason.DUPLICATE: Said("the same question stands there twice; look at the input"),
        DropReason.NEAR_DUPLICATE: Said(
            "nearly the same question stands there twice; look at the input"
        ),
    }


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
    told: Mapping[str, frozenset[str]]
    """Sections that were looked at, and those that state the principal diagnosis, before and after;
    empty where the task removes nothing."""
    known: tuple[str, ...]
    """Diagnoses of the reference that the record itself tells as known."""
    removals: tuple[Removal, ...]
    texts: Mapping[str, str]
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
    reference = ("；" if language == "zh" else "; ").join(dict.fromkeys(answer))
    if not part.remove_answer:
        if part.needs and not any(name in before for name in part.needs):
            return DropReason.NO_FINDING
        line = join_sections(before, part, language)
        return Draft(case, language, reference, before, before, line, {}, (), (), {})
    listed = [*answer, *split_diagnoses(case.sections.get(KNOWN_DIAGNOSIS, ""))]
    aliases = collect_aliases(listed, load_synonyms(answers))
    if _COMPLAINT in views and is_complaint(views[_COMPLAINT].text, aliases):
        return DropReason.ANSWER_IS_COMPLAINT
    texts, removals = _remove(case, views, aliases, (decisions or {}).get(case.id, ()))
    replaced = [one for one in removals if one.rule == Rule.NAME and one.state == "removed"]
    if language == "en":  # a name that is replaced leaves the sentence whole
        replaced = [one for one in replaced if one.section in _FINDINGS]
    if len(replaced) > _MAX_WOVEN_IN:
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


# The sections of a question

_EMPTY = re.compile(
    r"无|暂[无缺]|缺如?|不详|未(?:查|做|行|见|填写?|录入|记录|提供)|待补充|略|空白?|none|nan?|null|nil|n/a|n\.a"
    r"|\#(?:n/?a|ref!|value!|div/0!|name\?|null!|num!)|\\n|<na>|nat|undefined|unknown|missing"
)
"""What stands where a section is empty: words of people, of tables and of programs."""
_NO_WORD = re.compile(r"(?:[^\w+]|_)*")
_QUIRK = re.compile(r"^[^。]{0,20}?T是\d")
_NATURAL_IS = re.compile(
    r"(?<![但于还不只可都总就也若要正像便即仍别其])是(?!否|因|由|由于|指|指的|的|一|在|从|以|为)"
)
_DEGREE = re.compile(r"(?<=[^\d.])((?:3[3-9]|4[0-2])(?:\.\d{1,2})?)度")
_ENTITY = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")
_LINES = (
    (re.compile(r"\r\n?"), "\n"),
    (re.compile(r"[^\S\n]+"), " "),
    (re.compile(r" ?\n ?"), "\n"),
    (re.compile(r"\n{3,}"), "\n\n"),
)
_ONE_LINE = (
    (re.compile(r"\r"), "\n"),
    (re.compile(r"[^\S\n]+"), " "),
    (re.compile(r" ?\n[ \n]*"), "\n"),
)
_ENGLISH = (
    (re.compile(r"(?<=[.;,:!?])\n"), " "),
    (re.compile(r"\n"), "; "),
    (re.compile("【"), ""),
    (re.compile("】"), " "),
)
_CHINESE = (
    (re.compile(r"(?<=[。；，：！？;:,、])\n"), ""),
    (re.compile(r"\n"), "，"),
    (re.compile(r"(?<=[^\x00-\xff]) | (?=[^\x00-\xff])"), ""),
)
_LINE_BREAK_COMMA = re.compile(r"([。；，：！？;:,、])\s*[,，]+")
_REPAIRS = (
    (re.compile(r"【([^【】]{1,12})】[:：]?"), r"\1："),
    (re.compile(r"[【】]"), ""),
    (_LINE_BREAK_COMMA, r"\1"),
    (re.compile(r"。{2,}"), "。"),
    (re.compile(r",(?=[一-鿿])"), "，"),
    (re.compile(r"(?<=[一-鿿]),(?=\d{1,2}[.、．](?!\d))"), "；"),
    (re.compile(r"^[,，。；;、\s]+"), ""),
)


def clean_sections(
    sections: Mapping[str, str], part: QuestionPart, language: Language
) -> dict[str, View]:
    """Repair the sections of a question, those that are folded into another too; those without
    content are left out. Each view leads back to the section as it was."""
    is_labelled = "{section}" in part.template[language]
    folded = (name for names in part.fold.values() for name in names)
    views = {
        name: clean_text(sections[name], name, language)
        if is_labelled
        else keep_lines(sections[name])
        for name in dict.fromkeys((*part.sections, *folded))
        if name in sections
    }
    return {name: view for name, view in views.items() if not is_empty(view.text)}


def fold_sections(
    texts: Mapping[str, str], part: QuestionPart, language: Language
) -> dict[str, str]:
    """Return the texts of a question's sections in their order, the folded ones at the end of
    another."""
    told = {name: texts[name] for name in part.sections if name in texts}
    colon, stop = ("：", "。") if language == "zh" else (": ", ".")
    for name, folded in part.fold.items():
        extra = [
            f"{_label(other, part, language)}{colon}{texts[other]}"
            for other in folded
            if other not in part.sections and other in texts
        ]
        if extra and name in part.sections:
            lines = [*([told[name]] if name in told else []), *extra]
            between = stop if language == "zh" else f"{stop} "
            told[name] = between.join(line.rstrip(stop) for line in lines) + stop
    return {name: told[name] for name in part.sections if name in told}


def _label(name: str, part: QuestionPart, language: Language) -> str:
    return part.labels.get(language, {}).get(name, name)


def keep_lines(text: str) -> View:
    """Repair white space and keep the lines: blanks within and around them, and all but one empty
    line.

    >>> keep_lines(" A.  one\\r\\n\\n\\n\\nB. two ").text
    'A. one\\n\\nB. two'
    """
    view = _unescape(text)
    for pattern, replacement in _LINES:
        view = view.sub(pattern, replacement)
    return view.rstrip().lstrip()


def clean_text(text: str, section: str = "", language: Language = "zh") -> View:
    """Put a section on one line and repair what crawlers broke: commas for line breaks, 是 for a
    colon, 度 for ℃."""
    view = _unescape(text).rstrip().lstrip()
    for pattern, replacement in (*_ONE_LINE, *(_ENGLISH if language == "en" else _CHINESE)):
        view = view.sub(pattern, replacement)
    if language == "en":
        return view.rstrip(", \t\xa0")
    if section == "查体" and _QUIRK.match(view.text):
        view = view.sub(_NATURAL_IS, "：").sub(_DEGREE, r"\1℃")
    for pattern, replacement in _REPAIRS:
        view = view.sub(pattern, replacement)
    return view.rstrip(",，、 \t\r\n\u3000\xa0")


def _unescape(text: str) -> View:
    view = drop_unseen(text)
    return view.sub(_ENTITY, lambda entity: html.unescape(entity[0])) if "&" in text else view


def is_empty(text: str) -> bool:
    """Tell whether a section says nothing.

    >>> [is_empty(text) for text in ("\\\\N", "#N/A。", "[]", "--", "未填写", "无异常")]
    [True, True, True, True, True, False]
    """
    plain = normalize(text).strip(" 。、,.;:“”\"'").lower()
    return bool(
        _EMPTY.fullmatch(plain)
        or _EMPTY.fullmatch(plain.strip("()[]{}<>"))
        or _NO_WORD.fullmatch(plain)
    )


def join_sections(sections: Mapping[str, str], part: QuestionPart, language: Language) -> str:
    """Write sections in their order, each as the template says."""
    template = part.template[language]
    texts = {name: sections[name] for name in part.sections if name in sections}
    written = [
        template.replace("{section}", _label(name, part, language)).replace("{text}", text)
        for name, text in texts.items()
    ]
    return "".join([*written, part.ask[language]]).strip()
