"""What can become of one attempt at an endpoint, what it costs, and what a run does about it: how
many at once, how much money, how often to retry, when to stop.

In: words, statuses, how attempts end. Out: outcomes and charges; leave to send, seconds to wait, or
the error that stops the run. Not done here: reading an answer (`completers.stream`), resuming one
(`completers.resume`), sending and waiting (`completers.scheduler`).
"""

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import NamedTuple

from medkd.completers.providers import Price, Target, estimate_tokens, key_addresses
from medkd.core import thinking
from medkd.core.errors import InputError, MedkdError, StoppedError
from medkd.core.records import Request, Usage

RESUME_HINT = "run the same command again, it goes on from here"
GROWTH_PER_ROUND = 0.05
"""Share of the cap by which the limit grows for each full round of answers."""
SMOOTHING = 0.2
FIRST_ROUND_S = 1.0
MAX_RETRY_AFTER_S = 600.0
MOST_PER_TRY = 10
"""Attempts per item for each of its tries, where those that a rate limit turned away are none."""
ROUNDING = 1e-9
"""Money below this is the rounding of sums, not an attempt in flight."""


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
    """402, or any refusal in the words of `_NO_MONEY`."""
    NOT_AN_ENDPOINT = "not_an_endpoint"
    """What answers there speaks another language, or knows no such path or model."""
    FAILED_RESUME = "astray"
    """Asked to resume a text, it neither did nor began a whole answer anew."""
    INTERRUPTED = "interrupted"
    """Cancelled by us."""
    UNKNOWN = "unknown"
    """Sent, and this process died before the end was known."""


FATAL = {AttemptOutcome.KEY_REFUSED, AttemptOutcome.NO_BALANCE, AttemptOutcome.NOT_AN_ENDPOINT}
"""No other request would fare better."""
_BROKEN = {
    AttemptOutcome.UNREADABLE,
    AttemptOutcome.LENGTH,
    AttemptOutcome.CUT,
    AttemptOutcome.SILENT,
    AttemptOutcome.STREAM_ERROR,
}
RESUMABLE = _BROKEN | {AttemptOutcome.INTERRUPTED, AttemptOutcome.UNKNOWN}
"""The text is the beginning of an answer that merely lacks its end."""
PAID_FAILURES = _BROKEN | {
    AttemptOutcome.EMPTY,
    AttemptOutcome.NOT_STARTED,
    AttemptOutcome.FAILED_RESUME,
}
"""Brought nothing usable, and may still stand on the provider's bill."""
THROTTLED = {AttemptOutcome.RATE_LIMITED, AttemptOutcome.OVERLOADED}
"""The server takes fewer requests at once than it was sent."""
OVERLOAD = THROTTLED | {
    AttemptOutcome.NETWORK,
    AttemptOutcome.UNREACHABLE,
    AttemptOutcome.EMPTY,
    AttemptOutcome.NOT_STARTED,
}
"""An immediate retry would make things worse."""
RETRYABLE = PAID_FAILURES | OVERLOAD
FREE = (
    FATAL
    | THROTTLED
    | {
        AttemptOutcome.UNREACHABLE,
        AttemptOutcome.REFUSED,
        AttemptOutcome.TOO_LONG,
    }
)
"""Certain not to be billed."""
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
_NO_MONEY = re.compile(
    r"Arrearage|AccountOverdue|overdue.payment|billing.hard.limit|exceeded_current_quota"
    r"|insufficient.user.quota|insufficient.(account.|user.)?(balance|credit|fund)"
    r"|(balance|credits?|funds) (is|are) (insufficient|too low|not enough|exhausted)"
    r"|账户.{0,8}(欠费|余额不足)|余额不足.{0,12}充值",
    re.IGNORECASE,
)
"""How providers that do not send 402 say it. `insufficient_quota` is missing: with 429, DashScope
says so of tokens a minute."""


