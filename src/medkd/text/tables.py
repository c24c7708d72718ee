"""The one reader of files from outside: JSON, JSON Lines, CSV, Excel and Parquet in, rows out.

In: a path. Out: `RawRow`s one by one, each with its place; a broken one says what is wrong with it.
A file that cannot be read raises InputError with one line. Not done here: what a row means
(`collect`, `merge`, `evaluate`), encodings (`text.encodings`).
"""

import csv
import json
import math
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import orjson

from medkd.core.errors import InputError
from medkd.text.encodings import Encoding, find_encoding, open_regular

MAX_ROW_BYTES = 2**26
"""Length up to which one line, element or cell is read."""
MAX_DEPTH = 64
"""Brackets within brackets up to which a JSON value is read."""
MAX_COLUMNS = 2000
MAX_UNPACKED_BYTES = 2**28
"""Size up to which the parts of an Excel workbook are unpacked."""
TABLE_SUFFIXES = {".csv", ".tsv", ".tab"}
EXCEL_SUFFIXES = {".xlsx", ".xlsm"}
JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
_CHUNK_CHARACTERS = 2**20
_MAX_TITLE_ROWS = 20
"""Rows above the headings of a table that may hold a title in one cell."""


class RawRow(NamedTuple):
    """One row of a file: `content` is a JSON value or the cells of a table by heading."""

    place: str
    """Where it stands: `a.jsonl:7`, `a.json, item 7`, `a.csv, row 7`, `a.xlsx, Sheet1, row 7`."""
    content: Any
    problem: str = ""
    """What is wrong with a row that cannot be read; `content` is then None."""


def read_rows(path: Path) -> Iterator[RawRow]:
    """Read the rows of a file, by its content first and its suffix second, without holding it
    whole.

    A JSON array gives its elements, JSON Lines (also under `.json`) its lines, a table its rows as
    dicts of texts by heading, pandas' JSON by columns, index or split its rows. Empty cells are "".
    Raises InputError for what is no such file: old Excel, packed, PDF, a folder, a pipe, no known
    encoding, an array that breaks off (named with its last element).
    """
    with open_regular(path) as file:
        head = file.read(4096)
        is_whole = len(head) < 4096
    if not head.strip(b"\0\t\n\r \xef\xbb\xbf") and is_whole:
        raise InputError(f"{path}: the file is empty; check --input")
    if head.startswith(b"PAR1"):
        return _read_parquet(path)
    if head.startswith(b"PK\x03\x04"):
        return _read_excel(path)
    _refuse_by_signature(head, path)
    encoding = find_encoding(path)
    start = _read_start(path, encoding)
    suffix = path.suffix.lower()
    if start.startswith("["):
        return _read_arrays(path, encoding)
    if start.startswith("{"):
        return _read_json_lines(path, encoding)
    if start.startswith("<"):
        raise InputError(f"{path}: HTML or XML; export the table as .xlsx, CSV or JSON Lines")
    if suffix in TABLE_SUFFIXES or (suffix == ".xls" and "\t" in start):
        return _read_csv(path, encoding)
    if suffix in EXCEL_SUFFIXES:
        raise InputError(f"{path}: no Excel workbook; save it again as .xlsx, or as CSV")
    raise InputError(
        f"{path}: no JSON (it begins with {start[:20].splitlines()[0]!r}); expected a JSON array "
        "or JSON "
        "Lines; a table goes by its suffix: .csv, .tsv or .xlsx"
    )


