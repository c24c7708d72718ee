"""The last good copy of a ledger: made now and then beside it, checked, and offered where the
ledger is damaged.

In: the path of a ledger. Out: `ledger.sqlite.good`, whole or not at all. A copy is a precaution:
where none can be made (a full disk), work goes on without. Not done here: putting a copy in the
place of a damaged ledger; a person decides that.
"""

import contextlib
import os
import sqlite3
from datetime import datetime
from pathlib import Path

from medkd.core.errors import InputError

COPY_INTERVAL_S = 600.0
"""Seconds of writing between two copies; one is also made at the end of every run."""


def copy_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.good")


def keep_copy(path: Path) -> None:
    """Copy a ledger beside itself while others may write to it; a damaged one takes no good copy's
    place."""
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
    """Let SQLite look through a file."""
    return connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)


def damaged(path: Path, words: str) -> InputError:
    """Say that a ledger is damaged and how to go on from its last good copy."""
    copy = copy_path(path)
    begin = f"{path}: damaged or no ledger ({words})"
    try:
        with contextlib.closing(
            sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            n_attempts = connection.execute("SELECT COUNT(*) FROM attempts").fetchone()[0]
        made_at = (
            datetime.fromtimestamp(copy.stat().st_mtime).astimezone().strftime("%Y-%m-%d %H:%M")
        )
    except (OSError, sqlite3.Error):
        return InputError(f"{begin}; move it away, or put a good copy in its place")
    name = path.name
    commands = f"cd {path.parent} && mv {name} {name}.damaged && rm -f {name}-wal {name}-shm && cp {copy.name} {name}"
    return InputError(
        f"{begin}; the last good copy, of {made_at}, holds {n_attempts} attempts: {commands}"
    )
