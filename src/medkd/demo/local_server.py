"""An aiohttp server on loopback in a thread of its own; `with` starts and stops it.

Not done here: what is answered (`demo.mock_site`, `demo.teacher`).
"""

import asyncio
import threading
from typing import TYPE_CHECKING, Self

from medkd.core.errors import InputError, from_os_error

if TYPE_CHECKING:
    from aiohttp import web


class LocalServer:
    """A server at `port`, at any free one for 0. Raises InputError where the port is taken."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._error: OSError | OverflowError | None = None
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add_routes(self, router: "web.UrlDispatcher") -> None:
        """Say who answers what."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        if isinstance(self._error, OverflowError):
            raise InputError(
                "127.0.0.1:{}: no such port; choose one from 1024 to 65535, or 0 for any", self.port
            ) from self._error
        if self._error is not None:
            raise from_os_error(self._error, f"127.0.0.1:{self.port}") from self._error
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        from aiohttp import web

        app = web.Application(client_max_size=16 * 2**20)
        self.add_routes(app.router)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self.port, backlog=4096).start()
            self.port = runner.addresses[0][1]
            self._started.set()
            await self._stop.wait()
        except (OSError, OverflowError) as error:
            self._error = error
        finally:
            await runner.cleanup()
