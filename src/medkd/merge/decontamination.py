"""Finds rows whose question holds a benchmark's question: such a row may not be trained on.

In: the questions of a benchmark, and plain questions of rows. Out: which row holds at least the
wanted share of which question's character 8-grams. Not done here: paraphrases of a question, or a
benchmark's answers in a row's reasoning.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from medkd.core.errors import InputError
from medkd.core.jsonl import list_parts, resolve_input
from medkd.merge.sources import list_files
from medkd.text import question_rows
from medkd.text.normalize import make_plain
from medkd.text.question_rows import name_fields
from medkd.text.similarity import hash_grams
from medkd.text.tables import read_rows

N_GRAM = 8
QUESTION_FIELDS = (
    "question",
    "Question",
    "input",
    "prompt",
    "query",
    "instruction",
    "text",
    "content",
    "题目",
    "问题",
)
"""Where a benchmark of no known schema may hold its question; the first that is there is taken."""


class Overlap(NamedTuple):
    """A row that holds a benchmark's question, or enough of it."""

    place: int
    """Of the row in the batch."""
    question: int
    share: float


class NgramIndex:
    """Questions that are to be measured on, ready to be looked for."""

    def __init__(self, plain: Sequence[str]) -> None:
        import numpy as np

        grams = hash_grams(plain, N_GRAM)
        owners = np.repeat(
            np.arange(len(plain), dtype=np.int64), np.diff(grams.offsets.astype(np.int64))
        )
        order = np.lexsort((owners, grams.hashes))
        hashes, owners = grams.hashes[order], owners[order]
        is_new = np.ones(len(hashes), dtype=bool)
        is_new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        hashes, self._owners = hashes[is_new], owners[is_new]
        self._hashes, starts = np.unique(hashes, return_index=True)
        self._starts = np.append(starts, len(hashes))
        self._sizes = np.bincount(self._owners, minlength=len(plain))

    def find(self, plain: Sequence[str], share: float) -> Iterator[Overlap]:
        """Say which of some rows hold at least `share` of a question's n-grams: the question they
        hold most of."""
        import numpy as np

        if not len(self._hashes) or not plain:
            return
        grams = hash_grams(plain, N_GRAM)
        rows = np.repeat(
            np.arange(len(plain), dtype=np.int64), np.diff(grams.offsets.astype(np.int64))
        )
        places = np.minimum(np.searchsorted(self._hashes, grams.hashes), len(self._hashes) - 1)
        is_known = self._hashes[places] == grams.hashes
        once = np.unique(np.stack([rows[is_known], places[is_known]], axis=1), axis=0)
        counts = self._starts[once[:, 1] + 1] - self._starts[once[:, 1]]
        firsts = np.repeat(
            self._starts[once[:, 1]] - np.cumsum(counts) + counts, counts
        ) + np.arange(counts.sum())
        pairs, n_shared = np.unique(
            np.repeat(once[:, 0], counts) * len(self._sizes) + self._owners[firsts],
            return_counts=True,
        )
        held = n_shared / self._sizes[pairs % len(self._sizes)]
        best: dict[int, Overlap] = {}
        for pair, part in zip(
            pairs[held >= share].tolist(), held[held >= share].tolist(), strict=True
        ):
            row, question = divmod(pair, len(self._sizes))
            if row not in best or part > best[row].share:
                best[row] = Overlap(row, question, round(part, 4))
        yield from best.values()


def find_benchmarks(given: Sequence[Path]) -> list[Path]:
    """Name the files of benchmarks: files themselves, the questions of a stage's directory, or a
    dataset on a hub."""

    def find(path: Path) -> list[Path]:
        if (path / "test.jsonl").exists():
            return [path / "test.jsonl"]
        return list_parts(resolve_input(path, "questions.jsonl", made_by="prepare"))

    return [path for path, _ in list_files(given, find)]


def read_questions(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Read the questions of benchmark files, each with its place; raises InputError for a file that
    holds none."""
    found: list[tuple[str, str]] = []
    for path in paths:
        n_before, fields = len(found), ""
        for row in read_rows(path):
            question = find_question(row.content)
            if question and make_plain(question):
                found.append((row.place, question))
            fields = fields or name_fields(row.content)
        if len(found) == n_before:
            raise InputError(
                "{}: no question found in this benchmark; found fields: {}; expected {}",
                path,
                fields or "none",
                ", ".join(QUESTION_FIELDS),
            )
    return found


def find_question(row: Any) -> str:
    """Find the question of a benchmark's row: as its schema says, or in a field whose name says
    so."""
    if isinstance(row, str):
        return row
    if not isinstance(row, dict):
        return ""
    fields = cast(dict[str, Any], row)
    if question := question_rows.find_question(fields):
        return question
    if isinstance(inner := fields.get("rationale", fields.get("question")), dict):
        return find_question(cast(dict[str, Any], inner))
    texts = (fields.get(name) for name in QUESTION_FIELDS)
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")
