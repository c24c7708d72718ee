"""The rehearsal teacher: an OpenAI- and DeepSeek-compatible endpoint on this machine that reasons
from the clinic's knowledge.

In: chat completions over HTTP, the record and its known diagnosis in the last user message. Out: a
reasoning and a diagnosis, streamed or whole, with usage, a bill, and faults on request; it goes on
from a text as DeepSeek does, refuses to, or begins anew.
Not done here: medicine (`demo.reasoning`), what is said and what goes wrong (`demo.dialogue`).
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from medkd.completers.providers import estimate_tokens, read_providers
from medkd.core.records import Usage
from medkd.demo.dialogue import (
    Asked,
    Fault,
    FaultPlan,
    Prefix,
    Reply,
    make_reply,
    read_request,
)
from medkd.demo.local_server import LocalServer

if TYPE_CHECKING:
    from aiohttp import web

MODEL = "rehearsal"
PIECE = 12
"""Characters of one streamed delta."""
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


class RehearsalTeacher(LocalServer):
    """The teacher as a server; `with serve_teacher() as teacher:` starts and stops it."""

    def __init__(self, port: int, plan: FaultPlan, manner: "Manner") -> None:
        super().__init__(port)
        self.bill = TeacherBill()
        self._plan, self._manner = plan, manner
        self._prefixes: set[int] = set()

    @property
    def base_url(self) -> str:
        return f"{super().base_url}/v1"

    def add_routes(self, router: "web.UrlDispatcher") -> None:
        router.add_post("/v1/chat/completions", self._complete)
        router.add_get("/v1/models", self._list_models)

    async def _list_models(self, _: "web.Request") -> "web.Response":
        from aiohttp import web

        return web.json_response(
            {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "medkd"}]}
        )

    async def _complete(self, request: "web.Request") -> "web.StreamResponse":
        self.bill.requests += 1
        try:
            asked = read_request(json.loads(await request.read()), self._manner.skill)
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
    skill: float
    """Share of blind answers that are right."""


def serve_teacher(
    port: int = 0,
    faults: float = 0.0,
    seed: int = 0,
    latency_s: float = 0.02,
    pace_s: float = 0.0,
    script: Iterable[Fault | None] = (),
    prefix: Prefix = Prefix.GOES_ON,
    streams: int = 0,
    skill: float = 1.0,
) -> RehearsalTeacher:
    """Make a teacher on 127.0.0.1, at any free port for 0; it serves inside `with`.

    `faults` is the rate of requests that go wrong, `script` what the first requests meet; text
    begins `latency_s` after a request and comes with `pace_s` between its pieces; more than
    `streams` requests at once meet 429; of blind answers a share `skill` is right. Raises
    InputError where the port is taken.
    """
    return RehearsalTeacher(
        port, FaultPlan(faults, seed, script), Manner(latency_s, pace_s, prefix, streams, skill)
    )


def _refuse(status: int, message: str) -> "web.Response":
    from aiohttp import web

    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 429 else {}
    return web.json_response(
        {"error": {"message": message, "type": "rehearsal", "code": status}},
        status=status,
        headers=headers,
    )


# The form on the wire.


def pieces(reply: Reply) -> Iterator[tuple[str, str]]:
    """Cut a reply into deltas: the name of the field and its text."""
    for name, text in (("reasoning_content", reply.reasoning), ("content", reply.content)):
        for start in range(0, len(text), PIECE):
            yield name, text[start : start + PIECE]


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Write a usage in DeepSeek's names."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_cache_hit_tokens": usage.cache_hit,
        "prompt_cache_miss_tokens": usage.prompt - usage.cache_hit,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def write_data(value: dict[str, Any]) -> bytes:
    """Write an event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def write_event(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
    """Write an event that adds a delta."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return write_data(
        {"id": "rehearsal", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}
        | more
    )


def write_end(wants_usage_apart: bool, reply: Reply, usage: Usage) -> bytes:
    """End a stream: the usage in a chunk of its own where the client asked for one, else in the
    last."""
    fields = {"usage": usage_fields(usage)}
    if wants_usage_apart:
        last = write_event({"content": ""}, reply.finish_reason) + write_data(
            {"id": "rehearsal", "object": "chat.completion.chunk", "choices": []} | fields
        )
    else:
        last = write_event({"content": ""}, reply.finish_reason, **fields)
    return last + b"data: [DONE]\n\n"


def whole_answer(reply: Reply, usage: Usage) -> bytes:
    """Write a reply as the one JSON object of a request without streaming."""
    message = {"role": "assistant", "content": reply.content} | (
        {"reasoning_content": reply.reasoning} if reply.reasoning else {}
    )
    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
    answer = {
        "id": "rehearsal",
        "object": "chat.completion",
        "model": MODEL,
        "choices": [choice],
        "usage": usage_fields(usage),
    }
    return json.dumps(answer, ensure_ascii=False).encode()
