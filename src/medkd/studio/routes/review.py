"""The pages on which a person judges, by keyboard: rationales, removals, rubrics; and answers of
models, blind, one by one or in pairs.

In: a file of a step, or one evaluation or two. Out: a line in `reviews.jsonl` or
`answer_reviews.jsonl` a judgement. Not done here: which one counts (`core.reviews`).
"""

from functools import lru_cache
from pathlib import Path

from starlette.responses import Response

from medkd.core.errors import InputError
from medkd.core.reviews import Decision, Review, add_review, measure_agreement, read_reviews
from medkd.evaluate.review import (
    AnswerReview,
    Label,
    Sample,
    add_answer_review,
    describe,
    draw_sample,
    measure,
    read_answer_reviews,
)
from medkd.studio.jsonl_index import JsonlIndex, open_index
from medkd.studio.page import Form, Page, read_number, read_text
from medkd.studio.routes.data import describe_case
from medkd.studio.routes.evaluate import find_chosen, list_evaluations
from medkd.studio.rows import find_id, show_row
from medkd.studio.workspace import Step, Workspace

REMOVALS, RUBRICS = "removals.jsonl", "rubrics.jsonl"
QUEUES = ("verified.jsonl", "undecided.jsonl", "rejected.jsonl", "rationales.jsonl")
STAGES = ("verify", "distill", "prepare", "rubric")
N_SHOWN, SEED = 50, 0
"""The same as `medkd review` has by itself."""
ONE: dict[str, Label] = {"r": "right", "w": "wrong", "u": "undecided"}
TWO: dict[str, Label] = {"1": "first", "2": "second", "t": "tie"}
"""Key to what is said, of one answer and of two."""
MAX_NAME, MAX_REASON, MAX_TEXT = 60, 500, 100_000


def list_queues(workspace: Workspace) -> list[str]:
    """Name the files that hold rationales, those of the newest step first."""
    return [
        f"{step.name}/{name}"
        for step in reversed(workspace.list_steps())
        if step.manifest.stage in STAGES
        for name in (*QUEUES, REMOVALS, RUBRICS)
        if (step.path / name).exists()
    ]


def show_review(page: Page) -> Response:
    """Show the row at a number, or the next one that this person has not judged."""
    return _show(page, page.query.get("file", ""), page.query.get("who", "").strip())


def _show(page: Page, file: str, who: str, problem: str = "", sent: Form | None = None) -> Response:
    """Show a row; with what a form has sent, the row that it judged."""
    queues = list_queues(page.workspace)
    file = file or next(iter(queues), "")
    if not file:
        return page.render("nothing.html")
    path = _find_queue(page, file)
    index, reviews = open_index(path), read_reviews(path.parent)
    judged = {key for key, said in reviews.items() if any(one.reviewer == who for one in said)}
    only_open = page.query.get("all") != "1"
    if sent:
        at = read_number(sent, "at")
    else:
        at = find_next(index, judged if only_open else set(), page.number("at", 0))
    row = show_row(index.row(at)) if at is not None and at < len(index) else None
    words = {"reasoning": row.reasoning, "answer": row.answer} if row else {}
    if sent:
        words = {name: read_text(sent, name, MAX_TEXT) for name in words}
    return page.render(
        "review.html",
        400 if problem else 200,
        queues=queues,
        file=file,
        who=who,
        only_open=only_open,
        at=at,
        total=len(index),
        n_judged=len(judged),
        case=describe_case(row) if row else None,
        said=reviews.get(row.id, []) if row else [],
        agreement=measure_agreement(reviews),
        problem=problem,
        is_removal=path.name == REMOVALS,
        is_rubric=path.name == RUBRICS,
        words=words,
    )


def _find_queue(page: Page, file: str) -> Path:
    path = page.workspace.resolve(file)
    if path.name not in (*QUEUES, REMOVALS, RUBRICS) or not path.is_file():
        raise InputError("{}: no file of rationales; choose another", file[:200])
    return path


