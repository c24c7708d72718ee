"""One run over many requests, inside one event loop: each is attempted until it is answered,
refused or given up.

In: labelled requests. Out: rows on the ledger, a tally, or the error that stopped it.
Not done here: the attempt itself (`completers.recorder`), how many at once (`completers.gate`),
when to give up (`completers.patience`).
"""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from medkd.completers.attempts import make_closing
from medkd.completers.continuation import Continuation, SoFar, find_so_far, take_so_far
from medkd.completers.gate import Gate
from medkd.completers.interrupts import catching_interrupts
from medkd.completers.outcomes import Answer, Outcome
from medkd.completers.patience import GO_ON, Breaker
from medkd.completers.providers import Price, estimate_tokens
from medkd.completers.purse import Purse
from medkd.completers.recorder import Recorded, Recorder
from medkd.core.completer import Request
from medkd.core.errors import StoppedError
from medkd.core.records import Usage

if TYPE_CHECKING:
    from medkd.completers.dispatch import PaidCompleter, Tally

WAITING_PER_PLACE = 4
"""Items that may wait for another try, for each place of the cap, before no new ones are taken
up."""


TOLD_WAIT_S = 5.0
"""A wait asked for by the server that the reader is told of."""


class Run:
    """Works requests off."""

    def __init__(self, completer: "PaidCompleter", tally: "Tally") -> None:
        self.tally = tally
        self._completer, self._terms = completer, completer.terms
        self._ledger, self._target, self._patience = (
            completer.ledger,
            completer.target,
            completer.terms.patience,
        )
        self._gate = Gate(completer.concurrency)
        self._recorder = Recorder(
            completer.endpoint, completer.ledger, self._gate, self._terms.find_missing
        )
        self._continuation = Continuation(self._target)
        self._breaker = Breaker(self._target, self._patience, completer.concurrency)
        self._purse = Purse(self._terms.budget, tally.spent, self._target.provider.currency)
        self._stopping = asyncio.Event()
        self._is_draining = False
        """Whether a person asked to finish what runs, however long it takes."""
        self._error: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_news = asyncio.Event()
        """Set whenever an item is over or the run stops."""
        self._in_progress: dict[str, asyncio.Event] = {}

    async def work_off(self, labelled: Iterator[tuple[str, Request]]) -> None:
        """Settle every request; raises what stopped it."""
        async with self._completer.endpoint.connected():
            saver = asyncio.create_task(self._recorder.save_regularly(self._note_pace, self._stop))
            try:
                with catching_interrupts(self._drain, self._break_off):
                    await self._feed(labelled)
                    await self._finish()
            finally:
                self._stopping.set()
                self._gate.close()
                self._break_off()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                saver.cancel()
                await asyncio.gather(saver, return_exceptions=True)
                self._ledger.save_pieces([], self.tally.n_answered)
        if self._error:
            raise self._error

    async def _feed(self, labelled: Iterator[tuple[str, Request]]) -> None:
        """Begin items as long as there is room for them."""
        n_most = self._gate.cap * (1 + WAITING_PER_PLACE)
        for label, request in labelled:
            key = self._completer.key_of(request)
            if key not in self._in_progress and self._ledger.is_complete(key):
                await self._count_found()
                continue
            while len(self._tasks) >= n_most and not self._stopping.is_set():
                await self._wait_for_news()
            await self._wait_for_cheap_hours(is_told=True)
            if self._stopping.is_set() or not await self._gate.enter():
                return
            task = asyncio.create_task(self._settle_one(key, label, request))
            self._tasks.add(task)
            task.add_done_callback(self._end)

    async def _wait_for_news(self) -> None:
        self._has_news.clear()
        await self._has_news.wait()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._has_news.set()
        if not task.cancelled() and (error := task.exception()):
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        """Begin nothing more; the first error is the one to report."""
        self._error = self._error or error
        self._stopping.set()
        self._has_news.set()
        self._gate.close()

    def _drain(self) -> None:
        n = self._recorder.n_running
        print(
            f"stopping: {n} answers are still on their way; Ctrl-C again stops now",
            file=sys.stderr,
            flush=True,
        )
        self._stop(StoppedError(f"interrupted; what was paid for is kept, {GO_ON}"))
        self._is_draining = True

    def _break_off(self) -> None:
        """Stop what runs; its text is kept."""
        if not self._stopping.is_set():
            self._stop(StoppedError(f"interrupted; what was paid for is kept, {GO_ON}"))
        for task in self._tasks:
            task.cancel()

    async def _finish(self) -> None:
        while self._tasks and not self._stopping.is_set():
            await self._wait_for_news()
        if self._tasks:
            await asyncio.wait(
                self._tasks, timeout=None if self._is_draining else self._patience.drain_s
            )

    async def _settle_one(self, key: str, label: str, request: Request) -> None:
        """Answer one item, a place in the gate held at the start."""
        while key in self._in_progress:  # an equal request is under way
            self._gate.leave()
            await self._in_progress[key].wait()
            if self._ledger.is_complete(key):
                await self._count_found()
                return
            if not await self._gate.enter():
                return
        done = self._in_progress[key] = asyncio.Event()
        try:
            await self._buy(key, label, request)
        finally:
            del self._in_progress[key]
            done.set()

    async def _buy(self, key: str, label: str, request: Request) -> None:
        """Attempt an item until it is answered, refused, out of tries, or the run stops."""
        outcomes: list[Outcome] = []
        n_unusable = 0
        so_far = find_so_far(self._ledger.attempts_of(key), self._terms.find_missing)
        while True:
            before = so_far if so_far and self._continuation.is_possible(so_far, request) else None
            recorded = await self._attempt_in_place(key, label, request, before)
            if recorded is None:
                return
            answer = recorded.answer
            so_far = self._learn(so_far, before, recorded)
            if before and answer.outcome in {Outcome.REFUSED, Outcome.NOT_AN_ENDPOINT}:
                wait_s = 0.0  # going on was refused, not the question
            else:
                outcomes.append(answer.outcome)
                n_unusable += _is_unusable(answer)
                self._breaker.watch(answer, len(outcomes))
                self.tally.trouble = self._find_trouble(answer)
                if (
                    answer.outcome is Outcome.COMPLETE
                    or not answer.outcome.is_worth_another_try
                    or self._patience.is_spent(len(outcomes), n_unusable)
                ):
                    self._count_settled(answer)
                    return
                if so_far is None or not self._continuation.is_possible(so_far, request):
                    request = _with_room(request, answer)
                wait_s = self._patience.wait_s(
                    outcomes, self._breaker.n_failures, answer.retry_after_s
                )
            if wait_s:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait_s)
            await self._wait_for_cheap_hours()
            if not await self._gate.enter():
                return

    def _find_trouble(self, answer: Answer) -> str:
        """Say what keeps the run waiting, where something does."""
        if answer.retry_after_s >= TOLD_WAIT_S:
            return f"{answer.error}; the server asks to wait {answer.retry_after_s:.0f} s"
        return answer.error if self._breaker.is_in_trouble else ""

    def _learn(
        self, so_far: SoFar | None, before: SoFar | None, recorded: Recorded
    ) -> SoFar | None:
        """Note whether the server went on where it was asked to, and give the text to go on from
        next."""
        outcome = recorded.answer.outcome
        if before and outcome in {Outcome.REFUSED, Outcome.NOT_AN_ENDPOINT}:
            self._continuation.note_refused(before)
            return None
        if recorded.has_new:
            if before:
                (
                    self._continuation.note_anew
                    if recorded.began_anew
                    else self._continuation.note_joined
                )(before)
            return take_so_far(recorded.id, recorded.answer, self._terms.find_missing)
        came_to_an_end = outcome in {Outcome.LENGTH, Outcome.UNREADABLE, Outcome.EMPTY}
        return None if before and came_to_an_end else so_far

    def _count_settled(self, answer: Answer) -> None:
        if answer.outcome is Outcome.COMPLETE:
            self.tally.n_bought += 1
        else:
            self.tally.n_failed += 1
            self.tally.last_error = answer.error
        self._tell()

    async def _count_found(self) -> None:
        self.tally.n_found += 1
        self._tell()
        await asyncio.sleep(0)  # a long run of found items must not starve the streams

    async def _attempt_in_place(
        self, key: str, label: str, request: Request, before: SoFar | None
    ) -> Recorded | None:
        """Make one attempt and give the place in the gate back; None where the run was stopped
        first."""
        try:
            price = self._target.price_at(self._terms.clock())
            worst = _worst_case(request, before, price)
            await self._purse.set_aside(worst)
            try:
                if self._stopping.is_set():
                    return None
                if self._is_too_long(request):
                    return await self._refuse_too_long(key, label, request)
                recorded = await self._recorder.attempt(key, label, request, price, before)
                self.tally.spent += recorded.amount
                return recorded
            finally:
                await self._purse.settle(worst, self.tally.spent)
        finally:
            self._gate.leave()

    def _is_too_long(self, request: Request) -> bool:
        return bool(self._target.context) and estimate_tokens(
            m.content for m in request.messages
        ) > (self._target.context or 0)

    async def _refuse_too_long(self, key: str, label: str, request: Request) -> Recorded:
        """Write down that a question does not fit; nothing is sent."""
        n_prompt = estimate_tokens(message.content for message in request.messages)
        words = f"about {n_prompt} tokens, and {self._target.model} takes {self._target.context}; shorten the record or choose another --model"
        answer = Answer(Outcome.TOO_LONG, error=words)
        attempt = await asyncio.wrap_future(
            self._ledger.open_attempt(key, label, self._target, 0, None)
        )
        await asyncio.wrap_future(
            self._ledger.close_attempt(attempt, make_closing(answer, 0, None))
        )
        return Recorded(attempt, answer, 0.0, has_new=False, began_anew=False)

    async def _wait_for_cheap_hours(self, is_told: bool = False) -> None:
        """Wait until the provider is cheap, where that was asked for; `is_told` keeps a countdown
        in the tally."""
        peak = self._target.provider.peak
        while self._terms.when == "off-peak" and peak and not self._stopping.is_set():
            now = self._terms.clock()
            left_s = (peak.end_after(now) - now).total_seconds()
            if is_told:
                self.tally.waits_s = left_s
                self._tell()
            if left_s <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._stopping.wait(), min(left_s, 1.0 if left_s <= 60 else 30.0)
                )

    def _note_pace(self) -> int:
        self.tally.note_tokens(self._recorder.n_tokens)
        self._tell()
        return self.tally.n_answered

    def _tell(self) -> None:
        self.tally.n_running, self.tally.limit = self._recorder.n_running, int(self._gate.limit)
        self._terms.on_progress(self.tally)


