"""Exams of multiple choice: the public forms read, the question put, the letters scored.

In: a file in the form of CMB, CMExam, MedQA (MCMLE, MedXpertQA) or MedMCQA in any encoding that
`text.tables` reads, or `hf:NAME:SPLIT`, `ms:NAME:SPLIT`. Out: examples, scores.
Not done here: asking, likelihoods of options (thinking models come out far too low that way).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple, cast

from medkd.core.errors import InputError
from medkd.core.jsonl import resolve_input
from medkd.core.records import Example, Lineage
from medkd.grading.choices import read_choice
from medkd.models.load import load_libraries
from medkd.text.tables import RawRow, read_rows


class ExamQuestion(NamedTuple):
    """One question of an exam."""

    id: str
    subject: str
    question: str
    options: Mapping[str, str]
    answer: str
    """The right letters, in order."""


def read_exam(
    source: str, split: str = "test", limit: int | None = None
) -> tuple[list[ExamQuestion], int]:
    """Read an exam; return its questions and how many rows were none. Raise InputError where no row
    is one."""
    name, rows = _open(source, split)
    questions: list[ExamQuestion] = []
    problems: list[str] = []
    everything = list(rows)
    marks = [str(row["cop"]) for row, _ in everything if "cop" in row]
    is_from_zero = source.startswith(("hf:", "ms:")) or "0" in marks
    for number, (row, place) in enumerate(everything, start=1):
        try:
            questions.append(_read_question(row, f"{name}:{number}", is_from_zero))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            problems.append(f"{place}: {error}")
        if limit is not None and len(questions) >= limit:
            break
    if not questions:
        problem = problems[0] if problems else f"{source}: no rows"
        raise InputError(
            f"{problem}; known forms: CMB, CMExam, MedQA and MedMCQA, "
            "as JSON, JSON Lines or a table"
        )
    return questions, len(problems)


def to_examples(questions: Iterable[ExamQuestion]) -> list[Example]:
    """Put every question as a user would, its options below, and ask for the letter at the end."""
    return [
        Example(
            id=q.id,
            source="exam",
            style="bare",
            department=(q.subject,) if q.subject else (),
            input=put_question(q),
            reasoning="",
            answer=q.answer,
            lineage=Lineage(origin="exam"),
        )
        for q in questions
    ]


def put_question(question: ExamQuestion) -> str:
    """Write a question with its options, in its own language."""
    options = "\n".join(f"{letter}. {text}" for letter, text in question.options.items())
    is_multiple = len(question.answer) > 1
    if re.search("[一-鿿]", question.question):
        kind = "多项选择题，可选多项" if is_multiple else "单项选择题"
        return f"{question.question}\n{options}\n（{kind}。请在最后一行写：答案：字母）"
    kind = "several options may be right" if is_multiple else "one option is right"
    return f"{question.question}\n{options}\n({kind}; end with a line: Answer: LETTER)"


def score_exam(question: ExamQuestion, raw: str) -> dict[str, float]:
    """Score what was generated for one question: right, and whether a letter could be read at
    all."""
    found = read_choice(raw, question.options)
    return {
        "exam_accuracy": float(found == frozenset(question.answer)),
        "exam_unreadable": float(not found),
    }


# Sources


def _open(source: str, split: str) -> tuple[str, Iterator[tuple[Mapping[str, Any], str]]]:
    """Open an exam: its name, and its rows, each with its place; what is no row is an empty one."""
    if source.startswith(("hf:", "ms:")):
        hub, name, given = [*source.split(":", 2), ""][:3]
        if not name:
            raise InputError(f"{source}: names no dataset; use {hub}:NAME or {hub}:NAME:SPLIT")
        rows = _load_from_hub(hub, name, given or split)
        return name.rsplit("/", 1)[-1], (
            (row, f"{source}: row {number}") for number, row in enumerate(rows, start=1)
        )
    path = resolve_input(Path(source), "test.jsonl", made_by="evaluate --exam FILE")
    return path.stem, (_to_mapping(row) for row in read_rows(path))


def _to_mapping(row: RawRow) -> tuple[Mapping[str, Any], str]:
    content = cast(dict[str, Any], row.content) if isinstance(row.content, dict) else {}
    return content, f"{row.place}: {row.problem}" if row.problem else row.place


def _load_from_hub(hub: str, name: str, split: str) -> Iterator[dict[str, Any]]:
    try:
        if hub == "ms":
            from modelscope.msdatasets import MsDataset  # pyright: ignore[reportMissingImports]

            rows: Any = MsDataset.load(name, split=split)
        else:
            from datasets import disable_progress_bars, load_dataset

            load_libraries()
            disable_progress_bars()
            rows = load_dataset(name, split=split)
    except ModuleNotFoundError as error:
        package = "modelscope[datasets]" if hub == "ms" else error.name
        raise InputError(
            f"{hub}:{name}: {error.name} is not installed; pip install '{package}'"
        ) from error
    except Exception as error:  # both clients raise many kinds without a common one
        raise InputError(f"{hub}:{name}: {_explain(error)}") from error
    return (dict(row) for row in rows)


_NO_NETWORK = re.compile(
    "couldn't reach|offline|connect|resolve|timed? ?out|name or service|max retries|proxy"
    "|时限|超时",
    re.IGNORECASE,
)


def _explain(error: Exception) -> str:
    """Say what kept a dataset from being loaded, and the next step: no network is told apart from
    no such name and no such split."""
    reason = (
        str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    )
    if "split" in reason.lower():
        return f"{reason}; name one after the dataset, as in hf:NAME:validation"
    if _NO_NETWORK.search(f"{type(error).__name__} {reason}"):
        return (
            f"no network and nothing in the cache ({reason}); fetch it once (HF_ENDPOINT names a "
            "mirror), or name a local file"
        )
    if isinstance(error, FileNotFoundError):
        return (
            f"no such dataset, or not a public one ({reason}); check the name, or name a local file"
        )
    return f"cannot be loaded ({reason}); name a local file in one of the known forms"


# Forms


def _read_question(row: Mapping[str, Any], name: str, is_from_zero: bool) -> ExamQuestion:
    """Read a row of any known form; raise KeyError or ValueError naming what is missing."""
    read = next((reader for mark, reader in _FORMS.items() if mark in row), None)
    if read is None:
        raise ValueError("none of option, Options, options, opa")
    question, options, answer, subject = read(row, is_from_zero)
    kept = {_to_letter(key): text for key, text in options.items() if text}
    letters = read_key(answer, kept)
    if not question or len(kept) < 2 or not letters or not set(kept) <= set(ascii_uppercase):
        raise ValueError(f"no question, options or answer ({answer[:20]!r})")
    return ExamQuestion(str(row.get("id") or name), subject, question, kept, letters)


def _to_letter(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().upper()


_KEY = re.compile(r"[A-Z](?:[\s,、;/和与及&+]*[A-Z])*\.?")


def read_key(answer: str, options: Mapping[str, str]) -> str:
    """Read the right letters of a question, in order: stated as letters, or as an option's text;
    empty where they are neither.

    >>> read_key("B、a", {"A": "胸片", "B": "CT"}), read_key("CT", {"A": "胸片", "B": "CT"})
    ('AB', 'B')
    """
    by_text = [letter for letter, text in options.items() if text == answer.strip()]
    if len(by_text) == 1 and answer.strip() not in options:
        return by_text[0]
    stated = _to_letter(answer)
    letters = sorted(set(re.findall("[A-Z]", stated))) if _KEY.fullmatch(stated) else []
    return "".join(letters) if set(letters) <= set(options) else ""


_Parts = tuple[str, dict[str, str], str, str]
"""Question, options, answer, subject."""


def _read_cmb(row: Mapping[str, Any], _: bool) -> _Parts:
    return (
        str(row["question"]).strip(),
        _list_options(row["option"]),
        _join_letters(row["answer"]),
        str(row.get("exam_class") or row.get("exam_type") or ""),
    )


_LISTED = re.compile(r"(?m)^[ \t\u3000]*([A-ZＡ-Ｚ])(?![A-Za-z])[ \t\u3000.．、:：)）]*([^\n]*)$")


def _read_cmexam(row: Mapping[str, Any], _: bool) -> _Parts:
    listed: Any = row["Options"]
    options = dict(_LISTED.findall(listed)) if isinstance(listed, str) else _list_options(listed)
    return (
        str(row["Question"]).strip(),
        options,
        _join_letters(row["Answer"]),
        str(row.get("Clinical Department") or row.get("Medical Discipline") or ""),
    )


def _read_medqa(row: Mapping[str, Any], _: bool) -> _Parts:
    stated = next((row[key] for key in ("answer_idx", "label") if row.get(key)), None)
    return (
        str(row["question"]).strip(),
        _list_options(row["options"]),
        _join_letters(row["answer"] if stated is None else stated),
        str(row.get("meta_info") or row.get("body_system") or ""),
    )


def _read_medmcqa(row: Mapping[str, Any], is_from_zero: bool) -> _Parts:
    options = {letter: str(row.get(f"op{letter.lower()}") or "").strip() for letter in "ABCD"}
    at = int(row["cop"]) - (0 if is_from_zero else 1)
    if not 0 <= at < 4:
        raise ValueError(f"cop {row['cop']!r} is no option")
    return str(row["question"]).strip(), options, "ABCD"[at], str(row.get("subject_name") or "")


def _list_options(listed: Any) -> dict[str, str]:
    """Take options as a mapping, as a list of key and value, or as a list of texts."""
    if isinstance(listed, dict):
        pairs = list(cast(dict[Any, Any], listed).items())
    elif all(isinstance(item, dict) for item in listed):
        pairs = [(item["key"], item["value"]) for item in listed]
    else:
        pairs = list(zip(ascii_uppercase, listed, strict=False))
    return {str(key): str(value or "").strip() for key, value in pairs}


def _join_letters(answer: Any) -> str:
    """Take the letters of an answer as a text or as a list of them."""
    return ",".join(str(item) for item in answer) if isinstance(answer, list) else str(answer)


_FORMS: dict[str, Callable[[Mapping[str, Any], bool], _Parts]] = {
    "option": _read_cmb,
    "Options": _read_cmexam,
    "options": _read_medqa,
    "opa": _read_medmcqa,
}
"""A field that only one form has, and what reads that form."""
