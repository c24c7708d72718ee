"""Turns a row of any known schema into an `Example`; the schema is recognised from the row's fields, never from the file's name.

In: one decoded row. Out: a `Row`, or a reason why there is none; repairs are counted. A new schema is one small function below and one
line in `FOREIGN`. Not done here: reading files (`merge.files`), duplicates, style and split of rows that come without one.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from medkd.core import thinking
from medkd.core.records import Checked, Example, Lineage, Rationale, Split


class Drop(StrEnum):
    """Why a row is left out."""

    BROKEN = "broken_line"
    """It is no JSON."""
    NO_OBJECT = "no_object"
    """It is JSON, but no object with fields."""
    UNKNOWN_SCHEMA = "unknown_schema"
    """Its fields are those of no known schema."""
    INVALID = "invalid_record"
    """It has the fields of one of our own records with values that are none."""
    NOT_TEXT = "not_text"
    """A field that should be text is null, a number or something else."""
    SEVERAL_TURNS = "several_turns"
    """A conversation of more than one question and one answer."""
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
    """The same question is there already, white space, width and punctuation apart."""
    NEAR_DUPLICATE = "near_duplicate"
    """Nearly the same question is there already."""
    REVIEW = "rejected_by_reviewer"
    """A person judged the rationale not to be learnt from."""


class Row(NamedTuple):
    """An example on its way into the dataset."""

    example: Example
    split: Split | None
    """The split it came with."""
    group: str
    """Rows of one group go to one split."""


class Parts(NamedTuple):
    """What a foreign row holds, uncleaned; reasoning may still stand inside the answer."""

    question: Any
    reasoning: Any
    answer: Any


class Origin(NamedTuple):
    """The file a row stands in."""

    path: Path
    name: str
    url: str = ""
    licence: str = ""


def _read_medical_o1(row: Mapping[str, Any]) -> Parts:
    return Parts(row["Question"], row["Complex_CoT"], row["Response"])


def _read_medical_r1(row: Mapping[str, Any]) -> Parts:
    return Parts(row["question"], row["reasoning (reasoning_content)"], row["response (content)"])


def _read_psychology(row: Mapping[str, Any]) -> Parts:
    return Parts(row["input"], row["reasoning_content"], row["content"])


def _read_question_think_answer(row: Mapping[str, Any]) -> Parts:
    return Parts(row["question"], row["think"], row["answer"])


def _read_alpaca(row: Mapping[str, Any]) -> Parts:
    """Read alpaca rows, the tags inside their output; an instruction goes before its input as LLaMA-Factory joins them."""
    instruction, question = row["instruction"], row.get("input") or ""
    if not isinstance(instruction, str) or not isinstance(question, str):
        return Parts(None, "", row["output"])
    return Parts("\n".join(part for part in (instruction, question) if part.strip()), "", row["output"])


def _read_messages(row: Mapping[str, Any]) -> Parts | Drop:
    """Read a conversation of one question and one answer in OpenAI's form."""
    messages = cast(list[Any], row["messages"]) if isinstance(row["messages"], list) else []
    turns = [cast(dict[str, Any], m) for m in messages if isinstance(m, dict) and cast(dict[str, Any], m).get("role") != "system"]
    if [turn.get("role") for turn in turns] != ["user", "assistant"]:
        return Drop.SEVERAL_TURNS if len(turns) > 2 else Drop.NOT_TEXT
    return Parts(turns[0].get("content"), turns[1].get("reasoning_content") or "", turns[1].get("content"))


FOREIGN: dict[str, tuple[frozenset[str], Callable[[Mapping[str, Any]], Parts | Drop]]] = {
    "medical-o1": (frozenset({"Question", "Complex_CoT", "Response"}), _read_medical_o1),
    "medical-r1": (frozenset({"question", "reasoning (reasoning_content)", "response (content)"}), _read_medical_r1),
    "psychology": (frozenset({"input", "reasoning_content", "content"}), _read_psychology),
    "question-think-answer": (frozenset({"question", "think", "answer"}), _read_question_think_answer),
    "messages": (frozenset({"messages"}), _read_messages),
    "alpaca": (frozenset({"instruction", "output"}), _read_alpaca),
}
"""Schema to the fields it is known by and the function that reads it; the first that fits is taken."""

