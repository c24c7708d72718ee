"""Turns a row of any known schema into an `Example`, its origin written beside it.

In: a decoded row and its `SourceFile`. Out: a `Row`, or a `Dropped` that names the field at fault.
Not done here: the schemas of open datasets (`text.question_rows`), duplicates, styles.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from medkd.core.jsonl import first_problem, printable_name
from medkd.core.records import Checked, Example, Lineage, Rationale, Split
from medkd.core.task import list_instructions
from medkd.text.hub_datasets import SourceFile
from medkd.text.json_rows import RawRow
from medkd.text.normalize import is_chinese
from medkd.text.question_rows import (
    EXAM,
    SCHEMAS,
    QuestionRow,
    RowError,
    find_schema,
    kind_of,
    load_list,
    name_fields,
    read_question_row,
)


class DropReason(StrEnum):
    """Why a row is left out."""

    BROKEN = "broken_line"
    """It is no JSON, or a row of a table with too many or too few cells."""
    NO_OBJECT = "no_object"
    """It is JSON, but no object with fields."""
    UNKNOWN_SCHEMA = "unknown_schema"
    """Its fields are those of no known schema."""
    INVALID = "invalid_record"
    """It has the fields of one of our own records with values that are none."""
    NOT_TEXT = "not_text"
    """A field that should be text is a number, a list or something else."""
    ODD_TURNS = "odd_turns"
    """A conversation that nobody answers, or in which others than user and assistant speak."""
    NO_QUESTION = "no_question"
    """The question is blank."""
    NO_REASONING = "no_reasoning"
    """There is no reasoning to learn from."""
    NO_ANSWER = "no_answer"
    """The answer is blank."""
    TAG_INSIDE = "tag_inside"
    """A thinking tag is left inside a text."""
    INCOMPLETE = "incomplete"
    """The teacher was cut off."""
    EXACT_DUPLICATE = "exact_duplicate"
    """The same question is there already with nearly the same reasoning, white space, width and
    punctuation apart, or this one goes in circles."""
    OVER_TRACES = "over_traces"
    """Another reasoning for a question that has as many as wanted (`--traces`), or is in val or
    test, which hold each question once."""
    NEAR_DUPLICATE = "near_duplicate"
    """Nearly the same question is there already."""
    REVIEW = "rejected_by_reviewer"
    """A person judged the rationale not to be learnt from."""
    CONTAMINATED = "contaminated"
    """Its question holds one of the test split or of a benchmark."""
    OVER_CAP = "over_cap"
    """Its source was to give fewer rows (`--take`, `--replay`)."""


class Dropped(NamedTuple):
    """A row that is left out; `detail` names the field and what is wrong with it."""

    reason: DropReason
    detail: str = ""


class Row(NamedTuple):
    """An example on its way into the dataset."""

    example: Example
    split: Split | None
    """The split it came with."""
    group: str
    """Rows of one group go to one split."""


OWN: dict[str, tuple[frozenset[str], type[Example] | type[Rationale] | type[Checked]]] = {
    "verified rationales": (frozenset({"rationale", "verdicts"}), Checked),
    "rationales": (
        frozenset({"question", "reasoning", "answer", "finish_reason", "model"}),
        Rationale,
    ),
    "examples": (frozenset({"style", "input", "reasoning", "answer", "lineage"}), Example),
}
"""Our own records."""

OPEN, CHOICE = "open-question", "multiple-choice"
"""The tasks of a foreign row, and of an exam's."""


@cache
def find_any_schema(fields: frozenset[str]) -> str | None:
    """Name the schema that fields are known by: of our own records, else of open datasets."""
    own = (name for name, (needed, _) in OWN.items() if needed <= fields)
    return next(own, None) or find_schema(fields)


def describe_schemas(names: Sequence[str] = ()) -> str:
    """List what is expected, for an error message: all there are, or those named."""
    needed = {name: needed for name, (needed, _) in OWN.items()}
    needed |= {name: schema.needed for name, schema in SCHEMAS.items() if name.isascii()}
    needed[EXAM] = frozenset({"question", "options", "answer"})
    return "; ".join(
        f"{name}: {', '.join(sorted(fields))}"
        for name, fields in needed.items()
        if not names or name in names
    )


def read_row(
    row: RawRow, source: SourceFile, repairs: Counter[str], needs_reasoning: bool = True
) -> Row | Dropped:
    """Turn one raw row into a `Row`, or say why not; counts what it repaired."""
    if row.problem:
        return Dropped(DropReason.BROKEN, row.problem)
    if not isinstance(row.content, dict):
        return Dropped(DropReason.NO_OBJECT, f"{kind_of(row.content)} in place of an object")
    fields = cast("dict[str, Any]", row.content)
    schema = source.schema or find_any_schema(frozenset(map(str, fields)))
    if schema in OWN:
        return _read_own(fields, schema, source)
    try:
        found = read_question_row(fields, schema, repairs, source.path) if schema else None
    except RowError as error:
        return Dropped(DropReason(error.problem), str(error))
    if found is None:
        return Dropped(DropReason.UNKNOWN_SCHEMA, f"found fields: {name_fields(fields)}")
    if needs_reasoning and not found.reasoning:
        return Dropped(DropReason.NO_REASONING, found.no_reasoning)
    return _make_row(found, _find_mark(fields), source, repairs)


