"""`medkd` and `python -m medkd`: run the command line.

An interrupt while modules still load ends the process in one line, like any later one.
"""

import os
import signal
import sys


def _stop(_number: int, _frame: object) -> None:
    sys.stderr.write("error: interrupted before anything was done; run the command again\n")
    sys.stderr.flush()
    os._exit(3)


signal.signal(signal.SIGINT, _stop)
signal.signal(signal.SIGTERM, _stop)

from medkd.cli.app import main  # noqa: E402 - the handlers come first

if __name__ == "__main__":
    main()
