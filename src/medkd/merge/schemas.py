"""Turns a row of any known schema into an `Example`: recognised by its fields, texts cleaned,
thinking tags taken out, its origin written beside it.

In: a decoded row and its `SourceFile`. Out: a `Row`, or a `Dropped` that names the field at fault.
A new schema is one line in `FOREIGN`. Not done here: reading files (`text.tables`), duplicates,
styles.
"""

import ast
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from medkd.core import thinking
from medkd.core.jsonl import first_problem, printable_name
from medkd.core.records import Checked, Example, Lineage, Rationale, Split
from medkd.core.task import list_instructions
from medkd.text.json_rows import RawRow
from medkd.text.normalize import is_chinese
from medkd.text.tables import is_missing


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
    CONTAMINATED = "contaminated"
    """Its question holds one of the test split or of a benchmark."""
    OVER_CAP = "over_cap"
    """Its source was to give fewer rows (`--take`)."""


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


class SourceFile(NamedTuple):
    """A file of rows, and where it comes from."""

    path: Path
    name: str
    url: str = ""
    licence: str = ""
    schema: str = ""
    """The schema that somebody said it has; read from the fields where nobody did."""


class Schema(NamedTuple):
    """Where a foreign row holds its parts."""

    question: tuple[str, ...] = ()
    """Fields joined by a line break; all but the first may be absent or empty."""
    answer: str = ""
    reasoning: str = ""
    """Empty where the reasoning stands in the answer or in one of `REASONING_FIELDS`."""
    turns: str = ""
    """Field of a conversation, in place of the others."""

    @property
    def needed(self) -> frozenset[str]:
        """The fields that the schema is known by."""
        return frozenset({*self.question[:1], self.answer, self.reasoning, self.turns} - {""})


FOREIGN = {
    "medical-o1": Schema(("Question",), "Response", "Complex_CoT"),
    "medical-r1": Schema(
        ("question",), "response (content)", "reasoning (reasoning_content)"
    ),
    "psychology": Schema(("input",), "content", "reasoning_content"),
    "question-think-answer": Schema(("question",), "answer", "think"),
    "messages": Schema(turns="messages"),
    "sharegpt": Schema(turns="conversations"),
    "alpaca": Schema(("instruction", "input"), "output"),
    "query-response": Schema(("query",), "response"),
}  # fmt: skip
"""The schemas of open datasets; the first whose fields a row has is taken. LLaMA-Factory's files
are `alpaca` or `sharegpt`, those of ms-swift and OpenAI `messages`. Capitals do not matter."""

OWN: dict[str, tuple[frozenset[str], type[Example] | type[Rationale] | type[Checked]]] = {
    "verified rationales": (frozenset({"rationale", "verdicts"}), Checked),
    "rationales": (
        frozenset({"question", "reasoning", "answer", "finish_reason", "model"}),
        Rationale,
    ),
    "examples": (frozenset({"style", "input", "reasoning", "answer", "lineage"}), Example),
}
"""Our own records."""

OPEN = "open-question"
"""The task of a foreign row."""
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "think", "thought", "cot")
"""What the reasoning is called where it stands beside an answer or a turn's content."""

_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "患者", "用户"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bot", "model", "bing", "ai", "医生", "助手"), "assistant"
    ),
}
"""What conversations call the three who speak, in lower case."""


def _needed_fields() -> dict[str, frozenset[str]]:
    own = {name: needed for name, (needed, _) in OWN.items()}
    return {**own, **{name: schema.needed for name, schema in FOREIGN.items()}}


@cache
def find_schema(fields: frozenset[str]) -> str | None:
    """Name the schema that these fields are known by, as they are spelt or in other capitals."""
    known = _needed_fields()
    found = next((name for name, needed in known.items() if needed <= fields), None)
    if found is not None:
        return found
    lowered = {field.strip().lower() for field in fields}
    return next(
        (name for name in FOREIGN if {field.lower() for field in known[name]} <= lowered), None
    )


def describe_schemas(names: Sequence[str] = ()) -> str:
    """List what is expected, for an error message: all there are, or those named."""
    return "; ".join(
        f"{name}: {', '.join(sorted(needed))}"
        for name, needed in _needed_fields().items()
        if not names or name in names
    )


