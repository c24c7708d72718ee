"""What a person corrects in a case by hand: masks of `deidentify` added or undone, words that tell
the answer taken out by `prepare`.

In: a case, words, what they are. Out: lines of `known.txt` in the run, which `--known` takes, or of
`reviews.jsonl` beside the questions; a stage run once more.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from medkd import background_jobs
from medkd.core.errors import InputError, MedkdError
from medkd.core.jsonl import write_text
from medkd.core.records import RawCase, name_removal
from medkd.core.reviews import Decision, Review, add_review
from medkd.deidentify.recognizers import KEEP, Known, read_known
from medkd.deidentify.replace import list_texts
from medkd.deidentify.rules import Category
from medkd.deidentify.search import Help, find_in_all
from medkd.studio import jobs
from medkd.studio.forms import read_fields, to_text, write_words
from medkd.studio.jsonl_index import Row, open_index
from medkd.studio.orders import KNOWN
from medkd.studio.page import Form, Page, read_text
from medkd.studio.rows import find_id
from medkd.studio.workspace import Step

MAX_WORDS = 100
CASES = "cases.jsonl"


def describe(page: Page, step: Step, row: Row) -> dict[str, Any] | None:
    """Gather what a person can correct in a row of `deidentify`: what is masked in its raw case,
    what was decided so far; None for another row."""
    if step.manifest.stage != "deidentify" or not isinstance(row.get("sections"), dict):
        return None
    known = _find_known(step)
    raw = _find_raw(page, step, find_id(row))
    prepared = _find_prepare(page, step)
    return {
        "finds": _list_finds(raw, read_known(known) if known.exists() else Known()) if raw else {},
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


def _list_finds(raw: RawCase, known: Known) -> dict[str, Category]:
    """List what is masked in a case, as it stands there."""
    texts = list_texts(raw)
    return {
        text[match.start : match.end]: match.category
        for (text, _), matches in zip(texts, find_in_all(texts, Help(known)), strict=True)
        for match in matches
        if not match.is_flag
    }


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
