"""Files between stages: records as JSON Lines, plain or packed, whole or in parts, read with their
broken lines named, written atomically or append-only; lists too long for the memory.

Not done here: a stage's directory and its manifest (`core.stage_output`), progress on the screen
(`core.progress`).
"""

import contextlib
import hashlib
import json
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Annotated, Any, Generic, Self, TypeVar, cast, overload

import orjson
from pydantic import BaseModel, Field, ValidationError

from medkd.core.errors import InputError, Said, from_os_error
from medkd.core.records import Record
from medkd.core.remote import RemotePath

R = TypeVar("R", bound=Record)
T = TypeVar("T")


MANIFEST = "manifest.json"
MAX_LINE_BYTES = 2**26
"""Length up to which a line of records is read."""
_PACKERS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of a packed file to the name of what packed it."""
ShardRows = Annotated[int, Field(ge=0)]
"""The type of the field `shard_rows` of every stage over records; 0 stands for one file."""
WHOLE_HASH_BYTES = 256 * 2**20
"""Files up to this size are hashed whole; of larger ones the size and both ends (1 MiB each)."""


def resolve_input(path: Path, name: str, made_by: str, may_be_empty: bool = False) -> Path:
    """Find the file `name` in a stage's directory, or take the file itself, or a folder of parts;
    say which command makes a missing one, or which flag (`--exam`) names one from elsewhere.

    `may_be_empty` accepts an empty file beside a manifest: the stage left nothing on purpose.
    """
    try:
        found = path / name if path.is_dir() else path
        folder = found if found.is_dir() else path
        parts = list_parts(folder) if folder.is_dir() and not found.is_file() else []
        if any(part.stat().st_size for part in parts):
            return folder
        found = parts[0] if parts else found
        mode = found.stat().st_mode
        size = found.stat().st_size
    except FileNotFoundError as error:
        place = path / name if path.is_dir() else path
        if made_by.startswith("--"):
            raise InputError("{}: no such file; check {}", place, made_by) from error
        raise InputError(
            '{}: no such file; run "medkd {}" first or check --input', place, made_by
        ) from error
    except ValueError as error:
        raise InputError("{!r}: no name of a file; check --input", str(path)) from error
    except OSError as error:
        raise from_os_error(error, path) from error
    if stat.S_ISDIR(mode):
        raise InputError("{}: a folder; name the file in it", found)
    if not stat.S_ISREG(mode):
        raise InputError("{}: a pipe or device; write its content to a file first", found)
    is_left_empty = may_be_empty and found.with_name(MANIFEST).is_file()
    if size == 0 and not is_left_empty:
        if made_by.startswith("--"):
            raise InputError("{}: the file is empty; check {}", found, made_by)
        raise InputError(
            '{}: the file is empty; run "medkd {}" again or check --input', found, made_by
        )
    return found


def hash_path(path: Path, without: Path | None = None) -> str:
    """Return the sha256 of a file, or of a directory's relative paths and file hashes; the
    directory `without` inside it is left out."""
    digest = hashlib.sha256()
    if path.is_dir():
        for child in sorted(
            p
            for p in path.rglob("*")
            if p.is_file()
            and p.name != MANIFEST
            and not p.name.endswith(".html")
            and not (without and p.is_relative_to(without))
        ):
            name = os.fsencode(child.relative_to(path).as_posix())
            digest.update(name + f" {hash_path(child)}\n".encode())
        return digest.hexdigest()
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError("{}: is a pipe or a device; write its content to a file first", path)
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_HASH_BYTES:
            while chunk := file.read(2**20):
                digest.update(chunk)
        else:
            digest.update(str(size).encode() + file.read(2**20))
            file.seek(-(2**20), os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()


def list_parts(path: Path) -> list[Path]:
    """List the files of an input: itself, or those of a folder that are called `part-…`, by name;
    none for another folder."""
    return sorted(p for p in path.glob("part-*") if p.is_file()) if path.is_dir() else [path]


def read_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Read the lines of a file or of a folder of parts, each with its place; blank ones are passed
    over.

    A part may be packed (gzip, zstd), or Parquet, whose rows come as JSON without their nulls; of a
    line that is too long the beginning alone is given, which is broken.
    """
    for part in list_parts(path) or [path]:
        try:
            with part.open("rb") as file:
                for number, line in enumerate(_unpack(file, part), start=1):
                    if line.strip():
                        yield f"{part.name}:{number}", line
        except OSError as error:
            raise from_os_error(error, part) from error


def is_packed(path: Path) -> bool:
    """Tell whether a file holds lines that are packed by gzip or zstd."""
    with path.open("rb") as file:
        return file.read(4).startswith(tuple(_PACKERS))


