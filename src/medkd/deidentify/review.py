"""A page for a person: the original text of cases with what the rules find marked, so that what
they miss can be seen.

In: a file of raw cases. Out: `review.html`, readable by its owner alone. It names patients and
stays where they may be named.
Not done here: the rules, replacing.
"""

import itertools
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from medkd.core.html import write_page
from medkd.core.jsonl import RecordReader
from medkd.core.records import RawCase
from medkd.deidentify.replace import find_all, texts_of
from medkd.deidentify.rules import Find

MAX_CASES = 300
MAX_LENGTH = 20_000
"""Characters shown of one section."""


class Piece(NamedTuple):
    """A stretch of text, marked with the rule that found it or not."""

    text: str
    rule: str = ""
    category: str = ""


def write_review(path: Path, source: Path) -> None:
    """Write the page of the first cases of a file."""
    reader = RecordReader(source, RawCase, made_by="collect")
    cases = [(case, _mark(case)) for case in itertools.islice(reader, MAX_CASES)]
    rules = Counter(
        piece.rule for _, parts in cases for _, pieces in parts for piece in pieces if piece.rule
    )
    write_page(
        path,
        "medkd.deidentify",
        "review.html.jinja",
        title="What the rules found",
        cases=cases,
        rules=rules.most_common(),
        limit=MAX_CASES,
    )
    path.chmod(0o600)


def _mark(case: RawCase) -> list[tuple[str, list[Piece]]]:
    """Give the named texts of a case in pieces."""
    names = [*case.sections, "title", *("diagnosis" for _ in case.diagnosis)]
    texts = [text[:MAX_LENGTH] for text in texts_of(case)]
    return [
        (name, _cut(text, finds))
        for name, text, finds in zip(names, texts, find_all(texts), strict=True)
        if text
    ]


def _cut(text: str, finds: list[Find]) -> list[Piece]:
    pieces: list[Piece] = []
    position = 0
    for find in finds:
        pieces += [
            Piece(text[position : find.start]),
            Piece(text[find.start : find.end], find.rule, str(find.category)),
        ]
        position = find.end
    return [piece for piece in (*pieces, Piece(text[position:])) if piece.text]
