"""Who may talk to the studio, and what a page may do in the browser.

In: every request, before any page sees it. Out: the request passed on, or a refusal. Without a
token only requests that name this machine are passed; with one, a browser shows it once and gets a
signed session. Not done here: which folders may be read (`studio.workspace`); encryption.
"""

import hmac
import secrets
import time
from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medkd.core.i18n import Texts, choose_language
from medkd.studio.page import load_environment

COOKIE_LIFE_S = 12 * 3600
FREE_TRIES = 3
"""Wrong tokens from one address before it has to wait."""
LONGEST_WAIT_S = 300.0
MEMORY_S = 3600.0
"""How long a wrong token is held against an address."""
MAX_BODY_BYTES = 256 * 2**20
MAX_LOGIN_BYTES = 4096
THIS_MACHINE = {"localhost", "127.0.0.1", "::1"}
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""A page loads from the studio alone and runs no script that stands in it."""
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),
)


class Throttle:
    """Counts wrong tokens by address and says how long it has to wait."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures: dict[str, tuple[int, float]] = {}

    def wait_s(self, address: str) -> float:
        """Return the seconds until this address may try again."""
        n, last = self._failures.get(address, (0, 0.0))
        pause = min(LONGEST_WAIT_S, 2.0 ** (n - FREE_TRIES + 1)) if n >= FREE_TRIES else 0.0
        return max(0.0, last + pause - self._now())

    def fail(self, address: str) -> None:
        """Count a wrong token, and forget those of long ago: strangers with ever new addresses fill
        no memory."""
        now = self._now()
        self._failures = {
            known: failed for known, failed in self._failures.items() if now - failed[1] < MEMORY_S
        }
        self._failures[address] = (self._failures.get(address, (0, 0.0))[0] + 1, now)

    def forget(self, address: str) -> None:
        self._failures.pop(address, None)


class Guard:
    """Stands in front of the pages."""

    def __init__(self, app: ASGIApp, token: str = "") -> None:
        self.app = app
        self.token = token
        self.throttle = Throttle()
        # Browsers do not tell ports apart: a name of its own keeps two studios out of each other's.
        self.cookie = f"medkd_studio_{secrets.token_hex(4)}"
        self._with_session = SessionMiddleware(
            self._answer, secrets.token_hex(32), self.cookie, COOKIE_LIFE_S, same_site="strict"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._with_session(scope, receive, _with_headers(send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, _up_to(MAX_BODY_BYTES, receive))
        session, is_get = request.session, request.method == "GET"
        answer: ASGIApp = self.app
        if refusal := find_refusal(request, needs_own_name=not self.token):
            answer = PlainTextResponse(refusal, 403)
        elif is_get and str(scope["path"]).startswith("/static/"):
            pass  # the page that asks for the token needs its style too
        elif not self.token or session.get("is_known"):
            scope["csrf"] = session.setdefault("csrf", secrets.token_hex(32))
        elif scope["path"] == "/login" and request.method == "POST":
            answer = await self._log_in(request)
        elif is_get and "text/html" in request.headers.get("accept", ""):
            answer = draw_login(request)
        else:
            answer = PlainTextResponse("log in first", 401)
        await answer(scope, request.receive, send)

    async def _log_in(self, request: Request) -> Response:
        address = request.client.host if request.client else "?"
        try:
            body = await Request(request.scope, _up_to(MAX_LOGIN_BYTES, request.receive)).body()
        except ClientDisconnect:
            body = b""
        # From here on nothing is awaited: tokens that are tried at once are counted one by one.
        if wait := self.throttle.wait_s(address):
            return draw_login(request, "wait", round(wait + 0.5))
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            self.throttle.fail(address)
            return draw_login(request, "wrong")
        self.throttle.forget(address)
        request.session["is_known"] = True
        return RedirectResponse("/", 303)


def draw_login(request: Request, problem: str = "", seconds: int = 0) -> Response:
    """Draw the page that asks for the token, and says what was wrong with the last one."""
    t = Texts(choose_language(request.headers.get("accept-language", "")))
    said = {
        "": "",
        "wrong": t("The token is not right."),
        "wait": t("Too many wrong tokens. Try again in {seconds} seconds.", seconds=seconds),
    }[problem]
    page = load_environment().get_template("login.html").render(t=t, said=said)
    headers = {"retry-after": str(seconds)} if seconds else {}
    return HTMLResponse(page, 429 if seconds else 401, headers)


def check_csrf(request: Request, given: object) -> bool:
    """Tell whether a request carries its session's token, in a header or in the form's field."""
    token = request.headers.get(CSRF_HEADER) or (given if isinstance(given, str) else "")
    return hmac.compare_digest(token.encode("utf-8", "replace"), str(request["csrf"]).encode())


def find_refusal(request: Request, needs_own_name: bool) -> str:
    """Say why a request is not passed on; empty where it is."""
    headers = request.headers
    host = headers.get("host", "")
    if needs_own_name and find_host(f"//{host}")[0] not in THIS_MACHINE:
        return (
            "the studio answers to the name of this machine only; "
            "start it with --host to be reached from others"
        )
    origin = headers.get("origin")
    is_act = request.method not in ("GET", "HEAD")
    if is_act and origin is not None and find_host(origin)[1] != host:
        return "this request comes from a page of another site"
    if is_act and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return "this request comes from a page of another site"
    length = headers.get("content-length") or "0"
    if not (length.isascii() and length.isdigit()) or len(length) > 20:
        return "this request does not say how long it is"
    if int(length) > MAX_BODY_BYTES:
        return "this request is too large"
    return ""


def find_host(address: str) -> tuple[str, str]:
    """Read the host's name, and the host with its port, of an address; empty where it has none."""
    try:
        parts = urlsplit(address)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *HEADERS]
        await send(message)

    return wrapped


def _up_to(limit: int, receive: Receive) -> Receive:
    """Hang up on a body that grows past the limit: one that is sent in chunks does not say its
    length beforehand."""
    n_read = 0

    async def counted() -> MutableMapping[str, Any]:
        nonlocal n_read
        message = await receive()
        n_read += len(message.get("body", b""))
        return {"type": "http.disconnect"} if n_read > limit else message

    return counted
