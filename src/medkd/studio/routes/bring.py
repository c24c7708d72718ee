"""The pages on which cases are brought: files chosen, looked at, their columns mapped, and
what de-identification makes of them side by side.

In: files of a browser or of the data folders. Out: files under `uploads`, a way to the form that
starts. Not done here: reading (`collect.files`), masking (`deidentify`).
"""

import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from starlette.datastructures import UploadFile
from starlette.responses import Response

from medkd.collect.columns import FIELDS, QUESTION_SECTIONS, Columns, fit_task
from medkd.collect.files import CASES, CaseFiles, FileDrop
from medkd.collect.sections import load_names
from medkd.core.errors import InputError, MedkdError
from medkd.core.records import NAMES_NOT_SOUGHT, RawCase
from medkd.core.task import SHIPPED, Task, load_task
from medkd.deidentify.replace import deidentify_case, list_texts
from medkd.deidentify.search import find_in_all
from medkd.prepare.draft import DropReason, draft_question
from medkd.studio.orders import YAML, find_name, list_tasks
from medkd.studio.page import Form, Page
from medkd.studio.rows import Piece, cut, find_replaced
from medkd.studio.workspace import UPLOADS
from medkd.text.tables import read_rows

MAX_BYTES = 200 * 2**20
HTML = (".html", ".htm", ".xhtml")
BEGINNINGS = {".xlsx": b"PK\x03\x04", ".parquet": b"PAR1"}
"""Suffix to how the content of a file begins that is no text."""
KINDS = (".json", ".jsonl", ".csv", ".tsv", *HTML, *BEGINNINGS)
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_HEAD_BYTES = 4096
_UNSAFE = re.compile(r"[^\w.\- ()（）]")
_MAX_NAME = 100
RECIPE = "own-cases.yaml"
N_ROWS, N_CASES, N_EXAMPLES = 100, 3, 3
N_TRIED = 30
"""Cases of which questions are made to see whether they can be, and the fewest of which some are
there to train on, to validate and to test."""
MAX_TEXT = 4000


class Column(NamedTuple):
    """A column of a table and what it holds."""

    heading: str
    place: str
    """Field or section; empty where nothing is known of it."""
    is_given: bool
    """Whether a person said so."""
    examples: Sequence[str]


class Masked(NamedTuple):
    """A case before and after de-identification: section, text with the finds marked, text with the
    masks marked."""

    id: str
    diagnosis: str
    sections: list[tuple[str, list[Piece], list[Piece]]]
    n_found: int
    is_sought: bool
    """Whether names were looked for everywhere: in English they are not without a tagger."""


def show_upload(page: Page, problem: str = "") -> Response:
    """Ask for files, or offer those that are there."""
    given = page.workspace.list_given(KINDS)
    task = list_tasks(page.workspace).get(page.query.get("task", ""), "")
    values = {"given": given, "suffixes": ",".join((*KINDS, *YAML)), "said": problem, "task": task}
    return page.render("bring.html", 400 if problem else 200, **values)


def take_files(page: Page, form: Form) -> Response:
    """Keep the files of a form and show them; of a task, ask for its cases."""
    there = page.workspace.list_given(YAML)
    try:
        path = keep([f for f in form.getlist("files") if isinstance(f, UploadFile)], page)
        if path.suffix.lower() in YAML:
            try:
                load_task(path)
            except InputError:
                if str(path) not in there:
                    path.unlink()
                raise
            return page.redirect("bring", task=str(path))
    except InputError as error:
        return show_upload(page, page.t.error(error))
    return page.redirect("bring/preview", file=str(path), task=page.query.get("task", ""))


def show_preview(page: Page) -> Response:
    """Show what a file holds: its columns, the first cases, and these de-identified."""
    path = page.workspace.resolve(str(Path(page.query.get("file", "")).absolute()))
    said = {k.removeprefix("c:"): v for k, v in page.query.items() if k.startswith("c:") and v}
    words = [f"{heading}={place}" for heading, place in said.items() if place != "-"]
    tasks = list_tasks(page.workspace)
    task = page.query.get("task", "")
    task = task if task in tasks else SHIPPED[0]  # one of these: a path could be any of the disk
    names, of_task = fit_task("" if task in SHIPPED else task, load_names())
    columns = Columns([*words, *of_task], names)
    files = CaseFiles(path, names, columns)
    cases, problem = _read_cases(files)
    tried, found = cases[:N_TRIED], list_columns(files.paths[0], columns, said)
    return page.render(
        "preview.html",
        path=path,
        columns=found,
        places={
            page.t("Sections of a case"): names.table,
            page.t("A question and its answer"): QUESTION_SECTIONS[:3],
            page.t("About the case"): FIELDS,
        },
        known={*names.table, *QUESTION_SECTIONS, *FIELDS},
        is_unknown=bool(found) and not cases and {*files.dropped} == {FileDrop.WRONG_SCHEMA},
        files=files,
        n_cases=len(cases),
        is_cut=files.n_read >= N_ROWS,
        is_few=len(cases) < N_TRIED and files.n_read < N_ROWS,
        n_tried=len(tried),
        unfit=count_unfit(tried, load_task(task)),
        problem=problem and page.t.error(problem),
        masked=[mask(case) for case in cases[:N_CASES]],
        start={
            "kind": RECIPE,
            "v:collect:input": str(path),
            "v:collect:columns": "\n".join(words),
            "v:prepare:task": task,
            "run": _name_run(path, page),
        },
        task=task,
        tasks=tasks,
    )


def count_unfit(cases: Sequence[RawCase], task: Task) -> Counter[str]:
    """Count the cases of which `prepare` makes no question, by reason."""
    clean = (deidentify_case(case).case for case in cases)
    drafts = (draft_question(case, task) for case in clean)
    return Counter(draft for draft in drafts if isinstance(draft, DropReason))


