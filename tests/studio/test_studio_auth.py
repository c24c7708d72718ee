"""Who may talk to the studio."""

import asyncio
import http.client
import signal
import time
from urllib.parse import urlencode, urlsplit

import pytest

from medkd.studio.auth import FREE_TRIES, LONGEST_WAIT_S, MEMORY_S, Guard, Throttle
from medkd.studio.command import describe_address


async def inner(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def ask(
    guard: Guard, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], str]:
    sent: list[dict] = []
    given = {
        "host": "localhost:7860",
        "accept": "text/html",
        **{key.replace("_", "-"): value for key, value in headers.items()},
    }
    scope = {
        "type": "http",
        "path": path,
        "method": method,
        "client": ("10.0.0.1", 1),
        "headers": [(key.encode(), value.encode()) for key, value in given.items()],
    }

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    replied = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], replied, sent[1]["body"].decode()


def test_on_this_machine_only_its_own_names_are_answered() -> None:
    guard = Guard(inner)
    assert ask(guard)[0] == 200
    assert ask(guard, host="[::1]:7860")[0] == 200
    assert ask(guard, host="evil.example:7860")[0] == 403, (
        "a foreign name that was turned to this machine"
    )
    assert ask(guard, host="")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "[::1"},
        {"host": "]"},
        {"host": "localhost:7860]["},
        {"origin": "http://[::1", "method": "POST"},
        {"origin": "null", "method": "POST"},
        {"content_length": "many"},
        {"content_length": "-1"},
        {"content_length": "²"},
        {"content_length": "9" * 5000},
    ],
)
def test_headers_that_are_none_are_refused_and_break_nothing(headers: dict[str, str]) -> None:
    assert ask(Guard(inner), **headers)[0] == 403
    assert ask(Guard(inner, "token"), **headers)[0] in (401, 403)


def test_a_page_of_another_site_cannot_act() -> None:
    guard = Guard(inner)
    assert ask(guard, method="POST", origin="http://localhost:7860")[0] == 200
    assert ask(guard, method="POST", origin="http://evil.example")[0] == 403
    assert ask(guard, method="POST", origin="null")[0] == 403
    assert ask(guard, method="POST", sec_fetch_site="cross-site")[0] == 403
    assert ask(guard, method="POST", sec_fetch_site="same-site")[0] == 403, "another port"


