"""Who may talk to the studio, and what a page may do in the browser.

In: every request, before any page sees it. Out: the request passed on, or a refusal. Without a
token only requests that name this machine are passed; with one, a browser shows it once and gets a
session. Not done here: which folders may be read (`studio.workspace`); encryption.
"""

import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "medkd_studio"
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
LoginPage = Callable[[dict[str, str], str, int], str]
"""Draws the page that asks for the token, from the request's headers, `wrong` or `wait` (or
nothing), and the seconds to wait."""


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

    def __init__(
        self,
        app: ASGIApp,
        token: str = "",
        login_page: LoginPage = lambda headers, problem, seconds: problem,
    ) -> None:
        self.app = app
        self.token = token
        self.throttle = Throttle()
        self._login_page = login_page
        self._sessions: dict[str, float] = {}
        self._secret = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            key.decode("latin-1").lower(): value.decode("latin-1")
            for key, value in scope["headers"]
        }
        session, is_new = self._find_session(headers)
        scope["csrf"] = self.make_csrf(session)
        cookie = _write_cookie(session) if is_new and not self.token else b""
        send = _with_headers(send, cookie)
        refusal = find_refusal(scope, headers, needs_own_name=not self.token)
        if refusal:
            await _reply(send, 403, refusal)
        elif not self.token or self._is_known(session) or _is_static(scope):
            await self.app(scope, _up_to(MAX_BODY_BYTES, receive), send)
        elif scope["path"] == "/login" and scope["method"] == "POST":
            await self._log_in(scope, headers, receive, send)
        elif scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            await _reply(send, 401, self._login_page(headers, "", 0), "text/html")
        else:
            await _reply(send, 401, "log in first")

    def make_csrf(self, session: str) -> str:
        """Make the token that a session's forms carry."""
        return hmac.new(self._secret, session.encode("utf-8", "replace"), sha256).hexdigest()

    def _find_session(self, headers: dict[str, str]) -> tuple[str, bool]:
        """Return the session that a browser names, or a new one."""
        parts = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        session = next((value for name, _, value in parts if name == COOKIE), "")
        return (session, False) if session else (secrets.token_urlsafe(32), True)

    def _is_known(self, session: str) -> bool:
        return self._sessions.get(session, 0.0) > time.monotonic()

    async def _log_in(
        self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send
    ) -> None:
        address = str((scope.get("client") or ("?",))[0])
        body = await _read_body(receive, MAX_LOGIN_BYTES)
        # From here on nothing is awaited: tokens that are tried at once are counted one by one.
        wait = self.throttle.wait_s(address)
        if wait > 0:
            seconds = round(wait + 0.5)
            page = self._login_page(headers, "wait", seconds)
            retry = [(b"retry-after", str(seconds).encode())]
            await _reply(send, 429, page, "text/html", retry)
            return
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            self.throttle.fail(address)
            await _reply(send, 401, self._login_page(headers, "wrong", 0), "text/html")
            return
        self.throttle.forget(address)
        session, now = secrets.token_urlsafe(32), time.monotonic()
        self._sessions = {key: end for key, end in self._sessions.items() if end > now}
        self._sessions[session] = now + COOKIE_LIFE_S
        extra = [(b"location", b"/"), (b"set-cookie", _write_cookie(session))]
        await _reply(send, 303, "", extra=extra)


def check_csrf(request: Request, given: object) -> bool:
    """Tell whether a request carries its session's token, in a header or in the form's field."""
    token = request.headers.get(CSRF_HEADER) or (given if isinstance(given, str) else "")
    return hmac.compare_digest(token.encode("utf-8", "replace"), str(request["csrf"]).encode())


def find_refusal(scope: Scope, headers: dict[str, str], needs_own_name: bool) -> str:
    """Say why a request is not passed on; empty where it is."""
    host = headers.get("host", "")
    if needs_own_name and find_host(f"//{host}")[0] not in THIS_MACHINE:
        return (
            "the studio answers to the name of this machine only; "
            "start it with --host to be reached from others"
        )
    origin = headers.get("origin")
    is_act = scope["method"] not in ("GET", "HEAD")
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


def _is_static(scope: Scope) -> bool:
    """Tell whether a request reads a style or a script of the package, which the page that asks for
    the token needs too."""
    return scope["method"] == "GET" and str(scope["path"]).startswith("/static/")


def _write_cookie(session: str) -> bytes:
    kept = f"Path=/; HttpOnly; SameSite=Strict; Max-Age={COOKIE_LIFE_S}"
    return f"{COOKIE}={session}; {kept}".encode()


def _with_headers(send: Send, cookie: bytes) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = [(b"set-cookie", cookie)] if cookie else []
            message["headers"] = [*message.get("headers", []), *HEADERS, *given]
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


async def _read_body(receive: Callable[[], Awaitable[Message]], limit: int) -> bytes:
    body = b""
    while len(body) <= limit:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body[:limit]


async def _reply(
    send: Send,
    status: int,
    text: str,
    kind: str = "text/plain",
    extra: list[tuple[bytes, bytes]] | None = None,
) -> None:
    body = text.encode()
    headers = [
        (b"content-type", f"{kind}; charset=utf-8".encode()),
        (b"content-length", str(len(body)).encode()),
        *(extra or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
