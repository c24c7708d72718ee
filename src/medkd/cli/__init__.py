"""The command line: arguments in, an exit code out (0 done, 2 unusable input, 3 stopped and
resumable), one line on stderr for a failure.

The table of commands is in `cli.commands`. Not done here: anything a command does.
"""

import ctypes
import os
import sys

from medkd.cli.commands import build_app, find_recipe, list_commands, uses_torch
from medkd.core.errors import InputError, MedkdError, StoppedError, from_os_error

__all__ = [
    "SPINS",
    "build_app",
    "find_recipe",
    "list_commands",
    "main",
    "run_command",
    "settle_for_torch",
]

SPINS = ("GOMP_SPINCOUNT", "1000")
"""How long a thread that waits for another looks for it before it sleeps: to sleep at once halves
the speed of small models, to look on takes the core that the other one needs as soon as anything
else runs on the machine."""
_KEPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3}
"""What tells glibc from which size on freed memory goes back to the system, and its numbers for
`mallopt`."""
_NEVER = 2**31 - 1
NO_MEMORY = "out of memory; lower --batch-size or --max-length and run the same command again"


def main() -> None:
    """Run the command line and exit."""
    arguments = sys.argv[1:]
    if uses_torch(arguments):
        settle_for_torch()
    sys.exit(run_command(arguments))


def run_command(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    from cyclopts import CycloptsError

    try:
        code = build_app(arguments)(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        from medkd.cli.wording import tell

        return _fail(InputError(tell(error, arguments)))
    except MedkdError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return _fail(
            StoppedError("interrupted; what was done is kept, the same command goes on from there")
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(from_os_error(error))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("medkd"):
            raise
        return _fail(
            InputError(
                f"medkd: {error.name} is not installed; pip install 'medkd[train]', or make setup in a checkout"
            )
        )
    except ImportError as error:
        if "failed to map segment" not in str(error):
            raise
        return _fail(StoppedError(NO_MEMORY))
    except MemoryError:
        return _fail(StoppedError(NO_MEMORY))
    return code if isinstance(code, int) else 0


def _fail(error: MedkdError) -> int:
    print(f"error: {_one_line(str(error))}", file=sys.stderr)
    return error.exit_code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def settle_for_torch() -> None:
    """Make torch on CPU fast, before it is loaded; what the user has set stays.

    Freed memory stays in the process, else up to half the time goes into page faults; threads wait
    as `SPINS` says.
    """
    os.environ.setdefault(*SPINS)
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for name, number in _KEPT.items():
        if mallopt is not None and name not in os.environ:
            mallopt(number, _NEVER)
