"""A file of records, paged and searched however long it is: where each line begins is looked up
once, then lines are read one by one.

In: a JSON Lines file. Out: rows by number, the numbers of rows that hold a text, the tag of every
row.
Not done here: what a row means (`studio.rows`); files that are no JSON Lines.
"""

import json
import mmap
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson

if TYPE_CHECKING:
    import numpy as np

NEWLINE = 10
CHUNK_BYTES = 2**24
KEPT_SHELVES = 8
Row = dict[str, Any]


class Shelf:
    """The rows of one file as it stood when it was opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tags: dict[Callable[[Row], str], list[str]] = {}
        with path.open("rb") as file:
            self._bytes = (
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
            )

    @cached_property
    def _ends(self) -> "np.ndarray[Any, Any]":
        """Where each line ends; a last line without its newline ends with the file."""
        import numpy as np

        found = [
            np.flatnonzero(
                np.frombuffer(self._bytes[at : at + CHUNK_BYTES], dtype=np.uint8) == NEWLINE
            )
            + at
            for at in range(0, len(self._bytes), CHUNK_BYTES)
        ]
        ends = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
        is_torn = len(self._bytes) > 0 and self._bytes[-1] != NEWLINE
        return np.append(ends, len(self._bytes)) if is_torn else ends

    def __len__(self) -> int:
        return len(self._ends)

    def row(self, number: int) -> Row:
        """Read one row, counted from 0; a line that is no JSON object comes back as its text."""
        start = int(self._ends[number - 1]) + 1 if number else 0
        line = self._bytes[start : int(self._ends[number])]
        try:
            content = orjson.loads(line)
        except orjson.JSONDecodeError:
            content = None
        return (
            cast(Row, content)
            if isinstance(content, dict)
            else {"line": bytes(line).decode("utf-8", "replace")}
        )

    def find(self, text: str) -> list[int]:
        """Number the rows that hold a text, letter for letter; every row for no text."""
        import numpy as np

        if not text:
            return list(range(len(self)))
        needle = json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "replace")
        ends, found, at = self._ends, list[int](), 0
        while (at := self._bytes.find(needle, at)) >= 0:
            number = int(np.searchsorted(ends, at))
            found.append(number)
            at = int(ends[number]) + 1
        return found

    def tags(self, tag: Callable[[Row], str]) -> list[str]:
        """Give the tag of every row; worked out once."""
        if tag not in self._tags:
            self._tags[tag] = [tag(self.row(number)) for number in range(len(self))]
        return self._tags[tag]

    def count(self, tag: Callable[[Row], str]) -> dict[str, int]:
        """Count rows by tag, the commonest first."""
        return dict(Counter(self.tags(tag)).most_common())


def open_shelf(path: Path) -> Shelf:
    """Open a file, or take the shelf that stands open while the file has not changed."""
    status = path.stat()
    return _open(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=KEPT_SHELVES)
def _open(path: Path, changed_at: int, size: int) -> Shelf:
    return Shelf(path)


def take_page(numbers: Sequence[int], page: int, size: int) -> tuple[Sequence[int], int, int]:
    """Give the numbers on a page counted from 1, the page that was taken, and how many there
    are."""
    n_pages = max(1, -(-len(numbers) // size))
    page = min(max(1, page), n_pages)
    return numbers[(page - 1) * size : page * size], page, n_pages
