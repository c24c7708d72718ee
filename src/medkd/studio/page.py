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
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from medkd.core.errors import MedkdError
from medkd.core.i18n import LANGUAGES, Texts
from medkd.stages import STAGES
from medkd.studio.workspace import Workspace

MAX_NAME = 60
"""Characters of the name of who judges."""
MAX_SHOWN = 20_000
"""Characters of one text that are put on a page; the file holds the rest."""
NAVIGATION = ("", "data", "review", "chat", "evaluate", "export", "bill")
"""Paths of the pages that stand in the navigation."""
OVER = "over"
"""Name of the event that ends a stream; the page closes it then."""
KEEP_ALIVE_S = 15.0
"""Seconds without news after which a comment is sent, so that tunnels stay open."""
Form = FormData


class Page:
    """One request to a page in one language."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.workspace: Workspace = request.app.state.workspace
        _, language, self.path = request.url.path.split("/", 2)
        self.t = Texts(language)
        self.query = request.query_params
        self.csrf = str(request.scope.get("csrf", ""))

    @property
    def other_languages(self) -> list[str]:
        return [language for language in LANGUAGES if language != self.t.language]

    @property
    def place(self) -> str:
        """The path in the navigation under which this page stands."""
        first = self.path.split("/")[0]
        return "evaluate" if first == "blind" else first if first in NAVIGATION else ""

    def number(self, name: str, default: int = 1) -> int:
        """Read a whole number of the address."""
        return read_number(self.query, name, default)

    def url(self, path: str, /, **values: Any) -> str:
        """Write the address of a page in this language; empty values are left out."""
        return write_url(self.t.language, path, values)

    def here(self, language: str = "", /, **values: Any) -> str:
        """Write this page's address with some of its values changed, or in another language."""
        now = {name: self.query.getlist(name) for name in self.query}
        return write_url(language or self.t.language, self.path, {**now, **values})

    def draw(self, template: str, **values: Any) -> str:
        """Fill a template in; every value is escaped."""
        return load_environment().get_template(template).render(page=self, t=self.t, **values)

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self.draw(template, **values), status)

    def redirect(self, path: str, **values: Any) -> Response:
        """Send the browser to another page."""
        return RedirectResponse(self.url(path, **values), 303)

    def fail(self, error: MedkdError) -> Response:
        """Say why a request could not be answered: a notice for a part, else a page."""
        is_part = self.request.headers.get("hx-request") == "true"
        template = "notice.html" if is_part else "error.html"
        return self.render(template, 400, said=self.t.error(error), kind="bad")


def write_url(language: str, path: str, values: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in values.items() if value not in ("", None, [])}
    query = f"?{urlencode(kept, doseq=True)}" if kept else ""
    return f"/{language}/{path}{query}"


def read_text(form: Mapping[str, Any], name: str, limit: int = 2000) -> str:
    """Read a text of a form, its lines ended as everywhere; empty for what is missing or is a
    file."""
    value = form.get(name)
    return value.replace("\r\n", "\n")[:limit].strip() if isinstance(value, str) else ""


def read_number(form: Mapping[str, Any], name: str, default: int = 0) -> int:
    """Read a whole number of a form or an address; the default for what is none."""
    text = read_text(form, name)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


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
        "more": lambda text: max(0, len(str(text)) - MAX_SHOWN),
        "slug": lambda text: re.sub(r"[^a-z_-]", "", str(text)[:40]),
        "when": lambda text: str(text)[:16].replace("T", " "),
        "name": lambda path: Path(str(path)).name,
    }
    # A browser keeps style and script until the addresses that carry this change.
    static = Path(__file__).parent / "static"
    version = max(int(path.stat().st_mtime) for path in static.iterdir())
    values: dict[str, Any] = {"navigation": NAVIGATION, "stages": tuple(STAGES), "version": version}
    environment.globals.update(values)
    return environment


def shorten(text: object, limit: int = MAX_SHOWN) -> str:
    """Cut a text for a page; where a page says by itself how much is left out, nothing is added."""
    whole = str(text)
    return whole[:limit] + ("…" if limit < MAX_SHOWN and len(whole) > limit else "")


def write_cell(value: Any) -> str:
    """Write a value for a table."""
    if isinstance(value, bool) or value is None:
        return {True: "✓", False: "–", None: ""}[value]
    if isinstance(value, float):
        text = f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        return "" if math.isnan(value) else text
    return f"{value:,}" if isinstance(value, int) else str(value)[:2000]


def stream(draw: Callable[[], tuple[str, bool]], period_s: float) -> Response:
    """Answer with what is drawn every so many seconds, until it says that it is over."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_follow(draw, period_s), 200, headers, "text/event-stream")


async def _follow(draw: Callable[[], tuple[str, bool]], period_s: float) -> AsyncIterator[str]:
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
