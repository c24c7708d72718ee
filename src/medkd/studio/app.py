"""The studio as one web application: the table of its pages, in each language, behind the guard.

In: the folders to show and the token. Out: an ASGI application. Not done here: what a page does
(`studio.routes`), who may come in (`studio.auth`), listening (`studio.command`).
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from threading import Thread

from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from medkd.core.errors import MedkdError, from_os_error
from medkd.core.i18n import LANGUAGES, choose_language
from medkd.studio.auth import CSRF_FIELD, Guard, check_csrf
from medkd.studio.page import Form, Page, load_environment
from medkd.studio.workspace import Workspace

SHOWN = {
    "": "runs.list_projects",
    "run": "runs.show_run",
    "run/live": "runs.follow_run",
    "curves": "runs.show_curves",
    "new": "runs.show_beginnings",
    "bring": "bring.show_upload",
    "bring/preview": "bring.show_preview",
    "start": "start.show_form",
    "data": "data.show_records",
    "review": "data.show_review",
    "chat": "chat.show_chat",
    "chat/live": "chat.follow_chat",
    "chat/questions": "chat.list_questions",
    "evaluate": "evaluate.show_evaluations",
    "evaluate/tests": "evaluate.show_tests",
    "evaluate/answers": "evaluate.show_answers",
    "blind": "evaluate.show_blind",
    "export": "runs.show_exports",
    "bill": "runs.show_bill",
}
"""Path below the language to the function of `studio.routes` that shows the page."""
DONE = {
    "run/stop": "runs.stop_run",
    "run/resume": "runs.resume_run",
    "run/delete": "runs.delete_run",
    "run/again": "data.run_again",
    "data/correct": "data.correct",
    "bring": "bring.take_files",
    "start": "start.start",
    "start/form": "start.redraw",
    "review": "data.judge",
    "blind": "evaluate.judge_blind",
    "chat": "chat.ask",
    "chat/stop": "chat.stop",
    "chat/release": "chat.release",
}
"""Path below the language to the function that does what a form there says."""
N_THREADS = 10
"""Pages that are drawn at once. Each wants the interpreter's lock: where many wait for it, whatever
reads files gives it away at every call and waits for all of them again, for seconds."""
MAX_FILES, MAX_FIELDS = 2000, 2000
WARM_UP_AFTER_S = 1.0
MAX_FIELD_BYTES = 4 * 2**20


def make_app(runs: Path, data_folders: Sequence[Path] = (), token: str = "") -> Guard:
    """Build every page in every language."""
    workspace = Workspace(runs, data_folders)
    inner = [
        *(Route(f"/{path}", _make_endpoint(name)) for path, name in SHOWN.items()),
        *(Route(f"/{path}", _make_endpoint(name), methods=["POST"]) for path, name in DONE.items()),
    ]

    @asynccontextmanager
    async def live(app: Starlette) -> AsyncGenerator[None]:
        current_default_thread_limiter().total_tokens = N_THREADS
        Thread(target=_warm_up, args=(workspace,), daemon=True).start()
        yield

    routes = [
        Route("/", _choose_language),
        Mount("/static", StaticFiles(packages=[("medkd.studio", "static")])),
        *(Mount(f"/{language}", routes=inner) for language in LANGUAGES),
    ]
    app = Starlette(routes=routes, lifespan=live)
    app.state.workspace = workspace
    return Guard(app, token)


def _warm_up(workspace: Workspace) -> None:
    """Load what pages need, soon after the first one is there: each is loaded when it is first
    asked for."""
    time.sleep(WARM_UP_AFTER_S)
    load_environment()
    workspace.list_steps()
    for name in (*SHOWN.values(), *DONE.values()):
        _load(name)


def _load(name: str) -> Callable[..., Response]:
    module, _, function = name.partition(".")
    return getattr(import_module(f"medkd.studio.routes.{module}"), function)


def _make_endpoint(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if request.method != "POST":
            return await run_in_threadpool(_answer, Page(request), name)
        async with request.form(
            max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        ) as form:
            if not check_csrf(request, form.get(CSRF_FIELD)):
                return PlainTextResponse(
                    "this form is not of this session; load the page anew", 403
                )
            return await run_in_threadpool(_answer, Page(request), name, form)

    return endpoint


def _answer(page: Page, name: str, *form: Form) -> Response:
    """Answer, or say in one line what stood in the way."""
    try:
        return _load(name)(page, *form)
    except MedkdError as error:
        return page.fail(error)
    except OSError as error:
        return page.fail(from_os_error(error))


async def _choose_language(request: Request) -> Response:
    language = choose_language(request.headers.get("accept-language", ""))
    return RedirectResponse(f"/{language}/")
