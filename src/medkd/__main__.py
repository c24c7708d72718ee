"""`medkd` and `python -m medkd`: run the command line.

An interrupt while modules still load ends the process in one line, like any later one.
"""

import importlib
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn


def _stop(_number: int, _frame: object) -> None:
    sys.stderr.write("error: interrupted before anything was done; run the command again\n")
    sys.stderr.flush()
    os._exit(3)


signal.signal(signal.SIGINT, _stop)
signal.signal(signal.SIGTERM, _stop)

from medkd.cli.overview import is_overview, take_language, write_overview  # noqa: E402 - late
from medkd.core.i18n import Texts  # noqa: E402


def main() -> NoReturn:
    """Answer a command line that names no command, or load what runs one."""
    language, arguments = take_language(sys.argv[1:])
    if not is_overview(arguments):
        importlib.import_module("medkd.cli.app").main()
    with suppress(BrokenPipeError):
        print(write_overview(arguments, Texts(language)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
