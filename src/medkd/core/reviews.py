"""People's reviews of rationales: `reviews.jsonl` beside the records, one line each, append-only.

In: a directory of `verify` or `distill`. Out: the review that counts for each rationale; how far
two reviewers agree. Not done here: asking people (`studio`), leaving rows out (`merge`).
"""

import getpass
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from medkd.core.jsonl import RecordAppender, RecordReader
from medkd.core.records import NonEmpty, Record
from medkd.core.statistics import cohen_kappa

REVIEWS = "reviews.jsonl"
_writing = Lock()


def find_user_name() -> str:
    """Return the name of who works here; "user" where the system has none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "user"


class Decision(StrEnum):
    """A reviewer's decision about a rationale."""

    ACCEPT = "accept"
    """Sound as it is, whatever the checks found."""
    EDIT = "edit"
    """Sound as the reviewer rewrote it."""
    REJECT = "reject"
    """Not to be trained on."""


class Review(Record):
    """One review by one person; a later one by the same person replaces it."""

    id: NonEmpty
    """Of the rationale."""
    reviewer: NonEmpty
    decision: Decision
    reason: str = ""
    reasoning: str = ""
    """As the reviewer rewrote it; empty unless the decision is `edit`."""
    answer: str = ""
    at: str = ""
    """ISO 8601, UTC."""


class Agreement(NamedTuple):
    """How far two reviewers agree on what both reviewed; an edit counts as acceptance."""

    reviewers: tuple[str, str]
    n: int
    agreed: int
    kappa: float | None
    """Cohen's kappa; None where both gave the same decision everywhere."""


def add_review(directory: Path, review: Review) -> None:
    """Append a review, with the time."""
    stamped = review.model_copy(update={"at": datetime.now(UTC).isoformat(timespec="seconds")})
    with _writing, RecordAppender(directory / REVIEWS) as file:
        file.append(stamped)


def read_reviews(directory: Path) -> dict[str, list[Review]]:
    """Read the reviews that count, by rationale: the last of each person, in order of time."""
    path = directory / REVIEWS
    found: dict[str, dict[str, Review]] = {}
    if path.exists() and path.stat().st_size:
        for review in RecordReader(path, Review, made_by="studio"):
            of_row = found.setdefault(review.id, {})
            of_row.pop(review.reviewer, None)
            of_row[review.reviewer] = review
    return {key: list(of_row.values()) for key, of_row in found.items()}


def settle(reviews: Sequence[Review]) -> Review:
    """Choose the review that counts: a rejection, else the last edit, else the last acceptance."""
    order = (Decision.REJECT, Decision.EDIT, Decision.ACCEPT)
    return next(
        review for decision in order for review in reversed(reviews) if review.decision is decision
    )


def measure_agreement(reviews: Mapping[str, Sequence[Review]]) -> list[Agreement]:
    """Measure the agreement of every pair of reviewers with rationales in common."""
    sound: dict[str, dict[str, bool]] = {}
    for of_row in reviews.values():
        for review in of_row:
            sound.setdefault(review.reviewer, {})[review.id] = (
                review.decision is not Decision.REJECT
            )
    names = sorted(sound)
    pairs = [(first, second) for at, first in enumerate(names) for second in names[at + 1 :]]
    return [
        _compare(pair, sound) for pair in pairs if sound[pair[0]].keys() & sound[pair[1]].keys()
    ]


def _compare(pair: tuple[str, str], sound: Mapping[str, Mapping[str, bool]]) -> Agreement:
    first, second = (sound[name] for name in pair)
    shared = sorted(first.keys() & second.keys())
    one, other = ([judged[key] for key in shared] for judged in (first, second))
    agreed = sum(a == b for a, b in zip(one, other, strict=True))
    return Agreement(pair, len(shared), agreed, cohen_kappa(one, other))
