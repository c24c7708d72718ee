"""The page on which a person looks for what was missed, and what that says of recall.

In: raw cases. Out: a page of the ORIGINAL text of a seeded sample with the finds marked, which
exports what a person marks as missed; an estimate of recall from it. Not done here: finding.
"""

import base64
import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core.html import render_page
from medkd.core.jsonl import RecordReader
from medkd.core.records import RawCase
from medkd.deidentify.replace import list_texts
from medkd.deidentify.rules import Category, Match
from medkd.deidentify.search import Help, find_in_all

_SEED = "medkd review"
_MAX_SHOWN = 20_000
"""Characters shown of one text of a reviewed case."""


class Piece(NamedTuple):
    """A stretch of text on the review page, marked with the rule that found it or not."""

    text: str
    rule: str = ""
    category: str = ""
    is_flag: bool = False


def sample_size(share: float) -> int:
    """Return how many cases have to be read without a miss to say with 95 % confidence that fewer
    than a share of all cases hold one: the rule of three.

    >>> sample_size(0.01)
    300
    """
    return math.ceil(round(3 / share, 6))


def write_review(path: Path, source: Path, share: float, help_: Help) -> None:
    """Write the page, readable by its owner alone."""
    n = sample_size(share)
    reader = RecordReader(source, RawCase, made_by="collect")
    cases = [(case, _mark(case, help_)) for case in _sample(reader, n)]
    rules = Counter(
        piece.rule for _, parts in cases for _, pieces in parts for piece in pieces if piece.rule
    )
    script = (files("medkd.deidentify") / "review.js").read_text(encoding="utf-8")
    render_page(
        path,
        "medkd.deidentify",
        "review.html.jinja",
        private=True,
        title="What the rules found",
        cases=cases,
        rules=rules.most_common(),
        kinds=[category.value for category in Category],
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        bound=f"{min(100, 300 / max(len(cases), 1)):.3g}",
    )


def _sample(cases: Iterable[RawCase], n: int) -> list[RawCase]:
    """Draw cases by a hash of their ids: the same ones each time."""
    drawn = heapq.nsmallest(
        n,
        (
            (hashlib.sha256(f"{_SEED}\0{case.id}".encode("utf-8", "replace")).digest(), at, case)
            for at, case in enumerate(cases)
        ),
    )
    return [case for _, _, case in drawn]


def _mark(case: RawCase, help_: Help) -> list[tuple[list[Piece], list[Piece]]]:
    """Cut the texts of a case into pieces: each section's name with its text, then the others."""
    texts = [(text[:_MAX_SHOWN], joint) for text, joint in list_texts(case)]
    found = find_in_all(texts, help_)
    cut = [_cut(text, matches) for (text, _), matches in zip(texts, found, strict=True)]
    n = 2 * len(case.sections)
    names = [
        "title",
        *("department" for _ in case.department),
        *("diagnosis" for _ in case.diagnosis),
    ]
    others = [([Piece(name)], pieces) for name, pieces in zip(names, cut[n:], strict=True)]
    return [
        (name, pieces)
        for name, pieces in (*zip(cut[:n:2], cut[1:n:2], strict=True), *others)
        if pieces
    ]


def _cut(text: str, matches: list[Match]) -> list[Piece]:
    pieces: list[Piece] = []
    position = 0
    for match in matches:
        found = text[match.start : match.end]
        pieces += [
            Piece(text[position : match.start]),
            Piece(found, match.rule, str(match.category), match.is_flag),
        ]
        position = match.end
    return [piece for piece in (*pieces, Piece(text[position:])) if piece.text]


def estimate_recall(n_found: int, n_missed: int) -> dict[str, Any]:
    """Estimate recall from cases that a person has read, with the exact (Clopper-Pearson) interval
    of 95 %.

    >>> estimate_recall(95, 5)["interval"]
    [0.8872, 0.9836]
    """
    from scipy.stats import binomtest  # pyright: ignore[reportMissingTypeStubs]

    n = n_found + n_missed
    if not n:
        return {"found": 0, "missed": 0}
    interval: Any = binomtest(n_found, n).proportion_ci()
    return {
        "found": n_found,
        "missed": n_missed,
        "recall": round(n_found / n, 4),
        "interval": [round(float(interval.low), 4), round(float(interval.high), 4)],
    }