def find_next(index: JsonlIndex, judged: set[str], at: int) -> int | None:
    """Find the nearest row that is not judged, from a number on and then around."""
    n = len(index)
    order = ((at + offset) % n for offset in range(n))
    return next((number for number in order if find_id(index.row(number)) not in judged), None)


def judge(page: Page, form: Form) -> Response:
    """Write a judgement down and go on to the next row."""
    file, who = read_text(form, "file"), read_text(form, "who", MAX_NAME)
    path = _find_queue(page, file)
    index, number = open_index(path), read_number(form, "at")
    decision, reason = read_text(form, "decision"), read_text(form, "reason", MAX_REASON)
    needed = ("answer",) if path.name == REMOVALS else ("reasoning", "answer")
    words = {name: read_text(form, name, MAX_TEXT) for name in needed}
    problem = ""
    if not who:
        problem = page.t("First write your name.")
    elif decision not in list(Decision):
        problem = page.t("Accept, edit or reject it.")
    elif decision == Decision.REJECT and not reason:
        problem = page.t("Say why you reject it; a word will do.")
    elif decision == Decision.EDIT and not all(words.values()):
        problem = page.t("What you write in its place may not be empty.")
    elif number >= len(index):
        problem = page.t("This row is not there any more.")
    if problem:
        return _show(page, file, who, problem, form)
    review = Review(
        id=find_id(index.row(number)),
        reviewer=who,
        decision=Decision(decision),
        reason=reason,
        **(words if decision == Decision.EDIT else {}),
    )
    add_review(path.parent, review)
    everything = "1" if page.query.get("all") == "1" else ""
    return page.redirect("review", file=file, who=who, at=number + 1, all=everything)


# --- Answers, judged blind ----------------------------------------------------------------------


def show_blind(page: Page) -> Response:
    """Show the next answer, or pair of answers, that this person has not judged."""
    steps, sample, other = _open_sample(page)
    who = page.query.get("who", "").strip()
    reviews = read_answer_reviews(steps[0].path, other)
    waiting = [shown for shown in sample.shown if who not in reviews.get(shown.id, {})]
    is_done = not waiting and bool(sample.shown)
    return page.render(
        "blind.html",
        steps=[step.name for step in steps],
        who=who,
        shown=waiting[0] if waiting and who else None,
        n_waiting=len(waiting),
        n=len(sample.shown),
        keys=TWO if other else ONE,
        found=describe(measure(sample, reviews, None)) if is_done else "",
    )


def _open_sample(page: Page) -> tuple[list[Step], Sample, str]:
    """Draw the sample of the one or two evaluations that the address names; also returns the name
    of the second."""
    steps = find_chosen(page, list_evaluations(page.workspace))[:2]
    if not steps:
        raise InputError(page.t("There is no evaluation to judge yet."))
    stamps = tuple((s.path, (s.path / "predictions.jsonl").stat().st_mtime_ns) for s in steps)
    return steps, _draw(stamps), steps[1].path.resolve().name if steps[1:] else ""


@lru_cache(maxsize=8)
def _draw(stamps: tuple[tuple[Path, int], ...]) -> Sample:
    return draw_sample([path for path, _ in stamps], N_SHOWN, SEED)


def judge_blind(page: Page, form: Form) -> Response:
    """Write down what was said of an answer, and go on to the next."""
    steps, sample, other = _open_sample(page)
    who, key = read_text(form, "who", MAX_NAME), read_text(form, "key", 1)
    shown = next((one for one in sample.shown if one.id == read_text(form, "id")), None)
    keys = TWO if other else ONE
    if not who:
        raise InputError(page.t("First write your name."))
    if shown is None or key not in keys:
        raise InputError(page.t("This row is not there any more."))
    label = shown.to_label(keys[key])
    made = AnswerReview(id=shown.id, reviewer=who, label=label, other=other)
    add_answer_review(steps[0].path, made)
    return page.redirect("blind", steps=[step.name for step in steps], who=who)
