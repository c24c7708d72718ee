"""The no-code road in a real browser, from an empty directory to a proven model."""

import json
from pathlib import Path

import pytest
from page_moves import SLOW_MS, choose, fill, find_run, finish, open_start, start

from medkd import background_jobs


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_whole_road_without_a_line_of_code(open_studio, watch, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    studio = open_studio("--port", "0")
    watched = watch()
    page = watched.page
    page.set_default_timeout(30_000)

    open_start(page, studio.url, "recipe: rehearsal-data.yaml")
    start(page, "rehearsal-data.yaml --out=runs/road")
    finish(runs / "road")
    page.get_by_role("button", name="road", exact=True).click(timeout=30_000)
    page.get_by_role("cell", name="verify").first.wait_for()

    page.goto(f"{studio.url}/en/review")
    page.locator("article.case").wait_for()
    page.get_by_label("Your name").fill("Dr. Li")
    page.get_by_label("Your name").blur()
    page.get_by_text("0 judged by you").wait_for()
    page.keyboard.press("a")
    page.get_by_text("1 judged by you").wait_for()
    page.keyboard.press("r")
    page.get_by_text("Say why you reject it").wait_for()
    page.get_by_label("Reason", exact=True).fill("not sound")
    page.get_by_label("Reason", exact=True).blur()
    page.keyboard.press("r")
    page.get_by_text("2 judged by you").wait_for()
    reviews = [
        json.loads(line)
        for line in (runs / "road" / "verify" / "reviews.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    assert [(review["reviewer"], review["decision"]) for review in reviews] == [
        ("Dr. Li", "accept"),
        ("Dr. Li", "reject"),
    ]

    open_start(page, studio.url, "merge – train, val and test")
    start(page, "medkd merge --input=runs/road/verify")
    finish(runs / "road" / "merge")
    assert (
        json.loads((runs / "road" / "merge" / "manifest.json").read_text())["counts"]["dropped"][
            "rejected_by_reviewer"
        ]
        == 1
    )

    open_start(page, studio.url, "train – LoRA-tune a student")
    for field, value in (("max_length", "1024"), ("epochs", "6"), ("learning_rate", "0.002")):
        fill(page, field, value)
    start(
        page, "--epochs=6", "--learning-rate=0.002", "--max-length=1024", "--input=runs/road/merge"
    )
    page.get_by_role("button", name="road", exact=True).click()
    curve = page.locator(".plots svg").first
    curve.wait_for(timeout=SLOW_MS)
    before = curve.inner_html()
    page.wait_for_function(
        "(before) => document.querySelector('.plots svg')?.innerHTML !== before",
        arg=before,
        timeout=SLOW_MS,
    )
    page.close()
    studio.close()
    assert background_jobs.read_state(find_run(runs / "road" / "train")) == "running", (
        "a closed studio stops nothing"
    )

    studio = open_studio()
    page = watched.context.new_page()
    page.goto(f"{studio.url}/en/?run=road")
    page.get_by_text("running").first.wait_for()
    page.locator(".plots svg").first.wait_for()
    finish(runs / "road" / "train", 600)

    open_start(page, f"{studio.url}/en/evaluate")
    fill(page, "max_tokens", "256")
    fill(page, "limit", "12")
    choose(page, "model", "medkd:tiny")
    choose(page, "adapter", "runs/road/train")
    start(page, "--adapter=runs/road/train", "--limit=12", "--max-tokens=256")
    finish(runs / "road" / "evaluate")
    page.goto(f"{studio.url}/en/evaluate")
    page.get_by_role("cell", name="diagnosis_accuracy").wait_for()
    page.locator(".rows button").first.click()
    page.locator("article.case").wait_for()

    open_start(page, f"{studio.url}/en/export")
    fill(page, "max_tokens", "256")
    start(page, "medkd export --adapter=runs/road/train", "--max-tokens=256")
    finish(runs / "road" / "export")
    page.goto(f"{studio.url}/en/export")
    page.get_by_text("Proven: asked bare questions").wait_for()
    proof = json.loads((runs / "road" / "export" / "proof.json").read_text(encoding="utf-8"))
    assert page.locator(".proof li").count() == proof["n"] >= 10
    page.wait_for_function(
        "() => document.querySelector('.cm-content')?.innerText.includes('ollama create road-export')"
    )
    page.wait_for_function(
        "() => document.querySelectorAll('.cm-content')[1]?.innerText.includes('--reasoning-parser deepseek_r1')"
    )

    page.goto(f"{studio.url}/en/chat")
    choose(page, "Model (before)", "medkd:tiny")
    choose(page, "Model (after)", "runs/road/export")
    page.get_by_label("Question", exact=True).fill(
        json.loads((runs / "road" / "merge" / "test.jsonl").read_text().splitlines()[0])["input"]
    )
    page.get_by_role("button", name="Send").click()
    page.get_by_text("ended by itself").nth(1).wait_for(timeout=SLOW_MS)
    assert page.get_by_text("Thought · ").count() == 1, "the student thinks, its base does not"

    page.goto(f"{studio.url}/en/bill")
    page.get_by_role("cell", name="complete").first.wait_for()
    assert watched.foreign == []
    assert watched.errors == []
