"""What a person does on a page, and what the tests wait for."""

import re
import time
from pathlib import Path

from medkd import background_jobs
from medkd.studio import jobs

SLOW_MS = 180_000
FORM = re.compile("^Start an? (stage or a recipe|evaluation|export)")
"""The title of the form on a page that starts something."""


def choose(page, label: str, value: str) -> None:
    """Choose from a drop-down list by what stands in it."""
    box = page.get_by_label(label, exact=True).first
    box.click()
    box.fill(value)
    page.get_by_role("option", name=value).first.click()


def fill(page, label: str, value: str) -> None:
    box = page.get_by_label(label, exact=False).first
    box.fill(value)
    box.blur()


def open_start(page, url: str, kind: str = "", run: str = "road") -> None:
    page.goto(url)
    page.get_by_role("button", name=FORM).click()
    page.get_by_text(
        "The same on the command line"
    ).wait_for()  # the form is drawn, its first values are there
    if kind:
        collecting = page.get_by_label(re.compile(r"^\s*source\b")).first
        collecting.wait_for()
        choose(page, "Stage or recipe", kind)
        collecting.wait_for(
            state="hidden"
        )  # what is typed while the form is drawn anew is asked of the one that is gone
    name = page.get_by_label("Name of the run")
    name.fill(run)
    page.wait_for_timeout(500)
    if name.input_value() != run:  # the page's own suggestion came in after it
        name.fill(run)


def start(page, *words: str) -> None:
    """Wait until the form's command says this, and start it."""
    for word in words:
        page.wait_for_function(
            "(word) => [...document.querySelectorAll('textarea')].some((box) => box.value.includes(word))",
            arg=word,
        )
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_text("started; medkd logs").wait_for(timeout=60_000)


def find_run(out: Path) -> background_jobs.Job:
    """Find the newest detached run that writes there."""
    return next(run for run in reversed(background_jobs.list_runs()) if jobs.find_out(run) == out)


def finish(out: Path, limit_s: float = 300) -> None:
    deadline = time.monotonic() + limit_s
    while (state := background_jobs.read_state(find_run(out))) == "running":
        assert time.monotonic() < deadline, out
        time.sleep(0.5)
    assert state == "done", "\n".join(jobs.read_tail(find_run(out)))
