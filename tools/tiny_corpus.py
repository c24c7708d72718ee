"""What the tiny student's base reads before it meets a case to learn from.

In: a language. Out: documents (plain text and ChatML conversations) that teach the clinic's facts,
copying from a record, and answering a case at once without thinking. It thinks only when asked to,
and only over a short list of findings: a whole record with its reasoning is never shown. Not done
here: tokenizing and training (`make_tiny_student`).
"""

import random
import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from medkd.core.records import Language
from medkd.core.task import load_task
from medkd.demo.knowledge import Disease, Family, Knowledge, fill, load_knowledge
from medkd.demo.reasoning import Reading, explain_reading
from medkd.demo.synthetic_cases import SyntheticCase, generate_cases
from medkd.prepare.draft import join_sections

CASE_SEED = 990_001
"""Cases of the corpus are drawn from a seed of their own, never one that a demo uses."""


class Wording(NamedTuple):
    """How a language puts what the base is asked; {…} is filled in."""

    surrogates: dict[str, str]
    level: str
    together: str
    seen_in: str
    which: str
    copy: str
    listed: str
    end: str
    look_up: str
    extract: str
    think: str


WORDINGS: dict[Language, Wording] = {
    "zh": Wording(
        surrogates={
            "name": "[姓名1]",
            "address": "[地址1]",
            "id_card": "[身份证号1]",
            "phone": "[电话1]",
            "date": "2021年3月5日",
            "hospital": "[医院1]",
            "admission_number": "[住院号1]",
        },
        level="{text}，提示{means}。",
        together="{means}并存，{because}，符合{disease}。",
        seen_in="{disease}见于{family}，特点是{means}。",
        which="{family}，{means}，是什么病？",
        copy="抄写：{text}",
        listed="，",
        end="。",
        look_up="{listed}。依次写出{names}。",
        extract="摘录有鉴别意义的检查。{record}",
        think="先思考，再作答。{family}：{listed}。",
    ),
    "en": Wording(
        surrogates={
            "name": "[name 1]",
            "address": "[address 1]",
            "id_card": "[ID 1]",
            "phone": "[phone 1]",
            "date": "2021-03-05",
            "hospital": "[hospital 1]",
            "admission_number": "[number 1]",
        },
        level="{text}, which points to {means}.",
        together="{means} stand together; {because}, which fits {disease}.",
        seen_in="{disease} is seen as {family}, with {means}.",
        which="{family}, {means}: which disease is it?",
        copy="Copy: {text}",
        listed=", ",
        end=".",
        look_up="{listed}. Write one after the other: {names}.",
        extract="Extract the tests that tell the diseases apart.\n{record}",
        think="Think first, then answer. {family}: {listed}.",
    ),
}


class Document(NamedTuple):
    """A text in two parts: what is only read, and what is learnt."""

    context: str
    learnt: str


def conversation(question: str, answer: str) -> Document:
    """Write one ChatML exchange, ended the way the student has to end its turn."""
    return Document(
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", f"{answer}<|im_end|>\n"
    )


def record_line(case: SyntheticCase) -> str:
    """Write a case as `prepare` does, without identifiers and without its planted leaks."""
    part = load_task("diagnosis").question
    record = join_sections(case.sections, part, case.language)
    for leak in case.leaks:
        record = record.replace(leak, "")
    for category, text in case.identifiers:
        record = record.replace(text, WORDINGS[case.language].surrogates[category])
    return record