def classify_finish(word: str) -> AttemptOutcome:
    """Return what a finish word means, however it is capitalised; a missing one is a cut.

    >>> str(classify_finish("STOP")), str(classify_finish("abort")), str(classify_finish(""))
    ('complete', 'cut', 'cut')
    """
    return _FINISH.get(word.strip().lower(), AttemptOutcome.CUT)


def classify_status(code: int, words: str) -> AttemptOutcome | None:
    """Return what an HTTP status means, with the server's own words that explain it; None for one
    that is no refusal. A server in trouble (5xx) speaks of no account of ours."""
    if code < 500 and _NO_MONEY.search(words):
        return AttemptOutcome.NO_BALANCE
    if code in _STATUS:
        return _STATUS[code]
    if code >= 500 or code in {408, 409, 425}:
        return AttemptOutcome.OVERLOADED
    return AttemptOutcome.REFUSED if code >= 400 else None


def read_retry_after(value: str) -> float:
    """Read a Retry-After header, seconds or a date, as seconds from now, at most
    `MAX_RETRY_AFTER_S`.

    >>> read_retry_after("2"), read_retry_after("soon")
    (2.0, 0.0)
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if seconds == seconds else 0.0


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


class Charge(NamedTuple):
    """What an attempt cost."""

    usage: Usage
    is_estimate: bool
    amount: float


def make_charge(result: AttemptResult, n_prompt: int, price: Price | None) -> Charge:
    """Price an attempt's own result; if the endpoint reported no usage and may charge, estimate it
    from the texts."""
    usage, is_estimate = result.usage or Usage(), False
    if result.usage is None and result.outcome not in FREE:
        n_reasoning = estimate_tokens([result.reasoning])
        n_completion = n_reasoning + estimate_tokens([result.text])
        usage = Usage(prompt=n_prompt, completion=n_completion, reasoning=n_reasoning)
        is_estimate = True
    return Charge(usage, is_estimate, price.amount(usage) if price else 0.0)


# --- Limits of a run


class AdaptiveLimit:
    """How many attempts may run at one address, between 1 and the cap: it grows additively with
    answers and shrinks when the server throttles.

    It never shrinks below what the server has just been serving at once, so that a real cap is
    found in a few rounds and faults that have nothing to do with load cost no speed.
    """

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.limit = float(cap)
        self.n_inside = 0
        self._n_served = 0
        self._most_served = self._most_before = 0
        """Attempts served at once, at most, in this round and in the one before."""
        self._round_began = time.monotonic()
        self._round_s = FIRST_ROUND_S
        self._shrunk_at = -1e9

    @property
    def n_free(self) -> int:
        return int(self.limit) - self.n_inside

    def note_accepted(self) -> None:
        """The server has taken an attempt up."""
        self._n_served += 1
        self._turn_round()
        self._most_served = max(self._most_served, self._n_served)

    def note_ended(
        self, outcome: AttemptOutcome | None, was_accepted: bool, seconds: float
    ) -> None:
        """An attempt is over; `outcome` is None if we cancelled it."""
        self._turn_round()
        self._n_served -= was_accepted
        if outcome is AttemptOutcome.COMPLETE:
            self._round_s += SMOOTHING * (seconds - self._round_s)
            growth = max(1.0, GROWTH_PER_ROUND * self.cap) / self.limit
            self.limit = min(self.cap, self.limit + growth)
        elif outcome in THROTTLED:
            now = time.monotonic()
            if now - self._shrunk_at >= self._round_s:
                self._shrunk_at = now
                served = float(max(self._most_served, self._most_before))
                self.limit = max(1.0, min(self.limit, max(served, self.limit / 2)))

    def _turn_round(self) -> None:
        now = time.monotonic()
        if now - self._round_began >= self._round_s:
            self._most_before, self._most_served = self._most_served, self._n_served
            self._round_began = now


class Budget:
    """A hard stop over what is spent and what is in flight at its worst; without a limit it only
    counts."""

    def __init__(self, limit: float | None, spent: float, currency: str) -> None:
        self.limit, self.spent, self.currency = limit, spent, currency
        self._reserved = 0.0
        self._changed = asyncio.Condition()

    async def reserve(self, amount: float) -> None:
        """Wait until an amount fits the budget; raise StoppedError if it never will."""
        async with self._changed:
            while self.limit is not None and self.spent + self._reserved + amount > self.limit:
                if self._reserved <= 0:
                    raise over_budget(self.limit, self.spent, self.currency, amount)
                await self._changed.wait()
            self._reserved += amount

    async def release(self, amount: float, spent: float) -> None:
        """Return a reserved amount; `spent` is all that is paid by now."""
        async with self._changed:
            left = self._reserved - amount
            self._reserved = left if left > ROUNDING else 0.0
            self.spent = spent
            self._changed.notify_all()


def over_budget(limit: float, spent: float, currency: str, amount: float) -> StoppedError:
    """Make the error of an attempt that does not fit the budget."""
    return StoppedError(
        "--budget {:g}: {:.4f} {} paid, and the next attempt may cost {:.4f}; "
        "raise --budget and {}",
        *(limit, spent, currency, amount, RESUME_HINT),
    )


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long to retry."""

    n_tries: int = 16
    """Attempts per item and run."""
    n_unusable: int = 4
    """Of these, attempts that the server itself may end without a usable answer: they are paid in
    full."""
    n_connecting: int = 3
    """Attempts per item while the server never answered; twice as many if it accepted the
    connection."""
    backoff_s: float = 0.5
    """Longest wait after a failure; it doubles with each further sign of overload."""
    backoff_cap_s: float = 30.0
    n_refused: int = 20
    """Refusals in a row after which the request itself must be wrong if nothing was answered, and
    the account if all are a like 403: a content filter says 400, and the next request may pass."""
    n_limited: int = 4
    """429s of one item beyond which they say nothing of the provider: the item may be too large."""
    n_troubles: int = 8
    """Failures in a row, over all items, after which progress reports them."""
    n_failures: int = 40
    """Failures in a row, over all items, after which the provider counts as failing."""
    quiet_s: float = 120.0
    """Seconds without an answer that must also have passed, unless the failures are paid ones."""
    drain_s: float = 30.0
    """How long running attempts may go on after a stop."""

    def wait_s(
        self, outcomes: list[AttemptOutcome], n_failures: int, retry_after_s: float
    ) -> float:
        """Draw a wait with full jitter, at least as long as the server asked for.

        It grows with the signs of overload that the item met, and no faster than the failures that
        all items met in a row: a provider that goes on answering others is not overloaded, and the
        last unlucky item need not wait long.
        """
        n_overloads = 1
        if outcomes[-1] in OVERLOAD:
            n_overloads = sum(outcome in OVERLOAD for outcome in outcomes)
        longest = self.backoff_s * min(2 ** (n_overloads - 1), max(n_failures, 1))
        return max(random.uniform(0.0, min(longest, self.backoff_cap_s)), retry_after_s)

    def is_exhausted(self, n_tries: int, n_unusable: int, n_attempts: int) -> bool:
        """Whether an item has had all its tries; attempts that are no tries have an end, too."""
        is_over = n_tries >= self.n_tries or n_unusable >= self.n_unusable
        return is_over or n_attempts >= MOST_PER_TRY * self.n_tries


