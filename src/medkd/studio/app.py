"""The studio as one web application: the pages in each language behind the guard.

In: the folders to show and the token. Out: an ASGI application. Not done here: what a page does
(`studio.pages`), listening. This module imports gradio: import it inside functions only.
"""

import json
import os
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from html import escape
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

os.environ |= {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}  # read when gradio is loaded

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from gradio.components import Navbar
from gradio.themes import Base, Default

from medkd.core.errors import MedkdError
from medkd.studio.guard import Guard
from medkd.studio.places import Places
from medkd.studio.texts import LANGUAGES, Texts, choose_language

PAGES = ("runs", "data", "review", "chat", "evaluate", "export", "bill")
"""In the order of the navigation; the first one is where a browser arrives."""
BUTTONS = {"primary": "#1d4ed8", "cancel": "#b91c1c"}
MAX_UPLOAD = "200mb"


def make_app(runs: Path, data: Sequence[Path] = (), token: str = "") -> Guard:
    """Build every page in every language."""
    places = Places(runs, data)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/")
    def choose(request: Request) -> RedirectResponse:  # pyright: ignore[reportUnusedFunction] - the decorator uses it
        return RedirectResponse(f"/{choose_language(request.headers.get('accept-language', ''))}/")

    warnings.filterwarnings(
        "ignore", message="SSR mode is not supported", category=UserWarning
    )  # it is not asked for

    @app.get("/favicon.ico")
    def give_no_icon() -> Response:  # pyright: ignore[reportUnusedFunction] - the decorator uses it
        return Response(status_code=204)

    for language in LANGUAGES:
        texts = Texts(language)
        gr.mount_gradio_app(
            app,
            build_pages(places, texts),
            path=f"/{language}",
            ssr_mode=False,
            run_history=False,
            footer_links=[],
            max_file_size=MAX_UPLOAD,
            show_error=True,
            theme=make_theme(),
            css=_read("studio.css"),
            head=f"<script>const FRAMEWORK = {json.dumps(texts.group('framework'))};\n{_read('studio.js')}</script>",
            app_kwargs={
                "openapi_url": None,
                "docs_url": None,
                "redoc_url": None,
                "exception_handlers": {KeyError: _make_farewell(texts)},
            },
        )
    return Guard(app, token)


def build_pages(places: Places, texts: Texts) -> gr.Blocks:
    """Build the pages in one language."""
    blocks = gr.Blocks(title="MedKD", analytics_enabled=False, fill_width=True)
    for name in PAGES:
        build: Callable[[Any, Places, Texts], None] = import_module(
            f"medkd.studio.pages.{name}"
        ).build
        with blocks if name == PAGES[0] else blocks.route(texts(f"page.{name}"), name) as page:
            Navbar(main_page_name=texts(f"page.{PAGES[0]}"))
            _show_head(name, texts)
            build(page, places, texts)
    for function in blocks.fns.values():
        function.queue = False  # AT_ONCE, for all that is not drawn later
        function.fn = function.fn and _tell_errors(function.fn, texts)
    return blocks.queue(api_open=False)


def _tell_errors(answer: Callable[..., Any], texts: Texts) -> Callable[..., Any]:
    """Tell what an answer of a page stumbles over in the reader's language; the framework shows it
    over the page."""

    @wraps(answer)
    def tell(*values: Any) -> Any:
        try:
            return answer(*values)
        except MedkdError as error:
            raise gr.Error(
                escape(texts.say(str(error))), title=texts("page.error"), print_exception=False
            ) from error

    return tell


def _make_farewell(texts: Texts) -> Callable[[Request, Exception], JSONResponse]:
    """Make the answer to what is asked of a form that was drawn anew since, or in a studio that is
    gone."""

    def tell_gone(request: Request, error: Exception) -> JSONResponse:
        said = {
            "error": texts("page.gone"),
            "title": texts("page.error"),
            "visible": True,
            "duration": 10,
        }
        return JSONResponse(said, status_code=410)

    return tell_gone


def _show_head(name: str, texts: Texts) -> None:
    other = next(language for language in LANGUAGES if language != texts.language)
    path = "" if name == PAGES[0] else name
    gr.HTML(
        f'<header class="head"><h1>{texts(f"page.{name}")}</h1><p>{texts(f"page.{name}_does")}</p>'
        f'<nav><a href="/{other}/{path}" lang="{other}" hreflang="{other}">{texts("page.other_language")}</a></nav></header>'
    )


def make_theme() -> Base:
    """Make a theme whose fonts are the machine's own: nothing is fetched."""
    sans = [
        "system-ui",
        "-apple-system",
        "Segoe UI",
        "Noto Sans CJK SC",
        "PingFang SC",
        "Microsoft YaHei",
        "sans-serif",
    ]
    mono = ["ui-monospace", "Menlo", "Consolas", "monospace"]
    theme = Default(primary_hue="blue", font=sans, font_mono=mono)
    # Readable on both grounds: at least 4.5 to 1.
    subdued = {
        "body_text_color_subdued": "*neutral_600",
        "body_text_color_subdued_dark": "*neutral_300",
    }
    subdued |= {
        "input_placeholder_color": "*neutral_600",
        "input_placeholder_color_dark": "*neutral_300",
    }
    buttons = {
        f"button_{kind}_background_fill{at}": colour
        for kind, colour in BUTTONS.items()
        for at in ("", "_hover", "_dark", "_hover_dark")
    }
    return theme.set(**subdued, **buttons)


def _read(name: str) -> str:
    return files("medkd.studio").joinpath(name).read_text(encoding="utf-8")
