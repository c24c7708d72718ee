"""The rehearsal clinic: synthetic patient cases with exact ground truth, and no real patient
anywhere.

In: a number of cases and a seed. Out: cases in the sections of a medical site, with planted
identifiers and planted leaks of their own answer, each known. Not done here: serving them
(`demo.mock_site`), reasoning about them (`demo.reasoning`).
"""

import random
from datetime import date, timedelta

from pydantic import BaseModel, ConfigDict

from medkd.demo.knowledge import Department, Disease, Family, Knowledge, fill, load_knowledge

FIRST_NUMBER = 61001
DISTRACTOR_RATE = 0.6


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


def generate_cases(n: int, seed: int) -> list[SyntheticCase]:
    """Generate `n` cases, the diseases in turn, in an order drawn from the seed."""
    knowledge = load_knowledge()
    rng = random.Random(seed)
    diseases = [(d, f, x) for d in knowledge.departments for f in d.families for x in f.diseases]
    chosen = [diseases[i % len(diseases)] for i in range(n)]
    rng.shuffle(chosen)
    return [_make_case(FIRST_NUMBER + i, *entry, knowledge, rng) for i, entry in enumerate(chosen)]


def _make_case(
    number: int,
    department: Department,
    family: Family,
    disease: Disease,
    knowledge: Knowledge,
    rng: random.Random,
) -> SyntheticCase:
    common = knowledge.common
    is_child = department.parent == "儿科"
    age = rng.randint(*family.age)
    sex = family.sex or rng.choice(["男", "女"])
    occupation = "" if is_child else "，" + rng.choice(common["occupations"])
    clues = tuple(_draw_clue(family, disease, name, rng) for name in family.tests)
    distractors = (
        [rng.choice([x for x in family.distractors if x.suggests != disease.name])]
        if rng.random() < DISTRACTOR_RATE
        else []
    )
    complaint = fill(rng.choice(family.complaints), rng)

    history = fill(rng.choice(family.history), rng).rstrip("。")
    negatives = rng.sample(common["negatives"], rng.randint(1, 3))
    past = [
        fill(text, rng)
        for text in rng.sample(common["child_past" if is_child else "past"], rng.randint(1, 2))
    ]
    distracting = {
        section: [fill(x.text, rng) for x in distractors if x.section == section]
        for section in ("现病史", "既往史")
    }
    stated = [fill(rng.choice(family.examination), rng).rstrip("。")]
    examined = [fill(text, rng) for text in rng.sample(common["examination"], rng.randint(1, 2))]
    labs = _draw_laboratory(family, common["laboratory"], rng)
    for clue in clues:
        home = examined if family.tests[clue.test].section == "查体" else labs
        home.insert(rng.randint(0, len(home)), clue.text)

    identities = _Identities(common, rng)
    leaks: list[str] = []
    sections = {
        "基本信息": f"{sex}，{age}岁{occupation}",
        "主诉": complaint + "。",
        "现病史": identities.open_history()
        + "。".join([history, *distracting["现病史"]])
        + "。病程中"
        + "，".join(negatives)
        + "。"
        + _leak(
            leaks, 0.2, rng, [f"外院曾考虑{disease.name}，", f"门诊拟诊“{disease.name}”收入院。"]
        ),
        "既往史": "，".join(past + distracting["既往史"]) + "。" + identities.mention_relative(),
        "查体": "，".join(stated + examined) + "。",
        "辅助检查": "，".join(labs)
        + "。"
        + _leak(leaks, 0.15, rng, [f"上述结果支持{disease.name}。", f"目前诊断{disease.name}。"]),
        "初步诊断": f"1.{family.name}查因：{disease.name}？",
        "诊断依据": f"{complaint}；" + "；".join(f"{c.text}，{c.means}" for c in clues) + "。",
        "鉴别诊断": "；".join(
            f"{x.name}：检查结果不符" for x in family.diseases if x is not disease
        )
        + "。",
        "诊治经过": identities.open_course()
        + _leak(leaks, 0.5, rng, [f"诊断为{disease.name}，", f"考虑{disease.name}，"])
        + family.management,
        "诊断结果": disease.name,
        "分析总结": f"{disease.name}是{family.name}的常见原因之一，{disease.because}。",
    }
    summary = {
        "基本信息": sections["基本信息"],
        "发病原因": "不详",
        "临床诊断": disease.name,
        "治疗方案": disease.treatment,
        "治疗结果": "好转",
        "病案重点": family.name,
    }
    return SyntheticCase(
        number=number,
        title=f"{sex}性{age}岁{complaint}病例分享",
        department=(department.parent, department.department),
        sections={name: text for name, text in sections.items() if text},
        diagnosis=(disease.name,),
        summary=summary,
        clues=clues,
        identifiers=tuple(identities.planted),
        leaks=tuple(leaks),
    )


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
        text for text in laboratory if text[:3] not in measured and text[-3:] not in measured
    ]
    return [fill(text, rng) for text in rng.sample(neutral, rng.randint(1, 3))]


