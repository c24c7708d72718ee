"""The page Review: a person accepts, edits or rejects rationales, by keyboard; kept in
`reviews.jsonl` and honoured by `merge`.

In: a file of a step of `verify` or `distill`. Out: a line in `reviews.jsonl` a judgement. Not done
here: which one counts (`core.reviews`).
"""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from medkd.core.reviews import Decision, Review, add_review, measure_agreement, read_reviews
from medkd.studio.next_steps import show_next
from medkd.studio.places import Places
from medkd.studio.present import show_case, show_notice, show_table
from medkd.studio.rows import find_id, show_row
from medkd.studio.shelf import open_shelf
from medkd.studio.texts import Texts

QUEUES = ("verified.jsonl", "undecided.jsonl", "rejected.jsonl", "rationales.jsonl")


def build(page: gr.Blocks, places: Places, t: Texts) -> None:
    """Lay the page out."""
    with gr.Row(visible=False) as chooser:
        queue = gr.Dropdown(label=t("review.queue"), choices=[], scale=2, min_width=300)
        reviewer = gr.Textbox("", label=t("review.reviewer"), max_length=60, scale=1, min_width=160)
        is_open = gr.Checkbox(label=t("review.only_open"), value=True, scale=1, min_width=240)
    name = gr.BrowserState("", storage_key="medkd-reviewer")
    news = gr.HTML()
    case = gr.HTML()
    with gr.Column(visible=False) as judging:
        with gr.Row(elem_classes="buttons"):
            accept = gr.Button(
                t("review.accept"), variant="primary", elem_classes="key-a", min_width=100
            )
            edit = gr.Button(t("review.edit"), elem_classes="key-e", min_width=100)
            reject = gr.Button(
                t("review.reject"), variant="stop", elem_classes="key-r", min_width=100
            )
            previous = gr.Button(t("review.previous"), elem_classes="key-k", min_width=100)
            following = gr.Button(t("review.next"), elem_classes="key-j", min_width=100)
        reason = gr.Textbox(
            "",
            label=t("review.reason"),
            placeholder=t("review.reason_hint"),
            max_length=500,
            elem_id="reason",
        )
    with gr.Column(visible=False) as editor:
        reasoning = gr.Textbox("", label=t("case.reasoning"), lines=8, max_lines=30)
        answer = gr.Textbox("", label=t("case.answer"))
        save = gr.Button(t("review.save"), variant="primary")
    agreement = gr.HTML()
    at = gr.State(0)

    def arrive(known: str, request: gr.Request) -> tuple[Any, ...]:
        queues = list_queues(places)
        wanted = dict(request.query_params).get("file", "")
        value = wanted if wanted in queues else next(iter(queues), None)
        return (
            gr.update(choices=queues, value=value),
            known or gr.skip(),
            gr.update(visible=bool(queues)),
        )

    def show(
        file: str | None, who: str, only_open: bool, number: int, step: int = 0
    ) -> tuple[Any, ...]:
        """Show the row at a number, or the next one that this person has not judged, with the
        editor closed."""
        if not file:
            return (
                show_next("review", "distill", places, t),
                "",
                0,
                "",
                gr.update(visible=False),
                "",
                "",
                "",
                gr.update(visible=False),
            )
        path = places.resolve(file)
        shelf, reviews = open_shelf(path), read_reviews(path.parent)
        ids = shelf.tags(find_id)
        judged = {
            key
            for key, of_row in reviews.items()
            if any(review.reviewer == who.strip() for review in of_row)
        }
        n_judged = sum(key in judged for key in ids)
        found = find_next(ids, judged if only_open else set(), number, step)
        agreed = show_agreement(path.parent.name, reviews, t)
        if found is None:
            done = show_notice(t("review.done", n=n_judged), "good")
            return (
                done,
                "",
                0,
                "",
                gr.update(visible=False),
                "",
                "",
                agreed,
                gr.update(visible=False),
            )
        shown = show_row(shelf.row(found))
        said = [
            f"{review.reviewer}: {t.word('decision', review.decision)} {review.reason}"
            for review in reviews.get(shown.id, [])
        ]
        news = show_notice(
            "  ·  ".join([t("review.at", number=found + 1, total=len(shelf), done=n_judged), *said])
        )
        words = shown.reasoning, shown.answer
        return (
            news,
            show_case(shown, t),
            found,
            "",
            gr.update(visible=False),
            *words,
            agreed,
            gr.update(visible=True),
        )

    def find_problem(who: str, decision: Decision, why: str, text: str, diagnosis: str) -> str:
        """Say what a judgement lacks; empty where it is whole."""
        if not who.strip():
            return t("review.who")
        if decision is Decision.REJECT and not why.strip():
            return t("review.why")
        return (
            t("review.whole")
            if decision is Decision.EDIT and not (text.strip() and diagnosis.strip())
            else ""
        )

    def decide(decision: Decision) -> Any:
        def act(
            file: str | None,
            who: str,
            only_open: bool,
            number: int,
            why: str,
            text: str,
            diagnosis: str,
        ) -> tuple[Any, ...]:
            problem = find_problem(who, decision, why, text, diagnosis)
            if problem or not file:
                return show_notice(problem, "bad"), *(gr.skip() for _ in outputs[1:])
            path = places.resolve(file)
            words = (
                {"reasoning": text.strip(), "answer": diagnosis.strip()}
                if decision is Decision.EDIT
                else {}
            )
            key = find_id(open_shelf(path).row(number))
            add_review(
                path.parent,
                Review(
                    id=key, reviewer=who.strip(), decision=decision, reason=why.strip(), **words
                ),
            )
            return show(file, who, only_open, number, 0 if only_open else 1)

        return act

    def go(step: int) -> Any:
        def show_next(file: str | None, who: str, only_open: bool, number: int) -> tuple[Any, ...]:
            return show(file, who, only_open, number, step)

        return show_next

    place: list[Any] = [queue, reviewer, is_open, at]
    outputs: list[Any] = [news, case, at, reason, editor, reasoning, answer, agreement, judging]
    said = [*place, reason, reasoning, answer]
    page.load(arrive, name, [queue, reviewer, chooser]).then(show, place, outputs)
    reviewer.change(None, reviewer, name, js="(who) => who")
    reviewer.submit(show, place, outputs)
    gr.on([queue.input, is_open.input], lambda: 0, None, at).then(show, place, outputs)
    previous.click(go(-1), place, outputs)
    following.click(go(1), place, outputs)
    accept.click(decide(Decision.ACCEPT), said, outputs)
    reject.click(decide(Decision.REJECT), said, outputs)
    save.click(decide(Decision.EDIT), said, outputs)
    edit.click(lambda: gr.update(visible=True), None, editor)


