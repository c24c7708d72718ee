"""The ledger of paid attempts, one SQLite file: a row is opened before anything is sent.

In: attempts at items, an item being the hash of what is asked. Out: paid answers, and sums.
Not done here: sending, and keeping the file sound (`ledger_file`).
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from medkd.completers.ledger_file import (
    FORMAT,
    DiskReserve,
    check_format,
    connect,
    describe_damage,
    from_sqlite_error,
    hold,
    is_sound,
    keep_copy,
)
from medkd.completers.outcomes import (
    AttemptOutcome,
    AttemptResult,
    MissingPart,
    append_continuation,
    classify_finish,
    make_partial,
)
from medkd.completers.providers import Charge, Price, Target, make_charge
from medkd.completers.stream import separate
from medkd.core.errors import MedkdError
from medkd.core.records import Completion, Cost, Record, Request, Usage

FILE_NAME = "ledger.sqlite"
MAX_INTEGER = 2**63 - 1
"""The largest that SQLite holds."""
TABLES = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, started_at TEXT NOT NULL, n_requests INTEGER NOT NULL,
  n_answered INTEGER NOT NULL DEFAULT 0);
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL, item TEXT NOT NULL, label TEXT NOT NULL,
  provider TEXT NOT NULL, model TEXT NOT NULL, started_at TEXT NOT NULL, price TEXT,
  continues INTEGER, outcome TEXT, status INTEGER, finish_reason TEXT NOT NULL DEFAULT '',
  error TEXT NOT NULL DEFAULT '', reasoning TEXT NOT NULL DEFAULT '', text TEXT NOT NULL DEFAULT '',
  n_prompt INTEGER NOT NULL, n_cache_hit INTEGER NOT NULL DEFAULT 0,
  n_completion INTEGER NOT NULL DEFAULT 0, n_reasoning INTEGER NOT NULL DEFAULT 0,
  is_estimate INTEGER NOT NULL DEFAULT 1, amount REAL NOT NULL DEFAULT 0, currency TEXT NOT NULL,
  seconds REAL NOT NULL DEFAULT 0);
CREATE INDEX attempts_of_item ON attempts (item);
CREATE TABLE pieces (attempt INTEGER NOT NULL, number INTEGER NOT NULL,
  is_reasoning INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (attempt, number)) WITHOUT ROWID;
"""
SERVED_TABLE = (
    "CREATE TABLE IF NOT EXISTS served (attempt INTEGER PRIMARY KEY, model TEXT NOT NULL)"
)
"""Attempts whose reply states another model than was asked; version 0.1 has no such table."""
COPY_INTERVAL_S = 600.0
"""Seconds of writing between two copies; one is also made at the end of every run."""
_OPEN = """
INSERT INTO attempts (run, item, label, provider, model, started_at, price, n_prompt, currency,
  continues) VALUES (?,?,?,?,?,?,?,?,?,?)"""
_CLOSE = """
UPDATE attempts SET (continues, outcome, status, finish_reason, error, reasoning, text, n_prompt,
  n_cache_hit, n_completion, n_reasoning, is_estimate, amount, seconds)
  = (?,?,?,?,?,?,?,?,?,?,?,?,?,?) WHERE id = ?"""
_SELECT = """
SELECT id, item, label, provider, model, outcome, finish_reason, error, reasoning, text, continues,
  is_estimate, amount, price IS NOT NULL AS is_priced, currency, seconds,
  n_prompt, n_cache_hit, n_completion, n_reasoning FROM attempts"""
_USED = """
WITH RECURSIVE used (id) AS (
  SELECT id FROM attempts WHERE outcome = 'complete'
  UNION SELECT attempts.continues FROM attempts JOIN used ON attempts.id = used.id
  WHERE attempts.continues IS NOT NULL)"""
