import json
from pathlib import Path

import pytest

from medkd.core.jsonl import write_records
from medkd.core.records import RawCase
from medkd.deidentify.recognizers import read_known
from medkd.deidentify.stage import Config, run

CHROMIUM = Path("/usr/bin/chromium")


@pytest.mark.slow
def test_what_a_person_marks_in_the_browser_is_masked_and_counted_in_the_next_run(
    tmp_path: Path,
) -> None:
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM}: no such file; apt-get install chromium, as .ci/run does", False)
    from playwright.sync_api import sync_playwright

    text = "患者王秀英，女，<b>边疆</b>已知情，电话13812345678。"
    case = RawCase(id="files:1", source="files", sections={"现病史": text})
    write_records(tmp_path / "raw_cases.jsonl", [case])
    config = Config(input=tmp_path, out=tmp_path / "out", review=True)
    run(config)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        errors: list[object] = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto((tmp_path / "out" / "review.html").as_uri())
        assert page.locator("mark").all_inner_texts() == ["王秀英姓名", "13812345678电话"]
        page.evaluate(
            """() => { const body = document.querySelector("[data-case] dd"), range = new Range();
            const node = [...body.childNodes].find(one => one.data && one.data.includes("边疆"));
            const at = node.data.indexOf("边疆");
            range.setStart(node, at); range.setEnd(node, at + 2);
            getSelection().addRange(range); }"""
        )
        page.select_option("#kind", "姓名")
        page.click("#add")
        assert page.inner_text("#said") == "1 missed, last: 边疆"
        page.check(".read")
        with page.expect_download() as saved:
            page.click("#save")
        saved.value.save_as(tmp_path / "review.jsonl")
        browser.close()
    assert not errors
    rows = [json.loads(line) for line in (tmp_path / "review.jsonl").read_text().splitlines()]
    assert rows == [{"missed": "边疆", "kind": "姓名", "case": "files:1"}, {"read": "files:1"}]
    assert read_known(tmp_path / "review.jsonl").n_missed == 1
    manifest = run(Config(input=tmp_path, out=tmp_path / "again", known=tmp_path / "review.jsonl"))
    assert manifest.facts["recall_in_review"]["recall"] == pytest.approx(2 / 3, abs=1e-3)
    assert "边疆" not in (tmp_path / "again" / "cases.jsonl").read_text()
