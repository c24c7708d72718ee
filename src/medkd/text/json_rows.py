"""Rows of JSON files: arrays element by element, JSON Lines, whole tables as pandas writes them.

In: a path and its encoding. Out: `RawRow`s one by one, a broken one with what is wrong with it; a
file is never held whole. Not done here: telling JSON from other files (`text.tables`).
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import orjson

from medkd.core.errors import InputError
from medkd.text.encodings import Encoding, open_text

MAX_ROW_BYTES = 2**26
"""Length up to which one line, element or cell is read."""
MAX_DEPTH = 64
"""Brackets within brackets up to which a JSON value is read."""
_CHUNK_CHARACTERS = 2**20


class RawRow(NamedTuple):
    """One row of a file: `content` is a JSON value or the cells of a table by heading."""

    place: str
    """Where it stands: `a.jsonl:7`, `a.json, item 7`, `a.csv, row 7`, `a.xlsx, Sheet1, row 7`."""
    content: Any
    problem: str = ""
    """What is wrong with a row that cannot be read; `content` is then None."""


def read_json_lines(path: Path, encoding: Encoding) -> Iterator[RawRow]:
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
    if len(_KEY.findall(line)) > _count_keys(value):  # or a text holds what looks like one
        return _parse_leniently(line, place)
    n_brackets = line.count(b"{") + line.count(b"[")
    return _bounded(value, place) if n_brackets > MAX_DEPTH else RawRow(place, value)


def _parse_leniently(line: bytes, place: str) -> RawRow:
    """Parse what orjson does not take: NaN, large numbers, halves of characters, which go; and
    objects that repeat a key."""
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


def _join_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; of a key that it repeats, all values that differ, as of a repeated column."""
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    found: dict[str, dict[str, Any]] = {}
    for key, value in pairs:
        found.setdefault(key, {}).setdefault(json.dumps(value), value)
    for key, different in found.items():
        values[key] = list(different.values()) if len(different) > 1 else values[key]
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_join_repeated)
_KEY = re.compile(rb'"\s*:')


def _count_keys(value: Any) -> int:
    """Count the keys of all objects in a value."""
    n, inner = 0, [value]
    while inner:
        each = inner.pop()
        n += len(cast("dict[str, Any]", each)) if isinstance(each, dict) else 0
        inner += [child for child in _children(each) if isinstance(child, dict | list)]
    return n


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
ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
"""What a byte that is no UTF-8 is decoded to."""


def read_arrays(path: Path, encoding: Encoding) -> Iterator[RawRow]:
    """Read the elements of an array, or of several in a row; raise InputError where one breaks
    off."""
    with open_text(path, encoding) as file:
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
    with open_text(path, encoding) as file:
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
    if window.is_damaged and ESCAPED_BYTE.search(window.text, start, end):
        return RawRow(place, None, "bytes that are no UTF-8")
    if window.text.find("\\u", start, end) >= 0:
        value = _without_surrogates(value)
    return _bounded(value, place)


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
