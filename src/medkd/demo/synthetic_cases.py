"""The rehearsal clinic: synthetic patient cases with exact ground truth, and no real patient
anywhere.

In: a number, a seed, a language. Out: cases in the sections of a medical site, with planted
identifiers and leaks of their own answer, each known; files of questions with answers made of them.
Not done here: serving them (`demo.mock_site`), reasoning about them (`demo.reasoning`).
"""

import json
import random
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from medkd.core.records import Language, RawCase
from medkd.demo.knowledge import Department, Disease, Family, Knowledge, fill, load_knowledge
from medkd.demo.reasoning import explain_answer

FIRST_NUMBER = 61001
DISTRACTOR_RATE = 0.6
OPEN_DATASETS = (
    "medical_o1_sft_Chinese.json",
    "medical_r1_distill_sft_Chinese.json",
    "distill_psychology-10k-r1.json",
    "hwtcm_deepseek_r1_distill_data.json",
)
"""The files of the four open datasets, whose forms and quirks made rows have."""


class Clue(BaseModel):
    """A decisive finding of a case, as it stands in the record."""

    model_config = ConfigDict(frozen=True)
    test: str
    text: str
    means: str


class SyntheticCase(BaseModel):
    """One synthetic case and the truth about it."""

    model_config = ConfigDict(frozen=True)
    number: int
    title: str
    department: tuple[str, ...]
    sections: dict[str, str]
    diagnosis: tuple[str, ...]
    summary: dict[str, str]
    clues: tuple[Clue, ...]
    identifiers: tuple[tuple[str, str], ...]
    """Category and the text planted in the sections."""
    leaks: tuple[str, ...]
    """Phrases planted in the sections that tell the answer."""
    language: Language = "zh"
    """Language of the texts; sections have one name in all of them."""

    def to_raw_case(self) -> RawCase:
        """Make the record that collecting makes of the case's page, title and addresses apart."""
        return RawCase(
            id=f"clinic:{self.number}",
            source="clinic",
            department=self.department,
            sections=self.sections,
            diagnosis=self.diagnosis,
        )


def generate_cases(n: int, seed: int, language: Language = "zh") -> list[SyntheticCase]:
    """Generate `n` cases, the diseases in turn, in an order drawn from the seed."""
    knowledge = load_knowledge(language)
    rng = random.Random(seed)
    diseases = [(d, f, x) for d in knowledge.departments for f in d.families for x in f.diseases]
    chosen = [diseases[i % len(diseases)] for i in range(n)]
    rng.shuffle(chosen)
    cases = (_make_case(FIRST_NUMBER + i, *entry, knowledge, rng) for i, entry in enumerate(chosen))
    return [case.model_copy(update={"language": language}) for case in cases]