def test_every_answer_forbids_the_browser_to_load_from_elsewhere_and_to_run_what_stands_in_a_page() -> (
    None
):
    policy = ask(Guard(inner))[1]["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_request_without_end_is_refused() -> None:
    assert ask(Guard(inner), method="POST", content_length=str(10**12))[0] == 403


def test_a_body_in_chunks_is_cut_off_at_the_same_length(monkeypatch) -> None:
    monkeypatch.setattr("medkd.studio.auth.MAX_BODY_BYTES", 1000)
    received: list[dict] = []

    async def reading(scope, receive, send):
        while (message := await receive())["type"] == "http.request" and len(received) < 50:
            received.append(message)
        await inner(scope, receive, send)

    ask(Guard(reading), method="POST", body=b"x" * 400)
    assert len(received) == 2, "the third piece would pass the limit"


def test_with_a_token_nothing_is_shown_before_it_is() -> None:
    guard = Guard(inner, "secret-token")
    status, _, page = ask(guard, "/en/data", host="10.1.2.3:7860", accept_language="zh-CN")
    assert status == 401
    assert "令牌" in page
    assert "inside" not in page
    assert ask(guard, "/en/run/stop", method="POST", accept="application/json")[0] == 401
    assert ask(guard, "/login", method="POST", body=b"token=wrong")[0] == 401

    status, headers, _ = ask(guard, "/login", method="POST", body=b"token=secret-token")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secret-token" not in cookie
    assert ask(guard, "/en/data", cookie=headers["set-cookie"].split(";")[0])[2] == "inside"
    assert ask(guard, "/en/data", cookie=f"{guard.cookie}=made-up")[0] == 401
    assert ask(guard, "/en/data", cookie=f"{guard.cookie}=")[0] == 401


def test_a_token_is_compared_in_constant_time(monkeypatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr("hmac.compare_digest", lambda *both: compared.append(both) is None)
    assert ask(Guard(inner, "secret"), "/login", method="POST", body=b"token=guess")[0] == 303
    assert compared == [(b"guess", b"secret")]


def test_two_studios_of_one_machine_keep_their_sessions_apart() -> None:
    assert Guard(inner).cookie != Guard(inner).cookie


def test_wrong_tokens_make_an_address_wait() -> None:
    guard = Guard(inner, "secret-token")
    for _ in range(FREE_TRIES):
        assert ask(guard, "/login", method="POST", body=b"token=wrong")[0] == 401
    status, headers, page = ask(guard, "/login", method="POST", body=b"token=secret-token")
    assert status == 429, "the right one has to wait too"
    assert int(headers["retry-after"]) >= 1
    assert "Try again" in page


def test_tokens_that_are_tried_at_once_are_counted_one_by_one() -> None:
    guard = Guard(inner, "secret-token")
    statuses: list[int] = []

    async def send(message):
        statuses.append(message.get("status", 0))

    async def try_at_once(n: int) -> None:
        all_asked = asyncio.Barrier(n)

        async def receive():
            await all_asked.wait()  # every request is under way before the first one says its token
            return {"type": "http.request", "body": b"token=wrong"}

        scope = {
            "type": "http",
            "path": "/login",
            "method": "POST",
            "client": ("10.0.0.1", 1),
            "headers": [],
        }
        await asyncio.gather(*(guard(dict(scope), receive, send) for _ in range(n)))

    asyncio.run(try_at_once(12))
    assert sorted(filter(None, statuses)) == [401] * FREE_TRIES + [429] * (12 - FREE_TRIES)


def test_the_wait_grows_and_has_an_end() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    waits: list[float] = []
    for _ in range(20):
        throttle.fail("a")
        waits.append(throttle.wait_s("a"))
    assert waits[: FREE_TRIES - 1] == [0.0] * (FREE_TRIES - 1)
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT_S
    assert throttle.wait_s("b") == 0
    now[0] += LONGEST_WAIT_S
    assert throttle.wait_s("a") == 0


def test_a_wrong_token_is_not_held_against_an_address_for_ever() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    for _ in range(20):
        throttle.fail("a")
    now[0] += MEMORY_S
    throttle.fail("b")
    throttle.fail("a")
    assert throttle.wait_s("a") == 0


class Client:
    """A client of a real studio, with an address of its own on this machine."""

    def __init__(self, url: str, address: str, language: str) -> None:
        self.url, self.address, self.language = urlsplit(url), address, language

    def ask(
        self, path: str, token: str = "", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, str]:
        connection = http.client.HTTPConnection(
            str(self.url.hostname), self.url.port, timeout=60, source_address=(self.address, 0)
        )
        given = {"Accept": "text/html", "Accept-Language": self.language, **headers}
        if token:
            given["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(
            "POST" if token else "GET", path, urlencode({"token": token}) if token else None, given
        )
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


@pytest.mark.slow
def test_a_real_studio_slows_down_who_guesses_and_nobody_else(open_studio) -> None:
    studio = open_studio("--host", "127.0.0.2")
    guesser, other = (
        Client(studio.url, "127.0.0.3", "zh-CN,zh"),
        Client(studio.url, "127.0.0.4", "en"),
    )
    for _ in range(FREE_TRIES):
        status, _, page = guesser.ask("/login", "guess")
        assert status == 401
        assert "令牌不正确" in page
    status, headers, page = guesser.ask("/login", studio.token)
    wait_s = int(headers["Retry-After"])
    assert status == 429, "the right one has to wait, too"
    assert f"请在 {wait_s} 秒后再试" in page
    assert 'lang="zh"' in page

    status, headers, _ = other.ask("/login", studio.token)
    assert status == 303, "another address is let in meanwhile"
    assert other.ask("/en/", Cookie=headers["Set-Cookie"].partition(";")[0])[0] == 200
    assert other.ask("/en/")[0] == 401

    time.sleep(wait_s)
    status, headers, _ = guesser.ask("/login", studio.token)
    assert status == 303
    assert guesser.ask("/zh/", Cookie=headers["Set-Cookie"].partition(";")[0])[0] == 200
    assert guesser.ask("/login", "guess")[0] == 401, "who was let in begins anew"


@pytest.mark.slow
def test_behind_a_proxy_on_this_machine_it_is_the_guesser_who_waits(open_studio) -> None:
    studio = open_studio("--host", "127.0.0.1")
    proxy = Client(studio.url, "127.0.0.1", "en")
    for _ in range(FREE_TRIES + 1):
        status = proxy.ask("/login", "guess", **{"X-Forwarded-For": "203.0.113.7"})[0]
    assert status == 429
    assert proxy.ask("/login", studio.token, **{"X-Forwarded-For": "203.0.113.8"})[0] == 303


def test_the_token_and_the_way_through_ssh_are_told_where_they_are_needed() -> None:
    assert "ssh -L 7860:localhost:7860" in describe_address("", 7860, "")
    told = describe_address("0.0.0.0", 7860, "abc")
    assert "abc" in told
    assert "ssh" not in told


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_closed_studio_says_so_and_is_no_error(open_studio, sent: signal.Signals) -> None:
    studio = open_studio()
    connection = http.client.HTTPConnection(urlsplit(studio.url).netloc)
    connection.request("GET", "/")
    assert connection.getresponse().status < 400
    connection.close()
    studio.process.send_signal(sent)
    said = studio.process.communicate(timeout=20)[0]
    assert (studio.process.returncode, said) == (
        0,
        "studio: closed; runs that were started go on\n",
    )
