"""This process among those that train together.

In: what a launcher (accelerate, torchrun) puts into the environment. Out: rank and size, a value
shared by all, an end where the launcher is gone. Not done here: launching.
"""

import os
from typing import Any, NamedTuple

from medkd.core.errors import StoppedError
from medkd.train.callbacks import Callback

ORPHANS_WAIT_S = 120.0
"""Seconds that processes may keep the run's directory whose launcher was killed."""


class ProcessInfo(NamedTuple):
    """This process among those that train together."""

    rank: int = 0
    local_rank: int = 0
    n_processes: int = 1
    is_launched: bool = False
    """Whether a launcher started it."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def read_process_info() -> ProcessInfo:
    """Read what a launcher says in the environment; one process where there is none."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return ProcessInfo()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    rank, n_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return ProcessInfo(rank, local_rank, n_processes, is_launched=True)


def broadcast(value: Any, device: str) -> Any:
    """Return the main process's value in every process; waits for all of them."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=device == "cpu")
    return broadcast_object_list([value])[0]


class StopIfOrphaned(Callback):
    """Ends a launched process at its next step once its launcher is gone: nobody is left to stop
    it, or to read its output."""

    def __init__(self) -> None:
        self.launcher = os.getppid()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if os.getppid() != self.launcher:
            raise StoppedError(
                "train: what launched this process is gone; run the same command again, it goes on "
                "from the last checkpoint"
            )
