"""What people decided about rationales (`reviews.jsonl` of the studio, beside the file that is read) overrules the checks.

In: a file of rationales and its rows. Out: the rows as people left them. Not done here: which judgement counts (`core.reviews`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from medkd.core.artifacts import RecordReader
from medkd.core.records import Checked
from medkd.core.reviews import REVIEWS, Decision, Review, read_reviews, settle
from medkd.merge.schemas import Drop, Origin, Row, read_row

REVIEWED = ("verified.jsonl", "rationales.jsonl")
REJECTED = "rejected.jsonl"


def find_review_files(paths: Iterable[Path]) -> list[Path]:
    """Name what people add to these files: their judgements, and the rows that the checks had rejected."""
    folders = dict.fromkeys(path.parent for path in paths if path.name in REVIEWED and (path.parent / REVIEWS).exists())
    return [folder / name for folder in folders for name in (REVIEWS, REJECTED) if (folder / name).exists()]


def honour_reviews(path: Path, rows: Sequence[Row], origin: Origin) -> tuple[list[Row], Counter[Drop]]:
    """Leave out what a person rejected, take a person's words where there are some, and bring back what a person accepted."""
    reviews = read_reviews(path.parent) if path.name in REVIEWED else {}
    settled = {key: settle(of_row) for key, of_row in reviews.items()}
    kept: list[Row] = []
    dropped = Counter[Drop]()
    for row in [*rows, *_bring_back(path, settled, origin)]:
        review = settled.get(row.example.id)
        if review is not None and review.decision is Decision.REJECT:
            dropped[Drop.REVIEW] += 1
        else:
            kept.append(_edit(row, review) if review is not None and review.decision is Decision.EDIT else row)
    return kept, dropped


def _edit(row: Row, review: Review) -> Row:
    words = {"reasoning": review.reasoning.strip() or row.example.reasoning, "answer": review.answer.strip() or row.example.answer}
    return row._replace(example=row.example.model_copy(update=words))


def _bring_back(path: Path, settled: dict[str, Review], origin: Origin) -> list[Row]:
    """Read the rows that checks rejected and people did not."""
    rejected = path.with_name(REJECTED)
    wanted = {key for key, review in settled.items() if review.decision is not Decision.REJECT}
    if path.name != REVIEWED[0] or not wanted or not rejected.exists() or not rejected.stat().st_size:
        return []
    chosen = (checked for checked in RecordReader(rejected, Checked, made_by="verify") if checked.rationale.id in wanted)
    found = (read_row(checked.model_dump(mode="json"), origin, Counter()) for checked in chosen)
    return [row for row in found if isinstance(row, Row)]
