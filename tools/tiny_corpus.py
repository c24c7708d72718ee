"""What the tiny student's base reads before it meets a case to learn from.

Out: documents (plain text and ChatML conversations) that teach the clinic's facts, copying from a
record, and answering a case at once without thinking. It thinks only when asked to, and only over a
short list of findings: a whole record with its reasoning is never shown. Not done here: tokenizing
and training (`demo.student`).
"""

import random
import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from medkd.demo.knowledge import Disease, Family, fill, load_knowledge
from medkd.demo.reasoning import Reading, explain_reading
from medkd.demo.synthetic_cases import SyntheticCase, generate_cases

CASE_SEED = 990_001
"""Cases of the corpus are drawn from a seed of their own, never one that a demo uses."""
SECTIONS = ("基本信息", "主诉", "现病史", "既往史", "查体", "辅助检查", "诊治经过")
_SURROGATES = {
    "name": "[姓名1]",
    "address": "[地址1]",
    "id_card": "[身份证号1]",
    "phone": "[电话1]",
    "date": "2021年3月5日",
    "hospital": "[医院1]",
    "admission_number": "[住院号1]",
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
    """Write a case in one line as `prepare` does, without identifiers and without its planted
    leaks."""
    line = " ".join(
        f"【{name}】{case.sections[name]}" for name in SECTIONS if name in case.sections
    )
    for leak in case.leaks:
        line = line.replace(leak, "")
    for category, text in case.identifiers:
        line = line.replace(text, _SURROGATES[category])
    return line


def make_documents(n: int, n_cases: int, seed: int) -> list[Document]:
    """Make `n` documents; the ones that answer a case draw on `n_cases` distinct cases."""
    rng = random.Random(seed)
    cases = generate_cases(n_cases, CASE_SEED)
    kinds: list[tuple[float, Callable[[random.Random, list[SyntheticCase]], Document]]] = [
        (0.10, _state_levels),
        (0.08, _state_patterns),
        (0.06, _ask_pattern),
        (0.14, _copy_findings),
        (0.22, _look_up_findings),
        (0.16, _extract_findings),
        (0.16, _think_when_asked),
        (0.08, _answer_case),
    ]
    weights = [weight for weight, _ in kinds]
    return [rng.choices(kinds, weights)[0][1](rng, cases) for _ in range(n)]


def _draw_family(rng: random.Random) -> tuple[Family, Disease]:
    family = rng.choice(load_knowledge().families)
    return family, rng.choice(family.diseases)


def _draw_finding(
    family: Family, disease: Disease, test: str, rng: random.Random
) -> tuple[str, str]:
    """Return a finding as it reads in a record and what it means."""
    level = family.tests[test].levels[disease.pattern[test]]
    return fill(rng.choice(level.texts), rng), level.means


def _state_levels(rng: random.Random, _: list[SyntheticCase]) -> Document:
    lines: list[str] = []
    for _i in range(2):
        family, disease = _draw_family(rng)
        for test in family.tests:
            text, means = _draw_finding(family, disease, test, rng)
            lines.append(f"{text}，提示{means}。")
    return Document("", "\n".join(lines) + "\n")


def _state_patterns(rng: random.Random, _: list[SyntheticCase]) -> Document:
    lines: list[str] = []
    for _i in range(4):
        family, disease = _draw_family(rng)
        means = "、".join(family.means(disease))
        lines.append(
            rng.choice(
                [
                    f"{means}并存，{disease.because}，符合{disease.name}。",
                    f"{disease.name}见于{family.name}，特点是{means}。",
                ]
            )
        )
    return Document("", "\n".join(lines) + "\n")


def _ask_pattern(rng: random.Random, _: list[SyntheticCase]) -> Document:
    family, disease = _draw_family(rng)
    return conversation(
        f"{family.name}，{'、'.join(family.means(disease))}，是什么病？", disease.name
    )


def _draw_strange_findings(rng: random.Random, n: int) -> list[str]:
    """Draw findings of all departments with any digits in them: none can be guessed, each has to be
    copied."""
    findings: dict[str, str] = {}
    while len(findings) < n:
        family, disease = _draw_family(rng)
        test = rng.choice(list(family.tests))
        if rng.random() < 0.3:
            test, text = "", fill(rng.choice(load_knowledge().common["laboratory"]), rng)
        else:
            text = _draw_finding(family, disease, test, rng)[0]
        strange = re.sub(r"\d", lambda _: str(rng.randrange(10)), text)
        findings[_name_of(strange)] = strange
    return list(findings.values())


def _name_of(finding: str) -> str:
    """Return the words before the first digit, or the first four characters: what a finding is
    asked for by."""
    name = re.split(r"\d", finding)[0]
    return name if 1 < len(name) < len(finding) else finding[:4]


@cache
def common_hanzi() -> list[str]:
    """List the 3,755 common characters of GB 2312 level 1."""
    codes = (bytes([row, cell]) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF))
    return [code.decode("gb2312") for code in codes if not (code[0] == 0xD7 and code[1] > 0xF9)]


def _copy_findings(rng: random.Random, _: list[SyntheticCase]) -> Document:
    """Copy findings, or characters in any order, which leaves no common one untrained."""
    if rng.random() < 0.4:
        text = "".join(rng.choices(common_hanzi(), k=rng.randint(8, 24)))
        return conversation(f"抄写：{text}", text)
    listed = "，".join(_draw_strange_findings(rng, rng.randint(3, 7))) + "。"
    return conversation(f"抄写：{listed}", listed)


def _look_up_findings(rng: random.Random, _: list[SyntheticCase]) -> Document:
    """Find what was asked for in a list, by its name."""
    findings = _draw_strange_findings(rng, rng.randint(4, 9))
    wanted = rng.sample(findings, 3)
    listed = "，".join(findings)
    return conversation(
        f"{listed}。依次写出{'、'.join(map(_name_of, wanted))}。", "\n".join(wanted)
    )


def _extract_findings(rng: random.Random, cases: list[SyntheticCase]) -> Document:
    """Copy the decisive findings out of a record: the skill that citing needs."""
    case = rng.choice(cases)
    clues = "；".join(clue.text for clue in case.clues)
    return conversation(f"摘录有鉴别意义的检查。{record_line(case)}", clues)


def _think_when_asked(rng: random.Random, _: list[SyntheticCase]) -> Document:
    family, disease = _draw_family(rng)
    findings = [_draw_finding(family, disease, test, rng)[0] for test in family.tests]
    distractors = [fill(x.text, rng) for x in family.distractors if x.suggests != disease.name]
    if rng.random() < 0.5:
        findings.append(rng.choice(distractors))
    findings += [
        fill(text, rng)
        for text in rng.sample(load_knowledge().common["examination"], rng.randint(0, 3))
    ]
    rng.shuffle(findings)
    listed = "；".join(findings)
    thought = explain_reading(Reading(family, listed), disease, rng, weighs_distractors=True)
    return conversation(
        f"先思考，再作答。{family.name}：{listed}。",
        f"<think>\n{thought}\n</think>\n\n{disease.name}",
    )


def _answer_case(rng: random.Random, cases: list[SyntheticCase]) -> Document:
    case = rng.choice(cases)
    return conversation(record_line(case), case.diagnosis[0])
