"""A real studio on loopback and a real browser, for the tests of its pages."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile_samples import make_hostile_runs

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE_MS = 60_000
"""How long a page may take where other work keeps the cores."""
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def studio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the one studio of the session runs."""
    return tmp_path_factory.mktemp("studio")


@pytest.fixture
def tmp_path(studio_folder: Path) -> Path:
    """The folder of the session's studio, emptied: each test finds it as a new user would."""
    for child in studio_folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
    return studio_folder


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the detached runs of a test away from those of the person who runs it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


class Studio:
    """A studio in a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [
            sys.executable,
            "-m",
            "medkd",
            "studio",
            *([] if "--port" in words else ["--port", "0"]),
            *words,
        ]
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


@pytest.fixture(scope="session")
def plain_studio(studio_folder: Path) -> Iterator[Callable[[], Studio]]:
    """The one studio without words of its own, started when a test first asks for it."""
    opened: list[Studio] = []

    def start() -> Studio:
        if not opened:
            opened.append(Studio(studio_folder))
        return opened[0]

    yield start
    for studio in opened:
        studio.close()


@pytest.fixture
def open_studio(
    tmp_path: Path, plain_studio: Callable[[], Studio]
) -> Iterator[Callable[..., Studio]]:
    """Open a studio in the emptied folder; one with words of its own is closed when the test ends."""
    opened: list[Studio] = []

    def start(*words: str) -> Studio:
        if not words:
            return plain_studio()
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
        pytest.fail(
            f"{CHROMIUM}: no such file; pages are tested in it; apt-get install chromium, as .ci/run does",
            pytrace=False,
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


class Watched:
    """A page, and what went wrong on it: requests to other hosts, refused ones, errors of scripts,
    dialogs that a text raised."""

    def __init__(self, browser, **options) -> None:
        self.context = browser.new_context(
            **{"locale": "en-US", "viewport": {"width": 1280, "height": 900}} | options
        )
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.foreign: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self._look)
        self.page.on("response", self._check)
        self.page.on(
            "pageerror",
            lambda error: (
                self.errors.append(str(error)) if "abort" not in str(error).lower() else None
            ),
        )
        self.page.on("console", self._listen)
        self.page.on(
            "dialog",
            lambda dialog: (self.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()),
        )

    def _listen(self, message) -> None:
        # A page that is left while it still waits for an answer says so too; what counts here is
        # what the browser forbade.
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


@pytest.fixture
def hostile_runs(tmp_path: Path) -> Path:
    """A run whose every text tries to break in, and whose second answer is a megabyte long."""
    return make_hostile_runs(tmp_path / "runs")