def list_queues(places: Places) -> list[str]:
    """Name the files that hold rationales, those of the newest step first."""
    steps = [
        step
        for step in reversed(places.list_steps())
        if step.manifest.stage in ("verify", "distill")
    ]
    return [
        f"{step.name}/{name}" for step in steps for name in QUEUES if (step.path / name).exists()
    ]


def find_next(ids: Sequence[str], judged: set[str], at: int, step: int) -> int | None:
    """Find the nearest row that is not judged: from here on, or backwards for a negative step, and
    then around.

    >>> find_next(["a", "b", "c"], {"b"}, 0, 1), find_next(["a", "b"], {"a", "b"}, 0, 1)
    (2, None)
    """
    n, direction = len(ids), -1 if step < 0 else 1
    order = ((at + step + direction * offset) % n for offset in range(n))
    return next((number for number in order if ids[number] not in judged), None)


def show_agreement(queue: str, reviews: dict[str, list[Review]], t: Texts) -> str:
    """Show how far each two people agree."""
    found = measure_agreement(reviews)
    if not found:
        return ""
    head = (t("review.pair"), t("review.both"), t("review.agreed"), t("review.kappa"))
    rows = [
        (" – ".join(one.reviewers), one.n, f"{one.agreed / one.n:.0%}", one.kappa) for one in found
    ]
    return show_table(head, rows, t, t("review.agreement", queue=queue))
