"""The pages of records: those of any step, list and case side by side, searched and filtered;
corrected by hand (masks of `deidentify`, words that `prepare` takes out); judged by keyboard
(rationales, removals, rubrics).

In: a run, one of its files, what a person says. Out: what is on the screen; lines of `known.txt` in
the run, which `--known` takes, or of `reviews.jsonl` beside the records. Not done here: which
judgement counts (`core.reviews`).
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from medkd import background_jobs
from medkd.core.errors import InputError, MedkdError
from medkd.core.jsonl import write_text
from medkd.core.records import RawCase, name_removal
from medkd.core.reviews import Decision, Review, add_review, measure_agreement, read_reviews
from medkd.deidentify.recognizers import KEEP, Known, read_known
from medkd.deidentify.replace import list_texts
from medkd.deidentify.rules import Category, Match
from medkd.deidentify.search import Help, find_in_all
from medkd.studio import jobs
from medkd.studio.forms import read_fields, to_text, write_words
from medkd.studio.jsonl_index import JsonlIndex, Row, open_index, take_page
from medkd.studio.orders import KNOWN
from medkd.studio.page import MAX_NAME, MAX_SHOWN, Form, Page, read_number, read_text
from medkd.studio.rows import (
    Piece,
    Shown,
    cut,
    find_facets,
    find_id,
    find_replaced,
    mark_masks,
    mark_reasoning,
    mark_record,
    show_row,
)
from medkd.studio.workspace import Step, Workspace

PAGE_SIZE = 25
MAIN = (
    *("verified.jsonl", "train.jsonl", "rationales.jsonl"),
    *("questions.jsonl", "cases.jsonl", "raw_cases.jsonl"),
)
"""Files that steps are for."""
REJECTED = "rejected.jsonl"
"""The file in which a step keeps what it dropped, where it keeps it."""
FACETS = ("reason", "finish_reason", "split", "style", "source", "department", "task", "language")
MAX_VALUES = 12
"""Values of a facet that are listed."""
MAX_WORDS = 100
CASES = "cases.jsonl"
REMOVALS, RUBRICS = "removals.jsonl", "rubrics.jsonl"
QUEUES = ("verified.jsonl", "undecided.jsonl", "rejected.jsonl", "rationales.jsonl")
JUDGED = ("verify", "distill", "prepare", "rubric")
"""Stages whose files are judged."""
MAX_REASON, MAX_TEXT = 500, 100_000


def show_records(page: Page) -> Response:
    """Show a page of the rows that were found, and one of them whole."""
    runs = page.workspace.list_runs()
    if not runs:
        return page.render("nothing.html")
    file = page.query.get("file", "")
    run = page.query.get("run") or (str(Path(file).parent.parent) if file else runs[0])
    files = page.workspace.list_files(run)
    file = file or choose_file(files, page.query.get("step", ""))
    values: dict[str, Any] = {"runs": runs, "run": run, "files": files, "file": file}
    return page.render("data.html", **values, **(_describe(page, file) if file else {}))


def choose_file(files: Sequence[str], step: str) -> str:
    """Choose the file of a step, or of a whole run, that a person most likely looks for."""
    own = [file for file in reversed(files) if file.startswith(f"{step}/" if step else "")]
    named = (file for name in MAIN for file in own if Path(file).name == name)
    return next(named, own[-1] if own else "")


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
        "facets": count_facets(index, page.query.get("q", ""), chosen),
        "is_read": index.is_read,
        "case": describe_case(show_row(index.row(row))) if row >= 0 else None,
        "previous": shown[place - 1] if place > 0 else None,
        "following": shown[place + 1] if 0 <= place < len(shown) - 1 else None,
        "correction": describe_correction(page, step, index.row(row)) if row >= 0 else None,
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


def count_facets(
    index: JsonlIndex, text: str, chosen: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    """Count what each facet would leave of the rows that hold a text and carry what is chosen of
    the others, the commonest value first, as far as the file has been read for it."""
    values = index.values(find_facets)
    counts: dict[str, dict[str, int]] = {}
    fitting = set(find_rows(index, text, chosen)) if text or chosen else None
    for name in FACETS:
        of_name, mine, found = values.get(name, {}), chosen.get(name, ""), fitting
        if mine:
            others = {facet: value for facet, value in chosen.items() if facet != name}
            found = set(find_rows(index, text, others)) if text or others else None
        ranked = sorted(
            (-len(numbers if found is None else found.intersection(numbers)), value)
            for value, numbers in of_name.items()
        )
        if len(of_name) > 1 or mine in of_name:
            counts[name] = {
                value: -n
                for at, (n, value) in enumerate(ranked)
                if value == mine or (n and at < MAX_VALUES)
            }
    return counts


def describe_case(shown: Shown) -> dict[str, Any]:
    """Gather what a case shows: the record with what is cited or masked marked, the reasoning with
    what is not founded."""
    question, reasoning = shown.question[:MAX_SHOWN], shown.reasoning[:MAX_SHOWN]
    if question and reasoning:
        record, thought = mark_record(question, reasoning), mark_reasoning(reasoning, question)
    else:
        record, thought = mark_masks(question), [Piece(reasoning)]
    return {"shown": shown, "record": record, "reasoning": thought}


# --- Corrected by hand ----------------------------------------------------------------------------


def describe_correction(page: Page, step: Step, row: Row) -> dict[str, Any] | None:
    """Gather what a person can correct in a row of `deidentify`: what is masked in its raw case,
    what was decided so far; None for another row."""
    if step.manifest.stage != "deidentify" or not isinstance(row.get("sections"), dict):
        return None
    known = _find_known(step)
    raw = _find_raw(page, step, find_id(row))
    prepared = _find_prepare(page, step)
    finds = _find_all(raw, read_known(known) if known.exists() else Known()) if raw else []
    return {
        "record": _mark_hidden(finds[: 2 * len(raw.sections)], row) if raw else [],
        "finds": {text[m.start : m.end]: m.category for text, found in finds for m in found},
        "decided": _read_lines(known),
        "kinds": {kind.name.lower(): _name_kind(kind, page) for kind in Category},
        "keep": KEEP,
        "prepared": prepared.name if prepared else "",
    }


def _name_kind(kind: Category, page: Page) -> str:
    return kind.value if page.t.language == "zh" else kind.name.lower().replace("_", " ")


def _find_known(step: Step) -> Path:
    return step.path.parent / KNOWN


def _read_lines(path: Path) -> dict[str, str]:
    """Read what was decided: words to their kind."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    pairs = (line.partition("\t") for line in text.splitlines() if line.strip())
    return {words: kind for words, _, kind in pairs}


