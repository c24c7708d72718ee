"""Reads the rows of a file, whatever its suffix says: a JSON array, JSON Lines, Parquet or CSV.

In: a file. Out: its elements one by one with their numbers, a broken one as None; a file is never
held in memory whole.
Not done here: what a row means (`merge.schemas`), files on a hub (`merge.hubs`).
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from medkd.core.errors import InputError, from_os_error
from medkd.merge.arrays import read_array

NumberedRow = tuple[int, Any]

_MAX_CELL = 2**27
"""Characters of one CSV cell; Python's own limit is shorter than a long reasoning."""


def read_rows(path: Path) -> Iterator[NumberedRow]:
    """Give each element of an array, or each line or row that is not blank, with its number; None
    for one that is broken.

    Raises InputError for a file that is missing, empty or no UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise from_os_error(error, path) from error
    if head.startswith(b"PAR1"):
        return _read_parquet(path)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start and path.stat().st_size <= len(head):
        raise InputError(f"{path}: the file is empty; check --input")
    if start.startswith(b"["):
        return read_array(path)
    return (
        _read_csv(path)
        if path.suffix.lower() == ".csv" and not start.startswith(b"{")
        else _read_lines(path)
    )


def _read_lines(path: Path) -> Iterator[NumberedRow]:
    """Read JSON Lines; a line that is no UTF-8 is a broken one, a file that begins so is no UTF-8
    text."""
    has_begun = False
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if not line.strip():
                continue
            if not has_begun:
                _check_utf8(line, path, number)
                has_begun = True
            yield number, _load(line)


def _load(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            return json.loads(line)  # takes what orjson does not: half a surrogate pair, NaN
        except (ValueError, RecursionError):
            return None


def _check_utf8(line: bytes, path: Path, number: int) -> None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: not UTF-8 text; convert the file with iconv and try again"
        ) from error


def _read_csv(path: Path) -> Iterator[NumberedRow]:
    """Read a CSV file whose first line names the columns; a row with more cells than columns is
    broken."""
    csv.field_size_limit(_MAX_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            while True:
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error:
                    yield reader.line_num, None
                    continue
                cells = {
                    name: cell
                    for name, cell in row.items()
                    if name is not None and cell is not None
                }
                yield reader.line_num, cells if None not in row and len(cells) == len(row) else None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text; convert the file with iconv and try again"
        ) from error


def _read_parquet(path: Path) -> Iterator[NumberedRow]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(
            f"{path}: reading Parquet needs pyarrow; pip install pyarrow, or convert the file to JSON Lines"
        ) from error
    number = 0
    try:
        for batch in ParquetFile(path).iter_batches(batch_size=512):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(
            f"{path}: damaged Parquet after row {number} ({reason}); fetch the file again"
        ) from error


_LINE_BREAK = re.compile(r"\s+")


def name_fields(row: Any) -> list[str]:
    """Name the fields of a row on one line, for a message; nothing for what has none."""
    return (
        [_LINE_BREAK.sub(" ", str(name))[:40] for name in row][:20] if isinstance(row, dict) else []
    )
