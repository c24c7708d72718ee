"""What a ledger says was paid, what of it was wasted and why, and what a rerun would cost.

In: a ledger, or a directory with one in it. Out: a `Bill`, as a table or as JSON.
Not done here: asking the provider; where it reported no usage, tokens are our estimate, and counted as such.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from medkd.completers.attempts import FILE_NAME, Attempt, read_attempts
from medkd.completers.outcomes import Outcome
from medkd.core.errors import InputError
from medkd.core.records import Record, Usage


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
    """The part of `amount` that brought no answer."""


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
    """Answers the last run wanted and did not get."""
    rerun: dict[str, float]
    """What those would cost at the mean price of an answer here; 0 when nothing is missing."""
    lines: tuple[BillLine, ...]


def bill(path: Path) -> Bill:
    """Read the bill of a ledger; raises InputError where there is none."""
    ledger_path = _find_ledger(path)
    attempts, n_missing = read_attempts(ledger_path)
    groups: dict[tuple[str, str, str, str], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        groups[attempt.provider, attempt.model, attempt.outcome or Outcome.UNKNOWN, attempt.currency].append(attempt)
    lines = tuple(_make_line(*key, group) for key, group in sorted(groups.items()))
    answered = {attempt.item for attempt in attempts if attempt.outcome is Outcome.COMPLETE}
    amounts = _sum_by_currency((line.currency, line.amount) for line in lines)
    return Bill(
        path=str(ledger_path),
        items=len({attempt.item for attempt in attempts}),
        answered=len(answered),
        attempts=len(attempts),
        unknown=sum(line.attempts for line in lines if line.outcome == Outcome.UNKNOWN),
        unpriced=sum(not attempt.is_priced for attempt in attempts),
        amounts=amounts,
        wasted=_sum_by_currency((line.currency, line.wasted) for line in lines),
        missing=n_missing,
        rerun={currency: round(n_missing * amount / max(len(answered), 1), 6) for currency, amount in amounts.items()},
        lines=lines,
    )


def render(found: Bill) -> str:
    """Write a bill as a table of plain text."""
    head = ("model", "outcome", "attempts", "prompt", "cached", "answer", "reasoning", "paid", "wasted")
    rows = [
        (
            *(f"{line.provider} {line.model}", line.outcome, f"{line.attempts:,}"),
            *(f"{n:,}" for n in (line.usage.prompt, line.usage.cache_hit)),
            *(f"{n:,}" for n in (line.usage.completion - line.usage.reasoning, line.usage.reasoning)),
            *(f"{line.amount:.4f} {line.currency}", f"{line.wasted:.4f}"),
        )
        for line in found.lines
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    table = [
        "  ".join(_pad(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in (head, *rows)
    ]
    n_estimated = sum(line.estimated for line in found.lines)
    summary = [
        "",
        f"{found.answered:,} of {found.items:,} items answered in {found.attempts:,} attempts",
        f"paid     {_format_money(found.amounts)}, of it wasted {_format_money(found.wasted)}",
        f"unknown  {found.unknown:,} attempts sent whose end nobody saw; {n_estimated:,} attempts are priced by estimate",
        f"rerun    {_format_money(found.rerun)} for {found.missing:,} missing answers",
    ]
    if found.unpriced:
        summary.append(f"no price is known for {found.unpriced:,} attempts; they are left out of the money above")
    return "\n".join([*table, *summary])


def _find_ledger(path: Path) -> Path:
    candidates = [path] if path.is_file() else [path / FILE_NAME, path / "distill" / FILE_NAME]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise InputError(f'{path}: no {FILE_NAME} there; give the --out of "medkd distill"')
    return found


def _make_line(provider: str, model: str, outcome: str, currency: str, attempts: list[Attempt]) -> BillLine:
    amount = round(sum(attempt.amount for attempt in attempts), 6)
    return BillLine(
        provider=provider,
        model=model,
        outcome=outcome,
        attempts=len(attempts),
        estimated=sum(attempt.is_estimate for attempt in attempts),
        usage=sum((attempt.usage for attempt in attempts), Usage()),
        amount=amount,
        currency=currency,
        wasted=0.0 if outcome == Outcome.COMPLETE else amount,
    )


def _sum_by_currency(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for currency, amount in pairs:
        sums[currency] += amount
    return {currency: round(amount, 6) for currency, amount in sums.items()}


def _format_money(amounts: dict[str, float]) -> str:
    return " + ".join(f"{amount:.4f} {currency}" for currency, amount in amounts.items()) or "0"


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)
