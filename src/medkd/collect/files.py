"""Cases from files: a file or a folder in, `RawCase` records out, with a reason for every row and
page left out.

Read: JSON, JSON Lines, CSV, Excel, saved HTML pages. Not done here: what a row says (`rows`,
`tables`), what a page says (`saved`), repairs of the text (`prepare`).
"""

import json
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from medkd.collect.encodings import decode, read_bytes
from medkd.collect.rows import read_row
from medkd.collect.saved import read_saved_page
from medkd.collect.sections import SectionNames, load_names
from medkd.collect.tables import Columns, read_csv, read_excel
from medkd.core.errors import InputError
from medkd.core.jsonl import first_problem
from medkd.core.records import RawCase

EXPECTED = "title, department, url, id, raw_medical_record"
CASES = "raw_cases.jsonl"
PAGES = {".html", ".htm", ".xhtml"}
WORKBOOKS = {".xlsx", ".xlsm"}
TABLES = {".csv", ".tsv"}
TEXTS = {".json", ".jsonl", ".ndjson"}
KNOWN = "JSON, JSON Lines, CSV, Excel (.xlsx) and saved HTML pages"


class FileDrop(StrEnum):
    """Why a row or page gives no record."""

    BROKEN_LINE = "broken_line"
    """No JSON."""
    WRONG_SCHEMA = "wrong_schema"
    """A row of another shape."""
    UNREADABLE = "unreadable"
    """A page in which no layout finds a case."""
    UNREADABLE_FILE = "unreadable_file"
    """A file of a folder that cannot be read at all."""
    EMPTY = "empty"
    """A case without any text."""
    DUPLICATE_ID = "duplicate_id"
    """An id that came before; the first one is kept."""


