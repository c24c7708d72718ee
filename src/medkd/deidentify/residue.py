"""Finds what is left after replacing: what still looks like a date or a long number.

In: a text and the matches in it. Out: spans that no match covers. Not done here: deciding whether
what is left identifies anybody; a person reads the list.
"""

import re
from collections.abc import Iterable

from medkd.deidentify.rules import Match
from medkd.text.normalize import make_view

_DATE_SHAPE = re.compile(
    r"(?<![\d.])(?:19|20)\d\d\s?(?:年|[-/.]\d{1,2}(?:[-/.]\d{1,2})?(?![\d.]))"
    r"|\d{1,2}月份?\d{1,2}(?:[日号]|(?!\d))|(?<![\d.])\d{1,2}[-/.]\d{1,2}[-/](?:\d\d|\d{4})(?!\d)"
    r"|(?<!\d)(?:19|20)\d\d[01]\d[0-3]\d(?!\d)"
)


def find_date_shapes(text: str, matches: Iterable[Match]) -> list[tuple[int, int]]:
    """Find what is written like a calendar date and lies in no match."""
    return _uncovered(_DATE_SHAPE, text, matches)


def _uncovered(
    pattern: re.Pattern[str], text: str, matches: Iterable[Match]
) -> list[tuple[int, int]]:
    taken = bytearray(len(text))
    for match in matches:
        taken[match.start : match.end] = b"\1" * (match.end - match.start)
    view = make_view(text)
    spans = [view.original_span(*found.span()) for found in pattern.finditer(view.text)]
    return [(start, end) for start, end in spans if 1 not in taken[start:end]]
