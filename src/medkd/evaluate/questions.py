"""What is asked: rows of merge or prepare, exams, HealthBench; and whether they are fair to ask.

In: a directory, a file, a dataset of a hub; the folder of a model, whose manifests lead to its
training rows. Out: `Questions`. Not done here: asking, judging, near duplicates (`merge
--against`), likelihoods of options (thinking models come out far too low that way).
"""

import hashlib
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from medkd.core.errors import InputError
from medkd.core.jsonl import MANIFEST, RecordReader, hash_path, read_lines, resolve_input
from medkd.core.records import (
    Example,
    Lineage,
    Message,
    Prediction,
    Preference,
    Question,
    Split,
)
from medkd.core.stage_output import read_manifest
from medkd.core.task import find_task
from medkd.grading.choices import read_choice
from medkd.grading.extract import split_list
from medkd.grading.names import normalize_name, parse_name
from medkd.grading.rubric import QuestionRubric, is_healthbench, read_healthbench
from medkd.grading.scores import Row, score_prediction
from medkd.models.chat_template import make_messages
from medkd.report.document import Note
from medkd.text.exam_rows import ExamQuestion, read_exam_row, write_options
from medkd.text.files import RawRow
from medkd.text.hub_datasets import fetch
from medkd.text.normalize import is_chinese
from medkd.text.tables import is_hub_name, read_rows

T = TypeVar("T")

MANY_SEEN = 0.5
"""Share of seen questions from which a test is the training over again."""
_LISTED_AGAIN = "Answer Choices: (A)"
"""MedXpertQA writes the options into the question too."""


# Rows


class Prompt(NamedTuple):
    """One question as it is put to a model."""

    id: str
    example: Example
    messages: tuple[Message, ...]


def make_prompts(
    examples: Sequence[Example], is_instructed: bool = False, task: str = ""
) -> list[Prompt]:
    """Put every example's input, bare or under the training instruction of its task; `task` is a
    task file of the user's."""
    prompts: list[Prompt] = []
    for e in examples:
        told = find_task(e.task, task).student.instructions[e.language][0] if is_instructed else ""
        prompts.append(Prompt(e.id, e, tuple(make_messages(e.input, told))))
    return prompts


def no_questions(path: Path, split: Split) -> InputError:
    """Say that a split got no row: there are few cases, or it has no share of them."""
    return InputError(
        "{}: no questions of the split {}; bring more cases (30 or more), or give it a larger "
        "share in prepare or merge",
        path,
        split,
    )


def keep_first(
    rows: Sequence[T], limit: int | None, dropped: Mapping[str, int]
) -> tuple[list[T], dict[str, int]]:
    """Keep the first rows, and count the others with what was dropped.

    >>> keep_first([1, 2, 3], 2, {"broken_line": 1})
    ([1, 2], {'broken_line': 1, 'over_limit': 1})
    """
    kept = list(rows[:limit])
    return kept, {**dropped, "over_limit": len(rows) - len(kept)}


def find_question_file(given: Path, split: Split, made_by: str = "merge") -> Path:
    """Find the file of a split in a directory of merge, else the questions of prepare; what is
    missing is told by the command that usually makes it."""
    is_prepared = (given / "questions.jsonl").exists() and not (given / f"{split}.jsonl").exists()
    name = "questions.jsonl" if is_prepared else f"{split}.jsonl"
    if (given / name).is_file() and not (given / name).stat().st_size:
        raise no_questions(given / name, split)
    return resolve_input(given, name, made_by)


def read_examples(path: Path, split: Split) -> tuple[list[Example], int, dict[str, int]]:
    """Read the rows of merge, or of the questions of prepare those of a split; returns them, how
    many lines there were, and what was dropped."""
    if not _holds_questions(path):
        reader = RecordReader(path, Example, made_by="merge")
        return list(reader), reader.n_read, reader.dropped()
    questions = RecordReader(path, Question, made_by="prepare")
    asked = [to_example(question) for question in questions if question.split == split]
    return asked, len(asked), questions.dropped()


def _holds_questions(path: Path) -> bool:
    """Tell whether a file holds questions rather than rows with an answer."""
    _, first = next(read_lines(path), ("", b""))
    return b'"split":' in first and b'"lineage":' not in first


