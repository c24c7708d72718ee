"""What the house knows to identify somebody: staff, wards, villages, employers, finds of reviewers.

In: a file of terms. Out: the places where they stand in a normalised text, whatever the width,
script, case or gaps they are written with. Not done here: terms that are nowhere written down.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from medkd.core.errors import InputError, from_os_error
from medkd.deidentify.rules import Category
from medkd.text.normalize import normalize

_KINDS = {key: kind for kind in Category for key in (kind.value, kind.name.lower())}
_LONGEST_GAP = 3


class Known(NamedTuple):
    """Terms to be masked wherever they stand."""

    terms: tuple[tuple[str, Category], ...] = ()
    """Normalised, without blanks, in lower case; the longest first."""
    read: frozenset[str] = frozenset()
    """Ids of the cases that a person says to have read for what was missed."""
    n_missed: int = 0
    """Identifiers that were missed in them."""

    def find(self, text: str) -> Iterator[tuple[int, int, Category]]:
        """Find the terms in a normalised text."""
        if not self.terms:
            return
        places = [at for at, character in enumerate(text) if not character.isspace()]
        squeezed = "".join(text[at] for at in places).lower()
        for term, category in self.terms:
            start = squeezed.find(term)
            while start >= 0:
                first, last = places[start], places[start + len(term) - 1]
                is_whole = last - first < len(term) + _LONGEST_GAP and not (
                    _continues(text, first - 1, term[0]) or _continues(text, last + 1, term[-1])
                )
                if is_whole:
                    yield first, last + 1, category
                start = squeezed.find(term, start + 1)


def _continues(text: str, at: int, edge: str) -> bool:
    """Tell whether a Latin word or a number goes on beyond a term's edge."""
    if not 0 <= at < len(text) or not (edge.isascii() and edge.isalnum()):
        return False
    other = text[at]
    return other.isascii() and other.isalnum() and other.isdigit() == edge.isdigit()


def read_known(path: Path) -> Known:
    """Read a term a line, with a tab and its kind where it is no name (`电话` or `phone`); or the
    rows that the review page exports. Raise InputError with the line that cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise from_os_error(error, path) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8; save it as UTF-8") from error
    terms: dict[str, Category] = {}
    read: set[str] = set()
    n_missed = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        row = _read_row(line) if line.startswith("{") else None
        if row is not None and row.get("read"):
            read.add(str(row["read"]))
            continue
        n_missed += row is not None
        term, _, kind = (
            (str(row.get("missed", "")), "", str(row.get("kind", "")))
            if row is not None
            else line.partition("\t")
        )
        category = _KINDS.get(kind.strip() or "name")
        squeezed = "".join(normalize(term).split()).lower()
        if category is None or len(squeezed) < 2:
            raise InputError(
                f"{path}:{number}: needs a term of two characters or more, and where it is no "
                f"name a tab and one of {', '.join(kind.name.lower() for kind in Category)}"
            )
        terms[squeezed] = category
    ordered = sorted(terms.items(), key=lambda item: (-len(item[0]), item[0]))
    return Known(tuple(ordered), frozenset(read), n_missed)


def _read_row(line: str) -> dict[str, Any]:
    try:
        row: object = json.loads(line)
    except ValueError:
        return {}
    return cast(dict[str, Any], row) if isinstance(row, dict) else {}