def read_row(row: RawRow, source: SourceFile, repairs: Counter[str]) -> Row | Dropped:
    """Turn one raw row into a `Row`, or say why not; counts what it repaired."""
    if row.problem:
        return Dropped(DropReason.BROKEN, row.problem)
    if not isinstance(row.content, dict):
        return Dropped(DropReason.NO_OBJECT, f"{_kind_of(row.content)} in place of an object")
    fields = cast("dict[str, Any]", row.content)
    schema = source.schema or find_schema(frozenset(fields))
    if schema in OWN:
        return _read_own(fields, schema, source)
    parts = find_parts(fields, schema) if schema else None
    if parts is None:
        return Dropped(DropReason.UNKNOWN_SCHEMA, f"found fields: {name_fields(fields)}")
    if isinstance(parts, Dropped):
        return parts
    return _make_row(parts, _find_mark(fields), source, repairs)


_WHITE = re.compile(r"\s+")


def name_fields(row: Any) -> str:
    """Name the fields of a row on one line, for a message."""
    if not isinstance(row, dict):
        return "none"
    names = [_WHITE.sub(" ", str(name))[:40] for name in cast("dict[str, Any]", row)]
    return ", ".join(names[:20]) or "none"


# --- Foreign rows -------------------------------------------------------------------------------


class Parts(NamedTuple):
    """What a foreign row holds, each with the name of the field it stands in."""

    question: tuple[tuple[str, Any], ...]
    answer: tuple[str, Any]
    reasoning: tuple[str, Any]


def find_parts(fields: Mapping[str, Any], name: str) -> Parts | Dropped | None:
    """Find the parts of a row of a foreign schema; None where it has not the schema's fields."""
    schema = FOREIGN[name]
    if not schema.needed <= fields.keys():
        fields = {field.strip().lower(): value for field, value in fields.items()}
        question = tuple(field.lower() for field in schema.question)
        rest = (schema.answer, schema.reasoning, schema.turns)
        schema = Schema(question, *(field.lower() for field in rest))
        if not schema.needed <= fields.keys():
            return None
    if schema.turns:
        return _read_turns(fields[schema.turns], schema.turns)
    if fields.get("history"):
        return Dropped(DropReason.SEVERAL_TURNS, "field history holds earlier turns")
    return Parts(
        tuple((field, fields.get(field)) for field in schema.question),
        (schema.answer, fields[schema.answer]),
        (schema.reasoning, fields[schema.reasoning])
        if schema.reasoning
        else _find_reasoning(fields),
    )


def _find_reasoning(fields: Mapping[str, Any]) -> tuple[str, Any]:
    for name in REASONING_FIELDS:
        value: Any = fields.get(name)
        if isinstance(value, str) and not is_missing(value):
            return name, value
    return "", None


def _read_turns(turns: Any, name: str) -> Parts | Dropped:
    """Read a conversation of one question and one answer, whatever it calls its turns; a table
    holds it as JSON text."""
    listed = _load_list(turns) if isinstance(turns, str) else turns
    if not isinstance(listed, list) or not all(
        isinstance(turn, dict) for turn in cast("list[Any]", listed)
    ):
        return Dropped(DropReason.NOT_TEXT, f"field {name} is no list of turns")
    spoken: list[tuple[str, dict[str, Any]]] = []
    for turn in cast("list[dict[str, Any]]", listed):
        lowered = {str(key).strip().lower(): value for key, value in turn.items()}
        role = str(lowered.get("role", lowered.get("from", ""))).strip().lower()
        if _ROLES.get(role) != "system":
            spoken.append((_ROLES.get(role, role), lowered))
    roles = [role for role, _ in spoken]
    if roles != ["user", "assistant"]:
        reason = DropReason.SEVERAL_TURNS if len(spoken) > 2 else DropReason.NOT_TEXT
        found = ", ".join(role[:20] or "without a role" for role in roles[:6]) or "none"
        return Dropped(reason, f"field {name} holds the turns {found}; user, assistant wanted")
    (_, asked), (_, said) = spoken
    content, thought = _read_content(said)
    reasoning = _find_reasoning(said)
    return Parts(
        ((f"content of the user's turn in {name}", _read_content(asked)[0]),),
        (f"content of the assistant's turn in {name}", content),
        reasoning if reasoning[0] else ("", thought),
    )


