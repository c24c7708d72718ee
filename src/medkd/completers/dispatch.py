"""Many requests at once: bounded concurrency, another try where one is worth it, a budget, and a stop that loses nothing.

In: requests, each with the id of the record it is for. Out: their answers on the ledger; nothing completed is bought twice.
Failures stay on the ledger too; `recall` gives either as a `Completion`.
Not done here: HTTP (`completers.endpoint`), the rows (`completers.ledger`), when to give up (`completers.patience`).
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from medkd.completers.attempts import item_key, make_closing
from medkd.completers.endpoint import Endpoint
from medkd.completers.ledger import Ledger
from medkd.completers.outcomes import Answer, Outcome
from medkd.completers.patience import GO_ON, Breaker, Patience
from medkd.completers.providers import Price, check_budget, estimate_tokens
from medkd.completers.purse import Purse
from medkd.core.completer import Completion, Request
from medkd.core.errors import MedkdError, StoppedError
from medkd.core.records import Cost, Usage

SAVE_INTERVAL_S = 0.5
"""Seconds between two savings of streamed text: what a kill can lose."""


@dataclass
class Tally:
    """What a run of requests has come to so far."""

    n_found: int = 0
    """Answered on the ledger before."""
    n_bought: int = 0
    n_failed: int = 0
    spent: float = 0.0
    """Money of all attempts on the ledger, those of earlier runs included."""
    last_error: str = ""

    @property
    def n_answered(self) -> int:
        return self.n_found + self.n_bought


@dataclass
class _Unsaved:
    """Text of a running attempt that is not on the disk yet."""

    n_saved: int = 0
    fresh: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])

    def add(self, text: str, is_reasoning: bool) -> None:
        self.fresh.append((text, is_reasoning))

    def take(self, attempt: int) -> Iterator[tuple[int, int, bool, str]]:
        """Give what is fresh as rows of the ledger, and forget it."""
        for kind in (True, False):
            if text := "".join(piece for piece, is_reasoning in self.fresh if is_reasoning is kind):
                self.n_saved += 1
                yield attempt, self.n_saved, kind, text
        self.fresh.clear()


class PaidCompleter:
    """A completer whose every attempt is on a ledger: `complete` for a few in memory, `settle` and `recall` for streams.

    `find_fault` says what is missing in an answer that the endpoint called whole, or nothing; `on_settled` hears of each item.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        ledger: Ledger,
        concurrency: int = 32,
        budget: float | None = None,
        find_fault: Callable[[str, str], str] = lambda reasoning, text: "",
        on_settled: Callable[[Tally], None] = lambda tally: None,
        patience: Patience | None = None,
    ) -> None:
        self.endpoint, self.ledger, self.target = endpoint, ledger, endpoint.target
        self.concurrency = max(1, min(concurrency, self.target.concurrency_cap or concurrency))
        self.patience = patience or Patience()
        self._budget, self._find_fault, self._on_settled = budget, find_fault, on_settled
        check_budget(budget, self.target)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer requests in memory, in their order."""
        self.settle(((f"request {number}", request) for number, request in enumerate(requests)), len(requests))
        recalled = [self.recall(request) for request in requests]
        return [completion for completion in recalled if completion is not None]

    def settle(self, labelled: Iterable[tuple[str, Request]], n_requests: int) -> Tally:
        """Ask for every request that has no answer on the ledger yet; memory does not grow with their number.

        Raises StoppedError when the budget is reached, the key refused, the balance empty or the provider fails for
        good; InputError when nobody answers at all or everything is refused. What was paid for is on the ledger.
        """
        self.ledger.start_run(n_requests)
        run = _Run(self, Tally(spent=self.ledger.spent()))
        asyncio.run(run.work_off(iter(labelled)))
        if run.tally.n_failed and not run.tally.n_answered:
            raise StoppedError(
                f"{self.target.base_url}: not one of {n_requests} was answered ({run.tally.last_error}); see to it, then {GO_ON}"
            )
        return run.tally

    def recall(self, request: Request) -> Completion | None:
        """Give what the ledger holds for a request: its answer, else its last failure; None when it was never asked."""
        attempts = self.ledger.attempts_of(self.key_of(request))
        if not attempts:
            return None
        best = next((a for a in attempts if a.outcome is Outcome.COMPLETE), attempts[-1])
        is_complete = best.outcome is Outcome.COMPLETE
        return Completion(
            reasoning=best.reasoning,
            text=best.text,
            finish_reason="stop" if is_complete else str(best.outcome or Outcome.UNKNOWN),
            complete=is_complete,
            usage=sum((a.usage for a in attempts if a.outcome and not a.outcome.is_free), Usage()),
            cost=Cost(amount=sum(a.amount for a in attempts), currency=best.currency),
            attempts=len(attempts),
            error="" if is_complete else best.error,
        )

    def key_of(self, request: Request) -> str:
        return item_key(self.target.name, self.target.model, request)

    def judge(self, answer: Answer) -> Answer:
        """Call an answer unreadable where the asker finds a part missing."""
        if answer.outcome is not Outcome.COMPLETE or not (fault := self._find_fault(answer.reasoning, answer.text)):
            return answer
        return replace(answer, outcome=Outcome.UNREADABLE, error=fault)

    def note(self, tally: Tally) -> None:
        self._on_settled(tally)

    def new_purse(self, spent: float) -> Purse:
        return Purse(self._budget, spent, self.target.provider.currency)


class _Run:
    """One run over many requests, inside one event loop."""

    def __init__(self, completer: PaidCompleter, tally: Tally) -> None:
        self.completer, self.tally = completer, tally
        self._ledger, self._target, self._patience = completer.ledger, completer.target, completer.patience
        self._breaker = Breaker(self._target, self._patience, completer.concurrency)
        self._purse = completer.new_purse(tally.spent)
        self._stopping = asyncio.Event()
        self._save_error: MedkdError | None = None
        self._unsaved: dict[int, _Unsaved] = {}
        self._in_progress: dict[str, asyncio.Event] = {}

    async def work_off(self, labelled: Iterator[tuple[str, Request]]) -> None:
        async with self.completer.endpoint.connected():
            saver = asyncio.create_task(self._save_regularly())
            workers = [asyncio.create_task(self._work(labelled)) for _ in range(self.completer.concurrency)]
            try:
                _, others = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
                self._stopping.set()
                if others:
                    await asyncio.wait(others, timeout=self._patience.drain_s)
            finally:
                self._stopping.set()
                for worker in workers:
                    worker.cancel()
                results = await asyncio.gather(*workers, return_exceptions=True)
                saver.cancel()
                await asyncio.gather(saver, return_exceptions=True)
                self._ledger.save_pieces([], self.tally.n_answered)
        errors = [r for r in results if isinstance(r, BaseException) and not isinstance(r, asyncio.CancelledError)]
        if error := next(iter(errors), self._save_error):
            raise error

    async def _work(self, labelled: Iterator[tuple[str, Request]]) -> None:
        for label, request in labelled:
            if self._stopping.is_set():
                return
            await self._settle_one(label, request)

    async def _settle_one(self, label: str, request: Request) -> None:
        key = self.completer.key_of(request)
        while running := self._in_progress.get(key):
            await running.wait()
        if self._ledger.is_complete(key):
            self.tally.n_found += 1
            self.completer.note(self.tally)
            await asyncio.sleep(0)  # a long run of found items must not starve the streams
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
        while not self._stopping.is_set():
            answer = await self._attempt_within_budget(key, label, request)
            if answer is None:
                return
            outcomes.append(answer.outcome)
            if answer.outcome is Outcome.COMPLETE:
                self.tally.n_bought += 1
            self._breaker.watch(answer, len(outcomes))
            if answer.outcome is Outcome.COMPLETE or not answer.outcome.is_worth_another_try or self._patience.is_spent(outcomes):
                self._count_failure(answer)
                self.completer.note(self.tally)
                return
            request = _with_room(request, answer)
            wait_s = self._patience.wait_s(outcomes, self._breaker.n_failures, answer.retry_after_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)

    def _count_failure(self, answer: Answer) -> None:
        if answer.outcome is not Outcome.COMPLETE:
            self.tally.n_failed += 1
            self.tally.last_error = answer.error

    async def _attempt_within_budget(self, key: str, label: str, request: Request) -> Answer | None:
        """Make one attempt once the budget allows its worst case; None where the run was stopped meanwhile."""
        price = self._target.price_at(datetime.now(UTC))
        worst = _worst_case(request, price)
        await self._purse.set_aside(worst)
        try:
            return None if self._stopping.is_set() else await self._attempt(key, label, request, price)
        finally:
            await self._purse.settle(worst, self.tally.spent)

    async def _attempt(self, key: str, label: str, request: Request, price: Price | None) -> Answer:
        """Make one attempt: its row opened before, its text saved as it comes, its row closed after, whatever happens."""
        n_prompt = estimate_tokens(message.content for message in request.messages)
        attempt = await asyncio.wrap_future(self._ledger.open_attempt(key, label, self._target, n_prompt, price))
        unsaved = self._unsaved[attempt] = _Unsaved()
        text: list[tuple[str, bool]] = []

        def hear(piece: str, is_reasoning: bool) -> None:
            unsaved.add(piece, is_reasoning)
            text.append((piece, is_reasoning))

        try:
            answer = self.completer.judge(await self.completer.endpoint.attempt(request, hear))
        except asyncio.CancelledError:
            self._close_interrupted(attempt, text, n_prompt, price)
            raise
        finally:
            del self._unsaved[attempt]
        closing = make_closing(answer, n_prompt, price)
        self.tally.spent += closing.amount
        await asyncio.shield(asyncio.wrap_future(self._ledger.close_attempt(attempt, closing)))
        return answer

    def _close_interrupted(self, attempt: int, text: list[tuple[str, bool]], n_prompt: int, price: Price | None) -> None:
        reasoning, content = ("".join(piece for piece, is_reasoning in text if is_reasoning is kind) for kind in (True, False))
        answer = Answer(Outcome.INTERRUPTED, reasoning, content, error="stopped by us")
        self._ledger.close_attempt(attempt, make_closing(answer, n_prompt, price))

    async def _save_regularly(self) -> None:
        """Put streamed text on the disk; a disk that takes no more stops the run."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            pieces = [row for attempt, unsaved in self._unsaved.items() for row in unsaved.take(attempt)]
            try:
                await asyncio.wrap_future(self._ledger.save_pieces(pieces, self.tally.n_answered))
            except MedkdError as error:
                self._save_error = error
                self._stopping.set()
                return


def _worst_case(request: Request, price: Price | None) -> float:
    """Give the most an attempt can cost: a token a character of the prompt, none cached, and every token allowed for."""
    n_prompt = sum(len(message.content) for message in request.messages)
    return price.amount(Usage(prompt=n_prompt, completion=request.sampling.max_tokens)) if price else 0.0


def _with_room(request: Request, answer: Answer) -> Request:
    """Allow twice the tokens where the limit itself cut the answer; an endpoint that merely says so gets the same again."""
    limit = request.sampling.max_tokens
    if answer.outcome is not Outcome.LENGTH or answer.usage is None or answer.usage.completion < 0.9 * limit:
        return request
    return request.model_copy(update={"sampling": request.sampling.model_copy(update={"max_tokens": 2 * limit})})