def _make_case(
    number: int,
    department: Department,
    family: Family,
    disease: Disease,
    knowledge: Knowledge,
    rng: random.Random,
) -> SyntheticCase:
    common, say = knowledge.common, knowledge.say
    stop, comma, semicolon = (say(mark) for mark in ("stop", "comma", "semicolon"))
    is_child = department.parent == say("child_department")
    age = rng.randint(*family.age)
    sex = family.sex or rng.choice(common["sexes"])
    occupation = (
        "" if is_child else say("with_occupation", occupation=rng.choice(common["occupations"]))
    )
    clues = tuple(_draw_clue(family, disease, name, rng) for name in family.tests)
    distractors = (
        [rng.choice([x for x in family.distractors if x.suggests != disease.name] or [None])]
        if rng.random() < DISTRACTOR_RATE
        else []
    )
    complaint = fill(rng.choice(family.complaints), rng)

    history = _end(fill(rng.choice(family.history), rng))
    negatives = rng.sample(common["negatives"], rng.randint(1, 3))
    past = [
        fill(text, rng)
        for text in rng.sample(common["child_past" if is_child else "past"], rng.randint(1, 2))
    ]
    distracting = {
        section: [fill(x.text, rng) for x in distractors if x and x.section == section]
        for section in ("现病史", "既往史")
    }
    stated = [_end(fill(rng.choice(family.examination), rng))]
    examined = [fill(text, rng) for text in rng.sample(common["examination"], rng.randint(1, 2))]
    labs = _draw_laboratory(family, common["laboratory"], rng)
    for clue in clues:
        home = examined if family.tests[clue.test].section == "查体" else labs
        home.insert(rng.randint(0, len(home)), clue.text)

    identities = _Identities(knowledge, rng)
    leaks: list[str] = []

    def leak(where: str, rate: float) -> str:
        if rng.random() >= rate:
            return ""
        leaks.append(rng.choice(common[f"leak_{where}"]).format(disease=disease.name).strip())
        return leaks[-1] + stop[1:]

    meanings = semicolon.join(say("meaning", finding=c.text, means=c.means) for c in clues)
    siblings = [x for x in family.diseases if x is not disease]
    sections = {
        "基本信息": say("patient", sex=sex, age=age) + occupation,
        "主诉": complaint + stop,
        "现病史": identities.open_history()
        + stop.join([history, *distracting["现病史"]])
        + say("negatives", negatives=comma.join(negatives))
        + leak("history", 0.2),
        "既往史": comma.join(past + distracting["既往史"]) + stop + identities.mention_relative(),
        "查体": comma.join(stated + examined) + stop,
        "辅助检查": comma.join(labs) + stop + leak("tests", 0.15),
        "初步诊断": say("suspected", family=family.name, disease=disease.name),
        "诊断依据": say("basis", complaint=complaint, clues=meanings),
        "鉴别诊断": semicolon.join(say("unlike", disease=x.name) for x in siblings) + stop,
        "诊治经过": identities.open_course() + leak("course", 0.5) + family.management,
        "诊断结果": disease.name,
        "分析总结": say(
            "discussion", disease=disease.name, family=family.name, because=disease.because
        ),
    }
    sections = {name: text.replace("  ", " ").strip() for name, text in sections.items()}
    summary = {
        "基本信息": sections["基本信息"],
        "发病原因": say("unknown_cause"),
        "临床诊断": disease.name,
        "治疗方案": disease.treatment,
        "治疗结果": say("outcome"),
        "病案重点": family.name,
    }
    return SyntheticCase(
        number=number,
        title=say("title", sex=sex, age=age, complaint=complaint),
        department=(department.parent, department.department),
        sections={name: text for name, text in sections.items() if text},
        diagnosis=(disease.name,),
        summary=summary,
        clues=clues,
        identifiers=tuple(identities.planted),
        leaks=tuple(leaks),
    )


def _end(text: str) -> str:
    """Take off the full stop, behind which more may follow."""
    return text.rstrip("。.")


def _draw_clue(family: Family, disease: Disease, test: str, rng: random.Random) -> Clue:
    level = family.tests[test].levels[disease.pattern[test]]
    return Clue(test=test, text=fill(rng.choice(level.texts), rng), means=level.means)


def _draw_laboratory(family: Family, laboratory: tuple[str, ...], rng: random.Random) -> list[str]:
    """Draw normal results, none of which speaks of something that a test of the family measures."""
    measured = "".join(
        text
        for test in family.tests.values()
        for level in test.levels.values()
        for text in level.texts
    )
    neutral = [
        text
        for text in laboratory
        if (text[:3] not in measured and text[-3:] not in measured)
        or (text[:5].isascii() and text.split()[0] not in measured)
    ]
    return [fill(text, rng) for text in rng.sample(neutral, rng.randint(1, 3))]


class _Identities:
    """Invented identifiers of one patient, noted as they are planted."""

    def __init__(self, knowledge: Knowledge, rng: random.Random) -> None:
        self.common, self.rng, self._say = knowledge.common, rng, knowledge.say
        self.name = self._name()
        self.admitted = date(2019, 1, 1) + timedelta(days=rng.randint(0, 1800))
        self.planted: list[tuple[str, str]] = []

    def _name(self) -> str:
        surname = self.rng.choice(self.common["surnames"])
        return self._say("name", surname=surname, given=self.rng.choice(self.common["given_names"]))

    def _plant(self, category: str, text: str) -> str:
        self.planted.append((category, text))
        return text

    def _day(self, offset: int) -> str:
        day = self.admitted + timedelta(days=offset)
        return self._plant("date", self._say("date", year=day.year, month=day.month, day=day.day))

    def open_history(self) -> str:
        match self.rng.randrange(6):
            case 0:
                home = fill(self.rng.choice(self.common["places"]), self.rng)
                name = self._plant("name", self.name)
                return self._say("lives", name=name, address=self._plant("address", home))
            case 1:
                name = self._plant("name", self.name)
                card = self._plant("id_card", make_id_card(self.rng))
                return self._say("has_card", name=name, id_card=card)
            case 2:
                number = f"1{self.rng.choice('3578')}{self.rng.randrange(10**9):09d}"
                return self._say("has_phone", phone=self._plant("phone", number))
            case 3:
                visited = self._plant("hospital", self.rng.choice(self.common["hospitals"]))
                day = self._day(-self.rng.randint(3, 20))
                return self._say("was_seen", date=day, hospital=visited)
            case _:
                return ""

    def mention_relative(self) -> str:
        if self.rng.random() < 0.12:
            return self._say("relative", name=self._plant("name", self._name()))
        return ""

    def open_course(self) -> str:
        match self.rng.randrange(5):
            case 0:
                day, number = self._day(0), str(self.rng.randrange(10**5, 10**6))
                number = self._plant("admission_number", number)
                return self._say("admitted", date=day, number=number)
            case 1:
                return self._say("physician", name=self._plant("name", self._name()))
            case 2:
                return self._say(
                    "received",
                    hospital=self._plant("hospital", self.rng.choice(self.common["hospitals"])),
                )
            case _:
                return ""


