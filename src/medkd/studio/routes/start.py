"""The page that starts a stage or a recipe: its form, its command, what it will take.

In: which stage or recipe, what was filled in. Out: a detached run. Not done here: the words of its
command (`studio.orders`), starting (`studio.jobs`).
"""

from typing import Any

from starlette.responses import Response

from medkd import background_jobs
from medkd.core.errors import MedkdError
from medkd.studio import jobs
from medkd.studio.conversation import HELD
from medkd.studio.estimates import estimate
from medkd.studio.forms import Field
from medkd.studio.orders import (
    PAYING,
    Order,
    Part,
    check_run,
    find_problems,
    hand_over,
    list_recipes,
    read_order,
    show_command,
    suggest,
    write_command,
)
from medkd.studio.page import Form, Page, read_text

NEED_ROOM = ("train", "reinforce", "evaluate", "export")
"""Stages that load a model of their own: those that people talk to make room for it."""
DEFAULT = "train"


def show_form(page: Page) -> Response:
    """Show the form of the stage or recipe that the address names; it is not yet told what it
    lacks."""
    kind = page.query.get("kind") or DEFAULT
    order = read_order(kind, page.query, page.workspace, is_filled=False)
    described: dict[str, Any] = {**_describe(order, page), "problem": "", "problems": {}}
    return page.render("start.html", **described)


def redraw(page: Page, form: Form) -> Response:
    """Draw a form again after a change: what a choice makes meaningless goes, command and
    estimates follow."""
    order = read_order(read_text(form, "kind"), form, page.workspace, is_filled=True)
    template = "order.html" if page.query.get("part") == "order" else "form.html"
    return page.render(template, **_describe(order, page))


def start(page: Page, form: Form) -> Response:
    """Start what the form says; a key is handed to the process and forgotten."""
    order = read_order(read_text(form, "kind"), form, page.workspace, is_filled=True)
    described = _describe(order, page)
    if described["problem"] or described["problems"]:
        return page.render("start.html", 400, **described)
    run = check_run(order.run)
    if jobs.is_alive(page.workspace, run):
        described["problem"] = page.t("This run is under way; wait for it, or stop it first.")
        return page.render("start.html", 400, **described)
    words = write_command(order, page.workspace)
    if any(part.stage in NEED_ROOM for part in order.parts):
        HELD.release()
    background_jobs.start(words, environment=hand_over(words, read_text(form, "key")))
    page.workspace.forget()
    return page.redirect("run", name=run)


def _describe(order: Order, page: Page) -> dict[str, Any]:
    """Gather what a form shows."""
    problem, command = "", ""
    try:
        command = show_command(write_command(order, page.workspace))
    except MedkdError as error:
        problem = page.t.error(error)
    problems = find_problems(order, page.t)

    def suggest_for(part: Part, field: Field) -> list[str]:
        return suggest(page.workspace, part.stage, field, order.run)

    return {
        "order": order,
        "command": command,
        "problem": problems.pop("", problem),
        "problems": problems,
        "estimates": estimate(order, page.workspace, page.t),
        "recipes": list(list_recipes(page.workspace)),
        "asks_key": any(part.stage in PAYING for part in order.parts),
        "suggest": suggest_for,
    }
