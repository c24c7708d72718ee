"""The pages of a new project: three beginnings; files brought, looked at, their columns mapped, and
what de-identification makes of them side by side.

In: files of a browser or of the data folders. Out: files under `uploads`, a way to the form that
starts. Not done here: reading (`collect.files`), masking (`deidentify`).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from starlette.datastructures import UploadFile
from starlette.responses import Response

from medkd.collect.columns import FIELDS, Columns
from medkd.collect.files import CASES, CaseFiles
from medkd.collect.sections import SectionNames, load_names
from medkd.core.errors import InputError, MedkdError
from medkd.core.records import RawCase
from medkd.core.task import SHIPPED
from medkd.deidentify.replace import CaseTexts, deidentify_case
from medkd.deidentify.search import find_in_all
from medkd.studio.marks import Piece, cut, mark_masks
from medkd.studio.orders import find_name
from medkd.studio.page import Form, Page
from medkd.studio.workspace import UPLOADS
from medkd.text.tables import read_rows

MAX_BYTES = 200 * 2**20
KINDS = {
    ".json": "text",
    ".jsonl": "text",
    ".csv": "text",
    ".tsv": "text",
    ".html": "text",
    ".htm": "text",
    ".xhtml": "text",
    ".xlsx": "zip",
    ".parquet": "parquet",
}
"""Suffix to the form of a file's content."""
_BEGINNINGS = {"zip": b"PK\x03\x04", "parquet": b"PAR1"}
_HEAD_BYTES = 4096
_UNSAFE = re.compile(r"[^\w.\- ()（）]")
_MAX_NAME = 100
RECIPE = "own-cases.yaml"
N_ROWS, N_CASES, N_EXAMPLES = 100, 3, 3
MAX_TEXT = 4000
DIAGNOSIS = "诊断结果"


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


def show_beginnings(page: Page) -> Response:
    """Offer the three ways to begin."""
    return page.render("new.html", is_first=False)


def show_upload(page: Page) -> Response:
    """Ask for files, or offer those that are there."""
    given = page.workspace.list_given(tuple(KINDS))
    return page.render("bring.html", given=given, suffixes=",".join(KINDS), said="")


def take_files(page: Page, form: Form) -> Response:
    """Keep the files of a form and show them."""
    sent = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
    files = [Upload(file.filename or "", file.size or 0, file.file) for file in sent]
    try:
        path = keep(files, page.workspace.runs)
    except InputError as error:
        given = page.workspace.list_given(tuple(KINDS))
        values = {"given": given, "suffixes": ",".join(KINDS), "said": str(error)}
        return page.render("bring.html", 400, **values)
    return page.redirect("bring/preview", file=str(path))


def show_preview(page: Page) -> Response:
    """Show what a file holds: its columns, the first cases, and these de-identified."""
    path = page.workspace.resolve(str(Path(page.query.get("file", "")).absolute()))
    given = {
        name.removeprefix("c:"): value
        for name, value in page.query.items()
        if name.startswith("c:") and value
    }
    names = load_names()
    words = [f"{heading}={place}" for heading, place in given.items() if place != "-"]
    files = CaseFiles(path, names, Columns(words, names))
    cases, problem = _read_cases(files)
    start = {
        "kind": RECIPE,
        "v:collect:input": str(path),
        "v:collect:columns": "\n".join(words),
        "v:prepare:task": page.query.get("task", ""),
        "run": _name_run(path, page),
    }
    return page.render(
        "preview.html",
        path=path,
        columns=list_columns(files.paths[0], names, given),
        places=[*FIELDS, *names.table],
        n_files=len(files.paths),
        n_read=files.n_read,
        n_cases=len(cases),
        is_cut=files.n_read >= N_ROWS,
        dropped=dict(files.dropped),
        problem=problem,
        masked=[mask(case) for case in cases[:N_CASES]],
        start=start,
        task=page.query.get("task", SHIPPED[0]),
        tasks=SHIPPED,
    )


def _read_cases(files: CaseFiles) -> tuple[list[RawCase], str]:
    """Read the first cases, and say why there are none."""
    cases: list[RawCase] = []
    try:
        for case in files:
            cases.append(case)
            if files.n_read >= N_ROWS:
                break
    except MedkdError as error:
        return cases, str(error)
    return cases, ""


def _name_run(path: Path, page: Page) -> str:
    from_file = path.parent.name if path.name == CASES else path.stem
    name = (
        "".join(c if c.isalnum() or c in "-_" else "-" for c in from_file).strip("-")[:40] or "own"
    )
    return find_name(name, page.workspace.runs)


