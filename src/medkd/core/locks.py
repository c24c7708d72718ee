"""One process at a time in a directory.

In: a directory. Out: it is held until the process that holds it ends, in whatever way. Not done
here: what is written there (`core.stage_output`).
"""

import fcntl
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from medkd.core.errors import InputError

WAIT_S = 10.0
"""How long a second process waits before it is refused."""
POLL_S = 0.1


@contextmanager
def hold_directory(directory: Path, wait_s: float) -> Generator[None]:
    """Hold a directory, making it; raises InputError where another process holds it for too long.

    Where it cannot be made, or its file system has no locks, nothing is held: whatever opens it
    reports what is wrong with it. The lock ends with the process, however that ends.
    """
    is_new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        _wait(handle, directory, wait_s)
        yield
    finally:
        if is_new:
            with suppress(OSError):  # refused, and nothing was written
                directory.rmdir()
        os.close(handle)


def _wait(handle: int, directory: Path, wait_s: float) -> None:
    deadline, is_told = time.monotonic() + wait_s, False
    while not _take(handle):
        if time.monotonic() > deadline:
            raise InputError(
                f"{directory}: another process is working here; "
                "wait until it has ended, stop it, or choose another --out"
            )
        if not is_told:
            print(f"{directory}: waiting for another process", file=sys.stderr, flush=True)
            is_told = True
        time.sleep(POLL_S)


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def is_locked(directory: Path) -> bool:
    """Tell whether a process is working in a stage's directory."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return not _take(handle)
    finally:
        os.close(handle)
