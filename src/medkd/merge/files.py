"""Reads the rows of a JSON or JSON Lines file, whatever its suffix says.

In: a file. Out: its elements one by one with their numbers, a broken one as None. Not done here: what a row means (`merge.schemas`).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from medkd.core.errors import InputError, from_os_error

_NEXT_ELEMENT = re.compile(r"\}\s*,\s*(?=\{)")

NumberedRow = tuple[int, Any]


def read_rows(path: Path) -> Iterator[NumberedRow]:
    """Give each element of an array, or each line that is not blank, with its number; None for one that is broken.

    Raises InputError for a file that is missing, empty or no UTF-8 text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise from_os_error(error, path) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8 text; convert the file with iconv and try again") from error
    if not text.strip():
        raise InputError(f"{path}: the file is empty; check --input")
    return _read_array(text) if text.lstrip().startswith("[") else _read_lines(text)


def _read_lines(text: str) -> Iterator[NumberedRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, orjson.loads(line)
            except orjson.JSONDecodeError:
                yield number, None


def _read_array(text: str) -> Iterator[NumberedRow]:
    """Read an array at once, or where it is broken element by element, going on behind a broken one."""
    try:
        yield from enumerate(orjson.loads(text), start=1)
    except orjson.JSONDecodeError:
        yield from _read_elements(text)


def _read_elements(text: str) -> Iterator[NumberedRow]:
    decoder = json.JSONDecoder()
    position, number = text.index("[") + 1, 0
    while (start := re.compile(r"[\s,]*").match(text, position)) and start.end() < len(text) and text[start.end()] != "]":
        position, number = start.end(), number + 1
        try:
            element, position = decoder.raw_decode(text, position)
            yield number, element
        except (json.JSONDecodeError, RecursionError):
            yield number, None
            following = _NEXT_ELEMENT.search(text, position)
            if following is None:
                return
            position = following.end()
