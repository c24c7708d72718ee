"""The rows of the ledger and its file: what one attempt at an item was, and the SQLite tables it
stands in.

In: a ledger file. Out: `Attempt` records. Not done here: writing while attempts run
(`completers.ledger`).
"""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medkd.completers.continuation import Missing, join, take_so_far
from medkd.completers.copies import damaged, is_sound
from medkd.completers.outcomes import Answer, Outcome, classify_finish
from medkd.completers.providers import Price, estimate_tokens
from medkd.completers.stream import separate
from medkd.core.completer import Completion, Request
from medkd.core.errors import InputError, MedkdError, StoppedError, from_os_error
from medkd.core.records import Cost, Record, Usage

FILE_NAME = "ledger.sqlite"
FORMAT = 1
"""Version of the tables, kept in the file's `user_version`."""

TABLES = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, started_at TEXT NOT NULL, n_requests INTEGER NOT NULL, n_answered INTEGER NOT NULL DEFAULT 0);
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL, item TEXT NOT NULL, label TEXT NOT NULL,
  provider TEXT NOT NULL, model TEXT NOT NULL, started_at TEXT NOT NULL, price TEXT, continues INTEGER,
  outcome TEXT, status INTEGER, finish_reason TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT '',
  reasoning TEXT NOT NULL DEFAULT '', text TEXT NOT NULL DEFAULT '',
  n_prompt INTEGER NOT NULL, n_cache_hit INTEGER NOT NULL DEFAULT 0,
  n_completion INTEGER NOT NULL DEFAULT 0, n_reasoning INTEGER NOT NULL DEFAULT 0,
  is_estimate INTEGER NOT NULL DEFAULT 1, amount REAL NOT NULL DEFAULT 0, currency TEXT NOT NULL, seconds REAL NOT NULL DEFAULT 0);
CREATE INDEX attempts_of_item ON attempts (item);
CREATE TABLE pieces (attempt INTEGER NOT NULL, number INTEGER NOT NULL, is_reasoning INTEGER NOT NULL, text TEXT NOT NULL,
  PRIMARY KEY (attempt, number)) WITHOUT ROWID;
"""
SELECT_ATTEMPTS = """
SELECT id, item, label, provider, model, outcome, finish_reason, error, reasoning, text,
  n_prompt, n_cache_hit, n_completion, n_reasoning, is_estimate, amount, currency, seconds, continues, price FROM attempts"""
CLOSE_ATTEMPT = """
UPDATE attempts SET (continues, outcome, status, finish_reason, error, reasoning, text, n_prompt, n_cache_hit, n_completion, n_reasoning,
  is_estimate, amount, seconds) = (?,?,?,?,?,?,?,?,?,?,?,?,?,?) WHERE id = ?"""


class Attempt(Record):
    """One row of the ledger."""

    id: int
    item: str
    label: str
    """Id of the record it was made for."""
    provider: str
    model: str
    outcome: Outcome | None
    """None while it runs, and after a crash until the ledger is opened again."""
    finish_reason: str
    error: str
    reasoning: str
    text: str
    """The answer so far: what it goes on from included."""
    continues: int | None
    """The attempt whose text it goes on from."""
    usage: Usage
    is_estimate: bool
    """Whether the usage is our estimate because the endpoint reported none."""
    amount: float
    is_priced: bool
    """Whether a price was known when it was made; else `amount` is 0 and says nothing."""
    currency: str
    seconds: float


@dataclass(frozen=True)
class Closing:
    """How an attempt ended."""

    outcome: Outcome
    status: int | None
    finish_reason: str
    error: str
    reasoning: str
    text: str
    continues: int | None
    usage: Usage
    is_estimate: bool
    amount: float
    seconds: float


def make_closing(
    answer: Answer,
    n_prompt: int,
    price: Price | None,
    continues: int | None = None,
    own: Answer | None = None,
) -> Closing:
    """Write down how an attempt ended; where the endpoint reported no usage and may charge, it is
    estimated from the texts.

    `own` is what the attempt itself brought, where the answer holds the text it goes on from as
    well.
    """
    usage, is_estimate, own = answer.usage, False, own or answer
    if usage is None and not answer.outcome.is_free:
        n_reasoning = estimate_tokens([own.reasoning])
        n_completion = n_reasoning + estimate_tokens([own.text])
        usage, is_estimate = (
            Usage(prompt=n_prompt, completion=n_completion, reasoning=n_reasoning),
            True,
        )
    usage = usage or Usage()
    return Closing(
        outcome=answer.outcome,
        status=answer.status,
        finish_reason=answer.finish_reason,
        error=answer.error,
        reasoning=answer.reasoning,
        text=answer.text,
        continues=continues,
        usage=usage,
        is_estimate=is_estimate,
        amount=price.amount(usage) if price else 0.0,
        seconds=answer.seconds,
    )


def item_key(provider: str, model: str, request: Request) -> str:
    """Hash what decides the answer; the address is no part of it, so that a moved server buys
    nothing twice."""
    decisive = [provider, model, request.model_dump(mode="json")]
    return hashlib.sha256(
        json.dumps(decisive, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()


def recall(attempts: Sequence[Attempt]) -> Completion | None:
    """Give what the attempts at an item came to: its answer, else its last failure; None where
    there were none."""
    if not attempts:
        return None
    best = next((a for a in attempts if a.outcome is Outcome.COMPLETE), attempts[-1])
    outcome = best.outcome or Outcome.UNKNOWN
    is_complete = outcome is Outcome.COMPLETE
    word = best.finish_reason or ("stop" if is_complete else "")
    reasoning, text = separate(best.reasoning, best.text)
    return Completion(
        reasoning=reasoning,
        text=text,
        finish_reason=word if word and classify_finish(word) is outcome else str(outcome),
        complete=is_complete,
        truncated=outcome is Outcome.LENGTH,
        usage=sum((a.usage for a in attempts if a.outcome and not a.outcome.is_free), Usage()),
        cost=Cost(amount=sum(a.amount for a in attempts), currency=best.currency),
        attempts=len(attempts),
        error="" if is_complete else best.error,
    )


def connect(path: Path, is_read_only: bool = False) -> sqlite3.Connection:
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file; move it away or choose another --out")
    if is_read_only:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
    return sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new ledger, and close what a crash left open in an old one."""
    is_new = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0
    if not is_new:
        check_format(connection, path)
        if not is_sound(connection):
            raise damaged(path, "its pages do not fit together")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if is_new:
        connection.executescript(
            f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;"
        )
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        _mark_bad_ends(connection)
        for row in connection.execute(SELECT_ATTEMPTS + " WHERE outcome IS NULL").fetchall():
            _close_after_crash(
                connection, read_row(row), Price.model_validate_json(row[-1]) if row[-1] else None
            )


