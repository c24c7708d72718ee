"""Parts of a page that are drawn again as things go on, by server-sent events.

In: a function that draws. Out: a stream that sends what it drew whenever that changed, until it is
over. Not done here: what is drawn.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

OVER = "over"
"""Name of the event that ends a stream; the page closes it then."""
KEEP_ALIVE_S = 15.0
"""Seconds without news after which a comment is sent, so that tunnels stay open."""
Draw = Callable[[], tuple[str, bool]]
"""Draws a part, and says whether it is over."""


def stream(draw: Draw, period_s: float) -> Response:
    """Answer with a stream of what is drawn every so many seconds."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_follow(draw, period_s), 200, headers, "text/event-stream")


async def _follow(draw: Draw, period_s: float) -> AsyncIterator[str]:
    before, quiet_s = "", 0.0
    while True:
        drawn, is_over = await run_in_threadpool(draw)
        if drawn != before:
            yield write_event(drawn)
            before, quiet_s = drawn, 0.0
        elif quiet_s >= KEEP_ALIVE_S:
            yield ": still here\n\n"
            quiet_s = 0.0
        if is_over:
            yield f"event: {OVER}\ndata: \n\n"
            return
        await asyncio.sleep(period_s)
        quiet_s += period_s


def write_event(text: str) -> str:
    r"""Write one event; every line of the text is a line of its data.

    >>> write_event("<p>\n</p>")
    'data: <p>\ndata: </p>\n\n'
    """
    lines = text.replace("\r", "\n").split("\n")
    return "".join(f"data: {line}\n" for line in lines) + "\n"