def _read_cases(files: CaseFiles) -> tuple[list[RawCase], MedkdError | None]:
    """Read the first cases, and say why there are none."""
    cases: list[RawCase] = []
    try:
        for case in files:
            cases.append(case)
            if files.n_read >= N_ROWS:
                break
    except MedkdError as error:
        return cases, error
    return cases, None


def _name_run(path: Path, page: Page) -> str:
    from_file = path.parent.name if path.name == CASES else path.stem
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in from_file).strip("-")[:40]
    return find_name(name or "own", page.workspace.runs)


def list_columns(path: Path, columns: Columns, said: Mapping[str, str]) -> list[Column]:
    """List the columns of a table with a few of their values; empty for a file without any."""
    examples: dict[str, list[str]] = {}
    for row in () if path.suffix.lower() in HTML else _read_tables(path):
        for heading, cell in row.items():
            listed = examples.setdefault(heading, [])
            if len(listed) < N_EXAMPLES and cell not in (None, ""):
                listed.append(str(cell)[:80])
    shown = [heading for heading in examples if heading.strip()]
    places = [columns.place_of(heading).replace("record_number", "id") for heading in shown]
    return [
        Column(heading, place, heading in said, examples[heading])
        for heading, place in zip(shown, places, strict=True)
    ]


def _read_tables(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the first rows that have columns: a record of our own has sections instead."""
    try:
        for row in islice(read_rows(path), N_ROWS):
            content = cast("dict[str, Any]", row.content) if isinstance(row.content, dict) else {}
            is_own = isinstance(content.get("sections"), dict) or "raw_medical_record" in content
            if not is_own:
                yield {str(name): value for name, value in content.items()}
    except MedkdError:  # told with the cases
        return


def mask(case: RawCase) -> Masked:
    """Show a case before and after de-identification."""
    texts = list_texts(case)
    found = find_in_all(texts)
    sections: list[tuple[str, list[Piece], list[Piece]]] = []
    masked = deidentify_case(case).case
    for number, (name, clean) in enumerate(masked.sections.items()):
        text = texts[2 * number + 1][0]
        spans = [(m.start, m.end) for m in found[2 * number + 1] if not m.is_flag]
        before = cut(text[:MAX_TEXT], ((*span, "found") for span in spans))
        after = cut(clean[:MAX_TEXT], find_replaced(text, clean, spans))
        sections.append((name, before, after))
    n_found = sum(not match.is_flag for matches in found for match in matches)
    is_sought = not masked.deidentified_by.endswith(NAMES_NOT_SOUGHT)
    return Masked(case.id, "；".join(case.diagnosis), sections, n_found, is_sought)


# --- Keeping files ------------------------------------------------------------------------------


def keep(sent: Sequence[UploadFile], page: Page) -> Path:
    """Keep a file, or several in a folder of their own; returns its path.

    Raises InputError for a file that is none of the known kinds, or too large. A file that is there
    already is taken; another one of its name is numbered.
    """
    named = {file: Path(file.filename or "") for file in sent}
    files = {f: name for f, name in named.items() if not (name.name or ".").startswith((".", "~$"))}
    if not files:
        raise InputError("no file was chosen")
    if sum(file.size or 0 for file in files) > MAX_BYTES:
        raise InputError("more than {} MB; put the files into a --data folder", MAX_BYTES // 2**20)
    for file, name in files.items():
        check_kind(file, name)
    if len(files) > 1 and any(name.suffix.lower() in YAML for name in files.values()):
        raise InputError("bring the file of a task by itself, then its cases")
    top = page.workspace.runs / UPLOADS
    first = next(iter(files.values()))
    if len(files) == 1:
        file, path = next(iter(files)), top / clean_name(first.name)
        content = file.file.read()
        tries = (path, *(path.with_stem(f"{path.stem}-{n}") for n in range(2, 1000)))
        target = next(
            one
            for one in tries
            if not one.exists() or (one.is_file() and one.read_bytes() == content)
        )
        file.file.seek(0)
        if not target.exists():
            _write(file, target)
        return target
    folder = clean_name(first.parts[0]) if first.parts[1:] else "cases"
    target = top / find_name(folder, top)
    for number, (file, name) in enumerate(files.items()):
        path = target / clean_name(name.name)
        _write(file, path if not path.exists() else path.with_stem(f"{path.stem}-{number}"))
    return target


def clean_name(name: str) -> str:
    r"""Make a name that is one part of a path and nothing else.

    >>> clean_name("../../etc/passwd"), clean_name("病例 1.csv"), clean_name("a\x00.json")
    ('passwd', '病例 1.csv', 'a_.json')
    """
    plain = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    plain = Path(_UNSAFE.sub("_", plain).strip(" .-") or "file")
    return plain.stem[:_MAX_NAME] + plain.suffix[:11]


def check_kind(file: UploadFile, name: Path) -> None:
    """Raise InputError for a file that is not what its name says."""
    suffix, shown = name.suffix.lower(), clean_name(name.name)
    if suffix not in (*KINDS, *YAML):
        known = ", ".join(sorted(kind[1:] for kind in KINDS))
        raise InputError("{}: no file of cases; known are {}", shown, known)
    head = file.file.read(_HEAD_BYTES)
    file.file.seek(0)
    is_text = head.startswith(UTF_16) or b"\0" not in head  # spreadsheets export UTF-16
    if not (head.startswith(BEGINNINGS[suffix]) if suffix in BEGINNINGS else is_text):
        raise InputError("{}: is not what its name says; export the file again", shown)


def _write(file: UploadFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        shutil.copyfileobj(file.file, target)
