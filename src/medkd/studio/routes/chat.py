"""The page Chat: one model, or before and after side by side, in words as they come; the thinking
folded.

In: a model here or an endpoint, a question. Out: a conversation on the screen. Not done here:
measuring, speaking (`studio.conversation`).
"""

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from medkd.chat.session import Config
from medkd.core.errors import InputError, say_problem
from medkd.core.records import Sampling
from medkd.models.load import SHIPPED_STUDENTS, TINY, is_shipped
from medkd.studio.conversation import HELD, Conversation
from medkd.studio.jsonl_index import open_index
from medkd.studio.page import Form, Page, read_text, stream
from medkd.studio.workspace import Step, Workspace

SIDES = ("before", "after")
MADE = ("export", "reinforce", "train")
"""Stages that leave a model to talk to, the best first."""
PERIOD_S = 0.25
N_QUESTIONS = 30
N_OFFERED = 20
"""Models of each kind that are offered, the newest ones."""
MAX_CONVERSATIONS = 200
N_TOKENS = 512
"""Longest answer where nothing else is asked for."""
SETTINGS = {"temperature": "0", "max_tokens": str(N_TOKENS)}

_conversations: OrderedDict[str, Conversation] = OrderedDict()
"""By a name that nobody can guess; the oldest go first."""


def show_chat(page: Page) -> Response:
    """Show a conversation, or a new one with the models that the address names: else the result of
    the newest run and its base, or the shipped student alone."""
    made = list_models(page.workspace)
    bases = dict.fromkeys(step.base for step in made if _is_allowed(page.workspace, step.base))
    best = find_best(made)
    usual = dict(zip(SIDES, (best.base, best.path) if best else (TINY, ""), strict=True))
    named = {side: page.query.get(side, "") for side in SIDES}
    chosen = named if any(named.values()) else usual
    if not _is_allowed(page.workspace, str(chosen["before"])):  # the base that `after` was made of
        chosen["before"] = ""
    return page.render(
        "chat.html",
        offered=list(
            dict.fromkeys([*SHIPPED_STUDENTS.values(), *bases, *(step.path for step in made)])
        ),
        chosen=chosen,
        settings={name: page.query.get(name) or usual for name, usual in SETTINGS.items()},
        has_questions=find_questions(page.workspace) is not None,
        **_describe(page.query.get("c", "")),
    )


def _is_allowed(workspace: Workspace, name: str) -> bool:
    """Tell whether a model may be talked to here: a folder outside is refused."""
    try:
        workspace.check(name)
    except InputError:
        return False
    return True


def _describe(name: str) -> dict[str, Any]:
    """Gather what a conversation shows."""
    found = _conversations.get(name)
    is_speaking = found is not None and found.is_speaking  # before what is said is read
    return {
        "name": name if found else "",
        "sides": dict(zip(SIDES, found.read() if found else [[], []], strict=True)),
        "is_speaking": is_speaking,
        "is_held": bool(HELD.models),
    }


def ask(page: Page, form: Form) -> Response:
    """Put the question to every chosen model; the stream shows what they say from then on."""
    text = read_text(form, "question", 20_000)
    names = {side: read_text(form, side) for side in SIDES}
    if not text:
        raise InputError(page.t("First write a question."))
    if not any(names.values()):
        raise InputError(page.t("First choose a model."))
    for name in names.values():
        if not is_shipped(name):
            page.workspace.check(name)
    settings = {name: read_text(form, name) for name in SETTINGS}
    sampling = read_sampling(settings)
    name, found = _find_conversation(read_text(form, "c"))
    if found.is_speaking:
        raise InputError(page.t("Wait until the answer is there, or stop it first."))
    for at, side in enumerate(SIDES):
        if names[side]:
            find = partial(HELD.get, names[side], "", read_text(form, "key"))
            found.ask(at, text, find, sampling)
    answer = page.render("talk.html", **_describe(name))
    answer.headers["hx-push-url"] = page.url("chat", c=name, **names, **settings)
    return answer


def _find_conversation(name: str) -> tuple[str, Conversation]:
    """Find a conversation, or begin one."""
    if name not in _conversations:
        name = secrets.token_urlsafe(16)
        _conversations[name] = Conversation(len(SIDES))
        while len(_conversations) > MAX_CONVERSATIONS:
            _conversations.popitem(last=False)[1].stop()
    return name, _conversations[name]


def read_sampling(settings: dict[str, str]) -> Sampling:
    """Read how answers are drawn; raises InputError for what is no number in its range."""
    given = {name: text for name, text in settings.items() if text}
    try:
        config = Config.model_validate({"model": TINY, "max_tokens": N_TOKENS, **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError("{}: {}", first["loc"][0], say_problem(first)) from error
    return Sampling(max_tokens=config.max_tokens, temperature=config.temperature or None)


def follow_chat(page: Page) -> Response:
    """Send a conversation again as it goes on."""
    name = page.query.get("c", "")

    def draw() -> tuple[str, bool]:
        described = _describe(name)
        return page.draw("turns.html", **described), not described["is_speaking"]

    return stream(draw, PERIOD_S)


def stop(page: Page, form: Form) -> Response:
    """Stop what speaks in a conversation."""
    name = read_text(form, "c")
    if found := _conversations.get(name):
        found.stop()
    return page.render("talk.html", **_describe(name))


def release(page: Page, form: Form) -> Response:
    """Let go of the models in memory."""
    HELD.release()
    return page.redirect("chat")


def list_questions(page: Page) -> Response:
    """Show questions of the newest test split, each with its known answer folded."""
    path = find_questions(page.workspace)
    index = open_index(path) if path else ()
    rows = [index.row(number) for number in range(min(N_QUESTIONS, len(index)))] if index else []
    return page.render("questions.html", rows=rows)


def find_questions(workspace: Workspace) -> Path | None:
    """Find the newest test split that holds a question."""
    merged = workspace.list_steps(stage="merge")[-N_OFFERED:]
    paths = (step.path / "test.jsonl" for step in reversed(merged))
    return next((path for path in paths if path.exists() and path.stat().st_size), None)


def list_models(workspace: Workspace) -> list[Step]:
    """List the steps that made a model, the newest of each kind first."""
    newest = (workspace.list_steps(stage=stage)[: -N_OFFERED - 1 : -1] for stage in MADE)
    return [step for steps in newest for step in steps if step.manifest.state == "finished"]


def find_best(made: Sequence[Step]) -> Step | None:
    """Find the model that the newest run is for: of the best kind, no variant of it."""
    newest = max(made, key=lambda step: step.manifest.started_at, default=None)
    of_run = (step for step in made if newest and step.run == newest.run)
    return min(of_run, key=lambda s: (MADE.index(s.manifest.stage), not s.is_plain), default=None)
