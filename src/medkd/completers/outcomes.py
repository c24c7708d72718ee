"""What can become of one attempt at an endpoint, by finish word and HTTP status.

Not done here: reading an answer (`completers.stream`), acting on it (`completers.client`).
"""

from dataclasses import dataclass
from enum import StrEnum

from medkd.core.records import Usage


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