_BILL = f"""{_USED}
SELECT provider, model, COALESCE(outcome, 'unknown') AS outcome, currency, COUNT(*) AS attempts,
  SUM(is_estimate AND n_prompt + n_completion > 0) AS estimated,
  SUM(price IS NULL AND n_prompt + n_completion > 0) AS unpriced, ROUND(SUM(amount), 6) AS amount,
  ROUND(SUM(CASE WHEN id IN (SELECT id FROM used) THEN 0 ELSE amount END), 6) AS wasted,
  TOTAL(CASE WHEN id IN (SELECT id FROM used) THEN 0 ELSE n_completion END) AS wasted_tokens,
  TOTAL(n_prompt), TOTAL(n_cache_hit), TOTAL(n_completion), TOTAL(n_reasoning)
FROM attempts GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""  # noqa: S608 - no input
_SERVE = "INSERT OR REPLACE INTO served SELECT id, ? FROM attempts WHERE id = ? AND model != ?"
_SERVED = """
SELECT attempts.model, served.model, COUNT(*) FROM served
JOIN attempts ON attempts.id = served.attempt GROUP BY 1, 2 ORDER BY 1, 2"""
_DAYS = """
SELECT substr(started_at, 1, 10), COUNT(*), ROUND(SUM(amount), 6), currency
FROM attempts GROUP BY 1, 4 ORDER BY 1, 4"""


class Attempt(Record):
    """One row of the ledger."""

    id: int
    item: str
    label: str
    """Id of the record it was made for."""
    provider: str
    model: str
    outcome: AttemptOutcome | None
    """None while it runs, and after a crash until the ledger is opened again."""
    finish_reason: str
    error: str
    reasoning: str
    text: str
    """The answer so far: what it resumes included."""
    continues: int | None
    """The attempt whose text it resumes."""
    usage: Usage
    is_estimate: bool
    """Whether the usage is our estimate because the endpoint reported none."""
    amount: float
    is_priced: bool
    """Whether a price was known when it was made; else `amount` is 0 and says nothing."""
    currency: str
    seconds: float


class BillLine(Record):
    """The attempts of one model that ended in one way."""

    provider: str
    model: str
    outcome: str
    attempts: int
    estimated: int
    """Attempts whose tokens are an estimate."""
    unpriced: int
    """Attempts whose price is not known; `amount` leaves them out."""
    usage: Usage
    amount: float
    currency: str
    wasted: float
    """The part of `amount` that no answer came of, neither at once nor by resuming it."""
    wasted_tokens: int
    """Tokens of answers and reasoning, likewise."""


class BillDay(Record):
    """The attempts that began on one day (UTC)."""

    day: str
    attempts: int
    amount: float
    currency: str


def item_key(provider: str, model: str, request: Request) -> str:
    """Hash what decides the answer; the address is no part of it, so that a moved server buys
    nothing twice."""
    decisive = [provider, model, request.model_dump(mode="json")]
    text = json.dumps(decisive, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


class LedgerReader:
    """A ledger to read; sums are made by SQLite, so that memory does not grow with it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._reader = connection

    def attempts_of(self, item: str) -> list[Attempt]:
        """Return all attempts at an item, the oldest first."""
        rows = self._reader.execute(f"{_SELECT} WHERE item = ? ORDER BY id", (item,))
        return [_read_row(row) for row in rows]

    def attempts(self) -> Iterator[Attempt]:
        """Iterate over all attempts, the oldest first."""
        return (_read_row(row) for row in self._reader.execute(f"{_SELECT} ORDER BY id"))

    def recall(self, item: str) -> Completion | None:
        """Return what the attempts at an item came to: its answer, else its last failure; None if
        there were none."""
        attempts = self.attempts_of(item)
        if not attempts:
            return None
        done = (a for a in attempts if a.outcome is AttemptOutcome.COMPLETE)
        best = next(done, attempts[-1])
        outcome = best.outcome or AttemptOutcome.UNKNOWN
        is_complete = outcome is AttemptOutcome.COMPLETE
        word = best.finish_reason or ("stop" if is_complete else "")
        reasoning, text = separate(best.reasoning, best.text)
        return Completion(
            reasoning=reasoning,
            text=text,
            finish_reason=word if word and classify_finish(word) is outcome else str(outcome),
            complete=is_complete,
            truncated=outcome is AttemptOutcome.LENGTH,
            usage=sum((a.usage for a in attempts if a.outcome and not a.outcome.is_free), Usage()),
            cost=Cost(amount=sum(a.amount for a in attempts), currency=best.currency),
            attempts=len(attempts),
            error="" if is_complete else best.error,
        )

    def recall_from(self, target: Target) -> Callable[[Request], Completion | None]:
        """Return a function that recalls what a target answered to a request."""
        return lambda request: self.recall(item_key(target.name, target.model, request))

    def is_complete(self, item: str) -> bool:
        """Whether an item has its answer."""
        query = "SELECT 1 FROM attempts WHERE item = ? AND outcome = ? LIMIT 1"
        return self._fetch(query, item, AttemptOutcome.COMPLETE) is not None

    def spent(self) -> float:
        """Sum up the money of all attempts."""
        return self._fetch("SELECT TOTAL(amount) FROM attempts")[0]

    def count_items(self) -> tuple[int, int]:
        """Count the items that were asked, and those that are answered."""
        answered = "CASE WHEN outcome = ? THEN item END"
        query = f"SELECT COUNT(DISTINCT item), COUNT(DISTINCT {answered}) FROM attempts"  # noqa: S608
        return self._fetch(query, AttemptOutcome.COMPLETE)

    def answer_lengths(self, provider: str, model: str) -> tuple[int, float]:
        """Return the number of a model's answers and the mean of their tokens, all attempts that
        led to an answer counted."""
        n_answers, n_tokens = self._fetch(
            "SELECT TOTAL(outcome = ?), TOTAL(n_completion) FROM attempts "
            "WHERE provider = ? AND model = ?",
            AttemptOutcome.COMPLETE,
            provider,
            model,
        )
        return (int(n_answers), n_tokens / n_answers) if n_answers else (0, 0.0)

    def bill_lines(self) -> list[BillLine]:
        """Sum up attempts by model and outcome."""
        rows = self._reader.execute(_BILL)
        names = [column[0] for column in rows.description]
        return [
            BillLine(
                **dict(zip(names[:-5], row[:-5], strict=True)),
                wasted_tokens=int(row[-5]),
                usage=_make_usage(row[-4:]),
            )
            for row in rows
        ]

    def list_served(self) -> list[tuple[str, str, int]]:
        """List model asked, model that replies state instead, and attempts."""
        has_table = self._fetch("SELECT 1 FROM sqlite_master WHERE name = 'served'")
        return self._reader.execute(_SERVED).fetchall() if has_table else []

    def bill_days(self) -> list[BillDay]:
        """Sum up attempts by the day on which they began."""
        rows = self._reader.execute(_DAYS)
        return [BillDay(**dict(zip(BillDay.model_fields, row, strict=True))) for row in rows]

    def _fetch(self, query: str, *values: object) -> Any:
        return self._reader.execute(query, values).fetchone()


