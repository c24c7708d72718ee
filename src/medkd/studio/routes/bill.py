"""The page Bill: what the teacher was paid, by model, day and outcome, and what a rerun would cost.

In: a step with a ledger. Out: what is on the screen. Not done here: counting money
(`medkd.distill.bill`).
"""

from starlette.responses import Response

from medkd.completers.ledger import FILE_NAME
from medkd.distill.bill import bill
from medkd.studio.page import Page


def show_bill(page: Page) -> Response:
    """Show the bill of a step, the newest where the address names none."""
    steps = [step for step in page.workspace.list_steps() if (step.path / FILE_NAME).exists()]
    if not steps:
        return page.render("nothing.html")
    names = [step.name for step in reversed(steps)]
    name = page.query.get("step") or names[0]
    found = bill(page.workspace.find_step(name).path)
    return page.render("bill.html", names=names, name=name, bill=found, money=write_money)


def write_money(amounts: dict[str, float]) -> str:
    """Write money in every currency there is.

    >>> write_money({"CNY": 1.5}), write_money({})
    ('1.5000 CNY', '0')
    """
    return " + ".join(f"{amount:,.4f} {currency}" for currency, amount in amounts.items()) or "0"
