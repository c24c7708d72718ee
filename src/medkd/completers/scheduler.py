"""Requests worked off at all addresses of a model: started as places become free, retried, stopped
in order.

In: labelled requests, a ledger. Out: attempts on the ledger, a `Progress` that counts them.
Not done here: one attempt (`completers.endpoint`), how often and how many (`completers.outcomes`).
"""

import asyncio
import contextlib
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from time import monotonic

from medkd.completers.endpoint import (
    Address,
    AttemptRecord,
    AttemptRecorder,
    TimeLimits,
    find_worst_case,
)
from medkd.completers.ledger import Ledger
from medkd.completers.outcomes import (
    FATAL,
    RESUME_HINT,
    RETRYABLE,
    AttemptOutcome,
    AttemptResult,
    Budget,
    FindMissing,
    MissingPart,
    RetryPolicy,
    double_room,
)
from medkd.completers.providers import Target, When
from medkd.completers.resume import PartialAnswer, ResumeSupport, find_partial, make_partial
from medkd.core.errors import MedkdError, StoppedError
from medkd.core.records import Request

PACE_WINDOW = 20
"""Savings of text over which tokens per second are taken."""
WAITING_PER_PLACE = 4
"""Items that may wait for a retry, for each place of the cap, before no new ones begin."""
REPORTED_WAIT_S = 5.0
"""A wait asked for by the server that progress reports."""
Follow = Callable[[str], Iterable[tuple[str, Request]]]
"""Called with the label of a request that is over; returns further ones."""
Labelled = Iterator[tuple[str, Request]]
"""Requests, each with the id of its record."""
Report = Callable[["Progress"], None]
"""Called for each finished item, and twice a second."""
LEFT_OUT_S, MAX_LEFT_OUT_S = 1.0, 60.0
"""Seconds until an address that was left out is tried again: at first, and at the most."""
_REFUSALS = {AttemptOutcome.REFUSED, AttemptOutcome.NOT_AN_ENDPOINT}
_FAILED_TO_RESUME = {AttemptOutcome.LENGTH, AttemptOutcome.UNREADABLE, AttemptOutcome.EMPTY}
_INTERRUPTED = f"interrupted; what was paid for is kept, {RESUME_HINT}"


@dataclass
class Progress:
    """What a run of requests has come to so far."""

    n_cached: int = 0
    """Answered on the ledger before."""
    n_new: int = 0
    n_failed: int = 0
    n_running: int = 0
    n_added: int = 0
    """Requests that answers called for, beside those that were known before."""
    limit: int = 0
    """Attempts that may run at once for now."""
    spent: float = 0.0
    """Money of all attempts on the ledger, those of earlier runs included."""
    spent_before: float = 0.0
    """That of earlier runs alone."""
    waits_s: float = 0.0
    """Seconds until the off-peak hours it waits for; 0 while it works."""
    last_error: str = ""
    """Of an item given up."""
    trouble: str = ""
    """Why nothing comes any more, while attempt after attempt fails."""
    _pace: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=PACE_WINDOW))

    @property
    def n_answered(self) -> int:
        return self.n_cached + self.n_new

    @property
    def n_done(self) -> int:
        return self.n_answered + self.n_failed

    @property
    def tokens_per_s(self) -> float:
        if len(self._pace) < 2:
            return 0.0
        (began, n_before), (now, n_tokens) = self._pace[0], self._pace[-1]
        return (n_tokens - n_before) / max(now - began, 1e-3)

    def note_tokens(self, n_tokens: int) -> None:
        self._pace.append((monotonic(), n_tokens))

    def project(self, n_requests: int) -> float:
        """Project what the whole job will have cost, at the mean price of this run's answers."""
        each = (self.spent - self.spent_before) / self.n_new if self.n_new else 0.0
        return self.spent + each * max(n_requests + self.n_added - self.n_done, 0)

    def describe(self, target: Target, n_requests: int) -> str:
        """Describe how far it is, what it costs and what it waits for, on one line."""
        if self.waits_s > 0:
            hours, seconds = divmod(int(self.waits_s), 3600)
            left = f"{hours}:{seconds // 60:02}:{seconds % 60:02}"
            return f"waits for the off-peak hours, {left} left"
        cost = "price unknown"
        if target.is_priced:
            projected = self.project(n_requests)
            cost = f"{self.spent:.4f} of about {projected:.4f} {target.provider.currency}"
        parts = [
            f"{self.n_running} running of at most {self.limit}",
            f"{self.tokens_per_s:,.0f} tokens/s",
            cost,
            f"{self.n_failed} failed" if self.n_failed else "",
            f"retries after {self.trouble}" if self.trouble else "",
        ]
        return ", ".join(filter(None, parts))


