"""Rows that ask and answer, in every schema of open datasets: recognised by their fields, texts
repaired, thinking tags taken out.

In: the fields of a row. Out: a `QuestionRow`; earlier turns of a conversation stand in its
question. A new schema is one line in `SCHEMAS`. Not done here: reading files (`text.tables`), what
becomes of a row (`collect`, `merge`).
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from medkd.core import thinking
from medkd.text.exam_rows import (
    ANSWER_NAMES,
    QUESTION_NAMES,
    count_options,
    is_exam,
    is_exam_field,
    read_exam_row,
    write_options,
)
from medkd.text.normalize import is_chinese
from medkd.text.tables import is_missing, read_rows


class RowProblem(StrEnum):
    """Why a row of a known schema cannot be read."""

    NOT_TEXT = "not_text"
    """A field that should be text is a number, a list or something else."""
    ODD_TURNS = "odd_turns"
    """A conversation that nobody answers, or in which others than user and assistant speak."""
    NO_QUESTION = "no_question"
    """The question is blank."""
    NO_ANSWER = "no_answer"
    """The answer is blank."""
    TAG_INSIDE = "tag_inside"
    """A thinking tag is left inside a text."""


class RowError(ValueError):
    """A row of a known schema that cannot be read; the message names the field at fault."""

    def __init__(self, problem: RowProblem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem


class QuestionRow(NamedTuple):
    """What a row holds, repaired."""

    question: str
    """Earlier turns included, each behind the name of who speaks."""
    answer: str
    """Of an exam: the right letters."""
    reasoning: str
    """Empty where the row has none."""
    options: Mapping[str, str]
    """Of an exam, by letter."""
    subject: str
    fields: frozenset[str]
    """Names of the fields that were read."""
    no_reasoning: str
    """Where a reasoning was looked for, for a message."""

    @property
    def asked(self) -> str:
        """The question with its options below."""
        return "\n".join(filter(None, (self.question, write_options(self.options))))


class Schema(NamedTuple):
    """Where a row holds its parts."""

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


EXAM = "exam"
SCHEMAS = {
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
    "prompt-response": Schema(("prompt",), "response"),
    "prompt-completion": Schema(("prompt",), "completion"),
    "ask-answer": Schema(("ask",), "answer"),
    "提问-回答": Schema(("提问",), "回答"),
    "问-答": Schema(("问",), "答"),
    **{
        f"{asked}-{answered}": Schema((asked,), answered)
        for asked in QUESTION_NAMES
        for answered in (*ANSWER_NAMES, "response", "output", "回答", "回复", "解答")
    },
}  # fmt: skip
"""The schemas of open datasets; the first whose fields a row has is taken, an exam before all.
LLaMA-Factory's files are `alpaca` or `sharegpt`, those of ms-swift and OpenAI `messages`. Capitals
do not matter."""

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "think", "thought", "cot", "推理")
"""What the reasoning is called where it stands beside an answer or a turn's content."""

_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "患者", "用户"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bot", "model", "bing", "ai", "医生", "助手"), "assistant"
    ),
}
"""What conversations call the three who speak, in lower case."""
_SPEAKERS = {
    "zh": {"user": "用户：", "assistant": "助手："},
    "en": {"user": "User: ", "assistant": "Assistant: "},
}


@cache
def find_schema(fields: frozenset[str]) -> str | None:
    """Name the schema that these fields are known by, as they are spelt or in other capitals.

    >>> find_schema(frozenset(["instruction", "input", "output"])), find_schema(frozenset(["主诉"]))
    ('alpaca', None)
    """
    if is_exam(fields):
        return EXAM
    found = next((name for name, schema in SCHEMAS.items() if schema.needed <= fields), None)
    if found is not None:
        return found
    lowered = {field.strip().lower() for field in fields}
    return next(
        (
            name
            for name, schema in SCHEMAS.items()
            if {field.lower() for field in schema.needed} <= lowered
        ),
        None,
    )