def make_id_card(rng: random.Random) -> str:
    """Make an identity number of no real region (99) with a valid check digit (GB 11643-1999)."""
    region, year = f"99{rng.randrange(10**4):04d}", rng.randint(1940, 2015)
    day = f"{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    body = f"{region}{year}{day}{rng.randrange(1000):03d}"
    weights = [2**i % 11 for i in range(17, 0, -1)]
    return body + "10X98765432"[sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11]


# Questions with answers


def make_pairs(n: int, seed: int, language: Language = "zh") -> list[dict[str, str]]:
    """Make questions for the cause of a complaint, each with its answer."""
    say = load_knowledge(language).say
    return [
        {"question": _ask(case, "ask_cause"), "answer": say("answer_cause", **_name_cause(case))}
        for case in generate_cases(n, seed, language)
    ]


def make_exam(n: int, seed: int, language: Language = "zh") -> list[dict[str, Any]]:
    """Make questions with the diseases of one family as options."""
    knowledge, rng = load_knowledge(language), random.Random(seed)
    rows: list[dict[str, Any]] = []
    for case in generate_cases(n, seed, language):
        found = knowledge.find(case.diagnosis[0])
        assert found is not None  # noqa: S101 - every case has a disease of the clinic
        names = [disease.name for disease in found[0].diseases]
        rng.shuffle(names)
        options = dict(zip("ABCDEFGH", names, strict=False))
        key = next(letter for letter, name in options.items() if name == case.diagnosis[0])
        rows.append({"question": _ask(case, "ask_option"), "options": options, "answer": key})
    return rows


def write_pairs(folder: Path, n: int, seed: int, task: str, language: Language = "zh") -> Path:
    """Write the rows that a task asks for as one file, and return its path."""
    rows = (make_exam if task == "multiple-choice" else make_pairs)(n, seed, language)
    return _write(folder / f"{task}.json", rows)


def write_open_datasets(folder: Path, n: int, seed: int, language: Language = "zh") -> list[Path]:
    """Write `n` rows in the four files of the open datasets, under their names."""
    pairs = make_pairs(n, seed, language)
    written: list[Path] = []
    for place, name in enumerate(OPEN_DATASETS):
        rows = [
            _shape(
                name,
                pair["question"],
                explain_answer(pair["question"], pair["answer"], number, language),
                pair["answer"],
            )
            for number, pair in enumerate(pairs[place :: len(OPEN_DATASETS)])
        ]
        written.append(_write(folder / name, rows, is_lines="psychology" in name))
    return written


def _shape(name: str, question: str, reasoning: str, answer: str) -> dict[str, str]:
    """Write a row in the form of one of the four; the last has lost its opening tag."""
    if name.startswith("medical_o1"):
        return {"Question": f"{question} \n\n", "Complex_CoT": reasoning, "Response": answer}
    if name.startswith("medical_r1"):
        return {
            "question": question,
            "reasoning (reasoning_content)": f"{reasoning}\n",
            "response (content)": answer,
        }
    if name.startswith("distill_psychology"):
        return {"input": question, "content": answer, "reasoning_content": reasoning}
    return {"instruction": question, "output": f"{reasoning}\n</think>\n\n{answer}"}


def _ask(case: SyntheticCase, text: str) -> str:
    sex, age, *_ = case.sections["基本信息"].replace("，", ", ").split(", ")
    say = load_knowledge(case.language).say
    return say(
        text,
        sex=sex,
        age="".join(filter(str.isdecimal, age)),
        complaint=case.sections["主诉"].rstrip("。."),
        findings=say("semicolon").join(clue.text for clue in case.clues),
    )


def _name_cause(case: SyntheticCase) -> dict[str, str]:
    found = load_knowledge(case.language).find(case.diagnosis[0])
    return {"disease": case.diagnosis[0], "because": found[1].because if found else ""}


def _write(path: Path, rows: Iterable[Any], is_lines: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = "\n".join(lines) if is_lines else "[\n" + ",\n".join(lines) + "\n]"
    path.write_text(text + "\n", encoding="utf-8")
    return path
