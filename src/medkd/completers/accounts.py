"""A ledger read: the attempts at an item, what is answered, what was paid and for what.

In: a ledger file, whoever holds it. Out: attempts, sums. Sums are made by SQLite, so that memory
does not grow with the ledger.
Not done here: writing (`completers.ledger`).
"""

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from medkd.completers.attempts import (
    SELECT_ATTEMPTS,
    TABLES,
    Attempt,
    check_format,
    connect,
    from_sqlite_error,
    read_row,
)
from medkd.completers.outcomes import Outcome
from medkd.core.records import Usage

_PAID_FOR = """
WITH RECURSIVE used (id) AS (
  SELECT id FROM attempts WHERE outcome = 'complete'
  UNION SELECT attempts.continues FROM attempts JOIN used ON attempts.id = used.id WHERE attempts.continues IS NOT NULL)
SELECT provider, model, COALESCE(outcome, 'unknown'), currency, COUNT(*), SUM(is_estimate AND n_prompt + n_completion > 0),
  SUM(price IS NULL AND n_prompt + n_completion > 0), TOTAL(n_prompt), TOTAL(n_cache_hit), TOTAL(n_completion), TOTAL(n_reasoning), SUM(amount),
  SUM(CASE WHEN id IN (SELECT id FROM used) THEN 0 ELSE amount END),
  TOTAL(CASE WHEN id IN (SELECT id FROM used) THEN 0 ELSE n_completion END)
FROM attempts GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""
_PAID_ON = "SELECT substr(started_at, 1, 10), currency, COUNT(*), SUM(amount) FROM attempts GROUP BY 1, 2 ORDER BY 1, 2"


class PaidFor(NamedTuple):
    """The attempts of one model that ended in one way."""

    provider: str
    model: str
    outcome: str
    currency: str
    n_attempts: int
    n_estimated: int
    n_unpriced: int
    usage: Usage
    amount: float
    wasted: float
    """The part of `amount` that no answer came of, neither at once nor by going on from it."""
    n_wasted: int
    """Tokens of answers and reasoning, likewise."""


class PaidOn(NamedTuple):
    """The attempts that began on one day (UTC)."""

    day: str
    currency: str
    n_attempts: int
    amount: float


class Accounts:
    """A ledger to read."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._reader = connection

    def attempts_of(self, item: str) -> list[Attempt]:
        """Give all attempts at an item, the oldest first."""
        rows = self._reader.execute(SELECT_ATTEMPTS + " WHERE item = ? ORDER BY id", (item,))
        return [read_row(row) for row in rows]

    def attempts(self) -> Iterator[Attempt]:
        """Give all attempts, the oldest first."""
        return (read_row(row) for row in self._reader.execute(SELECT_ATTEMPTS + " ORDER BY id"))

    def is_complete(self, item: str) -> bool:
        """Tell whether an item has its answer."""
        query = "SELECT 1 FROM attempts WHERE item = ? AND outcome = ? LIMIT 1"
        return self._reader.execute(query, (item, Outcome.COMPLETE)).fetchone() is not None

    def spent(self) -> float:
        """Sum up the money of all attempts."""
        return self._reader.execute("SELECT COALESCE(SUM(amount), 0) FROM attempts").fetchone()[0]

    def count_items(self) -> tuple[int, int]:
        """Count the items that were asked, and those that are answered."""
        query = "SELECT COUNT(DISTINCT item), COUNT(DISTINCT CASE WHEN outcome = ? THEN item END) FROM attempts"
        return self._reader.execute(query, (Outcome.COMPLETE,)).fetchone()

    def count_missing(self) -> int:
        """Count the answers that the last run is short of."""
        last = self._reader.execute(
            "SELECT n_requests - n_answered FROM runs ORDER BY id DESC LIMIT 1"
        ).fetchone()
        return max(last[0], 0) if last else 0

    def answer_lengths(self, provider: str, model: str) -> tuple[int, float]:
        """Give the number of a model's answers and the mean of their tokens, all that went on into
        an answer counted."""
        query = "SELECT SUM(outcome = ?), TOTAL(n_completion) FROM attempts WHERE provider = ? AND model = ?"
        n_answers, n_tokens = self._reader.execute(
            query, (Outcome.COMPLETE, provider, model)
        ).fetchone()
        return (n_answers, n_tokens / n_answers) if n_answers else (0, 0.0)

    def paid_for(self) -> Iterator[PaidFor]:
        """Sum up attempts by model and outcome."""
        for (
            *head,
            prompt,
            hit,
            completion,
            reasoning,
            amount,
            wasted,
            n_wasted,
        ) in self._reader.execute(_PAID_FOR):
            counts = (int(count) for count in (prompt, hit, completion, reasoning))
            usage = Usage(**dict(zip(Usage.model_fields, counts, strict=True)))
            provider, model, outcome, currency, n_attempts, n_estimated, n_unpriced = head
            yield PaidFor(
                provider,
                model,
                outcome,
                currency,
                n_attempts,
                n_estimated,
                n_unpriced,
                usage,
                amount,
                wasted,
                int(n_wasted),
            )

    def paid_on(self) -> list[PaidOn]:
        """Sum up attempts by the day on which they began."""
        return [PaidOn(*row) for row in self._reader.execute(_PAID_ON)]


@contextmanager
def open_accounts(path: Path) -> Generator[Accounts, None, None]:
    """Open a ledger to read without holding it; one that is not there yet reads as empty."""
    connection = connect(path, is_read_only=True) if path.exists() else sqlite3.connect(":memory:")
    try:
        if path.exists():
            check_format(connection, path)
        else:
            connection.executescript(TABLES)
        yield Accounts(connection)
    except sqlite3.Error as error:
        raise from_sqlite_error(error, path) from error
    finally:
        connection.close()