def double_room(request: Request, result: AttemptResult) -> Request:
    """Allow twice the tokens if the limit itself cut the answer; an endpoint that merely says so
    gets the same again."""
    limit = request.sampling.max_tokens
    is_cut = result.outcome is AttemptOutcome.LENGTH
    if not is_cut or result.usage is None or result.usage.completion < 0.9 * limit:
        return request
    sampling = request.sampling.model_copy(update={"max_tokens": 2 * limit})
    return request.model_copy(update={"sampling": sampling})


class CircuitBreaker:
    """Watch the results of all items and stop the run if further requests would only cost money or
    time."""

    def __init__(self, target: Target, policy: RetryPolicy, concurrency: int) -> None:
        self._target, self._policy = target, policy
        self._n_failures_allowed = max(policy.n_failures, 2 * concurrency)
        self.n_failures = 0
        """Failures in a row, over all items."""
        self._n_paid_failures = self._n_limited_again = 0
        self._refusals = deque[str](maxlen=policy.n_refused)
        """What the last ones in a row say."""
        self._has_answered = self._was_reached = False
        self.is_request_known = False
        """Whether requests of this kind were answered, if only in an earlier run."""
        self._last_answer = time.monotonic()

    @property
    def is_in_trouble(self) -> bool:
        """Whether more failed in a row than bad luck explains: reported, no reason to stop yet."""
        return self.n_failures >= self._policy.n_troubles

    @property
    def has_answered_lately(self) -> bool:
        """Whether what fails now may be an outage that passes."""
        return self._has_answered and not self._is_quiet

    @property
    def _is_quiet(self) -> bool:
        return time.monotonic() - self._last_answer >= self._policy.quiet_s

    def watch(self, result: AttemptResult, n_tried: int) -> None:
        """Count a result; raise what stops the run."""
        outcome, reason = result.outcome, result.error
        self._was_reached |= result.status is not None
        if outcome is AttemptOutcome.COMPLETE:
            self.n_failures = self._n_paid_failures = self._n_limited_again = 0
            self._refusals.clear()
            self.is_request_known = True
            self._has_answered, self._last_answer = True, time.monotonic()
            return
        if outcome in FATAL:
            raise self._fatal(result)
        if outcome is AttemptOutcome.REFUSED:
            self._refusals.append(reason)
        else:
            self._refusals.clear()
        if outcome in RETRYABLE:
            self.n_failures += 1
            self._n_paid_failures += outcome in PAID_FAILURES
            is_limited = outcome is AttemptOutcome.RATE_LIMITED
            self._n_limited_again += is_limited and n_tried > self._policy.n_limited
        place = self._target.base_url
        n_allowed = {
            AttemptOutcome.UNREACHABLE: self._policy.n_connecting,
            AttemptOutcome.NETWORK: 2 * self._policy.n_connecting,
        }.get(outcome, n_tried + 1)
        if not self._was_reached and n_tried >= n_allowed:
            raise InputError("{}; start the teacher or check --base-url", reason)
        is_refusing = len(self._refusals) == self._refusals.maxlen
        if is_refusing and not self.is_request_known:
            raise InputError(
                "{}: every request is refused ({}); check --model and the sampling flags",
                place,
                reason,
            )
        if is_refusing and result.status == 403 and len(set(self._refusals)) == 1:
            raise StoppedError(
                "{}: refuses one request after another ({}); check your account there, then {}",
                place,
                reason,
                RESUME_HINT,
            )
        n_most, n_failures = self._n_failures_allowed, self.n_failures - self._n_limited_again
        if self._n_paid_failures >= n_most or (self._is_quiet and n_failures >= n_most):
            raise StoppedError(
                "{}: nothing but failures ({}); check the provider, then {}",
                place,
                reason,
                RESUME_HINT,
            )

    def _fatal(self, result: AttemptResult) -> MedkdError:
        place, reason = self._target.base_url, result.error
        if result.outcome is AttemptOutcome.KEY_REFUSED:
            variable, has_key = self._target.provider.key_variable, bool(self._target.key)
            own = ", ".join(key_addresses(variable))
            return StoppedError(
                "{}: {} ({}); put a valid one in {}{} and {}",
                place,
                "refuses the key" if has_key else "wants a key",
                reason,
                variable,
                f" (sent to {own} only)" if own and (not has_key) else "",
                RESUME_HINT,
            )
        if result.outcome is AttemptOutcome.NO_BALANCE:
            return StoppedError(
                "{}: the balance is empty ({}); top it up and {}", place, reason, RESUME_HINT
            )
        if self._has_answered:
            return StoppedError(
                "{}: no longer answers as an endpoint ({}); check it, then {}",
                place,
                reason,
                RESUME_HINT,
            )
        return InputError(
            "{}: not what was expected ({}); check --base-url (it often ends in /v1) and --model",
            place,
            reason,
        )
