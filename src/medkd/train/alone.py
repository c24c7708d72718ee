"""One process at a time in a run's directory: who comes second waits a little, and is then refused.

In: a directory. Out: it is held, until the process that holds it ends in whatever way. What a
launcher started outlives a `kill -9` of the launcher; a second start would race with it for the
checkpoints. Not done here: what is written there.
"""

import errno
import fcntl
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from medkd.core.errors import InputError

PATIENCE_S = 120.0
POLL_S = 0.1


@contextmanager
def hold(directory: Path, patience_s: float = PATIENCE_S) -> Generator[None]:
    """Hold a directory, making it; raises InputError where another process does not let go of it in
    time.

    Where it cannot be made, or its file system knows no locks, nothing is held: what opens it says
    what is wrong with it.
    """
    is_new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        _wait(place, directory, patience_s)
        yield
    finally:
        if is_new:
            with suppress(OSError):  # refused, and nothing was written
                directory.rmdir()
        os.close(place)


def _wait(place: int, directory: Path, patience_s: float) -> None:
    deadline, is_told = time.monotonic() + patience_s, False
    while not _take(place):
        if time.monotonic() > deadline:
            raise InputError(
                f"{directory}: another process is still at work here; wait until it has ended, or end it (pgrep -fl medkd)"
            )
        if not is_told:
            print(
                f"{directory}: waiting for an earlier process to leave it",
                file=sys.stderr,
                flush=True,
            )
            is_told = True
        time.sleep(POLL_S)


def _take(place: int) -> bool:
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True
