"""What a job would cost: the requests of a run, counted against the ledger, priced and not sent.

In: requests, a target, a ledger to read. Out: a `Forecast`; tokens are estimated from characters,
the length of answers from those on the ledger.
Not done here: what was already paid (`distill.bill`).
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from os.path import commonprefix
from typing import NamedTuple

from medkd.completers.ledger import LedgerReader, item_key
from medkd.completers.providers import Target, estimate_tokens
from medkd.core.completer import Request
from medkd.core.records import Record, Usage

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
    max_tokens: int,
    note: str = "",
) -> Forecast:
    """Price those of the requests that have no answer on the ledger."""
    n_answered = n_to_buy = n_prompt_most = 0
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
        is_thinking |= bool(request.sampling.thinking)
        start = text if start is None else commonprefix([start, text])  # noqa: RUF071 - by characters, as the cache does
    n_prompt = round(n_prompt_expected)
    n_shared = round(estimate_tokens([start or ""]) * max(n_expected - 1, 0))
    n_known, mean = ledger.answer_lengths(target.name, target.model)
    is_assumed = n_known < MIN_KNOWN
    if is_assumed:
        mean = float(min(ASSUMED_TOKENS[is_thinking], max_tokens))
    n_answer = round(mean * n_expected)
    usage = Usage(prompt=n_prompt, cache_hit=n_shared, completion=n_answer)
    most = Usage(prompt=n_prompt_most, completion=max_tokens * n_to_buy)
    now = target.price_at(datetime.now(UTC))
    dear = target.provider.models[target.model].peak_price if target.is_priced else None
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
