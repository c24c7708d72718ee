"""The page Bill: what the teacher was paid, by model, day and outcome, and what a rerun would cost.

In: a step with a ledger. Out: what is on the screen. Not done here: counting money
(`medkd.distill.bill`).
"""

from typing import Any

import gradio as gr

from medkd.completers.ledger import FILE_NAME
from medkd.core.errors import MedkdError
from medkd.distill.bill import Bill, bill
from medkd.studio.next_steps import show_next
from medkd.studio.places import Places
from medkd.studio.present import show_error, show_facts, show_notice, show_table
from medkd.studio.texts import Texts


def build(page: gr.Blocks, places: Places, t: Texts) -> None:
    """Lay the page out."""
    ledger = gr.Dropdown(label=t("bill.ledger"), choices=[], visible=False)
    content = gr.HTML()

    def arrive(request: gr.Request) -> Any:
        names = list_ledgers(places)
        wanted = dict(request.query_params).get("step", "")
        return gr.update(
            choices=names,
            value=wanted if wanted in names else next(iter(names), None),
            visible=bool(names),
        )

    def show(name: str | None) -> str:
        if not name:
            return show_next("bill", "distill", places, t)
        try:
            return show_bill(bill(places.resolve(name)), t)
        except MedkdError as error:
            return show_error(error, t)

    page.load(arrive, None, ledger).then(show, ledger, content)
    ledger.input(show, ledger, content)


def list_ledgers(places: Places) -> list[str]:
    """Name the steps that paid somebody, the newest first."""
    return [step.name for step in reversed(places.list_steps()) if (step.path / FILE_NAME).exists()]


def show_bill(found: Bill, t: Texts) -> str:
    """Write a bill out."""
    rerun = write_money(found.rerun) if found.rerun else t("bill.no_price")
    facts = {
        t("bill.paid"): write_money(found.amounts),
        t("bill.wasted"): write_money(found.wasted),
        t("bill.answered"): f"{found.answered:,} / {found.items:,}",
        t("bill.attempts"): found.attempts,
        t("bill.unknown"): found.unknown,
        t("bill.rerun"): f"{rerun} ({t('bill.missing', n=f'{found.missing:,}')})",
    }
    columns = (
        "model",
        "outcome",
        "attempts",
        "prompt",
        "cached",
        "answer_tokens",
        "reasoning_tokens",
        "amount",
        "wasted",
        "currency",
    )
    rows = [
        (
            " ".join(dict.fromkeys([line.provider, line.model])),
            t.word("outcome", line.outcome),
            line.attempts,
            *(
                line.usage.prompt,
                line.usage.cache_hit,
                line.usage.completion - line.usage.reasoning,
                line.usage.reasoning,
            ),
            *(f"{line.amount:.4f}", f"{line.wasted:.4f}", line.currency),
        )
        for line in found.lines
    ]
    unpriced = show_notice(t("bill.unpriced", n=f"{found.unpriced:,}")) if found.unpriced else ""
    days = [(day.day, day.attempts, f"{day.amount:.4f}", day.currency) for day in found.days]
    by_day = show_table(
        [t(f"bill.{column}") for column in ("day", "attempts", "amount", "currency")],
        days,
        t,
        t("bill.by_day"),
    )
    return (
        show_facts(facts, t)
        + unpriced
        + show_table([t(f"bill.{column}") for column in columns], rows, t, t("bill.by_outcome"))
        + by_day
    )


def write_money(amounts: dict[str, float]) -> str:
    """Write money in every currency there is."""
    return " + ".join(f"{amount:,.4f} {currency}" for currency, amount in amounts.items()) or "0"
