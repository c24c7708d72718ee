"""One round of requests to an endpoint: the price said before, a bar with the cost while it runs.

In: a target, a ledger's path. Out: a client that is a `Completer`.
Not done here: what is asked; which answers are readable.
"""

import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from medkd.completers.client import Follow, LedgerClient, Progress, RunOptions
from medkd.completers.costs import Expected, forecast
from medkd.completers.endpoint import Endpoint
from medkd.completers.ledger import Ledger
from medkd.completers.providers import Target, find_target
from medkd.completers.resume import MissingPart
from medkd.core.completer import Completion, Request
from medkd.core.errors import InputError
from medkd.core.progress import Bar
from medkd.core.records import Cost

FindFault = Callable[[str, str], str]
"""Says what makes a reply (reasoning, text) unreadable, so that it is asked for again."""


def find_target_of(endpoint: str, model: str, flag: str) -> Target:
    """Find whom to ask by the name of a provider or by an address; `flag` named it."""
    name, address = ("custom", endpoint) if "://" in endpoint else (endpoint, "")
    try:
        return find_target(name, model, address)
    except InputError as error:
        message = str(error).replace("--teacher custom", f"{flag} {endpoint}")
        raise InputError(message.replace("--teacher", flag)) from error


class Session(LedgerClient):
    """A client that says what its requests will cost before it sends them."""

    def __init__(
        self,
        target: Target,
        ledger: Ledger,
        name: str,
        find_fault: FindFault = lambda reasoning, text: "",
        budget: float | None = None,
    ) -> None:
        self.name = name
        self._bar: Bar | None = None

        def find_missing(reasoning: str, text: str) -> MissingPart | None:
            fault = find_fault(reasoning, text)
            return MissingPart(fault, is_at_end=False) if fault else None

        options = RunOptions(budget=budget, find_missing=find_missing, on_progress=self._show)
        super().__init__(Endpoint(target), ledger, options)

    def _show(self, progress: Progress) -> None:
        cost = f"{progress.spent:.4f} {self.target.provider.currency}"
        if self._bar:
            shown = cost if self.target.is_priced else "price unknown"
            self._bar.reach(progress.n_done, progress.n_cached, shown)

    def announce(self, requests: Iterable[Request], max_tokens: int) -> None:
        """Say what requests will cost before they are sent."""
        ahead = forecast(map(Expected, requests), self.target, self.ledger, max_tokens)
        if ahead.to_buy:
            print(f"{self.name}: {ahead.summarise()}", file=sys.stderr, flush=True)

    def run(
        self,
        labelled: Iterable[tuple[str, Request]],
        n_requests: int,
        follow: Follow = lambda label: (),
    ) -> Progress:
        """Ask as `LedgerClient.run` does, under a bar that shows the cost."""
        with Bar(self.name, n_requests, unit="answers") as self._bar:
            return super().run(labelled, n_requests, follow)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer requests in memory, in their order; their price is said first."""
        if requests:
            self.announce(requests, max(r.sampling.max_tokens for r in requests))
        return super().complete(requests)

    def tell_cost(self) -> Cost:
        """Return what all attempts on the ledger have cost."""
        currency = self.target.provider.currency
        return Cost(amount=round(self.ledger.spent(), 6), currency=currency)


@contextmanager
def open_session(
    target: Target,
    ledger_path: Path,
    name: str,
    find_fault: FindFault = lambda reasoning, text: "",
    budget: float | None = None,
) -> Generator[Session]:
    """Open a session over the ledger of a directory."""
    with Ledger(ledger_path) as ledger:
        yield Session(target, ledger, name, find_fault, budget)
