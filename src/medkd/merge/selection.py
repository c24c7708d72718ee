"""Decides which rows stay: the better copy of two, as many traces of a question as wanted, nothing
that is in the test split or a benchmark, no more of a source than wanted.

In: rows on a store. Out: the numbers of those that stay, by split and in their shuffled order, and
a list of what fell and why.
Not done here: reading and writing files.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from medkd.core.records import Split
from medkd.grading.repetition import is_looping
from medkd.merge.decontamination import NgramIndex
from medkd.merge.row_store import SPLITS, RowStore
from medkd.merge.schemas import DropReason
from medkd.text.normalize import make_plain
from medkd.text.similarity import propose_pairs, similarity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_REASONING = 8000
"""Characters beyond which a longer reasoning is no better one."""
TRAIN, VAL, TEST = (SPLITS.index(split) for split in ("train", "val", "test"))


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
    for numbers, questions in choice.store.read_questions(
        np.flatnonzero(choice.stays & may_fall).tolist()
    ):
        for hit in benchmark.find(questions, share):
            number, name = int(numbers[hit.place]), names[hit.question]
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
