"""Results of a stage over records while it works, batch by batch, so that a killed one goes on.

In: the pickled results of whole batches, in order. Out: the same again, to the same command, up to
the first one that was torn. Not done here: what a batch is (`core.parallel`), when the file goes
(`core.stage_output`).
"""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import IO

from medkd.core.errors import from_os_error

_HEAD = Struct("<QI")
"""Before every batch: its length in bytes, and their checksum."""


class DoneWork:
    """The file of a stage's results, which its owner alone may read. `key` says what they are of:
    the results of anything else are not read, and deleted."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key.encode()
        self._file: IO[bytes] | None = None

    def read(self) -> Iterator[bytes]:
        """Read what an earlier process finished; what is added comes behind it."""
        try:
            self._file = file = self._open()
            if self._read_next(file) != self._key:
                file.truncate(0)
                file.seek(0)
                self.add(self._key)
                return
            while (results := self._read_next(file)) is not None:
                yield results
            file.truncate()
        except OSError as error:
            raise from_os_error(error, self._path) from error

    def _open(self) -> IO[bytes]:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        file = os.fdopen(handle, "r+b")
        if os.fstat(handle).st_uid != os.geteuid():  # whoever wrote it would run code here
            file.truncate(0)
        return file

    def _read_next(self, file: IO[bytes]) -> bytes | None:
        """Read the next entry; stay before it, and return None, where none is whole."""
        start = file.tell()
        head = file.read(_HEAD.size)
        if len(head) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            left = os.fstat(file.fileno()).st_size - file.tell()
            data = file.read(length) if length <= left else b""
            if len(data) == length and zlib.crc32(data) == checksum:
                return data
        file.seek(start)
        return None

    def add(self, results: bytes) -> None:
        """Note the results of the next batch."""
        if self._file is None:
            raise RuntimeError("read what there is before anything is added")
        try:
            self._file.write(_HEAD.pack(len(results), zlib.crc32(results)) + results)
            self._file.flush()
        except OSError as error:
            raise from_os_error(error, self._path) from error
