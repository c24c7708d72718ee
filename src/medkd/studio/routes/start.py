"""The page that starts a stage or a recipe: its form, its command, what it will take in rows,
memory, time and money.

In: which stage or recipe, what was filled in, what was measured here before. Out: a detached run.
Not done here: the words of its command (`studio.orders`), starting (`background_jobs`); the sums
(`train.preflight`, the providers' prices).
"""

from datetime import UTC, datetime
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from medkd import background_jobs
from medkd.completers.costs import ASSUMED_TOKENS
from medkd.completers.providers import estimate_tokens
from medkd.core.errors import MedkdError
from medkd.core.i18n import Texts
from medkd.core.records import Usage
from medkd.core.stage_output import read_manifest
from medkd.distill.courses import Course
from medkd.distill.stage import choose_targets, find_questions, make_method
from medkd.models.inspect import ModelShape, read_headers, read_json
from medkd.models.load import TINY, tiny_dir
from medkd.stages import STAGES
from medkd.studio import jobs
from medkd.studio.conversation import HELD
from medkd.studio.forms import Field
from medkd.studio.orders import (
    ASKING,
    Order,
    Part,
    asks_key,
    check_run,
    find_problems,
    hand_over,
    list_recipes,
    read_order,
    read_values,
    show_command,
    suggest,
    write_command,
)
from medkd.studio.page import Form, Page, read_text
from medkd.studio.workspace import Workspace
from medkd.train.preflight import GIB, Workload, estimate_memory

NEED_ROOM = ("train", "reinforce", "evaluate", "export")
"""Stages that load a model of their own: those that people talk to make room for it."""
DEFAULT = "train"
N_LOOKED_AT = 100
"""Earlier trainings that are looked at for one of the same model."""
N_PRICED = 100
"""Requests that are written to estimate the tokens of all."""


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
        "asks_key": any(map(asks_key, order.parts)),
        "asking": ASKING,
        "suggest": suggest_for,
    }


# --- What it will take --------------------------------------------------------------------------


def estimate(order: Order, workspace: Workspace, t: Texts) -> list[tuple[str, str]]:
    """List what is known of an order before it is started: name and value."""
    if order.is_recipe:
        return []
    part, found = order.parts[0], list[tuple[str, str]]()
    try:
        n_rows = count_input(part.values.get("input", ""), workspace)
        if n_rows:
            found.append((t("Records"), f"{n_rows:,}"))
        config: Any = STAGES[order.kind].load().Config.model_validate(read_values(part, t)[0])
        if order.kind == "train":
            if memory := estimate_training_memory(config):
                found.append((t("Memory"), t("about {n} GiB", n=f"{memory / GIB:.1f}")))
            if seconds := estimate_time(n_rows, config, workspace):
                found.append((t("Time"), t("about {time}", time=t.seconds(seconds))))
        elif order.kind == "distill" and (price := estimate_price(config)):
            found.append((t("Cost"), t("about {money}", money=price)))
    except (MedkdError, ValidationError, OSError, ValueError):
        pass
    return found


def count_input(name: str, workspace: Workspace) -> int:
    """Count the records that are worked on by the manifest beside them, of the first of several
    files; 0 where it is not known."""
    try:
        path = workspace.resolve(Path(name.split("\n")[0]).absolute()) if name else None
        return read_manifest(path if path.is_dir() else path.parent).counts.kept if path else 0
    except (MedkdError, OSError):
        return 0


def estimate_time(n_rows: int, config: Any, workspace: Workspace) -> float | None:
    """Estimate the seconds of a training by an earlier one of the same model on this machine; None
    where there was none."""
    for step in reversed(workspace.list_steps(stage="train")[-N_LOOKED_AT:]):
        known, counts = step.manifest.config, step.manifest.counts
        same = all(str(known.get(n)) == str(getattr(config, n)) for n in ("model", "method"))
        if step.manifest.state == "finished" and same and counts.kept and known.get("epochs"):
            of_row = step.manifest.seconds / (counts.kept * float(known["epochs"]))
            return of_row * n_rows * float(config.epochs or 1)
    return None


def estimate_training_memory(config: Any) -> float | None:
    """Estimate the bytes that a training needs on one device; None for a model that is not on this
    machine, and where the method is none of those that the formula knows."""
    shape = read_shape(str(config.model or ""))
    if shape is None or config.method not in ("lora", "qlora", "full"):
        return None
    n_tokens = config.batch_size * config.max_length
    load = Workload(config.lora_rank, n_tokens, 2, False, on_gpu=False)
    return estimate_memory(shape, config.method, load)


def read_shape(model: str) -> ModelShape | None:
    """Read the shape of a model folder from the headers of its weights, without loading torch; None
    where there are none."""
    folder = tiny_dir() if model == TINY else Path(model)
    config = read_json(folder / "config.json") if model and folder.is_dir() else None
    if not config:
        return None
    shapes = {name: head["shape"] for name, head in read_headers(folder).items() if "shape" in head}
    inner = [s for n, s in shapes.items() if "embed" not in n and not n.startswith("lm_head")]
    return ModelShape(
        n_parameters=sum(prod(shape) for shape in shapes.values()),
        linears=[(shape[1], shape[0]) for shape in inner if len(shape) == 2],
        n_layers=int(config.get("num_hidden_layers") or 1),
        hidden_size=int(config.get("hidden_size") or 1),
        vocabulary=int(config.get("vocab_size") or 1),
        input_name="",
        output_name="",
    )


def estimate_price(config: Any) -> str:
    """Estimate what the teacher will be paid, by the length of the first requests; empty where no
    price is known."""
    (target, *_), _ = choose_targets(config, is_key_needed=False)
    price = target.price_at(datetime.now(UTC))
    method = make_method(config, [target.model])
    questions = find_questions(config)
    courses = (Course(question, method) for question in islice(questions, N_PRICED))
    written = [course.next_wave()[0].request for course in courses]
    if price is None or not written:
        return ""
    texts = [message.content for request in written for message in request.messages]
    n_all = questions.n_questions * config.samples
    thinks = bool(written[0].sampling.thinking)
    usage = Usage(
        prompt=round(estimate_tokens(texts) * n_all / len(written)),
        completion=min(ASSUMED_TOKENS[thinks], config.max_tokens) * n_all,
    )
    return f"{price.amount(usage):.2f} {target.provider.currency}"
