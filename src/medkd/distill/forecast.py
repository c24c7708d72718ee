"""What a job would cost before it is paid: the same requests as a run would send, counted against
the ledger, priced and not sent.

In: a config, a file of questions, the ledger of its directory where there is one. Out: a
`Forecast`.
Not done here: what was already paid (`distill.bill`). Tokens are estimated from characters; how
long answers are is known only from answers on the ledger, and assumed before there are any.
"""

from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from medkd.completers.accounts import Accounts, open_accounts
from medkd.completers.attempts import FILE_NAME, item_key, recall
from medkd.completers.providers import Target, estimate_tokens
from medkd.core.completer import Completion, Request
from medkd.core.records import Record, Usage
from medkd.distill.stage import Config
from medkd.distill.walk import Walk

ASSUMED_TOKENS = {False: 700, True: 2500}
"""Tokens of an answer without and with the teacher's own thinking, before the ledger knows
better."""
MIN_KNOWN = 5
"""Answers on a ledger from which their mean length is trusted."""


class Forecast(Record):
    """A job priced and not sent."""

    teacher: str
    model: str
    requests: int
    answered: int
    """Of them, on the ledger already: they cost nothing."""
    n_prompt: int
    """Tokens of the prompts still to send."""
    n_shared: int
    """Of them, those of the constant text at the beginning, which the context cache makes cheap."""
    n_answer: int
    """Tokens of the answers still to come, at the mean length."""
    mean_answer: float
    is_assumed: bool
    """Whether that length is assumed for want of answers to go by."""
    currency: str
    now: float | None
    """Money at this hour's price; None where none is known."""
    dear: float | None
    """Money at the peak price; None where there is none."""
    at_most: float | None
    """Money if every answer ran to --max-tokens, at this hour's price and with no cache."""

    @property
    def to_buy(self) -> int:
        return self.requests - self.answered

    def render(self) -> str:
        """Write it down in a few lines."""
        source = (
            "assumed: no answers on the ledger to go by"
            if self.is_assumed
            else "the mean on the ledger"
        )
        lines = [
            f"{self.teacher} {self.model}: {self.requests:,} answers wanted, {self.answered:,} on the ledger, {self.to_buy:,} to buy",
            f"prompts  about {self.n_prompt:,} tokens, {self.n_shared:,} of them the constant text that the context cache makes cheap",
            f"answers  about {self.n_answer:,} tokens, {self.mean_answer:,.0f} each ({source})",
        ]
        if self.now is None:
            return "\n".join(
                [
                    *lines,
                    "cost     unknown: no price is known for this model; give it in a file for --providers",
                ]
            )
        dear = f", {self.dear:.4f} in the dear hours" if self.dear is not None else ""
        lines.append(
            f"cost     about {self.now:.4f} {self.currency} at this hour's price{dear}; at most {self.at_most:.4f} for one attempt each"
        )
        return "\n".join(
            [
                *lines,
                "rerun    answers on the ledger are free: the same job costs this now and nothing once they are all there",
            ]
        )


class _Counted(NamedTuple):
    """The requests of a job, counted against a ledger."""

    n_answered: int
    n_to_buy: int
    n_prompt: int
    n_shared: int
    is_thinking: bool
    lengths: tuple[int, float]


def forecast(config: Config, path: Path, target: Target) -> Forecast:
    """Price what a run of this config would still buy."""
    with open_accounts(config.out / FILE_NAME) as accounts:
        counted = _count(Walk(path, config), target, accounts)
    n_known, mean = counted.lengths
    is_assumed = n_known < MIN_KNOWN
    mean = (
        float(min(ASSUMED_TOKENS[counted.is_thinking], config.max_tokens)) if is_assumed else mean
    )
    n_answer = round(mean * counted.n_to_buy)
    usage = Usage(prompt=counted.n_prompt, cache_hit=counted.n_shared, completion=n_answer)
    most = Usage(prompt=counted.n_prompt, completion=config.max_tokens * counted.n_to_buy)
    now = target.price_at(datetime.now(UTC))
    dear = target.provider.models[target.model].peak_price if target.is_priced else None
    return Forecast(
        teacher=target.name,
        model=target.model,
        requests=counted.n_answered + counted.n_to_buy,
        answered=counted.n_answered,
        n_prompt=counted.n_prompt,
        n_shared=counted.n_shared,
        n_answer=n_answer,
        mean_answer=round(mean, 1),
        is_assumed=is_assumed,
        currency=target.provider.currency,
        now=now.amount(usage) if now else None,
        dear=dear.amount(usage) if dear else None,
        at_most=now.amount(most) if now else None,
    )


def _count(walk: Walk, target: Target, accounts: Accounts) -> _Counted:
    n_answered = n_to_buy = n_prompt = 0
    start: str | None = None
    is_thinking = False

    def find(request: Request) -> Completion | None:
        return recall(accounts.attempts_of(item_key(target.name, target.model, request)))

    for _, request in chain(
        walk.first_requests(), walk.second_requests(find, is_answered_only=True)
    ):
        if accounts.is_complete(item_key(target.name, target.model, request)):
            n_answered += 1
            continue
        n_to_buy += 1
        text = "\n".join(message.content for message in request.messages)
        n_prompt += estimate_tokens([text])
        is_thinking |= bool(request.sampling.thinking)
        start = text if start is None else _common_start(start, text)
    n_shared = estimate_tokens([start or ""]) * max(n_to_buy - 1, 0)
    return _Counted(
        n_answered,
        n_to_buy,
        n_prompt,
        n_shared,
        is_thinking,
        accounts.answer_lengths(target.name, target.model),
    )


def _common_start(one: str, other: str) -> str:
    n = next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    return one[:n]
