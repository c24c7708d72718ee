"""How the rehearsal teacher thinks: from a record or question, step by step, to the known answer.

In: a question as `prepare` writes it. Out: the reasoning as text, every finding cited as it stands
there. For an answer the clinic does not know it argues from the question's own words, which shows
the form of a rationale and teaches nothing. Not done here: HTTP (`demo.teacher`).
"""

import random
import re
from collections.abc import Iterator, Mapping

from medkd.core.records import Language
from medkd.core.task import load_task
from medkd.demo.knowledge import (
    Disease,
    Distractor,
    Family,
    Knowledge,
    load_knowledge,
    pattern_of,
)

_SECTION = re.compile(r"【([^【】]+)】([^【]*)")
_LABEL = re.compile(r"(?m)^([A-Z][A-Za-z ]{2,40}): ")
MAX_FINDINGS = 6
"""Findings cited for an answer that is not in the knowledge base."""


class Reading:
    """What stands in a record of one family: the level and text of each test, and the misleading
    findings."""

    def __init__(self, family: Family, record: str) -> None:
        self.family = family
        self.levels: dict[str, tuple[str, str]] = {}
        """Test to the level and the finding as it stands in the record."""
        for name, test in family.tests.items():
            for level_name, level in test.levels.items():
                for template in level.texts:
                    for match in pattern_of(template).finditer(record):
                        if _is_in_range(template, match.group()):
                            self.levels[name] = (level_name, match.group())
        self.distractors: list[tuple[Distractor, str]] = [
            (distractor, match.group())
            for distractor in family.distractors
            if (match := pattern_of(distractor.text).search(record))
        ]

    def diagnose(self) -> Disease | None:
        """Find the disease whose whole pattern is there."""
        found = {name: level for name, (level, _) in self.levels.items()}
        return next((d for d in self.family.diseases if d.pattern == found), None)


def _is_in_range(template: str, text: str) -> bool:
    """Tell whether the numbers of a finding lie in the ranges of its template: two levels may
    differ in number alone."""
    ranges = re.findall(r"\{(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)\}", template)
    literal = re.sub(r"\{[^{}]*\}", "\0", template)
    values = re.fullmatch(re.escape(literal).replace("\0", r"(\d+(?:\.\d+)?)"), text)
    if values is None:
        return False
    return all(
        float(low) <= float(v) <= float(high)
        for (low, high), v in zip(ranges, values.groups(), strict=True)
    )


def read_record(record: str, language: Language = "zh") -> Reading | None:
    """Find the family whose tests a record shows most completely; None where it shows none."""
    readings = [Reading(family, record) for family in load_knowledge(language).families]
    best = max(readings, key=lambda reading: len(reading.levels))
    return best if best.levels else None


def solve(record: str, language: Language = "zh") -> str | None:
    """Reach a diagnosis from the record alone, or None."""
    reading = read_record(record, language)
    disease = reading.diagnose() if reading else None
    return disease.name if disease else None


def explain(record: str, diagnosis: str, seed: int = 0, language: Language = "zh") -> str:
    """Write the reasoning that leads from a record to a known diagnosis."""
    knowledge = load_knowledge(language)
    known = knowledge.find(diagnosis)
    if known is None:
        return _argue(record, diagnosis, knowledge)
    family, disease = known
    reading = Reading(family, record)
    if set(reading.levels) != set(family.tests):
        return _argue(record, diagnosis, knowledge)
    return explain_reading(reading, disease, random.Random(seed), knowledge=knowledge)


def explain_answer(question: str, answer: str, seed: int, language: Language) -> str:
    """Write the reasoning that leads from a question to its known answer.

    A disease of the clinic is reasoned to from the findings, or on to its treatment where the
    question names it; other answers are argued point by point from what the question says.
    """
    knowledge = load_knowledge(language)
    for family in knowledge.families:
        for disease in family.diseases:
            if disease.treatment == answer and disease.name in question:
                return _treat(Reading(family, question), disease, knowledge)
            reading = Reading(family, question) if disease.name in answer else None
            if reading and set(reading.levels) == set(family.tests):
                return explain_reading(reading, disease, random.Random(seed), knowledge=knowledge)
    return _answer(question, answer, knowledge)


def explain_choice(
    question: str, options: Mapping[str, str], letters: str, language: Language
) -> str:
    """Write the reasoning that goes through the options of a question to its known key."""
    knowledge = load_knowledge(language)
    reading = read_record(question, language)
    findings = _interpret(reading, knowledge) if reading else ()
    weighed = (
        knowledge.say(
            "option_right" if letter in letters else "option_wrong", letter=letter, text=text
        )
        for letter, text in options.items()
    )
    return "\n".join([*findings, *weighed, knowledge.say("choose", letters=letters)])


