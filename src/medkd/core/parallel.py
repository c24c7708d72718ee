"""Applies a pure function to items on several processes or machines, in order.

In: a function of a module and the items. Out: its results in the items' order, the same from every
engine and any number of workers: batches are cut here, by size alone. Batches that a killed
process finished are not worked on again. Not done here: work that waits for a network
(`completers.client`).

>>> list(map_in_order(abs, [-1, 2, -3]))
[1, 2, 3]
"""

import io
import itertools
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from struct import Struct
from typing import IO, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel

from medkd.core.config import RUNTIME
from medkd.core.errors import InputError, StoppedError, from_os_error

T = TypeVar("T")
R = TypeVar("R")

Engine = Annotated[Literal["local", "ray"], RUNTIME]
"""The type of the field `engine` of every stage over records."""
MANY = 2000
"""Items from which other processes pay for their start."""
BATCH = 64
"""Items of a batch, unless the caller says otherwise."""
_WAITING_EACH = 3
"""Batches under way for each worker, so that none of them idles; memory holds no more of them."""
_MAX_LOCAL = 8

_Submit = Callable[[list[Any]], Callable[[], bytes]]
"""Hands a batch to a worker; what it returns waits for the results, pickled."""


def map_in_order(
    work: Callable[[T], R],
    items: Iterable[T],
    many: int = MANY,
    engine: Engine = "local",
    size: int = BATCH,
    done: "DoneWork | None" = None,
) -> Iterator[R]:
    """Apply a function to each item, in order; `many` items or more are shared among the workers,
    `size` at a time, fewer stay in this process. Function and items must be picklable. Batches that
    are `done` are not worked on again."""
    waiting = iter(items)
    first = list(itertools.islice(waiting, many))
    every = itertools.chain(first, waiting)
    if len(first) < many:
        yield from map(work, every)
        return
    batches = cut(every, size)
    for results in done.read() if done else ():
        next(batches, None)
        yield from results
    pending: deque[Callable[[], bytes]] = deque()
    with _start_ray(work) if engine == "ray" else _start_processes(work) as (submit, n_workers):
        n_waiting = n_workers * _WAITING_EACH
        while True:
            pending.extend(map(submit, itertools.islice(batches, n_waiting - len(pending))))
            if not pending:
                return
            results = pending.popleft()()
            if done:
                done.add(results)
            yield from _load(results)