_SIGNATURES = (
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook or other Office file; save it as .xlsx or CSV"),
    (b"%PDF", "a PDF; copy its text into a table or JSON Lines first"),
    (b"SQLite format 3", "a database; export its table as CSV or JSON Lines"),
    (b"ARROW1", "an Arrow file; save it as Parquet or JSON Lines"),
    (b"\x89PNG", "a picture; text is read only"),
    (b"\xff\xd8\xff", "a picture; text is read only"),
    (b"{\\rtf", "a text of a word processor; save its table as CSV or .xlsx"),
    (b"\x80\x04\x95", "a pickle, which is never loaded; save it as Parquet or JSON Lines"),
    (b"\x80\x05\x95", "a pickle, which is never loaded; save it as Parquet or JSON Lines"),
    (b"\x93NUMPY", "a NumPy array; save it as JSON Lines"),
    *(
        (magic, "a packed file; unpack it first")
        for magic in (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")
    ),
)
"""First bytes of what is no text, and the next step."""


def _refuse_by_signature(head: bytes, path: Path) -> None:
    for signature, words in _SIGNATURES:
        if head.startswith(signature):
            raise InputError(f"{path}: {words}")


def _open_text(path: Path, encoding: Encoding) -> IO[str]:
    """Open a file of a known encoding, its line ends as they are, without a byte-order mark."""
    name = "utf-8-sig" if encoding.name == "utf-8" else encoding.name
    return path.open(encoding=name, errors=encoding.errors, newline="")


def _read_start(path: Path, encoding: Encoding) -> str:
    """Read the beginning of a text; raise InputError where nothing but white space is in it."""
    with _open_text(path, encoding) as file:
        while chunk := file.read(4096):
            if start := chunk.lstrip("\ufeff\0 \t\r\n\u3000"):
                return start
    raise InputError(f"{path}: the file is empty; check --input")


# --- JSON ---------------------------------------------------------------------------------------


def _read_json_lines(path: Path, encoding: Encoding) -> Iterator[RawRow]:
    """Read a value a line; a file whose first line is no value holds values over several lines."""
    lines = _split_lines(path, encoding)
    for number, line in lines:
        place = f"{path.name}:{number}"
        if line is None:
            yield RawRow(place, None, f"a line longer than {MAX_ROW_BYTES // 2**20} MiB")
            continue
        if not line.strip():
            continue
        row = _parse(line, place)
        if row.problem and _opens_value(line):
            values = _read_values(path, encoding)
            first = next(values)
            if not first.problem:
                yield from _expand(first)
                yield from values
                return
        yield from _expand(row)
        break
    for number, line in lines:
        if line is None:
            yield RawRow(
                f"{path.name}:{number}", None, f"a line longer than {MAX_ROW_BYTES // 2**20} MiB"
            )
        elif line.strip():
            yield _parse(line, f"{path.name}:{number}")


def _split_lines(path: Path, encoding: Encoding) -> Iterator[tuple[int, bytes | None]]:
    """Split a text into lines in UTF-8, numbered from 1; None for one that is too long."""
    with path.open("rb") as file:
        is_plain = encoding.name == "utf-8" and b"\r" not in file.read(4096).replace(b"\r\n", b"")
    if not is_plain:
        with _open_text(path, encoding) as text:
            for number, line in enumerate(iter(lambda: text.readline(MAX_ROW_BYTES), ""), start=1):
                yield number, line.encode("utf-8", "surrogateescape")
        return
    with path.open("rb") as file:
        number, is_inside_long = 0, False
        while line := file.readline(MAX_ROW_BYTES):
            is_cut = len(line) == MAX_ROW_BYTES and not line.endswith(b"\n")
            if not is_inside_long:
                number += 1
                yield number, None if is_cut else line.removeprefix(b"\xef\xbb\xbf")
            is_inside_long = is_cut


def _opens_value(line: bytes) -> bool:
    """Tell the first line of a pretty-printed object from a broken line: no value ends on it."""
    stripped = line.strip()
    return stripped in {b"{", b"["} or stripped.endswith((b",", b"{", b"["))


def _parse(line: bytes, place: str) -> RawRow:
    """Parse one JSON value."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_leniently(line, place)
    n_brackets = line.count(b"{") + line.count(b"[")
    return _bounded(value, place) if n_brackets > MAX_DEPTH else RawRow(place, value)


def _parse_leniently(line: bytes, place: str) -> RawRow:
    """Parse what orjson does not take: NaN, large numbers, halves of characters, which go."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return RawRow(place, None, "bytes that are no UTF-8")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return RawRow(place, None, f"broken JSON ({error.msg}, column {error.colno})")
    except (ValueError, RecursionError) as error:
        return RawRow(place, None, _explain_json(error))
    return _bounded(_without_surrogates(value) if "\\u" in text else value, place)


def _explain_json(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"JSON nested deeper than {MAX_DEPTH} brackets"
    return f"JSON that cannot be read ({str(error)[:80]})"


def _bounded(value: Any, place: str) -> RawRow:
    """Refuse a value of too many brackets within brackets."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return RawRow(place, value)
    return RawRow(place, None, f"JSON nested deeper than {MAX_DEPTH} brackets")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).values()
    return cast("list[Any]", value) if isinstance(value, list) else ()


def _without_surrogates(value: Any) -> Any:
    """Drop the halves of characters that JSON can spell and UTF-8 cannot."""
    try:
        return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "ignore"))
    except (ValueError, RecursionError):
        return value


class _Window:
    """The part of a text that is being parsed; `line` is the number of its first line."""

    def __init__(self, file: IO[str], encoding: Encoding) -> None:
        self._file = file
        self.is_damaged = encoding.is_damaged
        self.text = ""
        self.at = 0
        self.line = 1
        self.is_at_end = False

    def read_more(self) -> None:
        # At least as much again, so that a long value is decoded few times.
        chunk = self._file.read(max(_CHUNK_CHARACTERS, len(self.text) - self.at))
        self.is_at_end = not chunk
        self.text += chunk

    def forget(self) -> None:
        """Let go of what lies before `at`, once it is much."""
        if self.at > _CHUNK_CHARACTERS:
            self.line += self.text.count("\n", 0, self.at)
            self.text, self.at = self.text[self.at :], 0

    def skip(self, pattern: re.Pattern[str]) -> str:
        """Skip what a pattern of single characters matches; return the next one, "" at the end."""
        while True:
            match = pattern.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if self.is_at_end:
                return ""
            self.read_more()

    def line_at(self, position: int) -> int:
        return self.line + self.text.count("\n", 0, position)


_BLANK = re.compile(r"[\s\ufeff\0]*")
_BETWEEN = re.compile(r"[\s,\ufeff\0]*")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


def _read_arrays(path: Path, encoding: Encoding) -> Iterator[RawRow]:
    """Read the elements of an array, or of several in a row; raise InputError where one breaks
    off."""
    with _open_text(path, encoding) as file:
        window = _Window(file, encoding)
        number = 0
        while opening := window.skip(_BLANK):
            if opening != "[":
                place = f"{path.name}:{window.line_at(window.at)}"
                yield RawRow(place, None, "text behind the end of the array")
                return
            window.at += 1
            restart = _restart_at("")
            while (found := window.skip(_BETWEEN)) != "]":
                place = f"{path.name}, item {number + 1}"
                if not found:
                    raise InputError(
                        f"{path}:{window.line_at(len(window.text))}: the JSON array breaks off "
                        "after "
                        f"{number} elements; fetch or export the file again"
                    )
                number += 1
                row = _take_value(window, place)
                if row.problem and not _find_restart(window, restart):
                    raise InputError(
                        f"{path}:{window.line_at(window.at)}: item {number}: {row.problem}, and "
                        "no element "
                        "follows; fetch or export the file again"
                    )
                if number == 1 and isinstance(row.content, dict) and row.content:
                    restart = _restart_at(next(iter(cast("dict[str, Any]", row.content))))
                yield row
                window.forget()
            window.at += 1


def _read_values(path: Path, encoding: Encoding) -> Iterator[RawRow]:
    """Read values that stand one after the other, each over as many lines as it likes."""
    with _open_text(path, encoding) as file:
        window = _Window(file, encoding)
        number = 0
        while window.skip(_BETWEEN):
            number += 1
            row = _take_value(window, f"{path.name}, item {number}")
            if row.problem:
                yield row._replace(problem=f"{row.problem}; what follows is not read")
                return
            yield row
            window.forget()


def _take_value(window: _Window, place: str) -> RawRow:
    """Decode the value at the window's place, reading on while it may only be cut off."""
    start = window.at
    while True:
        try:
            value, end = _DECODER.raw_decode(window.text, start)
        except json.JSONDecodeError as error:
            may_be_cut = error.pos >= len(window.text) - 16 or error.msg.startswith("Unterminated")
            is_long = len(window.text) - start > MAX_ROW_BYTES
            if window.is_at_end or not may_be_cut or is_long:
                line = window.line_at(error.pos)
                return RawRow(place, None, f"broken JSON in line {line} ({error.msg})")
        except (ValueError, RecursionError) as error:
            return RawRow(place, None, _explain_json(error))
        else:
            # A number that ends with the window may go on behind it.
            if end < len(window.text) or window.is_at_end:
                break
        window.read_more()
    window.at = end
    if window.is_damaged and _ESCAPED_BYTE.search(window.text, start, end):
        return RawRow(place, None, "bytes that are no UTF-8")
    if window.text.find("\\u", start, end) >= 0:
        value = _without_surrogates(value)
    return _bounded(value, place)


_DECODER = json.JSONDecoder()


def _restart_at(first_field: str) -> re.Pattern[str]:
    """Compile where a next element may begin: as the first one did, so that no object inside a
    broken element is taken for one."""
    if not first_field:
        return re.compile(r"\}\s*,\s*(?=\{)")
    name = re.escape(json.dumps(first_field, ensure_ascii=False))
    return re.compile(r",\s*(?=\{\s*" + name + ")")


def _find_restart(window: _Window, restart: re.Pattern[str]) -> bool:
    """Go to the element behind a broken one, or to the closing bracket of the array; return False
    where neither is there."""
    while True:
        found = restart.search(window.text, window.at)
        if found:
            window.at = found.end()
            return True
        if window.is_at_end:
            end = window.text.rstrip()
            window.at = len(end) - 1 if end.endswith("]") else len(window.text)
            return end.endswith("]")
        window.at = max(window.at, len(window.text) - 4096)
        window.forget()
        window.read_more()


def _expand(row: RawRow) -> Iterator[RawRow]:
    """Read an object that is a whole table as pandas writes it, by columns, index or split, or a
    list under `data`, `rows` or `records`; any other row stays as it is."""
    rows = _find_table(row.content)
    if rows is None:
        yield row
        return
    for number, content in enumerate(rows, start=1):
        yield RawRow(f"{row.place}, row {number}", content)


def _find_table(value: Any) -> list[Any] | None:
    if not isinstance(value, dict) or not value:
        return None
    table = cast("dict[str, Any]", value)
    for name in ("data", "rows", "records"):
        inner: Any = table.get(name)
        if not isinstance(inner, list) or not inner:
            continue
        listed = cast("list[Any]", inner)
        columns: Any = table.get("columns")
        if isinstance(columns, list) and all(isinstance(row, list) for row in listed):
            names = [str(column) for column in cast("list[Any]", columns)]
            return [dict(zip(names, row, strict=False)) for row in listed]
        if all(isinstance(row, dict) for row in listed):
            return listed
    inner_dicts = [cast("dict[str, Any]", v) for v in table.values() if isinstance(v, dict)]
    if len(inner_dicts) != len(table) or not inner_dicts[0]:
        return None
    keys = inner_dicts[0].keys()
    if any(inner.keys() != keys for inner in inner_dicts):
        return None
    if all(key.isdecimal() for key in keys):
        return [{name: column[key] for name, column in table.items()} for key in keys]
    return inner_dicts if all(key.isdecimal() for key in table) else None


# --- Tables -------------------------------------------------------------------------------------


def _read_csv(path: Path, encoding: Encoding) -> Iterator[RawRow]:
    """Read a table with a delimiter: comma, tab, semicolon or bar, as its first line has it."""
    csv.field_size_limit(MAX_ROW_BYTES)
    with _open_text(path, encoding) as file:
        first = file.readline(MAX_ROW_BYTES)
        told = re.fullmatch(r"sep=(.)\s*", first)
        delimiter = told[1] if told else _find_delimiter([first, *islice(file, 20)], path)
        if told is None:
            file.seek(0)
        lines = _bounded_lines(file, path)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        yield from _name_cells(_csv_rows(reader), path.name, encoding.is_damaged)


def _find_delimiter(lines: Iterable[str], path: Path) -> str:
    """Find what parts the cells of the first line that has several."""
    delimiters = ",\t;|" if path.suffix.lower() == ".csv" else "\t,;|"
    for line in lines:
        bare = re.sub(r'"[^"]*"', "", line)
        if any(mark in bare for mark in delimiters):
            return max(delimiters, key=bare.count)
    return delimiters[0]


def _bounded_lines(file: IO[str], path: Path) -> Iterator[str]:
    while line := file.readline(MAX_ROW_BYTES):
        if len(line) == MAX_ROW_BYTES:
            raise InputError(f"{path}: a line longer than {MAX_ROW_BYTES // 2**20} MiB; no table")
        yield line.replace("\0", "").replace("\ufeff", "")


_Cells = tuple[int, Sequence[str] | None, str]
"""Number, cells (None for a broken row) and what is wrong with it."""


def _csv_rows(reader: Any) -> Iterator[_Cells]:
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, None, f"no row of a table ({error})"
            continue
        yield number, cells, ""


def _name_cells(
    rows: Iterator[_Cells], place: str, is_damaged: bool = False, may_be_short: bool = False
) -> Iterator[RawRow]:
    """Put rows under their headings: those of the first row with two cells or more, so that a title
    above it is passed over.

    Columns of one heading are joined: their cells stand in a list where they differ. A column
    without a heading is called by its number.
    """
    begun = list(islice(rows, _MAX_TITLE_ROWS))
    at = next((i for i, (_, cells, _) in enumerate(begun) if _count_filled(cells) > 1), None)
    if at is None:
        at = next((i for i, (_, cells, _) in enumerate(begun) if _count_filled(cells)), None)
    if at is None:
        return
    headings = [cell.strip() for cell in begun[at][1] or ()]
    while headings and not headings[-1]:
        headings.pop()
    if len(headings) > MAX_COLUMNS:
        raise InputError(f"{place}: {len(headings)} columns; save the part that holds cases")
    for number, cells, problem in (row for part in (begun[at + 1 :], rows) for row in part):
        where = f"{place}, row {number}"
        if cells is None:
            yield RawRow(where, None, problem)
        elif any(cell.strip() for cell in cells):
            yield _name_row(headings, cells, where, is_damaged, may_be_short)


def _count_filled(cells: Sequence[str] | None) -> int:
    return sum(bool(cell.strip()) for cell in cells or ())


def _name_row(
    headings: Sequence[str], cells: Sequence[str], where: str, is_damaged: bool, may_be_short: bool
) -> RawRow:
    surplus = any(cell.strip() for cell in cells[len(headings) :])
    if surplus or (len(cells) < len(headings) and not may_be_short):
        words = (
            f"{len(cells)} cells under {len(headings)} headings; quote a text that holds the "
            "delimiter"
        )
        return RawRow(where, None, words)
    if is_damaged and any(_ESCAPED_BYTE.search(cell) for cell in cells):
        return RawRow(where, None, "bytes that are no UTF-8")
    named: dict[str, Any] = {}
    for column, heading in enumerate(headings):
        cell = cells[column] if column < len(cells) else ""
        if not heading:
            if not cell.strip():
                continue
            heading = f"column {column + 1}"
        before: Any = named.get(heading, "")
        if not before or before == cell or not cell.strip():
            named[heading] = before or cell
        else:
            named[heading] = [*(before if isinstance(before, list) else [before]), cell]
    return RawRow(where, named)


def _read_excel(path: Path) -> Iterator[RawRow]:
    """Read the rows of all sheets of a workbook."""
    _check_workbook(path)
    from openpyxl.reader.excel import ExcelReader

    with path.open("rb") as file:  # as a file, for by its path openpyxl asks for a suffix it knows
        try:
            reader: Any = ExcelReader(file, read_only=True, data_only=True, keep_links=False)
            # A sheet that is a chart holds no row, and openpyxl fails on one without a drawing.
            reader.read_chartsheet = _pass_over
            reader.read()
        except Exception as error:
            raise _damaged_workbook(path, error) from error
        for sheet in reader.wb.worksheets:
            sheet.reset_dimensions()
            yield from _name_cells(
                _guard(_sheet_rows(sheet, path), path),
                f"{path.name}, {sheet.title}",
                may_be_short=True,
            )


def _pass_over(*_: Any) -> None:
    """Read nothing."""


def _guard(rows: Iterator[_Cells], path: Path) -> Iterator[_Cells]:
    """Turn whatever the reader of a damaged workbook raises into one line."""
    try:
        yield from rows
    except InputError:
        raise
    except Exception as error:
        raise _damaged_workbook(path, error) from error


def _sheet_rows(sheet: Any, path: Path) -> Iterator[_Cells]:
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        if len(row) > MAX_COLUMNS:
            raise InputError(f"{path}: {len(row)} columns; save the part that holds cases")
        yield number, [_write_cell(cell) for cell in row], ""


def _damaged_workbook(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: an Excel workbook that cannot be read ({type(error).__name__}); save it again as "
        ".xlsx, or as CSV"
    )


def _check_workbook(path: Path) -> None:
    """Raise InputError for an archive that is no workbook, or unpacks to more than can be held."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise _damaged_workbook(path, error) from error
    names = {part.filename for part in parts}
    if not any(name.startswith("xl/") for name in names):
        kind = "a Word document" if "word/document.xml" in names else "a packed archive"
        raise InputError(
            f"{path}: {kind}; unpack it and name the folder, or save its table as .xlsx or CSV"
        )
    if any(name.endswith(".bin") and name.startswith("xl/workbook") for name in names):
        raise InputError(f"{path}: a binary Excel workbook; save it as .xlsx or CSV")
    if sum(part.file_size for part in parts) > MAX_UNPACKED_BYTES:
        raise InputError(
            f"{path}: unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MiB; save it as CSV"
        )


def _write_cell(value: Any) -> str:
    """Write a cell as a person reads it; a number of more digits than Excel keeps as Excel shows
    it."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        has_time = value.time().isoformat() != "00:00:00"
        return (
            value.isoformat(sep=" ", timespec="minutes") if has_time else value.date().isoformat()
        )
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value) and abs(value) >= 1e15:
            return f"{value:.14E}"
        return str(int(value)) if float(value).is_integer() else str(value)
    return str(value)


def _read_parquet(path: Path) -> Iterator[RawRow]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(
            f"{path}: reading Parquet needs pyarrow; pip install pyarrow, or convert it to JSON "
            "Lines"
        ) from error
    number = 0
    try:
        for batch in ParquetFile(path).iter_batches(batch_size=512):
            for row in batch.to_pylist():
                number += 1
                yield RawRow(f"{path.name}, row {number}", row)
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(
            f"{path}: damaged Parquet after row {number} ({reason}); fetch the file again"
        ) from error


# --- Cells --------------------------------------------------------------------------------------

_NULLS = re.compile(
    r"nan|null|none|nil|nat|undefined|n/a|<na>|\\n|[(\[]null[)\]]|\{\}|\[\]|未填写?|未录入|空[白值]?|\(空\)|缺失值?|暂缺"
    r"|#(?:n/a|ref!|value!|div/0!|name\?|null!|num!|spill!|calc!|field!|blocked!|getting_data)"
)
"""What tables and dumps of databases write where there is nothing, in lower case."""
_DASHES = re.compile(r"[\s\-_/\\.·…—–]*")
_ROUNDED = re.compile(r"\d(?:\.\d+)?E\+?(?:1\d|2\d)", re.IGNORECASE)


def is_missing(value: Any) -> bool:
    r"""Tell whether a cell or value stands for nothing: null, NaN, `\N`, `#N/A`, `--`, `[]`.

    >>> [is_missing(value) for value in (None, float("nan"), "\\N", "#REF!", "——", "0", "无")]
    [True, True, True, True, True, False, False]
    """
    if isinstance(value, str):
        if len(value) > 40:
            return not value.strip()
        plain = unicodedata.normalize("NFKC", value).strip()
        return bool(_NULLS.fullmatch(plain.lower()) or plain == "NA" or _DASHES.fullmatch(plain))
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, list | dict) and not value)


def is_rounded_number(text: str) -> bool:
    """Tell whether a spreadsheet rounded a long number, so that unlike ones may look alike.

    >>> is_rounded_number("4.40106E+17"), is_rounded_number("440106")
    (True, False)
    """
    return _ROUNDED.fullmatch(text.strip()) is not None
