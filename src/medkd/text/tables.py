"""The one reader of files from outside: JSON, JSON Lines, CSV, Excel and Parquet in, rows out.

In: a path. Out: `RawRow`s one by one, each with its place; a broken one says what is wrong with it.
What is known of the file, as a `SourceFile`. A file that cannot be read raises InputError with one
line. Not done here: what a row means, encodings (`text.files`), hubs (`text.hub_datasets`).
"""

import csv
import math
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from functools import cache
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from medkd.core.config import read_shipped_yaml
from medkd.core.errors import InputError
from medkd.core.jsonl import is_packed, list_parts, printable_name
from medkd.text.files import (
    ESCAPED_BYTE,
    MAX_ROW_BYTES,
    PACKED,
    Encoding,
    RawRow,
    decode,
    find_encoding,
    open_regular,
    open_text,
    read_arrays,
    read_json_lines,
    read_packed_lines,
)

MAX_COLUMNS = 2000
MAX_UNPACKED_BYTES = 2**28
"""Size up to which the parts of an Excel workbook are unpacked."""
TABLE_SUFFIXES = {".csv", ".tsv", ".tab"}
EXCEL_SUFFIXES = {".xlsx", ".xlsm"}
JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
_MAX_TITLE_ROWS = 20
"""Rows above the headings of a table that may hold a title in one cell."""


