"""Decides which rows stay: the better copy of two, as many traces of a question as wanted, nothing
that is in the test split or a benchmark, no more of a source than wanted.

In: rows, one after the other. They lie on the disk while they are compared; memory holds a few
numbers of each. Out: the numbers of those that stay, by split and in their shuffled order, and a
list of what fell and why. Not done here: reading and writing files.
"""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, get_args

from medkd.core.errors import from_os_error
from medkd.core.parallel import cut
from medkd.core.records import Example, Split, draw_split, hash_uniform
from medkd.merge.decontamination import NgramIndex
from medkd.merge.sources import DropReason, Row
from medkd.text.normalize import make_plain
from medkd.text.similarity import is_looping, propose_pairs, sign, similarity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLITS: tuple[Split, ...] = get_args(Split)
TRAIN, VAL, TEST = (SPLITS.index(split) for split in ("train", "val", "test"))
MAX_REASONING = 8000
"""Characters beyond which a longer reasoning is no better one."""
_QUESTIONS_AT_ONCE = 256


class StoredRow(NamedTuple):
    """A row as it is stored, and what is compared of it."""

    line: bytes
    """The example as a line of JSON."""
    plain: bytes
    """The letters and digits of its question."""
    source: str
    split: int
    """Place in `SPLITS`."""
    is_settled: bool
    """Whether it came with its split, rather than having it drawn."""
    n_reasoning: int
    known: int
    """Hash of the known diagnosis, 0 where there is none."""
    order: float
    """The draw that decides the row's place."""
    exact: bytes
    """16 bytes, equal where the plain questions are."""
    signature: bytes


def describe_rows(
    rows: Sequence[Row], seed: int, val_share: float, test_share: float
) -> list[StoredRow]:
    """Work out what is compared of some rows; one without a split has it drawn."""
    plain = [make_plain(row.example.input) for row in rows]
    return [
        _describe_row(row, text, signature.tobytes(), seed, val_share, test_share)
        for row, text, signature in zip(rows, plain, sign(plain), strict=True)
    ]


def _describe_row(
    row: Row, plain: str, signature: bytes, seed: int, val_share: float, test_share: float
) -> StoredRow:
    example = row.example
    drawn = draw_split(hash_uniform(seed, "split", row.group), val_share, test_share)
    return StoredRow(
        line=example.model_dump_json().encode(),
        plain=plain.encode("utf-8", "surrogatepass"),
        source=example.source,
        split=SPLITS.index(row.split or drawn),
        is_settled=row.split is not None,
        n_reasoning=len(example.reasoning),
        known=(int.from_bytes(_digest(example.reference, 8)) or 1) if example.reference else 0,
        order=hash_uniform(seed, "order", example.id),
        exact=_digest(plain, 16),
        signature=signature,
    )


def _digest(text: str, n_bytes: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=n_bytes).digest()


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

    def __init__(self, directory: Path) -> None:
        self._lines = _Texts(directory / ".rows.tmp")
        self._questions = _Texts(directory / ".questions.tmp")
        self.sources: list[str] = []
        """Names of the sources; `source` holds places in this list."""
        self.source, self.split, self.n_reasoning = array("H"), array("b"), array("I")
        self.is_settled, self.known, self.order = array("b"), array("Q"), array("d")
        self._exact, self._signatures = bytearray(), bytearray()

    def __len__(self) -> int:
        return len(self.split)

    def __enter__(self) -> "RowStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._questions.close()

    def add(self, row: StoredRow) -> None:
        if row.source not in self.sources:
            self.sources.append(row.source)
        self._lines.append(row.line)
        self._questions.append(row.plain)
        self.source.append(self.sources.index(row.source))
        self.split.append(row.split)
        self.is_settled.append(row.is_settled)
        self.n_reasoning.append(row.n_reasoning)
        self.known.append(row.known)
        self.order.append(row.order)
        self._exact += row.exact
        self._signatures += row.signature

    def finish_adding(self) -> None:
        """End the adding; from here on rows are read."""
        self._lines.flush()
        self._questions.flush()

    def read_line(self, number: int) -> bytes:
        return self._lines.read(number)

    def read(self, number: int) -> Example:
        return Example.model_validate_json(self._lines.read(number))

    def read_question(self, number: int) -> str:
        """Return a question reduced to its letters and digits."""
        return self._questions.read(number).decode("utf-8", "surrogatepass")

    def signatures(self) -> "NDArray[np.uint8]":
        import numpy as np

        return np.frombuffer(self._signatures, dtype=np.uint8).reshape(len(self), -1)

    def exact_keys(self) -> "NDArray[np.uint64]":
        """Return two numbers a row, equal where the plain questions are."""
        import numpy as np

        return np.frombuffer(self._exact, dtype=">u8").reshape(-1, 2)

    @staticmethod
    def column(values: "array[Any]") -> "NDArray[Any]":
        """See a column as an array, without a copy."""
        import numpy as np

        return np.frombuffer(values, dtype=values.typecode)


