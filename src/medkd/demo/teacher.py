"""The rehearsal teacher: an OpenAI- and DeepSeek-compatible endpoint on this machine that reasons
from the clinic's knowledge.

In: chat completions over HTTP, the record and its known diagnosis in the last user message. Out: a
reasoning and a diagnosis, streamed or whole, with usage, a bill, and faults on request; it goes on
from a text as DeepSeek does, refuses to, or begins anew.
Not done here: medicine (`demo.reasoning`), what is said (`demo.dialogue`).
"""

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from medkd.completers.providers import estimate_tokens, read_providers
from medkd.core.errors import from_os_error
from medkd.core.records import Usage
from medkd.demo.dialogue import Asked, make_reply, read_request
from medkd.demo.faults import Fault, FaultPlan, Prefix
from medkd.demo.replies import (
    MODEL,
    Reply,
    pieces,
    whole_answer,
    write_data,
    write_end,
    write_event,
)

if TYPE_CHECKING:
    from aiohttp import web

CACHE_BLOCK = 128
"""Characters of a common prefix that the context cache takes together."""
RETRY_AFTER_S = 1
KEEP_ALIVE_S = 0.25
"""Seconds between two comments while a request waits."""
_STATUS = {
    Fault.RATE_LIMIT: (429, "rate limit reached"),
    Fault.SERVER_ERROR: (500, "internal error"),
    Fault.OVERLOADED: (503, "overloaded"),
    Fault.BAD_REQUEST: (400, "invalid request"),
    Fault.BAD_PARAMETER: (422, "invalid parameters"),
    Fault.BAD_KEY: (401, "authentication fails"),
    Fault.NO_BALANCE: (402, "insufficient balance"),
}


@dataclass
class TeacherBill:
    """What the teacher would charge for; kept by the teacher, so that a client's own book can be
    checked against it."""

    requests: int = 0
    billed: int = 0
    """Requests that cost something."""
    usage: Usage = field(default_factory=Usage)
    faults: Counter[str] = field(default_factory=Counter[str])
    n_gone_on: int = 0
    """Requests answered by going on from a text."""
    n_streams: int = 0
    """Requests under way."""
    most_streams: int = 0

    @property
    def amount(self) -> float:
        """Money, at the price in providers.yaml."""
        return read_providers()[MODEL].models[MODEL].price.amount(self.usage)

    def charge(self, usage: Usage) -> None:
        self.billed += 1
        self.usage = self.usage + usage


