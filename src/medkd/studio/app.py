"""The studio as one web application: the table of its pages, in each language, behind the guard.

In: the folders to show and the token. Out: an ASGI application. Not done here: what a page does
(`studio.routes`), who may come in (`studio.auth`), listening (`studio.command`).
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from medkd.core.errors import MedkdError, from_os_error
from medkd.core.i18n import LANGUAGES, Texts, choose_language
from medkd.stages import STAGES
from medkd.studio.auth import CSRF_FIELD, Guard, check_csrf
from medkd.studio.forms import read_fields
from medkd.studio.page import Form, Page, load_environment
from medkd.studio.routes import bring, chat, corrections, data, evaluate, projects, review, start
from medkd.studio.workspace import Workspace

Show = Callable[[Page], Response]
Act = Callable[[Page, Form], Response]
Endpoint = Callable[[Request], Awaitable[Response]]

SHOWN: dict[str, Show] = {
    "": projects.list_projects,
    "run": projects.show_run,
    "run/live": projects.follow_run,
    "curves": projects.show_curves,
    "new": bring.show_beginnings,
    "bring": bring.show_upload,
    "bring/preview": bring.show_preview,
    "start": start.show_form,
    "data": data.show_records,
    "data/facets": data.show_facets,
    "review": review.show_review,
    "chat": chat.show_chat,
    "chat/live": chat.follow_chat,
    "chat/questions": chat.list_questions,
    "evaluate": evaluate.show_evaluations,
    "evaluate/tests": evaluate.show_tests,
    "evaluate/answers": evaluate.show_answers,
    "blind": review.show_blind,
    "export": evaluate.show_exports,
    "bill": projects.show_bill,
}
"""Path below the language to the page."""
DONE: dict[str, Act] = {
    "run/stop": projects.stop_run,
    "run/resume": projects.resume_run,
    "run/delete": projects.delete_run,
    "run/again": corrections.run_again,
    "data/correct": corrections.correct,
    "bring": bring.take_files,
    "start": start.start,
    "start/form": start.redraw,
    "review": review.judge,
    "blind": review.judge_blind,
    "chat": chat.ask,
    "chat/stop": chat.stop,
    "chat/release": chat.release,
}
"""Path below the language to what a form there does."""
MAX_FILES, MAX_FIELDS = 2000, 2000
MAX_FIELD_BYTES = 4 * 2**20


def make_app(runs: Path, data_folders: Sequence[Path] = (), token: str = "") -> Guard:
    """Build every page in every language."""
    workspace = Workspace(runs, data_folders)
    inner: list[BaseRoute] = [
        *(Route(f"/{path}", _show(show)) for path, show in SHOWN.items()),
        *(Route(f"/{path}", _do(act), methods=["POST"]) for path, act in DONE.items()),
    ]
    routes: list[BaseRoute] = [
        Route("/", _choose_language),
        Route("/favicon.ico", _give_no_icon),
        Mount("/static", StaticFiles(packages=[("medkd.studio", "static")])),
        *(Mount(f"/{language}", routes=inner) for language in LANGUAGES),
    ]

    @asynccontextmanager
    async def live(app: Starlette) -> AsyncGenerator[None]:
        Thread(target=_warm_up, args=(workspace,), daemon=True).start()
        yield

    app = Starlette(routes=routes, lifespan=live)
    app.state.workspace = workspace
    return Guard(app, token, make_login_page)


def _warm_up(workspace: Workspace) -> None:
    """Read what the first page needs, while nobody waits."""
    workspace.list_steps()
    load_environment()
    for stage in STAGES:
        read_fields(stage)


def make_page(request: Request) -> Page:
    """Make what a handler is given of a request."""
    language = request.scope["root_path"].rpartition("/")[2]
    return Page(request, language, request.app.state.workspace)


def _show(show: Show) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_answer, make_page(request), show)

    return endpoint


def _do(act: Act) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        async with request.form(
            max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        ) as form:
            if not check_csrf(request, form.get(CSRF_FIELD)):
                return PlainTextResponse(
                    "this form is not of this session; load the page anew", 403
                )
            return await run_in_threadpool(
                _answer, make_page(request), lambda page: act(page, form)
            )

    return endpoint


def _answer(page: Page, handle: Show) -> Response:
    """Answer, or say in one line what stood in the way."""
    try:
        return handle(page)
    except MedkdError as error:
        return page.fail(error)
    except OSError as error:
        return page.fail(from_os_error(error))


async def _choose_language(request: Request) -> Response:
    language = choose_language(request.headers.get("accept-language", ""))
    return RedirectResponse(f"/{language}/")


async def _give_no_icon(request: Request) -> Response:
    return Response(status_code=204)


def make_login_page(headers: Mapping[str, str], problem: str, seconds: int) -> str:
    """Draw the page that asks for the token."""
    t = Texts(choose_language(headers.get("accept-language", "")))
    said = {
        "": "",
        "wrong": t("The token is not right."),
        "wait": t("Too many wrong tokens. Try again in {seconds} seconds.", seconds=seconds),
    }[problem]
    return load_environment().get_template("login.html").render(t=t, said=said)
