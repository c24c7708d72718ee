"""The pages in a real browser: hostile texts, two languages, a phone, the door."""

import json
import time
from pathlib import Path

import pytest

from medkd.core.workspace import MANIFEST, Manifest
from medkd.studio.app import PAGES

HOSTILE = (
    "<img src=x onerror=\"document.title='broken in'\"><script>alert(1)</script> [a link](javascript:alert(1)) "
    "![](http://evil.example/x.png) ${document.title='broken in'} {{constructor.constructor('alert(1)')()}} "
    "<a href='http://evil.example'>a</a> </td></table><style>*{}</style>"
)
HUGE = "长" * 1_000_000
LIMIT_S, GRACE = 3.0, 5
"""Seconds a page may take, and how many times longer where other work keeps the cores."""


def make_step(folder: Path, stage: str) -> Path:
    folder.mkdir(parents=True)
    manifest = Manifest(stage=stage, state="finished", identity="x", config={}, started_at="2026-01-01")
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def write(path: Path, *rows: dict) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def hostile_runs(tmp_path: Path) -> Path:
    """A run whose every text tries to break in, and whose second answer is a megabyte long."""
    runs = tmp_path / "runs"
    question = {
        "id": "q:1", "case_id": "q:1", "source": HOSTILE, "url": "javascript:alert(1)", "department": [HOSTILE], "system": "",
        "instruction": "", "input": f"体温38.5℃ {HOSTILE}", "reference": HOSTILE, "split": "test", "deidentified_by": "x",
    }  # fmt: skip
    rationale = {
        "id": "q:1", "question": question, "sample": 0, "reasoning": f"体温38.5℃ {HOSTILE}", "answer": HOSTILE, "finish_reason": "stop",
        "complete": True, "model": HOSTILE, "mode": "rationalize", "attempts": 1, "usage": {}, "cost": {},
    }  # fmt: skip
    verdict = {"check": "loop", "passed": False, "reason": HOSTILE, "detail": HOSTILE}
    huge = rationale | {"id": "q:2", "reasoning": HUGE, "answer": HUGE}
    write(
        make_step(runs / "bad" / "verify", "verify") / "verified.jsonl",
        *({"rationale": r, "verdicts": [verdict]} for r in (rationale, huge)),
    )
    evaluated = make_step(runs / "bad" / "evaluate", "evaluate")
    prediction = {"prompt": HOSTILE, "question": HOSTILE, "reasoning": HOSTILE, "answer": HOSTILE, "raw": HOSTILE, "reference": HOSTILE}
    prediction |= {"teacher": HOSTILE, "department": [], "finish_reason": "stop", "n_tokens": 3}
    write(evaluated / "predictions.jsonl", prediction | {"id": "q:1"}, prediction | {"id": "q:2", "answer": HUGE, "raw": HUGE})
    (evaluated / "scores.json").write_text(json.dumps({"n": 2, "diagnosis_accuracy": 0.5, "intervals": {"diagnosis_accuracy": [0.1, 0.9]}}))
    exported = make_step(runs / "bad" / "export", "export")
    answers = [{"question": HOSTILE, "text": HOSTILE, "stopped": True, "thinks": True, "n_tokens": 3}]
    (exported / "proof.json").write_text(json.dumps({"answers": answers}))
    return runs


def test_texts_from_models_and_the_web_stay_texts(open_studio, watch, hostile_runs: Path) -> None:
    studio, watched = open_studio(), watch()
    page = watched.page
    for name, picked in (("data?run=bad", 2), ("review", 0), ("evaluate", 2), ("export", 0), ("", 0)):
        page.goto(f"{studio.url}/en/{name}")
        for number in range(picked):
            page.locator(".rows button").nth(number).click()
            page.locator("article.case header strong").filter(has_text=f"q:{number + 1}").wait_for()
        page.get_by_text("onerror").first.wait_for() if name else page.get_by_role("button", name="bad", exact=True).wait_for()
        assert page.locator("img[src='x'], a[href*=evil], a[href^=javascript]").count() == 0, name
        assert page.title() == "MedKD", name
    page.goto(f"{studio.url}/en/data?run=bad")
    page.locator(".rows button").nth(1).click()
    page.get_by_text("980,000 more characters").first.wait_for()
    assert len(page.content()) < 500_000
    assert watched.foreign == []
    assert watched.errors == []


@pytest.mark.parametrize(("locale", "title"), [("zh-CN", "运行"), ("en-US", "Runs")])
def test_every_page_opens_in_the_browsers_language_and_asks_no_other_host(open_studio, watch, locale: str, title: str) -> None:
    studio, watched = open_studio(), watch(locale=locale)
    page = watched.page
    page.goto(studio.url)
    page.get_by_role("heading", name=title, level=1).wait_for()
    language = locale[:2]
    assert page.evaluate("document.documentElement.lang").startswith(language)
    for name in PAGES[1:]:
        began = time.monotonic()
        page.goto(f"{studio.url}/{language}/{name}")
        page.locator(".head h1").wait_for()
        assert time.monotonic() - began < LIMIT_S * GRACE, name
    page.get_by_role("link", name="English" if language == "zh" else "中文").click()
    page.wait_for_url("**/en/bill" if language == "zh" else "**/zh/bill")
    assert watched.foreign == []
    assert watched.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_every_page_without_scrolling_sideways(open_studio, watch, hostile_runs: Path, scheme: str) -> None:
    studio = open_studio()
    page = watch(viewport={"width": 375, "height": 700}, color_scheme=scheme).page
    for name in ("", *PAGES[1:]):
        page.goto(f"{studio.url}/en/{name}")
        page.locator(".head h1").wait_for()
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name


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


def test_the_review_queue_is_worked_by_keyboard_and_two_people_see_how_far_they_agree(open_studio, watch, hostile_runs: Path) -> None:
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
            page.get_by_text(f"{n_done} judged by you").wait_for() if n_done < len(keys) else page.get_by_text("Nothing is left").wait_for()
    page.get_by_role("cell", name="Li – Wang").wait_for()
    assert "50%" in page.inner_text("table")
    lines = (hostile_runs / "bad" / "verify" / "reviews.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["decision"] for line in lines] == ["accept", "accept", "accept", "reject"]
