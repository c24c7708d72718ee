"""The command line: arguments in, an exit code out (0 done, 2 unusable input, 3 stopped and resumable), one line on stderr for a failure.

The table of commands is in `cli.commands`. Not done here: anything a command does.
"""

import os
import sys

from medkd.cli.commands import build_app, find_recipe, list_commands, uses_torch
from medkd.core.errors import InputError, MedkdError, StoppedError, from_os_error

__all__ = ["AT_START", "build_app", "find_recipe", "list_commands", "main", "run_command"]

AT_START = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296", "GOMP_SPINCOUNT": "1000"}
"""What makes torch on CPU fast: freed memory stays in the process, else up to half the time goes into page faults; and a thread that waits
for another looks for it a little before it sleeps: to sleep at once halves the speed of small models, to look on takes the core that the
other one needs as soon as anything else runs on the machine."""


def main() -> None:
    """Run the command line and exit."""
    arguments = sys.argv[1:]
    _start_again_for_torch(arguments)
    sys.exit(run_command(arguments))


def run_command(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    from cyclopts import CycloptsError

    try:
        code = build_app(arguments)(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _fail(InputError(f"medkd: {_one_line(str(error))}; see `medkd {arguments[0] if arguments else ''} --help`"))
    except MedkdError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return _fail(StoppedError("interrupted; what was done is kept, the same command goes on from there"))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(from_os_error(error))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("medkd"):
            raise
        return _fail(InputError(f"medkd: {error.name} is not installed; pip install 'medkd[train]', or make setup in a checkout"))
    except MemoryError:
        return _fail(StoppedError("out of memory; lower --batch-size or --max-length and run the same command again"))
    return code if isinstance(code, int) else 0


def _fail(error: MedkdError) -> int:
    print(f"error: {_one_line(str(error))}", file=sys.stderr)
    return error.exit_code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _start_again_for_torch(arguments: list[str]) -> None:
    """Start the process again with settings that its libraries read only at their start."""
    missing = {name: value for name, value in AT_START.items() if name not in os.environ}
    if sys.platform.startswith("linux") and uses_torch(arguments) and missing:
        os.execve(sys.executable, [sys.executable, "-m", "medkd", *arguments], {**os.environ, **missing})  # noqa: S606 - this very program
