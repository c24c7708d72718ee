"""What every page is given, and how it answers: texts, the workspace, addresses, templates.

In: a request. Out: HTML, whole or as a stream of parts. Everything from a model, a web page or a
file is escaped by the templates and nowhere made live.
"""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from medkd.core.errors import MedkdError
from medkd.core.i18n import LANGUAGES, Texts
from medkd.stages import STAGES
from medkd.studio.charts import share_bar
from medkd.studio.workspace import Workspace

MAX_SHOWN = 20_000
"""Characters of one text that are put on a page; the file holds the rest."""
NAVIGATION = ("", "data", "review", "chat", "evaluate", "export", "bill")
"""Paths of the pages that stand in the navigation."""
OVER = "over"
"""Name of the event that ends a stream; the page closes it then."""
KEEP_ALIVE_S = 15.0
"""Seconds without news after which a comment is sent, so that tunnels stay open."""
Draw = Callable[[], tuple[str, bool]]
"""Draws a part of a page, and says whether it is over."""


class Page:
    """One request to a page in one language."""

    def __init__(self, request: Request, language: str, workspace: Workspace) -> None:
        self.request = request
        self.workspace = workspace
        self.t = Texts(language)
        self.query = request.query_params
        self.csrf = str(request.scope.get("csrf", ""))

    @property
    def is_partial(self) -> bool:
        """Whether htmx asks for a part of the page."""
        return self.request.headers.get("hx-request") == "true"

    def number(self, name: str, default: int = 1) -> int:
        """Read a whole number of the address; the default for what is none."""
        text = self.query.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default

    def url(self, path: str, **values: Any) -> str:
        """Write the address of a page in this language; empty values are left out."""
        kept = {name: value for name, value in values.items() if value not in ("", None, [])}
        query = f"?{urlencode(kept, doseq=True)}" if kept else ""
        return f"/{self.t.language}/{path}{query}"

    def here(self, **values: Any) -> str:
        """Write this page's address with some of its values changed."""
        path = self.request.url.path.split("/", 2)[-1]
        now = {name: self.query.getlist(name) for name in self.query}
        return self.url(path, **{**now, **values})

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """Fill a template in; every value is escaped."""
        return HTMLResponse(self.draw(template, **values), status)

    def draw(self, template: str, **values: Any) -> str:
        """Fill a template in, as text."""
        return load_environment().get_template(template).render(page=self, t=self.t, **values)

    def redirect(self, path: str, **values: Any) -> Response:
        """Send the browser to another page."""
        return RedirectResponse(self.url(path, **values), 303)

    def fail(self, error: MedkdError, status: int = 400) -> Response:
        """Say why a request could not be answered: a notice for a part, else a page."""
        template = "notice.html" if self.is_partial else "error.html"
        return self.render(template, status, said=self.t.error(error), kind="bad")

    def other_languages(self) -> dict[str, str]:
        """Return the address of this page in each other language."""
        path = self.request.url.path.split("/", 2)[-1]
        query = f"?{self.request.url.query}" if self.request.url.query else ""
        others = (language for language in LANGUAGES if language != self.t.language)
        return {language: f"/{language}/{path}{query}" for language in others}

    @property
    def here_name(self) -> str:
        """The path of the navigation under which this page stands."""
        path = self.request.url.path.split("/", 2)[-1].split("/")[0]
        path = "evaluate" if path == "blind" else path
        return path if path in NAVIGATION else ""


Form = FormData


def read_text(form: Form | Mapping[str, Any], name: str, limit: int = 2000) -> str:
    """Read a text of a form; empty for what is missing or is a file."""
    value = form.get(name)
    return value[:limit] if isinstance(value, str) else ""


@cache
def load_environment() -> Environment:
    """Load the templates."""
    environment = Environment(
        loader=PackageLoader("medkd.studio", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cell": write_cell,
        "shorten": shorten,
        "more": lambda text, limit=MAX_SHOWN: max(0, len(str(text)) - limit),
        "slug": lambda text: re.sub(r"[^a-z_-]", "", str(text)[:40]),
        "when": lambda text: str(text)[:16].replace("T", " "),
        "name": lambda path: Path(str(path)).name,
    }
    values: dict[str, Any] = {
        "share_bar": share_bar,
        "navigation": NAVIGATION,
        "stages": tuple(STAGES),
        "version": _read_version(),
    }
    environment.globals.update(values)
    return environment


@cache
def _read_version() -> str:
    """Return what the addresses of style and script carry, so that a browser keeps them until they
    change."""
    static = Path(__file__).parent / "static"
    return str(max(int(path.stat().st_mtime) for path in static.iterdir()))


def shorten(text: Any, limit: int = MAX_SHOWN) -> str:
    """Cut a text that is too long for a page."""
    return str(text)[:limit]


def write_cell(value: Any) -> Any:
    """Write a value for a table."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "✓", False: "–", None: ""}[value]
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else shorten(value, 2000)


def stream(draw: Draw, period_s: float) -> Response:
    """Answer with a stream of what is drawn every so many seconds."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_follow(draw, period_s), 200, headers, "text/event-stream")


async def _follow(draw: Draw, period_s: float) -> AsyncIterator[str]:
    before, quiet_s = "", 0.0
    while True:
        drawn, is_over = await run_in_threadpool(draw)
        if drawn != before:
            yield write_event(drawn)
            before, quiet_s = drawn, 0.0
        elif quiet_s >= KEEP_ALIVE_S:
            yield ": still here\n\n"
            quiet_s = 0.0
        if is_over:
            yield f"event: {OVER}\ndata: \n\n"
            return
        await asyncio.sleep(period_s)
        quiet_s += period_s


def write_event(text: str) -> str:
    r"""Write one event; every line of the text is a line of its data.

    >>> write_event("<p>\n</p>")
    'data: <p>\ndata: </p>\n\n'
    """
    lines = text.replace("\r", "\n").split("\n")
    return "".join(f"data: {line}\n" for line in lines) + "\n"
