"""What people said of rationales: `reviews.jsonl` beside the records, a line a judgement, never
changed, only added to.

In: a directory of `verify` or `distill`. Out: the judgement that holds for each rationale; how far
two people agree.
Not done here: asking people (`studio`), leaving rows out (`merge`).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from medkd.core.jsonl import RecordAppender, RecordReader
from medkd.core.records import NonEmpty, Record

REVIEWS = "reviews.jsonl"
_writing = Lock()


class Decision(StrEnum):
    """What a person decided about a rationale."""

    ACCEPT = "accept"
    """Sound as it is, whatever the checks said."""
    EDIT = "edit"
    """Sound in the words that the person wrote."""
    REJECT = "reject"
    """Not to be learnt from."""


class Review(Record):
    """One judgement of one person; a later one of the same person takes its place."""

    id: NonEmpty
    """Of the rationale."""
    reviewer: NonEmpty
    decision: Decision
    reason: str = ""
    reasoning: str = ""
    """The person's own words; empty unless the decision is `edit`."""
    answer: str = ""
    at: str = ""
    """ISO 8601, UTC."""


class Agreement(NamedTuple):
    """How far two people agree on what both judged; an edited rationale counts as accepted."""

    reviewers: tuple[str, str]
    n: int
    agreed: int
    kappa: float | None
    """Cohen's kappa; None where both said one and the same of everything."""


def add_review(directory: Path, review: Review) -> None:
    """Add a judgement, with the time."""
    stamped = review.model_copy(update={"at": datetime.now(UTC).isoformat(timespec="seconds")})
    with _writing, RecordAppender(directory / REVIEWS) as file:
        file.append(stamped)


def read_reviews(directory: Path) -> dict[str, list[Review]]:
    """Read the judgements that hold, by rationale: the last one of each person, in the order in
    which they were given."""
    path = directory / REVIEWS
    found: dict[str, dict[str, Review]] = {}
    if path.exists() and path.stat().st_size:
        for review in RecordReader(path, Review, made_by="studio"):
            of_row = found.setdefault(review.id, {})
            of_row.pop(review.reviewer, None)
            of_row[review.reviewer] = review
    return {key: list(of_row.values()) for key, of_row in found.items()}


def settle(reviews: Sequence[Review]) -> Review:
    """Choose the judgement that counts: a rejection by anyone, else the last edit, else the last
    acceptance."""
    order = (Decision.REJECT, Decision.EDIT, Decision.ACCEPT)
    return next(
        review for decision in order for review in reversed(reviews) if review.decision is decision
    )


def measure_agreement(reviews: Mapping[str, Sequence[Review]]) -> list[Agreement]:
    """Measure every pair of people who judged rationales in common."""
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
    shared = first.keys() & second.keys()
    agreed = sum(first[key] == second[key] for key in shared)
    observed = agreed / len(shared)
    yes_first, yes_second = (_share(judged[key] for key in shared) for judged in (first, second))
    by_chance = yes_first * yes_second + (1 - yes_first) * (1 - yes_second)
    return Agreement(
        pair,
        len(shared),
        agreed,
        None if by_chance == 1 else round((observed - by_chance) / (1 - by_chance), 3),
    )


def _share(values: Iterable[bool]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
