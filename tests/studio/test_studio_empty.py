"""An empty studio: each page says what will stand there and leads on, and nothing is offered that
can do nothing."""

from itertools import pairwise
from pathlib import Path

import pytest
from hostile_samples import make_step

from medkd.studio.app import PAGES
from medkd.studio.next_steps import find_start
from medkd.studio.places import Places
from medkd.studio.texts import LANGUAGES, Texts

OFFERED = {"chat": {"chat.send"}}
"""Buttons that a page without content shows, openers of forms apart."""
ROAD = ("prepare", "distill", "verify", "merge", "train", "export")


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_an_empty_page_says_what_will_stand_there_and_leads_to_what_makes_it(
    open_studio, watch, language: str
) -> None:
    studio, watched, t = open_studio(), watch(), Texts(language)
    page = watched.page
    for name in PAGES:
        page.goto(f"{studio.url}/{language}/{name if name != PAGES[0] else ''}")
        page.get_by_text(t(f"empty.{name}")).wait_for()
        buttons = {
            button.inner_text()
            for button in page.locator("main button:not(.label-wrap)").all()
            if button.is_visible()
        } - {""}
        assert buttons == {t(key) for key in OFFERED.get(name, ())}, name
        assert page.locator("table").count() == 0, "no head without a table"
    page.get_by_role("link", name=t("empty.invented", recipe="rehearsal-data.yaml")).click()
    ending = "rehearsal-data.yaml --out=runs/rehearsal-data"
    page.wait_for_function(
        "(end) => [...document.querySelectorAll('textarea')].some((box) => box.value.endsWith(end))",
        arg=ending,
    )
    page.get_by_role("button", name=t("start.go"), exact=True).wait_for()
    assert watched.errors == []


def test_the_way_on_begins_at_the_first_stage_that_has_no_result(tmp_path: Path) -> None:
    assert [find_start(Places(tmp_path), goal) for goal in ("collect", *ROAD)] == [
        "rehearsal-data.yaml"
    ] * 7
    for made, following in pairwise(ROAD):
        make_step(tmp_path / "one" / made, made)
        assert find_start(Places(tmp_path), "export") == following
    assert find_start(Places(tmp_path), "evaluate") == "evaluate"


@pytest.mark.slow
def test_a_page_of_few_runs_shows_nothing_to_turn_and_a_search_without_result_says_so(
    open_studio, watch, hostile_runs: Path
) -> None:
    studio = open_studio()
    page = watch().page
    page.goto(f"{studio.url}/en/?run=bad")
    page.get_by_role("button", name="bad", exact=True).wait_for()
    assert page.get_by_label("Page", exact=True).is_hidden()
    page.get_by_role("button", name="Delete …").wait_for()
    for name in ("Stop", "Go on"):
        assert page.get_by_role("button", name=name, exact=True).is_hidden(), (
            "it neither runs nor was started from here"
        )
    page.get_by_label("Search runs").fill("good")
    page.keyboard.press("Enter")
    page.get_by_text("No run is called so.").wait_for()
    page.goto(f"{studio.url}/en/data")
    page.locator(".rows").wait_for()
    assert page.get_by_role("button", name="Next (N) →").is_hidden()