def _worst_case(request: Request, before: SoFar | None, price: Price | None) -> float:
    """Give the most an attempt can cost: a token a character of the prompt, none cached, and every
    token allowed for."""
    n_prompt = sum(len(message.content) for message in request.messages) + (
        len(before.reasoning) + len(before.text) if before else 0
    )
    return (
        price.amount(Usage(prompt=n_prompt, completion=request.sampling.max_tokens))
        if price
        else 0.0
    )


def _is_unusable(answer: Answer) -> bool:
    """Tell whether the server itself ended an answer that is of no use: paid in full, and likely to
    end so again."""
    has_odd_end = answer.outcome is Outcome.CUT and bool(answer.finish_reason)
    return has_odd_end or answer.outcome in {Outcome.LENGTH, Outcome.UNREADABLE}


def _with_room(request: Request, answer: Answer) -> Request:
    """Allow twice the tokens where the limit itself cut the answer; an endpoint that merely says so
    gets the same again."""
    limit = request.sampling.max_tokens
    if (
        answer.outcome is not Outcome.LENGTH
        or answer.usage is None
        or answer.usage.completion < 0.9 * limit
    ):
        return request
    return request.model_copy(
        update={"sampling": request.sampling.model_copy(update={"max_tokens": 2 * limit})}
    )
