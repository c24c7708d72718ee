"""The page of what was measured: several evaluations beside each other, base first, with a headline
in words, the table that matters, paired tests, every answer, and a sample judged blind.

In: steps of `evaluate`. Out: what is on the screen; a line in `answer_reviews.jsonl` a judgement.
Not done here: measuring; the tests (`evaluate.compare`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.responses import Response

from medkd.core.errors import InputError
from medkd.core.i18n import Texts
from medkd.core.jsonl import resolve_input
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
from medkd.grading.scores import MEASURES, find_range
from medkd.models.inspect import read_json
from medkd.report.material import ROWS, compare, read_evaluation
from medkd.report.results import list_scores
from medkd.studio.jsonl_index import JsonlIndex, open_index, take_page
from medkd.studio.page import MAX_NAME, Form, Page, read_text
from medkd.studio.rows import find_id, find_outcome
from medkd.studio.workspace import Step, Workspace

HEADLINES = (
    *("judged_accuracy", "diagnosis_accuracy", "exam_accuracy", "text_accuracy"),
    *("number_accuracy", "rubric_score", "judge_score"),
)
"""What the headline tells, the first that all evaluations have."""
MAIN = (
    *HEADLINES,
    *("general_accuracy", "think_format_rate", "think_unprompted_rate"),
    *("stop_rate", "loop_rate", "truncated_rate"),
)
PAGE_SIZE, MAX_COMPARED = 15, 6
DIFFER = "differ"
N_SHOWN, SEED = 50, 0
"""The same as `medkd review` has by itself."""
ONE: dict[str, Label] = {"r": "right", "w": "wrong", "u": "undecided"}
TWO: dict[str, Label] = {"1": "first", "2": "second", "t": "tie"}
"""Key to what is said, of one answer and of two."""


def show_evaluations(page: Page) -> Response:
    """Show the numbers of the evaluations that the address names; else those of the newest run."""
    steps = list_evaluations(page.workspace)
    if not steps:
        return page.render("nothing.html")
    chosen = find_chosen(page, steps)
    scores = [read_scores(step) for step in chosen]
    rows = list_scores(scores)
    return page.render(
        "evaluate.html",
        offered=[step.name for step in reversed(steps)],
        names=[step.name for step in chosen],
        scores=scores,
        measures=MEASURES,
        headline=write_headline(scores, page.t),
        main={name: cells for name, cells in rows.items() if name in MAIN},
        rest={name: cells for name, cells in rows.items() if name not in MAIN},
    )


def list_evaluations(workspace: Workspace) -> list[Step]:
    """List the evaluations that have scores, the oldest first."""
    steps = workspace.list_steps(stage="evaluate")
    return [step for step in steps if (step.path / "scores.json").exists()]


def find_chosen(page: Page, steps: Sequence[Step]) -> list[Step]:
    """Return the evaluations that the address names, the base first."""
    by_name = {step.name: step for step in steps}
    named = dict.fromkeys(page.query.getlist("steps"))
    chosen = [by_name[name] for name in named if name in by_name]
    chosen = chosen or [step for step in steps if step.run == steps[-1].run]
    runs = page.workspace.runs.resolve()
    return sorted(chosen, key=lambda step: is_tuned(step, runs))[:MAX_COMPARED]


def is_tuned(step: Step, runs: Path) -> bool:
    """Tell whether a step evaluated something that was trained here, not its base."""
    config = step.manifest.config
    model = Path(str(config.get("model") or ""))  # a name on a hub or at an endpoint is no folder
    is_made = model.name and (model.is_absolute() or model.is_dir())
    return bool(config.get("adapter") or (is_made and model.resolve().is_relative_to(runs)))


def read_scores(step: Step) -> dict[str, Any]:
    """Read the numbers of an evaluation; raises InputError where they are none."""
    return {"intervals": {}, **(read_json(step.path / "scores.json") or {})}


def write_headline(scores: Sequence[Mapping[str, Any]], t: Texts) -> str:
    """Say in one sentence what came out."""
    name = next((name for name in HEADLINES if all(name in one for one in scores)), "")
    if not name:
        return ""
    label = t.field("measures", name, "")[0]
    shown = [write_percent(one, name) for one in scores]
    n_first, n_last = (f"{int(one.get('n', 0)):,}" for one in (scores[0], scores[-1]))
    if len(scores) == 1:
        return t("{label}: {value} (n = {n})", label=label, value=shown[0], n=n_last)
    first = t("{value} (n = {n})", value=shown[0], n=n_first) if n_first != n_last else shown[0]
    values = {"label": label, "first": first, "last": shown[-1], "n": n_last}
    return t("{label}: from {first} to {last} (n = {n})", **values)


def write_percent(scores: Mapping[str, Any], name: str) -> str:
    """Write a rate in percent; where answers are undecided, both ends of what it may be."""
    low = high = float(scores[name])
    if name.endswith("_accuracy"):
        low, high = find_range(scores, name)[:2]
    ends = dict.fromkeys(f"{100 * end:.0f}" for end in (low, high))
    return f"{'–'.join(ends)} %"


# --- Tests --------------------------------------------------------------------------------------


def show_tests(page: Page) -> Response:
    """Show every difference to the first evaluation with its test, as `medkd compare` does it."""
    chosen = find_chosen(page, list_evaluations(page.workspace))
    if len(chosen) < 2:
        return page.render("tests.html", lines=[])
    files = {s.name: resolve_input(s.path, ROWS, made_by="evaluate") for s in chosen}
    stamps = ((name, file.parent, file.stat().st_mtime_ns) for name, file in files.items())
    n, lines = _compare(tuple(stamps))
    return page.render("tests.html", lines=lines, n=n, first=chosen[0].name)


@lru_cache(maxsize=32)
def _compare(stamps: tuple[tuple[str, Path, int], ...]) -> tuple[int, list[dict[str, Any]]]:
    """Hold evaluations against the first one, paired; worked out once for the files as they
    stand."""
    loaded = [read_evaluation(folder, name) for name, folder, _ in stamps]
    found = compare(loaded, [folder for _, folder, _ in stamps])
    return len(found.evaluations[0].rows), found.tests


# --- Answers ------------------------------------------------------------------------------------


def open_answers(step: Step) -> JsonlIndex:
    """Open the answers of an evaluation; raises InputError where there are none."""
    path = step.path / "predictions.jsonl"
    if not path.exists():
        raise InputError("{}: no predictions.jsonl; evaluate again", step.name)
    return open_index(path)


def list_outcomes(step: Step) -> dict[str, str]:
    """Say of each question how its answer came out, in the order of the file; read once."""
    return _list_outcomes(step.path, (step.path / "predictions.jsonl").stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _list_outcomes(folder: Path, changed_at: int) -> dict[str, str]:
    answers = open_index(folder / "predictions.jsonl")
    scored = open_index(folder / ROWS) if (folder / ROWS).exists() else None
    numbers = scored.ids(find_id) if scored else {}
    found: dict[str, str] = {}
    for key, number in answers.ids(find_id).items():
        row = scored.row(numbers[key]) if scored and key in numbers else None
        found[key] = find_outcome(answers.row(number), row)
    return found


def tag_questions(steps: Sequence[Step]) -> dict[str, list[str]]:
    """Say of each question that all have answered how the last answer came out, the tuned model's,
    and whether they differ in being right."""
    outcomes = [list_outcomes(step) for step in steps]
    tags: dict[str, list[str]] = {}
    for key, last in outcomes[-1].items():
        if all(key in other for other in outcomes):
            is_differing = len({one[key] == "right" for one in outcomes}) > 1
            tags[key] = [last, *([DIFFER] if is_differing else [])]
    return tags


def show_answers(page: Page) -> Response:
    """Show the questions that all were asked, filtered, and every model's answer to one of them."""
    chosen = find_chosen(page, list_evaluations(page.workspace))
    if not chosen:
        return page.render("answers.html", names=[])
    indexes = [open_answers(step) for step in chosen]
    tags = tag_questions(chosen)
    wanted = page.query.get("tag", "")
    fitting = [key for key, of_key in tags.items() if not wanted or wanted in of_key]
    shown, at, n_pages = take_page(range(len(fitting)), page.number("page"), PAGE_SIZE)
    keys = [fitting[i] for i in shown]
    key = page.query.get("id", "") if page.query.get("id", "") in tags else (keys or [""])[0]

    def find(index: JsonlIndex, key: str) -> dict[str, Any]:
        return index.row(index.ids(find_id)[key]) if key else {}

    return page.render(
        "answers.html",
        names=[step.name for step in chosen],
        counts=Counter(tag for of_key in tags.values() for tag in of_key),
        tag=wanted,
        at=at,
        n_pages=n_pages,
        n=len(fitting),
        total=len(tags),
        rows=[(key, tags[key][0], find(indexes[0], key)) for key in keys],
        key=key,
        question=find(indexes[0], key),
        answers=[
            (step.name, list_outcomes(step)[key], find(index, key))
            for step, index in zip(chosen, indexes, strict=True)
            if key
        ],
    )


# --- Answers, judged blind ------------------------------------------------------------------------


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