class CaseFiles:
    """The cases of a file, or of all files in a folder; iterating gives records and leaves behind
    what was dropped and why.

    Raises InputError where the path is missing, or nothing under it holds a case.
    """

    def __init__(
        self, path: Path, names: SectionNames | None = None, columns: Columns | None = None
    ) -> None:
        self.names = names or load_names()
        self.columns = columns or Columns((), self.names)
        self.paths = _list_files(path)
        self.is_folder = path.is_dir() and self.paths != [path / CASES]
        self.path = path
        self.n_read = 0
        self.dropped: Counter[str] = Counter()
        self.problems: list[str] = []
        """One line for each row, page or file that cannot be read: its place and what is wrong."""

    def __iter__(self) -> Iterator[RawCase]:
        seen: set[str] = set()
        for path in self.paths:
            try:
                for case in self._read(path):
                    if case.id in seen:
                        self.dropped[FileDrop.DUPLICATE_ID] += 1
                        continue
                    seen.add(case.id)
                    yield case
            except InputError as error:
                if not self.is_folder:
                    raise
                self.n_read += 1
                self._drop(FileDrop.UNREADABLE_FILE, str(error).removesuffix("; check --input"))
        if not seen:
            raise InputError(
                f"{self.problems[0] if self.problems else f'{self.path}: holds no case'}; check --input"
            )
        if left_out := sorted(self.columns.left_out):
            headings = ", ".join(heading[:30] for heading in left_out[:12])
            self.problems.append(
                f"columns {headings}: nobody said what they hold (--columns COLUMN=NAME)"
            )

    def _read(self, path: Path) -> Iterator[RawCase]:
        kind = path.suffix.lower()
        if kind in PAGES:
            yield from self._read_page(path)
            return
        if kind in WORKBOOKS:
            rows: Iterator[tuple[str, Any]] = read_excel(path)
        else:
            text = _read_text(path)
            rows = read_csv(text, path) if kind in TABLES else self._rows(text, path)
        for place, row in rows:
            self.n_read += 1
            case = self._read_row(place, row)
            if case is not None:
                yield case

    def _read_page(self, path: Path) -> Iterator[RawCase]:
        self.n_read += 1
        case = read_saved_page(path, read_bytes(path), self.names)
        if case is None:
            self._drop(FileDrop.UNREADABLE, f"{path.name}: no layout finds a case in this page")
        else:
            yield case

    def _rows(self, text: str, path: Path) -> Iterator[tuple[str, Any]]:
        """Give each row with its place; a row that is no JSON comes as the error."""
        if text.lstrip().startswith("["):
            for number, row in enumerate(cast("list[Any]", _parse_whole(text, path)), start=1):
                yield f"{path.name}, item {number}", row
            return
        lines = [
            (number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()
        ]
        if _is_one_object(text, lines):
            yield f"{path.name}, item 1", json.loads(text)
            return
        for number, line in lines:
            try:
                yield f"{path.name}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"{path.name}:{number}", error

    def _read_row(self, place: str, row: Any) -> RawCase | None:
        if isinstance(row, Exception):
            return self._drop(FileDrop.BROKEN_LINE, f"{place}: broken JSON ({row})")
        if not isinstance(row, dict):
            return self._drop(
                FileDrop.WRONG_SCHEMA,
                f"{place}: found a {type(row).__name__}, expected an object with {EXPECTED}",
            )
        fields = cast("dict[str, Any]", row)
        try:
            case = read_row(fields, self.names, self.columns)
        except ValidationError as error:
            return self._drop(FileDrop.WRONG_SCHEMA, f"{place}: {first_problem(error)}")
        if case is None:
            found = ", ".join(map(str, fields)) or "nothing"
            return self._drop(
                FileDrop.WRONG_SCHEMA,
                f"{place}: found the fields {found[:200]}; expected {EXPECTED}, a RawCase, or sections",
            )
        if not case.sections:
            self.dropped[FileDrop.EMPTY] += 1
            return None
        return case

    def _drop(self, reason: FileDrop, problem: str) -> None:
        self.dropped[reason] += 1
        self.problems.append(" ".join(problem.split()))


def read_cases(path: Path) -> list[RawCase]:
    """Read all cases of a file or folder at once."""
    return list(CaseFiles(path))


def _list_files(path: Path) -> list[Path]:
    """List the files to read: the file itself, a stage's records, or all of a known kind in a
    folder."""
    if not path.exists():
        raise InputError(f"{path}: no such file; check --input")
    if not path.is_dir():
        return [path]
    if (path / CASES).is_file():
        return [path / CASES]
    kinds = PAGES | WORKBOOKS | TABLES | TEXTS
    found = [
        p
        for p in path.rglob("*")
        if p.suffix.lower() in kinds and p.is_file() and not p.name.startswith((".", "~$"))
    ]
    if not found:
        raise InputError(
            f"{path}: no such file of cases in this folder; read are {KNOWN}; check --input"
        )
    return sorted(found, key=lambda p: (len(p.parts), str(p.parent), len(p.name), p.name))


def _parse_whole(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        message = f"{path}:{error.lineno}: broken JSON ({error.msg}, column {error.colno}); mend it or save it as JSON Lines"
        raise InputError(message) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: JSON that cannot be read ({error}); save it as JSON Lines"
        ) from error


def _is_one_object(text: str, lines: list[tuple[int, str]]) -> bool:
    """Tell a single pretty-printed object from JSON Lines."""
    if not lines or lines[0][1].strip() != "{":
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _read_text(path: Path) -> str:
    content = read_bytes(path)
    if content.startswith((b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")):
        raise InputError(
            f"{path}: a packed archive; unpack it and give the folder, or name an Excel workbook .xlsx"
        )
    text = decode(content, path)
    if path.suffix.lower() not in TABLES and text.lstrip()[:1] not in {"[", "{"}:
        start = text.lstrip()[:20].split("\n")[0]
        raise InputError(
            f"{path}: no JSON (it begins with {start!r}); expected a JSON array or JSON Lines with {EXPECTED}; other kinds go by their "
            f"suffix: {KNOWN}"
        )
    return text
