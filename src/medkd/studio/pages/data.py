"""The page Data: the records of any step, paged, searched, filtered by what became of them; one
case whole.

In: a run and one of its files. Out: what is on the screen; nothing is written. Not done here:
judging rationales (`pages.review`).
"""

from collections import Counter
from pathlib import Path
from typing import Any

import gradio as gr

from medkd.core.html import histogram
from medkd.studio.next_steps import show_next
from medkd.studio.places import Places
from medkd.studio.present import (
    PICK,
    SCROLL,
    show_bars,
    show_case,
    show_facts,
    show_notice,
    show_rows,
)
from medkd.studio.rows import find_tag, show_row
from medkd.studio.shelf import Shelf, open_shelf, take_page
from medkd.studio.texts import Texts

PAGE_SIZE = 25
REJECTED = "rejected.jsonl"
"""The file in which a step keeps what it dropped, where it keeps it."""
N_MEASURED = 2000
"""Rows looked at for the plots."""
BARE: dict[str, Any] = {"show_label": False, "container": False}
"""As high as the buttons beside it; its label is there for who cannot see it."""
MAX_COUNTED = 200_000
"""Rows of the longest file whose rows are counted by what became of them."""


def build(page: gr.Blocks, places: Places, t: Texts) -> None:
    """Lay the page out."""
    empty = gr.HTML()
    with gr.Row(visible=False) as chooser:
        run = gr.Dropdown(label=t("data.run"), choices=[], scale=1)
        file = gr.Dropdown(label=t("data.file"), choices=[], scale=1)
        query = gr.Textbox("", label=t("data.search"), placeholder=t("data.search_hint"), scale=2)
    with gr.Row(visible=False) as body:
        with gr.Column(scale=1, min_width=280):
            about = gr.HTML()
            drops = gr.HTML(js_on_load=PICK)
            bars = gr.HTML(js_on_load=PICK)
            with gr.Accordion(t("data.statistics"), open=False) as statistics:
                plots = gr.HTML()
        with gr.Column(scale=2, min_width=320):
            found = gr.HTML()
            rows = gr.HTML(js_on_load=PICK)
            with gr.Row(visible=False, elem_classes="paging") as paging:
                back = gr.Button(t("data.back"), elem_classes="key-p", min_width=90)
                number = gr.Number(
                    label=t("data.page"),
                    value=1,
                    precision=0,
                    minimum=1,
                    interactive=True,
                    min_width=90,
                    **BARE,
                )
                forward = gr.Button(t("data.forward"), elem_classes="key-n", min_width=90)
    case = gr.HTML()
    chosen, first = gr.State(""), gr.State(1)
    coming = gr.State("")
    """The reason to filter by in the file that is about to be opened."""

    def arrive(request: gr.Request) -> tuple[Any, ...]:
        """Fill the lists, and open the run that the address names."""
        runs = places.list_runs()
        wanted = dict(request.query_params).get("run", "")
        name = wanted if wanted in runs else next(iter(runs), None)
        return gr.update(choices=runs, value=name), gr.update(visible=bool(runs)), *list_files(name)

    def list_files(name: str | None) -> tuple[Any, ...]:
        """List the files of a run, open the last one, and say what will stand here where there is
        none."""
        files = places.list_files(name) if name else []
        choices = [(path.removeprefix(f"{name}/"), path) for path in files]
        nothing = (
            ""
            if files
            else show_notice(t("data.no_file"))
            if name
            else show_next("data", "collect", places, t)
        )
        return (
            gr.update(choices=choices, value=files[-1] if files else None),
            nothing,
            gr.update(visible=bool(files)),
        )

    def begin(reason: str) -> tuple[str, str, str]:
        """Filter a file that is opened by the reason for which it was, if there is one."""
        return reason, "", ""

    def describe(name: str | None) -> tuple[str, str, str, str]:
        """Say what the step made and what it dropped, and clear what stood open of another file."""
        if not name:
            return "", "", "", ""
        step = places.find_step(str(Path(name).parent))
        counts = step.manifest.counts
        facts = show_facts({t("data.read"): counts.read, t("data.kept"): counts.kept}, t)
        if Path(name).name == REJECTED:
            return facts, "", "", ""  # the bars of its own rows say the same
        has_rows = (step.path / REJECTED).exists()
        return (
            facts,
            show_bars(counts.dropped, "", t, title=t("data.dropped"), is_choice=has_rows),
            "",
            "",
        )

    def pick_drop(event: gr.EventData, name: str) -> tuple[str, str, str]:
        """Open the rows that fell for one reason."""
        file = "undecided.jsonl" if str(event.value) == "undecided" else REJECTED
        return f"{Path(name).parent}/{file}", str(event.value), str(event.value)

    def show(name: str | None, text: str | None, tag: str, wanted: float | None) -> tuple[Any, ...]:
        """Show a page of what was found: notice, rows, bars, page number, and what turns pages
        where there are several."""
        if not name:
            return "", "", "", 1, gr.update(visible=False)
        shelf = open_shelf(places.resolve(name))
        numbers = find_rows(shelf, text or "", tag)
        shown, at, n_pages = take_page(numbers, int(wanted or 1), PAGE_SIZE)
        news = show_notice(
            t(
                "data.found",
                n=f"{len(numbers):,}",
                total=f"{len(shelf):,}",
                page=at,
                pages=f"{n_pages:,}",
            )
        )
        listed = [(i, show_row(row), find_tag(row)) for i in shown for row in (shelf.row(i),)]
        counts = shelf.count(find_tag) if len(shelf) <= MAX_COUNTED else {}
        drawn = show_bars({name: n for name, n in counts.items() if name}, tag, t)
        return news, show_rows(listed, t), drawn, at, gr.update(visible=n_pages > 1)

    def pick_tag(event: gr.EventData, tag: str) -> str:
        return "" if event.value == tag else str(event.value)

    def pick_row(event: gr.EventData, name: str) -> str:
        row = open_shelf(places.resolve(name)).row(int(event.value))
        return show_case(show_row(row), t, str(row.get("teacher") or ""))

    def draw(name: str | None) -> str:
        return draw_lengths(open_shelf(places.resolve(name)), t) if name else ""

    def turn(step: int) -> Any:
        def show_next(
            name: str | None, text: str | None, tag: str, at: float | None
        ) -> tuple[Any, ...]:
            return show(name, text, tag, (at or 1) + step)

        return show_next

    outputs = [found, rows, bars, number, paging]
    opened: list[Any] = [file, empty, body]
    asked: list[Any] = [file, query, chosen]
    page.load(arrive, None, [run, chooser, *opened])
    run.input(list_files, run, opened)
    described: list[Any] = [about, drops, case, plots]
    file.change(begin, coming, [chosen, coming, query]).then(describe, file, described).then(
        show, [*asked, first], outputs
    )
    drops.select(pick_drop, file, [file, chosen, coming])
    query.submit(show, [*asked, first], outputs)
    bars.select(pick_tag, chosen, chosen).then(show, [*asked, first], outputs)
    number.submit(show, [*asked, number], outputs)
    back.click(turn(-1), [*asked, number], outputs)
    forward.click(turn(1), [*asked, number], outputs)
    rows.select(pick_row, file, case).then(None, None, None, js=SCROLL)
    statistics.expand(draw, file, plots)


def find_rows(shelf: Shelf, text: str, tag: str) -> list[int]:
    """Number the rows that hold a text and carry a tag."""
    numbers = shelf.find(text)
    if not tag:
        return numbers
    tags = shelf.tags(find_tag)
    return [number for number in numbers if tags[number] == tag]


def draw_lengths(shelf: Shelf, t: Texts) -> str:
    """Draw how long the texts are, and count departments, over evenly spread rows."""
    step = max(1, len(shelf) // N_MEASURED)
    shown = [show_row(shelf.row(number)) for number in range(0, len(shelf), step)][:N_MEASURED]
    lengths = {
        part: [float(len(text)) for row in shown if (text := getattr(row, part))]
        for part in ("question", "reasoning", "answer")
    }
    plots = [
        histogram({part: values}, t(f"case.{part}"), t("data.characters"), t("data.rows"))
        for part, values in lengths.items()
        if values
    ]
    departments = Counter(name for row in shown if (name := row.facts.get("department", "")))
    return f'<div class="plots">{"".join(plots)}</div>{show_bars(dict(departments.most_common(15)), "", t, "department")}'
