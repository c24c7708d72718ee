"""Exams of multiple choice: the public forms read, the question put, the letters scored.

In: a file of exam rows (`text.exam_rows`) that `text.tables` reads, or `hf:NAME:SPLIT`,
`ms:NAME:SPLIT`. Out: examples, scores, what the order of options does. Not done here: asking,
likelihoods of options (thinking models come out far too low that way).
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from medkd.core.errors import InputError
from medkd.core.jsonl import resolve_input
from medkd.core.records import Example, Language, Lineage, Prediction
from medkd.grading.choices import read_choice
from medkd.models.load import load_libraries
from medkd.text.exam_rows import ExamQuestion, read_exam_row, write_options
from medkd.text.json_rows import RawRow
from medkd.text.tables import read_rows


def read_exam(
    source: str, split: str = "test", limit: int | None = None
) -> tuple[list[ExamQuestion], int]:
    """Read an exam; return its questions and how many rows were none. Raise InputError where no row
    is one."""
    name, rows = open_rows(source, split)
    questions: list[ExamQuestion] = []
    problems: list[str] = []
    everything = list(rows)
    marks = [str(row["cop"]) for row, _ in everything if "cop" in row]
    is_from_zero = source.startswith(("hf:", "ms:")) or "0" in marks
    for number, (row, place) in enumerate(everything, start=1):
        try:
            questions.append(_read_row(row, f"{name}:{number}", is_from_zero))
        except ValueError as error:
            problems.append(f"{place}: {error}")
        if limit is not None and len(questions) >= limit:
            break
    if not questions:
        problem = problems[0] if problems else f"{source}: no rows"
        raise InputError(
            f"{problem}; known forms: CMB, CMExam, MedQA, MedXpertQA "
            "and MedMCQA, as JSON, JSON Lines or a table"
        )
    return questions, len(problems)


def _read_row(row: Mapping[str, Any], name: str, is_from_zero: bool) -> ExamQuestion:
    if row.get("images"):
        raise ValueError("asks about an image")
    question = read_exam_row(row, name, is_from_zero)
    asked, mark, listed = question.question.rpartition(_LISTED_AGAIN)
    if not mark or "\n" in listed.strip() or not asked.rstrip(" \t").endswith("\n"):
        asked = question.question
    return question._replace(question=asked.strip())


_LISTED_AGAIN = "Answer Choices: (A)"
"""MedXpertQA writes the options into the question too."""


def to_examples(questions: Iterable[ExamQuestion]) -> list[Example]:
    """Put every question as a user would, its options below, and ask for the letter at the end."""
    return [
        make_public_example(q.id, put_question(q), q.answer, q.subject, "multiple-choice")
        for q in questions
    ]


def make_public_example(
    key: str, text: str, answer: str = "", subject: str = "", task: str = "open-question"
) -> Example:
    """Make an example of a public question, which no model learns from."""
    return Example(
        id=key,
        source="exam",
        style="bare",
        department=(subject,) if subject else (),
        input=text,
        reasoning="",
        answer=answer,
        task=task,
        language=find_language(text),
        lineage=Lineage(origin="exam"),
    )


def find_language(text: str) -> Language:
    return "zh" if re.search("[一-鿿]", text) else "en"


def put_question(question: ExamQuestion) -> str:
    """Write a question with its options, in its own language."""
    options = write_options(question.options)
    is_multiple = len(question.answer) > 1
    if find_language(question.question) == "zh":
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
        "exam_decided": float(bool(found) or not raw.strip()),
        "exam_unreadable": float(not found),
    }


# The order of options


def shuffle_options(question: ExamQuestion, seed: int, turn: int) -> ExamQuestion:
    """Put the options in another order; its letters stay A, B, C …, and the id tells the turn.

    >>> asked = ExamQuestion("q", "", "首选？", {"A": "胸片", "B": "CT"}, "B")
    >>> turned = [shuffle_options(asked, 0, turn) for turn in (1, 2, 3)]
    >>> {(found.options[found.answer], found.id[:2]) for found in turned}
    {('CT', 'q%')}
    """
    letters = list(question.options)
    order = letters[:]
    random.Random(f"{seed}:{turn}:{question.id}").shuffle(order)
    options = {new: question.options[old] for new, old in zip(letters, order, strict=True)}
    answer = "".join(new for new, old in zip(letters, order, strict=True) if old in question.answer)
    return question._replace(id=f"{question.id}%{turn}", options=options, answer=answer)


def score_order(
    turns: Sequence[Sequence[tuple[ExamQuestion, Prediction]]],
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Score questions that were asked in several orders.

    Return the scores of each question: whether all orders led to the same options, and the share
    right; and for each letter how often it was chosen, and how often it was right.
    """
    by_question: dict[str, dict[str, float]] = {}
    chosen, right = Counter[str](), Counter[str]()
    n_asked = 0
    for turned in turns:
        found: list[frozenset[str] | None] = []
        n_right = 0
        for question, prediction in turned:
            letters = read_choice(prediction.raw, question.options)
            chosen.update(letters or ())
            right.update(question.answer)
            n_asked += 1
            n_right += letters == frozenset(question.answer)
            found.append(letters and frozenset(question.options[letter] for letter in letters))
        by_question[turned[0][0].id] = {
            "exam_consistent": float(None not in found and len(set(found)) == 1),
            "exam_accuracy_shuffled": n_right / len(turned),
        }
    letters = sorted(chosen.keys() | right.keys())
    shares = {
        letter: {
            "chosen": round(chosen[letter] / n_asked, 6),
            "right": round(right[letter] / n_asked, 6),
        }
        for letter in letters
    }
    return by_question, shares


# Sources


def open_rows(source: str, split: str) -> tuple[str, Iterator[tuple[Mapping[str, Any], str]]]:
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