def list_columns(path: Path, names: SectionNames, given: dict[str, str]) -> list[Column]:
    """List the columns of a table with a few of their values; empty for a file without any."""
    if path.suffix.lower() in (".html", ".htm", ".xhtml"):
        return []
    words = [f"{heading}={place}" for heading, place in given.items() if place != "-"]
    columns = Columns(words, names)
    values: dict[str, list[str]] = {}
    for row in _take_tables(path):
        for heading, cell in row.items():
            listed = values.setdefault(heading, [])
            if len(listed) < N_EXAMPLES and cell not in (None, ""):
                listed.append(str(cell)[:80])
    return [
        Column(heading, _find_place(columns, heading), heading in given, examples)
        for heading, examples in values.items()
        if heading.strip()
    ]


def _find_place(columns: Columns, heading: str) -> str:
    place = columns.place_of(heading)
    return "id" if place == "record_number" else place


def _take_tables(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the first rows that have columns: a record of our own has sections instead."""
    try:
        for row in islice(read_rows(path), N_ROWS):
            content = cast("dict[str, Any]", row.content) if isinstance(row.content, dict) else {}
            if (
                not isinstance(content.get("sections"), dict)
                and "raw_medical_record" not in content
            ):
                yield {str(name): value for name, value in content.items()}
    except MedkdError:  # told with the cases
        return


def mask(case: RawCase) -> Masked:
    """Show a case before and after de-identification."""
    texts = list(CaseTexts.of(case).joined())
    found = find_in_all(texts)
    after = list(deidentify_case(case).case.sections.items())
    sections: list[tuple[str, list[Piece], list[Piece]]] = []
    for number, (name, clean) in enumerate(after):
        text, matches = texts[2 * number + 1][0], found[2 * number + 1]
        before = cut(text[:MAX_TEXT], ((m.start, m.end, "found") for m in matches))
        sections.append((name, before, mark_masks(clean[:MAX_TEXT])))
    n_found = sum(len(matches) for matches in found)
    return Masked(case.id, "；".join(case.diagnosis), sections, n_found)


# --- Keeping files ------------------------------------------------------------------------------


class Upload(NamedTuple):
    """One file of a form."""

    name: str
    """As the browser says it; a file of a folder with its path in it."""
    size: int
    content: IO[bytes]


def keep(files: Sequence[Upload], runs: Path) -> Path:
    """Keep a file, or several in a folder of their own; returns its path.

    Raises InputError for a file that is none of the known kinds, too large, or there already.
    """
    files = [
        file for file in files if file.name and not Path(file.name).name.startswith((".", "~$"))
    ]
    if not files:
        raise InputError("no file was chosen")
    if sum(file.size for file in files) > MAX_BYTES:
        raise InputError("more than {} MB; put the files into a --data folder", MAX_BYTES // 2**20)
    for file in files:
        check_kind(file)
    top = runs / UPLOADS
    first = Path(file_name) if "/" in (file_name := files[0].name) else Path()
    folder = clean_name(first.parts[0]) if first.parts else "cases"
    if len(files) == 1:
        target = top / clean_name(Path(files[0].name).name)
        if target.exists():
            raise InputError(
                "{} is there already; rename the file and choose it again", target.name
            )
        _write(files[0], target)
        return target
    target = top / find_name(folder, top)
    for number, file in enumerate(files):
        path = target / clean_name(Path(file.name).name)
        _write(file, path if not path.exists() else path.with_stem(f"{path.stem}-{number}"))
    return target


def clean_name(name: str) -> str:
    r"""Make a name that is one part of a path and nothing else.

    >>> clean_name("../../etc/passwd"), clean_name("病例 1.csv"), clean_name("a\x00.json")
    ('passwd', '病例 1.csv', 'a_.json')
    """
    plain = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    plain = _UNSAFE.sub("_", plain).strip(" .-")
    stem, dot, suffix = plain.rpartition(".")
    return (
        f"{(stem or 'file')[:_MAX_NAME]}{dot}{suffix[:10]}" if dot else plain[:_MAX_NAME] or "file"
    )


def check_kind(file: Upload) -> None:
    """Raise InputError for a file that is not what its name says."""
    kind = KINDS.get(Path(file.name).suffix.lower())
    shown = clean_name(file.name)
    if kind is None:
        known = ", ".join(sorted({suffix[1:] for suffix in KINDS}))
        raise InputError("{}: no file of cases; known are {}", shown, known)
    head = file.content.read(_HEAD_BYTES)
    file.content.seek(0)
    is_text = b"\0" not in head.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16, which spreadsheets export
        is_text = True
    if not (is_text if kind == "text" else head.startswith(_BEGINNINGS[kind])):
        raise InputError("{}: is not what its name says; export the file again", shown)


def _write(file: Upload, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        while chunk := file.content.read(2**20):
            target.write(chunk)