def cut(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut items into lists of one size, the last one shorter.

    >>> list(cut("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    waiting = iter(items)
    while batch := list(itertools.islice(waiting, size)):
        yield batch


def _load(data: bytes) -> list[Any]:
    return pickle.loads(data)  # noqa: S301 - of our own workers


# --- Processes of this machine ------------------------------------------------------------------

_work: Callable[[Any], Any]
"""The function of a worker process, handed over once."""


@contextmanager
def _start_processes(work: Callable[[Any], Any]) -> Generator[tuple[_Submit, int], None, None]:
    n = min(os.cpu_count() or 1, _MAX_LOCAL)
    if n == 1:
        yield lambda batch: lambda: _apply(work, batch), 1
        return
    # A fresh interpreter each: a fork would take along whatever threads hold just then. No process
    # is terminated: one that writes just then would keep its lock, and all would wait for it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n, context, _set_work, (work,))
    try:
        yield lambda batch: pool.submit(_do_work, batch).result, n
    except BrokenProcessPool as error:
        raise StoppedError(
            "a process that worked on records was killed, perhaps for want of memory; run the same "
            "command again, it goes on"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _apply(work: Callable[[Any], Any], batch: list[Any]) -> bytes:
    return pickle.dumps(list(map(work, batch)), pickle.HIGHEST_PROTOCOL)


def _set_work(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work


def _do_work(batch: list[Any]) -> bytes:
    return _apply(_work, batch)


# --- Ray ----------------------------------------------------------------------------------------

_RETRIES = 20
"""Times that a batch is begun again where its node, or the memory for it, was lost."""
_PIECES = 48
"""Pieces in which a batch and its results travel: Ray sends less than 100 kB along with a call, but
has a larger object fetched from node to node, for which the worker waits."""


@contextmanager
def _start_ray(work: Callable[[Any], Any]) -> Generator[tuple[_Submit, int], None, None]:
    """Run batches as Ray's tasks: on the cluster at `RAY_ADDRESS`, else on one of this machine that
    ends with the program. A task whose node is lost or whose worker was killed runs again."""
    ray = _connect()
    placed = ray.put(work)
    task = ray.remote(num_cpus=1, max_retries=_RETRIES, num_returns=_PIECES)(_call)

    def submit(batch: list[Any]) -> Callable[[], bytes]:
        pieces = _cut_bytes(pickle.dumps(batch, pickle.HIGHEST_PROTOCOL))
        references = task.remote(placed, *pieces)
        return lambda: b"".join(_receive(ray, references))

    yield submit, max(1, int(ray.cluster_resources().get("CPU", 1)))


def _connect() -> Any:
    # Nothing is reported to Ray's makers, and an error is told once, by us. A worker is kept while
    # there is work: given back every half second, one of another node is not seen as free at once.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    os.environ.setdefault("RAY_worker_lease_timeout_milliseconds", "60000")
    try:
        import ray
    except ImportError as error:
        raise InputError(
            '--engine ray: Ray is missing; pip install "medkd[ray]", or use --engine local'
        ) from error
    if not ray.is_initialized():
        on_end = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                os.environ.get("RAY_ADDRESS", "local"),
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False,
            )
        except Exception as error:
            raise InputError(
                "--engine ray: no cluster answers ({}); check RAY_ADDRESS, and RAY_AUTH_MODE=token "
                "where it asks for its token, or unset both to use this machine alone",
                _first_line(error),
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_end)  # Ray takes it
    return ray


def _call(work: Callable[[Any], Any], *pieces: bytes) -> list[bytes]:
    return _cut_bytes(_apply(work, _load(b"".join(pieces))))


def _cut_bytes(data: bytes) -> list[bytes]:
    length = -(-len(data) // _PIECES)
    return [data[length * place : length * (place + 1)] for place in range(_PIECES)]


def _receive(ray: Any, references: Any) -> list[bytes]:
    try:
        return ray.get(references)
    except ray.exceptions.RayError as error:
        cause: Any = getattr(error, "cause", None)
        if isinstance(cause, Exception) and not isinstance(cause, ray.exceptions.RayError):
            raise cause from None  # of the work itself
        raise StoppedError(
            "--engine ray: a batch failed on the cluster ({}); check that every node has this "
            "version of medkd, and run the same command again",
            _first_line(error),
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- What is done ---------------------------------------------------------------------------------

_PLAIN = {("collections", "Counter"), ("datetime", "date"), ("datetime", "datetime")}
"""Classes of plain values in results, beside those that a pickle has signs of its own for."""
_HEAD = Struct("<QI")
"""Before every batch: its length in bytes, and their checksum."""


class _DataUnpickler(pickle.Unpickler):
    """Reads records and plain values: a run directory may have come from anybody, and a pickle can
    name any function to call."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) in _PLAIN:
            return super().find_class(module_name, global_name)
        if module_name.startswith("medkd.") and "." not in global_name:
            found = super().find_class(module_name, global_name)
            if isinstance(found, type) and issubclass(found, BaseModel | Enum | tuple):
                return found
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is no record")


class DoneWork:
    """The file of a stage's results, which its owner alone may read. `key` says what they are of:
    the results of anything else are not read, and deleted."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key.encode()
        self._file: IO[bytes] | None = None

    def read(self) -> Iterator[list[Any]]:
        """Read what an earlier process finished, as far as it is whole and of this program; what is
        added comes behind it."""
        try:
            self._file = file = self._open()
            if self._read_next(file) != self._key:
                file.truncate(0)
                file.seek(0)
                self.add(self._key)
                return
            while (results := self._read_results(file)) is not None:
                yield results
            file.truncate()
        except OSError as error:
            raise from_os_error(error, self._path) from error

    def _open(self) -> IO[bytes]:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        return os.fdopen(handle, "r+b")

    def _read_results(self, file: IO[bytes]) -> list[Any] | None:
        start = file.tell()
        if (data := self._read_next(file)) is not None:
            try:
                return _DataUnpickler(io.BytesIO(data)).load()
            except Exception:  # noqa: BLE001 - whatever a strange pickle raises
                file.seek(start)
        return None

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
