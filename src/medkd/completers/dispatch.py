"""A completer that pays for every answer once: many requests at once, other tries where worth it, a
budget, stops that lose nothing.

In: requests, each with the id of the record it is for. Out: their answers on the ledger; nothing
completed is bought twice. Failures stay on the ledger too; `recall` gives either as a `Completion`.
Not done here: working the requests off (`completers.run`), HTTP (`completers.endpoint`), the rows
(`completers.ledger`).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic

from medkd.completers.attempts import item_key, recall
from medkd.completers.continuation import FindMissing
from medkd.completers.endpoint import Endpoint
from medkd.completers.hours import When
from medkd.completers.ledger import Ledger
from medkd.completers.patience import GO_ON, Patience
from medkd.completers.providers import check_terms
from medkd.core.completer import Completion, Request
from medkd.core.errors import InputError, StoppedError

PACE_WINDOW = 20
"""Savings of text over which tokens per second are taken."""


@dataclass
class Tally:
    """What a run of requests has come to so far."""

    n_found: int = 0
    """Answered on the ledger before."""
    n_bought: int = 0
    n_failed: int = 0
    n_running: int = 0
    limit: int = 0
    """Attempts that may run at once for now."""
    spent: float = 0.0
    """Money of all attempts on the ledger, those of earlier runs included."""
    spent_before: float = 0.0
    """Of it, that of earlier runs."""
    waits_s: float = 0.0
    """Seconds until the cheap hours it waits for; 0 while it works."""
    last_error: str = ""
    """Of an item given up."""
    trouble: str = ""
    """Why nothing comes any more, while attempt after attempt fails."""
    _pace: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=PACE_WINDOW))

    @property
    def n_answered(self) -> int:
        return self.n_found + self.n_bought

    @property
    def n_settled(self) -> int:
        return self.n_answered + self.n_failed

    @property
    def tokens_per_s(self) -> float:
        if len(self._pace) < 2:
            return 0.0
        (began, n_before), (now, n_tokens) = self._pace[0], self._pace[-1]
        return (n_tokens - n_before) / max(now - began, 1e-3)

    def note_tokens(self, n_tokens: int) -> None:
        self._pace.append((monotonic(), n_tokens))

    def projected(self, n_requests: int) -> float:
        """Project what the whole job will have cost, at the mean price of the answers bought in
        this run."""
        each = (self.spent - self.spent_before) / self.n_bought if self.n_bought else 0.0
        return self.spent + each * max(n_requests - self.n_settled, 0)


@dataclass(frozen=True)
class Terms:
    """How a run goes about asking."""

    concurrency: int = 32
    budget: float | None = None
    when: When = "now"
    patience: Patience = field(default_factory=Patience)
    find_missing: FindMissing = lambda reasoning, text: None
    """Says what is missing in an answer that the endpoint called whole."""
    on_progress: Callable[[Tally], None] = lambda tally: None
    """Hears of each settled item, and twice a second."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


class PaidCompleter:
    """Asks an endpoint over a ledger: `complete` for a few requests in memory, `settle` and
    `recall` for streams of them."""

    def __init__(self, endpoint: Endpoint, ledger: Ledger, terms: Terms | None = None) -> None:
        self.endpoint, self.ledger, self.target = endpoint, ledger, endpoint.target
        self.terms = terms or Terms()
        self.concurrency = max(
            1, min(self.terms.concurrency, self.target.concurrency_cap or self.terms.concurrency)
        )
        check_terms(self.target, self.terms.budget, self.terms.when)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer requests in memory, in their order."""
        self.settle(
            ((f"request {number}", request) for number, request in enumerate(requests)),
            len(requests),
        )
        recalled = [self.recall(request) for request in requests]
        return [completion for completion in recalled if completion is not None]

    def settle(self, labelled: Iterable[tuple[str, Request]], n_requests: int) -> Tally:
        """Ask for every request that has no answer on the ledger yet; memory does not grow with
        their number.

        Raises StoppedError when the budget is reached, the key refused, the balance empty, the
        provider fails for good or Ctrl-C is pressed; InputError when nobody answers at all or
        everything is refused. What was paid for is on the ledger.
        """
        from medkd.completers.run import Run

        _refuse_running_loop()
        self.ledger.start_run(n_requests)
        spent = self.ledger.spent()
        run = Run(self, Tally(spent=spent, spent_before=spent, limit=self.concurrency))
        asyncio.run(run.work_off(iter(labelled)))
        if run.tally.n_failed and not run.tally.n_answered:
            raise StoppedError(
                f"{self.target.base_url}: not one of {n_requests} was answered ({run.tally.last_error}); see to it, then {GO_ON}"
            )
        return run.tally

    def recall(self, request: Request) -> Completion | None:
        """Give what the ledger holds for a request: its answer, else its last failure; None when it
        was never asked."""
        return recall(self.ledger.attempts_of(self.key_of(request)))

    def key_of(self, request: Request) -> str:
        return item_key(self.target.name, self.target.model, request)


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InputError(
        "an event loop is running here, as in a notebook; ask from a thread: await asyncio.to_thread(completer.complete, requests)"
    )
