"""A completer that pays for every answer once: an endpoint asked over a ledger.

In: requests, each with the id of its record. Out: answers; failures with their reason.
Not done here: the run itself (`completers.scheduler`), the rows (`completers.ledger`).
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence

from medkd.completers.endpoint import Endpoint
from medkd.completers.ledger import Ledger, item_key
from medkd.completers.limits import RESUME_HINT
from medkd.completers.providers import check_budget
from medkd.completers.scheduler import Progress, RunOptions, Scheduler
from medkd.core.completer import Completion, Request
from medkd.core.errors import InputError, StoppedError


class LedgerClient:
    """Ask an endpoint over a ledger: `complete` for requests in memory, `run` and `recall` for
    streams of them."""

    def __init__(
        self, endpoint: Endpoint, ledger: Ledger, options: RunOptions | None = None
    ) -> None:
        self.endpoint, self.ledger, self.target = endpoint, ledger, endpoint.target
        self.options = options or RunOptions()
        self.totals = Counter[str]()
        """Requests of all runs of this client: `cached`, `new`, `failed`."""
        check_budget(self.target, self.options.budget, self.options.when)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer requests in memory, in their order."""
        labelled = ((f"request {number}", request) for number, request in enumerate(requests))
        self.run(labelled, len(requests))
        recalled = [self.recall(request) for request in requests]
        return [completion for completion in recalled if completion is not None]

    def run(self, labelled: Iterable[tuple[str, Request]], n_requests: int) -> Progress:
        """Ask for every request that has no answer on the ledger yet; memory does not grow with
        their number.

        Raises StoppedError when the budget is reached, the key refused, the balance empty, the
        provider fails for good or Ctrl-C is pressed; InputError when nobody answers at all or
        everything is refused. What was paid for is on the ledger.
        """
        _refuse_running_loop()
        self.ledger.start_run(n_requests)
        spent = self.ledger.spent()
        progress = Progress(spent=spent, spent_before=spent, limit=self.options.concurrency)
        scheduler = Scheduler(self.endpoint, self.ledger, self.options, progress)
        try:
            asyncio.run(scheduler.run(iter(labelled)))
        finally:
            self.totals.update(
                cached=progress.n_cached, new=progress.n_new, failed=progress.n_failed
            )
        if progress.n_failed and not progress.n_answered:
            raise StoppedError(
                f"{self.target.base_url}: not one of {n_requests} was answered "
                f"({progress.last_error}); check it, then {RESUME_HINT}"
            )
        return progress

    def recall(self, request: Request) -> Completion | None:
        """Return what the ledger holds for a request: its answer, else its last failure; None if it
        was never asked."""
        return self.ledger.recall(self.key_of(request))

    def key_of(self, request: Request) -> str:
        return item_key(self.target.name, self.target.model, request)


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InputError(
        "an event loop is running here, as in a notebook; ask from a thread: "
        "await asyncio.to_thread(completer.complete, requests)"
    )
