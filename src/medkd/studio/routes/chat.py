"""The page Chat: one model, or before and after side by side, in words as they come; the thinking
folded.

In: a model here or an endpoint, a question. Out: a conversation on the screen, saved as a file on
demand. Not done here: measuring, speaking (`studio.conversation`).
"""

import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from medkd.chat.session import Config
from medkd.core.completer import Sampling
from medkd.core.errors import InputError, say_problem
from medkd.core.task import SHIPPED, load_task
from medkd.models.load import TINY
from medkd.studio.conversation import HELD, Conversation
from medkd.studio.jsonl_index import open_index
from medkd.studio.page import Form, Page, read_text, stream
from medkd.studio.workspace import Workspace

SIDES = ("before", "after")
ADAPTERS = ("reinforce", "train")
"""Stages that leave an adapter to talk to."""
PERIOD_S = 0.25
N_QUESTIONS = 30
N_OFFERED = 20
"""Models of each kind that are offered, the newest ones."""
MAX_CONVERSATIONS = 200
SETTINGS = ("temperature", "max_tokens", "task")
N_TOKENS = 512
"""Longest answer where nothing else is asked for."""

_conversations: OrderedDict[str, Conversation] = OrderedDict()
"""By a name that nobody can guess; the oldest go first."""


def show_chat(page: Page) -> Response:
    """Show a conversation, or a new one with the models that the address names."""
    workspace = page.workspace
    exports = _list_newest(workspace, "export")
    trained = [path for stage in ADAPTERS for path in _list_newest(workspace, stage)]
    usual = dict(zip(SIDES, choose_pair(exports, trained), strict=True))
    is_named = any(page.query.get(side) for side in SIDES)
    chosen = {side: page.query.get(side, "" if is_named else usual[side]) for side in SIDES}
    name = page.query.get("c", "")
    found = _conversations.get(name)
    return page.render(
        "chat.html",
        name=name if found else "",
        offered=[TINY, *exports, *trained, *list_checkpoints(trained)],
        chosen=chosen,
        settings={name: page.query.get(name, "") for name in SETTINGS},
        tasks=SHIPPED,
        has_questions=find_questions(workspace) is not None,
        **_describe(found),
    )


def _describe(found: Conversation | None) -> dict[str, Any]:
    return {
        "sides": dict(zip(SIDES, found.read() if found else [[], []], strict=True)),
        "is_speaking": found.is_speaking if found else False,
        "is_held": HELD.is_held,
    }


def ask(page: Page, form: Form) -> Response:
    """Put the question to every chosen model; the stream shows what they say from then on."""
    text = read_text(form, "question", 20_000).strip()
    names = {side: read_text(form, side).strip() for side in SIDES}
    if not text:
        raise InputError(page.t("First write a question."))
    if not any(names.values()):
        raise InputError(page.t("First choose a model."))
    for name in names.values():
        if name != TINY:
            page.workspace.check(name)
    conversation_name = read_text(form, "c")
    found = _conversations.get(conversation_name)
    if found is None:
        conversation_name, found = _open_conversation()
    if found.is_speaking:
        raise InputError(page.t("Wait until the answer is there, or stop it first."))
    sampling = read_sampling(form)
    task = read_text(form, "task")
    if task and task not in SHIPPED:
        raise InputError("{}: no such task; choose another", task[:80])
    student = load_task(task).student if task else None
    key = read_text(form, "key").strip()
    for at, side in enumerate(SIDES):
        if names[side]:
            language: Any = page.t.language
            system = student.system[language] if student else ""
            asked = f"{student.instructions[language][0]}\n{text}" if student else ""
            find = partial(HELD.get, names[side], "", key)
            found.ask(at, text, find, sampling, system, asked)
    settings = {name: read_text(form, name) for name in SETTINGS}
    answer = page.render("talk.html", name=conversation_name, **_describe(found))
    answer.headers["hx-push-url"] = page.url("chat", c=conversation_name, **names, **settings)
    return answer


def _open_conversation() -> tuple[str, Conversation]:
    name = secrets.token_urlsafe(16)
    _conversations[name] = found = Conversation(len(SIDES))
    while len(_conversations) > MAX_CONVERSATIONS:
        _conversations.popitem(last=False)[1].stop()
    return name, found


def read_sampling(form: Form | Mapping[str, Any]) -> Sampling:
    """Read how answers are drawn; raises InputError for what is no number in its range."""
    names = ("temperature", "max_tokens")
    given = {name: text for name in names if (text := read_text(form, name).strip())}
    try:
        config = Config.model_validate({"model": TINY, "max_tokens": N_TOKENS, **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError("{}: {}", first["loc"][0], say_problem(first)) from error
    return Sampling(max_tokens=config.max_tokens, temperature=config.temperature or None)


def follow_chat(page: Page) -> Response:
    """Send a conversation again as it goes on."""
    name = page.query.get("c", "")
    found = _conversations.get(name)

    def draw() -> tuple[str, bool]:
        if found is None:
            return "", True
        described = _describe(found)
        return page.draw("turns.html", name=name, **described), not described["is_speaking"]

    return stream(draw, PERIOD_S)


def stop(page: Page, form: Form) -> Response:
    """Stop what speaks in a conversation."""
    name = read_text(form, "c")
    if found := _conversations.get(name):
        found.stop()
    return page.render("talk.html", name=name if found else "", **_describe(found))


def release(page: Page, form: Form) -> Response:
    """Let go of the models in memory."""
    HELD.release()
    return page.redirect("chat")


def list_questions(page: Page) -> Response:
    """Show questions of the newest test split, each with its known answer folded."""
    path = find_questions(page.workspace)
    rows: list[tuple[str, str]] = []
    if path:
        index = open_index(path)
        for number in range(min(N_QUESTIONS, len(index))):
            row = index.row(number)
            known = row.get("reference") or row.get("answer") or ""
            rows.append((str(row.get("input", "")), str(known)))
    return page.render("questions.html", rows=rows)


def find_questions(workspace: Workspace) -> Path | None:
    """Find the newest test split that holds a question."""
    merged = workspace.list_steps(stage="merge")[-N_OFFERED:]
    paths = (step.path / "test.jsonl" for step in reversed(merged))
    return next((path for path in paths if path.exists() and path.stat().st_size), None)


def choose_pair(exports: list[str], trained: list[str]) -> tuple[str, str]:
    """Choose what is talked to first, before and after: the shipped base and the newest result,
    where there is one.

    >>> choose_pair(["runs/a/export"], ["runs/a/train"]), choose_pair([], [])
    (('medkd:tiny', 'runs/a/export'), ('medkd:tiny', ''))
    """
    return TINY, next(iter([*exports, *trained]), "")


def _list_newest(workspace: Workspace, stage: str) -> list[str]:
    steps = workspace.list_steps(stage=stage)[-N_OFFERED:]
    return [str(step.path) for step in reversed(steps)]


def list_checkpoints(trained: Sequence[str]) -> list[str]:
    """Name the checkpoints of trainings, in their order."""
    return [
        str(path)
        for folder in trained
        for path in sorted(Path(folder).glob("checkpoints/*"))
        if (path / "adapter_config.json").exists()
    ]
