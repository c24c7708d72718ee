"""A few megabytes kept back beside the ledger, given up when the disk is full, so that what is on
its way can still be written down.

In: the path of a ledger. Out: a file of real blocks, until it is released. Where none can be made,
work goes on without.
Not done here: stopping (`completers.ledger` refuses new attempts once the reserve is gone).
"""

import contextlib
import os
from pathlib import Path

RESERVE_BYTES = 16 * 2**20
"""Room for the texts of two thousand running attempts."""


class Reserve:
    """The file that is given up."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.reserve")
        with contextlib.suppress(OSError), self._path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)

    def release(self) -> bool:
        """Give the room back to the disk; False where there is none to give."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
