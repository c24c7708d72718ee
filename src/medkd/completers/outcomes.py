"""What can become of one attempt at an endpoint, by finish word and HTTP status, and what of a
broken answer a next attempt can resume.

In: words, statuses, the texts of attempts. Out: outcomes; a partial answer, and what came back
appended to it. Not done here: reading an answer (`completers.stream`), retrying
(`completers.client`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from medkd.core import thinking
from medkd.core.records import Usage

MIN_CHARACTERS = 24
"""A shorter text is not worth resuming."""
OPENING = 12
"""Characters by which an answer that begins anew is recognised."""
SHINGLE = 8
MAX_REPEATED = 0.3
"""Share of the partial answer that may occur again in its continuation; more, and it was said
anew."""


class AttemptOutcome(StrEnum):
    """What became of an attempt."""

    COMPLETE = "complete"
    """A whole answer, as far as the endpoint and the caller's own check say."""
    UNREADABLE = "unreadable"
    """The endpoint came to its end, but a part that was asked for is missing."""
    LENGTH = "length"
    """Cut off by the token limit, or by ours if the endpoint ignores it."""
    FILTERED = "filtered"
    """Withheld by the provider's content filter."""
    EMPTY = "empty"
    """Status 200 and no text at all."""
    CUT = "cut"
    """The answer ended without a known good end."""
    SILENT = "silent"
    """Text began, then no more came."""
    NOT_STARTED = "not_started"
    """No text began within the limit."""
    STREAM_ERROR = "stream_error"
    """The server reported an error inside a 200 stream, or sent what cannot be read."""
    NETWORK = "network"
    """The connection broke after sending and before any response."""
    UNREACHABLE = "unreachable"
    """No connection; nothing was sent."""
    RATE_LIMITED = "rate_limited"
    """429."""
    OVERLOADED = "overloaded"
    """500, 503 and their kin."""
    REFUSED = "refused"
    """The request itself was refused: 400, 422 and their kin."""
    TOO_LONG = "too_long"
    """The question does not fit the model's context; nothing was sent."""
    KEY_REFUSED = "key_refused"
    """401."""
    NO_BALANCE = "no_balance"
    """402."""
    NOT_AN_ENDPOINT = "not_an_endpoint"
    """What answers there speaks another language, or knows no such path or model."""
    FAILED_RESUME = "astray"
    """Asked to resume a text, it neither did nor began a whole answer anew."""
    INTERRUPTED = "interrupted"
    """Cancelled by us."""
    UNKNOWN = "unknown"
    """Sent, and this process died before the end was known."""

    @property
    def is_fatal(self) -> bool:
        """Whether no other request would fare better."""
        return self in _FATAL

    @property
    def is_retryable(self) -> bool:
        return self in _PAID_FAILURES or self in _OVERLOAD

    @property
    def is_overload(self) -> bool:
        """Whether an immediate retry would make things worse."""
        return self in _OVERLOAD

    @property
    def is_paid_failure(self) -> bool:
        """Whether it brought nothing usable and may still stand on the provider's bill."""
        return self in _PAID_FAILURES

    @property
    def is_throttled(self) -> bool:
        """Whether the server takes fewer requests at once than it was sent."""
        return self in {AttemptOutcome.RATE_LIMITED, AttemptOutcome.OVERLOADED}

    @property
    def is_resumable(self) -> bool:
        """Whether its text is the beginning of an answer that merely lacks its end."""
        return self in _RESUMABLE

    @property
    def is_free(self) -> bool:
        """Whether it is certain that nothing is billed."""
        return self in _FREE


