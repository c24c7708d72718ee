"""Ctrl-C twice: the first asks to finish what runs, the second to stop now; a SIGTERM stops now.

In: what to do. Out: signal handlers of the running loop, taken back at the end. Outside the main
thread signals are left alone.
Not done here: finishing and stopping (`completers.dispatch`).
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def catching_interrupts(
    drain: Callable[[], None], stop_now: Callable[[], None]
) -> Generator[None, None, None]:
    """Have signals call `drain` first and `stop_now` after."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    n_caught = 0

    def catch() -> None:
        nonlocal n_caught
        n_caught += 1
        (drain if n_caught == 1 else stop_now)()

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loop.add_signal_handler(signal.SIGINT, catch)
    loop.add_signal_handler(signal.SIGTERM, stop_now)
    try:
        yield
    finally:
        for number, handler in previous.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
