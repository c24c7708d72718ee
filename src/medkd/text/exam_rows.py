"""Rows of multiple-choice exams: question, options A to Z and the right letters.

In: a row in the form of CMB, CMExam, MedQA (MCMLE, MedXpertQA), MedMCQA, MMLU, or a table with a
column an option, headings in English or Chinese. Out: `ExamQuestion`. Not done here: reading files
(`text.tables`), scoring letters (`grading.choices`).
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from string import ascii_lowercase, ascii_uppercase
from typing import Any, NamedTuple, cast

from medkd.text.tables import is_missing

QUESTION_NAMES = ("question", "题干", "题目", "问题", "试题", "stem")
ANSWER_NAMES = ("answer", "正确答案", "参考答案", "标准答案", "答案", "correct_answer", "correct")
_OPTION_NAMES = ("option", "options", "choices", "选项")
_KEY_NAMES = ("answer_idx", *ANSWER_NAMES, "label")
_SUBJECT_NAMES = (
    "exam_class",
    "exam_type",
    "clinical department",
    "medical discipline",
    "meta_info",
    "body_system",
    "subject_name",
    "subject",
    "科目",
    "学科",
)
_OPTION_COLUMN = re.compile(r"(?:op|option[ _]?|选项)?([a-z])(?:选项)?|选项([1-9])")


class ExamQuestion(NamedTuple):
    """One question of an exam."""

    id: str
    subject: str
    question: str
    options: Mapping[str, str]
    answer: str
    """The right letters, in order."""


def is_exam(fields: Iterable[str]) -> bool:
    """Tell whether fields are those of an exam: a question, its options and its key.

    >>> is_exam(["题目", "A", "B", "答案"]), is_exam(["question", "answer"])
    (True, False)
    """
    names = {field.strip().lower() for field in fields}
    columns = {letter for name in names if (letter := _find_column(name))}
    has_options = not names.isdisjoint(_OPTION_NAMES) or {"a", "b"} <= columns
    has_key = not names.isdisjoint((*_KEY_NAMES, "cop"))
    return has_options and has_key and not names.isdisjoint(QUESTION_NAMES)


def is_exam_field(name: str) -> bool:
    """Tell whether a field of an exam's row is one that is read."""
    plain = name.strip().lower()
    named = (*QUESTION_NAMES, *_OPTION_NAMES, *_KEY_NAMES, *_SUBJECT_NAMES, "cop")
    return plain in named or bool(_find_column(plain))


def read_exam_row(row: Mapping[str, Any], name: str, is_from_zero: bool) -> ExamQuestion:
    """Read a row of any known form; raises ValueError that names what is missing.

    `is_from_zero` says whether MedMCQA's `cop` counts from 0, as on the hub, or from 1.
    """
    fields = {str(key).strip().lower(): value for key, value in row.items()}
    question = _find(fields, QUESTION_NAMES)
    options = _read_options(fields)
    if options is None:
        raise ValueError("none of option, Options, options, opa")
    kept = {_to_letter(key): text for key, text in options.items() if text}
    answer = _read_answer(fields, is_from_zero)
    letters = read_key(answer, kept)
    if not question or len(kept) < 2 or not letters or not set(kept) <= set(ascii_uppercase):
        raise ValueError(f"no question, options or answer ({answer[:20]!r})")
    subject = str(_find(fields, _SUBJECT_NAMES) or "")
    return ExamQuestion(
        str(fields.get("id") or name), subject, str(question).strip(), kept, letters
    )


def count_options(row: Mapping[str, Any]) -> int:
    """Count the options of a row that has a column an option."""
    found = {_find_column(str(key).strip().lower()) for key, cell in row.items() if _write(cell)}
    return len(found - {""})


def write_options(options: Mapping[str, str]) -> str:
    """Write options below each other, as a paper shows them."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


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


_KEY = re.compile(r"[A-Z](?:[\s,、;/和与及&+]*[A-Z])*\.?")
_LISTED = re.compile(r"(?m)^[ \t\u3000]*([A-ZＡ-Ｚ])(?![A-Za-z])[ \t\u3000.．、:：)）]*([^\n]*)$")
_BESIDE = re.compile(
    r"(?<!\S)([A-ZＡ-Ｚ])[.．、:：)）]\s*(.*?)\s*(?=\s[A-ZＡ-Ｚ][.．、:：)）]|$)", re.DOTALL
)


def _find_column(name: str) -> str:
    """Find the letter of the option that a column of this name, in lower case, holds."""
    match = _OPTION_COLUMN.fullmatch(name)
    return "" if match is None else match[1] or ascii_lowercase[int(match[2]) - 1]


def _find(fields: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((fields[name] for name in names if not is_missing(fields.get(name))), None)


def _to_letter(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().upper()


def _read_options(fields: Mapping[str, Any]) -> dict[str, str] | None:
    """Take options from one field (a mapping, a list, either as JSON text, options below or beside
    each other) or from a column each."""
    listed = next((fields[name] for name in _OPTION_NAMES if name in fields), None)
    if isinstance(listed, str):
        below = dict(_LISTED.findall(listed))
        if not listed.lstrip().startswith(("[", "{")):
            return below if len(below) > 1 else dict(_BESIDE.findall(listed))
        try:
            listed = json.loads(listed)
        except (ValueError, RecursionError) as error:
            raise ValueError("options are text that is no JSON") from error
    if listed is None:
        columns: dict[str, str] = {}
        for name, value in fields.items():
            if letter := _find_column(name):
                is_empty = str(value).strip().lower() in (
                    "nan",
                    "null",
                )  # as pandas and SQL write it
                columns[letter] = columns.get(letter) or ("" if is_empty else _write(value))
        return dict(sorted(columns.items())) if len(columns) > 1 else None
    if isinstance(listed, dict):
        pairs = list(cast("dict[Any, Any]", listed).items())
    elif not isinstance(listed, list):
        raise ValueError(f"options are a {type(listed).__name__}")
    elif all(isinstance(item, dict) for item in cast("list[Any]", listed)):
        pairs = [(item.get("key"), item.get("value")) for item in cast("list[Any]", listed)]
    else:
        pairs = list(zip(ascii_uppercase, cast("list[Any]", listed), strict=False))
    return {str(key): _write(value) for key, value in pairs}


def _write(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _read_answer(fields: Mapping[str, Any], is_from_zero: bool) -> str:
    """Read the key as letters or an option's text; `cop` and MMLU's `answer` are numbers."""
    answer = _find(fields, _KEY_NAMES)
    if "cop" in fields:
        answer = fields["cop"]
        at = _to_number(answer) - (0 if is_from_zero else 1)
    elif isinstance(answer, int) and "choices" in fields:
        at = answer
    else:
        listed = cast("list[Any]", answer) if isinstance(answer, list) else [answer]
        return ",".join(str(item) for item in listed)
    if not 0 <= at < len(ascii_uppercase):
        raise ValueError(f"the answer {answer!r} is no option")
    return ascii_uppercase[at]


def _to_number(value: Any) -> int:
    try:
        return int(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"cop {value!r:.20} is no number") from error
