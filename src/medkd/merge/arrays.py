"""Reads a JSON array element by element, however large the file, and goes on behind an element that
is broken.

In: a UTF-8 file that begins with `[`. Out: its elements with their numbers, a broken one as None.
Not done here: any other form.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from medkd.core.errors import InputError

CHUNK_BYTES = 2**20
MAX_ELEMENT = 2**23
"""Characters after which an element that does not end is called broken."""
_BETWEEN = re.compile(r"[\s,]*")


class _Text:
    """The part of a file that is being looked at, as text."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._n_lines = 1
        self.text = ""
        self.is_at_end = False

    def read_more(self) -> None:
        chunk = self._file.read(CHUNK_BYTES)
        self.is_at_end = not chunk
        try:
            self.text += self._decoder.decode(chunk, final=self.is_at_end)
        except UnicodeDecodeError as error:
            line = self._n_lines + chunk[: error.start].count(b"\n")
            raise InputError(
                f"{self._path}:{line}: not UTF-8 text; convert the file with iconv and try again"
            ) from error
        self._n_lines += chunk.count(b"\n")

    def forget(self, position: int) -> None:
        self.text = self.text[position:]


def read_array(path: Path) -> Iterator[tuple[int, Any]]:
    """Give each element of an array with its number; None for one that is broken. Raises InputError
    for no UTF-8 text."""
    decoder = json.JSONDecoder()
    with path.open("rb") as file:
        window = _Text(file, path)
        window.read_more()
        position, number, restart = window.text.index("[") + 1, 0, _restart_at("")
        while True:
            position = _find_element(window, position)
            if position < 0:
                return
            number += 1
            try:
                element, position = _decode(decoder, window, position)
            except (json.JSONDecodeError, RecursionError):
                yield number, None
                position = _find_restart(window, position, restart)
                if position < 0:
                    return
                continue
            if number == 1 and isinstance(element, dict) and element:
                restart = _restart_at(next(iter(element)))
            yield number, element
            if position > CHUNK_BYTES:
                window.forget(position)
                position = 0


def _find_element(window: _Text, position: int) -> int:
    """Go to where the next element begins; -1 at the end of the array."""
    while True:
        between = _BETWEEN.match(window.text, position)
        position = between.end() if between else position
        if position < len(window.text):
            return -1 if window.text[position] == "]" else position
        if window.is_at_end:
            return -1
        window.read_more()


def _decode(decoder: json.JSONDecoder, window: _Text, position: int) -> tuple[Any, int]:
    """Decode the element at a position, reading on while it may only be cut off; raises
    JSONDecodeError where it is broken."""
    while True:
        try:
            element, end = decoder.raw_decode(window.text, position)
        except json.JSONDecodeError as error:
            may_be_cut = error.pos >= len(window.text) - 16 or error.msg.startswith(
                "Unterminated string"
            )
            if window.is_at_end or not may_be_cut or len(window.text) - position > MAX_ELEMENT:
                raise
        else:
            if (
                end < len(window.text) or window.is_at_end
            ):  # a number that ends with the window may go on behind it
                return element, end
        window.read_more()


def _restart_at(first_field: str) -> re.Pattern[str]:
    """Say where a next element may begin: as the first one did, so that no object inside a broken
    element is taken for one."""
    if not first_field:
        return re.compile(r"\}\s*,\s*(?=\{)")
    return re.compile(
        r",\s*(?=\{\s*" + re.escape(json.dumps(first_field, ensure_ascii=False)) + ")"
    )


def _find_restart(window: _Text, position: int, restart: re.Pattern[str]) -> int:
    """Find the element behind a broken one; -1 where there is none."""
    while True:
        found = restart.search(window.text, position)
        if found:
            return found.end()
        if window.is_at_end:
            return -1
        window.forget(max(position, len(window.text) - 4096))
        position = 0
        window.read_more()
