"""Who may talk to the studio, and what a page may do in the browser.

In: every request, before any page sees it. Out: the request passed on, or a refusal. Without a
token only requests that name this machine are passed (a foreign page cannot reach the studio by
renaming itself); with one, a browser shows it once and gets a cookie.
Not done here: which folders may be read (`studio.places`); encryption (put the studio behind ssh or
a proxy).
"""

import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from typing import Any
from urllib.parse import parse_qs, urlsplit

from medkd.studio.texts import Texts, choose_language

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

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

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; frame-src 'none'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""A page may load from the studio alone; the pages' framework needs inline scripts."""
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (
        b"referrer-policy",
        b"same-origin",
    ),  # without a referrer, a form would not say where it comes from either
)
USED_API = (
    "run/",
    "upload",
    "heartbeat/",
    "startup-events",
    "theme.css",
    "cancel",
    "reset",
    "component_server",
    "file=",
    "info",
    "app_id",
)
"""What the pages use of their framework's interface; the rest (queue, proxy, remote history,
editing by chat) is not there."""


class Throttle:
    """Counts wrong tokens by address and says how long it has to wait."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures: dict[str, tuple[int, float]] = {}

    def wait_s(self, address: str) -> float:
        """Give the seconds until this address may try again."""
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
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], token: str = ""
    ) -> None:
        self.app = app
        self.token = token
        self.throttle = Throttle()
        self._sessions: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, _with_headers(send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            key.decode("latin-1").lower(): value.decode("latin-1")
            for key, value in scope["headers"]
        }
        refusal = find_refusal(scope, headers, needs_own_name=not self.token)
        if refusal:
            await _reply(send, 403, refusal)
        elif not self.token or self._is_known(headers):
            await self.app(scope, _up_to(MAX_BODY_BYTES, receive), send)
        elif scope["path"] == "/login" and scope["method"] == "POST":
            await self._log_in(scope, headers, receive, send)
        elif scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            await _reply(
                send,
                401,
                make_login_page(Texts(choose_language(headers.get("accept-language", "")))),
                "text/html",
            )
        else:
            await _reply(send, 401, "log in first")

    def _is_known(self, headers: dict[str, str]) -> bool:
        parts = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        session = next((value for name, _, value in parts if name == COOKIE), "")
        return self._sessions.get(session, 0.0) > time.monotonic()

    async def _log_in(
        self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send
    ) -> None:
        texts = Texts(choose_language(headers.get("accept-language", "")))
        address = str((scope.get("client") or ("?",))[0])
        body = await _read_body(receive, MAX_LOGIN_BYTES)
        wait = self.throttle.wait_s(
            address
        )  # from here on nothing is waited for: tokens that are tried at once are counted one by one
        if wait > 0:
            page = make_login_page(texts, texts("login.wait", seconds=round(wait + 0.5)))
            await _reply(
                send, 429, page, "text/html", [(b"retry-after", str(round(wait + 0.5)).encode())]
            )
            return
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            self.throttle.fail(address)
            await _reply(send, 401, make_login_page(texts, texts("login.wrong")), "text/html")
            return
        self.throttle.forget(address)
        session = secrets.token_urlsafe(32)
        self._sessions[session] = time.monotonic() + COOKIE_LIFE_S
        cookie = f"{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict; Max-Age={COOKIE_LIFE_S}"
        await _reply(send, 303, "", extra=[(b"location", b"/"), (b"set-cookie", cookie.encode())])


def find_refusal(scope: Scope, headers: dict[str, str], needs_own_name: bool) -> str:
    """Say why a request is not passed on; empty where it is."""
    host = headers.get("host", "")
    if needs_own_name and find_host(f"//{host}")[0] not in THIS_MACHINE:
        return "the studio answers to the name of this machine only; start it with --host to be reached from others"
    origin = headers.get("origin")
    if (
        scope["method"] not in ("GET", "HEAD")
        and origin is not None
        and find_host(origin)[1] != host
    ):
        return "this request comes from a page of another site"
    length = headers.get("content-length") or "0"
    if not (length.isascii() and length.isdigit()) or len(length) > 20:
        return "this request does not say how long it is"
    if int(length) > MAX_BODY_BYTES:
        return "this request is too large"
    _, is_api, call = str(scope["path"]).partition("/gradio_api/")
    if is_api and not call.startswith(USED_API):
        return "the studio has no such page"
    return ""


def find_host(address: str) -> tuple[str, str]:
    """Read the host's name, and the host with its port, of an address; empty where it has none."""
    try:
        parts = urlsplit(address)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""


def make_login_page(texts: Texts, problem: str = "") -> str:
    """Write the page that asks for the token."""
    shown = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    return (
        f'<!doctype html><html lang="{texts.language}"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>MedKD</title>'
        "<style>:root{color-scheme:light dark}body{font:1rem/1.6 system-ui,sans-serif;max-width:24rem;margin:15vh auto;padding:0 1rem}"
        "input,button{font:inherit;width:100%;box-sizing:border-box;padding:.5rem;margin:.3rem 0}</style>"
        f"<h1>MedKD</h1>{shown}"
        f'<form method="post" action="/login"><label for="token">{escape(texts("login.token"))}</label>'
        '<input id="token" name="token" type="password" autocomplete="off" autofocus required>'
        f"<button>{escape(texts('login.enter'))}</button></form></html>"
    )


def _with_headers(send: Send) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
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


async def _read_body(receive: Receive, limit: int) -> bytes:
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
