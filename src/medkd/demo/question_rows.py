"""Questions with answers of the rehearsal clinic, in the files that open datasets come in.

In: a number of rows, a seed, a language. Out: files of questions with answers, of an exam, and of
the four open datasets with their reasoning, with the quirks of the real ones. Not done here:
reading them (`text.question_rows`).
"""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medkd.core.records import Language
from medkd.demo.knowledge import load_knowledge
from medkd.demo.reasoning import explain_answer
from medkd.demo.synthetic_cases import SyntheticCase, generate_cases

OPEN_DATASETS = (
    "medical_o1_sft_Chinese.json",
    "medical_r1_distill_sft_Chinese.json",
    "distill_psychology-10k-r1.json",
    "hwtcm_deepseek_r1_distill_data.json",
)


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