def to_example(record: Question | Example) -> Example:
    """Make of a question the row that it is asked by; there is no reasoning in it."""
    if isinstance(record, Example):
        return record
    return Example(
        id=record.id,
        source=record.source,
        style="bare",
        department=record.department,
        input=record.input,
        reasoning="",
        answer=record.reference,
        reference=record.reference,
        task=record.task,
        language=record.language,
        known=record.known,
        lineage=Lineage(
            origin="questions.jsonl",
            case_id=record.case_id,
            url=record.url,
            licence=record.licence,
            deidentified_by=record.deidentified_by,
        ),
    )


Scorer = Callable[[Prediction], Row]


class Questions(NamedTuple):
    """What is asked, and how an answer to it is scored."""

    examples: list[Example]
    prompts: list[Prompt]
    path: Path | None
    """The file they stand in; None for a dataset of a hub."""
    n_read: int
    dropped: dict[str, int]
    score: Scorer
    exam: Sequence[ExamQuestion] = ()
    rubrics: Mapping[str, QuestionRubric] = {}
    is_public: bool = False
    """Whether they come from a public exam, which names no patient."""


# Public questions


def read_public(source: str, limit: int | None, has_judge: bool) -> Questions:
    """Read an exam or HealthBench; what is in neither form is counted."""
    path = Path(source) if Path(source).exists() else None
    name, rows = open_rows(source)
    first = next(rows, ({}, ""))
    if is_healthbench(first[0]):
        listed = itertools.chain([first], rows)
        if not has_judge:
            raise InputError("{}: its rubrics want a judge; name one with --judge", source)
        return _read_healthbench(limit, path, name, [row for row, _ in listed])
    if has_judge:
        raise InputError("--judge: letters are read by rules; leave it out with this exam")
    questions, n_broken = read_exam(source, limit=limit)
    by_id = {question.id: question for question in questions}

    def score_choice(prediction: Prediction) -> Row:
        marks = score_exam(by_id[prediction.id], prediction.raw)
        return score_prediction(prediction).add(marks)

    examples = to_examples(questions)
    return Questions(
        examples,
        make_prompts(examples),
        path,
        len(questions) + n_broken,
        {"not_a_question": n_broken},
        score_choice,
        exam=questions,
        is_public=True,
    )


def _read_healthbench(
    limit: int | None,
    path: Path | None,
    name: str,
    rows: Sequence[Mapping[str, object]],
) -> Questions:
    """Read conversations of several turns, each with its rubric."""
    examples: list[Example] = []
    prompts: list[Prompt] = []
    rubrics: dict[str, QuestionRubric] = {}
    n_broken = n_read = 0
    for n_read, row in enumerate(rows, start=1):
        try:
            messages, rubric = read_healthbench(row, f"{name}:{n_read}")
        except (KeyError, TypeError, ValueError):
            n_broken += 1
            continue
        example = make_public_example(rubric.id, rubric.question)
        examples.append(example)
        prompts.append(Prompt(rubric.id, example, tuple(messages)))
        rubrics[rubric.id] = rubric
        if len(examples) == limit:
            break
    return Questions(
        examples,
        prompts,
        path,
        n_read,
        {"not_a_question": n_broken},
        score_prediction,
        rubrics=rubrics,
        is_public=True,
    )


def read_exam(
    source: str, limit: int | None = None, flag: str = "--exam"
) -> tuple[list[ExamQuestion], int]:
    """Read an exam; return its questions and how many rows were none. Raise InputError where no row
    is one."""
    name, rows = open_rows(source, flag)
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
            "{}; known forms: CMB, CMExam, MedQA, MedXpertQA and MedMCQA, as JSON, "
            "JSON Lines or a table",
            problem,
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
        language="zh" if is_chinese(text) else "en",
        lineage=Lineage(origin="exam"),
    )


def put_question(question: ExamQuestion) -> str:
    """Write a question with its options, in its own language."""
    options = write_options(question.options)
    is_multiple = len(question.answer) > 1
    if is_chinese(question.question):
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


def open_rows(
    source: str, flag: str = "--exam"
) -> tuple[str, Iterator[tuple[Mapping[str, Any], str]]]:
    """Open public questions: their name, and the rows, each with its place; what is no row is an
    empty one."""
    if is_hub_name(Path(source)):
        files = fetch(source, "test")
        name = source.partition(":")[2].partition(":")[0].rsplit("/", 1)[-1]
    else:
        files = [resolve_input(Path(source), "test.jsonl", made_by=flag)]
        name = files[0].stem
    return name, (_to_mapping(row) for file in files for row in read_rows(file))


def _to_mapping(row: RawRow) -> tuple[Mapping[str, Any], str]:
    content = cast(dict[str, Any], row.content) if isinstance(row.content, dict) else {}
    return content, f"{row.place}: {row.problem}" if row.problem else row.place