def _unpack(file: BufferedReader, part: Path) -> Iterator[bytes]:
    head = file.peek(4)[:4]
    packer = next((name for magic, name in _PACKERS.items() if head.startswith(magic)), "")
    if not packer and head != b"PAR1":
        yield from _split_lines(file)
        return
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        if packer:
            yield from _split_lines(
                BufferedReader(cast(Any, pa).CompressedInputStream(file, packer))
            )
            return
        batch: Any
        for batch in ParquetFile(file).iter_batches(batch_size=256):
            for row in batch.to_pylist(maps_as_pydicts="strict"):
                yield orjson.dumps(_without_nulls(row), default=str)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        reason = str(cast(Exception, error)).splitlines()[0][:120]
        raise InputError("{}: damaged ({}); fetch or pack it again", part, reason) from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {name: _without_nulls(inner) for name, inner in items if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in cast("list[Any]", value)]
    return value


def printable_name(path: Path) -> str:
    """Return the name of a file as text that every record can hold, also where it is no UTF-8."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


class RecordReader(Generic[R]):
    """Iterate over the records of a JSON Lines file; a broken line is counted, named and passed
    over.

    Raises InputError where no line at all is a record of the wanted type.
    """

    def __init__(self, path: Path, record: type[R], made_by: str) -> None:
        self.path = path
        self.record = record
        self.made_by = made_by
        self.n_read = 0
        self.broken: list[str] = []
        """One line for each broken one: its place and what is wrong."""

    def __iter__(self) -> Iterator[R]:
        self.n_read, self.broken = 0, []
        n_good = 0
        for place, line in read_lines(self.path):
            self.n_read += 1
            try:
                yield self.record.model_validate_json(line)
                n_good += 1
            except ValidationError as error:
                self.broken.append(f"{place}: {first_problem(error)}")
        if self.n_read and not n_good:
            raise InputError(
                '{}; this is no {} file, run "medkd {}" first',
                self.broken[0],
                self.record.__name__,
                self.made_by,
            )
        for problem in self.broken:
            print(f"warning: {problem}; line passed over", file=sys.stderr)

    def dropped(self) -> dict[str, int]:
        """Count broken lines as a drop reason."""
        return {"broken_line": len(self.broken)} if self.broken else {}


def count_lines(path: Path) -> int | None:
    """Count the lines of a file or of its parts, for a bar that knows its end; None where some are
    packed, or in a store."""
    if isinstance(path, RemotePath):
        return None
    n = 0
    for part in list_parts(path):
        with part.open("rb") as file:
            if file.peek(4)[:4].startswith((b"PAR1", *_PACKERS)):
                return None
            n += sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    return n


def _split_lines(file: BufferedReader) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES):
        yield line
        while len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)


def first_problem(error: ValidationError) -> Said:
    """Say in a few words what is wrong with a line."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "json_invalid":
            why = first.get("ctx", {}).get("error", "")
            return Said("broken JSON ({})", why) if why else Said("broken JSON")
        case "missing":
            return Said("no {}", field)
        case "extra_forbidden":
            return Said("unknown field {}", field)
        case _:
            return Said("{}: {}", field or "line", first["msg"])


