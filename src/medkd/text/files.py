"""Text files from outside: their encoding (UTF-8, UTF-16, GB18030 or Big5, each read strictly, or a
refusal), and the rows of JSON arrays, JSON Lines and whole tables as pandas writes them.

In: a path or bytes. Out: text, or `RawRow`s one by one, a broken one with what is wrong with it; no
character is ever replaced by a mark. Not done here: telling JSON from other files (`text.tables`).
"""

import codecs
import itertools
import json
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import orjson

from medkd.core.errors import InputError, from_os_error
from medkd.core.jsonl import read_lines

MAX_TEXT_BYTES = 2**26
"""Size up to which a file is held in memory whole."""
PACKED = "a packed file; unpack it first"
"""What to do with a packed file that holds no JSON Lines."""
_CHUNK_BYTES = 2**20
_SAMPLE_CHUNKS = 8
"""Chunks by which GB18030 and Big5 are told apart."""
_CHINESE = ("gb18030", "big5hkscs")
"""What is tried where a text is not UTF-8; the first one wins a draw."""
_MIN_COMMON = 0.6
"""Share of the characters beyond ASCII that a Chinese text writes with common characters."""
_MAX_LONE = 0.8
"""Share of the runs of bytes beyond ASCII that may be one byte long; in Big5 about 0.4 are."""
_MAX_NUL = 0.1
"""Share of NUL bytes from which a file is no text."""
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Encoding(NamedTuple):
    """How a text is encoded; `is_damaged` means UTF-8 in which single bytes are broken."""

    name: str
    is_damaged: bool = False

    @property
    def errors(self) -> str:
        """The error handler to decode with: damaged bytes become `\\udc80` to `\\udcff`."""
        return "surrogateescape" if self.is_damaged else "strict"


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading; raise InputError for a folder, a pipe, a device or nothing at
    all."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError("{}: a folder; name a file in it", path)
        if not stat.S_ISREG(mode):
            raise InputError("{}: a pipe or device; write its content to a file first", path)
        return path.open("rb")
    except ValueError as error:
        raise InputError("{!r}: no name of a file; check the path", str(path)) from error
    except OSError as error:
        raise from_os_error(error, path) from error