def _load_list(text: str) -> Any:
    """Read a list that a table holds as JSON, or as Python writes it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text) if len(text) < 2**20 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _read_content(turn: Mapping[str, Any]) -> tuple[Any, str]:
    """Read the text of a turn and the thinking in it; both may stand in a list of parts."""
    content: Any = turn.get("content", turn.get("value"))
    if not isinstance(content, list):
        return content, ""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in cast("list[Any]", content):
        fields: dict[str, Any] = (
            cast("dict[str, Any]", part) if isinstance(part, dict) else {"text": part}
        )
        text: Any = fields.get("text")
        thought: Any = fields.get("thinking", fields.get("reasoning"))
        if isinstance(thought, str):
            thoughts.append(thought)
        elif isinstance(text, str):
            texts.append(text)
        else:
            return content, ""
    return "\n".join(texts), "\n".join(thoughts)


class _NotTextError(ValueError):
    """A field that should be text and is none."""


def join_texts(parts: Sequence[tuple[str, Any]]) -> str:
    """Join the texts of fields by line breaks; raises ValueError that names one that is no text."""
    texts: list[str] = []
    for name, value in parts:
        if is_missing(value):
            continue
        listed = cast("list[Any]", value) if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in listed):
            raise _NotTextError(f"{name} is {_kind_of(value)}")
        texts.extend(listed)
    return "\n".join(text for text in texts if text.strip())


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return f"{value}".lower()
    if isinstance(value, int | float):
        return f"a number ({value!s:.20})"
    return {"list": "a list", "dict": "an object", "NoneType": "null", "str": "a text"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )


def _make_row(parts: Parts, mark: str, source: SourceFile, repairs: Counter[str]) -> Row | Dropped:
    try:
        question = _clean(join_texts(parts.question), repairs)
        answer = _clean(join_texts([parts.answer]), repairs)
        reasoning = _clean(join_texts([parts.reasoning]), repairs)
    except _NotTextError as error:
        return Dropped(DropReason.NOT_TEXT, str(error))
    question = _take_off_instruction(question, repairs)
    reasoning, answer = take_out_tags(reasoning, answer, repairs)
    if not question:
        return Dropped(DropReason.NO_QUESTION, f"{parts.question[0][0]} is empty")
    if not reasoning:
        name, place = parts.reasoning[0], parts.answer[0]
        empty = f"{name} is empty" if name else f"no field {'/'.join(REASONING_FIELDS[:3])}"
        return Dropped(DropReason.NO_REASONING, f"{empty}, and no thinking tag in {place}")
    if not answer:
        return Dropped(DropReason.NO_ANSWER, f"{parts.answer[0]} is empty behind its thinking")
    if tag := thinking.find_tag(reasoning) or thinking.find_tag(answer):
        return Dropped(DropReason.TAG_INSIDE, f"{tag} in the middle of {parts.answer[0]}")
    content = hashlib.sha256("\0".join((question, reasoning, answer)).encode()).hexdigest()
    example = Example(
        id=f"{source.name}:{content[:16]}",
        source=source.name,
        style="bare",
        input=question,
        reasoning=reasoning,
        answer=answer,
        task=OPEN,
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
        lineage = _load_list(lineage)
    inner = cast("dict[str, Any]", lineage) if isinstance(lineage, dict) else {}
    mark = fields.get("deidentified_by") or inner.get("deidentified_by")
    return mark if isinstance(mark, str) else ""


def take_out_tags(reasoning: str, answer: str, repairs: Counter[str]) -> tuple[str, str]:
    """Part a reasoning from its answer where the tags of any model family hold them together."""
    thought = thinking.read(answer)
    if thought.reasoning is not None or thinking.find_tag(answer[:40]):
        repairs["tags_taken_out"] += 1
        repairs["missing_opening_tag"] += not thinking.find_tag(answer[:40])
        reasoning, answer = reasoning or thought.reasoning or "", thought.answer
    bare = thinking.strip_tags(reasoning)
    repairs["tags_taken_out"] += bare != reasoning
    return bare, answer


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


def _clean(text: str, repairs: Counter[str]) -> str:
    """Repair white space: line ends, blanks before them, more than one empty line, marks that
    cannot be seen."""
    cleaned = text.replace("\r\n", "\n").replace("\r", "\n")
    for name, sign, pattern, replacement in _REPAIRS:
        if sign is None or sign in cleaned:
            cleaned, n = pattern.subn(replacement, cleaned)
            repairs[name] += bool(n)
    return cleaned.strip()


_REPAIRS: tuple[tuple[str, str | None, re.Pattern[str], str], ...] = (
    ("unseen_marks", None, re.compile("[\ufeff\u200b\u0000\ud800-\udfff]"), ""),
    ("paragraph_blanks", "\n", re.compile(r"(?<![ \t\u3000])[ \t\u3000]++(?=\n)"), ""),
    ("empty_lines", "\n\n\n", re.compile(r"\n{3,}"), "\n\n"),
)
"""Name, what a text must hold for it, pattern and replacement of each repair."""


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
