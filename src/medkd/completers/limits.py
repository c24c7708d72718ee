"""Limits of a run: how many attempts at once, how much money, how often to retry, when to stop.

In: how attempts end. Out: leave to send, seconds to wait, or the error that stops the run.
Not done here: sending and waiting (`completers.client`), prices (`completers.providers`).
"""

import asyncio
import random
import time
from collections import Counter, deque
from dataclasses import dataclass

from medkd.completers.outcomes import AnswerPart, AttemptOutcome, AttemptResult, PartialAnswer
from medkd.completers.providers import PrefixForm, Target, key_addresses
from medkd.core.errors import InputError, MedkdError, StoppedError
from medkd.core.records import Request

MAX_RESTARTS = 3
"""Times a server may begin anew before it is no longer asked to resume."""
RESUME_HINT = "run the same command again, it goes on from here"
GROWTH_PER_ROUND = 0.05
"""Share of the cap by which the limit grows for each full round of answers."""
SMOOTHING = 0.2
FIRST_ROUND_S = 1.0
ROUNDING = 1e-9
"""Money below this is the rounding of sums, not an attempt in flight."""


class AdaptiveLimit:
    """Let attempts through up to a limit between 1 and the cap: it grows additively with answers
    and shrinks when the server throttles.

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
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._is_closed = False
        self._round_s = FIRST_ROUND_S
        self._shrunk_at = -1e9

    async def enter(self) -> bool:
        """Wait for a place; return False if the limit is closed meanwhile."""
        if self._is_closed:
            return False
        if self.n_inside < int(self.limit) and not self._waiting:
            self.n_inside += 1
            return True
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.result():
                self.leave()
            raise

    def leave(self) -> None:
        self.n_inside -= 1
        self._let_in()

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
        elif outcome and outcome.is_throttled:
            now = time.monotonic()
            if now - self._shrunk_at >= self._round_s:
                self._shrunk_at = now
                served = float(max(self._most_served, self._most_before))
                self.limit = max(1.0, min(self.limit, max(served, self.limit / 2)))
        self._let_in()

    def close(self) -> None:
        """Let no attempt in any more."""
        self._is_closed = True
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(False)

    def _turn_round(self) -> None:
        now = time.monotonic()
        if now - self._round_began >= self._round_s:
            self._most_before, self._most_served = self._most_served, self._n_served
            self._round_began = now

    def _let_in(self) -> None:
        while self._waiting and self.n_inside < int(self.limit):
            place = self._waiting.popleft()
            if not place.done():
                self.n_inside += 1
                place.set_result(True)


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
    """Refusals in a row, with nothing answered, after which the request itself must be wrong."""
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
        if outcomes[-1].is_overload:
            n_overloads = sum(outcome.is_overload for outcome in outcomes)
        longest = self.backoff_s * min(2 ** (n_overloads - 1), max(n_failures, 1))
        return max(random.uniform(0.0, min(longest, self.backoff_cap_s)), retry_after_s)

    def is_exhausted(self, n_tries: int, n_unusable: int) -> bool:
        """Whether an item has had all its tries."""
        return n_tries >= self.n_tries or n_unusable >= self.n_unusable


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
        self._n_paid_failures = self._n_refused = 0
        self._has_answered = self._was_reached = False
        self._last_answer = time.monotonic()

    @property
    def is_in_trouble(self) -> bool:
        """Whether more failed in a row than bad luck explains: reported, no reason to stop yet."""
        return self.n_failures >= self._policy.n_troubles

    def watch(self, result: AttemptResult, n_tried: int) -> None:
        """Count a result; raise what stops the run."""
        outcome, reason = result.outcome, result.error
        self._was_reached |= result.status is not None
        if outcome is AttemptOutcome.COMPLETE:
            self.n_failures = self._n_paid_failures = self._n_refused = 0
            self._has_answered, self._last_answer = True, time.monotonic()
            return
        if outcome.is_fatal:
            raise self._fatal(result)
        self._n_refused = self._n_refused + 1 if outcome is AttemptOutcome.REFUSED else 0
        if outcome.is_retryable:
            self.n_failures += 1
            self._n_paid_failures += outcome.is_paid_failure
        place = self._target.base_url
        n_allowed = {
            AttemptOutcome.UNREACHABLE: self._policy.n_connecting,
            AttemptOutcome.NETWORK: 2 * self._policy.n_connecting,
        }.get(outcome, n_tried + 1)
        if not self._was_reached and n_tried >= n_allowed:
            raise InputError("{}; start the teacher or check --base-url", reason)
        if self._n_refused >= self._policy.n_refused and not self._has_answered:
            raise InputError(
                "{}: every request is refused ({}); check --model and the sampling flags",
                place,
                reason,
            )
        if self._is_failing():
            raise StoppedError(
                "{}: nothing but failures ({}); check the provider, then {}",
                place,
                reason,
                RESUME_HINT,
            )

    def _is_failing(self) -> bool:
        is_quiet = time.monotonic() - self._last_answer >= self._policy.quiet_s
        n_most = self._n_failures_allowed
        return self._n_paid_failures >= n_most or (is_quiet and self.n_failures >= n_most)

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


class ResumeSupport:
    """What a run has learnt about a server's prefix completion: used as the provider says, until
    the server shows that it has none."""

    def __init__(self, form: PrefixForm | None) -> None:
        self._form = form
        self._has_resumed: set[AnswerPart] = set()
        self._off: set[AnswerPart] = set()
        self._n_restarts: Counter[AnswerPart] = Counter()

    def is_possible(self, before: PartialAnswer | None, request: Request) -> bool:
        """Whether to ask the server to resume what there is of an answer."""
        if self._form is None or before is None or before.part in self._off:
            return False
        return self._form.while_thinking or not (before.reasoning or request.sampling.thinking)

    def note_resumed(self, before: PartialAnswer) -> None:
        self._has_resumed.add(before.part)

    def note_refused(self, before: PartialAnswer) -> None:
        """A refusal holds for all items, unless the server has resumed before."""
        if before.part not in self._has_resumed:
            self._off.add(before.part)

    def note_restarted(self, before: PartialAnswer) -> None:
        self._n_restarts[before.part] += 1
        if self._n_restarts[before.part] >= MAX_RESTARTS:
            self.note_refused(before)
