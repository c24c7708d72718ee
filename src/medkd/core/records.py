"""The records that pass between stages, and to a model and back: frozen, one JSON object a line.

Ids are kept from end to end: `RawCase.id` is `{source}:{native id}` and every later record leads
back to it. What chance decides about a record is drawn by hashing: the same on every machine.
Not done here: reading and writing files (`core.jsonl`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from medkd.core.errors import InputError

Split = Literal["train", "val", "test"]
Style = Literal["bare", "instructed"]
Language = Literal["zh", "en"]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]
NAMES_NOT_SOUGHT = "English names not sought"
"""The end of the mark of a row in whose English text nothing looked for names."""


class Record(BaseModel):
    """One frozen line of a file between two stages; an unknown field is a wrong schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RawCase(Record):
    """A case as its page or file says it, white space apart. It may name the patient: no network
    model may see it."""

    id: NonEmpty
    source: str
    url: str = ""
    retrieved_at: str = ""
    """ISO 8601, UTC."""
    licence: str = ""
    title: str = ""
    department: tuple[str, ...] = ()
    sections: dict[str, str]
    diagnosis: tuple[str, ...] = ()
    """The known diagnoses in the order they are listed; the first is the principal one."""
    id_column: str = ""
    """Heading of the column that a table's id was taken from; empty elsewhere."""


class Case(RawCase):
    """A de-identified case: the only form in which patient text may go further."""

    id_column: str = Field(default="", exclude=True)
    """Not written: de-identification has decided what the id may tell."""
    deidentified_by: NonEmpty
    """Name and version of the rules that made it."""


class Question(Record):
    """One case asked: `input` holds what is asked, without its own answer, `reference` the known
    answer."""

    id: NonEmpty
    case_id: str
    source: str
    url: str = ""
    licence: str = ""
    department: tuple[str, ...] = ()
    system: str
    instruction: str
    input: str
    reference: str
    """The known answer; diagnoses joined by a full-width semicolon, the principal one first."""
    task: str = "diagnosis"
    """Name of the task (`core.task`)."""
    language: Language = "zh"
    """Language of this row's question."""
    known: tuple[str, ...] = ()
    """Diagnoses of `reference` that the record itself tells as known; never the principal one."""
    split: Split
    deidentified_by: str = ""
    """Empty where a file from elsewhere does not say so; such rows reach no network model unasked
    (`check_deidentified`)."""


class Removal(Record):
    """A span that `prepare` took out of a section of a case: a line of `removals.jsonl`.

    A person decides with a review of its id in `reviews.jsonl` beside it (`core.reviews`), which
    the next run of `prepare` applies: rejected, the span stays in the question; accepted, a
    proposed one goes; edited, the review's `answer` stands in its place. A review that accepts an
    id without a line here adds a removal: `name_removal` writes such an id.
    """

    id: NonEmpty
    """`{case_id}#{section}#{start}-{end}#{digest of the section's text}`."""
    case_id: str
    section: str
    start: int
    """Place of the span in the section's text as the case has it, in characters."""
    end: int
    rule: str
    """Why: `statement`, `admission`, `clause`, `item`, `phrase`, `basis`, `name` or `section` of
    the rules, `person`, or `endpoint` where a model named the answer from the section alone."""
    before: str
    """The text of the span."""
    after: str
    """What stands there instead: mostly nothing."""
    context: str
    """The span between ⟦ and ⟧, with the text around it."""
    state: Literal["removed", "restored", "proposed"] = "removed"
    """Restored by a person, or proposed and not yet decided."""


def name_removal(case_id: str, section: str, text: str, start: int, end: int) -> str:
    """Write the id of a removal of a span from a section's text.

    >>> name_removal("iiyi:1", "主诉", "脑积水3天", 0, 3)
    'iiyi:1#主诉#0-3#06e0dd6d'
    """
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{case_id}#{section}#{start}-{end}#{digest}"


class Usage(Record):
    """Tokens of one or several teacher attempts, as the endpoint counted them."""

    prompt: int = 0
    cache_hit: int = 0
    """The part of `prompt` that the endpoint had cached."""
    completion: int = 0
    reasoning: int = 0
    """The part of `completion` spent on reasoning."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt=self.prompt + other.prompt,
            cache_hit=self.cache_hit + other.cache_hit,
            completion=self.completion + other.completion,
            reasoning=self.reasoning + other.reasoning,
        )


class Cost(Record):
    """Money, in the currency of the provider's price list; zero where no price is known."""

    amount: float = 0.0
    currency: str = "CNY"


class Rationale(Record):
    """A teacher's reasoning for one question."""

    id: NonEmpty
    question: Question
    sample: int = 0
    fault: str = ""
    """Of a correction: where the student's reasoning went wrong, as the teacher says."""
    reasoning: str
    answer: str
    finish_reason: str
    complete: bool
    """Whether the teacher came to its own end with both parts there."""
    model: str
    mode: str
    attempts: int
    usage: Usage
    cost: Cost


class Verdict(Record):
    """The result of one check of one text."""

    check: str
    passed: bool
    reason: str = ""
    """Empty when passed, else a member of the check's StrEnum."""
    detail: str = ""


class Checked(Record):
    """A rationale with all its verdicts: a line of `verified.jsonl` or of `rejected.jsonl`; a line
    can be moved by hand."""

    rationale: Rationale
    verdicts: tuple[Verdict, ...]


class Lineage(Record):
    """Where an example comes from: the row, its address and licence, the teacher's call and its
    price."""

    origin: str
    """File or dataset the row came from."""
    case_id: str = ""
    url: str = ""
    licence: str = ""
    teacher: str = ""
    mode: str = ""
    attempts: int = 0
    cost: Cost = Field(default_factory=Cost)
    deidentified_by: str = ""