def read_question_row(
    fields: Mapping[str, Any], schema: str, repairs: Counter[str], path: Path | None = None
) -> QuestionRow | None:
    """Read a row of a schema; None where it has not the schema's fields. Counts what it repaired.

    Raises RowError. `path` is the file, of which MedMCQA's rows ask from where their key counts.
    """
    if schema == EXAM:
        try:
            return _read_exam(fields, repairs, path)
        except ValueError as error:  # a question without options may stand among an exam's
            left = {key: value for key, value in fields.items() if not is_missing(value)}
            plain = find_schema(frozenset(left))
            if plain is None or plain == EXAM:
                raise RowError(RowProblem.NO_ANSWER, str(error)) from error
            fields, schema = left, plain
    parts = _find_parts(fields, schema)
    if parts is None:
        return None
    question = _clean(join_texts(parts.question), repairs)
    answer = _clean(join_texts([parts.answer]), repairs)
    reasoning = _clean(join_texts([parts.reasoning]), repairs)
    reasoning, answer = _take_out_tags(reasoning, answer, repairs)
    if not question:
        raise RowError(RowProblem.NO_QUESTION, f"{parts.question[-1][0]} is empty")
    if tag := thinking.find_tag(reasoning) or thinking.find_tag(answer):
        raise RowError(RowProblem.TAG_INSIDE, f"{tag} in the middle of {parts.answer[0]}")
    name, place = parts.reasoning[0], parts.answer[0]
    looked = f"{name} is empty" if name else f"no field {'/'.join(REASONING_FIELDS[:3])}"
    if not answer and (reasoning or not thinking.is_unfinished(str(parts.answer[1]))):
        raise RowError(RowProblem.NO_ANSWER, f"{place} is empty")
    return QuestionRow(
        question,
        answer,
        reasoning,
        {},
        "",
        parts.fields,
        f"{looked}, and no thinking tag in {place}",
    )


def _read_exam(fields: Mapping[str, Any], repairs: Counter[str], path: Path | None) -> QuestionRow:
    from_zero = _counts_from_zero(path) if "cop" in fields and path is not None else False
    if from_zero is None:
        problem = (
            "cop counts from 0 or from 1, and no row of the file tells which; put the letter into "
            "a column answer in its place"
        )
        raise RowError(RowProblem.NO_ANSWER, problem)
    row = read_exam_row(fields, "", from_zero)
    name, reasoning = _find_reasoning(fields)
    looked = f"{name} is empty" if name else f"no field {'/'.join(REASONING_FIELDS[:3])}"
    return QuestionRow(
        _clean(row.question, repairs),
        row.answer,
        thinking.strip_tags(_clean(join_texts([(name, reasoning)]), repairs)),
        row.options,
        row.subject,
        frozenset({name, *filter(is_exam_field, fields)}),
        looked,
    )


@cache
def _counts_from_zero(path: Path) -> bool | None:
    """Tell whether MedMCQA's `cop` counts from 0 in a file: it does where a 0 stands in it, and not
    where the number of the options does; None where no row tells."""
    counts_from_one = False
    for row in read_rows(path):
        if isinstance(row.content, dict):
            fields = cast("dict[str, Any]", row.content)
            key = str(fields.get("cop")).removesuffix(".0")
            if key == "0":
                return True
            counts_from_one = counts_from_one or key == str(count_options(fields))
    return None if not counts_from_one else False


def find_question(fields: Mapping[str, Any]) -> str:
    """Find the question of a row of any schema, whatever its answer is; "" where there is none."""
    schema = find_schema(frozenset(map(str, fields)))
    try:
        if schema == EXAM:
            names = (name for name in fields if name.strip().lower() in QUESTION_NAMES)
            return join_texts([(name, fields[name]) for name in names])
        parts = _find_parts(fields, schema) if schema else None
        return join_texts(parts.question) if parts else ""
    except RowError:
        return ""


_WHITE = re.compile(r"\s+")


def name_fields(row: Any) -> str:
    """Name the fields of a row on one line, for a message."""
    if not isinstance(row, dict):
        return "none"
    names = [_WHITE.sub(" ", str(name))[:40] for name in cast("dict[str, Any]", row)]
    return ", ".join(names[:20]) or "none"


# --- Parts --------------------------------------------------------------------------------------

_Part = tuple[str, Any]
"""Name of a field and what stands in it."""


class _Parts(NamedTuple):
    question: tuple[_Part, ...]
    answer: _Part
    reasoning: _Part
    fields: frozenset[str]


def _find_parts(fields: Mapping[str, Any], name: str) -> _Parts | None:
    schema = SCHEMAS[name]
    if not schema.needed <= fields.keys():
        fields = {str(field).strip().lower(): value for field, value in fields.items()}
        question = tuple(field.lower() for field in schema.question)
        rest = (schema.answer, schema.reasoning, schema.turns)
        schema = Schema(question, *(field.lower() for field in rest))
        if not schema.needed <= fields.keys():
            return None
    read = frozenset({*schema.question, *schema.needed, *REASONING_FIELDS, "history"})
    if schema.turns:
        question, answer, reasoning = _read_turns(fields[schema.turns], schema.turns)
        return _Parts(question, answer, reasoning, read)
    asked = tuple((field, fields.get(field)) for field in schema.question)
    if not is_missing(history := fields.get("history")):
        asked = _read_history(history, join_texts(asked))
    return _Parts(
        asked,
        (schema.answer, fields[schema.answer]),
        (schema.reasoning, fields[schema.reasoning])
        if schema.reasoning
        else _find_reasoning(fields),
        read,
    )


def _find_reasoning(fields: Mapping[str, Any]) -> _Part:
    for name in REASONING_FIELDS:
        value: Any = fields.get(name)
        if isinstance(value, str) and not is_missing(value):
            return name, value
    return "", None