# Fairness


def check_fairness(
    examples: Sequence[Example], path: Path, model: Path | None, allow_seen: bool
) -> tuple[list[Note], dict[str, int]]:
    """Refuse or warn of what makes a test unfair; return the lines that belong on the page, and the
    facts."""
    n = len(examples)
    seen = find_seen(examples, path, model)
    if not allow_seen:
        refuse_seen(seen, n, path)
    n_seen = len(seen.ids)
    n_holding = sum(
        e.task == "diagnosis" and bool(e.reference) and holds_answer(e.input, e.reference)
        for e in examples
    )
    notes: list[Note] = []
    if n_seen:
        line = "Unseen questions only: {k} of {n} were in the training data; the scores count them."
        notes.append(Note(line, {"k": n_seen, "n": n}))
    if n_holding:
        line = (
            "Questions without their own answer: {k} of {n} name the known diagnosis; being right "
            "there means little."
        )
        notes.append(Note(line, {"k": n_holding, "n": n}))
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    if seen.training_path is None:
        line = (
            "Whether the model met these questions in training: no lineage leads to its training "
            "data."
        )
        notes.append(Note(line))
    return notes, {"n_seen_in_training": n_seen, "n_holding_their_answer": n_holding}


class Seen(NamedTuple):
    """Which questions a model was trained on, as far as its lineage tells."""

    ids: frozenset[str]
    training_path: Path | None
    """The file it was trained on; None where no lineage leads to one."""


def find_seen(examples: Iterable[Example], test_path: Path, model: Path | None) -> Seen:
    """Look up the questions in what the model was trained on; a file named train.jsonl is training
    data, whoever is asked."""
    if test_path.name == "train.jsonl":
        return Seen(frozenset(e.id for e in examples), test_path)
    training_path = find_training(model) if model else None
    if training_path is None:
        return Seen(frozenset(), None)
    kind = Preference if training_path.name == "preferences.jsonl" else Example
    trained = {_digest(e.input) for e in RecordReader(training_path, kind, made_by="merge")}
    return Seen(frozenset(e.id for e in examples if _digest(e.input) in trained), training_path)


def find_training(folder: Path, depth: int = 4) -> Path | None:
    """Follow the manifests from a model or an adapter back to the rows it was trained on."""
    for place in (folder, folder.parent):
        if depth and (place / MANIFEST).exists():
            try:
                manifest = read_manifest(place)
            except InputError:  # another program's manifest.json: it tells nothing of ours
                continue
            paths = [
                _find_input(Path(path), digest, place) for path, digest in manifest.inputs.items()
            ]
            if manifest.stage in {"train", "reinforce"}:
                files = [p.parent if p and p.name.startswith("part-") else p for p in paths]
                return next(
                    (p for p in files if p and p.suffix == ".jsonl" and p.name != "val.jsonl"), None
                )
            if manifest.stage == "export":
                return next(
                    (found for p in paths if p and (found := find_training(p, depth - 1))), None
                )
    return None


def _find_input(path: Path, digest: str, place: Path) -> Path | None:
    """Find what a stage read: where it said, or the same content under its name beside it, if the
    run was moved or named from elsewhere."""
    if path.exists():
        return path
    parts = path.parts[1:] if path.is_absolute() else path.parts
    beside = (
        above.joinpath(*parts[n:])
        for above in place.resolve().parents
        for n in range(len(parts) - 1)
    )
    return next((found for found in beside if found.exists() and hash_path(found) == digest), None)


def refuse_seen(seen: Seen, n: int, test_path: Path) -> None:
    """Refuse a test that is the training over again."""
    if seen.ids and len(seen.ids) >= MANY_SEEN * n:
        raise InputError(
            "{}: {} of {} questions are in the training data ({}); give the test "
            "split, or --allow-seen to measure what was learnt by heart",
            test_path,
            len(seen.ids),
            n,
            seen.training_path,
        )


def holds_answer(question: str, reference: str) -> bool:
    """Tell whether a question holds its principal known diagnosis word for word.

    >>> holds_answer("头痛3月，目前诊断脑积水。", "脑积水"), holds_answer("头痛3月。", "脑积水")
    (True, False)
    """
    known = split_list(reference)
    name = parse_name(known[0].text) if known else None
    return (
        name is not None
        and len(name.core) >= 3
        and (name.core in normalize_name(question) or name.plain in normalize_name(question))
    )


def _digest(text: str) -> bytes:
    return hashlib.sha256(re.sub(r"\s", "", text).encode()).digest()
