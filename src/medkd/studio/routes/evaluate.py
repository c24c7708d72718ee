"""The pages of what came out: several evaluations beside each other, base first, with a headline in
words, the table that matters and every answer; a model's folder with its proof.

In: steps of `evaluate` and `export`. Out: what is on the screen. Not done here: measuring and
proving, the tests (`evaluate.compare`).
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from starlette.responses import Response

from medkd.core.errors import InputError
from medkd.core.i18n import Texts
from medkd.core.jsonl import resolve_input
from medkd.evaluate import compare
from medkd.evaluate.report import DESCRIPTIONS, MORE
from medkd.evaluate.scoring import FILE_NAME, find_range
from medkd.studio.charts import interval_bar
from medkd.studio.jsonl_index import JsonlIndex, open_index, take_page
from medkd.studio.page import Page
from medkd.studio.rows import find_id, find_outcome
from medkd.studio.workspace import Step, Workspace

MEASURES = {**DESCRIPTIONS, **MORE}
HEADLINES = (
    "judged_accuracy",
    "diagnosis_accuracy",
    "exam_accuracy",
    "text_accuracy",
    "number_accuracy",
    "rubric_score",
    "judge_score",
)
"""What the headline tells, the first that all evaluations have."""
MAIN = (*HEADLINES, "general_accuracy", "think_format_rate", "think_unprompted_rate",
        "stop_rate", "loop_rate", "truncated_rate")  # fmt: skip
SEED = 0
"""The same as `medkd compare` has by itself."""
PAGE_SIZE, MAX_COMPARED = 15, 6
DIFFER = "differ"


class Evaluated(NamedTuple):
    """One evaluation with its numbers."""

    step: Step
    scores: Mapping[str, Any]

    @property
    def label(self) -> str:
        return self.step.name


def show_evaluations(page: Page) -> Response:
    """Show the numbers of the evaluations that the address names; else those of the newest run."""
    steps = list_evaluations(page.workspace)
    if not steps:
        return page.render("nothing.html")
    chosen = find_chosen(page, steps)
    found = [Evaluated(step, read_scores(step)) for step in chosen]
    names = [name for name in MEASURES if any(name in one.scores for one in found)]
    names += [n for n in _list_numbers(found) if n not in names and n != "n"]
    return page.render(
        "evaluate.html",
        offered=[step.name for step in reversed(steps)],
        found=found,
        headline=write_headline(found, page.t),
        main=_make_table([n for n in names if n in MAIN], found, page.t),
        rest=_make_table([n for n in names if n not in MAIN], found, page.t),
        names=[one.label for one in found],
    )


def list_evaluations(workspace: Workspace) -> list[Step]:
    """List the evaluations that have scores, the oldest first."""
    steps = workspace.list_steps(stage="evaluate")
    return [step for step in steps if (step.path / "scores.json").exists()]


def find_chosen(page: Page, steps: Sequence[Step]) -> list[Step]:
    """Return the evaluations that the address names, the base first."""
    wanted = [name for text in page.query.getlist("steps") for name in text.split(",")]
    by_name = {step.name: step for step in steps}
    chosen = [by_name[name] for name in dict.fromkeys(wanted) if name in by_name]
    chosen = chosen or [step for step in steps if step.run == steps[-1].run]
    return sorted(chosen, key=is_tuned)[:MAX_COMPARED]


def is_tuned(step: Step) -> bool:
    """Tell whether a step evaluated something that was trained here, not its base."""
    config = step.manifest.config
    return bool(config.get("adapter")) or Path(str(config.get("model") or "")).is_dir()


def read_scores(step: Step) -> dict[str, Any]:
    """Read the numbers of an evaluation; raises InputError where they are none."""
    try:
        content = json.loads((step.path / "scores.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("{}: scores.json cannot be read; evaluate again", step.name) from error
    if not isinstance(content, dict):
        raise InputError("{}: scores.json holds no numbers; evaluate again", step.name)
    return cast(dict[str, Any], content)


def write_headline(found: Sequence[Evaluated], t: Texts) -> str:
    """Say in one sentence what came out."""
    name = next((n for n in HEADLINES if all(n in one.scores for one in found)), "")
    if not name:
        return ""
    label = t.field("measures", name, "")[0]
    shown = [write_percent(one.scores, name) for one in found]
    n = min(int(one.scores.get("n", 0)) for one in found)
    if len(found) == 1:
        return t("{label}: {value} (n = {n})", label=label, value=shown[0], n=f"{n:,}")
    values = {"first": shown[0], "last": shown[-1], "n": f"{n:,}"}
    return t("{label}: from {first} to {last} (n = {n})", label=label, **values)


def write_percent(scores: Mapping[str, Any], name: str) -> str:
    """Write a rate in percent; where answers are undecided, both ends of what it may be."""
    low = high = float(scores[name])
    if name.endswith("_accuracy") and "intervals" in scores:
        low, high = find_range(scores, name)[:2]
    ends = dict.fromkeys(f"{100 * end:.0f}" for end in (low, high))
    return f"{'–'.join(ends)} %"


def _list_numbers(found: Sequence[Evaluated]) -> list[str]:
    every = (name for one in found for name, value in one.scores.items() if _is_number(value))
    return list(dict.fromkeys(every))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _make_table(names: Sequence[str], found: Sequence[Evaluated], t: Texts) -> list[dict[str, Any]]:
    return [
        {
            "label": (text := t.field("measures", name, MEASURES.get(name, "")))[0],
            "meaning": text[1],
            "name": name,
            "cells": [_make_cell(one, name, at) for at, one in enumerate(found)],
        }
        for name in names
    ]


def _make_cell(one: Evaluated, name: str, at: int) -> dict[str, Any]:
    value = one.scores.get(name)
    if not _is_number(value):
        return {"value": "–", "interval": "", "bar": ""}
    number = float(cast(float, value))
    ends = cast(dict[str, Any], one.scores.get("intervals") or {}).get(name)
    interval = f"{ends[0]:.3g} – {ends[1]:.3g}" if ends else ""
    low, high = ends or (number, number)
    is_rate = name in MAIN and 0 <= number <= 1
    bar = interval_bar(number, low, high, at, f"{number:.3f}") if is_rate else ""
    return {"value": f"{number:.4g}", "interval": interval, "bar": bar}


# --- Tests --------------------------------------------------------------------------------------


def hold_against_base(steps: Sequence[Step]) -> tuple[int, list[dict[str, Any]]]:
    """Hold evaluations against the first one, paired, as `medkd compare` does it; worked out once
    for the files as they stand. Raises InputError for evaluations that cannot be compared."""
    files = [resolve_input(step.path, FILE_NAME, made_by="evaluate") for step in steps]
    stamps = tuple(
        (step.name, file.parent, file.stat().st_mtime_ns)
        for step, file in zip(steps, files, strict=True)
    )
    return _compare(stamps)


@lru_cache(maxsize=32)
def _compare(stamps: tuple[tuple[str, Path, int], ...]) -> tuple[int, list[dict[str, Any]]]:
    loaded = [compare.load(folder, name) for name, folder, _ in stamps]
    shared = compare.find_shared(loaded, [folder for _, folder, _ in stamps])
    kept = [compare.keep_shared(one, shared, SEED) for one in loaded]
    differences = compare.hold_against_first(kept, SEED)
    return len(shared), [dict(line) for line in compare.show_tests(differences)]


def show_tests(page: Page) -> Response:
    """Show every difference to the first evaluation with its test."""
    chosen = find_chosen(page, list_evaluations(page.workspace))
    if len(chosen) < 2:
        return page.render("tests.html", lines=[], n=0, first="")
    n, lines = hold_against_base(chosen)
    return page.render("tests.html", lines=lines, n=n, first=chosen[0].name)


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
    scored_path = folder / FILE_NAME
    scored = open_index(scored_path) if scored_path.exists() else None
    ids = scored.ids(find_id) if scored else {}
    found: dict[str, str] = {}
    for key, number in answers.ids(find_id).items():
        row = scored.row(ids[key]) if scored and key in ids else None
        found[key] = find_outcome(answers.row(number), row)
    return found


def tag_questions(steps: Sequence[Step]) -> dict[str, list[str]]:
    """Say of each question that all have answered how the first answer came out, and whether they
    differ in being right."""
    outcomes = [list_outcomes(step) for step in steps]
    tags: dict[str, list[str]] = {}
    for key, first in outcomes[0].items():
        if all(key in other for other in outcomes[1:]):
            is_differing = len({one[key] == "right" for one in outcomes}) > 1
            tags[key] = [first, *([DIFFER] if is_differing else [])]
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
    counts: dict[str, int] = {}
    for tag in (tag for of_key in tags.values() for tag in of_key):
        counts[tag] = counts.get(tag, 0) + 1
    key = page.query.get("id", "") if page.query.get("id", "") in tags else (keys or [""])[0]
    first = indexes[0]
    return page.render(
        "answers.html",
        names=[step.name for step in chosen],
        counts=counts,
        tag=wanted,
        at=at,
        n_pages=n_pages,
        n=len(fitting),
        total=len(tags),
        rows=[(k, tags[k][0], first.row(first.ids(find_id)[k])) for k in keys],
        key=key,
        question=first.row(first.ids(find_id)[key]) if key else {},
        answers=[
            (step.name, list_outcomes(step)[key], index.row(index.ids(find_id)[key]))
            for step, index in zip(chosen, indexes, strict=True)
            if key
        ],
    )


# --- Exports ------------------------------------------------------------------------------------


def show_exports(page: Page) -> Response:
    """Show an export, the newest where the address names none."""
    steps = page.workspace.list_steps(stage="export")
    if not steps:
        return page.render("nothing.html")
    names = [step.name for step in reversed(steps)]
    step = page.workspace.find_step(page.query.get("step") or names[0])
    facts = {
        name: value
        for name, value in step.manifest.facts.items()
        if isinstance(value, str | int | float | bool)
    }
    return page.render(
        "export.html",
        names=names,
        step=step,
        facts=facts,
        is_unproven=(step.path / "UNPROVEN").exists(),
        commands=write_commands(step) if (step.path / "Modelfile").exists() else {},
        answers=read_proof(step),
    )


def read_proof(step: Step) -> list[dict[str, Any]]:
    """Read the answers of the proof; empty where there is none."""
    try:
        content = json.loads((step.path / "proof.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    answers = content.get("answers", []) if isinstance(content, dict) else []
    return [answer for answer in answers if isinstance(answer, dict)]


def write_commands(step: Step) -> dict[str, str]:
    """Write the commands that serve the folder, by the tool."""
    folder, name = shlex.quote(str(step.path.resolve())), step.name.replace("/", "-").lower()
    name = shlex.quote(name)
    return {
        "Ollama": f"cd {folder}\nollama create {name} -f Modelfile\nollama run {name}",
        "vLLM": f"vllm serve {folder} --served-model-name {name} --reasoning-parser deepseek_r1",
    }
