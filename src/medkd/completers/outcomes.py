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
    """Cut off by the token limit."""
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
