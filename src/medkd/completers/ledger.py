"""The ledger of paid attempts, one SQLite file: a row is opened before anything is sent and closed
with what came of it.

In: attempts of items, an item being the hash of what is asked. Out: the answers already paid for.
Text is saved as it streams; an attempt that a crash left open is closed as `unknown` with the text
it had. Writes go through one thread that commits them in groups, so that thousands of streams wait
for no disk.
Not done here: reading (`completers.accounts`), sending (`completers.endpoint`), trying again
(`completers.run`). It never holds the key.
"""

import errno
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from medkd.completers.accounts import Accounts
from medkd.completers.attempts import Closing, close_row, connect, from_sqlite_error, prepare
from medkd.completers.copies import COPY_INTERVAL_S, keep_copy
from medkd.completers.outcomes import Outcome
from medkd.completers.providers import Price, Target
from medkd.completers.reserve import Reserve
from medkd.core.errors import InputError, MedkdError, StoppedError, from_os_error

MAX_INTEGER = 2**63 - 1
"""The largest that SQLite holds."""
OPEN_ATTEMPT = """
INSERT INTO attempts (run, item, label, provider, model, started_at, price, n_prompt, currency, continues)
VALUES (?,?,?,?,?,?,?,?,?,?)"""


@dataclass(frozen=True)
class _Job:
    write: Callable[[sqlite3.Connection], Any]
    done: "Future[Any]"


class Ledger(Accounts):
    """A ledger open for reading and writing; one process at a time holds it.

    Raises InputError where the file is no ledger, is damaged, is of a newer version or is held by
    another process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _hold(path)
        try:
            self._writer = connect(path)
        except (sqlite3.Error, MedkdError) as error:
            self._lock.close()
            raise from_sqlite_error(error, path) from error
        try:
            prepare(self._writer, path)
            super().__init__(connect(path))
        except (sqlite3.Error, MedkdError) as error:
            self._writer.close()
            self._lock.close()
            raise from_sqlite_error(error, path) from error
        self._run = 0
        self._reserve = Reserve(path)
        self._is_full = False
        self._is_changed = False
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
        self._submit(
            lambda connection: connection.execute(unsent, (Outcome.INTERRUPTED, self._run)).rowcount
        )
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
        """Note that a run which wants so many answers begins."""

        def write(connection: sqlite3.Connection) -> int:
            cursor = connection.execute(
                "INSERT INTO runs (started_at, n_requests) VALUES (?, ?)",
                (_now(), min(n_requests, MAX_INTEGER)),
            )
            return cursor.lastrowid or 0

        self._run = self._submit(write).result()

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
        on the disk.

        `continues` names the attempt whose text the endpoint is asked to go on from.
        """
        priced = price.model_dump_json() if price else None
        row = (
            self._run,
            item,
            label,
            target.name,
            target.model,
            _now(),
            priced,
            n_prompt,
            target.provider.currency,
            continues,
        )

        def write(connection: sqlite3.Connection) -> int:
            if self._is_full:  # the last room is for the answers that are on their way
                raise sqlite3.OperationalError("database or disk is full")
            return connection.execute(OPEN_ATTEMPT, row).lastrowid or 0

        return self._submit(write)

    def save_pieces(
        self, pieces: list[tuple[int, int, bool, str]], n_answered: int
    ) -> "Future[None]":
        """Save new text of running attempts, as rows of attempt, number, whether it is reasoning,
        text."""

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO pieces VALUES (?,?,?,?)", pieces)
            connection.execute(
                "UPDATE runs SET n_answered = ? WHERE id = ?", (n_answered, self._run)
            )

        return self._submit(write)

    def close_attempt(self, attempt: int, closing: Closing) -> "Future[None]":
        """Close a row; the future is done once it is on the disk."""
        return self._submit(lambda connection: close_row(connection, attempt, closing))

    def _submit(self, write: Callable[[sqlite3.Connection], Any]) -> "Future[Any]":
        job = _Job(write, Future())
        self._jobs.put(job)
        return job.done

    def _write_jobs(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs = [first]
            is_last = False
            while True:
                try:
                    job = self._jobs.get_nowait()
                except Empty:
                    break
                if job is None:
                    is_last = True
                    break
                jobs.append(job)
            self._commit(jobs)
            if is_last:
                return

    def _commit(self, jobs: list[_Job]) -> None:
        """Write a group of jobs in one transaction, all or none; on a full disk once more, one by
        one, in the room kept back."""
        jobs = [job for job in jobs if job.done.set_running_or_notify_cancel()]
        try:
            results = self._write(jobs)
        except Exception as error:  # noqa: BLE001 - nothing may stop the writer
            is_full = "full" in str(error)
            self._is_full = self._is_full or is_full
            if len(jobs) > 1 or (is_full and self._reserve.release()):
                for job in jobs:
                    self._commit_alone(job)
            else:
                jobs[0].done.set_exception(from_sqlite_error(error, self.path))
            return
        for job, result in zip(jobs, results, strict=True):
            job.done.set_result(result)
        self._is_changed = True
        is_copying = self._copying is not None and self._copying.is_alive()
        if time.monotonic() - self._copied_at >= COPY_INTERVAL_S and not is_copying:
            self._copied_at = time.monotonic()
            self._copying = threading.Thread(
                target=keep_copy, args=(self.path,), name="copy of the ledger", daemon=True
            )
            self._copying.start()

    def _write(self, jobs: list[_Job]) -> list[Any]:
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            return [job.write(self._writer) for job in jobs]

    def _commit_alone(self, job: _Job) -> None:
        """Write one job on a disk that was found full; giving up the reserve may have made room."""
        try:
            job.done.set_result(self._write([job])[0])
        except Exception as error:  # noqa: BLE001 - nothing may stop the writer
            if "full" in str(error) and self._reserve.release():
                self._commit_alone(job)
            else:
                job.done.set_exception(from_sqlite_error(error, self.path))


def _hold(path: Path) -> IO[str]:
    """Take the lock that lies beside the ledger; the system lets it go when the process ends,
    however it ends."""
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_path.open("a+", encoding="utf-8")
    except OSError as error:
        raise from_os_error(error, lock_path) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.EACCES}:
            lock.close()
            raise StoppedError(
                f"{path}: cannot be locked here ({error.strerror}), as on some network file systems; choose an --out on a disk of this machine"
            ) from error
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise InputError(
            f"{path}: held by {holder}; wait until it is done or choose another --out"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()}")
    lock.flush()
    return lock


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
