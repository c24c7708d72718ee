"""The stage `select`: a student answers its training questions several times; those that it always
answers teach it nothing and are left out.

In: questions of prepare, or the rows of merge. Out: the same records without the left out ones,
`selection.jsonl` with the reason for each, `predictions.jsonl` for `distill --mode correct`. Not
done here: asking a teacher (`distill`), scores of a whole model (`evaluate.stage`).
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from medkd.core.config import RUNTIME
from medkd.core.i18n import tell
from medkd.core.jsonl import RecordReader, write_records
from medkd.core.records import (
    Example,
    Prediction,
    Question,
    Record,
    check_deidentified,
    hash_uniform,
)
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.core.task import check_tasks, find_task, list_task_inputs
from medkd.evaluate.generate import (
    MERGED,
    AskConfig,
    Asker,
    EndpointPredictor,
    find_inputs,
    open_predictor,
)
from medkd.evaluate.questions import find_question_file, make_prompts, to_example
from medkd.grading.graders import get_grader

SELECTION = "selection.jsonl"
PREDICTIONS = "predictions.jsonl"
SPLITS = ("val.jsonl", "test.jsonl")
WRITES = ("questions.jsonl", "train.jsonl", *SPLITS, SELECTION, PREDICTIONS, MERGED)


class Why(StrEnum):
    """Why a question stays or goes."""

    UNSURE = "unsure"
    """Stays: the student answers it, but not always."""
    UNSOLVED = "unsolved"
    """Stays: the student never answers it."""
    UNDECIDED = "undecided"
    """Stays: rules cannot tell whether the answers are right."""
    UNANSWERED = "unanswered"
    """Stays: the student gave no answer that came to its end."""
    NOT_TRAIN = "not_train"
    """Stays: it is of val or test, which nobody selects."""
    SURE = "always_right"
    """Goes: there is nothing left to learn."""
    OVER_LIMIT = "over_limit"
    """Goes: as many as wanted stay (`--limit`)."""


STAYS = frozenset({Why.UNSURE, Why.UNSOLVED, Why.UNDECIDED, Why.UNANSWERED, Why.NOT_TRAIN})


class Selected(Record):
    """What was decided about a question: a line of `selection.jsonl`."""

    id: str
    department: tuple[str, ...] = ()
    n_answers: int
    """Answers of the student that came to an end."""
    solve_rate: float | None
    """Share of them that are right, an undecided one counted as wrong; None where none could be
    graded."""
    stays: bool
    why: Why


class Config(AskConfig):
    """Keep the training questions that a student does not always answer."""

    input: Annotated[Path, RUNTIME]
    """Questions: a directory of prepare or merge, or one of their files."""
    model: str = Field(default=...)
    """The student: medkd:tiny, a folder, a GGUF file, a name on a hub, or its name at
    --endpoint."""
    samples: int = Field(default=4, ge=1, le=1000)
    """Answers to a question, of which the solve rate is the share that is right."""
    below: float = Field(default=1.0, gt=0, le=1)
    """Solve rate from which a question goes; 1: only those that are always right."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Most training questions that stay."""
    balance: Literal["", "department", "rate", "both"] = ""
    """With --limit: what the questions that stay are evenly spread over."""
    temperature: float = Field(default=0.7, ge=0, le=100)
    """Sampling temperature."""


def run(config: Config) -> Manifest:
    """Ask the student, decide about each question, write what stays."""
    path = find_question_file(config.input, "train", made_by="prepare")
    _, decisive = find_inputs(config)
    reader = RecordReader(path, Example if path.name == "train.jsonl" else Question, "prepare")
    records: list[Question | Example] = list(reader)
    tasks = {record.task for record in records}
    check_tasks(tasks, config.task, path)
    if config.endpoint:
        marks = [to_example(record).lineage.deidentified_by for record in records]
        check_deidentified(marks, path, f"the endpoint {config.endpoint}", config.accept_identified)
    others = [path.with_name(name) for name in SPLITS if path.name == "train.jsonl"]
    others = [other for other in others if other.exists()]
    inputs = {"input": [path, *others], "model": decisive}
    inputs |= {role: [file] for role, file in list_task_inputs(config.task).items()}
    with open_stage_output("select", config, inputs, WRITES, libraries=["transformers"]) as space:
        if space.is_finished:
            return space.manifest
        space.read(reader.n_read)
        space.drop_all(reader.dropped())
        answers = _ask(config, space, [r for r in records if _is_train(r)])
        decided = select(records, answers, config)
        _write(space, path, records, decided, others)
    return space.manifest