# --- Choosing -----------------------------------------------------------------------------------


class Selection(NamedTuple):
    """What stays and what fell."""

    rows: dict[Split, Sequence[int]]
    dropped: Counter[DropReason]
    repeated: list[dict[str, Any]]
    """Duplicates: `id`, `of`, `exact`, `similarity`."""
    contaminated: list[dict[str, Any]]
    """Rows too near a question of the test split or of a benchmark: `id`, `holds`, `share`."""


class _Choice:
    """A selection while it is being made."""

    def __init__(self, store: RowStore) -> None:
        import numpy as np

        self.store = store
        self.split = RowStore.column(store.split).copy()
        self.stays = np.ones(len(store), dtype=bool)
        self.traces: dict[int, list[int]] = {}
        """Further traces of a question, by the row that stands for it."""
        self.is_looping = np.zeros(len(store), dtype=bool)
        self.repeated: list[dict[str, Any]] = []
        self.contaminated: list[dict[str, Any]] = []
        self.dropped: Counter[DropReason] = Counter()

    def name(self, number: int) -> str:
        return self.store.read(number).id

    def drop(self, number: int, reason: DropReason) -> None:
        self.stays[number] = False
        self.dropped[reason] += 1

    def drop_copy(self, number: int, of: int, alike: float, reason: DropReason) -> None:
        """Drop a row for another one, and its further traces with it."""
        for one in (number, *self.traces.pop(number, ())):
            self.drop(one, reason)
            self.repeated.append(
                {
                    "id": self.name(one),
                    "of": self.name(of),
                    "exact": reason is not DropReason.NEAR_DUPLICATE,
                    "similarity": round(alike, 4),
                }
            )

    def look_for_loops(self, numbers: "NDArray[np.int64]") -> None:
        for number in numbers.tolist():
            self.is_looping[number] = is_looping(self.store.read(number).reasoning)

    def rank(self, numbers: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """Put the copy first that is to stay: one that came as test, then as val, then with a known
        diagnosis, then the better reasoned.

        Better reasoned is one that does not go in circles, then the longer one.
        """
        import numpy as np

        n_reasoning = np.minimum(
            RowStore.column(self.store.n_reasoning)[numbers].astype(np.int64), MAX_REASONING
        )
        has_diagnosis, order = (
            RowStore.column(self.store.known)[numbers] > 0,
            RowStore.column(self.store.order)[numbers],
        )
        came_with = np.where(
            RowStore.column(self.store.is_settled)[numbers] > 0, self.split[numbers], TRAIN
        )
        keys = (order, -n_reasoning, self.is_looping[numbers], ~has_diagnosis, -came_with)
        return numbers[np.lexsort(keys)]


def select(
    store: RowStore,
    near: float,
    contained: float,
    benchmark: Sequence[tuple[str, str]],
    takes: Mapping[str, float],
    traces: int = 1,
    replay: Mapping[str, float] | None = None,
) -> Selection:
    """Choose the rows that stay; `benchmark` holds places and questions, `takes` a share or a
    number of rows for a source, `traces` the most rows of one question, `replay` the shares of
    sources of general rows in the others to train on."""
    import numpy as np

    choice = _Choice(store)
    if len(store):
        _drop_exact(choice, near, traces)
        if near < 1:
            _drop_near(choice, near)
        if contained:
            _drop_contaminated(choice, contained, benchmark)
        _drop_over_cap(choice, takes)
        _drop_replayed(choice, replay or {})
    order = RowStore.column(store.order) if len(store) else np.zeros(0)
    rows: dict[Split, Sequence[int]] = {}
    for place, split in enumerate(SPLITS):
        numbers = (
            np.flatnonzero(choice.stays & (choice.split == place))
            if len(store)
            else np.zeros(0, dtype=np.int64)
        )
        rows[split] = numbers[np.argsort(order[numbers], kind="stable")].tolist()
    return Selection(rows, choice.dropped, choice.repeated, choice.contaminated)


def _drop_exact(choice: _Choice, near: float, traces: int) -> None:
    """Keep of the rows of one question the best, and in training as many others as wanted that
    reason otherwise."""
    import numpy as np

    keys = choice.store.exact_keys()
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    is_same = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    groups = np.split(order, np.flatnonzero(~is_same) + 1) if is_same.any() else []
    known = RowStore.column(choice.store.known)
    for group in groups:
        if len(group) == 1:
            continue
        choice.look_for_loops(group)
        first, *others = choice.rank(group).tolist()
        said = [make_plain(choice.store.read(first).reasoning)]
        most = traces if choice.split[first] == TRAIN else 1
        for number in others:
            reasoning = make_plain(choice.store.read(number).reasoning)
            alike = max(similarity(reasoning, other) for other in said)
            if alike >= near or choice.is_looping[number] or known[number] != known[first]:
                choice.drop_copy(number, first, 1.0, DropReason.EXACT_DUPLICATE)
            elif len(said) >= most:
                choice.drop_copy(number, first, 1.0, DropReason.OVER_TRACES)
            else:
                said.append(reasoning)
                choice.split[number] = choice.split[first]
                choice.traces.setdefault(first, []).append(number)


def _drop_near(choice: _Choice, near: float) -> None:
    """Drop near copies, the worst first to go; two near questions with different known diagnoses
    are two cases."""
    import numpy as np

    stands = choice.stays.copy()
    stands[list(chain.from_iterable(choice.traces.values()))] = False
    numbers = np.flatnonzero(stands)
    pairs = numbers[propose_pairs(choice.store.signatures()[numbers], near)]
    known = RowStore.column(choice.store.known)
    is_two_cases = (
        (known[pairs[:, 0]] > 0)
        & (known[pairs[:, 1]] > 0)
        & (known[pairs[:, 0]] != known[pairs[:, 1]])
    )
    pairs = pairs[~is_two_cases]
    neighbours: dict[int, list[int]] = {}
    for one, other in pairs.tolist():
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    involved = np.array(sorted(neighbours), dtype=np.int64)
    choice.look_for_loops(involved[~choice.is_looping[involved]])
    ranked: dict[int, int] = {}
    for number in choice.rank(involved).tolist():
        better = sorted((n for n in neighbours[number] if n in ranked), key=ranked.__getitem__)
        plain = choice.store.read_question(number) if better else ""
        for other in better:
            alike = similarity(plain, choice.store.read_question(other))
            if alike >= near:
                choice.drop_copy(number, other, alike, DropReason.NEAR_DUPLICATE)
                break
        else:
            ranked[number] = len(ranked)


def _drop_contaminated(
    choice: _Choice, contained: float, benchmark: Sequence[tuple[str, str]]
) -> None:
    """Drop rows of train and val that hold a question of a benchmark or of the test split, and rows
    of val from train likewise."""
    import numpy as np

    _drop_holders(
        choice,
        choice.split != TEST,
        [make_plain(text) for _, text in benchmark],
        [place for place, _ in benchmark],
        contained,
    )
    tests = np.flatnonzero(choice.stays & (choice.split == TEST)).tolist()
    _drop_holders(
        choice,
        choice.split != TEST,
        [choice.store.read_question(n) for n in tests],
        tests,
        contained,
    )


def _drop_holders(
    choice: _Choice,
    may_fall: "NDArray[np.bool_]",
    plain: Sequence[str],
    names: Sequence[str | int],
    share: float,
) -> None:
    import numpy as np

    if not plain:
        return
    benchmark = NgramIndex(plain)
    known = RowStore.column(choice.store.known)
    for numbers in cut(np.flatnonzero(choice.stays & may_fall).tolist(), _QUESTIONS_AT_ONCE):
        for hit in benchmark.find([choice.store.read_question(n) for n in numbers], share):
            number, name = numbers[hit.place], names[hit.question]
            if (
                isinstance(name, int)
                and known[number]
                and known[name]
                and known[number] != known[name]
            ):
                continue
            choice.drop(number, DropReason.CONTAMINATED)
            holds = f"test: {choice.name(name)}" if isinstance(name, int) else name
            choice.contaminated.append(
                {"id": choice.name(number), "holds": holds, "share": hit.share}
            )


def _drop_over_cap(choice: _Choice, takes: Mapping[str, float]) -> None:
    """Leave of a source as many rows as wanted, the traces of a question together; those that came
    as val or test are not counted and stay."""
    for source, wanted in takes.items():
        numbers = _find_free(choice, source)
        _leave(choice, numbers, round(wanted * len(numbers)) if wanted <= 1 else int(wanted))


def _drop_replayed(choice: _Choice, replay: Mapping[str, float]) -> None:
    """Leave of each source of general rows its share of the other rows to train on."""
    import numpy as np

    places = [choice.store.sources.index(name) for name in replay if name in choice.store.sources]
    is_general = np.isin(RowStore.column(choice.store.source), places)
    n_others = int((choice.stays & (choice.split == TRAIN) & ~is_general).sum())
    for source, share in replay.items():
        if source in choice.store.sources:
            _leave(choice, _find_free(choice, source), round(share * n_others))


def _find_free(choice: _Choice, source: str) -> "NDArray[np.int64]":
    """Find the rows of a source that may fall."""
    import numpy as np

    store = choice.store
    is_settled = RowStore.column(store.is_settled) > 0
    is_free = choice.stays & (~is_settled | (choice.split == TRAIN))
    return np.flatnonzero(is_free & (RowStore.column(store.source) == store.sources.index(source)))


def _leave(choice: _Choice, numbers: "NDArray[np.int64]", n_wanted: int) -> None:
    """Drop all but so many rows, in their drawn order."""
    import numpy as np

    order = RowStore.column(choice.store.order).copy()
    for first, further in choice.traces.items():
        order[further] = order[first]
    for number in numbers[np.argsort(order[numbers], kind="stable")][n_wanted:].tolist():
        choice.drop(number, DropReason.OVER_CAP)
