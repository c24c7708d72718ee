"""The page Data: the records of any step, list and case side by side, searched, filtered by what
became of them and what they are.

In: a run, one of its files, filters. Out: what is on the screen; nothing is written. Not done here:
judging rationales (`routes.review`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.responses import Response

from medkd.core.errors import InputError
from medkd.studio.jsonl_index import JsonlIndex, open_index, take_page
from medkd.studio.marks import Piece, mark_masks, mark_reasoning, mark_record
from medkd.studio.page import MAX_SHOWN, Page
from medkd.studio.routes import corrections
from medkd.studio.rows import Shown, find_facets, show_row

PAGE_SIZE = 25
REJECTED = "rejected.jsonl"
"""The file in which a step keeps what it dropped, where it keeps it."""
FACETS = ("reason", "finish_reason", "split", "style", "source", "department", "task", "language")
MAX_VALUES = 12
"""Values of a facet that are listed."""
WAIT_S = 0.1
"""How long a page waits for the counts of a file that is read for the first time."""


def show_records(page: Page) -> Response:
    """Show a page of the rows that were found, and one of them whole."""
    runs = page.workspace.list_runs()
    if not runs:
        return page.render("nothing.html")
    run = page.query.get("run", "")
    file = page.query.get("file", "")
    run = run or (str(Path(file).parent.parent) if file else "") or runs[0]
    files = page.workspace.list_files(run)
    file = file or (files[-1] if files else "")
    if not file:
        return page.render("data.html", runs=runs, run=run, files=[], file="")
    step = page.workspace.find_step(str(Path(file).parent))
    index = _open(page, file)
    chosen = {name: page.query[name] for name in FACETS if page.query.get(name)}
    numbers = find_rows(index, page.query.get("q", ""), chosen)
    is_counting = numbers is None
    shown, at, n_pages = take_page(numbers or (), page.number("page"), PAGE_SIZE)
    row = page.number("row", -1)
    if row >= len(index) or row < 0:
        row = shown[0] if shown else -1
    rows = [
        (number, show_row(index.row(number)), find_facets(index.row(number))) for number in shown
    ]
    return page.render(
        "data.html",
        runs=runs,
        run=run,
        files=files,
        file=file,
        counts=step.manifest.counts,
        has_rejected=(step.path / REJECTED).exists() and Path(file).name != REJECTED,
        folder=step.name,
        rows=rows,
        row=row,
        n=len(numbers or ()),
        total=len(index),
        at=at,
        n_pages=n_pages,
        chosen=chosen,
        is_counting=is_counting,
        case=describe_case(show_row(index.row(row))) if row >= 0 else None,
        following=_find_neighbour(shown, row, 1),
        previous=_find_neighbour(shown, row, -1),
        correction=corrections.describe(page, step, index.row(row)) if row >= 0 else None,
    )


def _open(page: Page, file: str) -> JsonlIndex:
    path = page.workspace.resolve(file)
    if path.suffix != ".jsonl" or not path.is_file():
        raise InputError("{}: no file of records; choose another", file[:200])
    return open_index(path)


def _find_neighbour(shown: Sequence[int], row: int, step: int) -> int | None:
    at = shown.index(row) + step if row in shown else -1
    return shown[at] if 0 <= at < len(shown) else None


def find_rows(index: JsonlIndex, text: str, chosen: Mapping[str, str]) -> Sequence[int] | None:
    """Number the rows that hold a text and carry every chosen value; None while the values are
    still being read."""
    found = index.find(text)
    if not chosen:
        return found
    values = index.values(find_facets, WAIT_S)
    if not index.is_read:
        return None
    for name, value in chosen.items():
        of_value = set(values.get(name, {}).get(value, ()))
        found = [number for number in found if number in of_value]
    return found


def show_facets(page: Page) -> Response:
    """Show what can be filtered by, with counts; a file that is still being read is asked for
    again."""
    file = page.query.get("file", "")
    index = _open(page, file)
    values = index.values(find_facets, WAIT_S)
    facets = {
        name: {value: len(numbers) for value, numbers in list(values[name].items())[:MAX_VALUES]}
        for name in FACETS
        if len(values.get(name, {})) > 1 or page.query.get(name)
    }
    chosen = {name: page.query[name] for name in FACETS if page.query.get(name)}
    return page.render("facets.html", facets=facets, is_read=index.is_read, chosen=chosen)


def describe_case(shown: Shown) -> dict[str, Any]:
    """Gather what a case shows: the record with what is cited or masked marked, the reasoning with
    what is not founded."""
    question, reasoning = shown.question[:MAX_SHOWN], shown.reasoning[:MAX_SHOWN]
    if question and reasoning:
        record, thought = mark_record(question, reasoning), mark_reasoning(reasoning, question)
    else:
        record, thought = mark_masks(question), [Piece(reasoning)]
    return {"shown": shown, "record": record, "reasoning": thought}