class Example(Record):
    """A row to learn from or to be measured on, whatever its source."""

    id: NonEmpty
    source: str
    style: Style
    department: tuple[str, ...] = ()
    system: str = ""
    instruction: str = ""
    input: str
    reasoning: str
    answer: str
    reference: str = ""
    """The known answer where the row has one that can be graded."""
    task: str = "diagnosis"
    """Name of the task (`core.task`)."""
    language: Language = "zh"
    """Language of this row's question."""
    known: tuple[str, ...] = ()
    """Diagnoses of `reference` that the record itself tells as known; never the principal one."""
    lineage: Lineage


class Rejected(Record):
    """A worse answer to a question, and why it is worse."""

    reasoning: str
    answer: str
    why: NonEmpty
    """Reason of a check, of a person or of a grader: `wrong_answer`, `ungrounded`, `wrong`."""
    origin: NonEmpty
    """Who wrote it: the name of a teacher's or of the student's model."""


class Preference(Example):
    """A right answer and a worse one to the same question: a line of `preferences.jsonl`. The
    right one stands in the fields of an `Example`."""

    rejected: Rejected


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    """The model ended its own turn."""
    LENGTH = "length"
    """The token limit cut it off."""
    LOOP = "loop"
    """It repeated itself and was stopped."""


class Prediction(Record):
    """A model's answer to one question."""

    id: NonEmpty
    department: tuple[str, ...] = ()
    prompt: str
    """The whole text given to the model, template included."""
    question: str = ""
    """The user's turn alone."""
    reasoning: str
    answer: str
    raw: str
    """Everything the model generated, the thinking prefix of its template put in front."""
    reference: str
    """The known answer."""
    task: str = "diagnosis"
    """Name of the task (`core.task`)."""
    language: Language = "zh"
    """Language of this row's question."""
    known: tuple[str, ...] = ()
    """Diagnoses of `reference` that the record itself tells as known; never the principal one."""
    teacher: str | None = None
    """The teacher's whole output for the same question, the reference of the overlap scores; None
    where there is none."""
    finish_reason: str
    n_tokens: int


def to_alpaca(asked: Question | Example, output: str) -> dict[str, str]:
    """Write a row in the alpaca form; LLaMA-Factory joins instruction and input by a newline."""
    return {
        "system": asked.system,
        "instruction": asked.instruction,
        "input": asked.input,
        "output": output,
    }


def hash_uniform(*parts: object) -> float:
    """Draw a number from 0 to 1 that depends on nothing but its arguments.

    >>> round(hash_uniform(0, "split", "case 1"), 4)
    0.9939
    """
    key = ":".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64


def draw_split(place: float, val_share: float, test_share: float) -> Split:
    """Turn a draw into a split: the first share of all draws is test, the next one val."""
    if place < test_share:
        return "test"
    return "val" if place < test_share + val_share else "train"


def check_deidentified(
    marks: Iterable[str], place: object, reader: str, accept_identified: bool
) -> int:
    """Count the rows that may name patients: without a mark, or in English without a tagger; raise
    InputError where there are some and nobody accepts them.

    `place` is the file they stand in, `reader` what is about to read them: an endpoint, a judge.

    >>> check_deidentified(["rules 3", "rules 3"], "test.jsonl", "the endpoint", False)
    0
    >>> check_deidentified(["rules 3", ""], "test.jsonl", "the endpoint", True)
    1
    >>> check_deidentified(["rules 5; English names not sought"], "q.jsonl", "the teacher", True)
    1
    """
    n_rows = n_unmarked = n_not_sought = 0
    for mark in marks:
        n_rows += 1
        n_unmarked += not mark.strip()
        n_not_sought += mark.endswith(NAMES_NOT_SOUGHT)
    if n_unmarked and not accept_identified:
        raise InputError(
            "{}: {} of {} rows have no deidentified_by, so they may name patients, "
            'and {} may lie outside this machine; run "medkd deidentify" on them '
            "first, or pass --accept-identified where you know that they name nobody",
            place,
            n_unmarked,
            n_rows,
            reader,
        )
    if n_not_sought and not accept_identified:
        raise InputError(
            "{}: in {} of {} rows English names were not looked for, and {} may lie "
            'outside this machine; run "medkd deidentify --tagger MODEL" with a '
            "model that finds English names, or pass --accept-identified where you "
            "know that they name nobody",
            place,
            n_not_sought,
            n_rows,
            reader,
        )
    return n_unmarked + n_not_sought


# --- Asking a model -----------------------------------------------------------------------------


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(Record):
    """Sampling parameters; None leaves one to the model's default."""

    max_tokens: int = 1024
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    thinking: bool | None = None
    """The endpoint's own thinking switched on or off; None says nothing about it."""
    effort: str | None = None


class Request(Record):
    """One request; equal requests are one item and paid once."""

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    sample: int = 0


class Completion(Record):
    """The result of one request, over all its attempts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reasoning: str = ""
    """Sent beside the content by endpoints that do so; empty otherwise."""
    text: str = ""
    finish_reason: str = "stop"
    """The word the endpoint ended with; what went wrong where it said none."""
    complete: bool = True
    """Whether it came to a known good end with all parts there."""
    truncated: bool = False
    """Whether the token limit cut it off."""
    usage: Usage = Usage()
    cost: Cost = Cost()
    attempts: int = 1
    error: str = ""
    """Why there is no complete answer, in one line; empty when there is one."""


class Completer(Protocol):
    """Anything that answers requests, in their order."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]: ...