_FATAL = {AttemptOutcome.KEY_REFUSED, AttemptOutcome.NO_BALANCE, AttemptOutcome.NOT_AN_ENDPOINT}
_BROKEN = {
    AttemptOutcome.UNREADABLE,
    AttemptOutcome.LENGTH,
    AttemptOutcome.CUT,
    AttemptOutcome.SILENT,
    AttemptOutcome.STREAM_ERROR,
}
_RESUMABLE = _BROKEN | {AttemptOutcome.INTERRUPTED, AttemptOutcome.UNKNOWN}
_PAID_FAILURES = _BROKEN | {
    AttemptOutcome.EMPTY,
    AttemptOutcome.NOT_STARTED,
    AttemptOutcome.FAILED_RESUME,
}
_OVERLOAD = {
    AttemptOutcome.RATE_LIMITED,
    AttemptOutcome.OVERLOADED,
    AttemptOutcome.NETWORK,
    AttemptOutcome.UNREACHABLE,
    AttemptOutcome.EMPTY,
    AttemptOutcome.NOT_STARTED,
}
_FREE = _FATAL | {
    AttemptOutcome.UNREACHABLE,
    AttemptOutcome.RATE_LIMITED,
    AttemptOutcome.OVERLOADED,
    AttemptOutcome.REFUSED,
    AttemptOutcome.TOO_LONG,
}
FINISH_WORDS = {
    AttemptOutcome.COMPLETE: "stop end_turn eos eos_token stop_sequence complete",
    AttemptOutcome.LENGTH: "length max_tokens max_output_tokens max_length model_length"
    " model_context_window_exceeded",
    AttemptOutcome.FILTERED: "content_filter content_filtered sensitive safety refusal recitation"
    " blocklist prohibited_content spii error_toxic",
    AttemptOutcome.STREAM_ERROR: "insufficient_system_resource network_error error",
}
"""The words with which servers end an answer. Any other word is a cut: nobody knows that the end
is a good one."""
_FINISH = {word: outcome for outcome, words in FINISH_WORDS.items() for word in words.split()}
_STATUS = {
    401: AttemptOutcome.KEY_REFUSED,
    402: AttemptOutcome.NO_BALANCE,
    404: AttemptOutcome.NOT_AN_ENDPOINT,
    405: AttemptOutcome.NOT_AN_ENDPOINT,
    429: AttemptOutcome.RATE_LIMITED,
    501: AttemptOutcome.NOT_AN_ENDPOINT,
}


def classify_finish(word: str) -> AttemptOutcome:
    """Return what a finish word means, however it is capitalised; a missing one is a cut.

    >>> str(classify_finish("STOP")), str(classify_finish("abort")), str(classify_finish(""))
    ('complete', 'cut', 'cut')
    """
    return _FINISH.get(word.strip().lower(), AttemptOutcome.CUT)


def classify_status(code: int) -> AttemptOutcome | None:
    """Return what an HTTP status means; None for one that is no refusal."""
    if code in _STATUS:
        return _STATUS[code]
    if code >= 500 or code in {408, 409, 425}:
        return AttemptOutcome.OVERLOADED
    return AttemptOutcome.REFUSED if code >= 400 else None


@dataclass(frozen=True)
class AttemptResult:
    """What one attempt brought."""

    outcome: AttemptOutcome
    reasoning: str = ""
    text: str = ""
    finish_reason: str = ""
    """The word the server ended with; empty if it said none."""
    usage: Usage | None = None
    """None if the endpoint reported none that can be believed."""
    model: str = ""
    """The model that the reply says it comes from; empty where it does not say."""
    status: int | None = None
    error: str = ""
    """One line for the reader; never holds the key."""
    retry_after_s: float = 0.0
    seconds: float = 0.0

    @property
    def is_unusable(self) -> bool:
        """Whether the server itself ended it without a usable answer: paid in full, and likely to
        end so again."""
        has_odd_end = self.outcome is AttemptOutcome.CUT and bool(self.finish_reason)
        return has_odd_end or self.outcome in {AttemptOutcome.LENGTH, AttemptOutcome.UNREADABLE}


def separate(reasoning: str, text: str) -> tuple[str, str]:
    """Take the thinking tags out of a reasoning field; what stands behind its closing tag belongs
    to the text.

    >>> separate("<think>fever", "flu"), separate("fever</think>flu", "")
    (('fever', 'flu'), ('fever', 'flu'))
    """
    if not thinking.find_tag(reasoning):
        return reasoning, text
    thought = thinking.read(reasoning)
    if thought.reasoning and thought.answer:
        return thought.reasoning, thought.answer + text
    return thinking.strip_tags(reasoning), text


# --- Resuming


class MissingPart(NamedTuple):
    """What a caller misses in an answer."""

    words: str
    is_at_end: bool
    """Whether resuming the answer could still bring it."""


FindMissing = Callable[[str, str], MissingPart | None]
"""Looks at the reasoning and the text of an answer."""


