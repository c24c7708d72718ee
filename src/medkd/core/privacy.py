"""The rule of what may leave this machine: de-identified rows, or rows that a person vouches for.

In: the marks (`deidentified_by`) of rows that a network model is about to read. Out: how many have
none, or a refusal. Not done here: de-identification; telling patient text from other text.
"""

from collections.abc import Iterable
from typing import Annotated

from medkd.core.config import RUNTIME
from medkd.core.errors import InputError

AcceptIdentified = Annotated[bool, RUNTIME]
"""The type of the field `accept_identified` of every stage that may ask a network model."""


def check_deidentified(
    marks: Iterable[str], place: object, reader: str, accept_identified: bool
) -> int:
    """Count the rows without a mark; raise InputError where there are some and nobody accepts them.

    `place` is the file they stand in, `reader` what is about to read them: an endpoint, a judge.

    >>> check_deidentified(["rules 3", "rules 3"], "test.jsonl", "the endpoint", False)
    0
    >>> check_deidentified(["rules 3", ""], "test.jsonl", "the endpoint", True)
    1
    """
    n_rows = n_identified = 0
    for mark in marks:
        n_rows += 1
        n_identified += not mark.strip()
    if n_identified and not accept_identified:
        raise InputError(
            f"{place}: {n_identified} of {n_rows} rows have no deidentified_by, "
            f"so they may name patients, and {reader} may lie outside this machine; "
            'run "medkd deidentify" on them first, '
            "or pass --accept-identified where you know that they name nobody"
        )
    return n_identified
