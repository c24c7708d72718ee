"""Exams of multiple choice: the public forms read, the question put, the letter read out of what
was generated.

In: a file in the form of CMB, CMExam, MedQA (MCMLE among it) or MedMCQA, or `hf:` / `ms:`, a
dataset's name and if need be its split.
Out: questions, letters.
Not done here: asking, likelihoods of options (thinking models come out far too low that way).

>>> read_letters("<think>A？不对。</think>所以答案是B。", "ABCD")
'B'
>>> read_letters("都有可能。", "ABCD")
''
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.jsonl import resolve_input
from medkd.core.records import Example, Lineage

LETTERS = "ABCDEFGH"
MAX_PROBLEMS = 3


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
    """Read an exam; gives its questions and how many rows were none. Raises InputError where no row
    is one."""
    name, rows = _open(source, split)
    questions: list[ExamQuestion] = []
    problems: list[str] = []
    is_from_zero: bool | None = None
    everything = list(rows)
    if any("cop" in row for row in everything):
        is_from_zero = source.startswith(("hf:", "ms:")) or any(
            str(row.get("cop")) == "0" for row in everything
        )
    for number, row in enumerate(everything, start=1):
        try:
            questions.append(_read_question(row, f"{name}:{number}", bool(is_from_zero)))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            problems.append(f"{source}: row {number}: {error}")
        if limit is not None and len(questions) >= limit:
            break
    if not questions:
        problem = problems[0] if problems else f"{source}: no rows"
        raise InputError(
            f"{problem}; known forms: CMB, CMExam, MedQA and MedMCQA, as JSON, JSON Lines or CSV"
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


def score_exam(answer: str, raw: str, options: Mapping[str, str] | str) -> dict[str, float]:
    """Score what was generated for one question: right, and whether a letter could be read at
    all."""
    found = read_letters(raw, options)
    return {"exam_accuracy": float(found == answer), "exam_unreadable": float(not found)}


_SET = r"([A-H](?:[\s、,，和与及]*[A-H])*)(?![a-zA-Z])"
_PATTERNS = [
    re.compile(rf"\\boxed\{{\s*(?:\\text\{{)?{_SET}"),
    re.compile(
        rf"(?:最终|正确|本题)?(?:答案|选项)(?!不|并非|解析)\s*(?:应该?|可能)?(?:是|为|选)?\s*[:：]?\s*[（(【\[\"“*]*{_SET}"
    ),
    re.compile(rf"(?:应该?|故|所以|因此|综上)[,，]?\s*选择?\s*[:：]?\s*[（(【\[]*{_SET}"),
    re.compile(
        rf"(?:final |correct |best )?(?:answer|option|choice)\s*(?:is|:|would be)*\s*[:：]?\s*[(\[*\"]*{_SET}",
        re.IGNORECASE,
    ),
    re.compile(rf"(?m)^\s*[（(【\[*]*{_SET}[)）】\]*]*\s*[.。．、:：]?\s*$"),
    re.compile(rf"^\s*[（(【\[*]*{_SET}[)）】\]*]*\s*[.。．、:：]"),
]


def read_letters(raw: str, options: Mapping[str, str] | str) -> str:
    """Read the letters that an answer commits itself to, in order; empty where none can be read.

    The strongest form counts, and its last place; an option's text alone counts where it is the
    only one there.
    """
    text = thinking.read(raw).answer
    for pattern in _PATTERNS:
        found = [_sort_letters(match[1]) for match in pattern.finditer(text)]
        found = [letters for letters in found if set(letters) <= set(options)]
        if found:
            return found[-1]
    if isinstance(options, str):
        return ""
    named = [
        letter
        for letter, option in options.items()
        if len(option.strip()) >= 2 and option.strip() in text
    ]
    longest = [
        a for a in named if not any(a != b and options[a].strip() in options[b] for b in named)
    ]
    return longest[0] if len(longest) == 1 else ""


def _sort_letters(text: str) -> str:
    return "".join(sorted(set(re.findall("[A-H]", text.upper()))))


def _open(source: str, split: str) -> tuple[str, Iterator[dict[str, Any]]]:
    if source.startswith(("hf:", "ms:")):
        hub, name, given = [*source.split(":", 2), ""][:3]
        if not name:
            raise InputError(f"{source}: names no dataset; give {hub}:NAME or {hub}:NAME:SPLIT")
        return name.rsplit("/", 1)[-1], _load_from_hub(hub, name, given or split)
    path = resolve_input(Path(source), "test.jsonl", made_by="evaluate --exam FILE")
    return path.stem, _read_file(path)


def _load_from_hub(hub: str, name: str, split: str) -> Iterator[dict[str, Any]]:
    try:
        if hub == "ms":
            from modelscope.msdatasets import MsDataset  # pyright: ignore[reportMissingImports]

            rows: Any = MsDataset.load(name, split=split)
        else:
            from datasets import disable_progress_bars, load_dataset

            from medkd.models.load import load_libraries

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
    r"couldn't reach|offline|connect|resolve|timed? ?out|name or service|max retries|proxy|时限|超时",
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
        return f"no network and nothing in the cache ({reason}); fetch it once (HF_ENDPOINT names a mirror), or give a local file"
    if isinstance(error, FileNotFoundError):
        return (
            f"no such dataset, or not a public one ({reason}); check the name, or give a local file"
        )
    return f"cannot be loaded ({reason}); give a local file in one of the known forms"


def _read_file(path: Path) -> Iterator[dict[str, Any]]:
    """Read rows of JSON, JSON Lines (whatever the ending says) or CSV; what is no row is an empty
    one."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file)
        return
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        content = json.loads(text)
    except ValueError:
        content = [_read_line(line) for line in text.splitlines() if line.strip()]
    rows: list[Any] = content if isinstance(content, list) else [content]
    yield from (row if isinstance(row, dict) else {} for row in rows)


