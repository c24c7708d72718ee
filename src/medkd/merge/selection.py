"""Decides which rows stay: the better copy of two, as many traces of a question as wanted, nothing
that is in the test split or a benchmark, no more of a source than wanted.

In: rows, one after the other. They lie on the disk while they are compared; memory holds a few
numbers of each. Out: the numbers of those that stay, by split and in their shuffled order, and a
list of what fell and why. Not done here: reading and writing files.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from medkd.core.config import did_you_mean
from medkd.core.errors import InputError
from medkd.core.jsonl import SpilledList
from medkd.core.parallel import cut
from medkd.core.records import Example, Split, draw_split, hash_uniform
from medkd.merge.decontamination import NgramIndex
from medkd.merge.sources import DropReason, Row, read_number
from medkd.text.normalize import make_plain
from medkd.text.similarity import BAND, N_BANDS, is_looping, propose_pairs, sign, similarity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLITS: tuple[Split, ...] = get_args(Split)
TRAIN, VAL, TEST = (SPLITS.index(split) for split in ("train", "val", "test"))
MAX_REASONING = 8000
"""Characters beyond which a longer reasoning is no better one."""
_QUESTIONS_AT_ONCE = 256
_COLUMNS: list[Any] = [
    ("source", "u2"),  # place in `RowStore.sources`
    ("split", "i1"),  # place in `SPLITS`
    ("is_settled", "?"),  # it came with its split, rather than having it drawn
    ("n_reasoning", "u4"),
    ("known", "u8"),  # hash of the known diagnosis, 0 where there is none
    ("order", "f8"),  # the draw that decides the row's place
    ("exact", ">u8", 2),  # equal where the plain questions are
    ("signature", "u1", BAND * N_BANDS),
]
"""What is compared of a row: about 170 bytes in memory."""


class StoredRows(NamedTuple):
    """Some rows as they are stored, and what is compared of them."""

    lines: list[bytes]
    """The examples as lines of JSON."""
    plain: list[bytes]
    """The letters and digits of their questions."""
    sources: list[str]
    table: bytes
    """A record of `_COLUMNS` for each, the source not filled in."""


def describe_rows(
    rows: Sequence[Row], seed: int, val_share: float, test_share: float
) -> StoredRows:
    """Work out what is compared of some rows; one without a split has it drawn."""
    import numpy as np

    examples = [row.example for row in rows]
    plain = [make_plain(example.input) for example in examples]
    table = np.zeros(len(rows), _COLUMNS)
    table["split"] = [
        SPLITS.index(
            row.split or draw_split(hash_uniform(seed, "split", row.group), val_share, test_share)
        )
        for row in rows
    ]
    table["is_settled"] = [row.split is not None for row in rows]
    table["n_reasoning"] = [len(example.reasoning) for example in examples]
    table["known"] = [
        (int.from_bytes(_digest(example.reference, 8)) or 1) if example.reference else 0
        for example in examples
    ]
    table["order"] = [hash_uniform(seed, "order", example.id) for example in examples]
    digests = b"".join(_digest(text, 16) for text in plain)
    table["exact"] = np.frombuffer(digests, ">u8").reshape(-1, 2)
    table["signature"] = sign(plain)
    return StoredRows(
        [example.model_dump_json().encode() for example in examples],
        [text.encode("utf-8", "surrogatepass") for text in plain],
        [example.source for example in examples],
        table.tobytes(),
    )


def _digest(text: str, n_bytes: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=n_bytes).digest()


class RowStore:
    """Rows on the disk of a directory."""

    def __init__(self, directory: Path) -> None:
        self._lines = SpilledList[bytes](directory)
        self._questions = SpilledList[bytes](directory)
        self._table = bytearray()
        self.n_rows = 0
        self.sources: list[str] = []
        """Names of the sources; the column `source` holds places in this list."""

    def add(self, rows: StoredRows) -> None:
        import numpy as np

        self.sources += [name for name in dict.fromkeys(rows.sources) if name not in self.sources]
        table = np.frombuffer(bytearray(rows.table), _COLUMNS)
        table["source"] = [self.sources.index(name) for name in rows.sources]
        for line, plain in zip(rows.lines, rows.plain, strict=True):
            self._lines.append(line)
            self._questions.append(plain)
        self._table += table.tobytes()
        self.n_rows += len(rows.lines)

    def view_table(self) -> "NDArray[Any]":
        """View the records of `_COLUMNS`; no row can be added while the view lives."""
        import numpy as np

        return np.frombuffer(self._table, _COLUMNS)

    def read_line(self, number: int) -> bytes:
        return self._lines[number]

    def read(self, number: int) -> Example:
        return Example.model_validate_json(self._lines[number])

    def read_question(self, number: int) -> str:
        """Return a question reduced to its letters and digits."""
        return self._questions[number].decode("utf-8", "surrogatepass")


# --- Choosing -----------------------------------------------------------------------------------


class Selection:
    """What stays and what fell, of the rows of a store."""

    def __init__(self, store: RowStore) -> None:
        import numpy as np

        self.store = store
        self.table = store.view_table()
        self.split: NDArray[np.int8] = self.table["split"].copy()
        self.stays = np.ones(len(self.table), dtype=bool)
        self.traces: dict[int, list[int]] = {}
        """Further traces of a question, by the row that stands for it."""
        self.is_looping = np.zeros(len(self.table), dtype=bool)
        self.dropped: Counter[DropReason] = Counter()
        self.repeated: list[dict[str, Any]] = []
        """Duplicates: `id`, `of`, `exact`, `similarity`."""
        self.contaminated: list[dict[str, Any]] = []
        """Rows too near a question of the test split or of a benchmark: `id`, `holds`, `share`."""

    @cached_property
    def rows(self) -> dict[Split, list[int]]:
        """The numbers of the rows that stay, by split, in their shuffled order."""
        import numpy as np

        found: dict[Split, list[int]] = {}
        for place, split in enumerate(SPLITS):
            numbers = np.flatnonzero(self.stays & (self.split == place))
            order = np.argsort(self.table["order"][numbers], kind="stable")
            found[split] = numbers[order].tolist()
        return found

    def name(self, number: int) -> str:
        return self.store.read(number).id

    def is_other_case(self, one: Any, other: Any) -> Any:
        """Tell whether two rows (or two columns of rows) have different known diagnoses."""
        known = self.table["known"]
        return (known[one] > 0) & (known[other] > 0) & (known[one] != known[other])

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

    def look_for_loops(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.is_looping[number] = is_looping(self.store.read(number).reasoning)

    def rank(self, numbers: "NDArray[np.int64]") -> list[int]:
        """Put the copy first that is to stay: one that came as test, then as val, then with a known
        diagnosis, then the better reasoned.

        Better reasoned is one that does not go in circles, then the longer one.
        """
        import numpy as np

        rows = self.table[numbers]
        n_reasoning = np.minimum(rows["n_reasoning"].astype(np.int64), MAX_REASONING)
        came_with = np.where(rows["is_settled"], self.split[numbers], TRAIN)
        has_none = rows["known"] == 0
        keys = (rows["order"], -n_reasoning, self.is_looping[numbers], has_none, -came_with)
        return numbers[np.lexsort(keys)].tolist()


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
    choice = Selection(store)
    _drop_exact(choice, near, traces)
    if near < 1:
        _drop_near(choice, near)
    _drop_contaminated(choice, contained, benchmark)
    _drop_over_cap(choice, takes)
    _drop_replayed(choice, replay or {})
    return choice


def _drop_exact(choice: Selection, near: float, traces: int) -> None:
    """Keep of the rows of one question the best, and in training as many others as wanted that
    reason otherwise."""
    import numpy as np

    keys, known = choice.table["exact"], choice.table["known"]
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    is_same = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    groups = np.split(order, np.flatnonzero(~is_same) + 1) if is_same.any() else []
    for group in groups:
        if len(group) == 1:
            continue
        choice.look_for_loops(group.tolist())
        first, *others = choice.rank(group)
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


def _drop_near(choice: Selection, near: float) -> None:
    """Drop near copies, the worst first to go; two near questions with different known diagnoses
    are two cases."""
    import numpy as np

    stands = choice.stays.copy()
    stands[list(chain.from_iterable(choice.traces.values()))] = False
    numbers = np.flatnonzero(stands)
    pairs = numbers[propose_pairs(choice.table["signature"][numbers], near)]
    pairs = pairs[~choice.is_other_case(pairs[:, 0], pairs[:, 1])]
    neighbours: dict[int, list[int]] = {}
    for one, other in pairs.tolist():
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    involved = np.array(sorted(neighbours), dtype=np.int64)
    choice.look_for_loops(involved[~choice.is_looping[involved]].tolist())
    ranked: dict[int, int] = {}
    for number in choice.rank(involved):
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
    choice: Selection, contained: float, benchmark: Sequence[tuple[str, str]]
) -> None:
    """Drop rows of train and val that hold a question of a benchmark or of the test split."""
    import numpy as np

    _drop_holders(
        choice,
        [make_plain(text) for _, text in benchmark],
        [place for place, _ in benchmark],
        contained,
    )
    tests = np.flatnonzero(choice.stays & (choice.split == TEST)).tolist()
    _drop_holders(choice, [choice.store.read_question(n) for n in tests], tests, contained)


def _drop_holders(
    choice: Selection, plain: Sequence[str], names: Sequence[str | int], share: float
) -> None:
    """Drop rows that hold one of some plain questions; a name is a place or the number of a row."""
    import numpy as np

    if not plain:
        return
    questions = NgramIndex(plain)
    may_fall = np.flatnonzero(choice.stays & (choice.split != TEST)).tolist()
    for numbers in cut(may_fall, _QUESTIONS_AT_ONCE):
        for hit in questions.find([choice.store.read_question(n) for n in numbers], share):
            number, name = numbers[hit.place], names[hit.question]
            if isinstance(name, int) and choice.is_other_case(number, name):
                continue
            choice.drop(number, DropReason.CONTAMINATED)
            holds = f"test: {choice.name(name)}" if isinstance(name, int) else name
            choice.contaminated.append(
                {"id": choice.name(number), "holds": holds, "share": hit.share}
            )


def read_takes(takes: Sequence[str], sources: Sequence[str]) -> Mapping[str, float]:
    """Read `SOURCE=NUMBER`, a share up to 1 or a number of rows; raises InputError for a source
    that gave no row."""
    found: dict[str, float] = {}
    for take in takes:
        source, _, said = take.rpartition("=")
        number = read_number(said)
        if number is None or not 0 <= number < float("inf"):
            raise InputError(
                "--take {}: {!r} is no share and no number of rows; write {}=0.5 or =5000",
                take,
                said,
                source or "SOURCE",
            )
        if source not in sources:
            raise InputError(
                "--take {}: no row comes from {!r}{}; sources: {}",
                take,
                source,
                did_you_mean(source, sources),
                ", ".join(sources),
            )
        found[source] = number
    return found


def _drop_over_cap(choice: Selection, takes: Mapping[str, float]) -> None:
    """Leave of a source as many rows as wanted, the traces of a question together; those that came
    as val or test are not counted and stay."""
    for source, wanted in takes.items():
        numbers = _find_free(choice, source)
        _leave(choice, numbers, round(wanted * len(numbers)) if wanted <= 1 else int(wanted))


def _drop_replayed(choice: Selection, replay: Mapping[str, float]) -> None:
    """Leave of each source of general rows its share of the other rows to train on."""
    import numpy as np

    sources = choice.store.sources
    is_general = np.isin(choice.table["source"], [sources.index(n) for n in replay if n in sources])
    n_others = int((choice.stays & (choice.split == TRAIN) & ~is_general).sum())
    for source, share in replay.items():
        if source in sources:
            _leave(choice, _find_free(choice, source), round(share * n_others))


def _find_free(choice: Selection, source: str) -> "NDArray[np.int64]":
    """Find the rows of a source that may fall."""
    import numpy as np

    is_free = choice.stays & (~choice.table["is_settled"] | (choice.split == TRAIN))
    is_of_source = choice.table["source"] == choice.store.sources.index(source)
    return np.flatnonzero(is_free & is_of_source)


def _leave(choice: Selection, numbers: "NDArray[np.int64]", n_wanted: int) -> None:
    """Drop all but so many rows, in their drawn order."""
    import numpy as np

    order = choice.table["order"].copy()
    for first, further in choice.traces.items():
        order[further] = order[first]
    for number in numbers[np.argsort(order[numbers], kind="stable")][n_wanted:].tolist():
        choice.drop(number, DropReason.OVER_CAP)
