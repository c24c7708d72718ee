"""The page Evaluate: several evaluations beside each other, their numbers with intervals, and their
answers question by question.

In: steps of `evaluate`. Out: what is on the screen. Not done here: measuring (`medkd.evaluate`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from medkd.core.errors import InputError, MedkdError
from medkd.core.html import bar_plot
from medkd.evaluate.report import DESCRIPTIONS, MORE
from medkd.studio.comparison import show_comparison
from medkd.studio.next_steps import show_next
from medkd.studio.places import Places
from medkd.studio.present import (
    PICK,
    SCROLL,
    render,
    shorten,
    show_bars,
    show_error,
    show_notice,
    show_rows,
    show_table,
)
from medkd.studio.rows import RIGHT, Shown, find_id, find_outcome
from medkd.studio.shelf import Row, Shelf, open_shelf, take_page
from medkd.studio.starts import build_start
from medkd.studio.texts import Texts

PAGE_SIZE = 15
MAX_COMPARED = 6
RATES = (
    "diagnosis_accuracy",
    "think_format_rate",
    "think_unprompted_rate",
    "stop_rate",
    "loop_rate",
    "truncated_rate",
)
DIFFER = "differ"
MEASURES = DESCRIPTIONS | MORE


def build(page: gr.Blocks, places: Places, t: Texts) -> None:
    """Lay the page out."""
    build_start(page, places, t, ["evaluate"], t("start.evaluate"))
    chosen = gr.Dropdown(
        label=t("evaluate.chosen"),
        choices=[],
        multiselect=True,
        max_choices=MAX_COMPARED,
        visible=False,
    )
    table = gr.HTML()
    with gr.Row(visible=False) as browser:
        with gr.Column(scale=1, min_width=280):
            bars = gr.HTML(js_on_load=PICK)
        with gr.Column(scale=2, min_width=320):
            found = gr.HTML()
            rows = gr.HTML(js_on_load=PICK)
            with gr.Row(visible=False, elem_classes="paging") as paging:
                back = gr.Button(t("data.back"), elem_classes="key-p", min_width=90)
                forward = gr.Button(t("data.forward"), elem_classes="key-n", min_width=90)
    answers = gr.HTML()
    tag, at = gr.State(""), gr.State(1)

    def arrive(request: gr.Request) -> Any:
        names = [
            step.name
            for step in reversed(places.list_steps())
            if (step.path / "scores.json").exists()
        ]
        wanted = [
            name for name in dict(request.query_params).get("steps", "").split(",") if name in names
        ]
        return gr.update(choices=names, value=wanted or names[:2], visible=bool(names))

    def compare(names: Sequence[str]) -> tuple[str, str, int, str]:
        """Show the numbers, and forget what stood open."""
        if not names:
            return show_next("evaluate", "evaluate", places, t), "", 1, ""
        steps = [places.find_step(name) for name in names]
        scores = {
            step.name: json.loads((step.path / "scores.json").read_text(encoding="utf-8"))
            for step in steps
        }
        try:
            tests = show_comparison(steps, t)
        except (MedkdError, OSError) as error:
            tests = show_error(error, t)
        return show_scores(scores, t) + tests, "", 1, ""

    def browse(names: Sequence[str], wanted: str, number: int) -> tuple[Any, ...]:
        """List the questions that all have answered, and what became of the first one's answer."""
        if not names:
            return "", "", "", 1, gr.update(visible=False), gr.update(visible=False)
        tags = tag_questions([open_answers(places, name) for name in names])
        fitting = [i for i, key in enumerate(tags) if not wanted or wanted in tags[key]]
        of_page, number, n_pages = take_page(fitting, number, PAGE_SIZE)
        shelf, keys = open_answers(places, names[0]), list(tags)
        index = {key: i for i, key in enumerate(shelf.tags(find_id))}
        listed = [
            (
                i,
                Shown(keys[i], str(shelf.row(index[keys[i]]).get("question", ""))),
                next(iter(tags[keys[i]])),
            )
            for i in of_page
        ]
        counts: dict[str, int] = {}
        for of_question in tags.values():
            for name in of_question:
                counts[name] = counts.get(name, 0) + 1
        news = show_notice(
            t(
                "data.found",
                n=f"{len(fitting):,}",
                total=f"{len(tags):,}",
                page=number,
                pages=n_pages,
            )
        )
        shown = gr.update(visible=True), gr.update(visible=n_pages > 1)
        return show_bars(counts, wanted, t), news, show_rows(listed, t), number, *shown

    def pick_tag(event: gr.EventData, before: str) -> tuple[str, int]:
        return ("" if event.value == before else str(event.value)), 1

    def pick(event: gr.EventData, names: Sequence[str]) -> str:
        """Show every model's answer to one question."""
        shelves = {name: open_answers(places, name) for name in names}
        key = list(tag_questions(list(shelves.values())))[int(event.value)]
        return show_answers(key, shelves, t)

    def turn(step: int) -> Any:
        def browse_next(names: Sequence[str], wanted: str, number: int) -> tuple[Any, ...]:
            return browse(names, wanted, number + step)

        return browse_next

    state: list[Any] = [chosen, tag, at]
    listed = [bars, found, rows, at, browser, paging]
    page.load(arrive, None, chosen).then(compare, chosen, [table, tag, at, answers]).then(
        browse, state, listed
    )
    chosen.input(compare, chosen, [table, tag, at, answers]).then(browse, state, listed)
    bars.select(pick_tag, tag, [tag, at]).then(browse, state, listed)
    back.click(turn(-1), state, listed)
    forward.click(turn(1), state, listed)
    rows.select(pick, chosen, answers).then(None, None, None, js=SCROLL)