def _read_line(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return {}


def _read_question(row: Mapping[str, Any], name: str, is_from_zero: bool) -> ExamQuestion:
    """Read a row of any known form; raises KeyError or ValueError naming what is missing."""
    read = next((reader for mark, reader in _FORMS.items() if mark in row), None)
    if read is None:
        raise ValueError("none of option, Options, options, opa")
    question, options, answer, subject = read(row, is_from_zero)
    kept = {letter: text for letter, text in options.items() if text}
    letters = _sort_letters(answer)
    if not question or len(kept) < 2 or not letters or not set(letters) <= set(kept):
        raise ValueError(f"no question, options or answer ({answer[:20]!r})")
    return ExamQuestion(str(row.get("id") or name), subject, question, kept, letters)


_Parts = tuple[str, dict[str, str], str, str]


def _read_cmb(row: Mapping[str, Any], _: bool) -> _Parts:
    options = {str(k): str(v or "").strip() for k, v in row["option"].items()}
    return (
        str(row["question"]).strip(),
        options,
        str(row["answer"]),
        str(row.get("exam_class") or row.get("exam_type") or ""),
    )


def _read_cmexam(row: Mapping[str, Any], _: bool) -> _Parts:
    listed: Any = row["Options"]
    if isinstance(listed, str):
        found = re.findall(r"(?m)^\s*([A-H])[\s.、:：]*(.*?)\s*$", listed)
        options = dict(found)
    else:
        options = {str(o["key"]): str(o["value"]).strip() for o in listed}
    return (
        str(row["Question"]).strip(),
        options,
        str(row["Answer"]),
        str(row.get("Clinical Department") or row.get("Medical Discipline") or ""),
    )


def _read_medqa(row: Mapping[str, Any], _: bool) -> _Parts:
    listed: Any = row["options"]
    pairs = listed.items() if isinstance(listed, dict) else ((o["key"], o["value"]) for o in listed)
    options = {str(key): str(value).strip() for key, value in pairs}
    letters = str(row.get("answer_idx") or "")
    if not letters:
        right = str(row["answer"]).strip()
        letters = (
            right
            if right in options
            else next((key for key, value in options.items() if value == right), "")
        )
    return str(row["question"]).strip(), options, letters, str(row.get("meta_info") or "")


def _read_medmcqa(row: Mapping[str, Any], is_from_zero: bool) -> _Parts:
    options = {letter: str(row.get(f"op{letter.lower()}") or "").strip() for letter in "ABCD"}
    at = int(row["cop"]) - (0 if is_from_zero else 1)
    if not 0 <= at < 4:
        raise ValueError(f"cop {row['cop']!r} is no option")
    return str(row["question"]).strip(), options, LETTERS[at], str(row.get("subject_name") or "")


_FORMS: dict[str, Callable[[Mapping[str, Any], bool], _Parts]] = {
    "option": _read_cmb,
    "Options": _read_cmexam,
    "options": _read_medqa,
    "opa": _read_medmcqa,
}
"""A field that only one form has, and what reads that form."""