def explain_reading(
    reading: Reading,
    disease: Disease,
    rng: random.Random,
    weighs_distractors: bool = False,
    knowledge: Knowledge | None = None,
) -> str:
    """Write the reasoning over the complete reading of a record; misleading findings are passed
    over unless they are to be weighed."""
    knowledge = knowledge or load_knowledge()
    family, say = reading.family, knowledge.say
    lines = [
        rng.choice(knowledge.common["openings"]).format(family=family.name),
        *_interpret(reading, knowledge),
    ]
    if weighs_distractors:
        lines += [
            say("dismiss", finding=text, suggests=found.suggests, dismissed=found.dismissed)
            for found, text in reading.distractors
        ]
    means = say("and").join(family.means(disease))
    lines.append(say("conclude", means=means, because=disease.because, disease=disease.name))
    return "\n".join(lines)


def _interpret(reading: Reading, knowledge: Knowledge) -> Iterator[str]:
    """Say of each test that a record shows what it means, in the order of the tests."""
    for name, test in reading.family.tests.items():
        if name in reading.levels:
            level, text = reading.levels[name]
            yield knowledge.say("interpret", finding=text, means=test.levels[level].means)


def _treat(reading: Reading, disease: Disease, knowledge: Knowledge) -> str:
    say = knowledge.say
    return "\n".join(
        [
            say(
                "treat",
                disease=disease.name,
                family=reading.family.name,
                because=disease.because,
            ),
            *_interpret(reading, knowledge),
            say("treat_aim"),
            say("treat_choice", treatment=disease.treatment),
        ]
    )


def _answer(question: str, answer: str, knowledge: Knowledge) -> str:
    """Argue for an answer that is not in the knowledge base, point by point."""
    say = knowledge.say
    asked, *given = [*_split(question)][-MAX_FINDINGS:] or [question.strip()]
    points = [*_split(answer)][:MAX_FINDINGS] or [answer.strip()]
    return "\n".join(
        [
            say("asked", question=asked),
            *(say("known", clause=clause) for clause in given),
            *(say("point", point=point) for point in points),
            say("sum_up"),
        ]
    )


def _argue(record: str, diagnosis: str, knowledge: Knowledge) -> str:
    """Argue from the abnormal findings of the record for a diagnosis that is not in the knowledge
    base."""
    say = knowledge.say
    sections = _cut(record) or {"": record}
    complaint = sections.get("主诉", "").strip().rstrip("。. ") or record[:40]
    findings: list[str] = []
    for name in ("现病史", "查体", "辅助检查", "诊治经过", ""):
        chosen = [
            clause
            for clause in _clauses(sections.get(name, ""), knowledge)
            if clause not in complaint
        ]
        findings += chosen[: 2 if name else MAX_FINDINGS]
    lines = [say("problem", complaint=complaint)]
    lines += [say("finding", finding=finding) for finding in findings[:MAX_FINDINGS]]
    return "\n".join([*lines, say("together"), say("therefore", diagnosis=diagnosis)])


def _cut(record: str) -> dict[str, str]:
    """Cut a record into its sections, as `prepare` writes them in either language."""
    if sections := dict(_SECTION.findall(record)):
        return sections
    _, *parts = _LABEL.split(record)
    own = {label: name for name, label in load_task("diagnosis").question.labels["en"].items()}
    return {
        own.get(label, label): text for label, text in zip(parts[::2], parts[1::2], strict=True)
    }


def _split(text: str) -> Iterator[str]:
    """Split a text into its sentences and clauses; what is short or long is left out."""
    for clause in re.split(r"[。；;！？!?\n]+|\.\s|：", text):
        if 4 <= len(clause.strip(" *#-")) <= 160:
            yield clause.strip(" *#-").rstrip(".")


def _clauses(text: str, knowledge: Knowledge) -> Iterator[str]:
    """Yield the clauses of a section that state something abnormal, as they stand there."""
    abnormal, negated = (re.compile(knowledge.texts[name]) for name in ("abnormal", "negated"))
    is_spaced = knowledge.say("comma").isascii()
    longest = 80 if is_spaced else 40
    for clause in re.split(r"[,;\n]|\. " if is_spaced else r"[，。；,;\s]+", text):
        plain = clause.strip().rstrip(".")
        if 4 <= len(plain) <= longest and abnormal.search(plain) and not negated.search(plain):
            yield plain