def _find_raw(page: Page, step: Step, key: str) -> RawCase | None:
    """Find the raw case of a case in what the step has read."""
    for name in step.manifest.roles.get("input", ()):
        try:
            index = open_index(page.workspace.resolve(Path(name).absolute()))
            found = (index.row(number) for number in index.find(key))
            return next(RawCase.model_validate(row) for row in found if find_id(row) == key)
        except (MedkdError, OSError, ValidationError, StopIteration):
            continue
    return None


def _find_all(raw: RawCase, known: Known) -> list[tuple[str, list[Match]]]:
    """List the texts of a case as they came, each with what is masked in it."""
    texts = list_texts(raw)
    found = find_in_all(texts, Help(known))
    return [
        (text, [match for match in matches if not match.is_flag])
        for (text, _), matches in zip(texts, found, strict=True)
    ]


def _mark_hidden(finds: Sequence[tuple[str, list[Match]]], row: Row) -> list[Piece]:
    """Mark in a case what stands where something identified, moved dates too; empty where it cannot
    be told, since the words of this house have changed meanwhile."""
    before, spans = "", list[tuple[int, int]]()
    for (text, matches), seam in zip(finds, cycle("：\n")):
        spans += [(len(before) + match.start, len(before) + match.end) for match in matches]
        before += text + seam
    after = show_row(row).question
    replaced = zip(spans, find_replaced(before[:-1], after, spans), strict=False)
    hidden = [new for old, new in replaced if after[new[0] : new[1]] != before[slice(*old)]]
    return cut(after[:MAX_SHOWN], hidden) if hidden else []


def _find_prepare(page: Page, step: Step) -> Step | None:
    """Find the step that has made questions of a step's cases."""
    inputs = {step.path.resolve(), (step.path / CASES).resolve()}
    for other in page.workspace.list_steps(step.run, stage="prepare"):
        if inputs & {Path(name).resolve() for name in other.manifest.roles.get("input", ())}:
            return other
    return None


def correct(page: Page, form: Form) -> Response:
    """Write down what a person says of words in a case, or take it back."""
    file, words = read_text(form, "file"), " ".join(read_text(form, "words", MAX_WORDS).split())
    step = page.workspace.find_step(str(Path(file).parent))
    kind = read_text(form, "kind")
    if len(words) < 2:
        raise InputError(page.t("First mark two characters or more."))
    if kind == "removal":
        _take_out(page, step, file, words)
    elif kind not in ("", KEEP, *(one.name.lower() for one in Category)):
        raise InputError("{}: no kind of identifier; choose another", kind[:40])
    else:
        lines = _read_lines(_find_known(step))
        lines.pop(words, "")
        lines |= {words: kind} if kind else {}
        text = "".join(f"{key}\t{value}\n" for key, value in lines.items())
        write_text(_find_known(step), text, private=True)
    return page.redirect("data", file=file, row=page.query.get("row", ""))


def _take_out(page: Page, step: Step, file: str, words: str) -> None:
    """Have `prepare` leave words out wherever a case holds them."""
    prepared = _find_prepare(page, step)
    row = open_index(page.workspace.resolve(file)).row(page.number("row", 0))
    places = [
        (str(name), str(text), at)
        for name, text in dict(row.get("sections") or {}).items()
        for at in range(len(str(text)))
        if str(text).startswith(words, at)
    ]
    if prepared is None or not places:
        raise InputError(page.t("These words stand in no section of this case."))
    for name, text, at in places:
        key = name_removal(find_id(row), name, text, at, at + len(words))
        made = Review(id=key, reviewer="studio", decision=Decision.ACCEPT, reason="by hand")
        add_review(prepared.path, made)


def run_again(page: Page, form: Form) -> Response:
    """Run a step once more with the same config and what people have decided since."""
    step = page.workspace.find_step(read_text(form, "step"))
    stage = step.manifest.stage
    if stage not in ("deidentify", "prepare"):
        raise InputError("{}: only deidentify and prepare are run again from here", step.name)
    if jobs.is_alive(page.workspace, step.run):
        raise InputError(page.t("This run is under way; wait for it, or stop it first."))
    values = {name: to_text(value) for name, value in step.manifest.config.items()}
    if stage == "deidentify" and _find_known(step).exists():
        values["known"] = str(_find_known(step))
    fields = [field for field in read_fields(stage) if field.name in values]
    words = [stage, *write_words(fields, values, {}), f"--out={step.path}", "--overwrite"]
    background_jobs.start(words)
    page.workspace.forget()
    return page.redirect("run", name=step.run)


# --- Judged by keyboard ---------------------------------------------------------------------------


def list_queues(workspace: Workspace) -> list[str]:
    """Name the files that hold rationales, those of the newest step first."""
    return [
        f"{step.name}/{name}"
        for step in reversed(workspace.list_steps())
        if step.manifest.stage in JUDGED
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