@dataclass(frozen=True)
class RunOptions:
    """How a run asks."""

    name: str = ""
    """Of the bar that shows its progress; none without."""
    concurrency: int = 32
    budget: float | None = None
    when: When = "now"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    limits: TimeLimits = field(default_factory=TimeLimits)
    find_missing: FindMissing = lambda reasoning, text: None
    """Says what is missing in an answer that the endpoint called whole."""
    on_progress: Report = lambda progress: None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


class Places:
    """The line in which items wait for a place at one of a model's addresses: whoever has the
    largest share of its places free is asked."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.addresses = addresses
        self._waiting: deque[asyncio.Future[Address | None]] = deque()
        self._is_closed = False

    async def enter(self) -> Address | None:
        """Wait for a place; return None if the line is closed meanwhile."""
        if self._is_closed:
            return None
        place: asyncio.Future[Address | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self.let_in()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and (address := place.result()):
                self.leave(address)
            raise

    def leave(self, address: Address) -> None:
        address.limit.n_inside -= 1
        self.let_in()

    def let_in(self) -> None:
        """Give away the places that are free."""
        while self._waiting:
            free = [one for one in self.addresses if one.limit.n_free > 0 and not one.is_left_out]
            if not free:
                return
            place = self._waiting.popleft()
            if not place.done():
                address = max(free, key=lambda one: one.limit.n_free / one.limit.limit)
                address.limit.n_inside += 1
                place.set_result(address)

    def close(self) -> None:
        """Let no attempt in any more."""
        self._is_closed = True
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)

    def leave_out(self, address: Address, why: str) -> bool:
        """Leave an address out for a while, so long as another one is there or answered lately;
        then one attempt tries it again."""
        others = [one for one in self.addresses if one is not address]
        if not any(not one.is_left_out or one.breaker.has_answered_lately for one in others):
            return False
        if not address.is_left_out:
            address.is_left_out, address.limit.limit = True, 1.0
            address.left_out_s = min(max(2 * address.left_out_s, LEFT_OUT_S), MAX_LEFT_OUT_S)
            print(
                f"warning: {why}; left out, tried again in {address.left_out_s:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            asyncio.get_running_loop().call_later(address.left_out_s, self._try_again, address)
        return True

    def _try_again(self, address: Address) -> None:
        address.is_left_out = False
        self.let_in()


class Scheduler:
    """Work off requests: start items as places become free, retry them, and stop in order."""

    def __init__(
        self,
        target: Target,
        ledger: Ledger,
        options: RunOptions,
        progress: Progress,
        follow: Follow,
        report: Report,
    ) -> None:
        self._target, self._ledger = target, ledger
        self._options, self._retry = options, options.retry
        self.progress = progress
        self._follow, self._report_to = follow, report
        self._followers = deque[tuple[str, Request]]()
        """What answers called for and has not begun."""
        self._find_missing = _guard(self._options.find_missing)
        terms, most = self._target.terms, self._options.concurrency
        cap = max(1, min(most, (terms and terms.concurrency) or most))
        each = self._target.list_addresses()
        self._places = Places([Address(o, self._options.limits, self._retry, cap) for o in each])
        self._n_most = len(each) * cap * (1 + WAITING_PER_PLACE)
        self._recorder = AttemptRecorder(self._ledger, self._find_missing)
        self._budget = Budget(self._options.budget, progress.spent, self._target.provider.currency)
        self._stopping = asyncio.Event()
        self._is_draining = False
        """Whether a person asked to finish what runs, however long it takes."""
        self._error: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_news = asyncio.Event()
        """Set whenever an item is over or the run stops."""
        self._in_progress: dict[str, asyncio.Event] = {}

    @cached_property
    def _resume(self) -> ResumeSupport:
        return ResumeSupport(self._target.prefix)

    async def run(self, labelled: Labelled) -> None:
        """Finish every request; raise what stopped it."""
        async with contextlib.AsyncExitStack() as connections:
            for address in self._places.addresses:
                await connections.enter_async_context(address.endpoint.connected())
            saving = self._recorder.save_regularly(self._note_pace, self._stop)
            saver = asyncio.create_task(saving)
            try:
                with catch_interrupts(self._drain, self._cancel):
                    await self._start_items(labelled)
                    await self._finish()
            finally:
                self._stopping.set()
                self._places.close()
                self._cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                saver.cancel()
                await asyncio.gather(saver, return_exceptions=True)
        if self._error:
            raise self._error

    async def _start_items(self, labelled: Labelled) -> None:
        """Start items as long as there is room for them."""
        while (item := await self._next_item(labelled)) is not None:
            label, request = item
            key = self._target.item_key(request)
            if key not in self._in_progress and self._ledger.is_complete(key):
                await self._count_cached(label)
                continue
            while len(self._tasks) >= self._n_most and not self._stopping.is_set():
                await self._wait_for_news()
            address = await self._enter(is_reported=True)
            if self._stopping.is_set() or not address:
                return
            task = asyncio.create_task(self._answer(key, label, request, address))
            self._tasks.add(task)
            task.add_done_callback(self._end_task)

    async def _next_item(self, labelled: Labelled) -> tuple[str, Request] | None:
        """Return what to ask next, what answers called for first; None once nothing can come."""
        while not self._followers:
            if (item := next(labelled, None)) is not None or not self._tasks:
                return item
            if self._stopping.is_set():
                return None
            await self._wait_for_news()
        return self._followers.popleft()

    def _end_item(self, label: str) -> None:
        """Take what the answer of an item calls for."""
        called = list(self._follow(label))
        self._followers.extend(called)
        self.progress.n_added += len(called)
        self._report()

    async def _wait_for_news(self) -> None:
        self._has_news.clear()
        await self._has_news.wait()

    def _end_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._has_news.set()
        if not task.cancelled() and (error := task.exception()):
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        """Start nothing more; the first error is the one to report."""
        self._error = self._error or error
        self._stopping.set()
        self._has_news.set()
        self._places.close()

    def _drain(self) -> None:
        print(
            f"stopping: {self._recorder.n_running} answers are still on their way; Ctrl-C again "
            "stops now",
            file=sys.stderr,
            flush=True,
        )
        self._stop(StoppedError(_INTERRUPTED))
        self._is_draining = True

    def _cancel(self) -> None:
        """Cancel what runs; its text is kept."""
        if not self._stopping.is_set():
            self._stop(StoppedError(_INTERRUPTED))
        for task in self._tasks:
            task.cancel()

    async def _finish(self) -> None:
        while self._tasks and not self._stopping.is_set():
            await self._wait_for_news()
        if self._tasks:
            timeout = None if self._is_draining else self._retry.drain_s
            await asyncio.wait(self._tasks, timeout=timeout)

    async def _answer(self, key: str, label: str, request: Request, place: Address) -> None:
        """Answer one item, with a place taken at the start; equal requests are answered once."""
        while key in self._in_progress:
            self._places.leave(place)
            await self._in_progress[key].wait()
            if self._ledger.is_complete(key):
                await self._count_cached(label)
                return
            if not (again := await self._enter()):
                return
            place = again
        done = self._in_progress[key] = asyncio.Event()
        try:
            await self._attempt_until_done(key, label, request, place)
        finally:
            del self._in_progress[key]
            done.set()

    async def _attempt_until_done(
        self, key: str, label: str, request: Request, place: Address
    ) -> None:
        """Attempt an item until it is answered, refused, out of tries, or the run stops."""
        outcomes: list[AttemptOutcome] = []
        n_tries = n_unusable = 0
        earlier = [(attempt.id, attempt) for attempt in self._ledger.attempts_of(key)]
        partial = find_partial(earlier, self._find_missing) if earlier else None
        while True:
            before = partial if partial and self._resume.is_possible(partial, request) else None
            record = await self._attempt_in_place(key, label, request, before, place)
            if record is None:
                return
            result, wait_s = record.result, 0.0
            if before or result.outcome is not AttemptOutcome.COMPLETE:
                partial = self._learn(partial, before, record)
            is_refusal = before and result.outcome in _REFUSALS  # resuming is asked for no more
            if not (is_refusal or self._is_address_lost(place, result, len(outcomes) + 1)):
                outcomes.append(result.outcome)
                # Who is merely not let in while others are answered has not failed.
                is_limited = result.outcome is AttemptOutcome.RATE_LIMITED
                n_tries += not (is_limited and place.breaker.has_answered_lately)
                n_unusable += result.is_unusable
                self.progress.trouble = self._describe_trouble(place, result)
                is_exhausted = self._retry.is_exhausted(n_tries, n_unusable, len(outcomes))
                if result.outcome not in RETRYABLE or is_exhausted:
                    self._count_done(label, result)
                    return
                if not (partial and self._resume.is_possible(partial, request)):
                    request = double_room(request, result)
                n_failures = place.breaker.n_failures
                wait_s = self._retry.wait_s(outcomes, n_failures, result.retry_after_s)
            await self._pause(wait_s)
            if not (again := await self._enter()):
                return
            place = again

    def _is_address_lost(self, place: Address, result: AttemptResult, n_tried: int) -> bool:
        """Whether an attempt failed by its address, which is left out while others are there; what
        stops the run is raised."""
        if result.outcome is AttemptOutcome.UNREACHABLE:
            if self._places.leave_out(place, result.error):
                return True
        elif result.outcome is AttemptOutcome.COMPLETE:
            place.left_out_s = 0.0
        try:
            place.breaker.watch(result, n_tried)
        except MedkdError as error:
            if not self._places.leave_out(place, str(error)):
                raise
            return result.outcome in RETRYABLE or result.outcome in FATAL
        return False

    def _describe_trouble(self, place: Address, result: AttemptResult) -> str:
        """Say what keeps the run waiting, if anything does."""
        if result.retry_after_s >= REPORTED_WAIT_S:
            return f"{result.error}; the server asks to wait {result.retry_after_s:.0f} s"
        return result.error if place.breaker.is_in_trouble else ""

    def _learn(
        self, partial: PartialAnswer | None, before: PartialAnswer | None, record: AttemptRecord
    ) -> PartialAnswer | None:
        """Note whether the server resumed if it was asked to; return what to resume next."""
        outcome = record.result.outcome
        if before and outcome in _REFUSALS:
            self._resume.note_refused(before)
            return None
        if record.has_new:
            if before and record.began_anew:
                self._resume.note_restarted(before)
            elif before:
                self._resume.note_resumed(before)
            return make_partial(record.id, record.result, self._find_missing)
        return None if before and outcome in _FAILED_TO_RESUME else partial

    async def _attempt_in_place(
        self, key: str, label: str, request: Request, before: PartialAnswer | None, place: Address
    ) -> AttemptRecord | None:
        """Make one attempt and give up the place; None if the run was stopped first."""
        try:
            price = self._target.price_at(self._options.clock())
            worst = find_worst_case(request, before, price)
            await self._budget.reserve(worst)
            try:
                if self._stopping.is_set():
                    return None
                record = await self._recorder.attempt(place, key, label, request, price, before)
                self.progress.spent += record.amount
                return record
            finally:
                await self._budget.release(worst, self.progress.spent)
        finally:
            self._places.leave(place)

    async def _enter(self, is_reported: bool = False) -> Address | None:
        """Wait for a place, and for the cheap hours if that was asked for; return None if the run
        stops meanwhile."""
        while place := await self._places.enter():
            left_s = self._find_peak_left()
            if is_reported and left_s != self.progress.waits_s:
                self.progress.waits_s = left_s
                self._report()
            if left_s <= 0:
                break
            self._places.leave(place)
            await self._pause(min(left_s, 1.0 if left_s <= 60 else 30.0))
        return place

    def _find_peak_left(self) -> float:
        """Return for how many seconds the run has to wait for the provider's cheap hours."""
        peak, now = self._target.provider.peak, self._options.clock()
        if self._options.when == "now" or peak is None:
            return 0.0
        return (peak.end_after(now) - now).total_seconds()

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless the run stops meanwhile."""
        if seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    def _count_done(self, label: str, result: AttemptResult) -> None:
        if result.outcome is AttemptOutcome.COMPLETE:
            self.progress.n_new += 1
        else:
            self.progress.n_failed += 1
            self.progress.last_error = result.error
        self._end_item(label)

    async def _count_cached(self, label: str) -> None:
        self.progress.n_cached += 1
        for address in self._places.addresses:
            address.breaker.is_request_known = True
        self._end_item(label)
        await asyncio.sleep(0)  # a long run of cached items must not starve the streams

    def _note_pace(self) -> None:
        self.progress.note_tokens(self._recorder.n_tokens)
        self._report()

    def _report(self) -> None:
        self.progress.n_running = self._recorder.n_running
        addresses = self._places.addresses
        self.progress.limit = sum(int(one.limit.limit) for one in addresses)
        self._report_to(self.progress)


@contextmanager
def catch_interrupts(
    drain: Callable[[], None], cancel: Callable[[], None]
) -> Generator[None, None, None]:
    """Call `drain` at the first Ctrl-C and `cancel` at the next, or at once on SIGTERM; outside the
    main thread signals are left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    actions = iter([drain])
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loop.add_signal_handler(signal.SIGINT, lambda: next(actions, cancel)())
    loop.add_signal_handler(signal.SIGTERM, cancel)
    try:
        yield
    finally:
        for number, handler in previous.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _guard(find_missing: FindMissing) -> FindMissing:
    """Have a check that fails on a teacher's text call the answer unreadable."""

    def find(reasoning: str, text: str) -> MissingPart | None:
        try:
            return find_missing(reasoning, text)
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            return MissingPart(f"cannot be read ({type(error).__name__})", is_at_end=False)

    return find
