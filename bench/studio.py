"""The studio in a real browser with 1,000 runs listed and a file of 100,000 records: how long a
page takes, and a page of records.

`python bench/studio.py`: runs and records are made on the spot, the studio is the real command, the
browser Debian's Chromium, headless. A page has answered when its heading and what it lists stand on
it. Every figure is the median and the worst of what was measured.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from playwright.sync_api import Page, sync_playwright

from medkd.core.stage_output import MANIFEST, Counts, Manifest

CHROMIUM = "/usr/bin/chromium"
N_RUNS, N_RECORDS = 1000, 100_000
ROUNDS, TURNS = 5, 20
RECORD = "患者三天前受凉后发热，伴咳嗽、咳黄痰，右下肺可闻及湿啰音。" * 20
LISTED = {
    "runs": "table.jobs button",
    "data": ".rows button",
    "review": "article.case",
    "chat": ".empty a",
    "evaluate": ".empty a",
    "export": ".empty a",
    "bill": ".empty a",
}
"""What stands on each page when it has answered."""


def make_step(folder: Path, stage: str, at: int) -> Path:
    folder.mkdir(parents=True)
    started = f"2026-01-{1 + at // 1440 % 28:02}T{at // 60 % 24:02}:{at % 60:02}:00"
    manifest = Manifest(
        stage=stage,
        state="finished",
        identity="x",
        config={},
        started_at=started,
        counts=Counts(read=10, kept=9),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def make_runs(runs: Path) -> None:
    """Make many runs of three steps; the newest holds the long file."""
    for number in range(N_RUNS - 1):
        for stage in ("collect", "merge", "train"):
            make_step(runs / f"run-{number:04}" / stage, stage, number)
    verdict = {"check": "loop", "passed": True, "reason": "", "detail": ""}
    step = make_step(runs / "long" / "verify", "verify", N_RUNS)
    with (step / "verified.jsonl").open("w", encoding="utf-8") as file:
        for n in range(N_RECORDS):
            question = {
                "id": f"q:{n}",
                "input": f"{RECORD}{n}",
                "reference": "肺炎",
                "split": "train",
                "source": "made",
            }
            rationale = {
                "id": f"q:{n}",
                "question": question,
                "reasoning": RECORD,
                "answer": "肺炎",
                "model": "x",
                "mode": "rationalize",
            }
            file.write(
                json.dumps({"rationale": rationale, "verdicts": [verdict]}, ensure_ascii=False)
                + "\n"
            )


def measure(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def open_page(page: Page, address: str, listed: str) -> None:
    page.goto(address)
    page.locator(".head h1").wait_for()
    page.locator(listed).first.wait_for()


def turn(page: Page) -> None:
    """Turn to the next page of records and wait until it stands there."""
    before = page.locator(".rows .number").first.inner_text()
    page.get_by_role("button", name="Next (N)").click()
    page.wait_for_function(
        "(before) => document.querySelector('.rows .number').innerText !== before",
        arg=before,
        polling=10,
    )


def search(page: Page, text: str) -> None:
    """Search all records and wait for the one that is found."""
    page.get_by_label("Search").fill(text)
    page.keyboard.press("Enter")
    page.wait_for_function(
        "(id) => document.querySelector('.rows .id')?.innerText === id", arg=text, polling=10
    )


def tell(what: str, seconds: list[float]) -> None:
    print(
        f"  {what:<40} median {median(seconds):6.2f} s   worst {max(seconds):6.2f} s   of {len(seconds)}",
        flush=True,
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        make_runs(folder / "runs")
        size = (folder / "runs/long/verify/verified.jsonl").stat().st_size
        print(
            f"{N_RUNS:,} runs, {N_RECORDS:,} records ({size / 2**20:.0f} MiB), {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        words = [sys.executable, "-m", "medkd", "studio", "--port", "0"]
        environment = os.environ | {"XDG_STATE_HOME": name}
        with subprocess.Popen(
            words, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment
        ) as studio:
            assert studio.stdout
            found = re.search(r"http://localhost:(\d+)", studio.stdout.readline())
            assert found
            url = f"http://127.0.0.1:{found[1]}/en"
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            page.set_default_timeout(60_000)
            for at, (kind, listed) in enumerate(LISTED.items()):
                address = f"{url}/" if at == 0 else f"{url}/{kind}"
                first = measure(
                    lambda address=address, listed=listed: open_page(page, address, listed)
                )
                tell(f"{kind}: the first time", [first])
                tell(
                    kind,
                    [
                        measure(
                            lambda address=address, listed=listed: open_page(page, address, listed)
                        )
                        for _ in range(ROUNDS)
                    ],
                )
            open_page(page, f"{url}/data?run=long", ".rows button")
            tell(
                "from one page of records to the next",
                [measure(lambda: turn(page)) for _ in range(TURNS)],
            )
            texts = [f"q:{n}" for n in (99_999, 54_321, 77_777)]
            tell(
                "a search through all of them",
                [measure(lambda text=text: search(page, text)) for text in texts],
            )
            browser.close()
            studio.terminate()


if __name__ == "__main__":
    main()