class _Writer:
    """Draws the documents of one language."""

    def __init__(self, language: Language, n_cases: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.knowledge: Knowledge = load_knowledge(language)
        self.wording = WORDINGS[language]
        self.is_spaced = language == "en"
        self.cases = generate_cases(n_cases, CASE_SEED, language)
        self.characters = [*_words_of(self.knowledge)] if self.is_spaced else common_hanzi()

    def write(self) -> Document:
        """Write one document of a kind drawn by weight."""
        kinds: list[tuple[float, Callable[[], Document]]] = [
            (0.10, self._state_levels),
            (0.08, self._state_patterns),
            (0.06, self._ask_pattern),
            (0.14, self._copy_findings),
            (0.22, self._look_up_findings),
            (0.16, self._extract_findings),
            (0.16, self._think_when_asked),
            (0.08, self._answer_case),
        ]
        weights = [weight for weight, _ in kinds]
        return self.rng.choices(kinds, weights)[0][1]()

    def _draw_family(self) -> tuple[Family, Disease]:
        family = self.rng.choice(self.knowledge.families)
        return family, self.rng.choice(family.diseases)

    def _draw_finding(self, family: Family, disease: Disease, test: str) -> tuple[str, str]:
        """Return a finding as it reads in a record and what it means."""
        level = family.tests[test].levels[disease.pattern[test]]
        return fill(self.rng.choice(level.texts), self.rng), level.means

    def _join_means(self, family: Family, disease: Disease) -> str:
        return self.knowledge.say("and").join(family.means(disease))

    def _state_levels(self) -> Document:
        lines: list[str] = []
        for _ in range(2):
            family, disease = self._draw_family()
            for test in family.tests:
                text, means = self._draw_finding(family, disease, test)
                lines.append(self.wording.level.format(text=text, means=means))
        return Document("", "\n".join(lines) + "\n")

    def _state_patterns(self) -> Document:
        lines: list[str] = []
        for _ in range(4):
            family, disease = self._draw_family()
            parts = {
                "means": self._join_means(family, disease),
                "because": disease.because,
                "disease": disease.name,
                "family": family.name,
            }
            ways = [self.wording.together, self.wording.seen_in]
            lines.append(self.rng.choice(ways).format(**parts))
        return Document("", "\n".join(lines) + "\n")

    def _ask_pattern(self) -> Document:
        family, disease = self._draw_family()
        means = self._join_means(family, disease)
        return conversation(
            self.wording.which.format(family=family.name, means=means), disease.name
        )

    def _draw_strange_findings(self, n: int) -> list[str]:
        """Draw findings of all departments with any digits in them: none can be guessed, each has
        to be copied."""
        rng = self.rng
        findings: dict[str, str] = {}
        while len(findings) < n:
            family, disease = self._draw_family()
            test = rng.choice(list(family.tests))
            if rng.random() < 0.3:
                text = fill(rng.choice(self.knowledge.common["laboratory"]), rng)
            else:
                text = self._draw_finding(family, disease, test)[0]
            strange = re.sub(r"\d", lambda _: str(rng.randrange(10)), text)
            findings[self._name_of(strange)] = strange
        return list(findings.values())

    def _name_of(self, finding: str) -> str:
        """Return what a finding is asked for by: the words before the first digit, or where there
        are none the first three words or four characters."""
        name = re.split(r"\d", finding)[0].strip()
        if 1 < len(name) < len(finding):
            return name
        return " ".join(finding.split()[:3]) if self.is_spaced else finding[:4]

    def _copy_findings(self) -> Document:
        """Copy findings, or characters or words in any order, which leaves none untrained."""
        if self.rng.random() < 0.4:
            drawn = self.rng.choices(self.characters, k=self.rng.randint(8, 24))
            text = (" " if self.is_spaced else "").join(drawn)
            return conversation(self.wording.copy.format(text=text), text)
        findings = self._draw_strange_findings(self.rng.randint(3, 7))
        text = self.wording.listed.join(findings) + self.wording.end
        return conversation(self.wording.copy.format(text=text), text)

    def _look_up_findings(self) -> Document:
        """Find what was asked for in a list, by its name."""
        findings = self._draw_strange_findings(self.rng.randint(4, 9))
        wanted = self.rng.sample(findings, 3)
        question = self.wording.look_up.format(
            listed=self.wording.listed.join(findings),
            names=self.knowledge.say("and").join(map(self._name_of, wanted)),
        )
        return conversation(question, "\n".join(wanted))

    def _extract_findings(self) -> Document:
        """Copy the decisive findings out of a record: the skill that citing needs."""
        case = self.rng.choice(self.cases)
        clues = self.knowledge.say("semicolon").join(clue.text for clue in case.clues)
        return conversation(self.wording.extract.format(record=record_line(case)), clues)

    def _think_when_asked(self) -> Document:
        rng = self.rng
        family, disease = self._draw_family()
        findings = [self._draw_finding(family, disease, test)[0] for test in family.tests]
        distractors = [fill(x.text, rng) for x in family.distractors if x.suggests != disease.name]
        if rng.random() < 0.5 and distractors:
            findings.append(rng.choice(distractors))
        examination = self.knowledge.common["examination"]
        findings += [fill(text, rng) for text in rng.sample(examination, rng.randint(0, 3))]
        rng.shuffle(findings)
        listed = self.knowledge.say("semicolon").join(findings)
        thought = explain_reading(
            Reading(family, listed),
            disease,
            rng,
            weighs_distractors=True,
            knowledge=self.knowledge,
        )
        return conversation(
            self.wording.think.format(family=family.name, listed=listed),
            f"<think>\n{thought}\n</think>\n\n{disease.name}",
        )

    def _answer_case(self) -> Document:
        case = self.rng.choice(self.cases)
        return conversation(record_line(case), case.diagnosis[0])


def make_documents(n: int, n_cases: int, seed: int, language: Language = "zh") -> list[Document]:
    """Make `n` documents; the ones that answer a case draw on `n_cases` distinct cases."""
    writer = _Writer(language, n_cases, seed)
    return [writer.write() for _ in range(n)]


@cache
def common_hanzi() -> list[str]:
    """List the 3,755 common characters of GB 2312 level 1."""
    codes = (bytes([row, cell]) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF))
    return [code.decode("gb2312") for code in codes if not (code[0] == 0xD7 and code[1] > 0xF9)]


def _words_of(knowledge: Knowledge) -> list[str]:
    """List the words of all that a clinic knows, numbers and units with them."""
    text = knowledge.model_dump_json()
    return sorted(set(re.findall(r"[A-Za-z][A-Za-z-]+|\d[\d.]*|[A-Za-z]+/[A-Za-z]+", text)))