def _read_turns(turns: Any, name: str) -> tuple[tuple[_Part, ...], _Part, _Part]:
    """Read a conversation up to its last answer, whatever it calls its turns; a table holds it as
    JSON text."""
    listed = load_list(turns) if isinstance(turns, str) else turns
    if not isinstance(listed, list) or not all(
        isinstance(turn, dict) for turn in cast("list[Any]", listed)
    ):
        raise RowError(RowProblem.NOT_TEXT, f"field {name} is no list of turns")
    spoken: list[tuple[str, dict[str, Any]]] = []
    for turn in cast("list[dict[str, Any]]", listed):
        lowered = {str(key).strip().lower(): value for key, value in turn.items()}
        role = str(lowered.get("role", lowered.get("from", ""))).strip().lower()
        if _ROLES.get(role) != "system":
            spoken.append((_ROLES.get(role, role), lowered))
    roles = [role for role, _ in spoken]
    while roles and roles[-1] == "user":  # nobody answers it
        roles.pop()
    *before, last = roles or [""]
    if last != "assistant" or "user" not in before or not {*before} <= {"user", "assistant"}:
        found = ", ".join(role[:20] or "without a role" for role, _ in spoken[:6]) or "none"
        problem = f"field {name} holds the turns {found}; user and assistant wanted"
        raise RowError(RowProblem.ODD_TURNS, problem)
    said = spoken[len(before)][1]
    content, thought = _read_content(said)
    reasoning = _find_reasoning(said)
    asked = [(role, _read_content(turn)[0]) for role, turn in spoken[: len(before)]]
    return (
        _write_turns(asked, f"content of the user's turn in {name}"),
        (f"content of the assistant's turn in {name}", content),
        reasoning if reasoning[0] else ("", thought),
    )


def _read_history(history: Any, asked: str) -> tuple[_Part, ...]:
    """Put LLaMA-Factory's `history`, pairs of question and answer, before what is asked."""
    pairs = load_list(history) if isinstance(history, str) else history
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(cast("list[Any]", pair)) == 2
        for pair in cast("list[Any]", pairs)
    ):
        raise RowError(RowProblem.NOT_TEXT, "field history is no list of pairs")
    turns = [
        turn
        for question, answer in cast("list[list[Any]]", pairs)
        for turn in (("user", question), ("assistant", answer))
    ]
    return _write_turns([*turns, ("user", asked)], "field history")


def _write_turns(turns: Sequence[tuple[str, Any]], place: str) -> tuple[_Part, ...]:
    """Write turns as one question; more than one stand behind the names of who speaks, without the
    thinking of earlier answers."""
    if len(turns) == 1:
        return ((place, turns[0][1]),)
    texts = [(role, join_texts([(place, text)]).strip()) for role, text in turns]
    speakers = _SPEAKERS["zh" if any(is_chinese(text) for _, text in texts) else "en"]
    said = [
        (role, thinking.read(text).answer if role == "assistant" else text) for role, text in texts
    ]
    return tuple((place, speakers[role] + text) for role, text in said if text)


def load_list(text: str) -> Any:
    """Read a list or object that a table holds as JSON, or as Python writes it."""
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
    parts = cast("list[Any]", content)
    texts: list[str] = []
    thoughts: list[str] = []
    for part in parts:
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
            return parts, ""
    return "\n".join(texts), "\n".join(thoughts)


# --- Texts --------------------------------------------------------------------------------------


def join_texts(parts: Sequence[_Part]) -> str:
    """Join the texts of fields by line breaks; raises RowError that names one that is no text."""
    texts: list[str] = []
    for name, value in parts:
        if is_missing(value):
            continue
        listed = cast("list[Any]", value) if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in listed):
            raise RowError(RowProblem.NOT_TEXT, f"{name} is {kind_of(value)}")
        texts.extend(listed)
    return "\n".join(text for text in texts if text.strip())


def kind_of(value: Any) -> str:
    """Name the kind of a JSON value, for a message."""
    if isinstance(value, bool):
        return f"{value}".lower()
    if isinstance(value, int | float):
        return f"a number ({value!s:.20})"
    return {"list": "a list", "dict": "an object", "NoneType": "null", "str": "a text"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )


def _take_out_tags(reasoning: str, answer: str, repairs: Counter[str]) -> tuple[str, str]:
    """Part a reasoning from its answer where the tags of any model family hold them together."""
    thought = thinking.read(answer)
    if thought.reasoning is not None or thinking.find_tag(answer[:40]):
        repairs["tags_taken_out"] += 1
        repairs["missing_opening_tag"] += not thinking.find_tag(answer[:40])
        reasoning, answer = reasoning or thought.reasoning or "", thought.answer
    bare = thinking.strip_tags(reasoning)
    repairs["tags_taken_out"] += bare != reasoning
    return bare, answer


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