def check_format(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > FORMAT:
        raise InputError(
            f"{path}: written by a newer medkd (format {found}, this one knows {FORMAT}); update medkd or choose another --out"
        )
    if found < 1:
        raise InputError(f"{path}: is no ledger; move it away or choose another --out")


def _mark_bad_ends(connection: sqlite3.Connection) -> None:
    """Mark answers that version 0.1 took for complete whatever word they ended with."""
    words = "SELECT DISTINCT finish_reason FROM attempts WHERE outcome = 'complete'"
    for (word,) in connection.execute(words).fetchall():
        if word and (outcome := classify_finish(word)) is not Outcome.COMPLETE:
            connection.execute(
                "UPDATE attempts SET outcome = ?, error = ? WHERE outcome = 'complete' AND finish_reason = ?",
                (outcome, f"finish_reason {word}", word),
            )


def _close_after_crash(
    connection: sqlite3.Connection, attempt: Attempt, price: Price | None
) -> None:
    pieces = connection.execute(
        "SELECT is_reasoning, text FROM pieces WHERE attempt = ? ORDER BY number", (attempt.id,)
    ).fetchall()
    reasoning = "".join(text for is_reasoning, text in pieces if is_reasoning)
    text = "".join(text for is_reasoning, text in pieces if not is_reasoning)
    own = Answer(
        Outcome.UNKNOWN, reasoning, text, error="the process died before the end was known"
    )
    row = connection.execute(SELECT_ATTEMPTS + " WHERE id = ?", (attempt.continues,)).fetchone()
    before = (
        take_so_far(row[0], read_row(row), lambda _, __: Missing("", is_at_end=True))
        if row
        else None
    )
    joined = join(before, reasoning, text) if before and (reasoning or text) else None
    whole = replace(own, reasoning=joined[0], text=joined[1]) if joined else own
    continues = attempt.continues if joined else None
    close_row(
        connection, attempt.id, make_closing(whole, attempt.usage.prompt, price, continues, own)
    )


def close_row(connection: sqlite3.Connection, attempt: int, closing: Closing) -> None:
    usage = closing.usage
    values = (
        *(
            closing.continues,
            closing.outcome,
            closing.status,
            closing.finish_reason,
            closing.error,
            closing.reasoning,
            closing.text,
        ),
        *(usage.prompt, usage.cache_hit, usage.completion, usage.reasoning),
        *(closing.is_estimate, closing.amount, closing.seconds, attempt),
    )
    connection.execute(CLOSE_ATTEMPT, values)
    connection.execute("DELETE FROM pieces WHERE attempt = ?", (attempt,))


def read_row(row: Any) -> Attempt:
    (
        number,
        item,
        label,
        provider,
        model,
        outcome,
        finish_reason,
        error,
        reasoning,
        text,
        prompt,
        hit,
        completion,
        thought,
        *rest,
    ) = row
    usage = Usage(prompt=prompt, cache_hit=hit, completion=completion, reasoning=thought)
    is_estimate, amount, currency, seconds, continues, price = rest
    return Attempt(
        id=number, item=item, label=label, provider=provider, model=model, outcome=outcome, finish_reason=finish_reason, error=error,
        reasoning=reasoning, text=text, continues=continues, usage=usage, is_estimate=is_estimate, amount=amount,
        is_priced=price is not None, currency=currency, seconds=seconds,
    )  # fmt: skip


def from_sqlite_error(error: Exception, path: Path) -> MedkdError:
    if isinstance(error, MedkdError):
        return error
    if isinstance(error, OSError):
        return from_os_error(error, path)
    words = str(error)
    if "full" in words or "disk I/O error" in words:
        return StoppedError(
            f"{path}: {words}; free some space and run the same command again, it goes on from here"
        )
    if isinstance(error, sqlite3.DatabaseError) and (
        "malformed" in words or "not a database" in words
    ):
        return damaged(path, words)
    return StoppedError(f"{path}: {words}; see to it and run the same command again")
