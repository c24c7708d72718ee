"""Input that lies where clusters have it: `s3://bucket/notes`, `hdfs://host:8020/notes`.

In: an address. Out: a path that is listed and read as one of this machine is, through pyarrow. Keys
come from where the store's own clients look for them (environment, profile). Not done here:
writing; a stage's output lies on this machine.
"""

import errno
import io
import os
import re
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PosixPath
from typing import Any

from medkd.core.errors import InputError, StoppedError

STORES = ("s3:", "hdfs:")
SCHEMES = (*STORES, "file:")
"""What an address begins with."""
_PLACES = {
    "s3:": re.compile(r"(?a)[\w.-]+"),
    "hdfs:": re.compile(r"(?a)[\w.-]+(:\d+)?"),
}
"""What names a bucket, or a host."""
_BUFFER_BYTES = 2**22
"""What is asked for at once."""
_REFUSALS = ("ACCESS", "SIGNATURE", "TOKEN", "HTTP status 401", "HTTP status 403")
"""How stores word it that they do not know a key, or that it may not read."""


def find_place(given: str | Path) -> Path:
    """Read a path or an address; raises InputError, without a word of it, for one that may hold a
    key or names no bucket or host.

    >>> find_place("s3://bucket/notes"), find_place("file:///data/notes")
    (RemotePath('s3://bucket/notes'), PosixPath('/data/notes'))
    """
    store, *rest = Path(given).parts or ("",)
    is_without_host = str(given).startswith(f"{store}///")
    if store == "file:":
        host = rest.pop(0) if str(given).startswith("file://") and not is_without_host else ""
        if host not in ("", "localhost"):
            raise InputError("--input: an address of a file is file:///FOLDER/FILE, without a host")
        return Path("/", *rest)
    if store not in STORES:
        return Path(given)
    place = rest[0] if rest and not is_without_host else ""
    if not _PLACES[store].fullmatch(place) or (":" in place and "@" in str(given)):
        raise InputError(
            "--input: an address is {}, without a key; keys come from the environment or the "
            "profile",
            "s3://BUCKET/FOLDER" if store == "s3:" else "hdfs://HOST:PORT/FOLDER",
        )
    return RemotePath(given)


class RemotePath(PosixPath):
    """A file or a folder of a store. Whatever wants it on this machine's disk gets an InputError;
    of a store that gives no access an InputError is raised, of one that fails a StoppedError."""

    _info: Any = None

    def __str__(self) -> str:
        return f"{self.parts[0]}//{'/'.join(self.parts[1:])}"

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __fspath__(self) -> str:
        raise InputError("{}: cannot be read where it lies; fetch it to this machine first", self)

    def resolve(self, strict: bool = False) -> "RemotePath":
        return self

    def absolute(self) -> "RemotePath":
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return kind and size; raises FileNotFoundError."""
        if self._info is None:
            with _telling(self):
                self._info = _open_store(*self.parts[:2]).get_file_info(self._name)
        kind = self._info.type.name
        if kind == "NotFound":
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        mode = stat.S_IFDIR if kind == "Directory" else stat.S_IFREG
        size = self._info.size if kind == "File" else 4096  # a folder is not empty, as on a disk
        return os.stat_result((mode, 0, 0, 1, 0, 0, size, 0, 0, 0))

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        try:
            return bool(self.stat())
        except FileNotFoundError:
            return False

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self.exists() and stat.S_ISDIR(self.stat().st_mode)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self.exists() and stat.S_ISREG(self.stat().st_mode)

    def glob(self, pattern: str, **_: Any) -> Iterator["RemotePath"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """List what lies in this very folder under such names."""
        from pyarrow.fs import FileSelector

        with _telling(self):
            found: Any = _open_store(*self.parts[:2]).get_file_info(FileSelector(self._name))
        for info in found:
            if fnmatchcase(info.base_name, pattern):
                child = self / info.base_name
                child._info = info
                yield child

    def open(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Open for reading; what is read is fetched piece by piece."""
        file = io.BufferedReader(_RemoteFile(self, self._name), _BUFFER_BYTES)
        return file if "b" in mode else io.TextIOWrapper(file, encoding, errors, newline)

    @property
    def _name(self) -> str:
        """The name within the store: that of a bucket comes first, that of a host does not."""
        store, host, *rest = self.parts
        return "/".join((host if store == "s3:" else "", *rest))


class _RemoteFile(io.RawIOBase):
    def __init__(self, path: RemotePath, name: str) -> None:
        self._path = path
        with _telling(path):
            self._file: Any = _open_store(*path.parts[:2]).open_input_file(name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        with _telling(self._path):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@cache
def _open_store(store: str, host: str) -> Any:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(f"{store}//{host}")[0]


@contextmanager
def _telling(path: RemotePath) -> Generator[None]:
    """Say in one line why a store does not give what it is asked for."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from error
    except ValueError as error:  # its reason quotes what it was given
        raise InputError("{}: no address that the store knows; check --input", path) from error
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        if any(sign in reason for sign in _REFUSALS):
            raise InputError(
                "{}: no access ({}); check the keys in the environment or the profile, and what "
                "they may read",
                path,
                reason,
            ) from error
        raise StoppedError(
            "{}: the store fails ({}); see to it and run the same command again", path, reason
        ) from error
