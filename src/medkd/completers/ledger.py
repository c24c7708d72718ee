"""The ledger of paid attempts, one SQLite file: a row is opened before anything is sent.

In: attempts at items, an item being the hash of what is asked. Out: paid answers; beside the file a
lock, a last good copy, and room kept back for a full disk. Not done here: sending
(`completers.endpoint`), sums of money (`completers.costs`).
"""

import contextlib
import errno
import fcntl
import os
import shlex
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, NamedTuple

from medkd.completers.outcomes import (
    FREE,
    AttemptOutcome,
    AttemptResult,
    Charge,
    MissingPart,
    classify_finish,
    make_charge,
    separate,
)
from medkd.completers.providers import Price, Target
from medkd.completers.resume import append_continuation, make_partial
from medkd.core.errors import InputError, MedkdError, StoppedError, from_os_error
from medkd.core.records import Completion, Cost, Record, Usage

FILE_NAME = "ledger.sqlite"
FORMAT = 1
"""Version of the tables, kept in the file's `user_version`."""
RESERVE_BYTES = 16 * 2**20
"""Room for the texts of two thousand running attempts."""
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
SERVED_TABLE = "CREATE TABLE served (attempt INTEGER PRIMARY KEY, model TEXT NOT NULL)"
"""Attempts whose reply states another model than was asked; a ledger of version 0.1 has no such
table."""
OPEN_INDEX = "CREATE INDEX IF NOT EXISTS attempts_open ON attempts (id) WHERE outcome IS NULL"
"""Finds what a crash left open without reading every row."""
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
_SERVE = "INSERT OR REPLACE INTO served SELECT id, ? FROM attempts WHERE id = ? AND model != ?"


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
        outcomes = [attempt.outcome or AttemptOutcome.UNKNOWN for attempt in attempts]
        is_complete = AttemptOutcome.COMPLETE in outcomes
        at = outcomes.index(AttemptOutcome.COMPLETE) if is_complete else -1
        best, outcome = attempts[at], outcomes[at]
        word = best.finish_reason or ("stop" if is_complete else "")
        reasoning, text = separate(best.reasoning, best.text)
        return Completion(
            reasoning=reasoning,
            text=text,
            finish_reason=word if word and classify_finish(word) is outcome else str(outcome),
            complete=is_complete,
            truncated=outcome is AttemptOutcome.LENGTH,
            usage=sum((a.usage for a in attempts if a.outcome not in {None, *FREE}), Usage()),
            cost=Cost(amount=sum(a.amount for a in attempts), currency=best.currency),
            attempts=len(attempts),
            error="" if is_complete else best.error,
        )

    def is_complete(self, item: str) -> bool:
        """Whether an item has its answer."""
        query = "SELECT 1 FROM attempts WHERE item = ? AND outcome = ? LIMIT 1"
        return bool(self.select(query, item, AttemptOutcome.COMPLETE))

    def spent(self) -> float:
        """Sum up the money of all attempts."""
        return self.select("SELECT TOTAL(amount) FROM attempts")[0][0]

    def select(self, query: str, *values: object) -> list[Any]:
        """Run a query of one's own."""
        return self._reader.execute(query, values).fetchall()


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


class _Job(NamedTuple):
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
        self._reader.close()
        self._writer.close()
        self._reserve.release()
        if self._is_changed:
            keep_copy(self.path)
        self._lock.close()

    def start_run(self, n_requests: int) -> None:
        """Record that a run which wants so many answers begins."""
        insert = "INSERT INTO runs (started_at, n_requests) VALUES (?, ?)"
        values = (_now(), min(n_requests, 2**63 - 1))  # the largest that SQLite holds
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
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'served'").fetchone():
            connection.execute(SERVED_TABLE)
            _mark_bad_ends(connection)
        connection.execute(OPEN_INDEX)
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
    before = None
    if found:
        end = MissingPart("", is_at_end=True)
        before = make_partial(found[0], _read_row(found), lambda reasoning, text: end)
    if before and (own.reasoning or own.text) and (joined := append_continuation(before, own)):
        whole, continues = joined, attempt.continues
    query = "SELECT price FROM attempts WHERE id = ?"
    (priced,) = connection.execute(query, (attempt.id,)).fetchone()
    price = Price.model_validate_json(priced) if priced else None
    charge = make_charge(own, attempt.usage.prompt, price)
    _close_row(connection, attempt.id, whole, charge, continues)


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
    return Attempt(**dict(zip(_ROW_FIELDS, row[:-4], strict=True)), usage=make_usage(row[-4:]))