def _leak(leaks: list[str], rate: float, rng: random.Random, phrases: list[str]) -> str:
    if rng.random() >= rate:
        return ""
    leaks.append(rng.choice(phrases))
    return leaks[-1]


class _Identities:
    """Invented identifiers of one patient, noted as they are planted."""

    def __init__(self, common: dict[str, tuple[str, ...]], rng: random.Random) -> None:
        self.common, self.rng = common, rng
        self.name = self._name()
        self.admitted = date(2019, 1, 1) + timedelta(days=rng.randint(0, 1800))
        self.planted: list[tuple[str, str]] = []

    def _name(self) -> str:
        return self.rng.choice(self.common["surnames"]) + self.rng.choice(
            self.common["given_names"]
        )

    def _plant(self, category: str, text: str) -> str:
        self.planted.append((category, text))
        return text

    def _day(self, offset: int) -> str:
        day = self.admitted + timedelta(days=offset)
        return self._plant("date", f"{day.year}年{day.month}月{day.day}日")

    def open_history(self) -> str:
        match self.rng.randrange(6):
            case 0:
                home = fill(self.rng.choice(self.common["places"]), self.rng)
                return f"患者{self._plant('name', self.name)}，家住{self._plant('address', home)}。"
            case 1:
                name = self._plant("name", self.name)
                return f"患者{name}，身份证号{self._plant('id_card', make_id_card(self.rng))}。"
            case 2:
                number = f"1{self.rng.choice('3578')}{self.rng.randrange(10**9):09d}"
                return f"联系电话{self._plant('phone', number)}。"
            case 3:
                visited = self._plant("hospital", self.rng.choice(self.common["hospitals"]))
                return f"于{self._day(-self.rng.randint(3, 20))}曾就诊于{visited}。"
            case _:
                return ""

    def mention_relative(self) -> str:
        if self.rng.random() < 0.12:
            return f"病史由其子{self._plant('name', self._name())}代述。"
        return ""

    def open_course(self) -> str:
        match self.rng.randrange(5):
            case 0:
                day, number = self._day(0), str(self.rng.randrange(10**5, 10**6))
                return f"{day}入院，住院号{self._plant('admission_number', number)}。"
            case 1:
                return f"主管医师{self._plant('name', self._name())}查房。"
            case 2:
                return f"收入{self._plant('hospital', self.rng.choice(self.common['hospitals']))}。"
            case _:
                return ""


def make_id_card(rng: random.Random) -> str:
    """Make an identity number of no real region (99) with a valid check digit (GB 11643-1999)."""
    region, year = f"99{rng.randrange(10**4):04d}", rng.randint(1940, 2015)
    day = f"{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    body = f"{region}{year}{day}{rng.randrange(1000):03d}"
    weights = [2**i % 11 for i in range(17, 0, -1)]
    return body + "10X98765432"[sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11]
