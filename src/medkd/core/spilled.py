"""A list whose items lie on the disk: memory holds eight bytes of each.

In: items, one after another. Out: the same by their number, in any order. Not done here: keeping
them: the file has no name, and is gone with the process however that ends.
"""

import os
import pickle
import tempfile
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from medkd.core.errors import from_os_error

T = TypeVar("T")
R = TypeVar("R")


class SpilledList(Sequence[T]):
    """Items on the disk of a directory; of the system's temporary one where there is no such
    directory.

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


class View(Sequence[R]):
    """Items of a list, those of some numbers, as a function makes them of what lies there.

    >>> list(View("abc", [2, 0], str.upper))
    ['C', 'A']
    """

    def __init__(self, items: Sequence[T], numbers: Sequence[int], make: Callable[[T], R]) -> None:
        self._items: Sequence[Any] = items
        self._numbers = numbers
        self._make = make

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> list[R]: ...
    def __getitem__(self, index: int | slice) -> R | list[R]:
        if isinstance(index, slice):
            return [self._make(self._items[number]) for number in self._numbers[index]]
        return self._make(self._items[self._numbers[index]])
