"""The rule of what may leave this machine: de-identified rows, or rows that a person vouches for.

In: the marks (`deidentified_by`) of rows that a network model is about to read. Out: how many have
none, or a refusal. Not done here: de-identification; telling patient text from other text.
"""

from collections.abc import Iterable
from typing import Annotated

from medkd.core.config import RUNTIME
from medkd.core.errors import InputError

NAMES_NOT_SOUGHT = "English names not sought"
"""The end of the mark of a row in whose English text nothing looked for names."""

AcceptIdentified = Annotated[bool, RUNTIME]
"""The type of the field `accept_identified` of every stage that may ask a network model."""


def check_deidentified(
    marks: Iterable[str], place: object, reader: str, accept_identified: bool
) -> int:
    """Count the rows that may name patients: without a mark, or in English without a tagger; raise
    InputError where there are some and nobody accepts them.

    `place` is the file they stand in, `reader` what is about to read them: an endpoint, a judge.

    >>> check_deidentified(["rules 3", "rules 3"], "test.jsonl", "the endpoint", False)
    0
    >>> check_deidentified(["rules 3", ""], "test.jsonl", "the endpoint", True)
    1
    >>> check_deidentified(["rules 5; English names not sought"], "q.jsonl", "the teacher", True)
    1
    """
    n_rows = n_unmarked = n_not_sought = 0
    for mark in marks:
        n_rows += 1
        n_unmarked += not mark.strip()
        n_not_sought += mark.endswith(NAMES_NOT_SOUGHT)
    if n_unmarked and not accept_identified:
        raise InputError(
            "{}: {} of {} rows have no deidentified_by, so they may name patients, "
            'and {} may lie outside this machine; run "medkd deidentify" on them '
            "first, or pass --accept-identified where you know that they name nobody",
            place,
            n_unmarked,
            n_rows,
            reader,
        )
    if n_not_sought and not accept_identified:
        raise InputError(
            "{}: in {} of {} rows English names were not looked for, and {} may lie "
            'outside this machine; run "medkd deidentify --tagger MODEL" with a '
            "model that finds English names, or pass --accept-identified where you "
            "know that they name nobody",
            place,
            n_not_sought,
            n_rows,
            reader,
        )
    return n_unmarked + n_not_sought
