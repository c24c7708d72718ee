"""What a ledger says was paid, what of it was wasted and why, and what a rerun would cost.

In: a ledger, or a directory with one in it. Out: a `Bill`, as a table or as JSON.
Not done here: asking the provider; where it reported no usage, tokens are our estimate, and counted
as such.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from medkd.completers.accounts import PaidFor, open_accounts
from medkd.completers.attempts import FILE_NAME
from medkd.completers.outcomes import Outcome
from medkd.core.errors import InputError
from medkd.core.jsonl import resolve_input
from medkd.core.records import Record, Usage
from medkd.core.stage_output import read_manifest
from medkd.distill.forecast import Forecast, forecast
from medkd.distill.stage import Config, choose_target


class BillLine(Record):
    """The attempts of one model that ended in one way."""

    provider: str
    model: str
    outcome: str
    attempts: int
    estimated: int
    """Attempts whose tokens are an estimate."""
    usage: Usage
    amount: float
    currency: str
    wasted: float
    """The part of `amount` that no answer came of, neither at once nor by going on from it."""
    wasted_tokens: int
    """Tokens of answers and reasoning, likewise."""


class BillDay(Record):
    """The attempts that began on one day (UTC)."""

    day: str
    attempts: int
    amount: float
    currency: str


class Bill(Record):
    """All that a ledger holds, in money."""

    path: str
    items: int
    answered: int
    attempts: int
    unknown: int
    """Attempts sent whose end nobody saw: at most one an item and crash."""
    unpriced: int
    """Attempts of models whose price is not known; the money here leaves them out."""
    amounts: dict[str, float]
    """Currency to money paid."""
    wasted: dict[str, float]
    missing: int
    """Answers a rerun would buy, of the questions as they are now; where these are gone, what the
    last run is short of."""
    rerun: dict[str, float]
    """What those would cost; 0 when nothing changed. Empty where no price is known."""
    lines: tuple[BillLine, ...]
    days: tuple[BillDay, ...]


def bill(path: Path) -> Bill:
    """Read the bill of a ledger; raises InputError where there is none."""
    ledger_path = _find_ledger(path)
    with open_accounts(ledger_path) as accounts:
        found = list(accounts.paid_for())
        days = [
            BillDay(
                day=one.day,
                attempts=one.n_attempts,
                amount=round(one.amount, 6),
                currency=one.currency,
            )
            for one in accounts.paid_on()
        ]
        n_items, n_answered = accounts.count_items()
        n_missing = accounts.count_missing()
    amounts = _sum_by_currency((line.currency, line.amount) for line in found)
    rerun = {
        currency: round(n_missing * amount / max(n_answered, 1), 6)
        for currency, amount in amounts.items()
    }
    if ahead := _forecast(ledger_path):
        n_missing = ahead.to_buy
        rerun = (
            {} if n_missing and ahead.now is None else {ahead.currency: round(ahead.now or 0.0, 6)}
        )
    return Bill(
        path=str(ledger_path),
        items=n_items,
        answered=n_answered,
        attempts=sum(line.n_attempts for line in found),
        unknown=sum(line.n_attempts for line in found if line.outcome == Outcome.UNKNOWN),
        unpriced=sum(line.n_unpriced for line in found),
        amounts=amounts,
        wasted=_sum_by_currency((line.currency, line.wasted) for line in found),
        missing=n_missing,
        rerun=rerun,
        lines=tuple(_make_line(line) for line in found),
        days=tuple(days),
    )


def _forecast(ledger_path: Path) -> Forecast | None:
    """Price a rerun of the stage that the ledger belongs to; None where its config or its questions
    are no longer to be read."""
    try:
        config = Config.model_validate(read_manifest(ledger_path.parent).config)
        config = config.model_copy(update={"out": ledger_path.parent})
        return forecast(
            config,
            resolve_input(config.input, "questions.jsonl", made_by="prepare"),
            choose_target(config, is_key_needed=False),
        )
    except (InputError, ValidationError):
        return None


def render(found: Bill) -> str:
    """Write a bill as a table of plain text."""
    head = (
        "model",
        "outcome",
        "attempts",
        "prompt",
        "cached",
        "answer",
        "reasoning",
        "paid",
        "wasted",
        "tokens wasted",
    )
    rows = [
        (
            *(f"{line.provider} {line.model}", line.outcome, f"{line.attempts:,}"),
            *(f"{n:,}" for n in (line.usage.prompt, line.usage.cache_hit)),
            *(
                f"{n:,}"
                for n in (line.usage.completion - line.usage.reasoning, line.usage.reasoning)
            ),
            *(
                f"{line.amount:.4f} {line.currency}",
                f"{line.wasted:.4f}",
                f"{line.wasted_tokens:,}",
            ),
        )
        for line in found.lines
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    table = [
        "  ".join(
            _pad(cell, width, column)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    n_wasted = sum(line.wasted_tokens for line in found.lines)
    n_estimated = sum(line.estimated for line in found.lines)
    summary = [
        "",
        f"{found.answered:,} of {found.items:,} items answered in {found.attempts:,} attempts",
        f"paid     {_format_money(found.amounts)}",
        f"wasted   {_format_money(found.wasted)} and {n_wasted:,} tokens of text that no answer came of{_why(found)}",
        f"unknown  {found.unknown:,} attempts sent whose end nobody saw; {n_estimated:,} attempts have their tokens by estimate",
        f"rerun    {_format_money(found.rerun) if found.rerun else 'price unknown'} for {found.missing:,} missing answers",
    ]
    if found.unpriced:
        summary.append(
            f"no price is known for {found.unpriced:,} attempts; they are left out of the money above"
        )
    return "\n".join([*table, *summary])


def _find_ledger(path: Path) -> Path:
    candidates = [path] if path.is_file() else [path / FILE_NAME, path / "distill" / FILE_NAME]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise InputError(f'{path}: no {FILE_NAME} there; give the --out of "medkd distill"')
    return found


def _make_line(line: PaidFor) -> BillLine:
    return BillLine(
        provider=line.provider,
        model=line.model,
        outcome=line.outcome,
        attempts=line.n_attempts,
        estimated=line.n_estimated,
        usage=line.usage,
        amount=round(line.amount, 6),
        currency=line.currency,
        wasted=round(line.wasted, 6),
        wasted_tokens=line.n_wasted,
    )


def _sum_by_currency(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for currency, amount in pairs:
        sums[currency] += amount
    return {currency: round(amount, 6) for currency, amount in sums.items()}


def _format_money(amounts: dict[str, float]) -> str:
    return " + ".join(f"{amount:.4f} {currency}" for currency, amount in amounts.items()) or "0"


def _why(found: Bill) -> str:
    """Name what the waste went to, the dearest first."""
    wasted: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for line in found.lines:
        amount, n_tokens = wasted[line.outcome]
        wasted[line.outcome] = amount + line.wasted, n_tokens + line.wasted_tokens
    reasons = [
        name
        for name, lost in sorted(wasted.items(), key=lambda pair: pair[1], reverse=True)
        if any(lost)
    ]
    return f" ({', '.join(reasons)})" if reasons else ""


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)
