"""Money: what a ledger says was paid, and what requests that are not sent yet will cost.

In: a ledger; requests and a target. Out: sums by model and outcome, by day; a `Forecast`, in which
tokens are estimated from characters and the length of answers from those on the ledger.
Not done here: what is asked; the bill of a directory (`distill.bill`).
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from os.path import commonprefix
from typing import NamedTuple

from medkd.completers.ledger import LedgerReader, make_usage
from medkd.completers.outcomes import AttemptOutcome
from medkd.completers.providers import Target, estimate_tokens
from medkd.core.records import Record, Request, Usage

_USED = """
WITH RECURSIVE used (id) AS (
  SELECT id FROM attempts WHERE outcome = 'complete'
  UNION SELECT attempts.continues FROM attempts JOIN used ON attempts.id = used.id
  WHERE attempts.continues IS NOT NULL)"""
_BILL = f"""{_USED}
SELECT provider, model, COALESCE(outcome, 'unknown') AS outcome, COUNT(*),
  SUM(is_estimate AND n_prompt + n_completion > 0),
  SUM(price IS NULL AND n_prompt + n_completion > 0),
  ROUND(SUM(amount), 6), currency,
  ROUND(SUM(CASE WHEN id IN (SELECT id FROM used) THEN 0 ELSE amount END), 6),
  TOTAL(CASE WHEN id IN (SELECT id FROM used) THEN 0 ELSE n_completion END),
  TOTAL(n_prompt), TOTAL(n_cache_hit), TOTAL(n_completion), TOTAL(n_reasoning)
FROM attempts GROUP BY 1, 2, 3, currency ORDER BY 1, 2, 3, currency"""  # noqa: S608 - no input
_SERVED = """
SELECT attempts.model, served.model, COUNT(*) FROM served
JOIN attempts ON attempts.id = served.attempt GROUP BY 1, 2 ORDER BY 1, 2"""
_DAYS = """
SELECT substr(started_at, 1, 10), COUNT(*), ROUND(SUM(amount), 6), currency
FROM attempts GROUP BY 1, 4 ORDER BY 1, 4"""


class BillLine(Record):
    """The attempts of one model that ended in one way."""

    provider: str
    model: str
    outcome: str
    attempts: int
    estimated: int
    """Attempts whose tokens are an estimate."""
    unpriced: int
    """Attempts whose price is not known; `amount` leaves them out."""
    usage: Usage
    amount: float
    currency: str
    wasted: float
    """The part of `amount` that no answer came of, neither at once nor by resuming it."""
    wasted_tokens: int
    """Tokens of answers and reasoning, likewise."""


class BillDay(Record):
    """The attempts that began on one day (UTC)."""

    day: str
    attempts: int
    amount: float
    currency: str


def count_items(ledger: LedgerReader) -> tuple[int, int]:
    """Count the items that were asked, and those that are answered."""
    answered = "CASE WHEN outcome = ? THEN item END"
    query = f"SELECT COUNT(DISTINCT item), COUNT(DISTINCT {answered}) FROM attempts"  # noqa: S608
    return ledger.select(query, AttemptOutcome.COMPLETE)[0]


def list_lines(ledger: LedgerReader) -> list[BillLine]:
    """Sum up attempts by model and outcome."""
    names = [name for name in BillLine.model_fields if name not in {"usage", "wasted_tokens"}]
    return [
        BillLine(
            **dict(zip(names, row[:-5], strict=True)),
            wasted_tokens=int(row[-5]),
            usage=make_usage(row[-4:]),
        )
        for row in ledger.select(_BILL)
    ]


def list_days(ledger: LedgerReader) -> list[BillDay]:
    """Sum up attempts by the day on which they began."""
    fields = BillDay.model_fields
    return [BillDay(**dict(zip(fields, row, strict=True))) for row in ledger.select(_DAYS)]


def list_served(ledger: LedgerReader) -> list[tuple[str, str, int]]:
    """List model asked, model that replies state instead, and attempts."""
    has_table = ledger.select("SELECT 1 FROM sqlite_master WHERE name = 'served'")
    return ledger.select(_SERVED) if has_table else []


def measure_answers(ledger: LedgerReader, target: Target) -> tuple[int, float]:
    """Return the number of a model's answers and the mean of their tokens, all attempts that led to
    an answer counted."""
    query = (
        "SELECT TOTAL(outcome = ?), TOTAL(n_completion) FROM attempts "
        "WHERE provider = ? AND model = ?"
    )
    found = ledger.select(query, AttemptOutcome.COMPLETE, target.name, target.model)
    n_answers, n_tokens = found[0]
    return (int(n_answers), n_tokens / n_answers) if n_answers else (0, 0.0)


# --- Beforehand

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
        price = "an unknown price"
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
        if ledger.is_complete(target.item_key(request)):
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
    n_known, mean = measure_answers(ledger, target)
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
