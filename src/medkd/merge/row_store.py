"""Keeps rows on the disk while they are compared, and of each row in memory only what is compared:
a few numbers.

In: rows, one after the other. Out: rows by number, their plain questions, columns of numbers. Not
done here: deciding which rows stay.
"""

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, get_args

from medkd.core.errors import from_os_error
from medkd.core.records import Example, Split, hash_uniform
from medkd.merge.schemas import Row
from medkd.text.normalize import make_plain
from medkd.text.similarity import sign

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLITS: tuple[Split, ...] = get_args(Split)
BATCH = 1024
"""Questions whose signatures are computed together."""


class _Texts:
    """Texts in one file, each found again by its number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] = path.open("w+b")
        self._starts = array("Q", [0])

    def append(self, text: bytes) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise from_os_error(error, self._path) from error
        self._starts.append(self._starts[-1] + len(text))

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise from_os_error(error, self._path) from error

    def read(self, number: int) -> bytes:
        start = self._starts[number]
        return os.pread(self._file.fileno(), self._starts[number + 1] - start, start)

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


class RowStore:
    """Rows on the disk in one directory; use as a context manager, its files go when it is left."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._seed = seed
        self._rows, self._questions = (
            _Texts(directory / ".rows.tmp"),
            _Texts(directory / ".questions.tmp"),
        )
        self._waiting: list[str] = []
        self._signatures = bytearray()
        self.sources: list[str] = []
        """Names of the sources; `source` holds places in this list."""
        self.source, self.split, self.n_reasoning = array("H"), array("b"), array("I")
        self.is_settled = array("b")
        """Whether a row came with its split, rather than having it drawn."""
        self.known, self.order = array("Q"), array("d")
        """Hash of the known diagnosis, 0 where there is none; the draw that decides the row's
        place."""
        self._exact = array("Q")

    def __len__(self) -> int:
        return len(self.split)

    def __enter__(self) -> "RowStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        self._questions.close()

    def add(self, row: Row, split: Split) -> None:
        """Put a row down under the split it came with or was drawn into."""
        example = row.example
        plain = make_plain(example.input)
        self._rows.append(example.model_dump_json().encode())
        self._questions.append(plain.encode("utf-8", "surrogatepass"))
        if example.source not in self.sources:
            self.sources.append(example.source)
        self.source.append(self.sources.index(example.source))
        self.split.append(SPLITS.index(split))
        self.is_settled.append(row.split is not None)
        self.n_reasoning.append(len(example.reasoning))
        self.known.append(_hash(example.reference) if example.reference else 0)
        self.order.append(hash_uniform(self._seed, "order", example.id))
        digest = hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self._exact.extend((int.from_bytes(digest[:8]), int.from_bytes(digest[8:])))
        self._waiting.append(plain)
        if len(self._waiting) >= BATCH:
            self._sign()

    def _sign(self) -> None:
        self._signatures += sign(self._waiting).tobytes()
        self._waiting.clear()

    def finish_adding(self) -> None:
        """End the adding; from here on rows are read."""
        self._sign()
        self._rows.flush()
        self._questions.flush()

    def read(self, number: int) -> Example:
        return Example.model_validate_json(self._rows.read(number))

    def read_question(self, number: int) -> str:
        """Return a question reduced to its letters and digits."""
        return self._questions.read(number).decode("utf-8", "surrogatepass")

    def read_questions(self, numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], list[str]]]:
        """Return the plain questions of many rows, some at a time."""
        for start in range(0, len(numbers), BATCH // 4):
            some = numbers[start : start + BATCH // 4]
            yield some, [self.read_question(int(number)) for number in some]

    def signatures(self) -> "NDArray[np.uint8]":
        import numpy as np

        return np.frombuffer(self._signatures, dtype=np.uint8).reshape(len(self), -1)

    def exact_keys(self) -> "NDArray[np.uint64]":
        """Return two numbers a row, equal where the plain questions are."""
        return self.column(self._exact).reshape(-1, 2)

    @staticmethod
    def column(values: "array[Any]") -> "NDArray[Any]":
        """See a column as an array, without a copy."""
        import numpy as np

        return np.frombuffer(values, dtype=values.typecode)


def _hash(text: str) -> int:
    return (
        int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        )
        or 1
    )
