"""Commands for runs that outlive the terminal: `runs`, `logs`, `stop`; their parameters are their
flags.

Not done here: starting one (`--detach`, `cli.flags`), what a run is (`background_jobs`).
"""

import shlex
import sys
from typing import Annotated

from cyclopts import Parameter

from medkd import background_jobs

TAIL_BYTES = 8192


def runs() -> None:
    """List the commands that were started with --detach."""
    found = background_jobs.list_runs()
    if not found:
        print("none; start one with --detach, for instance: medkd train … --detach")
        return
    width = max(len(run.name) for run in found) + 2
    for run in found:
        last = background_jobs.read_log(run)[0].replace("\r", "\n").strip().rpartition("\n")[2]
        print(
            f"{run.name:<{width}}{background_jobs.read_state(run):<9}{run.started_at}  medkd {shlex.join(run.words)}\n{'':<{width}}{last[:160]}"
        )


def logs(
    run: str, /, *, follow: Annotated[bool, Parameter(alias="-f", negative=())] = False
) -> None:
    """Show what a run said.

    Parameters
    ----------
    run
        Name of the run, as medkd runs lists it.
    follow
        Go on until it has ended; Ctrl-C leaves it running.
    """
    found = background_jobs.find_run(run)
    size = background_jobs.log_path(found).stat().st_size
    text, offset = background_jobs.read_log(found, max(0, size - TAIL_BYTES))
    _show(text)
    if follow:
        try:
            for text in background_jobs.follow_log(found, offset):
                _show(text)
        except KeyboardInterrupt:
            print(f"\n{run} goes on; medkd stop {run} ends it", file=sys.stderr)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def stop(run: str, /) -> None:
    """Interrupt a run; what it has done is kept, and its command goes on from there.

    Parameters
    ----------
    run
        Name of the run, as medkd runs lists it.
    """
    found = background_jobs.find_run(run)
    if background_jobs.read_state(found) != "running":
        print(f"{run}: had ended before ({background_jobs.read_state(found)})")
        return
    state = background_jobs.stop(found)
    print(f"{run}: {state}; go on with: medkd {shlex.join(found.words)}")