OWN = {
    "verified rationales": frozenset({"rationale", "verdicts"}),
    "rationales": frozenset({"question", "reasoning", "answer", "finish_reason", "model"}),
    "examples": frozenset({"style", "input", "reasoning", "answer", "lineage"}),
}
"""Our own records."""


@cache
def find_schema(fields: frozenset[str]) -> str | None:
    """Name the schema that these fields are known by."""
    known = {**OWN, **{name: needed for name, (needed, _) in FOREIGN.items()}}
    return next((name for name, needed in known.items() if needed <= fields), None)


def describe_schemas() -> str:
    """List what is expected, for an error message."""
    known = {**OWN, **{name: needed for name, (needed, _) in FOREIGN.items()}}
    return "; ".join(f"{name}: {', '.join(sorted(needed))}" for name, needed in known.items())


def read_row(row: Any, origin: Origin, repairs: Counter[str]) -> Row | Drop:
    """Turn one decoded row into a `Row`, or say why not; counts what it repaired."""
    if row is None:
        return Drop.BROKEN
    if not isinstance(row, dict):
        return Drop.NO_OBJECT
    fields = cast(dict[str, Any], row)
    schema = find_schema(frozenset(fields))
    if schema is None:
        return Drop.UNKNOWN_SCHEMA
    if schema in OWN:
        return _read_own(fields, schema, origin)
    parts = FOREIGN[schema][1](fields)
    return parts if isinstance(parts, Drop) else _make_row(parts, origin, repairs)


def _make_row(parts: Parts, origin: Origin, repairs: Counter[str]) -> Row | Drop:
    if not all(isinstance(part, str) for part in parts):
        return Drop.NOT_TEXT
    question = _clean(parts.question, repairs)
    reasoning, answer = take_out_tags(_clean(parts.reasoning, repairs), _clean(parts.answer, repairs), repairs)
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
    """Part a reasoning from its answer where tags hold them together; the opening tag may be missing."""
    if thinking.CLOSE in answer:
        repairs["tags_taken_out"] += 1
        repairs["missing_opening_tag"] += thinking.OPEN not in answer
        inside, answer = thinking.read(answer)
        reasoning = reasoning or inside or ""
    bare = reasoning.removeprefix(thinking.OPEN).removesuffix(thinking.CLOSE).strip()
    repairs["tags_taken_out"] += bare != reasoning
    return bare, answer


def _clean(text: str, repairs: Counter[str]) -> str:
    """Repair white space: line ends, blanks before them, more than one empty line, marks that cannot be seen."""
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


def _read_own(fields: dict[str, Any], schema: str, origin: Origin) -> Row | Drop:
    try:
        if schema == "examples":
            return _from_example(Example.model_validate(fields), origin)
        if schema == "rationales":
            return _from_rationale(Rationale.model_validate(fields), origin)
        return _from_rationale(Checked.model_validate(fields).rationale, origin)
    except ValidationError:
        return Drop.INVALID


def _from_example(example: Example, origin: Origin) -> Row:
    """Take an example as it is; its file says which split it belongs to."""
    splits: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}
    return Row(example, splits.get(origin.path.stem), example.lineage.case_id or example.input)


def _from_rationale(rationale: Rationale, origin: Origin) -> Row | Drop:
    if not rationale.complete:
        return Drop.INCOMPLETE
    if not rationale.reasoning.strip():
        return Drop.NO_REASONING
    if not rationale.answer.strip():
        return Drop.NO_ANSWER
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
    return Row(example, question.split, question.case_id)
