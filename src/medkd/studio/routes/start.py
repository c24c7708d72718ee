"""The page that starts a stage or a recipe: its form, its command, what it will take.

In: which stage or recipe, what was filled in. Out: a detached run. Not done here: the words of its
command (`studio.orders`), starting (`studio.jobs`).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.responses import Response

from medkd.core.errors import InputError, MedkdError
from medkd.studio import jobs
from medkd.studio.conversation import HELD
from medkd.studio.estimates import estimate
from medkd.studio.forms import Field, lay_out, write_words
from medkd.studio.orders import (
    Order,
    Part,
    check_value,
    find_problems,
    hand_over,
    list_recipes,
    read_order,
    show_command,
    suggest,
    write_command,
)
from medkd.studio.page import Form, Page, read_text
from medkd.train import doctor

NEED_ROOM = ("train", "reinforce", "evaluate", "export")
"""Stages that load a model of their own: those that people talk to make room for it."""
ASKS = ("prepare", "distill", "verify", "evaluate", "reinforce", "rubric")
"""Stages that may send a key."""
DEFAULT = "train"


def show_form(page: Page) -> Response:
    """Show the form of the stage or recipe that the address names."""
    kind = page.query.get("kind") or DEFAULT
    order = read_order(kind, page.query, page.workspace, is_filled=False)
    return page.render("start.html", **_describe(order, page, is_new=True))


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
    try:
        if _is_alive(order.run, page):
            raise InputError(page.t("This run is under way; wait for it, or stop it first."))
        words = write_command(order, page.workspace)
        if any(part.stage in NEED_ROOM for part in order.parts):
            HELD.release()
        jobs.start(words, hand_over(words, read_text(form, "key")))
    except MedkdError as error:
        return page.render("start.html", 400, **{**described, "problem": str(error)})
    page.workspace.forget()
    return page.redirect("run", name=order.run.strip().strip("/"))


def _is_alive(run: str, page: Page) -> bool:
    try:
        return jobs.find_job(page.workspace, run.strip().strip("/")).alive is not None
    except InputError:
        return False


def _describe(order: Order, page: Page, is_new: bool = False) -> dict[str, Any]:
    """Gather what a form shows. A form that was just opened is not yet told what it lacks."""
    problem, words = "", []
    try:
        words = write_command(order, page.workspace)
    except MedkdError as error:
        problem = str(error)
    problems = {} if is_new else find_problems(order, page.t)
    if "" in problems:
        problem = problem or problems.pop("")
    parts = [
        {
            "part": part,
            "values": order.values[part.step],
            "layout": lay_out(part.stage, part.fields, order.values[part.step]),
        }
        for part in order.parts
    ]
    return {
        "order": order,
        "parts": parts,
        "command": show_command(words) if words else "",
        "problem": "" if is_new else problem,
        "problems": problems,
        "estimates": estimate(order, page.workspace, page.t),
        "recipes": list(list_recipes(page.workspace)),
        "asks_key": any(part.stage in ASKS for part in order.parts),
        "can_examine": order.kind == "train",
        "suggest": partial(_suggest, page, order),
    }


def _suggest(page: Page, order: Order, part: Part, field: Field) -> list[str]:
    return suggest(page.workspace, part.stage, field, order.run)


def examine(page: Page, form: Form) -> Response:
    """Show what `medkd doctor` finds in what this training would start from."""
    order = read_order("train", form, page.workspace, is_filled=True)
    fields = [f for f in order.parts[0].fields if f.name in doctor.Config.model_fields]
    values: Mapping[str, Any] = order.values[""]
    for field in fields:
        check_value(field, values.get(field.name), None, page.workspace)
    lines = jobs.examine(write_words(fields, values, {}))
    return page.render("examined.html", lines=lines)
