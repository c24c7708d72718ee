"""What a ledger says was paid, what of it was wasted and why, and what a rerun would cost.

In: a ledger, or a directory with one in it. Out: a `Bill`, as a table or as JSON.
Not done here: asking the provider; tokens it did not report are estimated, and counted so.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from medkd.completers.batch import JOURNAL, read_journal
from medkd.completers.costs import (
    BillDay,
    BillLine,
    Forecast,
    count_items,
    list_days,
    list_lines,
    list_served,
)
from medkd.completers.ledger import FILE_NAME, open_reader
from medkd.completers.outcomes import AttemptOutcome
from medkd.core.errors import InputError
from medkd.core.records import Record
from medkd.core.stage_output import read_manifest
from medkd.distill.stage import Config, forecast_job

HEAD = ("model", "outcome", "attempts", "prompt", "cached", "answer", "reasoning", "paid")
HEAD_WASTED = ("wasted", "tokens wasted")


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
    submitted: int = 0
    """Requests of batches whose answers were not fetched yet; the money here leaves them out."""
    missing: int | None
    """Answers a rerun would buy, of the questions as they are now; None where these are gone, or
    several steps share the ledger."""
    rerun: dict[str, float]
    """What those would cost; 0 if nothing changed. Empty if no price is known."""
    served: tuple[tuple[str, str, int], ...] = ()
    """Model asked, model that the replies state instead, attempts."""
    lines: tuple[BillLine, ...]
    days: tuple[BillDay, ...]


def bill(path: Path) -> Bill:
    """Read the bill of a ledger; raise InputError if there is none."""
    ledger_path = _find_ledger(path)
    with open_reader(ledger_path) as ledger:
        lines, days = list_lines(ledger), list_days(ledger)
        n_items, n_answered = count_items(ledger)
        served = list_served(ledger)
    open_batches = read_journal(ledger_path.with_name(JOURNAL))
    ahead = _forecast_rerun(ledger_path)
    is_unpriced = any(one.n_expected and one.now is None for one in ahead)
    rerun = _sum_by_currency((one.currency, one.now or 0.0) for one in ahead)
    unknown = (line for line in lines if line.outcome == AttemptOutcome.UNKNOWN)
    return Bill(
        path=str(ledger_path),
        items=n_items,
        answered=n_answered,
        attempts=sum(line.attempts for line in lines),
        unknown=sum(line.attempts for line in unknown),
        unpriced=sum(line.unpriced for line in lines),
        submitted=sum(len(batch["items"]) for batch in open_batches.values()),
        amounts=_sum_by_currency((line.currency, line.amount) for line in lines),
        wasted=_sum_by_currency((line.currency, line.wasted) for line in lines),
        missing=round(sum(one.n_expected for one in ahead)) if ahead else None,
        rerun={} if is_unpriced else rerun,
        served=tuple(served),
        lines=tuple(lines),
        days=tuple(days),
    )


def _forecast_rerun(ledger_path: Path) -> list[Forecast]:
    """Price a rerun of the stage that the ledger belongs to; nothing if its config or its questions
    can no longer be read."""
    try:
        written = read_manifest(ledger_path.parent).config
        known = {key: value for key, value in written.items() if key in Config.model_fields}
        config = Config.model_validate(known)
        with open_reader(ledger_path) as ledger:
            return forecast_job(config, ledger)
    except (InputError, ValidationError):
        return []


def render(found: Bill) -> str:
    """Render a bill as a table of plain text."""
    rows = [(*HEAD, *HEAD_WASTED), *(_make_cells(line) for line in found.lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    n_wasted = sum(line.wasted_tokens for line in found.lines)
    n_estimated = sum(line.estimated for line in found.lines)
    summary = [
        "",
        f"{found.answered:,} of {found.items:,} items answered in {found.attempts:,} attempts",
        f"paid     {_format_money(found.amounts)}",
        f"wasted   {_format_money(found.wasted)} and {n_wasted:,} tokens of text that no answer "
        f"came of{_list_reasons(found)}",
        f"unknown  {found.unknown:,} attempts sent whose end nobody saw; {n_estimated:,} attempts "
        "have their tokens by estimate",
    ]
    if found.missing is not None:
        price = _format_money(found.rerun) if found.rerun else "price unknown"
        summary.append(f"rerun    {price} for {found.missing:,} missing answers")
    if found.submitted:
        summary.append(
            f"batch    {found.submitted:,} requests are submitted and not fetched yet; the same "
            "command goes on with them"
        )
    if found.unpriced:
        summary.append(
            f"no price is known for {found.unpriced:,} attempts; they are left out of the money "
            "above"
        )
    if found.lines and all(line.provider == "rehearsal" for line in found.lines):
        summary.append("it is play money: the rehearsal teacher charges nothing")
    summary += [
        f"answered {n:,} attempts at {asked} by {stated}, as the replies say"
        for asked, stated, n in found.served
    ]
    return "\n".join([*table, *summary])


def _find_ledger(path: Path) -> Path:
    candidates = [path] if path.is_file() else [path / FILE_NAME, path / "distill" / FILE_NAME]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise InputError('{}: no {} there; give the --out of "medkd distill"', path, FILE_NAME)
    return found


def _make_cells(line: BillLine) -> tuple[str, ...]:
    usage = line.usage
    counts = (
        *(line.attempts, usage.prompt, usage.cache_hit),
        *(usage.completion - usage.reasoning, usage.reasoning),
    )
    return (
        f"{line.provider} {line.model}",
        line.outcome,
        *(f"{count:,}" for count in counts),
        f"{line.amount:.4f} {line.currency}",
        f"{line.wasted:.4f}",
        f"{line.wasted_tokens:,}",
    )


def _sum_by_currency(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for currency, amount in pairs:
        sums[currency] = sums.get(currency, 0.0) + amount
    return {currency: round(amount, 6) for currency, amount in sums.items()}


def _format_money(amounts: dict[str, float]) -> str:
    return " + ".join(f"{amount:.4f} {currency}" for currency, amount in amounts.items()) or "0"


def _list_reasons(found: Bill) -> str:
    """Name what the waste went to, the most expensive first."""
    money, tokens = Counter[str](), Counter[str]()
    for line in found.lines:
        money[line.outcome] += line.wasted  # pyright: ignore[reportArgumentType]
        tokens[line.outcome] += line.wasted_tokens
    names = sorted(money, key=lambda name: (money[name], tokens[name]), reverse=True)
    reasons = [name for name in names if money[name] or tokens[name]]
    return f" ({', '.join(reasons)})" if reasons else ""
