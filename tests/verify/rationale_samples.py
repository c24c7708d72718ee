"""A labelled set of rationales, made with a seed from `rationale_cases.yaml` and the rehearsal
clinic: sound ones, and spoiled ones.

Used by the tests here and by `bench/verify.py`.
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from medkd.core.records import Cost, Question, Rationale, Usage
from medkd.demo.reasoning import explain
from medkd.demo.synthetic_cases import generate_cases

PHRASES: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parent / "rationale_phrases.yaml").read_text(encoding="utf-8")
)

NAMED_AS_KNOWN = 0.75
"""Share of sound answers in the words of the known diagnosis, as a teacher is asked to write it;
the others use another name."""


class Labelled(NamedTuple):
    """A rationale and what is wrong with it; nothing, where it is sound."""

    fault: str
    rationale: Rationale


class Case(NamedTuple):
    """What a rationale is made from."""

    record: str
    diagnosis: str
    names: list[str]
    findings: list[str]
    rivals: list[str]

    @property
    def is_english(self) -> bool:
        return self.record.isascii()


def load_cases() -> list[Case]:
    return [
        Case(**entry)
        for entry in yaml.safe_load(
            (Path(__file__).parent / "rationale_cases.yaml").read_text(encoding="utf-8")
        )
    ]


def make_rationale(
    name: str, record: str, diagnosis: str, reasoning: str, answer: str, complete: bool = True
) -> Rationale:
    question = Question(
        id=name, case_id=name, source="labelled", system="", instruction="", input=record, reference=diagnosis, split="train",
        deidentified_by="invented",
    )  # fmt: skip
    return Rationale(
        id=name, question=question, reasoning=reasoning, answer=answer, finish_reason="stop" if complete else "length", complete=complete,
        model="labelled", mode="rationalize", attempts=1, usage=Usage(), cost=Cost(),
    )  # fmt: skip


def reason_soundly(case: Case, rng: random.Random) -> str:
    """Write one of the many sound reasonings about a case."""
    findings, rivals = (
        rng.sample(case.findings, rng.randint(3, 4)),
        rng.sample(case.rivals, rng.randint(1, 3)),
    )
    if case.is_english:
        lines = [rng.choice(PHRASES["english"]["openings"])]
        lines += [
            f"{link}{finding[0].lower() + finding[1:]}."
            for link, finding in zip(PHRASES["english"]["links"], findings, strict=False)
        ]
        return "\n".join(
            [
                *lines,
                *(f"{rival}." for rival in rivals),
                rng.choice(PHRASES["english"]["closings"]).format(case.diagnosis),
            ]
        ).strip()
    links = rng.choice(PHRASES["links"])
    lines = [
        rng.choice(PHRASES["openings"]),
        *(f"{link}{finding}。" for link, finding in zip(links, findings, strict=False)),
        rng.choice(PHRASES["norms"]),
    ]
    lines.append(rng.choice(PHRASES["rivals"]) + "；".join(rivals) + "。")
    lines.append(
        rng.choice(PHRASES["closings"]).format(
            rng.choice([case.diagnosis, *case.names]).rstrip("。")
        )
    )
    return rng.choice(["\n", "", "\n\n"]).join(line for line in lines if line)


def make_sound(n: int, seed: int) -> Iterator[Labelled]:
    """Make sound rationales: three in four of the written cases, one in four as the rehearsal
    teacher writes them."""
    rng, cases = random.Random(seed), load_cases()
    clinic = [case for case in generate_cases(n, seed) if not case.leaks]
    for number in range(n):
        if number % 4 == 3:
            case = clinic[number // 4]
            record = " ".join(
                f"【{name}】{text}"
                for name, text in case.sections.items()
                if name in {"基本信息", "主诉", "现病史", "查体", "辅助检查"}
            )
            yield Labelled(
                "",
                make_rationale(
                    f"sound:{number}",
                    record,
                    case.diagnosis[0],
                    explain(record, case.diagnosis[0], seed=number),
                    case.diagnosis[0],
                ),
            )
        else:
            chosen = cases[number % len(cases)]
            answer = chosen.diagnosis if rng.random() < NAMED_AS_KNOWN else rng.choice(chosen.names)
            yield Labelled(
                "",
                make_rationale(
                    f"sound:{number}",
                    chosen.record,
                    chosen.diagnosis,
                    reason_soundly(chosen, rng),
                    answer,
                ),
            )


LOOPS = [
    lambda text: text + "所以还需要再考虑一下，" * 25,
    lambda text: text + "".join(f"第{n}次复核，结论仍然相同，需要继续观察病情变化。" for n in range(20)),
    lambda text: (text + "\n") * 4,
    lambda text: text + "诊断" * 40,
    lambda text: text + "等一下，让我重新看一遍病史和检查，也许还有别的解释，但似乎又不是。" * 9,
]  # fmt: skip


def _shift_numbers(text: str, rng: random.Random) -> str:
    """Change the numbers a reasoning cites, as a teacher does that makes findings up."""
    return re.sub(
        r"(?<![\d.^第A-Za-z])\d+(?:\.\d+)?(?=[\dA-Za-z%℃次×年月天/μ个级])",
        lambda m: f"{float(m[0]) * rng.uniform(1.3, 1.9) + 1:.1f}",
        text,
    )


def _turn_around(text: str) -> str:
    """Claim what the record denies and deny what it says."""
    for one, other in (
        ("无发热", "伴发热"),
        ("无咯血", "伴咯血"),
        ("无黄疸", "伴黄疸"),
        ("无腹泻", "伴腹泻"),
        ("无抽搐", "伴抽搐"),
        ("无呕血", "伴呕血"),
    ):
        text = text.replace(one, other)
    return text


def spoil(case: Case, fault: str, number: int, rng: random.Random) -> Rationale:
    """Spoil a sound rationale in one way."""
    reasoning, answer, complete = reason_soundly(case, rng), case.diagnosis, True
    english = case.is_english
    match fault:
        case "incomplete":
            complete, reasoning = False, reasoning[: len(reasoning) // 2]
        case "no_reasoning":
            reasoning = ["", " \n", "\n\n"][number % 3]
        case "no_answer":
            answer = ["", "  "][number % 2]
        case "tag_inside":
            where = [
                f"{reasoning}</think>\n{reasoning}",
                f"<think>{reasoning}",
                f"{reasoning}<|im_end|>",
                f"{reasoning}\n<answer>{answer}</answer>",
            ]
            reasoning = where[number % 4]
        case "long_answer":
            answer = f"{answer}。" + (
                "建议住院治疗，完善各项检查，请相关科室会诊，监测生命体征，必要时调整用药方案，" * 4
            )
        case "wrong_diagnosis":
            answer = PHRASES["others"][number % len(PHRASES["others"])]
        case "hint_leak":
            leak = (
                rng.choice(PHRASES["english_leaks"])
                if english
                else PHRASES["leaks"][number % len(PHRASES["leaks"])]
            )
            reasoning = (
                leak.format(case.diagnosis)
                + ("\n" if leak.endswith(("。", ".")) else "")
                + reasoning
            )
        case "ungrounded":
            reasoning = _turn_around(_shift_numbers(reasoning, rng))
        case "loop":
            reasoning = LOOPS[number % len(LOOPS)](reasoning)
        case "filler":
            reasoning = (
                PHRASES["fillers"][-1]
                if english
                else PHRASES["fillers"][number % (len(PHRASES["fillers"]) - 1)]
            )
        case "language_switch":
            reasoning = f"{reasoning}\n" + (
                "患者的表现和检查结果都指向同一个方向，需要进一步住院治疗并密切观察。"
                if english
                else PHRASES["foreign"][number % 4]
            )
        case "refusal":
            reasoning = PHRASES["refusals"][number % len(PHRASES["refusals"])] + "\n" + reasoning
        case "identifier":
            reasoning = PHRASES["identifiers"][number % len(PHRASES["identifiers"])] + reasoning
        case "too_short":
            reasoning = ["考虑本病。", "根据病历可以诊断。", "See above."][number % 3]
        case "too_long":
            reasoning = "\n".join(reason_soundly(one, rng) for one in load_cases() * 5)
        case "copy":
            reasoning = (
                case.record
                if number % 2
                else case.record[: int(len(case.record) * 0.9)] + f"因此诊断为{case.diagnosis}。"
            )
    return make_rationale(
        f"spoiled:{number}", case.record, case.diagnosis, reasoning, answer, complete
    )


FAULTS = (
    "incomplete", "no_reasoning", "no_answer", "tag_inside", "long_answer", "wrong_diagnosis", "hint_leak", "ungrounded", "loop", "filler",
    "language_switch", "refusal", "identifier", "too_short", "too_long", "copy", "hint_leak", "ungrounded", "identifier", "filler",
)  # fmt: skip
"""In turn; the ones that are hardest to find stand twice."""


def make_spoiled(n: int, seed: int) -> Iterator[Labelled]:
    """Make rationales that are spoiled in every way, in turn."""
    rng, cases = random.Random(seed), load_cases()
    for number in range(n):
        fault = FAULTS[number % len(FAULTS)]
        yield Labelled(
            fault, spoil(rng.choice(cases), fault, number // len(FAULTS) + number % 2 * 5, rng)
        )


def make_labelled(n: int = 200, seed: int = 11) -> list[Labelled]:
    """Make the labelled set: n sound ones and n spoiled ones."""
    return [*make_sound(n, seed), *make_spoiled(n, seed)]
