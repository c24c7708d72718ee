"""Commands for detached runs: `runs`, `logs`, `stop`; their parameters are their flags.

`python -m medkd.cli.jobs FOLDER WORDS…` is such a run: it runs the command and records its end.
Not done here: the files of a run (`background_jobs`).
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medkd import background_jobs
from medkd.cli.app import ended_by, run_process
from medkd.core.i18n import get_spoken, tell

TAIL_BYTES = 8192


def runs() -> None:
    """List the runs started with --detach."""
    found = background_jobs.list_runs()
    if not found:
        tell("none; start one with --detach, for instance: medkd train … --detach")
        return
    width = max(len(run.name) for run in found) + 2
    for run in found:
        last = background_jobs.read_log(run)[0].replace("\r", "\n").strip().rpartition("\n")[2]
        state = background_jobs.read_state(run)
        print(f"{run.name:<{width}}{state:<9}{run.started_at}  medkd {shlex.join(run.words)}")
        print(f"{'':<{width}}{last[:160]}")


def logs(
    run: str, /, *, follow: Annotated[bool, Parameter(alias="-f", negative=())] = False
) -> None:
    """Show the log of a detached run.

    Parameters
    ----------
    run
        Name of the run, as medkd runs lists it.
    follow
        Show new lines until the run ends; Ctrl-C leaves it running.
    """
    found = background_jobs.find_run(run)
    text, offset = background_jobs.read_log(found, -TAIL_BYTES)
    _show(text)
    if follow:
        try:
            for text in background_jobs.follow_log(found, offset):
                _show(text)
        except KeyboardInterrupt:
            tell("\n{0} is still running; medkd stop {0} ends it", run, to=sys.stderr)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def stop(run: str, /) -> None:
    """Stop a detached run; its work is kept, and the same command continues it.

    Parameters
    ----------
    run
        Name of the run, as medkd runs lists it.
    """
    found = background_jobs.find_run(run)
    state = background_jobs.read_state(found)
    if state != "running":
        tell("{}: had ended before ({})", run, get_spoken().word("state", state))
        return
    state = background_jobs.stop(found)
    state = get_spoken().word("state", state)
    tell("{}: {}; continue it with: medkd {}", run, state, shlex.join(found.words))


if __name__ == "__main__":
    with background_jobs.record_end(Path(sys.argv[1])) as end:
        end.code = run_process(sys.argv[2:])
        end.problem = ended_by[-1].said.to_json() if ended_by else {}
    sys.exit(end.code)