class RehearsalTeacher:
    """The teacher as a server in a thread of its own; `with serve_teacher() as teacher:` starts and
    stops it."""

    def __init__(self, port: int, plan: FaultPlan, manner: "Manner") -> None:
        self.port = port
        self.bill = TeacherBill()
        self._plan, self._manner = plan, manner
        self._prefixes: set[int] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="rehearsal teacher", daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "RehearsalTeacher":
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise from_os_error(self._error, f"127.0.0.1:{self.port}") from self._error
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        from aiohttp import web

        app = web.Application(client_max_size=16 * 2**20)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._list_models)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", self.port, backlog=4096)
            await site.start()
            self.port = runner.addresses[0][1]
            self._started.set()
            await self._stop.wait()
        except OSError as error:
            self._error = error
        finally:
            await runner.cleanup()

    async def _list_models(self, _: "web.Request") -> "web.Response":
        from aiohttp import web

        return web.json_response(
            {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "medkd"}]}
        )

    async def _complete(self, request: "web.Request") -> "web.StreamResponse":
        self.bill.requests += 1
        try:
            asked = read_request(json.loads(await request.read()))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return _refuse(422, "a body with messages of role and content is needed")
        if asked.prefix and self._manner.prefix is Prefix.REFUSES:
            return _refuse(400, "prefix is not supported")
        if self._manner.streams and self.bill.n_streams >= self._manner.streams:
            self.bill.faults["too_many"] += 1
            return _refuse(429, "too many requests at once")
        fault, n_before = self._plan.draw(asked.content)
        self.bill.faults[fault or "none"] += 1
        if fault is Fault.DROPPED and request.transport is not None:
            request.transport.abort()
            return _refuse(*_STATUS[Fault.SERVER_ERROR])  # to nobody: the connection is gone
        if fault is not None and fault in _STATUS:
            return _refuse(*_STATUS[fault])
        self.bill.n_streams += 1
        self.bill.most_streams = max(self.bill.most_streams, self.bill.n_streams)
        try:
            return await self._answer(request, asked, fault, n_before)
        finally:
            self.bill.n_streams -= 1

    async def _answer(
        self, request: "web.Request", asked: Asked, fault: Fault | None, n_before: int
    ) -> "web.StreamResponse":
        n_cached = self._cached(asked.content)
        if asked.prefix and self._manner.prefix is Prefix.IGNORES:
            asked, n_before = replace(asked, prefix=None, messages=asked.messages), n_before + 1
        self.bill.n_gone_on += asked.prefix is not None
        reply = make_reply(asked, n_before, fault, n_cached)
        if asked.is_streamed:
            return await self._stream(request, asked, reply, fault)
        return await self._send_whole(request, reply, fault)

    def _cached(self, whole: str) -> int:
        """Count the tokens of the longest prefix that was sent before, and remember this one's."""
        ends = range(CACHE_BLOCK, len(whole) + 1, CACHE_BLOCK)
        prefixes = [hash(whole[:end]) for end in ends]
        n_known = sum(prefix in self._prefixes for prefix in prefixes)
        self._prefixes.update(prefixes)
        return estimate_tokens([whole[: n_known * CACHE_BLOCK]])

    async def _stream(
        self, request: "web.Request", asked: Asked, reply: Reply, fault: Fault | None
    ) -> "web.StreamResponse":
        from aiohttp import web

        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
            }
        )
        await response.prepare(request)
        if fault is Fault.EMPTY_BODY:
            self.bill.charge(reply.usage("", ""))
            return response
        sent: Counter[str] = Counter()
        try:
            await response.write(b": keep-alive\n\n")
            while fault is Fault.NOT_STARTED and not self._stop.is_set():
                await asyncio.sleep(KEEP_ALIVE_S)
                await response.write(b": keep-alive\n\n")
            await asyncio.sleep(self._manner.latency_s)
            await response.write(
                write_event({"role": "assistant", "content": None, "reasoning_content": ""})
            )
            if await self._send_text(request, response, reply, fault, sent):
                usage = reply.usage(reply.reasoning, reply.content)
                await response.write(write_end(asked.wants_usage_apart, reply, usage))
        except ConnectionError:
            pass
        finally:
            if fault is not Fault.NOT_STARTED:
                self.bill.charge(
                    reply.usage(
                        reply.reasoning[: sent["reasoning_content"]],
                        reply.content[: sent["content"]],
                    )
                )
        return response

    async def _send_text(
        self,
        request: "web.Request",
        response: "web.StreamResponse",
        reply: Reply,
        fault: Fault | None,
        sent: Counter[str],
    ) -> bool:
        """Stream the text; False where a fault ended it."""
        breaks_at = (
            (len(reply.reasoning) + len(reply.content)) // 2
            if fault in {Fault.CUT, Fault.ERROR_IN_STREAM, Fault.SILENCE}
            else None
        )
        for name, piece in pieces(reply):
            if breaks_at is not None and sum(sent.values()) >= breaks_at:
                await self._break(request, response, fault)
                return False
            other = "content" if name == "reasoning_content" else "reasoning_content"
            await response.write(write_event({name: piece, other: None}))
            sent[name] += len(piece)
            if self._manner.pace_s:
                await asyncio.sleep(self._manner.pace_s)
        return True

    async def _break(
        self, request: "web.Request", response: "web.StreamResponse", fault: Fault | None
    ) -> None:
        if fault is Fault.ERROR_IN_STREAM:
            await response.write(
                write_data(
                    {
                        "error": {
                            "message": "the model is overloaded",
                            "type": "server_error",
                            "code": 503,
                        }
                    }
                )
            )
        elif fault is Fault.SILENCE:
            await self._stop.wait()
        elif request.transport is not None:
            request.transport.abort()

    async def _send_whole(
        self, request: "web.Request", reply: Reply, fault: Fault | None
    ) -> "web.StreamResponse":
        """Answer in one piece: blank lines while the request waits, as DeepSeek does, then the
        JSON."""
        from aiohttp import web

        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if fault in {Fault.EMPTY_BODY, Fault.CUT, Fault.ERROR_IN_STREAM, Fault.SILENCE}:
            self.bill.charge(reply.usage("", ""))
            return response
        with contextlib.suppress(ConnectionError):
            await response.write(b"\n")
            await asyncio.sleep(
                self._manner.latency_s + self._manner.pace_s * len(list(pieces(reply)))
            )
            usage = reply.usage(reply.reasoning, reply.content)
            self.bill.charge(usage)
            await response.write(whole_answer(reply, usage))
        return response


@dataclass(frozen=True)
class Manner:
    """How the teacher goes about answering."""

    latency_s: float
    pace_s: float
    prefix: Prefix
    streams: int
    """Requests it takes at once; any number for 0."""


def serve_teacher(
    port: int = 0,
    faults: float = 0.0,
    seed: int = 0,
    latency_s: float = 0.02,
    pace_s: float = 0.0,
    script: Iterable[Fault | None] = (),
    prefix: Prefix = Prefix.GOES_ON,
    streams: int = 0,
) -> RehearsalTeacher:
    """Make a teacher on 127.0.0.1, at any free port for 0; it serves inside `with`.

    `faults` is the rate of requests that go wrong, `script` what the first requests meet; text
    begins `latency_s` after a request and comes with `pace_s` between its pieces; more than
    `streams` requests at once meet 429. Raises InputError where the port is taken.
    """
    return RehearsalTeacher(
        port, FaultPlan(faults, seed, script), Manner(latency_s, pace_s, prefix, streams)
    )


def _refuse(status: int, message: str) -> "web.Response":
    from aiohttp import web

    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 429 else {}
    return web.json_response(
        {"error": {"message": message, "type": "rehearsal", "code": status}},
        status=status,
        headers=headers,
    )
