"""The pages on which a person judges, by keyboard: rationales, removals, rubrics; and answers of
models, blind, one by one or in pairs.

In: a file of a step, or one evaluation or two. Out: a line in `reviews.jsonl` or
`answer_reviews.jsonl` a judgement. Not done here: which one counts (`core.reviews`).
"""

from collections.abc import Sequence
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
from medkd.studio.page import Form, Page, read_text
from medkd.studio.routes.data import describe_case
from medkd.studio.routes.evaluate import find_chosen, list_evaluations
from medkd.studio.rows import find_id, show_row
from medkd.studio.workspace import Step, Workspace

REMOVALS = "removals.jsonl"
RUBRICS = "rubrics.jsonl"
QUEUES = (
    "verified.jsonl",
    "undecided.jsonl",
    "rejected.jsonl",
    "rationales.jsonl",
    REMOVALS,
    RUBRICS,
)
STAGES = ("verify", "distill", "prepare", "rubric")
N_SHOWN, SEED = 50, 0
"""The same as `medkd review` has by itself."""
ONE: dict[str, Label] = {"r": "right", "w": "wrong", "u": "undecided"}
TWO: dict[str, Label] = {"1": "first", "2": "second", "t": "tie"}
"""Key to what is said, of one answer and of two."""
MAX_NAME, MAX_REASON, MAX_TEXT = 60, 500, 100_000


def list_queues(workspace: Workspace) -> list[str]:
    """Name the files that hold rationales, those of the newest step first."""
    steps = [s for s in reversed(workspace.list_steps()) if s.manifest.stage in STAGES]
    return [
        f"{step.name}/{name}" for step in steps for name in QUEUES if (step.path / name).exists()
    ]


def show_review(page: Page) -> Response:
    """Show the row at a number, or the next one that this person has not judged."""
    return _show(page, page.query.get("file", ""), page.query.get("who", "").strip())


def _show(page: Page, file: str, who: str, problem: str = "", sent: Form | None = None) -> Response:
    queues = list_queues(page.workspace)
    file = file or next(iter(queues), "")
    if not file:
        return page.render("nothing.html")
    path = _find_queue(page, file)
    index, reviews = open_index(path), read_reviews(path.parent)
    judged = {
        key for key, of_row in reviews.items() if any(review.reviewer == who for review in of_row)
    }
    only_open = page.query.get("all") != "1"
    at = _read_number(sent) if sent else page.number("at", 0)
    found = at if sent else find_next(index, judged if only_open else set(), at)
    row = show_row(index.row(found)) if found is not None and found < len(index) else None
    return page.render(
        "review.html",
        400 if problem else 200,
        queues=queues,
        file=file,
        who=who,
        only_open=only_open,
        at=found,
        total=len(index),
        n_judged=len(judged),
        case=describe_case(row) if row else None,
        said=reviews.get(row.id, []) if row else [],
        agreement=measure_agreement(reviews),
        problem=problem,
        is_removal=path.name == REMOVALS,
        is_rubric=path.name == RUBRICS,
        reasoning=read_text(sent, "reasoning", MAX_TEXT) if sent else row.reasoning if row else "",
        answer=read_text(sent, "answer", MAX_TEXT) if sent else row.answer if row else "",
    )


def _find_queue(page: Page, file: str) -> Path:
    path = page.workspace.resolve(file)
    if path.name not in QUEUES or not path.is_file():
        raise InputError("{}: no file of rationales; choose another", file[:200])
    return path


def _read_number(form: Form) -> int:
    text = read_text(form, "at", 9)
    return int(text) if text.isascii() and text.isdigit() else 0


def find_next(index: JsonlIndex, judged: set[str], at: int) -> int | None:
    """Find the nearest row that is not judged, from a number on and then around."""
    n = len(index)
    order = ((at + offset) % n for offset in range(n))
    return next((number for number in order if find_id(index.row(number)) not in judged), None)


def judge(page: Page, form: Form) -> Response:
    """Write a judgement down and go on to the next row."""
    file, who = read_text(form, "file"), read_text(form, "who", MAX_NAME).strip()
    path = _find_queue(page, file)
    index = open_index(path)
    number = _read_number(form)
    decision, reason = read_text(form, "decision"), read_text(form, "reason", MAX_REASON).strip()
    needed = ("answer",) if path.name == REMOVALS else ("reasoning", "answer")
    problem = find_problem(page, form, who, decision, reason, needed)
    if problem or number >= len(index):
        return _show(page, file, who, problem or page.t("This row is not there any more."), form)
    words: dict[str, str] = {}
    if decision == Decision.EDIT:
        words = {name: read_text(form, name, MAX_TEXT).strip() for name in needed}
    key = find_id(index.row(number))
    decided = Decision(decision)
    add_review(path.parent, Review(id=key, reviewer=who, decision=decided, reason=reason, **words))
    only_open = page.query.get("all") != "1"
    following = {"at": number + 1, "all": "" if only_open else "1"}
    return page.redirect("review", file=file, who=who, **following)


def find_problem(
    page: Page, form: Form, who: str, decision: str, reason: str, needed: Sequence[str]
) -> str:
    """Say what a judgement lacks; empty where it is whole."""
    if not who:
        return page.t("First write your name.")
    if decision not in list(Decision):
        return page.t("Accept, edit or reject it.")
    if decision == Decision.REJECT and not reason:
        return page.t("Say why you reject it; a word will do.")
    texts = (read_text(form, name, MAX_TEXT).strip() for name in needed)
    if decision == Decision.EDIT and not all(texts):
        return page.t("What you write in its place may not be empty.")
    return ""


# --- Answers, judged blind ----------------------------------------------------------------------


def show_blind(page: Page) -> Response:
    """Show the next answer, or pair of answers, that this person has not judged."""
    steps = find_steps(page)
    who = page.query.get("who", "").strip()
    sample, other = open_sample(steps)
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


def find_steps(page: Page) -> list[Step]:
    """Return the one or two evaluations that the address names."""
    steps = find_chosen(page, list_evaluations(page.workspace))[:2]
    if not steps:
        raise InputError(page.t("There is no evaluation to judge yet."))
    return steps


def open_sample(steps: list[Step]) -> tuple[Sample, str]:
    """Draw the sample of one or two evaluations; also returns the name of the second."""
    other = steps[1].path.resolve().name if len(steps) > 1 else ""
    stamps = tuple((s.path, (s.path / "predictions.jsonl").stat().st_mtime_ns) for s in steps)
    return _draw(stamps), other


@lru_cache(maxsize=8)
def _draw(stamps: tuple[tuple[Path, int], ...]) -> Sample:
    return draw_sample([path for path, _ in stamps], N_SHOWN, SEED)


def judge_blind(page: Page, form: Form) -> Response:
    """Write down what was said of an answer, and go on to the next."""
    steps = find_steps(page)
    sample, other = open_sample(steps)
    who, key = read_text(form, "who", 60).strip(), read_text(form, "key", 1)
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
