"""The Chinese pages of a rehearsal run say nothing in English but names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from english import find_english
from page_moves import SLOW_MS, choose

from medkd.stages import STAGES
from medkd.studio.app import PAGES
from medkd.studio.forms import list_fields

LATIN = Path(__file__).with_name("latin.js")
RECIPE = """
out: runs/run_1
rehearsal: {cases: 60, seed: 11}
collect: {source: iiyi, base_url: rehearsal, delay: 0}
deidentify: {}
prepare: {val_share: 0.1, test_share: 0.2}
distill: {teacher: rehearsal, concurrency: 16}
verify: {}
merge: {}
train: {model: "medkd:tiny", max_length: 1024, epochs: 0.5}
evaluate-base: {model: "medkd:tiny", limit: 6, max_tokens: 48}
evaluate: {model: "medkd:tiny", limit: 6, max_tokens: 48}
export: {questions: 2, max_tokens: 32}
"""


def check(page) -> None:
    told = {text: words for text in page.evaluate("findLatin()") if (words := find_english(text))}
    assert told == {}, page.url


@pytest.fixture
def watched(watch):
    one = watch(locale="zh-CN")
    one.context.add_init_script(path=LATIN)
    return one


def open_all(page) -> None:
    for opener in page.locator("button.label-wrap").all():
        opener.click()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_no_page_of_a_rehearsal_run_says_a_word_of_english(
    open_studio, watched, tmp_path: Path
) -> None:
    (tmp_path / "walk.yaml").write_text(RECIPE, encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "medkd", "run", "walk.yaml"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        timeout=900,
    )
    assert (tmp_path / "runs/run_1/export/proof.json").exists()
    studio, page = open_studio(), watched.page
    for name in PAGES[1:]:
        query = (
            "?steps=run_1/evaluate,run_1/evaluate-base"
            if name == "evaluate"
            else "?run=run_1"
            if name == "data"
            else ""
        )
        page.goto(f"{studio.url}/zh/{name}{query}")
        page.locator(".head h1").wait_for()
        open_all(page)
        if name in ("data", "evaluate"):
            page.locator(".rows button").first.click()
        if name in ("data", "evaluate", "review"):
            page.locator("article.case").wait_for()
        if name in ("bill", "evaluate"):
            page.locator("table").first.wait_for()
        if name == "export":
            page.locator(".proof li").first.wait_for()
        page.wait_for_timeout(2000)
        check(page)
    page.goto(f"{studio.url}/zh/?run=run_1")
    page.locator(".plots svg").first.wait_for()
    open_all(page)
    for stage in STAGES:
        if stage != "collect":
            choose(page, "阶段或配方", f"{stage} –")
        page.get_by_label(
            re.compile(rf"\({list_fields(STAGES[stage].load().Config)[0].name}\)")
        ).first.wait_for()
        page.wait_for_timeout(1500)
        check(page)
    assert watched.foreign == []
    assert watched.errors == []


@pytest.mark.slow
def test_what_is_refused_and_what_a_run_stumbled_over_is_told_in_chinese(
    open_studio, watched, random_model_dir: Path, merged_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "broken.jsonl").write_text("no json\n", encoding="utf-8")
    words = ["verify", "--input", "runs/broken.jsonl", "--out", "runs/run_1/verify", "--detach"]
    subprocess.run(
        [sys.executable, "-m", "medkd", *words],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=120,
    )
    studio, page = (
        open_studio("--data", str(random_model_dir), "--data", str(merged_dir)),
        watched.page,
    )
    page.goto(f"{studio.url}/zh/?run=run_1")
    page.locator(".notice.bad").filter(has_text="请先运行 distill").wait_for()
    page.get_by_role("button", name="启动阶段或配方").click()
    choose(page, "阶段或配方", "train –")
    for field, value in (("model", random_model_dir), ("input", merged_dir)):
        page.get_by_label(re.compile(rf"\({field}\)")).first.fill(str(value))
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
    page.get_by_role("button", name="先做预检").click()
    page.locator(".notice.info").filter(has_text="停止词元不符").wait_for(timeout=SLOW_MS)
    check(page)
    page.get_by_label("运行名称").fill("looked")
    page.get_by_label(re.compile(r"\(input\)")).first.fill("/etc")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="启动", exact=True).click()
    page.locator(".notice.bad").filter(has_text="目录之外").wait_for()
    check(page)
    page.goto(f"{studio.url}/zh/chat")
    page.get_by_label("问题", exact=True).fill("发热三天")
    page.get_by_label("适配器或检查点").nth(1).fill("/etc")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="发送").click()
    page.locator(".notice.bad").filter(has_text="目录之外").wait_for()
    check(page)
    assert watched.errors == []