def from_fault_finder(find_fault: Callable[[str, str], str]) -> FindMissing:
    """Make of what names a fault of a whole answer what says that resuming cannot mend it."""

    def find_missing(reasoning: str, text: str) -> MissingPart | None:
        fault = find_fault(reasoning, text)
        return MissingPart(fault, is_at_end=False) if fault else None

    return find_missing


class AnswerPart(StrEnum):
    """Where an answer broke off; a server may be able to resume one and not the other."""

    REASONING = "reasoning"
    TEXT = "text"


@dataclass(frozen=True)
class PartialAnswer:
    """What an item's attempts have brought of its answer."""

    attempt: int
    """The attempt that holds it."""
    reasoning: str
    text: str
    is_reasoning_whole: bool = False
    """Whether the reasoning came to its own end and only the text is missing."""

    @property
    def part(self) -> AnswerPart:
        return AnswerPart.TEXT if self.text else AnswerPart.REASONING


class HasAnswer(Protocol):
    """What an attempt came to, as far as resuming is concerned."""

    @property
    def outcome(self) -> AttemptOutcome | None: ...
    @property
    def reasoning(self) -> str: ...
    @property
    def text(self) -> str: ...


class HasAnswerAndId(HasAnswer, Protocol):
    @property
    def id(self) -> int: ...


def find_partial(
    attempts: Sequence[HasAnswerAndId], find_missing: FindMissing
) -> PartialAnswer | None:
    """Return the partial answer of the last attempt which brought enough."""
    for attempt in reversed(attempts):
        if len(attempt.reasoning) + len(attempt.text) >= MIN_CHARACTERS:
            return make_partial(attempt.id, attempt, find_missing)
    return None


def make_partial(attempt: int, held: HasAnswer, find_missing: FindMissing) -> PartialAnswer | None:
    """Return the partial answer of an attempt; None if it is too short, or if no end could mend
    it."""
    if held.outcome is None or not held.outcome.is_resumable:
        return None
    reasoning, text = separate(held.reasoning, held.text)
    is_unreadable = held.outcome is AttemptOutcome.UNREADABLE
    if is_unreadable and text.strip():
        missing = find_missing(reasoning, text)
        if not (missing and missing.is_at_end):
            return None
    text = _trim_end(text)
    if not text:
        reasoning = _trim_end(reasoning)
    if len(reasoning) + len(text) < MIN_CHARACTERS:
        return None
    return PartialAnswer(attempt, reasoning, text, is_reasoning_whole=is_unreadable)


def _trim_end(text: str) -> str:
    """Cut off half a character, and blanks, which models continue badly."""
    return text.rstrip("\ufffd").rstrip()


def append_continuation(before: PartialAnswer, reasoning: str, text: str) -> tuple[str, str] | None:
    """Append what came back to the partial answer; None if the server did not resume it.

    >>> append_continuation(PartialAnswer(1, "", "<think>发热伴颈"), "", "强直</think>脑膜炎")
    ('', '<think>发热伴颈强直</think>脑膜炎')
    >>> append_continuation(PartialAnswer(1, "", "<think>发热"), "", "<think>患者</think>脑膜炎")
    """
    if before.part is AnswerPart.TEXT:
        is_resumed = not reasoning and _continues(before.text, text)
        return (before.reasoning, before.text + text) if is_resumed else None
    if text and not reasoning:
        # Right after a whole reasoning; otherwise the server took half a one for a whole.
        return (before.reasoning, text) if before.is_reasoning_whole else None
    is_resumed = _continues(before.reasoning, reasoning)
    return (before.reasoning + reasoning, text) if is_resumed else None


def could_be_whole(before: PartialAnswer, text: str) -> bool:
    """Whether a text that did not resume could be a whole answer: one that was tagged begins with
    its tag again."""
    was_tagged = not before.reasoning and before.text.lstrip().startswith(thinking.OPEN)
    return not was_tagged or text.lstrip().startswith(thinking.OPEN)


def _continues(before: str, after: str) -> bool:
    start, new = before.lstrip(), after.lstrip()
    if new and new.startswith(start[:OPENING]):
        return False
    if thinking.OPEN in before and thinking.OPEN in new:
        return False
    said = _shingles(start)
    return not said or len(said & _shingles(new)) <= MAX_REPEATED * len(said)


def _shingles(text: str) -> set[str]:
    return {text[n : n + SHINGLE] for n in range(len(text) - SHINGLE + 1)}