@contextmanager
def write_atomically(
    path: Path, binary: bool = False, private: bool = False
) -> Generator[IO[Any], None, None]:
    """Open a file that appears whole under its name, or not at all.

    `private` lets its owner alone read it: what may name patients. Halves of characters in a text
    are written as `\\udc80`. Leftovers of killed processes in the directory go. Raises StoppedError
    when the disk is full; nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_leftovers(path.parent)
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666
        )
        with (
            os.fdopen(descriptor, "wb")
            if binary
            else os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace")
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise from_os_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


_LEFTOVER = re.compile(r"\..+\.(\d{1,10})\.tmp", re.DOTALL)
_swept: set[Path] = set()


def sweep_leftovers(directory: Path) -> None:
    """Delete the temporary files that killed processes of this machine left in a directory; looks
    once a process."""
    if directory in _swept:
        return
    _swept.add(directory)
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):  # noqa: PTH208 - names that are no UTF-8 stay names
            found = _LEFTOVER.fullmatch(name)
            if found and not _is_running(int(found[1])):
                (directory / name).unlink(missing_ok=True)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def write_text(path: Path, text: str, private: bool = False) -> None:
    """Write a small text file atomically."""
    with write_atomically(path, private=private) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, readable Chinese kept."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_records(path: Path, records: Iterable[Record], private: bool = False) -> int:
    """Write records as JSON Lines, atomically; return how many."""
    n = 0
    with write_atomically(path, private=private) as file:
        for record in records:
            file.write(record.model_dump_json() + "\n")
            n += 1
    return n


class Shard(BaseModel):
    """What the manifest says of a part."""

    rows: int
    sha256: str


class RecordWriter:
    """An open file of records, or the folder of its parts; a context. Without any record it is an
    empty file in either case.

    Parts lie in a hidden folder beside until all are there. What lies under the name in the other
    form, or in a folder of parts, goes first; raises InputError for a folder that holds anything
    else.
    """

    def __init__(self, path: Path, shard_rows: int = 0) -> None:
        self.path, self.n = path, 0
        self.shards: dict[str, Shard] = {}
        """By name in the directory of `path`; empty for one file."""
        self._shard_rows = shard_rows
        self._hidden = path.with_name(f".{path.name}.parts")
        self._part, self._open = Path(), ExitStack()
        self._file: Any = None

    def __enter__(self) -> Self:
        try:
            if self.path.is_dir():
                self._remove_old_parts()
            elif self._shard_rows:
                self.path.unlink(missing_ok=True)
            if self._hidden.is_dir():  # of a run that was killed
                shutil.rmtree(self._hidden)
        except OSError as error:
            raise from_os_error(error, self.path) from error
        if not self._shard_rows:
            self._file = self._open.enter_context(write_atomically(self.path, binary=True))
        return self

    def _remove_old_parts(self) -> None:
        sweep_leftovers(self.path)
        parts = list_parts(self.path)
        for other in sorted(set(self.path.iterdir()) - set(parts)):
            raise InputError(
                "{}: holds {}, which is no part of it; move that away or choose another --out",
                self.path,
                other.name,
            )
        for part in parts:
            part.unlink()
        self.path.rmdir()

    def add(self, record: Record) -> None:
        self.write(record.model_dump_json().encode(errors="backslashreplace"))

    def write(self, line: bytes) -> None:
        """Write a record that is a line already, without its end."""
        if self._shard_rows and self.n % self._shard_rows == 0:
            self._begin_part()
        self._file.write(line + b"\n")
        self.n += 1

    def _begin_part(self) -> None:
        from pyarrow import CompressedOutputStream

        self._end_part()
        self._part = self._hidden / f"part-{len(self.shards):05}.jsonl.zst"
        file = self._open.enter_context(write_atomically(self._part, binary=True))
        # A file object of its own, since the packer closes what it writes to.
        packed = os.fdopen(os.dup(file.fileno()), "wb")
        stream = cast(Any, CompressedOutputStream)(packed, "zstd")
        self._file = self._open.enter_context(stream)

    def _end_part(self) -> None:
        self._open.close()
        if self._shard_rows and self.n:
            rows = self.n - self._shard_rows * len(self.shards)
            name = f"{self.path.name}/{self._part.name}"
            self.shards[name] = Shard(rows=rows, sha256=hash_path(self._part))

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0]:
                self._open.__exit__(*error)
            elif self.n or not self._shard_rows:
                self._end_part()
            else:
                write_text(self.path, "")
            if self.shards and not error[0]:
                self._hidden.replace(self.path)
        except OSError as failed:
            raise from_os_error(failed, self.path) from failed
        finally:
            shutil.rmtree(self._hidden, ignore_errors=True)


class RecordAppender:
    """Append records to a file that survives a kill: a torn last line is cut off when it is opened
    again."""

    def __init__(self, path: Path, private: bool = False) -> None:
        self.path = path
        mode = 0o600 if private else 0o666
        try:
            _cut_torn_line(path)
            self._file = os.fdopen(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode), "ab"
            )
        except OSError as error:
            raise from_os_error(error, path) from error

    def append(self, record: Record) -> None:
        try:
            self._file.write(record.model_dump_json().encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise from_os_error(error, self.path) from error

    def __enter__(self) -> "RecordAppender":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(
            OSError
        ):  # a full disk was told by append; closing tells it again, without the place
            self._file.close()


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        content_end = file.seek(0, os.SEEK_END)
        while content_end > 0:
            start = max(0, content_end - 65536)
            file.seek(start)
            newline = file.read(content_end - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            content_end = start
        file.truncate(0)


# --- Lists whose items lie on the disk ------------------------------------------------------------


class SpilledList(Sequence[T]):
    """Items in a file without a name, which is gone with the process, on the disk of a directory;
    of the system's temporary one where there is no such directory.

    >>> spilled = SpilledList(Path("/tmp"))
    >>> for item in "abc":
    ...     spilled.append(item)
    >>> len(spilled), spilled[2], spilled[:2]
    (3, 'c', ['a', 'b'])
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            place = directory if directory.is_dir() else None
            self._file = tempfile.TemporaryFile(dir=place)  # noqa: SIM115 - as long as the list
        except OSError as error:
            raise from_os_error(error, directory) from error
        self._starts = array("Q", [0])

    def append(self, item: T) -> None:
        data = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        try:
            self._file.write(data)
        except OSError as error:
            raise from_os_error(error, self._directory) from error
        self._starts.append(self._starts[-1] + len(data))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        start, end = self._starts[range(len(self))[index]], self._starts[index % len(self) + 1]
        try:
            self._file.flush()
            data = os.pread(self._file.fileno(), end - start, start)
        except OSError as error:
            raise from_os_error(error, self._directory) from error
        return pickle.loads(data)  # noqa: S301 - of this process