@contextmanager
def open_reader(path: Path) -> Generator[LedgerReader, None, None]:
    """Open a ledger to read without locking it; one that is not there yet reads as empty."""
    has_file = path.exists()
    connection = connect(path, is_read_only=True) if has_file else sqlite3.connect(":memory:")
    try:
        if has_file:
            check_format(connection, path)
        else:
            connection.executescript(TABLES)
        yield LedgerReader(connection)
    except sqlite3.Error as error:
        raise from_sqlite_error(error, path) from error
    finally:
        connection.close()


@dataclass(frozen=True)
class _Job:
    write: Callable[[sqlite3.Connection], Any]
    done: "Future[Any]"


class Ledger(LedgerReader):
    """A ledger to read and write; one process at a time holds it.

    One thread commits writes in groups, so that thousands of streams wait for no disk. Raises
    InputError if the file is no ledger, is damaged, is of a newer version or is held by another
    process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = hold(path)
        try:
            self._writer = connect(path)
            try:
                _prepare(self._writer, path)
                super().__init__(connect(path))
            except (sqlite3.Error, MedkdError):
                self._writer.close()
                raise
        except (sqlite3.Error, MedkdError) as error:
            self._lock.close()
            raise from_sqlite_error(error, path) from error
        self._run = 0
        self._reserve = DiskReserve(path)
        self._is_full = self._is_changed = False
        self._copied_at = time.monotonic()
        self._copying: threading.Thread | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write_jobs, name="ledger", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        # A row that is still open here was opened for an attempt that was never sent.
        unsent = "UPDATE attempts SET outcome = ?, n_prompt = 0 WHERE run = ? AND outcome IS NULL"
        values = (AttemptOutcome.INTERRUPTED, self._run)
        self._submit(lambda connection: connection.execute(unsent, values).rowcount)
        self._jobs.put(None)
        self._thread.join()
        if self._copying:
            self._copying.join()
        self._reader.close()
        self._writer.close()
        self._reserve.release()
        if self._is_changed:
            keep_copy(self.path)
        self._lock.close()

    def start_run(self, n_requests: int) -> None:
        """Record that a run which wants so many answers begins."""
        insert = "INSERT INTO runs (started_at, n_requests) VALUES (?, ?)"
        values = (_now(), min(n_requests, MAX_INTEGER))
        self._run = self._submit(lambda c: c.execute(insert, values).lastrowid).result()

    def open_attempt(
        self,
        item: str,
        label: str,
        target: Target,
        n_prompt: int,
        price: Price | None,
        continues: int | None = None,
    ) -> "Future[int]":
        """Open the row of an attempt that is about to be sent; the future gives its id once it is
        on disk.

        `continues` names the attempt whose text the endpoint is asked to resume.
        """
        priced = price.model_dump_json() if price else None
        head = (self._run, item, label, target.name, target.model, _now())
        row = (*head, priced, n_prompt, target.provider.currency, continues)

        def write(connection: sqlite3.Connection) -> int:
            if self._is_full:  # the last room is for the answers that are on their way
                raise sqlite3.OperationalError("database or disk is full")
            return connection.execute(_OPEN, row).lastrowid or 0

        return self._submit(write)

    def save_pieces(self, pieces: list[tuple[int, int, bool, str]]) -> "Future[None]":
        """Save new text of running attempts, as rows of attempt, number, whether it is reasoning,
        text."""
        insert = "INSERT OR REPLACE INTO pieces VALUES (?,?,?,?)"
        return self._submit(lambda connection: connection.executemany(insert, pieces))

    def close_attempt(
        self, attempt: int, result: AttemptResult, charge: Charge, continues: int | None = None
    ) -> "Future[None]":
        """Close a row; the future is done once it is on disk."""
        return self._submit(lambda c: _close_row(c, attempt, result, charge, continues))

    def _submit(self, write: Callable[[sqlite3.Connection], Any]) -> "Future[Any]":
        job = _Job(write, Future())
        self._jobs.put(job)
        return job.done

    def _write_jobs(self) -> None:
        is_open = True
        while is_open:
            jobs: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                try:
                    job = self._jobs.get_nowait()
                except Empty:
                    break
            is_open = job is not None
            if jobs:
                self._commit(jobs)

    def _commit(self, jobs: list[_Job]) -> None:
        """Write a group of jobs in one transaction, all or none; if that fails, one by one."""
        jobs = [job for job in jobs if job.done.set_running_or_notify_cancel()]
        try:
            results = self._write(jobs)
        except Exception as error:  # noqa: BLE001 - nothing may stop the writer
            self._is_full = self._is_full or "full" in str(error)
            for job in jobs:
                self._commit_alone(job)
            return
        for job, result in zip(jobs, results, strict=True):
            job.done.set_result(result)
        self._is_changed = True
        self._copy_now_and_then()

    def _write(self, jobs: list[_Job]) -> list[Any]:
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            return [job.write(self._writer) for job in jobs]

    def _commit_alone(self, job: _Job) -> None:
        """Write one job; on a full disk once more in the room kept back for it."""
        try:
            job.done.set_result(self._write([job])[0])
        except Exception as error:  # noqa: BLE001 - nothing may stop the writer
            if "full" in str(error) and self._reserve.release():
                self._commit_alone(job)
            else:
                job.done.set_exception(from_sqlite_error(error, self.path))

    def _copy_now_and_then(self) -> None:
        is_copying = self._copying is not None and self._copying.is_alive()
        if time.monotonic() - self._copied_at >= COPY_INTERVAL_S and not is_copying:
            self._copied_at = time.monotonic()
            self._copying = threading.Thread(target=keep_copy, args=(self.path,), daemon=True)
            self._copying.start()


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new ledger; in an old one, close what a crash left open."""
    is_new = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0
    if not is_new:
        check_format(connection, path)
        if not is_sound(connection):
            raise describe_damage(path, "its pages do not fit together")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if is_new:
        connection.executescript(
            f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;"
        )
    connection.execute(SERVED_TABLE)
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        _mark_bad_ends(connection)
        for row in connection.execute(f"{_SELECT} WHERE outcome IS NULL").fetchall():
            _close_after_crash(connection, _read_row(row))


