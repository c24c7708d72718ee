"""A file of records, paged, searched and filtered however long it is: where each line begins is
looked up once, then lines are read one by one.

In: a JSON Lines file. Out: rows by number, the numbers of rows that hold a text or carry a value.
Not done here: what a row means (`studio.rows`); files that are no JSON Lines.
"""

import json
import mmap
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock, Thread
from typing import Any, cast

import orjson

KEPT_FILES = 8
N_AT_ONCE = 1000
"""Rows of a file that is not worth a thread."""
BATCH, PAUSE_S = 200, 0.001
"""Rows that are read in a row for their values, and the pause after them, in which pages are
drawn."""
Row = dict[str, Any]
Facets = Callable[[Row], Mapping[str, str]]
"""What a row is filtered by: name (`reason`, `source`) to value."""


class JsonlIndex:
    """The rows of one file as it stood when it was opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = path.stat().st_size
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self._ends = array("Q")
        """Where each line ends; a last line without its newline ends with the file."""
        at = -1
        while (at := self._bytes.find(b"\n", at + 1)) >= 0:
            self._ends.append(at)
        if size and self._bytes[-1:] != b"\n":
            self._ends.append(size)
        self._values: dict[str, dict[str, array[int]]] = {}
        self._n_read = 0
        self._is_begun = False
        self._lock = Lock()
        self._ids: dict[str, int] | None = None
        self._found: tuple[str, Sequence[int]] = ("", ())

    def __len__(self) -> int:
        return len(self._ends)

    def row(self, number: int) -> Row:
        """Read one row, counted from 0; a line that is no JSON object comes back as its text."""
        start = self._ends[number - 1] + 1 if number else 0
        line = self._bytes[start : self._ends[number]]
        try:
            content = orjson.loads(line)
        except orjson.JSONDecodeError:
            content = None
        if isinstance(content, dict):
            return cast(Row, content)
        return {"line": line.decode("utf-8", "replace")}

    def find(self, text: str) -> Sequence[int]:
        """Number the rows that hold a text, letter for letter; every row for no text."""
        if not text:
            return range(len(self))
        if self._found[0] == text:  # the next page of the same search
            return self._found[1]
        needle = json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "replace")
        found, at = array("L"), 0
        while (at := self._bytes.find(needle, at)) >= 0:
            number = bisect_left(self._ends, at)
            found.append(number)
            at = self._ends[number] + 1
        self._found = (text, found)
        return found

    def values(self, facets: Facets) -> dict[str, dict[str, Sequence[int]]]:
        """Return the numbers of the rows that carry each value of each facet, the commonest value
        first, as far as the file has been read: a long one is read by a thread, which begins with
        the first call."""
        with self._lock:
            is_begun, self._is_begun = self._is_begun, True
        if not is_begun and len(self) <= N_AT_ONCE:
            self._read_values(facets)
        elif not is_begun:
            Thread(target=self._read_values, args=(facets,), daemon=True).start()
        with self._lock:
            return {
                name: dict(sorted(values.items(), key=lambda pair: -len(pair[1])))
                for name, values in self._values.items()
            }

    @property
    def is_read(self) -> bool:
        """Whether all rows have been read for their values."""
        return self._n_read == len(self)

    def _read_values(self, facets: Facets) -> None:
        for number in range(len(self)):
            found = facets(self.row(number))
            with self._lock:
                for name, value in found.items():
                    self._values.setdefault(name, {}).setdefault(value, array("L")).append(number)
            self._n_read = number + 1
            if number % BATCH == 0:
                time.sleep(PAUSE_S)

    def ids(self, find_id: Callable[[Row], str]) -> dict[str, int]:
        """Return the number of each row by its id, in the order of the file; read once."""
        if self._ids is None:
            self._ids = {find_id(self.row(number)): number for number in range(len(self))}
        return self._ids


def open_index(path: Path) -> JsonlIndex:
    """Open a file, or take the index that stands open while the file has not changed."""
    status = path.stat()
    return _open(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=KEPT_FILES)
def _open(path: Path, changed_at: int, size: int) -> JsonlIndex:
    return JsonlIndex(path)


def take_page(numbers: Sequence[int], page: int, size: int) -> tuple[Sequence[int], int, int]:
    """Return the numbers on a page counted from 1, the page that was taken, and how many there
    are."""
    n_pages = max(1, -(-len(numbers) // size))
    page = min(max(1, page), n_pages)
    return numbers[(page - 1) * size : page * size], page, n_pages
