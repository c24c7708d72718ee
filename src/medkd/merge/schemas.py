"""Recognises the schema of a row from its fields, never from the file's name, and takes question,
reasoning and answer out of it.

In: one decoded row. Out: its `Parts`, uncleaned, or a reason why there are none. A new schema is
one small function below and one line in `FOREIGN`. Not done here: cleaning and our own records
(`merge.rows`), reading files (`merge.files`).
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple, cast


class Drop(StrEnum):
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
    CONTAMINATED = "contaminated"
    """Its question holds one of the test split or of a benchmark."""
    OVER_CAP = "over_cap"
    """Its source was to give fewer rows (`--take`)."""


class Parts(NamedTuple):
    """What a foreign row holds, uncleaned; reasoning may still stand inside the answer."""

    question: Any
    reasoning: Any
    answer: Any


Row = Mapping[str, Any]


def _read_medical_o1(row: Row) -> Parts:
    return Parts(row["Question"], row["Complex_CoT"], row["Response"])


def _read_medical_r1(row: Row) -> Parts:
    return Parts(row["question"], row["reasoning (reasoning_content)"], row["response (content)"])


def _read_psychology(row: Row) -> Parts:
    return Parts(row["input"], row["reasoning_content"], row["content"])


def _read_question_think_answer(row: Row) -> Parts:
    return Parts(row["question"], row["think"], row["answer"])


def _read_alpaca(row: Row) -> Parts | Drop:
    """Read alpaca rows as LLaMA-Factory does: tags inside the output, the instruction joined to its
    input by a line break."""
    instruction, question = row["instruction"], row.get("input") or ""
    if row.get("history"):
        return Drop.SEVERAL_TURNS
    if not isinstance(instruction, str) or not isinstance(question, str):
        return Parts(None, "", row["output"])
    return Parts(
        "\n".join(part for part in (instruction, question) if part.strip()), "", row["output"]
    )


def _read_query_response(row: Row) -> Parts | Drop:
    """Read ms-swift's older form."""
    return Drop.SEVERAL_TURNS if row.get("history") else Parts(row["query"], "", row["response"])


def _read_messages(row: Row) -> Parts | Drop:
    return _read_turns(row["messages"])


def _read_sharegpt(row: Row) -> Parts | Drop:
    return _read_turns(row["conversations"])


_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "bing": "assistant",
}
"""What ShareGPT and its likes call the two who speak."""


def _read_turns(turns: Any) -> Parts | Drop:
    """Read a conversation of one question and one answer, whatever it calls its turns; the
    reasoning may stand beside the content."""
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) for turn in cast(list[Any], turns)
    ):
        return Drop.NOT_TEXT
    spoken = [(_find_role(turn), turn) for turn in cast(list[dict[str, Any]], turns)]
    spoken = [(role, turn) for role, turn in spoken if role != "system"]
    if [role for role, _ in spoken] != ["user", "assistant"]:
        return Drop.SEVERAL_TURNS if len(spoken) > 2 else Drop.NOT_TEXT
    (_, asked), (_, said) = spoken
    return Parts(
        _read_content(asked),
        said.get("reasoning_content") or said.get("reasoning") or "",
        _read_content(said),
    )


def _find_role(turn: Row) -> str:
    role = str(turn.get("role", turn.get("from")))
    return _ROLES.get(role, role)


def _read_content(turn: Row) -> Any:
    """Give the text of a turn; OpenAI's form may hold it in parts."""
    content = turn.get("content", turn.get("value"))
    if not isinstance(content, list):
        return content
    texts = [
        cast(dict[str, Any], part).get("text") if isinstance(part, dict) else part
        for part in cast(list[Any], content)
    ]
    return (
        "\n".join(cast(Sequence[str], texts))
        if all(isinstance(text, str) for text in texts)
        else None
    )


FOREIGN: dict[str, tuple[frozenset[str], Callable[[Row], Parts | Drop]]] = {
    "medical-o1": (frozenset({"Question", "Complex_CoT", "Response"}), _read_medical_o1),
    "medical-r1": (
        frozenset({"question", "reasoning (reasoning_content)", "response (content)"}),
        _read_medical_r1,
    ),
    "psychology": (frozenset({"input", "reasoning_content", "content"}), _read_psychology),
    "question-think-answer": (
        frozenset({"question", "think", "answer"}),
        _read_question_think_answer,
    ),
    "messages": (frozenset({"messages"}), _read_messages),
    "sharegpt": (frozenset({"conversations"}), _read_sharegpt),
    "alpaca": (frozenset({"instruction", "output"}), _read_alpaca),
    "query-response": (frozenset({"query", "response"}), _read_query_response),
}
"""Schema to the fields it is known by and the function that reads it; the first that fits is taken.
LLaMA-Factory's files are `alpaca` or `sharegpt`, those of ms-swift and OpenAI `messages`."""

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


def describe_schemas(names: Sequence[str] = ()) -> str:
    """List what is expected, for an error message; all there are, or those named."""
    known = {**OWN, **{name: needed for name, (needed, _) in FOREIGN.items()}}
    return "; ".join(
        f"{name}: {', '.join(sorted(needed))}"
        for name, needed in known.items()
        if not names or name in names
    )