def _is_train(record: Question | Example) -> bool:
    return record.split == "train" if isinstance(record, Question) else True


def _ask(
    config: Config, space: StageOutput, records: Sequence[Question | Example]
) -> dict[str, list[Prediction]]:
    """Have the student answer every training question several times; answers by question."""
    if not records:
        return {}
    prompts = make_prompts([to_example(record) for record in records])
    with ExitStack() as servers:
        predictor = open_predictor(config, space, servers, prompts)
        asker = Asker(predictor, space, config.make_sampling())
        answers = asker.ask_samples("predictions", prompts, range(config.samples))
        if isinstance(predictor, EndpointPredictor):
            space.manifest.cost = predictor.completer.tell_cost()
    return answers


def select(
    records: Iterable[Question | Example],
    answers: Mapping[str, Sequence[Prediction]],
    config: Config,
) -> list[Selected]:
    """Decide about each question by the answers to it."""
    decided = [
        _decide(record, answers.get(record.id, ()), config)
        if _is_train(record)
        else _make(record, (), None, Why.NOT_TRAIN)
        for record in records
    ]
    if config.limit is None:
        return decided
    chosen = set(_choose([one for one in decided if _counts(one)], config))
    return [
        one
        if not _counts(one) or one.id in chosen
        else one.model_copy(update={"stays": False, "why": Why.OVER_LIMIT})
        for one in decided
    ]


def _counts(one: Selected) -> bool:
    """Tell whether a question counts for the limit."""
    return one.stays and one.why is not Why.NOT_TRAIN


def _decide(record: Question | Example, answers: Sequence[Prediction], config: Config) -> Selected:
    grader = get_grader(find_task(record.task, config.task).answer.kind)
    grades = [grader(p.answer, record.reference, known=record.known) for p in answers]
    decided = [grade for grade in grades if grade.decided and record.reference]
    if not answers:
        return _make(record, answers, None, Why.UNANSWERED)
    if not decided:
        return _make(record, answers, None, Why.UNDECIDED)
    rate = sum(grade.principal for grade in decided) / len(answers)
    why = Why.SURE if rate >= config.below else Why.UNSURE if rate else Why.UNSOLVED
    return _make(record, answers, round(rate, 4), why)


def _make(
    record: Question | Example, answers: Sequence[Prediction], rate: float | None, why: Why
) -> Selected:
    return Selected(
        id=record.id,
        department=record.department,
        n_answers=len(answers),
        solve_rate=rate,
        stays=why in STAYS,
        why=why,
    )


def _choose(candidates: Sequence[Selected], config: Config) -> list[str]:
    """Choose as many as wanted: one of each group in turn, in a drawn order."""
    groups: dict[tuple[Any, ...], list[Selected]] = {}
    drawn = sorted(candidates, key=lambda one: hash_uniform(config.seed, "select", one.id))
    for one in drawn:
        department = one.department[:1] if config.balance in ("department", "both") else ()
        rate = one.solve_rate if config.balance in ("rate", "both") else None
        groups.setdefault((department, rate), []).append(one)
    turns = (one for turn in zip_longest(*groups.values()) for one in turn if one is not None)
    return [one.id for one, _ in zip(turns, range(config.limit or 0), strict=False)]


def _write(
    space: StageOutput,
    path: Path,
    records: Sequence[Question | Example],
    decided: Sequence[Selected],
    others: Sequence[Path],
) -> None:
    stays = {one.id for one in decided if one.stays}
    name = "train.jsonl" if path.name == "train.jsonl" else "questions.jsonl"
    n_kept = space.write_records(name, (record for record in records if record.id in stays))
    for other in others:
        examples = (
            list(RecordReader(other, Example, made_by="merge")) if other.stat().st_size else []
        )
        write_records(space.path(other.name), examples)
    space.write_records(SELECTION, decided)
    whys = Counter(one.why for one in decided)
    space.manifest.counts.kept = n_kept
    space.drop_all({str(why): n for why, n in whys.items() if why not in STAYS})
    rates = [one.solve_rate for one in decided if one.solve_rate is not None]
    n_train = sum(_counts(one) for one in decided)
    space.manifest.facts |= {
        "why": {str(why): n for why, n in whys.most_common()},
        "solve_rate": round(sum(rates) / len(rates), 4) if rates else None,
        "selected": n_train,
    }
    if not n_train:
        said = "select: nothing to buy: there is no training question"
        if whys[Why.SURE]:
            said = "select: nothing to buy: the student is right on every training question"
        tell(said, to=sys.stderr)
