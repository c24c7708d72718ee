"""The page in a real browser: nothing is fetched, nothing runs, the filters filter."""

import json
import shutil

import pytest

from medkd.evaluate.compare import Config, run
from medkd.evaluate.stage import Config as EvaluateConfig
from medkd.evaluate.stage import run as evaluate

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script></pre></details>"


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for name, answers in {
        "base": ["急性胆囊炎"] * 6,
        "student": ["<think>发热。</think>急性阑尾炎"] * 4 + [HOSTILE, "咳" * 400],
    }.items():
        path = folder / f"{name}.jsonl"
        rows = [
            {
                "prompt": f"请诊断。{n}{HOSTILE}",
                "predict": a,
                "label": "<think>发热。</think>急性阑尾炎",
            }
            for n, a in enumerate(answers)
        ]
        path.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
        evaluate(EvaluateConfig(predictions=path, out=folder / name, task="diagnosis"))
    run(Config(input=[folder / "base", folder / "student"], out=folder / "out"))
    return folder / "out/report.html"


@pytest.fixture(scope="module")
def many_path(page_path):
    folder = page_path.parents[1]
    names = [f"a-model-with-a-long-name-{n}" for n in range(8)]
    run(
        Config(input=[folder / "base"] + [folder / "student"] * 7, names=names, out=folder / "many")
    )
    return folder / "many/report.html"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_the_page_shows_itself_without_a_request_or_a_script(browser, page_path):
    page = browser.new_page()
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(page_path.as_uri())
    assert page.title() == "student against base"
    assert requests == [page_path.as_uri()] and errors == []
    assert page.locator("img, iframe, script, link").count() == 0
    assert page.locator("svg").count() >= 2
    page.close()


def test_the_filters_leave_what_was_asked_for(browser, page_path):
    page = browser.new_page()
    page.goto(page_path.as_uri())
    shown = page.locator("details:visible")
    assert shown.count() == 6
    page.get_by_label("wrong").check()
    assert shown.count() == 2 and all("wrong" in text for text in shown.all_inner_texts())
    page.get_by_label("looped").check()
    assert shown.count() == 1
    page.get_by_label("all").check()
    assert shown.count() == 6
    shown.first.locator("summary").click()
    assert shown.first.get_by_text("base", exact=True).count() == 1
    page.close()


def test_the_page_follows_a_dark_screen_and_fits_a_narrow_one(browser, page_path):
    page = browser.new_page(color_scheme="dark", viewport={"width": 380, "height": 800})
    page.goto(page_path.as_uri())
    grounds = page.evaluate("getComputedStyle(document.documentElement).colorScheme")
    assert "dark" in grounds
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.emulate_media(media="print")
    assert page.locator(".filters:visible").count() == 0
    page.close()


@pytest.mark.parametrize("width", [1280, 900, 380])
def test_the_scores_of_eight_models_are_seen_whole_without_scrolling_sideways(
    browser, many_path, width
):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(many_path.as_uri())
    assert page.locator(".many").count() >= 1
    assert page.evaluate(
        "[...document.querySelectorAll('.many')].every(table => table.scrollWidth <= table.clientWidth)"
    )
    assert page.locator("#table-results tbody tr").first.locator("td.number:visible").count() == 8
    named = page.evaluate(
        "getComputedStyle(document.querySelector('#table-results td.number'), '::before').content"
    )
    assert ("a-model-with-a-long-name-0" in named) is (width == 380)
    assert page.locator("#table-results thead:visible").count() == (width != 380)
    page.close()
