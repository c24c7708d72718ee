"""What can become of one attempt at an endpoint: classified once, here.

Not done here: finding it out (`completers.endpoint`), acting on it (`completers.dispatch`).
"""

from dataclasses import dataclass
from enum import StrEnum

from medkd.core.records import Usage


class Outcome(StrEnum):
    """What became of an attempt."""

    COMPLETE = "complete"
    """A whole answer, as far as the endpoint and the asker's own check say."""
    UNREADABLE = "unreadable"
    """The endpoint came to its end, but a part that was asked for is missing."""
    LENGTH = "length"
    """Cut off by the token limit, or by ours where the endpoint heeds none."""
    FILTERED = "filtered"
    """Withheld by the provider's content filter."""
    EMPTY = "empty"
    """Status 200 and no text at all."""
    CUT = "cut"
    """The connection ended in the middle of an answer."""
    SILENT = "silent"
    """Nothing more came after it had begun."""
    NOT_STARTED = "not_started"
    """Waited the whole limit and no text began."""
    STREAM_ERROR = "stream_error"
    """The server reported an error inside a 200 stream, or sent what is no event."""
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
    ASTRAY = "astray"
    """Asked to go on from a text, it neither did nor began a whole answer anew."""
    INTERRUPTED = "interrupted"
    """We stopped it ourselves."""
    UNKNOWN = "unknown"
    """Sent, and this process died before the end was known."""

    @property
    def is_fatal(self) -> bool:
        """Whether no other request would fare better."""
        return self in {Outcome.KEY_REFUSED, Outcome.NO_BALANCE, Outcome.NOT_AN_ENDPOINT}

    @property
    def is_worth_another_try(self) -> bool:
        return self in _PAID_FAILURES or self in _OVERLOAD

    @property
    def is_sign_of_overload(self) -> bool:
        """Whether asking again at once would make things worse."""
        return self in _OVERLOAD

    @property
    def is_paid_failure(self) -> bool:
        """Whether it brought nothing usable and may all the same stand on the provider's bill."""
        return self in _PAID_FAILURES

    @property
    def is_sign_of_limits(self) -> bool:
        """Whether the server takes fewer requests at once than it was sent."""
        return self in {Outcome.RATE_LIMITED, Outcome.OVERLOADED}

    @property
    def is_worth_going_on_from(self) -> bool:
        """Whether its text is the beginning of an answer that merely did not come to its end."""
        return self in _BROKEN_OFF

    @property
    def is_free(self) -> bool:
        """Whether it is certain that nothing is billed."""
        return self in _FREE


_PAID_FAILURES = {
    Outcome.UNREADABLE,
    Outcome.LENGTH,
    Outcome.EMPTY,
    Outcome.CUT,
    Outcome.SILENT,
    Outcome.NOT_STARTED,
    Outcome.STREAM_ERROR,
    Outcome.ASTRAY,
}
_BROKEN_OFF = {
    Outcome.UNREADABLE,
    Outcome.LENGTH,
    Outcome.CUT,
    Outcome.SILENT,
    Outcome.STREAM_ERROR,
    Outcome.INTERRUPTED,
    Outcome.UNKNOWN,
}
_OVERLOAD = {
    Outcome.RATE_LIMITED,
    Outcome.OVERLOADED,
    Outcome.NETWORK,
    Outcome.UNREACHABLE,
    Outcome.EMPTY,
    Outcome.NOT_STARTED,
}
_FREE = {
    Outcome.UNREACHABLE,
    Outcome.RATE_LIMITED,
    Outcome.OVERLOADED,
    Outcome.REFUSED,
    Outcome.TOO_LONG,
    Outcome.KEY_REFUSED,
    Outcome.NO_BALANCE,
    Outcome.NOT_AN_ENDPOINT,
}


_FINISH: dict[str, Outcome] = {
    **dict.fromkeys(
        ("stop", "end_turn", "eos", "eos_token", "stop_sequence", "complete"), Outcome.COMPLETE
    ),
    **dict.fromkeys(
        (
            "length",
            "max_tokens",
            "max_output_tokens",
            "max_length",
            "model_length",
            "model_context_window_exceeded",
        ),
        Outcome.LENGTH,
    ),
    **dict.fromkeys(
        (
            "content_filter",
            "content_filtered",
            "sensitive",
            "safety",
            "refusal",
            "recitation",
            "blocklist",
            "prohibited_content",
            "spii",
            "error_toxic",
        ),
        Outcome.FILTERED,
    ),
    **dict.fromkeys(
        ("insufficient_system_resource", "network_error", "error"), Outcome.STREAM_ERROR
    ),
}
"""The words with which servers end an answer. Any other word is a cut: nobody knows that the end is
a good one."""


def classify_finish(word: str) -> Outcome:
    """Return what a finish word means, however it is capitalised; a missing one is a cut.

    >>> classify_finish("STOP"), classify_finish("abort"), classify_finish("")
    (<Outcome.COMPLETE: 'complete'>, <Outcome.CUT: 'cut'>, <Outcome.CUT: 'cut'>)
    """
    return _FINISH.get(word.strip().lower(), Outcome.CUT)


_STATUS = {
    401: Outcome.KEY_REFUSED,
    402: Outcome.NO_BALANCE,
    404: Outcome.NOT_AN_ENDPOINT,
    405: Outcome.NOT_AN_ENDPOINT,
    429: Outcome.RATE_LIMITED,
    501: Outcome.NOT_AN_ENDPOINT,
}


def classify_status(code: int) -> Outcome | None:
    """Return what an HTTP status means; None for one that is no refusal."""
    if code in _STATUS:
        return _STATUS[code]
    if code >= 500 or code in {408, 409, 425}:
        return Outcome.OVERLOADED
    return Outcome.REFUSED if code >= 400 else None


@dataclass(frozen=True)
class Answer:
    """What one attempt brought."""

    outcome: Outcome
    reasoning: str = ""
    text: str = ""
    finish_reason: str = ""
    usage: Usage | None = None
    """None where the endpoint reported none."""
    status: int | None = None
    error: str = ""
    """One line for the reader; never holds the key."""
    retry_after_s: float = 0.0
    seconds: float = 0.0
