"""Maps a function over items in several processes, in order.

In: a function of a module and the items. Out: its results in the items' order; few items are mapped
in this process. Not done here: work that waits for a network (`completers.client`).

>>> list(map_in_order(abs, [-1, 2, -3]))
[1, 2, 3]
"""

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MANY = 2000
"""Items from which the processes pay for their start."""
_BLOCK = 4096
"""Items held at a time."""
_CHUNK = 64


def map_in_order(work: Callable[[T], R], items: Iterable[T], many: int = MANY) -> Iterator[R]:
    """Apply a function to all items, in order; `many` items or more are shared among the cores.
    Function and items must be picklable."""
    waiting = iter(items)
    first = list(itertools.islice(waiting, many))
    n_processes = min(os.cpu_count() or 1, 8)
    if len(first) < many or n_processes == 1:
        yield from map(work, itertools.chain(first, waiting))
        return
    # A fresh interpreter each: a fork would take along whatever threads hold just then.
    with multiprocessing.get_context("spawn").Pool(n_processes) as pool:
        yield from pool.map(work, first, min(_CHUNK, many // n_processes))
        while block := list(itertools.islice(waiting, _BLOCK)):
            yield from pool.map(work, block, _CHUNK)
