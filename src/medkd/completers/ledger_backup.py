"""Safety of a ledger: its last good copy, and disk space reserved for answers on their way.

In: the path of a ledger. Out: `ledger.sqlite.good`, whole or not at all; a reserve file.
Not done here: replacing a damaged ledger; a person decides that.
"""

import contextlib
import os
import sqlite3
from datetime import datetime
from pathlib import Path

from medkd.core.errors import InputError

COPY_INTERVAL_S = 600.0
"""Seconds of writing between two copies; one is also made at the end of every run."""
RESERVE_BYTES = 16 * 2**20
"""Room for the texts of two thousand running attempts."""


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


def copy_path(path: Path) -> Path:
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


def is_sound(connection: sqlite3.Connection) -> bool:
    """Have SQLite check a file."""
    return connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)


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
        return InputError(f"{begin}; move it away, or put a good copy in its place")
    commands = (
        f"cd {path.parent} && mv {name} {name}.damaged && rm -f {name}-wal {name}-shm && "
        f"cp {copy.name} {name}"
    )
    return InputError(
        f"{begin}; the last good copy, of {made_at:%Y-%m-%d %H:%M}, holds {n_attempts} attempts: "
        f"{commands}"
    )
