"""Public questions: exams of multiple choice, and HealthBench's conversations with rubrics.

In: a file in one of their forms, or a dataset of a hub. Out: `Questions` to ask, scores of letters,
what the order of options does. Not done here: asking, judging, likelihoods of options (thinking
models come out far too low that way).
"""

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from medkd.core.errors import InputError
from medkd.core.jsonl import resolve_input
from medkd.core.records import Example, Language, Lineage, Prediction
from medkd.evaluate.config import Config
from medkd.evaluate.generate import Asker, Prompt, Questions, make_prompts
from medkd.evaluate.scoring import Row, Scores, score_prediction
from medkd.grading.choices import read_choice
from medkd.grading.rubric import QuestionRubric, is_healthbench, read_healthbench
from medkd.text.exam_rows import ExamQuestion, read_exam_row, write_options
from medkd.text.hub_datasets import UnreachableError, fetch, is_hub_name
from medkd.text.json_rows import RawRow
from medkd.text.tables import read_rows


def read_public(config: Config) -> Questions:
    """Read an exam or HealthBench; what is in neither form is counted."""
    if config.input or config.samples > 1 or config.faithfulness:
        raise InputError(
            "--exam: asks its own questions once; leave --input, --samples and --faithfulness out"
        )
    path = Path(config.exam) if Path(config.exam).exists() else None
    name, rows = open_rows(config.exam)
    first = next(rows, ({}, ""))
    if is_healthbench(first[0]):
        listed = itertools.chain([first], rows)
        return _read_healthbench(config, path, name, [row for row, _ in listed])
    if config.judge:
        raise InputError("--judge: letters are read by rules; leave it out with this exam")
    questions, n_broken = read_exam(config.exam, limit=config.limit)
    by_id = {question.id: question for question in questions}

    def score_choice(prediction: Prediction) -> Row:
        row = score_prediction(prediction)
        marks = score_exam(by_id[prediction.id], prediction.raw)
        return row.model_copy(update={"scores": row.scores | marks})

    examples = to_examples(questions)
    return Questions(
        examples,
        make_prompts(examples),
        path,
        len(questions) + n_broken,
        {"not_a_question": n_broken} if n_broken else {},
        score_choice,
        exam=questions,
        is_public=True,
    )


def _read_healthbench(
    config: Config, path: Path | None, name: str, rows: Sequence[Mapping[str, object]]
) -> Questions:
    """Read conversations of several turns, each with its rubric."""
    if not config.judge:
        raise InputError("{}: its rubrics want a judge; name one with --judge", config.exam)
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
        if len(examples) == config.limit:
            break
    return Questions(
        examples,
        prompts,
        path,
        n_read,
        {"not_a_question": n_broken} if n_broken else {},
        score_prediction,
        rubrics=rubrics,
        is_public=True,
    )


# Exams


def read_exam(source: str, limit: int | None = None) -> tuple[list[ExamQuestion], int]:
    """Read an exam; return its questions and how many rows were none. Raise InputError where no row
    is one."""
    name, rows = open_rows(source)
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


def ask_shuffled(
    config: Config, asker: Asker, exam: Sequence[ExamQuestion], answered: Mapping[str, Prediction]
) -> tuple[Scores, dict[str, dict[str, float]]]:
    """Ask an exam in other orders of its options, and score all orders as `score_order` does."""
    if not exam:
        raise InputError("--shuffle-options: these questions have no options; leave it out")
    turns = range(1, config.shuffle_options + 1)
    turned = [shuffle_options(q, config.seed, turn) for q in exam for turn in turns]
    answers = {p.id: p for p in asker.ask("shuffled", make_prompts(to_examples(turned)))}
    of_question = {q.id: [(q, answered[q.id])] for q in exam if q.id in answered}
    for question in turned:
        key = question.id.rpartition("%")[0]
        if question.id in answers and key in of_question:
            of_question[key].append((question, answers[question.id]))
    return score_order(list(of_question.values()))


def score_order(
    turns: Sequence[Sequence[tuple[ExamQuestion, Prediction]]],
) -> tuple[Scores, dict[str, dict[str, float]]]:
    """Score questions that were asked in several orders.

    Return the scores of each question: whether all orders led to the same options, and the share
    right; and for each letter how often it was chosen, and how often it was right.
    """
    by_question: Scores = {}
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


def open_rows(source: str) -> tuple[str, Iterator[tuple[Mapping[str, Any], str]]]:
    """Open public questions: their name, and the rows, each with its place; what is no row is an
    empty one."""
    if is_hub_name(Path(source)):
        name, files = _fetch(source)
    else:
        files = [resolve_input(Path(source), "test.jsonl", made_by="evaluate --exam FILE")]
        name = files[0].stem
    return name, (_to_mapping(row) for file in files for row in read_rows(file))


def _fetch(source: str) -> tuple[str, list[Path]]:
    """Fetch the files of `hf:NAME:SPLIT` or `hf:NAME/FILE`; of a bare name the only one, or those
    called test."""
    hub, _, rest = source.partition(":")
    name, _, split = rest.partition(":")
    short = name.rsplit("/", 1)[-1]
    if split or name.count("/") != 1:
        return short, fetch(f"{hub}:{name}" + (f"/*{split}*" if split else ""))
    try:
        return short, fetch(f"{hub}:{name}")
    except UnreachableError:
        raise
    except InputError as several:
        with suppress(InputError):
            return short, fetch(f"{hub}:{name}/*test*")
        raise several


def _to_mapping(row: RawRow) -> tuple[Mapping[str, Any], str]:
    content = cast(dict[str, Any], row.content) if isinstance(row.content, dict) else {}
    return content, f"{row.place}: {row.problem}" if row.problem else row.place