def _mark_bad_ends(connection: sqlite3.Connection) -> None:
    """Reclassify answers that version 0.1 took for complete whatever word they ended with."""
    words = "SELECT DISTINCT finish_reason FROM attempts WHERE outcome = 'complete'"
    for (word,) in connection.execute(words).fetchall():
        if word and (outcome := classify_finish(word)) is not AttemptOutcome.COMPLETE:
            connection.execute(
                "UPDATE attempts SET outcome = ?, error = ? "
                "WHERE outcome = 'complete' AND finish_reason = ?",
                (outcome, f"finish_reason {word}", word),
            )


def _close_after_crash(connection: sqlite3.Connection, attempt: Attempt) -> None:
    """Close a row with the text that was saved while it streamed."""
    pieces = "SELECT is_reasoning, text FROM pieces WHERE attempt = ? ORDER BY number"
    texts = {True: "", False: ""}
    for is_reasoning, text in connection.execute(pieces, (attempt.id,)).fetchall():
        texts[bool(is_reasoning)] += text
    own = AttemptResult(
        AttemptOutcome.UNKNOWN,
        *(texts[True], texts[False]),
        error="the process died before the end was known",
    )
    whole, continues = own, None
    found = connection.execute(f"{_SELECT} WHERE id = ?", (attempt.continues,)).fetchone()
    before = make_partial(found[0], _read_row(found), _miss_the_end) if found else None
    if before and (own.reasoning or own.text):
        joined = append_continuation(before, own.reasoning, own.text)
        if joined:
            whole = replace(own, reasoning=joined[0], text=joined[1])
            continues = attempt.continues
    query = "SELECT price FROM attempts WHERE id = ?"
    (priced,) = connection.execute(query, (attempt.id,)).fetchone()
    price = Price.model_validate_json(priced) if priced else None
    charge = make_charge(own, attempt.usage.prompt, price)
    _close_row(connection, attempt.id, whole, charge, continues)