def open_answers(places: Places, name: str) -> Shelf:
    """Open the answers of an evaluation; raises InputError where there are none."""
    path = places.find_step(name).path / "predictions.jsonl"
    if not path.exists():
        raise InputError(f"{name}: no predictions.jsonl; evaluate again")
    return open_shelf(path)


def tag_questions(shelves: Sequence[Shelf]) -> dict[str, list[str]]:
    """Say of each question that all have answered how the first answer came out, and whether they
    differ in being right."""
    outcomes = [
        dict(zip(shelf.tags(find_id), shelf.tags(find_outcome), strict=True)) for shelf in shelves
    ]
    shared = [key for key in outcomes[0] if all(key in other for other in outcomes[1:])]
    return {
        key: [
            outcomes[0][key],
            *([DIFFER] if len({one[key] == RIGHT for one in outcomes}) > 1 else []),
        ]
        for key in shared
    }


def show_scores(scores: Mapping[str, Mapping[str, Any]], t: Texts) -> str:
    """Draw a table of all numbers, with their intervals, and the rates as bars."""
    told = {
        name: t.label("measures", name, doc)
        for name, doc in MEASURES.items()
        if any(name in one for one in scores.values())
    }
    rows = [
        (label, *(write_score(one, name) for one in scores.values()), meaning)
        for name, (label, meaning) in told.items()
    ]
    table = show_table(
        (t("evaluate.measure"), *scores, t("evaluate.meaning")), rows, t, t("evaluate.intervals")
    )
    shared = [name for name in RATES if all(name in one for one in scores.values())]
    bars = {model: [float(one[name]) for name in shared] for model, one in scores.items()}
    intervals = {
        model: [tuple(one["intervals"].get(name, (one[name], one[name]))) for name in shared]
        for model, one in scores.items()
    }
    labels = [
        told[name][0].partition(" (")[0].removesuffix("_rate").replace("_", "\n") for name in shared
    ]
    return f'{table}<div class="plots">{bar_plot(labels, bars, t("evaluate.rates"), intervals=intervals)}</div>'  # pyright: ignore[reportArgumentType]


def write_score(scores: Mapping[str, Any], name: str) -> str:
    """Write a number with its interval."""
    if name not in scores:
        return "–"
    interval = scores["intervals"].get(name)
    return f"{scores[name]:.4g}" + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else "")


def show_answers(key: str, shelves: Mapping[str, Shelf], t: Texts) -> str:
    """Show what each model answered to one question."""
    found: dict[str, Row] = {
        name: shelf.row(shelf.tags(find_id).index(key)) for name, shelf in shelves.items()
    }
    first = next(iter(found.values()))
    answers = [
        {
            "model": name,
            "outcome": find_outcome(row),
            "reasoning": shorten(str(row.get("reasoning") or "")),
            "answer": shorten(str(row.get("answer") or "")),
            "raw": shorten(str(row.get("raw") or "")),
            "n_tokens": row.get("n_tokens"),
        }
        for name, row in found.items()
    ]
    question, reference, teacher = (
        shorten(str(first.get(part) or "")) for part in ("question", "reference", "teacher")
    )
    return render(
        "answers",
        t,
        id=key,
        question=question,
        reference=reference,
        teacher=teacher,
        answers=answers,
    )
