"""What an evaluation asks: the test split of merge, an exam, or conversations with rubrics.

In: a directory of merge, a file, a dataset of a hub. Out: `Questions`: examples, their prompts, and
how an answer is scored by rules. Not done here: asking (`evaluate.generate`), judging.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.records import Example, Prediction
from medkd.core.task import check_tasks, find_task
from medkd.evaluate.config import Config
from medkd.evaluate.generate import Prompt, make_prompts
from medkd.evaluate.multiple_choice import (
    ExamQuestion,
    make_public_example,
    open_rows,
    read_exam,
    score_exam,
    to_examples,
)
from medkd.evaluate.rubrics import read_rubrics
from medkd.evaluate.scoring import Row, score_prediction
from medkd.grading.rubric import QuestionRubric, is_healthbench, read_healthbench

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


def read_questions(config: Config) -> Questions:
    """Read what is asked; raises InputError where flags do not fit or there is nothing."""
    if config.rubric and not config.judge:
        raise InputError("--rubric: criteria are checked by a judge; name one with --judge")
    if config.shuffle_options and not config.exam:
        raise InputError("--shuffle-options: only an exam has options; name it with --exam")
    if config.exam:
        return _read_public(config)
    if config.input is None:
        raise InputError(
            "medkd evaluate: nothing to ask; pass --input (the directory of merge), --exam FILE, "
            "or --predictions FILE"
        )
    path = resolve_input(config.input, "test.jsonl", made_by="merge")
    reader = RecordReader(path, Example, made_by="merge")
    examples = list(reader)[: config.limit]
    if not examples:
        raise InputError(f'{path}: no questions; run "medkd merge" with a share for the test split')
    check_tasks({example.task for example in examples}, config.task, path)
    rubrics = read_rubrics(config.rubric) if config.rubric else {}
    if rubrics and not rubrics.keys() & {example.id for example in examples}:
        raise InputError(f"{config.rubric}: no rubric is of a question of {path}; check --rubric")
    return Questions(
        examples,
        instruct(examples, config),
        path,
        reader.n_read,
        reader.dropped(),
        partial(score_prediction, task=config.task, terms=config.terms),
        rubrics=rubrics,
    )


def instruct(examples: Sequence[Example], config: Config) -> list[Prompt]:
    """Put questions bare or, where wanted, each under the training instruction of its task."""
    if not config.instructed:
        return make_prompts(examples)
    return [
        make_prompts([e], find_task(e.task, config.task).student.instructions[e.language][0])[0]
        for e in examples
    ]


def _read_public(config: Config) -> Questions:
    """Read an exam or HealthBench; what is in neither form is counted."""
    if config.input or config.samples > 1 or config.wordings or config.faithfulness:
        raise InputError(
            "--exam: asks its own questions once; "
            "leave --input, --samples, --wordings and --faithfulness out"
        )
    path = Path(config.exam) if Path(config.exam).exists() else None
    name, rows = open_rows(config.exam, "test")
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
        raise InputError(f"{config.exam}: its rubrics want a judge; name one with --judge")
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
