"""A studio by HTTP client for most tests; a real one and a real browser for the rest."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile_samples import make_hostile_runs
from starlette.testclient import TestClient

from medkd.studio.app import make_app

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the detached runs of a test away from those of the person who runs it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


class Client(TestClient):
    """A browser without a screen, which knows the token of its session's forms."""

    def __init__(self, runs: Path, *data: Path) -> None:
        runs.mkdir(exist_ok=True)
        super().__init__(make_app(runs, data), base_url="http://localhost:7860")
        self.headers["accept"] = "text/html"

    @property
    def csrf(self) -> str:
        found = re.search(r'"x-csrf-token": "(\w+)"', self.get("/en/new").text)
        assert found
        return found[1]

    def submit(self, path: str, **fields: object):
        """Send a form, as its page would."""
        given = {"data": {"csrf": self.csrf, **fields}, "follow_redirects": False}
        return self.post(path, **given)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A studio in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return Client(tmp_path / "runs", tmp_path)


@pytest.fixture
def hostile_runs(tmp_path: Path) -> Path:
    """A run whose every text tries to break in, and whose second answer is a megabyte long."""
    return make_hostile_runs(tmp_path / "runs")


class Studio:
    """A studio in a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [sys.executable, "-m", "medkd", "studio", "--port", "0", *words]
        # The proxy of the machine, if there is one, is not for loopback.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "localhost,127.0.0.1",
            "XDG_STATE_HOME": str(folder / "state"),
        }
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if line.startswith("Ctrl-C"):
                break
        found = re.search(r"studio: (http://\S+)", self.said)
        assert found, self.said
        self.url = found[1].replace("localhost", "127.0.0.1")
        self.token = match[1] if (match := re.search(r"token:  (\S+)", self.said)) else ""

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


@pytest.fixture
def open_studio(tmp_path: Path) -> Iterator[Callable[..., Studio]]:
    """Open studios in the test's folder; they are closed when it ends."""
    opened: list[Studio] = []

    def start(*words: str) -> Studio:
        opened.append(Studio(tmp_path, *words))
        return opened[-1]

    yield start
    for studio in opened:
        studio.close()


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, headless; closed after each file, since Playwright keeps an event loop
    running in this thread until then."""
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM}: no such file; apt-get install chromium, as .ci/run does", False)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


class Watched:
    """A page, and what went wrong on it: requests to other hosts, refused ones, errors of scripts
    and of the policy, dialogs that a text raised."""

    def __init__(self, browser, **options) -> None:
        usual = {"locale": "en-US", "viewport": {"width": 1280, "height": 900}}
        self.context = browser.new_context(**usual | options)
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.foreign: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self._look)
        self.page.on("response", self._check)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._listen)
        self.page.on("dialog", lambda one: (self.errors.append(one.message), one.dismiss()))

    def _listen(self, message) -> None:
        if message.type == "error" and "Security Policy" in message.text:
            self.errors.append(message.text)

    def _check(self, response) -> None:
        if response.status in (403, 404) or response.status >= 500:
            self.errors.append(f"{response.status}: {response.request.method} {response.url}")

    def _look(self, request) -> None:
        if not re.match(r"(http://127\.0\.0\.1:|data:|blob:)", request.url):
            self.foreign.append(request.url)


@pytest.fixture
def watch(browser) -> Iterator[Callable[..., Watched]]:
    """Open pages that are watched."""
    opened: list[Watched] = []

    def start(**options) -> Watched:
        opened.append(Watched(browser, **options))
        return opened[-1]

    yield start
    for one in opened:
        one.context.close()
