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


def show_records(page: Page) -> Response:
    """Show a page of the rows that were found, and one of them whole."""
    runs = page.workspace.list_runs()
    if not runs:
        return page.render("nothing.html")
    file = page.query.get("file", "")
    run = page.query.get("run") or (str(Path(file).parent.parent) if file else runs[0])
    files = page.workspace.list_files(run)
    file = file or (files[-1] if files else "")
    values: dict[str, Any] = {"runs": runs, "run": run, "files": files, "file": file}
    return page.render("data.html", **values, **(_describe(page, file) if file else {}))


def _describe(page: Page, file: str) -> dict[str, Any]:
    """Gather what the page shows of a file."""
    index = _open(page, file)
    step = page.workspace.find_step(str(Path(file).parent))
    chosen = {name: page.query[name] for name in FACETS if page.query.get(name)}
    numbers = find_rows(index, page.query.get("q", ""), chosen)
    shown, at, n_pages = take_page(numbers, page.number("page"), PAGE_SIZE)
    row = page.number("row", -1)
    if not 0 <= row < len(index):
        row = shown[0] if shown else -1
    place = shown.index(row) if row in shown else -1
    contents = [(number, index.row(number)) for number in shown]
    return {
        "counts": step.manifest.counts,
        "has_rejected": (step.path / REJECTED).exists() and Path(file).name != REJECTED,
        "folder": step.name,
        "rows": [(n, show_row(content), find_facets(content)) for n, content in contents],
        "row": row,
        "n": len(numbers),
        "total": len(index),
        "at": at,
        "n_pages": n_pages,
        "chosen": chosen,
        "facets": count_facets(index, chosen),
        "is_read": index.is_read,
        "case": describe_case(show_row(index.row(row))) if row >= 0 else None,
        "previous": shown[place - 1] if place > 0 else None,
        "following": shown[place + 1] if 0 <= place < len(shown) - 1 else None,
        "correction": corrections.describe(page, step, index.row(row)) if row >= 0 else None,
    }


def _open(page: Page, file: str) -> JsonlIndex:
    path = page.workspace.resolve(file)
    if path.suffix != ".jsonl" or not path.is_file():
        raise InputError("{}: no file of records; choose another", file[:200])
    return open_index(path)


def find_rows(index: JsonlIndex, text: str, chosen: Mapping[str, str]) -> Sequence[int]:
    """Number the rows that hold a text and carry every chosen value, as far as the file has been
    read for its values."""
    found = index.find(text)
    values = index.values(find_facets) if chosen else {}
    for name, value in chosen.items():
        of_value = values.get(name, {}).get(value, ())
        if len(found) < len(index):
            kept = set(of_value)
            found = [number for number in found if number in kept]
        else:
            found = of_value
    return found


def count_facets(index: JsonlIndex, chosen: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Count what can be filtered by, as far as the file has been read for it."""
    values = index.values(find_facets)
    return {
        name: {value: len(numbers) for value, numbers in list(values[name].items())[:MAX_VALUES]}
        for name in FACETS
        if len(values.get(name, {})) > 1 or (name in chosen and name in values)
    }


def describe_case(shown: Shown) -> dict[str, Any]:
    """Gather what a case shows: the record with what is cited or masked marked, the reasoning with
    what is not founded."""
    question, reasoning = shown.question[:MAX_SHOWN], shown.reasoning[:MAX_SHOWN]
    if question and reasoning:
        record, thought = mark_record(question, reasoning), mark_reasoning(reasoning, question)
    else:
        record, thought = mark_masks(question), [Piece(reasoning)]
    return {"shown": shown, "record": record, "reasoning": thought}
