"""What the rehearsal teacher does wrong on request: the faults that real endpoints were seen with.

In: a rate or a script. Out: the fault of each request, drawn so that it depends on the request and
not on the order of arrival.
Not done here: acting it out (`demo.teacher`).
"""

import random
import zlib
from collections import Counter, deque
from collections.abc import Iterable
from enum import StrEnum
from threading import Lock


class Fault(StrEnum):
    """One way to go wrong."""

    RATE_LIMIT = "rate_limit"
    """429 with Retry-After."""
    SERVER_ERROR = "server_error"
    """500."""
    OVERLOADED = "overloaded"
    """503."""
    DROPPED = "dropped"
    """The connection breaks before any answer, as under a gateway that gives up; nothing is
    billed."""
    EMPTY_BODY = "empty_body"
    """200 and nothing in it; the prompt is billed."""
    BLANK = "blank"
    """Blanks for an answer and finish_reason `stop`, as JSON mode was seen to do; billed."""
    CUT = "cut"
    """The connection breaks in the middle of the text; what was sent is billed."""
    ERROR_IN_STREAM = "error_in_stream"
    """200, some text, then an error event; what was sent is billed."""
    NO_RESOURCE = "no_resource"
    """The answer ends half-way with finish_reason `insufficient_system_resource` and is billed."""
    LENGTH = "length"
    """The answer ends half-way with finish_reason `length` and is billed."""
    NO_ANSWER = "no_answer"
    """The reasoning comes whole, then finish_reason `stop` and no diagnosis; billed."""
    SILENCE = "silence"
    """Some text, then nothing more until the client goes; only by script."""
    NOT_STARTED = "not_started"
    """Keep-alive comments, never any text; only by script."""
    BAD_REQUEST = "bad_request"
    """400; only by script."""
    BAD_PARAMETER = "bad_parameter"
    """422; only by script."""
    BAD_KEY = "bad_key"
    """401; only by script."""
    NO_BALANCE = "no_balance"
    """402; only by script."""


BY_RATE = (
    Fault.RATE_LIMIT,
    Fault.SERVER_ERROR,
    Fault.OVERLOADED,
    Fault.DROPPED,
    Fault.EMPTY_BODY,
    Fault.BLANK,
    Fault.CUT,
    Fault.ERROR_IN_STREAM,
    Fault.NO_RESOURCE,
    Fault.LENGTH,
    Fault.NO_ANSWER,
)
"""Those that another try may cure and that take no time."""


class Prefix(StrEnum):
    """What a teacher does when it is asked to go on from a text."""

    GOES_ON = "goes_on"
    REFUSES = "refuses"
    """400."""
    IGNORES = "ignores"
    """Begins anew, as a server does that takes the text for a turn of the conversation."""


class FaultPlan:
    """Says what goes wrong with each request: first what a script says, one entry a request, then
    by rate."""

    def __init__(self, rate: float, seed: int, script: Iterable[Fault | None] = ()) -> None:
        self._rate, self._seed = rate, seed
        self._script = deque(script)
        self._n_asked: Counter[int] = Counter()
        self._lock = Lock()

    def draw(self, content: str) -> tuple[Fault | None, int]:
        """Return the fault of a request, and how many equal ones came before it."""
        with self._lock:
            key = zlib.crc32(content.encode())
            n_before = self._n_asked[key]
            self._n_asked[key] += 1
            if self._script:
                return self._script.popleft(), n_before
        rng = random.Random(f"{self._seed} {n_before} {content}")
        return (rng.choice(BY_RATE) if rng.random() < self._rate else None), n_before
