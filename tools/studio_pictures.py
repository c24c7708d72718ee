"""Takes the pictures of the studio: each page at 1280 and at 375 wide, on light and on dark ground.

    python tools/studio_pictures.py FOLDER OUT             every page, to be looked at one by one
    python tools/studio_pictures.py FOLDER docs/en/images --docs    those that the docs show

In: a folder in which `medkd demo` has run. A table of its cases is written to `runs/uploads`. Needs
Chromium at `CHROMIUM`.
"""

import argparse
import base64
import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = "/usr/bin/chromium"
SIZES = {1280: 900, 375: 780}
"""Width of a window to its height."""
CASES = "runs/uploads/cases.csv"
COLUMNS = ("主诉", "现病史")
N_CASES = 40
PAGES = {
    "new": "new",
    "projects": "",
    "run": "run?name=demo",
    "curves": "curves?runs=demo",
    "start": "start?kind=train&run=demo&v::input=runs/demo/merge",
    "recipe": f"start?kind=own-cases.yaml&v:collect:input={CASES}",
    "bring": "bring",
    "preview": f"bring/preview?file={CASES}",
    "data": "data?file=demo/verify/verified.jsonl",
    "masks": "data?file=demo/deidentify/cases.jsonl",
    "review": "review?file=demo/verify/verified.jsonl&who=Li",
    "removals": "review?file=demo/prepare/removals.jsonl&who=Li",
    "chat": "chat?before=medkd:tiny&after=runs/demo/export",
    "evaluate": "evaluate?steps=demo/evaluate-base&steps=demo/evaluate-answers&steps=demo/evaluate",
    "blind": "blind?steps=demo/evaluate-base&steps=demo/evaluate&who=Li",
    "export": "export?step=demo/export",
    "bill": "bill",
}
"""Name of a page to its address."""


class View(NamedTuple):
    """How a page is looked at."""

    page: str
    width: int = 1280
    scheme: str = "light"
    language: str = "en"


DOCS = {
    "studio-run": View("run"),
    "studio-bring": View("preview"),
    "studio-data": View("data"),
    "studio-review": View("review", scheme="dark", language="zh"),
    "studio-chat": View("chat"),
    "studio-evaluate": View("evaluate"),
    "studio-phone": View("run", 375, language="zh"),
    "studio-start": View("start"),
}
"""Name of a picture of the docs to what it shows."""
SHEET = (("light", "en", "zh"), ("dark", "zh", "en"))
"""Rows of the sheet that the docs have of each page: the colours, the language of the wide window,
that of the narrow one."""
JPEG_QUALITY = 78


@contextmanager
def open_studio(folder: Path) -> Generator[str]:
    """Open a studio in a folder; give its address."""
    with TemporaryDirectory() as state:
        studio = subprocess.Popen(
            [sys.executable, "-m", "medkd", "studio", "--port", "0"],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_STATE_HOME": state},
        )
        try:
            found = re.search(r"http://localhost:\d+", next(studio.stdout or iter(())))
            if not found:
                raise SystemExit("the studio did not open")
            yield found[0]
        finally:
            studio.send_signal(signal.SIGINT)
            studio.wait()


def write_cases(folder: Path) -> None:
    """Write the first cases of the demo as a table, as a hospital might export them."""
    with (folder / "runs/demo/collect/raw_cases.jsonl").open(encoding="utf-8") as lines:
        cases: list[dict[str, Any]] = [json.loads(line) for line in islice(lines, N_CASES)]
    path = folder / CASES
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("编号", *COLUMNS, "诊断"))
        for number, case in enumerate(cases, 1):
            sections = case["sections"]
            row = (sections.get(name, "") for name in COLUMNS)
            table.writerow((number, *row, "；".join(case["diagnosis"])))


def ask(page: "Page") -> None:
    """Ask both models the first question of the test split."""
    page.locator("details[hx-get] summary").click()
    page.locator(".questions button").first.click()
    page.locator(".asking button.primary").click()
    done = page.locator(".turn.model .end").filter(has_text=re.compile(r"\d (s|秒)$"))
    done.nth(1).wait_for(timeout=240_000)


def take(browser: "Browser", studio: str, view: View, is_whole: bool = False) -> bytes:
    """Take one picture, of a window or of the whole page."""
    size = {"width": view.width, "height": SIZES[view.width]}
    context = browser.new_context(color_scheme=view.scheme, viewport=size)  # pyright: ignore
    page = context.new_page()
    address = f"{studio}/{view.language}/{PAGES[view.page]}"
    page.goto(address)
    if view.page == "chat":
        ask(page)  # the first question loads the models
        page.goto(address)
        ask(page)
    page.wait_for_load_state("networkidle")
    picture = page.screenshot(full_page=is_whole)
    context.close()
    return picture


def take_sheet(browser: "Browser", studio: str, name: str) -> bytes:
    """Take a page in both widths and both colours, laid out on one picture."""
    rows: list[str] = []
    for scheme, *languages in SHEET:
        views = [View(name, *one) for one in zip(SIZES, (scheme, scheme), languages, strict=True)]
        taken = (base64.b64encode(take(browser, studio, view)).decode() for view in views)
        rows.append(
            " ".join(f'<img height="450" src="data:image/png;base64,{one}">' for one in taken)
        )
    page = browser.new_page()
    page.set_content(f'<div style="display: inline-block">{"<br>".join(rows)}</div>')
    picture = page.locator("div").screenshot(type="jpeg", quality=JPEG_QUALITY)
    page.close()
    return picture


def main() -> None:
    """Take the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--docs", action="store_true", help="the pictures of the docs alone")
    parser.add_argument("--language", default="en", choices=("en", "zh"))
    asked = parser.parse_args()
    views = (
        DOCS
        if asked.docs
        else {
            f"{name}-{width}-{scheme}": View(name, width, scheme, asked.language)
            for name in PAGES
            for width in SIZES
            for scheme in ("light", "dark")
        }
    )
    from playwright.sync_api import sync_playwright

    write_cases(asked.folder)
    asked.out.mkdir(parents=True, exist_ok=True)
    with open_studio(asked.folder) as studio, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, view in views.items():
            picture = take(browser, studio, view, is_whole=not asked.docs)
            (asked.out / f"{name}.png").write_bytes(picture)
            print(name, flush=True)
        for name in PAGES if asked.docs else ():
            (asked.out / f"studio-page-{name}.jpg").write_bytes(take_sheet(browser, studio, name))
            print(name, flush=True)
        browser.close()


if __name__ == "__main__":
    main()
