"""A person passes the verification in a real browser and the crawl goes on; here a script plays the
person, from outside the program."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from medkd.collect import login as browser
from medkd.collect.stage import Config, run
from medkd.core.errors import HumanActionRequiredError, InputError
from medkd.demo.mock_site import serve_site
from medkd.demo.synthetic_cases import generate_cases

CASES = generate_cases(40, seed=3)

needs_browser = pytest.mark.skipif(
    browser.find_browser() is None and not os.environ.get("CI"),
    reason="no Chromium or Chrome is installed; CI has one",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Person(threading.Thread):
    """Looks at the window that the program opened, as somebody at the screen does, and drags the
    slider's knob to its end."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.n_dragged = 0
        self.is_done = threading.Event()

    def run(self) -> None:
        from playwright.sync_api import Error, sync_playwright

        with sync_playwright() as playwright:
            while not self.is_done.is_set():
                try:
                    window = playwright.chromium.connect_over_cdp(
                        f"http://127.0.0.1:{self.port}", timeout=2000
                    )
                    page = next(
                        page
                        for context in window.contexts
                        for page in context.pages
                        if page.locator("#knob").count()
                    )
                    knob = page.locator("#knob").bounding_box(timeout=2000)
                    assert knob is not None
                    page.mouse.move(knob["x"] + 20, knob["y"] + 20)
                    page.mouse.down()
                    page.mouse.move(knob["x"] + 240, knob["y"] + 25, steps=12)
                    page.mouse.up()
                    self.n_dragged += 1
                    self.is_done.wait(2)
                except (Error, StopIteration):
                    self.is_done.wait(0.2)


@needs_browser
def test_a_person_at_the_screen_passes_the_slider_and_the_crawl_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    port = free_port()
    monkeypatch.setattr(browser, "has_screen", lambda: True)
    monkeypatch.setattr(
        browser, "LAUNCH", {"headless": True, "args": [f"--remote-debugging-port={port}"]}
    )
    monkeypatch.setattr(browser, "PATIENCE_S", 60.0)
    person = Person(port)
    person.start()
    try:
        with serve_site(CASES, verify_after=15) as site:
            config = Config(out=tmp_path, base_url=site.base_url, delay=0, browser=True)
            manifest = run(config)
            agents = {agent for agent in site.agents if "MedKD" not in agent}
    finally:
        person.is_done.set()
        person.join()
    assert manifest.counts.kept == len(CASES)
    assert person.n_dragged >= 1 and agents == set()
    assert "a person is needed" in capsys.readouterr().err


@needs_browser
def test_nobody_at_the_screen_ends_in_one_line_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(browser, "has_screen", lambda: True)
    monkeypatch.setattr(browser, "LAUNCH", {"headless": True})
    monkeypatch.setattr(browser, "PATIENCE_S", 1.5)
    with (
        serve_site(CASES, verify_after=5) as site,
        pytest.raises(HumanActionRequiredError, match="nobody passed the verification") as left,
    ):
        run(Config(out=tmp_path, base_url=site.base_url, delay=0, browser=True))
    assert "\n" not in str(left.value)


@needs_browser
def test_a_browser_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(browser, "find_browser", lambda: "/bin/false")
    with pytest.raises(InputError, match=r"no browser starts .* --cookies FILE"):
        browser.wait_for_verification("http://127.0.0.1:9/", {}, "MedKD")


def test_without_a_screen_the_crawl_does_not_even_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(browser, "has_screen", lambda: False)
    started = time.monotonic()
    with pytest.raises(
        HumanActionRequiredError, match=r"no screen here .* --cookies FILE"
    ) as refused:
        run(Config(out=tmp_path / "out", base_url="http://127.0.0.1:9", delay=0, browser=True))
    assert (
        refused.value.exit_code == 3
        and time.monotonic() - started < 5
        and not (tmp_path / "out").exists()
    )