def _make_row(found: QuestionRow, mark: str, source: SourceFile, repairs: Counter[str]) -> Row:
    question = _take_off_instruction(found.asked, repairs)
    content = "\0".join((question, found.reasoning, found.answer))
    example = Example(
        id=f"{source.name}:{hashlib.sha256(content.encode()).hexdigest()[:16]}",
        source=source.name,
        style="bare",
        input=question,
        reasoning=found.reasoning,
        answer=found.answer,
        reference=found.answer if found.options else "",
        task=CHOICE if found.options else OPEN,
        language="zh" if is_chinese(question) else "en",
        lineage=Lineage(
            origin=printable_name(source.path),
            url=source.url,
            licence=source.licence,
            deidentified_by=mark,
        ),
    )
    return Row(example, None, question)


def _find_mark(fields: Mapping[str, Any]) -> str:
    """Find what de-identified a row of ours that came back in a foreign form."""
    lineage: Any = fields.get("lineage")
    if isinstance(lineage, str) and "deidentified_by" in lineage:
        lineage = load_list(lineage)
    inner = cast("dict[str, Any]", lineage) if isinstance(lineage, dict) else {}
    mark = fields.get("deidentified_by") or inner.get("deidentified_by")
    return mark if isinstance(mark, str) else ""


_FORMER_INSTRUCTIONS = (
    "请回答下面的医学问题。先在<think></think>标签内写出思考过程，再在标签之后直接作答。",
    "下面是一个健康相关的问题，请在<think></think>中逐步分析，然后给出清楚的回答。",
    "Answer the medical question below. Think inside <think></think> first, then give your answer "
    "right after the closing tag.",
)
"""Those of version 0.1 that no task has any more."""


def _take_off_instruction(question: str, repairs: Counter[str]) -> str:
    """Take off an instruction of ours that the row came back with: which rows stand under one is
    drawn anew."""
    for instruction in (*list_instructions(), *_FORMER_INSTRUCTIONS):
        if question.startswith(instruction) and question[len(instruction) :].startswith("\n"):
            repairs["instruction_taken_off"] += 1
            return question[len(instruction) :].strip()
    return question


# --- Our own records ----------------------------------------------------------------------------


def _read_own(fields: dict[str, Any], schema: str, source: SourceFile) -> Row | Dropped:
    try:
        record = OWN[schema][1].model_validate(fields)
    except ValidationError as error:
        return Dropped(DropReason.INVALID, first_problem(error))
    if isinstance(record, Example):
        return _from_example(record, source)
    return from_rationale(record.rationale if isinstance(record, Checked) else record, source)


_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}


def _from_example(example: Example, source: SourceFile) -> Row | Dropped:
    """Take an example as it is; its file says which split it belongs to."""
    if "task" not in example.model_fields_set:  # of version 0.1
        update = {"language": "zh" if is_chinese(example.input) else "en"}
        update |= {} if example.reference else {"task": OPEN}
        example = example.model_copy(update=update)
    row = Row(example, _SPLITS.get(source.path.stem), example.lineage.case_id or example.input)
    return _find_gap(example) or row


def from_rationale(rationale: Rationale, source: SourceFile) -> Row | Dropped:
    """Make an example of a teacher's rationale, with its mark of de-identification."""
    if not rationale.complete:
        return Dropped(DropReason.INCOMPLETE, f"finish_reason {rationale.finish_reason!r}")
    question = rationale.question
    lineage = Lineage(
        origin=printable_name(source.path),
        case_id=question.case_id,
        url=question.url,
        licence=question.licence,
        teacher=rationale.model,
        mode=rationale.mode,
        attempts=rationale.attempts,
        cost=rationale.cost,
        deidentified_by=question.deidentified_by,
    )
    example = Example(
        id=rationale.id,
        source=question.source,
        style="bare",
        department=question.department,
        input=question.input,
        reasoning=rationale.reasoning.strip(),
        answer=rationale.answer.strip(),
        reference=question.reference,
        task=question.task,
        language=question.language,
        known=question.known,
        lineage=lineage,
    )
    return _find_gap(example) or Row(example, question.split, question.case_id)


_GAPS: tuple[tuple[DropReason, str, Callable[[Example], str]], ...] = (
    (DropReason.NO_QUESTION, "input", lambda example: example.input),
    (DropReason.NO_REASONING, "reasoning", lambda example: example.reasoning),
    (DropReason.NO_ANSWER, "answer", lambda example: example.answer),
)


def _find_gap(example: Example) -> Dropped | None:
    """Name the first part of one of our own records that is blank."""
    blank = (
        Dropped(why, f"{name} is empty") for why, name, get in _GAPS if not get(example).strip()
    )
    return next(blank, None)
