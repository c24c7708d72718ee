"""A completer that pays for every answer once: a model asked over a ledger.

In: requests, each with the id of its record. Out: answers; failures with their reason; the price
said before. Not done here: sending (`completers.scheduler`).
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from medkd.completers.costs import Expected, forecast
from medkd.completers.ledger import Ledger
from medkd.completers.outcomes import RESUME_HINT, from_fault_finder
from medkd.completers.providers import Target, check_budget
from medkd.completers.scheduler import Follow, Labelled, Progress, Report, RunOptions, Scheduler
from medkd.core.errors import InputError, StoppedError
from medkd.core.progress import Bar
from medkd.core.records import Completion, Cost, Request


class LedgerClient:
    """Ask a model over a ledger: `complete` for requests in memory, `run` and `recall` for streams
    of them."""

    def __init__(self, target: Target, ledger: Ledger, options: RunOptions | None = None) -> None:
        self.target, self.ledger = target, ledger
        self.options = options or RunOptions()
        self.totals = Counter[str]()
        """Requests of all its runs: `cached`, `new`, `failed`."""
        check_budget(self.target, self.options.budget, self.options.when)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer requests in memory, in their order; a run with a name says their price first."""
        if self.options.name:
            self.announce(requests)
        labelled = ((f"request {number}", request) for number, request in enumerate(requests))
        self.run(labelled, len(requests))
        recalled = [self.recall(request) for request in requests]
        return [completion for completion in recalled if completion is not None]

    def run(
        self,
        labelled: Iterable[tuple[str, Request]],
        n_requests: int,
        follow: Follow = lambda label: (),
    ) -> Progress:
        """Ask for every request that has no answer on the ledger yet; memory does not grow with
        their number. `follow` says what is to be asked after each that is over.

        Raises StoppedError when the budget is reached, the key refused, the balance empty, the
        provider fails for good or Ctrl-C is pressed; InputError when nobody answers at all or
        everything is refused. What was paid for is on the ledger.
        """
        _refuse_running_loop()
        self.ledger.start_run(n_requests)
        spent = self.ledger.spent()
        progress = Progress(spent=spent, spent_before=spent, limit=self.options.concurrency)
        try:
            with self._open_display(n_requests) as report:
                asyncio.run(self.work_off(iter(labelled), progress, follow, report))
        finally:
            counts = {"cached": progress.n_cached, "new": progress.n_new}
            self.totals.update(counts, failed=progress.n_failed)
        if progress.n_failed and not progress.n_answered:
            raise StoppedError(
                "{}: not one of {} was answered ({}); check it, then {}",
                self.target.base_url,
                n_requests,
                progress.last_error,
                RESUME_HINT,
            )
        return progress

    async def work_off(
        self, labelled: Labelled, progress: Progress, follow: Follow, report: Report
    ) -> None:
        """Send what has no answer yet, and count in `progress` what comes of it."""
        target, ledger, options = self.target, self.ledger, self.options
        await Scheduler(target, ledger, options, progress, follow, report).run(labelled)

    @contextmanager
    def _open_display(self, n_requests: int) -> Generator[Report]:
        if not self.options.name:
            yield self.options.on_progress
            return
        with Bar(self.options.name, n_requests, unit="answers") as bar:

            def report(progress: Progress) -> None:
                bar.total = n_requests + progress.n_added
                note = progress.describe(self.target, n_requests)
                bar.reach(progress.n_done, progress.n_cached, note)
                self.options.on_progress(progress)

            yield report

    def announce(self, requests: Iterable[Request]) -> None:
        """Say what requests will cost before they are sent."""
        ahead = forecast(map(Expected, requests), self.target, self.ledger)
        if ahead.to_buy:
            print(f"{self.options.name}: {ahead.summarise()}", file=sys.stderr, flush=True)

    def tell_cost(self) -> Cost:
        """Return what all attempts on the ledger have cost."""
        currency = self.target.provider.currency
        return Cost(amount=round(self.ledger.spent(), 6), currency=currency)

    def recall(self, request: Request) -> Completion | None:
        """Return what the ledger holds for a request: its answer, else its last failure; None if it
        was never asked."""
        return self.ledger.recall(self.key_of(request))

    def key_of(self, request: Request) -> str:
        return self.target.item_key(request)


@contextmanager
def open_client(
    target: Target,
    ledger_path: Path,
    name: str,
    find_fault: Callable[[str, str], str] = lambda reasoning, text: "",
    budget: float | None = None,
    concurrency: int = 32,
) -> Generator[LedgerClient]:
    """Open a client over the ledger of a directory; `name` stands before what it says, `find_fault`
    says what makes a reply unreadable, so that it is asked for again."""
    missing = from_fault_finder(find_fault)
    with Ledger(ledger_path) as ledger:
        yield LedgerClient(
            target, ledger, RunOptions(name, concurrency, budget, find_missing=missing)
        )


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InputError(
        "an event loop is running here, as in a notebook; ask from a thread: "
        "await asyncio.to_thread(completer.complete, requests)"
    )
