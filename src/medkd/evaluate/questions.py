"""Public questions: exams, and conversations with rubrics in the form of HealthBench.

In: a file, or a dataset of a hub. Out: `Questions`: examples, their prompts, and how an answer is
scored by rules. Not done here: the test split of merge (`evaluate.stage`), asking, judging.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from medkd.core.errors import InputError
from medkd.core.records import Example, Prediction
from medkd.evaluate.config import Config
from medkd.evaluate.generate import Prompt, Questions, make_prompts
from medkd.evaluate.multiple_choice import (
    make_public_example,
    open_rows,
    read_exam,
    score_exam,
    to_examples,
)
from medkd.evaluate.scoring import Row, score_prediction
from medkd.grading.rubric import QuestionRubric, is_healthbench, read_healthbench


def read_public(config: Config) -> Questions:
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
