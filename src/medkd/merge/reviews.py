"""What people decided about rationales (`reviews.jsonl` of the studio, beside the file that is
read) overrules the checks.

In: a file of rationales and its rows. Out: the rows as people left them. Not done here: which
judgement counts (`core.reviews`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from medkd.core.jsonl import RecordReader
from medkd.core.records import Checked
from medkd.core.reviews import REVIEWS, Decision, Review, read_reviews, settle
from medkd.merge.rows import Origin, Row, read_row
from medkd.merge.schemas import Drop

REVIEWED = ("verified.jsonl", "rationales.jsonl")
REJECTED = "rejected.jsonl"


def find_review_files(paths: Iterable[Path]) -> list[Path]:
    """Name what people add to these files: their judgements, and the rows that the checks had
    rejected."""
    folders = dict.fromkeys(
        path.parent for path in paths if path.name in REVIEWED and (path.parent / REVIEWS).exists()
    )
    return [
        folder / name
        for folder in folders
        for name in (REVIEWS, REJECTED)
        if (folder / name).exists()
    ]


def read_decisions(path: Path) -> dict[str, Review]:
    """Read what people decided about the rows of a file: id to the judgement that counts."""
    reviews = read_reviews(path.parent) if path.name in REVIEWED else {}
    return {key: settle(of_row) for key, of_row in reviews.items()}


def overrule(row: Row, review: Review | None) -> Row | Drop:
    """Leave out what a person rejected, and take a person's words where there are some."""
    if review is None:
        return row
    if review.decision is Decision.REJECT:
        return Drop.REVIEW
    return _edit(row, review) if review.decision is Decision.EDIT else row


def _edit(row: Row, review: Review) -> Row:
    words = {
        "reasoning": review.reasoning.strip() or row.example.reasoning,
        "answer": review.answer.strip() or row.example.answer,
    }
    return row._replace(example=row.example.model_copy(update=words))


def bring_back(origin: Origin, decisions: dict[str, Review]) -> Iterator[Row]:
    """Read the rows that checks rejected and people did not."""
    rejected = origin.path.with_name(REJECTED)
    wanted = {key for key, review in decisions.items() if review.decision is not Decision.REJECT}
    if (
        origin.path.name != REVIEWED[0]
        or not wanted
        or not rejected.exists()
        or not rejected.stat().st_size
    ):
        return
    chosen = (
        checked
        for checked in RecordReader(rejected, Checked, made_by="verify")
        if checked.rationale.id in wanted
    )
    found = (read_row(checked.model_dump(mode="json"), origin, Counter()) for checked in chosen)
    yield from (row for row in found if isinstance(row, Row))