def read_rows(path: Path) -> Iterator[RawRow]:
    """Read the rows of a file, or of a folder of parts, by its content first and its suffix second;
    only a JSON array is held whole.

    A JSON array gives its elements, JSON Lines (also under `.json`) its lines, a table its rows as
    dicts of texts by heading. Empty cells are "". What gzip or zstd packed is JSON Lines.
    Raises InputError for what is no such file: old Excel, PDF, a folder, a pipe, no known
    encoding, an array that breaks off (named with its last element).
    """
    if path.is_dir() and (parts := list_parts(path)):
        return chain.from_iterable(map(read_rows, parts))
    with open_regular(path) as file:
        head = file.read(4096)
        is_whole = len(head) < 4096
    if not head.strip(b"\0\t\n\r \xef\xbb\xbf") and is_whole:
        raise InputError("{}: the file is empty; check --input", path)
    if head.startswith(b"PAR1"):
        return _read_parquet(path)
    if head.startswith(b"PK\x03\x04"):
        return _read_excel(path)
    if is_packed(path):
        return read_packed_lines(path)
    _refuse_by_signature(head, path)
    encoding = find_encoding(path)
    start = _read_start(path, encoding)
    suffix = path.suffix.lower()
    if start.startswith("["):
        return read_arrays(path, encoding)
    if start.startswith("{"):
        return read_json_lines(path, encoding)
    if start.startswith("<"):
        raise InputError("{}: HTML or XML; export the table as .xlsx, CSV or JSON Lines", path)
    if suffix in TABLE_SUFFIXES or (suffix == ".xls" and "\t" in start):
        return _read_csv(path, encoding)
    if suffix in EXCEL_SUFFIXES:
        raise InputError("{}: no Excel workbook; save it again as .xlsx, or as CSV", path)
    raise InputError(
        "{}: no JSON (it begins with {!r}); expected a JSON array or JSON Lines; "
        "a table goes by its suffix: .csv, .tsv or .xlsx",
        path,
        start[:20].splitlines()[0],
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
    *((magic, PACKED) for magic in (b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")),
)
"""First bytes of what is no text, and the next step."""


def _refuse_by_signature(head: bytes, path: Path) -> None:
    for signature, words in _SIGNATURES:
        if head.startswith(signature):
            raise InputError("{}: {}", path, words)


def _read_start(path: Path, encoding: Encoding) -> str:
    """Read the beginning of a text; raise InputError where nothing but white space is in it."""
    with open_text(path, encoding) as file:
        while chunk := file.read(4096):
            if start := chunk.lstrip("\ufeff\0 \t\r\n\u3000"):
                return start
    raise InputError("{}: the file is empty; check --input", path)


# --- Tables -------------------------------------------------------------------------------------


def _read_csv(path: Path, encoding: Encoding) -> Iterator[RawRow]:
    """Read a table with a delimiter: comma, tab, semicolon or bar, as its first line has it."""
    csv.field_size_limit(MAX_ROW_BYTES)
    with open_text(path, encoding) as file:
        first = file.readline(MAX_ROW_BYTES)
        told = re.fullmatch(r"sep=(.)\s*", first)
        delimiter = told[1] if told else _find_delimiter([first, *islice(file, 20)], path)
        if told is None:
            file.seek(0)
        lines = _bounded_lines(file, path)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        rows = _csv_rows(reader, delimiter)
        yield from _name_cells(rows, path.name, encoding.is_damaged)


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
            raise InputError(
                "{}: a line longer than {} MiB; no table", path, MAX_ROW_BYTES // 2**20
            )
        yield line.replace("\0", "").replace("\ufeff", "")


_Cells = tuple[int, Sequence[str] | None, str]
"""Number, cells (None for a broken row) and what is wrong with it."""


def _csv_rows(reader: Any, delimiter: str) -> Iterator[_Cells]:
    n_cells = 0
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            n_more = reader.line_num - number
            ends = f", and {n_more} lines with it; is a quote left open?" if n_more else ""
            yield number, None, f"no row of a table ({error}){ends}"
            continue
        n_cells = n_cells or (len(cells) if len(cells) > 1 else 0)
        n_swallowed = _count_swallowed(cells, n_cells, delimiter)
        if n_swallowed < _MIN_SWALLOWED:
            yield number, cells, ""
        else:
            said = f"a quote that is left open takes {n_swallowed} rows into one cell; close it"
            yield number, None, said


_MIN_SWALLOWED = 3


def _count_swallowed(cells: Sequence[str], n_cells: int, delimiter: str) -> int:
    """Count the rows of a table of numbered rows that stand in one of its cells: lines that have as
    many delimiters as a row and go on with the numbers, all of them."""
    if not n_cells or not cells or not cells[0].strip().isdecimal():
        return 0
    for cell in cells:
        inside = cell.split("\n")[1:-1]
        numbers = [cells[0].strip(), *(line.partition(delimiter)[0].strip() for line in inside)]
        if (
            inside
            and all(line.count(delimiter) == n_cells - 1 for line in inside)
            and all(number.isdecimal() for number in numbers)
            and all(int(a) < int(b) for a, b in pairwise(numbers))
        ):
            return len(inside)
    return 0


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
        raise InputError("{}: {} columns; save the part that holds cases", place, len(headings))
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
    if is_damaged and any(ESCAPED_BYTE.search(cell) for cell in cells):
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
    from openpyxl.utils.escape import unescape

    def write(cell: Any) -> str:
        text = _write_cell(cell)
        return unescape(text).replace("\r", "") if "_x" in text else text

    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        if len(row) > MAX_COLUMNS:
            raise InputError("{}: {} columns; save the part that holds cases", path, len(row))
        yield number, [write(cell) for cell in row], ""


def _damaged_workbook(path: Path, error: Exception) -> InputError:
    return InputError(
        "{}: an Excel workbook that cannot be read ({}); save it again as .xlsx, or as CSV",
        path,
        type(error).__name__,
    )


def _check_workbook(path: Path) -> None:
    """Raise InputError for an archive that is no workbook, or unpacks to more than can be held."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, RuntimeError) as error:
        raise _damaged_workbook(path, error) from error
    names = {part.filename for part in parts}
    if not any(name.startswith("xl/") for name in names):
        kind = "a Word document" if "word/document.xml" in names else "a packed archive"
        raise InputError(
            "{}: {}; unpack it and name the folder, or save its table as .xlsx or CSV", path, kind
        )
    if any(name.endswith(".bin") and name.startswith("xl/workbook") for name in names):
        raise InputError("{}: a binary Excel workbook; save it as .xlsx or CSV", path)
    if sum(part.file_size for part in parts) > MAX_UNPACKED_BYTES:
        raise InputError(
            "{}: unpacks to more than {} MiB; save it as CSV", path, MAX_UNPACKED_BYTES // 2**20
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
            "{}: reading Parquet needs pyarrow; pip install pyarrow, or convert it to JSON Lines",
            path,
        ) from error
    number = 0
    try:
        batch: Any
        with path.open("rb") as file:
            for batch in ParquetFile(file).iter_batches(batch_size=512):
                for row in batch.to_pylist():
                    number += 1
                    yield RawRow(f"{path.name}, row {number}", _decode_cells(row))
    except (ArrowException, OSError, ValueError) as error:
        reason = str(cast(Exception, error)).splitlines()[0][:120]
        raise InputError(
            "{}: damaged Parquet after row {} ({}); fetch the file again", path, number, reason
        ) from error


def _decode_cells(row: Any) -> dict[str, Any]:
    """Decode the cells that are bytes, as Hive and Impala write texts; what is no text, such as a
    picture, is nothing."""
    return {key: _decode(cell) if isinstance(cell, bytes) else cell for key, cell in row.items()}


def _decode(cell: bytes) -> str | None:
    try:
        return decode(cell, "")
    except InputError:
        return None


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


# --- Where rows come from


class SourceFile(NamedTuple):
    """A file of rows, and where it comes from."""

    path: Path
    name: str
    url: str = ""
    licence: str = ""
    schema: str = ""
    """The schema that somebody said it has; read from the fields where nobody did."""


def is_hub_name(given: Path) -> bool:
    """Tell whether an `--input` names a dataset on a hub.

    >>> is_hub_name(Path("hf:owner/name")), is_hub_name(Path("data/a.json"))
    (True, False)
    """
    return str(given).startswith(("hf:", "ms:"))


def find_source(path: Path, hub: str = "") -> SourceFile:
    """Say where the rows of a file come from, as far as its name or that of its dataset tells."""
    for part, source in _known_datasets().items():
        if part in path.name:
            return SourceFile(path, source["name"], source["url"], source["licence"])
    if hub:
        owner, name = hub[3:].split("/")[:2]
        site = "huggingface.co" if hub.startswith("hf:") else "modelscope.cn"
        return SourceFile(path, name, f"https://{site}/datasets/{owner}/{name}")
    return SourceFile(path, printable_name(path.with_suffix("")))


@cache
def _known_datasets() -> dict[str, dict[str, str]]:
    return cast(dict[str, dict[str, str]], read_shipped_yaml("medkd.text", "known_datasets.yaml"))
