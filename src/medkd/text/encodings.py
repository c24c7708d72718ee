"""The encoding of a file from outside: UTF-8, UTF-16, GB18030 or Big5, each read strictly, or a
refusal.

In: a path or bytes. Out: text, or one line that names the place and the next step; no character is
ever replaced by a mark. Not done here: what the text holds (`text.tables`).
"""

import codecs
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from medkd.core.errors import InputError, from_os_error

MAX_TEXT_BYTES = 2**26
"""Size up to which a file is held in memory whole."""
_CHUNK_BYTES = 2**20
_SAMPLE_CHUNKS = 8
"""Chunks by which GB18030 and Big5 are told apart."""
_CHINESE = ("gb18030", "big5hkscs")
"""What is tried where a text is not UTF-8; the first one wins a draw."""
_MIN_COMMON = 0.6
"""Share of the characters beyond ASCII that a Chinese text writes with common characters."""
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
    if scores[best] < _MIN_COMMON:
        raise _refuse(chunks, place, "utf-8")
    return _checked(Encoding(best), chunks, place)


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