def open_text(path: Path, encoding: Encoding) -> IO[str]:
    """Open a file of a known encoding, its line ends as they are, without a byte-order mark."""
    name = "utf-8-sig" if encoding.name == "utf-8" else encoding.name
    return path.open(encoding=name, errors=encoding.errors, newline="")


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a whole file as text; raise InputError where it is empty, too large or in no known
    encoding."""
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise InputError(
            "{}: larger than {:.0f} MiB; is this the right file?", path, max_bytes / 2**20
        )
    if not content.strip():
        raise InputError("{}: the file is empty", path)
    return decode(content, str(path))


def decode(content: bytes, place: str) -> str:
    """Decode bytes strictly; raise InputError that begins with `place`."""
    encoding = _detect(lambda: iter([content]), place)
    if encoding.is_damaged:
        raise _refuse(lambda: iter([content]), place, "utf-8")
    return content.decode(encoding.name)


def find_encoding(path: Path) -> Encoding:
    """Find the encoding of a file by reading all of it; raise InputError where it has none."""
    with open_regular(path) as file:

        def chunks() -> Iterator[bytes]:
            file.seek(0)
            return iter(lambda: file.read(_CHUNK_BYTES), b"")

        return _detect(chunks, str(path))


_Chunks = Callable[[], Iterator[bytes]]


def _detect(chunks: _Chunks, place: str) -> Encoding:
    head = next(chunks(), b"")
    for mark, name in _BOMS:
        if head.startswith(mark):
            return _checked(Encoding(name), chunks, place)
    is_utf8 = _find_break(chunks, "utf-8") is None
    if _is_dotted_with_nul(head) or (not is_utf8 and b"\0" in head):
        return _checked(Encoding(_guess_utf16(head, place)), chunks, place)
    if is_utf8:
        return Encoding("utf-8")
    sample = b"".join(islice(chunks(), _SAMPLE_CHUNKS))
    if _is_damaged_utf8(sample):
        return Encoding("utf-8", is_damaged=True)
    scores = {name: _share_common(sample, name) for name in _CHINESE}
    best = max(scores, key=scores.__getitem__)
    if scores[best] < _MIN_COMMON or _has_lone_bytes(sample):
        raise _refuse(chunks, place, "utf-8")
    return _checked(Encoding(best), chunks, place)


def _has_lone_bytes(sample: bytes) -> bool:
    """Tell whether bytes beyond ASCII stand alone, as the accents and signs of a Western encoding
    do and Chinese characters do not: `38.5°C` would be read as a character of Big5."""
    runs = re.findall(rb"[\x80-\xff]+", re.sub(rb"\xa8k|\xa4k", b"", sample))  # 男, 女 in Big5
    return sum(len(run) == 1 for run in runs) > _MAX_LONE * len(runs)


def _checked(encoding: Encoding, chunks: _Chunks, place: str) -> Encoding:
    if _find_break(chunks, encoding.name) is None:
        return encoding
    raise _refuse(chunks, place, encoding.name)


def _refuse(chunks: _Chunks, place: str, name: str) -> InputError:
    """Make the error for a text that no encoding decodes whole; `name` is the likeliest one."""
    line = _find_break(chunks, name) or 1
    return InputError(
        "{}:{}: neither UTF-8, UTF-16, GB18030 nor Big5 text as a whole; save "
        "the file again, or convert it to UTF-8 with iconv",
        place,
        line,
    )


def _find_break(chunks: _Chunks, name: str) -> int | None:
    """Return the line of the first bytes that are not of an encoding; None where all are."""
    decoder = codecs.getincrementaldecoder(name)()
    line = 1
    try:
        for chunk in chunks():
            line += decoder.decode(chunk).count("\n")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return line + error.object[: error.start].count(b"\n")
    return None


def _is_dotted_with_nul(head: bytes) -> bool:
    return head.count(0) > _MAX_NUL * len(head)


def _guess_utf16(head: bytes, place: str) -> str:
    """Tell the byte order of UTF-16 without its mark: in a text most characters are common ones."""
    even = head[: len(head) // 2 * 2]
    scores = {name: _share_common(even, name) for name in ("utf-16-le", "utf-16-be")}
    best = max(scores, key=scores.__getitem__)
    if scores[best] < _MIN_COMMON:
        raise InputError("{}: no text but bytes of a program; export it as a text or table", place)
    return best


def _is_damaged_utf8(sample: bytes) -> bool:
    """Tell UTF-8 in which single bytes are broken from text in another encoding."""
    text = sample.decode("utf-8", "surrogateescape")
    n_broken = sum("\udc80" <= character <= "\udcff" for character in text)
    n_whole = sum(character > "\x7f" for character in text) - n_broken
    return n_whole > 4 * n_broken


def _share_common(sample: bytes, name: str) -> float:
    """Measure how many characters beyond ASCII a Chinese text of this encoding would often use.
    For UTF-16 ASCII counts too."""
    counts = Counter(sample.decode(name, "replace"))
    if not name.startswith("utf-16"):
        counts = Counter({c: n for c, n in counts.items() if c > "\x7f"})
    common = _common_characters(name)
    return sum(n for c, n in counts.items() if c in common) / max(1, counts.total())


@cache
def _common_characters(name: str) -> frozenset[str]:
    """List the marks and the frequent characters of a Chinese character set: the first level of
    GB 2312, of Big5, or both with ASCII."""
    if name.startswith("utf-16"):
        ascii_text = "\t\n\r" + "".join(map(chr, range(32, 127)))
        return frozenset(ascii_text).union(*map(_common_characters, _CHINESE))
    rows, marks, first, last = (
        ("gb2312", range(0xA1, 0xA4), 0xB0, 0xD7)
        if name == "gb18030"
        else ("big5", range(0xA1, 0xA4), 0xA4, 0xC6)
    )
    pairs = (
        bytes((lead, trail))
        for lead in (*marks, *range(first, last + 1))
        for trail in range(0x40, 0xFF)
    )
    return frozenset(pair.decode(rows, "ignore") for pair in pairs) - {""}


# Rows of JSON

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
    """Read a value a line; a file whose first line is no value holds values over several lines. A
    value that stands alone may be a whole table."""
    rows = _read_lines_or_values(path, encoding)
    begun = list(islice(rows, 2))
    is_alone = not any(isinstance(row.content, dict) for row in begun[1:])
    first = _expand(begun[0]) if begun and is_alone else begun[:1]
    yield from itertools.chain(first, begun[1:], rows)


def _read_lines_or_values(path: Path, encoding: Encoding) -> Iterator[RawRow]:
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
                yield first
                yield from values
                return
        yield row
        is_first = False


def read_packed_lines(path: Path) -> Iterator[RawRow]:
    """Read a value a line of JSON Lines that are packed (gzip, zstd), in UTF-8; raise InputError
    where something else is packed, as a table."""
    is_first = True
    for place, line in read_lines(path):
        if is_first and not line.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
            raise InputError("{}: {}", path, PACKED)
        yield _parse(line.removeprefix(codecs.BOM_UTF8) if is_first else line, place)
        is_first = False
    if is_first:
        raise InputError("{}: the file is empty; check --input", path)


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
    lowered = {name.lower(): inner for name, inner in table.items()}
    for name in ("data", "rows", "records"):
        inner: Any = lowered.get(name)
        if isinstance(inner, list) and inner and all(isinstance(r, dict) for r in cast(Any, inner)):
            return cast("list[Any]", inner)
    columns = [cast("dict[str, Any]", c) for c in table.values() if isinstance(c, dict)]
    if len(columns) != len(table) or not all(key.isdecimal() for key in columns[0]):
        return None
    if not columns[0] or any(column.keys() != columns[0].keys() for column in columns):
        return None
    return [{name: column[key] for name, column in table.items()} for key in columns[0]]
