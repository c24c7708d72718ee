"""Requests to an endpoint with their price said before: a job counted against the ledger, priced
and not sent; a client that does so for its own requests.

In: requests, a target, a ledger. Out: a `Forecast`, in which tokens are estimated from characters
and the length of answers from those on the ledger; a `Session`. Not done here: what is asked; what
was already paid (`distill.bill`).
"""

import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from os.path import commonprefix
from pathlib import Path
from typing import NamedTuple

from medkd.completers.client import LedgerClient, RunOptions
from medkd.completers.endpoint import Endpoint
from medkd.completers.ledger import Ledger, LedgerReader, item_key
from medkd.completers.outcomes import from_fault_finder
from medkd.completers.providers import Target, estimate_tokens, find_target
from medkd.core.errors import InputError
from medkd.core.records import Completion, Cost, Record, Request, Usage

FindFault = Callable[[str, str], str]
"""Says what makes a reply (reasoning, text) unreadable, so that it is asked for again."""
ASSUMED_TOKENS = {False: 700, True: 2500}
"""Tokens of an answer without and with the teacher's own thinking, before the ledger knows
better."""
MIN_KNOWN = 5
"""Answers on a ledger from which their mean length is trusted."""


class Expected(NamedTuple):
    """A request that a run may send, and the probability that it will."""

    request: Request
    chance: float = 1.0


class Forecast(Record):
    """A job priced and not sent."""

    teacher: str
    model: str
    requests: int
    """Answers wanted at most."""
    answered: int
    """Of them, on the ledger already: they cost nothing."""
    n_expected: float
    """Answers that are likely to be bought, where not all of the others are sure to be."""
    note: str = ""
    """What that expectation rests on."""
    n_prompt: int
    """Tokens of the prompts still to send."""
    n_shared: int
    """Of them, those of the constant text at the beginning, which the context cache makes cheap."""
    n_answer: int
    """Tokens of the answers still to come, at the mean length."""
    mean_answer: float
    is_assumed: bool
    """Whether that length is assumed for want of answers."""
    currency: str
    now: float | None
    """Money at this hour's price; None if none is known."""
    dear: float | None
    """Money at the peak price; None if there is none."""
    at_most: float | None
    """Money if every answer were bought and ran to --max-tokens, at this hour's price and with no
    cache."""

    @property
    def to_buy(self) -> int:
        return self.requests - self.answered

    def summarise(self) -> str:
        """Say on one line how many answers are to be bought, and for how much."""
        price = "price unknown"
        if self.now is not None:
            price = f"about {self.now:.4f} {self.currency}, at most {self.at_most:.4f}"
        to_buy = "the rest costs"
        if self.n_expected < self.to_buy:
            to_buy = f"about {self.n_expected:,.0f} of the others are expected, for"
        return (
            f"{self.teacher} {self.model}: {self.requests:,} requests, {self.answered:,} of them "
            f"on the ledger; {to_buy} {price}{f'; {self.note}' if self.note else ''}"
        )

    def render(self) -> str:
        """Render it in a few lines."""
        source = "the mean on the ledger"
        if self.is_assumed:
            source = "assumed: no answers on the ledger to go by"
        to_buy = f"{self.to_buy:,} to buy"
        if self.n_expected < self.to_buy:
            to_buy = f"about {self.n_expected:,.0f} to buy, at most {self.to_buy:,}; {self.note}"
        lines = [
            f"{self.teacher} {self.model}: {self.requests:,} answers wanted, {self.answered:,} on "
            f"the ledger, {to_buy}",
            f"prompts  about {self.n_prompt:,} tokens, {self.n_shared:,} of them the constant text "
            "that the context cache makes cheap",
            f"answers  about {self.n_answer:,} tokens, {self.mean_answer:,.0f} each ({source})",
        ]
        if self.now is None:
            unknown = "no price is known for this model; give it in a file for --providers"
            return "\n".join([*lines, f"cost     unknown: {unknown}"])
        dear = f", {self.dear:.4f} in the dear hours" if self.dear is not None else ""
        lines += [
            f"cost     about {self.now:.4f} {self.currency} at this hour's price{dear}; at most "
            f"{self.at_most:.4f} for one attempt each",
            "rerun    answers on the ledger are free: the same job costs this now and nothing once "
            "they are all there",
        ]
        return "\n".join(lines)


def forecast(
    expected: Iterable[Expected],
    target: Target,
    ledger: LedgerReader,
    note: str = "",
) -> Forecast:
    """Price those of the requests that have no answer on the ledger."""
    n_answered = n_to_buy = n_prompt_most = n_answer_most = longest = 0
    n_expected = n_prompt_expected = 0.0
    start: str | None = None
    is_thinking = False
    for request, chance in expected:
        if ledger.is_complete(item_key(target.name, target.model, request)):
            n_answered += 1
            continue
        text = "\n".join(message.content for message in request.messages)
        n_tokens = estimate_tokens([text])
        n_to_buy, n_prompt_most = n_to_buy + 1, n_prompt_most + n_tokens
        n_expected, n_prompt_expected = n_expected + chance, n_prompt_expected + chance * n_tokens
        n_answer_most += request.sampling.max_tokens
        longest = max(longest, request.sampling.max_tokens)
        is_thinking |= bool(request.sampling.thinking)
        start = text if start is None else commonprefix([start, text])  # noqa: RUF071 - by characters, as the cache does
    n_prompt = round(n_prompt_expected)
    n_shared = round(estimate_tokens([start or ""]) * max(n_expected - 1, 0))
    n_known, mean = ledger.answer_lengths(target.name, target.model)
    is_assumed = n_known < MIN_KNOWN
    if is_assumed:
        mean = float(min(ASSUMED_TOKENS[is_thinking], longest))
    n_answer = round(mean * n_expected)
    usage = Usage(prompt=n_prompt, cache_hit=n_shared, completion=n_answer)
    most = Usage(prompt=n_prompt_most, completion=n_answer_most)
    now = target.price_at(datetime.now(UTC))
    dear = target.terms.peak_price if target.terms else None
    dear = dear.scale(target.price_share) if dear else None
    return Forecast(
        teacher=target.name,
        model=target.model,
        requests=n_answered + n_to_buy,
        answered=n_answered,
        n_expected=round(n_expected, 2),
        note=note,
        n_prompt=n_prompt,
        n_shared=n_shared,
        n_answer=n_answer,
        mean_answer=round(mean, 1),
        is_assumed=is_assumed,
        currency=target.provider.currency,
        now=now.amount(usage) if now else None,
        dear=dear.amount(usage) if dear else None,
        at_most=now.amount(most) if now else None,
    )


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

    def announce(self, requests: Iterable[Request]) -> None:
        """Say what requests will cost before they are sent."""
        ahead = forecast(map(Expected, requests), self.target, self.ledger)
        if ahead.to_buy:
            print(f"{self.options.name}: {ahead.summarise()}", file=sys.stderr, flush=True)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer requests in memory, in their order; their price is said first."""
        self.announce(requests)
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
    """Open a session over the ledger of a directory; `name` stands before what it says."""
    with Ledger(ledger_path) as ledger:
        options = RunOptions(name=name, budget=budget, find_missing=from_fault_finder(find_fault))
        yield Session(Endpoint(target), ledger, options)
