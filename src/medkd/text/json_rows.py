"""Rows of JSON files: arrays element by element, JSON Lines, whole tables as pandas writes them.

In: a path and its encoding. Out: `RawRow`s one by one, a broken one with what is wrong with it.
Not done here: telling JSON from other files (`text.tables`).
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

from medkd.core.errors import InputError
from medkd.text.encodings import Encoding, open_text

MAX_ROW_BYTES = 2**26
"""Length up to which one line, element or cell is read."""
MAX_DEPTH = 64
"""Brackets within brackets up to which a JSON value is read."""
MAX_ARRAY_BYTES = 2**32
"""Size up to which a JSON array is read; it is held whole, JSON Lines are not."""
MAX_BROKEN = 1000
"""Broken elements of an array, each of which costs a walk through the file for its line."""


class RawRow(NamedTuple):
    """One row of a file: `content` is a JSON value or the cells of a table by heading."""

    place: str
    """Where it stands: `a.jsonl:7`, `a.json, item 7`, `a.csv, row 7`, `a.xlsx, Sheet1, row 7`."""
    content: Any
    problem: str = ""
    """What is wrong with a row that cannot be read; `content` is then None."""


def read_json_lines(path: Path, encoding: Encoding) -> Iterator[RawRow]:
    """Read a value a line; a file whose first line is no value holds values over several lines."""
    is_first = True
    for number, line in _split_lines(path, encoding):
        place = f"{path.name}:{number}"
        if line is None:
            yield RawRow(place, None, f"a line longer than {MAX_ROW_BYTES // 2**20} MiB")
            continue
        if not line.strip():
            continue
        row = _parse(line, place)
        if is_first and row.problem and _opens_value(line):
            values = _read_values(path, encoding)
            first = next(values)
            if not first.problem:
                yield from _expand(first)
                yield from values
                return
        yield from _expand(row) if is_first else [row]
        is_first = False


def _split_lines(path: Path, encoding: Encoding) -> Iterator[tuple[int, bytes | None]]:
    """Split a text into lines in UTF-8, numbered from 1; None for one that is too long."""
    with path.open("rb") as file:
        is_plain = encoding.name == "utf-8" and b"\r" not in file.read(4096).replace(b"\r\n", b"")
    if not is_plain:
        with open_text(path, encoding) as text:
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
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return RawRow(place, None, f"broken JSON ({error.msg}, column {error.colno})")
    except (ValueError, RecursionError) as error:
        return RawRow(place, None, _explain_json(error))
    return _bounded(_without_surrogates(value) if "\\u" in text else value, place)


def _explain_json(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"JSON nested deeper than {MAX_DEPTH} brackets"
    return f"JSON that cannot be read ({str(error)[:80]})"


_DECODER = json.JSONDecoder()


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


_BLANK = re.compile(r"[\s\ufeff\0]*")
_BETWEEN = re.compile(r"[\s,\ufeff\0]*")
ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
"""What a byte that is no UTF-8 is decoded to."""


class _Cursor:
    """A whole text and the place in it that is read next."""

    def __init__(self, path: Path, encoding: Encoding) -> None:
        if path.stat().st_size > MAX_ARRAY_BYTES:
            size = MAX_ARRAY_BYTES // 2**30
            raise InputError("{}: a JSON array of more than {} GiB; save JSON Lines", path, size)
        with open_text(path, encoding) as file:
            self.text = file.read()
        self.is_damaged = encoding.is_damaged
        self.at = 0
        self.n_broken = 0

    @property
    def line(self) -> int:
        return 1 + self.text.count("\n", 0, self.at)

    def skip(self, pattern: re.Pattern[str]) -> str:
        """Skip what a pattern matches; return the next character, "" at the end."""
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at : self.at + 1]

    def take_value(self, place: str) -> RawRow:
        """Decode the value at this place; the place stays where it is broken."""
        start = self.at
        try:
            value, self.at = _DECODER.raw_decode(self.text, start)
        except json.JSONDecodeError as error:
            self.n_broken += 1
            return RawRow(place, None, f"broken JSON in line {error.lineno} ({error.msg})")
        except (ValueError, RecursionError) as error:
            self.n_broken += 1
            return RawRow(place, None, _explain_json(error))
        if self.is_damaged and ESCAPED_BYTE.search(self.text, start, self.at):
            return RawRow(place, None, "bytes that are no UTF-8")
        if self.text.find("\\u", start, self.at) >= 0:
            value = _without_surrogates(value)
        return _bounded(value, place)

    def find_restart(self, restart: re.Pattern[str]) -> bool:
        """Go to the element behind a broken one, or to the closing bracket of the array; return
        False where neither is there, or too many were broken."""
        if found := restart.search(self.text, self.at):
            self.at = found.end()
            return self.n_broken < MAX_BROKEN
        end = self.text.rstrip()
        self.at = len(end) - 1 if end.endswith("]") else len(self.text)
        return end.endswith("]")


def read_arrays(path: Path, encoding: Encoding) -> Iterator[RawRow]:
    """Read the elements of an array, or of several in a row; raise InputError where one breaks
    off."""
    cursor = _Cursor(path, encoding)
    number = 0
    while opening := cursor.skip(_BLANK):
        if opening != "[":
            yield RawRow(f"{path.name}:{cursor.line}", None, "text behind the end of the array")
            return
        cursor.at += 1
        restart = _restart_at("")
        while (found := cursor.skip(_BETWEEN)) != "]":
            if not found:
                raise InputError(
                    "{}:{}: the JSON array breaks off after {} elements; fetch or export the "
                    "file again",
                    path,
                    cursor.line,
                    number,
                )
            number += 1
            row = cursor.take_value(f"{path.name}, item {number}")
            if row.problem and not cursor.find_restart(restart):
                raise InputError(
                    "{}:{}: item {}: {}, and no element follows; fetch or export the file again",
                    path,
                    cursor.line,
                    number,
                    row.problem,
                )
            if number == 1 and isinstance(row.content, dict):
                fields = cast("dict[str, Any]", row.content)
                restart = _restart_at(next(iter(fields), ""))
            yield row
        cursor.at += 1


def _read_values(path: Path, encoding: Encoding) -> Iterator[RawRow]:
    """Read values that stand one after the other, each over as many lines as it likes."""
    cursor = _Cursor(path, encoding)
    number = 0
    while cursor.skip(_BETWEEN):
        number += 1
        row = cursor.take_value(f"{path.name}, item {number}")
        if row.problem:
            yield row._replace(problem=f"{row.problem}; what follows is not read")
            return
        yield row


def _restart_at(first_field: str) -> re.Pattern[str]:
    """Compile where a next element may begin: as the first one did, so that no object inside a
    broken element is taken for one."""
    if not first_field:
        return re.compile(r"\}\s*,\s*(?=\{)")
    name = re.escape(json.dumps(first_field, ensure_ascii=False))
    return re.compile(r",\s*(?=\{\s*" + name + ")")


def _expand(row: RawRow) -> Iterator[RawRow]:
    """Read an object that is a whole table: a list of rows under `data`, `rows` or `records`, or
    columns of cells by number as pandas writes them; any other row stays as it is."""
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
        if isinstance(inner, list) and inner and all(isinstance(r, dict) for r in cast(Any, inner)):
            return cast("list[Any]", inner)
    columns = [cast("dict[str, Any]", c) for c in table.values() if isinstance(c, dict)]
    if len(columns) != len(table) or not all(key.isdecimal() for key in columns[0]):
        return None
    if not columns[0] or any(column.keys() != columns[0].keys() for column in columns):
        return None
    return [{name: column[key] for name, column in table.items()} for key in columns[0]]
