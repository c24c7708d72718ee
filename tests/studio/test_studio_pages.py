"""The pages in a real browser: hostile texts, two languages, a phone, the door."""

import json
from pathlib import Path

import pytest

from medkd.studio.app import PAGES
from medkd.studio.texts import LANGUAGES

SHOWN = {
    "": "table.jobs",
    "data": ".rows",
    "review": "article.case",
    "chat": ".empty",
    "evaluate": ".scroll",
    "export": ".proof",
    "bill": ".empty",
}
"""What stands on a page when it has answered."""


@pytest.mark.slow
def test_texts_from_models_and_the_web_stay_texts(open_studio, watch, hostile_runs: Path) -> None:
    studio, watched = open_studio(), watch()
    page = watched.page
    for name, picked in (
        ("data?run=bad", 2),
        ("review", 0),
        ("evaluate", 2),
        ("export", 0),
        ("", 0),
    ):
        page.goto(f"{studio.url}/en/{name}")
        for number in range(picked):
            page.locator(".rows button").nth(number).click()
            page.locator("article.case header strong").filter(has_text=f"q:{number + 1}").wait_for()
        page.get_by_text("onerror").first.wait_for() if name else page.get_by_role(
            "button", name="bad", exact=True
        ).wait_for()
        assert page.locator("img[src='x'], a[href*=evil], a[href^=javascript]").count() == 0, name
        assert page.title() == "MedKD", name
    page.goto(f"{studio.url}/en/data?run=bad")
    page.locator(".rows button").nth(1).click()
    page.get_by_text("980,000 more characters").first.wait_for()
    assert len(page.content()) < 500_000
    assert watched.foreign == []
    assert watched.errors == []


@pytest.mark.parametrize(("locale", "title"), [("zh-CN", "运行"), ("en-US", "Runs")])
def test_every_page_opens_in_the_browsers_language_and_asks_no_other_host(
    open_studio, watch, locale: str, title: str
) -> None:
    studio, watched = open_studio(), watch(locale=locale)
    page = watched.page
    page.goto(studio.url)
    page.get_by_role("heading", name=title, level=1).wait_for()
    language = locale[:2]
    assert page.evaluate("document.documentElement.lang").startswith(language)
    for name in PAGES[1:]:
        page.goto(f"{studio.url}/{language}/{name}")
        page.locator(".head h1").wait_for()
    page.get_by_role("link", name="English" if language == "zh" else "中文").click()
    page.wait_for_url("**/en/bill" if language == "zh" else "**/zh/bill")
    assert watched.foreign == []
    assert watched.errors == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_phone_shows_every_page_whole(
    open_studio, watch, hostile_runs: Path, language: str
) -> None:
    studio = open_studio()
    page = watch(viewport={"width": 375, "height": 700}).page
    for name in ("", *PAGES[1:]):
        page.goto(f"{studio.url}/{language}/{name}")
        page.locator(".head h1").wait_for()
        page.locator(SHOWN[name]).first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
            f"{name} scrolls sideways"
        )
        assert (
            len({round(link.bounding_box()["y"]) for link in page.locator(".nav-holder a").all()})
            == 1
        ), "the pages stand in one line"
        for table in page.locator(".scroll").all():
            assert table.evaluate("(box) => box.scrollWidth <= box.clientWidth"), (
                f"a table of {name} is cut off"
            )
            labels = table.evaluate(
                "(box) => [...box.querySelectorAll('td')].map((cell) => getComputedStyle(cell, '::before').content)"
            )
            assert labels and "none" not in labels, "each line of a stacked row says what it is"


@pytest.mark.slow
def test_strangers_have_to_show_the_token_once(open_studio, watch) -> None:
    studio, watched = open_studio("--host", "127.0.0.1"), watch()
    assert len(studio.token) >= 32
    page = watched.page
    page.goto(f"{studio.url}/en/data")
    page.get_by_label("Token").fill("guess")
    page.get_by_role("button", name="Enter").click()
    page.get_by_text("That is not the token.").wait_for()
    page.get_by_label("Token").fill(studio.token)
    page.get_by_role("button", name="Enter").click()
    page.locator(".head h1").wait_for()
    page.goto(f"{studio.url}/en/data")
    page.locator(".head h1").wait_for()
    assert watched.foreign == []


@pytest.mark.slow
def test_an_open_page_finds_a_studio_that_was_started_again(open_studio, watch) -> None:
    studio, page = open_studio("--port", "0"), watch(locale="zh-CN").page
    page.goto(f"{studio.url}/zh/")
    page.get_by_role("link", name="用虚构病例开始").wait_for()
    page.evaluate("() => { window.isOld = true; }")
    studio.close()
    page.get_by_text("正在重新连接").wait_for()
    open_studio("--port", studio.url.rpartition(":")[2])
    page.wait_for_function("() => !window.isOld")
    page.get_by_role("link", name="用虚构病例开始").wait_for()


@pytest.mark.slow
def test_what_is_asked_of_a_form_that_was_drawn_anew_is_answered_without_a_stack_trace(
    open_studio, watch
) -> None:
    studio, page = open_studio("--port", "0"), watch().page
    page.goto(f"{studio.url}/zh/")
    asked = page.request.post(
        f"{studio.url}/zh/gradio_api/run/predict",
        data={"fn_index": 10**6, "data": [], "session_hash": "gone"},
    )
    assert asked.status == 410
    assert "刷新页面" in asked.json()["error"]
    studio.close()
    assert "KeyError" not in studio.process.stdout.read()


def test_the_review_queue_is_worked_by_keyboard_and_two_people_see_how_far_they_agree(
    open_studio, watch, hostile_runs: Path
) -> None:
    studio = open_studio()
    for reviewer, keys in (("Li", ("a", "a")), ("Wang", ("a", "r"))):
        page = watch().page
        page.goto(f"{studio.url}/en/review")
        page.locator("article.case").wait_for()
        page.get_by_label("Your name").fill(reviewer)
        page.keyboard.press("Escape")
        for n_done, key in enumerate(keys, start=1):
            if key == "r":
                page.get_by_label("Reason", exact=True).fill("no")
                page.keyboard.press("Escape")
            page.keyboard.press(key)
            page.get_by_text(f"{n_done} judged by you").wait_for() if n_done < len(
                keys
            ) else page.get_by_text("Nothing is left").wait_for()
    page.get_by_role("cell", name="Li – Wang").wait_for()
    assert "50%" in page.inner_text("table")
    lines = (
        (hostile_runs / "bad" / "verify" / "reviews.jsonl").read_text(encoding="utf-8").splitlines()
    )
    assert [json.loads(line)["decision"] for line in lines] == [
        "accept",
        "accept",
        "accept",
        "reject",
    ]
