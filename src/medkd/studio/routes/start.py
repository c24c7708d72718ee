"""The page that starts a stage or a recipe: its form, its command, what it will take in rows,
memory, time and money.

In: which stage or recipe, what was filled in, what was measured here before. Out: a detached run.
Not done here: the words of its command (`studio.orders`), starting (`background_jobs`); the sums
(`train.preflight`, the providers' prices).
"""

from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from medkd import background_jobs
from medkd.collect.columns import Columns
from medkd.collect.files import CaseFiles
from medkd.collect.sections import load_names
from medkd.completers.costs import ASSUMED_TOKENS
from medkd.completers.providers import estimate_tokens
from medkd.core.errors import MedkdError
from medkd.core.i18n import Texts
from medkd.core.records import Usage
from medkd.core.task import load_task
from medkd.distill.courses import Course
from medkd.distill.stage import choose_targets, find_questions, make_method
from medkd.models.inspect import ModelShape, read_headers, read_json
from medkd.models.load import find_local
from medkd.report.material import REHEARSAL
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
    count_input,
    estimate_time,
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
N_COUNTED = 5000
"""Cases of a file that are counted before a recipe is started."""
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
    key = hand_over(words, read_text(form, "key"), Path.cwd())
    background_jobs.start(words, environment=key)
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
        return estimate_recipe(order, workspace, t)
    part, found = order.parts[0], list[tuple[str, str]]()
    try:
        n_rows = count_input(part, workspace)
        if n_rows:
            found.append((t("Records"), f"{n_rows:,}"))
        config: Any = STAGES[order.kind].load().Config.model_validate(read_values(part, t)[0])
        if order.kind == "train":
            if memory := estimate_training_memory(config):
                found.append((t("Memory"), t("about {n} GiB", n=f"{memory / GIB:.1f}")))
            if seconds := estimate_time(n_rows, part.values, workspace):
                found.append((t("Time"), t("about {time}", time=t.seconds(seconds))))
        elif order.kind == "distill" and (price := estimate_price(config)):
            found.append((t("Cost"), t("about {money}", money=price)))
    except (MedkdError, ValidationError, OSError, ValueError):
        pass
    return found


def estimate_recipe(order: Order, workspace: Workspace, t: Texts) -> list[tuple[str, str]]:
    """List what is known of a recipe: its cases and what its teacher is paid for them, by the files
    that it reads; its time, by the last time that it ran here."""
    parts = {part.stage: part for part in reversed(order.parts)}
    found: list[tuple[str, str]] = []
    try:
        n_cases, n_tokens = (
            count_cases(parts["collect"], workspace) if "collect" in parts else (0, 0)
        )
        if n_cases:
            found.append((t("Records"), f"{n_cases:,}"))
        if seconds := find_last_time(order, n_cases, workspace):
            found.append((t("Time"), t("about {time}", time=t.seconds(seconds))))
        if n_cases and "distill" in parts:
            values = read_values(parts["distill"], t)[0] | {"input": "questions.jsonl"}
            config: Any = STAGES["distill"].load().Config.model_validate(values)
            task = parts["prepare"].values.get("task", "")
            workspace.check(task)
            asked = load_task(task).teacher.rationalize
            n_tokens += n_cases * max(estimate_tokens([prompt]) for prompt in asked.values())
            thinks = bool(make_method(config, [""]).first.sampling.thinking)
            if price := write_price(config, n_tokens, n_cases, thinks):
                found.append((t("Cost"), t("about {money}", money=price)))
    except (MedkdError, ValidationError, OSError, ValueError, KeyError):
        pass
    return found


def count_cases(part: Part, workspace: Workspace) -> tuple[int, int]:
    """Count the cases of the files that a recipe reads, and their tokens; nothing for files that
    are not here, and for more than `N_COUNTED` cases."""
    given = part.values.get("input", "").strip()
    if part.values.get("source") != "files" or not given or "\n" in given:
        return 0, 0
    path = workspace.resolve(Path(given).absolute())
    changed_at = path.stat().st_mtime_ns
    return _count_cases(path, changed_at, tuple(part.values.get("columns", "").split("\n")))


@lru_cache(maxsize=16)
def _count_cases(path: Path, changed_at: int, columns: tuple[str, ...]) -> tuple[int, int]:
    names = load_names()
    files = CaseFiles(path, names, Columns([word for word in columns if word], names))
    cases = list(islice(files, N_COUNTED + 1))
    if len(cases) > N_COUNTED:
        return 0, 0
    return len(cases), estimate_tokens(text for case in cases for text in case.sections.values())


def find_last_time(order: Order, n_cases: int, workspace: Workspace) -> float | None:
    """Find how many seconds a recipe took when it last came to its end here with the same model,
    for as many cases; None where it never did."""
    trained = next(
        (part.values.get("model") for part in order.parts if part.stage == "train"), None
    )
    for name, made in jobs.list_jobs(workspace).items():
        is_same = any(
            job.words[0] == "run"
            and Path(job.words[1]).name == order.kind
            and background_jobs.read_state(job) == "done"
            for job in made
        )
        steps = workspace.list_steps(name) if is_same else []
        models = {str(s.manifest.config.get("model")) for s in steps if s.manifest.stage == "train"}
        if steps and models == ({trained} if trained else set()):
            n_before = steps[0].manifest.counts.kept
            share = n_cases / n_before if n_cases and n_before else 1.0
            return share * sum(step.manifest.seconds for step in steps)
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
    folder = find_local(model)
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
    method = make_method(config, [target.model])
    questions = find_questions(config)
    courses = (Course(question, method) for question in islice(questions, N_PRICED))
    written = [course.next_wave()[0].request for course in courses]
    if not written:
        return ""
    texts = [message.content for request in written for message in request.messages]
    n_tokens = round(estimate_tokens(texts) * questions.n_questions / len(written))
    return write_price(config, n_tokens, questions.n_questions, bool(written[0].sampling.thinking))


def write_price(config: Any, n_tokens: int, n_questions: int, thinks: bool) -> str:
    """Write what the first teacher of a config asks for prompts of so many tokens and their
    answers; empty where no price is known, and for play money."""
    (target, *_), _ = choose_targets(config, is_key_needed=False)
    price = target.price_at(datetime.now(UTC)) if target.name != REHEARSAL else None
    usage = Usage(
        prompt=n_tokens * config.samples,
        completion=min(ASSUMED_TOKENS[thinks], config.max_tokens) * n_questions * config.samples,
    )
    return f"{price.amount(usage):.2f} {target.provider.currency}" if price else ""