def _miss_the_end(_reasoning: str, _text: str) -> MissingPart:
    return MissingPart("", is_at_end=True)


def _close_row(
    connection: sqlite3.Connection,
    attempt: int,
    result: AttemptResult,
    charge: Charge,
    continues: int | None,
) -> None:
    usage = charge.usage
    said = (result.finish_reason, result.error, result.reasoning, result.text)
    counts = (usage.prompt, usage.cache_hit, usage.completion, usage.reasoning)
    paid = (charge.is_estimate, charge.amount, result.seconds)
    row = (continues, result.outcome, result.status, *said, *counts, *paid, attempt)
    connection.execute(_CLOSE, row)
    if result.model:
        connection.execute(_SERVE, (result.model, attempt, result.model))
    connection.execute("DELETE FROM pieces WHERE attempt = ?", (attempt,))


_ROW_FIELDS = [name for name in Attempt.model_fields if name != "usage"]


def _read_row(row: tuple[Any, ...]) -> Attempt:
    return Attempt(**dict(zip(_ROW_FIELDS, row[:-4], strict=True)), usage=_make_usage(row[-4:]))


def _make_usage(counts: tuple[Any, ...]) -> Usage:
    prompt, cache_hit, completion, reasoning = (int(count) for count in counts)
    return Usage(prompt=prompt, cache_hit=cache_hit, completion=completion, reasoning=reasoning)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
