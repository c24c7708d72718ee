"""The file of a ledger: who holds it, whether it is sound, and what is kept for bad days.

In: the path of the SQLite file. Out: a connection, a lock, a last good copy, room kept back for a
full disk, and one line for what is wrong. Not done here: what stands in it.
"""

import contextlib
import errno
import fcntl
import os
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import IO

from medkd.core.errors import InputError, MedkdError, StoppedError, from_os_error

FORMAT = 1
"""Version of the tables, kept in the file's `user_version`."""
RESERVE_BYTES = 16 * 2**20
"""Room for the texts of two thousand running attempts."""


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
    copy, name = copy_path(path), path.name
    begin = f"{path}: damaged or no ledger ({words})"
    try:
        source = f"{copy.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(source, uri=True)) as connection:
            n_attempts = connection.execute("SELECT COUNT(*) FROM attempts").fetchone()[0]
        made_at = datetime.fromtimestamp(copy.stat().st_mtime).astimezone()
    except (OSError, sqlite3.Error):
        return InputError("{}; move it away, or put a good copy in its place", begin)
    commands = (
        f"cd {path.parent} && mv {name} {name}.damaged && rm -f {name}-wal {name}-shm && "
        f"cp {copy.name} {name}"
    )
    return InputError(
        "{}; the last good copy, of {:%Y-%m-%d %H:%M}, holds {} attempts: {}",
        begin,
        made_at,
        n_attempts,
        commands,
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
    if isinstance(error, sqlite3.DatabaseError) and (
        "malformed" in words or "not a database" in words
    ):
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
