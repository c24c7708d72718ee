"""The page that shows a person a blinded sample of answers, or pairs of two models, one by one.

In: one evaluation, or two. Out: a line in `answer_reviews.jsonl` a judgement, and at the end how
far rules and people agree. Not done here: drawing and measuring (`evaluate.review`).
"""

from functools import lru_cache
from pathlib import Path

from starlette.responses import Response

from medkd.core.errors import InputError
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
from medkd.studio.page import Form, Page, read_text
from medkd.studio.routes.evaluate import find_chosen, list_evaluations
from medkd.studio.workspace import Step

N_SHOWN, SEED = 50, 0
"""The same as `medkd review` has by itself."""
ONE: dict[str, Label] = {"r": "right", "w": "wrong", "u": "undecided"}
TWO: dict[str, Label] = {"1": "first", "2": "second", "t": "tie"}
"""Key to what is said, of one answer and of two."""


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
