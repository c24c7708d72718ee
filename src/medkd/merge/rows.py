"""Turns a row of any known schema into an `Example`: texts repaired, tags taken out, where it comes
from written beside it.

In: one decoded row and its `Origin`. Out: a `Row`, or a reason why there is none; repairs are
counted.
Not done here: which fields hold what (`merge.schemas`), duplicates, style and split of rows that
come without one.
"""

import hashlib
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from medkd.core import thinking
from medkd.core.records import Checked, Example, Lineage, Rationale, Split
from medkd.merge.draws import known_instructions
from medkd.merge.schemas import FOREIGN, OWN, Drop, Parts, find_schema


class Row(NamedTuple):
    """An example on its way into the dataset."""

    example: Example
    split: Split | None
    """The split it came with."""
    group: str
    """Rows of one group go to one split."""


class Origin(NamedTuple):
    """The file a row stands in."""

    path: Path
    name: str
    url: str = ""
    licence: str = ""
    schema: str = ""
    """The schema that somebody said it has; read from the fields where nobody did."""


def read_row(row: Any, origin: Origin, repairs: Counter[str]) -> Row | Drop:
    """Turn one decoded row into a `Row`, or say why not; counts what it repaired."""
    if row is None:
        return Drop.BROKEN
    if not isinstance(row, dict):
        return Drop.NO_OBJECT
    fields = cast(dict[str, Any], row)
    schema = origin.schema or find_schema(frozenset(fields))
    if schema is None:
        return Drop.UNKNOWN_SCHEMA
    if schema in OWN:
        return _read_own(fields, schema, origin)
    needed, read = FOREIGN[schema]
    if not needed <= fields.keys():
        return Drop.UNKNOWN_SCHEMA
    parts = read(fields)
    return parts if isinstance(parts, Drop) else _make_row(parts, origin, repairs)


def _make_row(parts: Parts, origin: Origin, repairs: Counter[str]) -> Row | Drop:
    if not all(isinstance(part, str) for part in parts):
        return Drop.NOT_TEXT
    question = _take_off_instruction(_clean(parts.question, repairs), repairs)
    reasoning, answer = take_out_tags(
        _clean(parts.reasoning, repairs), _clean(parts.answer, repairs), repairs
    )
    if not question:
        return Drop.NO_QUESTION
    if not reasoning:
        return Drop.NO_REASONING
    if not answer:
        return Drop.NO_ANSWER
    if any(tag in text for tag in (thinking.OPEN, thinking.CLOSE) for text in (reasoning, answer)):
        return Drop.TAG_INSIDE
    content = hashlib.sha256("\0".join((question, reasoning, answer)).encode()).hexdigest()
    example = Example(
        id=f"{origin.name}:{content[:16]}",
        source=origin.name,
        style="bare",
        input=question,
        reasoning=reasoning,
        answer=answer,
        lineage=Lineage(origin=origin.path.name, url=origin.url, licence=origin.licence),
    )
    return Row(example, None, question)


def take_out_tags(reasoning: str, answer: str, repairs: Counter[str]) -> tuple[str, str]:
    """Part a reasoning from its answer where tags hold them together; the opening tag may be
    missing."""
    if thinking.CLOSE in answer:
        repairs["tags_taken_out"] += 1
        repairs["missing_opening_tag"] += thinking.OPEN not in answer
        inside, answer = thinking.read(answer)
        reasoning = reasoning or inside or ""
    bare = reasoning.removeprefix(thinking.OPEN).removesuffix(thinking.CLOSE).strip()
    repairs["tags_taken_out"] += bare != reasoning
    return bare, answer


def _take_off_instruction(question: str, repairs: Counter[str]) -> str:
    """Take off an instruction of ours that the row came back with: which rows stand under one is
    drawn anew."""
    for instruction in known_instructions():
        if question.startswith(instruction) and question[len(instruction) :].startswith("\n"):
            repairs["instruction_taken_off"] += 1
            return question[len(instruction) :].strip()
    return question


def _clean(text: str, repairs: Counter[str]) -> str:
    """Repair white space: line ends, blanks before them, more than one empty line, marks that
    cannot be seen."""
    cleaned = text.replace("\r\n", "\n").replace("\r", "\n")
    for name, pattern, replacement in _REPAIRS:
        cleaned, n = pattern.subn(replacement, cleaned)
        repairs[name] += bool(n)
    return cleaned.strip()


_REPAIRS = (
    ("unseen_marks", re.compile("[\ufeff\u200b\u0000\ud800-\udfff]"), ""),
    ("paragraph_blanks", re.compile(r"[ \t\u3000]+(?=\n)"), ""),
    ("empty_lines", re.compile(r"\n{3,}"), "\n\n"),
)


def simplify(row: Row, repairs: Counter[str]) -> Row:
    """Write traditional characters as simplified ones; counts the rows that held any."""
    converter = _load_converter()
    example = row.example
    texts = {
        "input": example.input,
        "reasoning": example.reasoning,
        "answer": example.answer,
        "reference": example.reference,
    }
    changed = {
        name: converted
        for name, text in texts.items()
        if (converted := str(converter.convert(text))) != text
    }
    if not changed:
        return row
    repairs["simplified"] += 1
    group = example.lineage.case_id or changed.get("input", example.input)
    return row._replace(example=example.model_copy(update=changed), group=group)


@cache
def _load_converter() -> Any:
    from opencc import OpenCC

    return OpenCC("t2s")


def _read_own(fields: dict[str, Any], schema: str, origin: Origin) -> Row | Drop:
    try:
        if schema == "examples":
            return _from_example(Example.model_validate(fields), origin)
        if schema == "rationales":
            return _from_rationale(Rationale.model_validate(fields), origin)
        return _from_rationale(Checked.model_validate(fields).rationale, origin)
    except ValidationError:
        return Drop.INVALID


def _from_example(example: Example, origin: Origin) -> Row | Drop:
    """Take an example as it is; its file says which split it belongs to."""
    splits: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}
    row = Row(example, splits.get(origin.path.stem), example.lineage.case_id or example.input)
    return _find_gap(example) or row


def _from_rationale(rationale: Rationale, origin: Origin) -> Row | Drop:
    if not rationale.complete:
        return Drop.INCOMPLETE
    question = rationale.question
    lineage = Lineage(
        origin=origin.path.name,
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
        lineage=lineage,
    )
    return _find_gap(example) or Row(example, question.split, question.case_id)


def _find_gap(example: Example) -> Drop | None:
    """Say which part of one of our own records is blank."""
    if not example.input.strip():
        return Drop.NO_QUESTION
    if not example.reasoning.strip():
        return Drop.NO_REASONING
    return None if example.answer.strip() else Drop.NO_ANSWER