def make_usage(counts: Sequence[Any]) -> Usage:
    """Make a usage of the counts of a row: prompt, cached, completion, reasoning."""
    prompt, cache_hit, completion, reasoning = (int(count) for count in counts)
    return Usage(prompt=prompt, cache_hit=cache_hit, completion=completion, reasoning=reasoning)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# --- The file: who holds it, whether it is sound, what is kept for bad days


def hold(path: Path) -> IO[str]:
    """Take the lock file beside the ledger; the system releases it when the process ends, however
    it ends."""
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_path.open("a+", encoding="utf-8")
    except OSError as error:
        raise from_os_error(error, lock_path) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        if error.errno not in {errno.EAGAIN, errno.EACCES}:
            raise StoppedError(
                "{}: cannot be locked ({}); choose an --out on a disk of this machine",
                path,
                error.strerror,
            ) from error
        raise InputError(
            "{}: held by {}; wait until it is done or choose another --out", path, holder
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()}")
    lock.flush()
    return lock


def connect(path: Path, is_read_only: bool = False) -> sqlite3.Connection:
    """Open the file; raises InputError where something else bears its name."""
    if path.exists() and not path.is_file():
        raise InputError("{}: is no file; move it away or choose another --out", path)
    if is_read_only:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
    return sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)


def check_format(connection: sqlite3.Connection, path: Path) -> None:
    """Raise InputError for a file of a newer version, or of another kind."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > FORMAT:
        raise InputError(
            "{}: written by a newer medkd (format {}, this one knows {}); update "
            "medkd or choose another --out",
            path,
            found,
            FORMAT,
        )
    if found < 1:
        raise InputError("{}: is no ledger; move it away or choose another --out", path)


def is_sound(connection: sqlite3.Connection) -> bool:
    """Have SQLite check a file."""
    return connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)


def copy_path(path: Path) -> Path:
    """Name the last good copy of a ledger."""
    return path.with_name(f"{path.name}.good")


def keep_copy(path: Path) -> None:
    """Copy a ledger beside itself while others may write to it; a damaged one never replaces a
    good copy."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError, sqlite3.Error):
        with (
            contextlib.closing(sqlite3.connect(path, timeout=30)) as source,
            contextlib.closing(sqlite3.connect(draft)) as target,
        ):
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
            is_good = is_sound(target)
        if is_good:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(copy_path(path))
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)


def describe_damage(path: Path, words: str) -> InputError:
    """Say that a ledger is damaged and how to go on from its last good copy."""
    copy, ends = copy_path(path), ("", ".damaged", "-wal", "-shm", ".good")
    begin = f"{path}: damaged or no ledger ({words})"
    if not copy.is_file():
        return InputError("{}; move it away, or put a good copy in its place", begin)
    name, moved, wal, shm, good = (shlex.quote(path.name + end) for end in ends)
    return InputError(
        "{}; go on from the last good copy, of {:%Y-%m-%d %H:%M}: {}",
        begin,
        datetime.fromtimestamp(copy.stat().st_mtime).astimezone(),
        f"cd {shlex.quote(str(path.parent))} && mv {name} {moved} && "
        f"rm -f {wal} {shm} && cp {good} {name}",
    )


def from_sqlite_error(error: Exception, path: Path) -> MedkdError:
    """Say what SQLite or the disk refuses, and the next step."""
    if isinstance(error, MedkdError):
        return error
    if isinstance(error, OSError):
        return from_os_error(error, path)
    words = str(error)
    if "full" in words or "disk I/O error" in words:
        return StoppedError(
            "{}: {}; free some space and run the same command again, it goes on", path, words
        )
    is_damaged = "malformed" in words or "not a database" in words
    if isinstance(error, sqlite3.DatabaseError) and is_damaged:
        return describe_damage(path, words)
    return StoppedError("{}: {}; check it and run the same command again", path, words)


class DiskReserve:
    """A file of real blocks that is deleted when the disk is full."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.reserve")
        with contextlib.suppress(OSError), self._path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)

    def release(self) -> bool:
        """Return the room to the disk; False if there is none to return."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
