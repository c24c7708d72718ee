"""One streamed attempt at an OpenAI-compatible endpoint: one request sent at most once, whatever
becomes of it.

In: a `Target`, a `Request`, the text to go on from where there is one. Out: an `Answer`: the new
text as far as it came, the usage as reported, and an `Outcome`. Not done here: the body
(`completers.wire`), trying again (`completers.dispatch`), keeping (`completers.ledger`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import orjson

from medkd.completers.continuation import SoFar
from medkd.completers.outcomes import Answer, Outcome
from medkd.completers.providers import Target
from medkd.completers.stream import EventReader, OnText, StreamedText, words_of
from medkd.completers.wire import address_of, find_proxy, make_body
from medkd.core.completer import Request

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

MAX_RETRY_AFTER_S = 600.0
MAX_ERROR_BYTES = 16384


_OUTCOME_OF_STATUS = {
    401: Outcome.KEY_REFUSED,
    402: Outcome.NO_BALANCE,
    404: Outcome.NOT_AN_ENDPOINT,
    405: Outcome.NOT_AN_ENDPOINT,
    429: Outcome.RATE_LIMITED,
    501: Outcome.NOT_AN_ENDPOINT,
}
_OUTCOME_OF_FINISH = {
    "length": Outcome.LENGTH,
    "content_filter": Outcome.FILTERED,
    "insufficient_system_resource": Outcome.STREAM_ERROR,
    "error": Outcome.STREAM_ERROR,
}


@dataclass(frozen=True)
class Limits:
    """How long one attempt may wait, in seconds."""

    connect_s: float = 20.0
    start_s: float = 600.0
    """From sending to the first piece of text."""
    silence_s: float = 60.0
    """Between two signs of life afterwards."""


@dataclass(frozen=True)
class _Sent:
    """A request under way."""

    request: Request
    before: SoFar | None
    streamed: StreamedText
    status: list[int]
    on_accepted: Callable[[], None]


class Endpoint:
    """A target that is asked one attempt at a time."""

    def __init__(self, target: Target, limits: Limits | None = None) -> None:
        self.target = target
        self.limits = limits or Limits()
        self._session: ClientSession | None = None
        self._proxy: str | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[None, None]:
        """Hold the connections that attempts are made over."""
        from aiohttp import ClientSession, ClientTimeout, TCPConnector

        headers = {
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
        if self.target.key:
            headers["Authorization"] = f"Bearer {self.target.key}"
        self._proxy = find_proxy(self.target.base_url)
        timeout = ClientTimeout(total=None, sock_connect=self.limits.connect_s)
        async with ClientSession(
            connector=TCPConnector(limit=0), timeout=timeout, headers=headers
        ) as session:
            self._session = session
            yield
        self._session = None

    async def attempt(
        self,
        request: Request,
        on_text: OnText,
        before: SoFar | None = None,
        on_accepted: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Send a request once and follow its stream to the end; every failure but cancellation is
        an outcome.

        `on_accepted` hears of status 200, the moment from which the server works on it.
        """
        from aiohttp import ClientConnectorError, ClientError, ConnectionTimeoutError

        started = time.monotonic()
        streamed = StreamedText(on_text)
        status: list[int] = []
        try:
            async with asyncio.timeout(self.limits.start_s) as timer:
                answer = await self._stream(
                    _Sent(request, before, streamed, status, on_accepted), timer
                )
        except (ClientConnectorError, ConnectionTimeoutError) as error:
            answer = Answer(
                Outcome.UNREACHABLE,
                error=f"no connection to {self.target.base_url} ({_reason(error)})",
            )
        except TimeoutError:
            limit = self.limits.silence_s if streamed.has_text else self.limits.start_s
            answer = Answer(
                Outcome.SILENT if streamed.has_text else Outcome.NOT_STARTED,
                error=f"nothing came for {limit:g} s",
            )
        except (ClientError, OSError) as error:
            cut = Answer(Outcome.CUT, error="the connection broke in the middle of the answer")
            answer = (
                cut
                if status
                else Answer(
                    Outcome.NETWORK,
                    error=f"the connection broke before any answer ({_reason(error)})",
                )
            )
        if status and answer.outcome in {Outcome.CUT, Outcome.SILENT} and streamed.finish_reason:
            answer = _judge(streamed)
        return Answer(
            outcome=answer.outcome,
            reasoning="".join(streamed.reasoning),
            text="".join(streamed.text),
            finish_reason=streamed.finish_reason,
            usage=streamed.usage,
            status=status[0] if status else None,
            error=self._without_key(answer.error),
            retry_after_s=answer.retry_after_s,
            seconds=round(time.monotonic() - started, 3),
        )

    async def _stream(self, sent: "_Sent", timer: asyncio.Timeout) -> Answer:
        assert self._session is not None, "attempts are made inside `connected`"  # noqa: S101
        url = address_of(self.target, sent.before)
        body = orjson.dumps(make_body(self.target, sent.request, sent.before))
        async with self._session.post(
            url, data=body, proxy=self._proxy, allow_redirects=False
        ) as response:
            sent.status.append(response.status)
            if response.status != 200:
                return await _read_refusal(response)
            sent.on_accepted()
            reader, streamed = EventReader(), sent.streamed
            loop, next_deadline_move = asyncio.get_running_loop(), 0.0
            async for chunk in response.content.iter_any():
                for payload in reader.feed(chunk):
                    streamed.take(payload)
                # Moving the deadline at most once a second keeps thousands of streams cheap.
                if streamed.has_text and (now := loop.time()) >= next_deadline_move:
                    timer.reschedule(now + self.limits.silence_s)
                    next_deadline_move = now + min(1.0, self.limits.silence_s / 4)
                if streamed.is_done or streamed.error:
                    break
            for payload in reader.finish():
                streamed.take(payload)
        return _judge(streamed, reader.stray())

    def _without_key(self, words: str) -> str:
        return words.replace(self.target.key, "…") if self.target.key else words


def _judge(streamed: StreamedText, stray: bytes = b"") -> Answer:
    """Say what became of a stream that ended."""
    if not streamed.has_text and not streamed.finish_reason and not streamed.is_done and stray:
        return _judge_plain_body(streamed, stray)
    if streamed.error:
        named = (
            Outcome.STREAM_ERROR
            if streamed.has_text
            else _outcome_of_status(streamed.error_code) or Outcome.STREAM_ERROR
        )
        return Answer(named, error=f"the server says: {streamed.error}")
    if not streamed.finish_reason and not streamed.is_done:
        nothing = Answer(Outcome.EMPTY, error="status 200 and an empty body")
        return (
            Answer(Outcome.CUT, error="the stream ended in the middle")
            if streamed.has_text
            else nothing
        )
    outcome = _OUTCOME_OF_FINISH.get(streamed.finish_reason, Outcome.COMPLETE)
    if outcome is not Outcome.COMPLETE:
        return Answer(outcome, error=f"finish_reason {streamed.finish_reason}")
    if not "".join(streamed.text).strip():
        return Answer(
            Outcome.UNREADABLE if streamed.reasoning else Outcome.EMPTY,
            error="an answer without content",
        )
    return Answer(Outcome.COMPLETE)


def _judge_plain_body(streamed: StreamedText, stray: bytes) -> Answer:
    """Read a 200 body that is no event stream: an answer in one piece, an error, or a page of
    something else."""
    try:
        event = orjson.loads(stray)
    except orjson.JSONDecodeError:
        start = stray[:80].decode("utf-8", "replace")
        return Answer(Outcome.NOT_AN_ENDPOINT, error=f"no chat completion but {start!r}")
    streamed.take_event(event)
    if not (streamed.error or streamed.has_text or streamed.finish_reason):
        return Answer(Outcome.NOT_AN_ENDPOINT, error="JSON that is no chat completion")
    return _judge(streamed)


def _outcome_of_status(code: int) -> Outcome | None:
    """Say what an HTTP status means; None for one that is no refusal."""
    if code in _OUTCOME_OF_STATUS:
        return _OUTCOME_OF_STATUS[code]
    if code >= 500 or code in {408, 409, 425}:
        return Outcome.OVERLOADED
    return Outcome.REFUSED if code >= 400 else None


async def _read_refusal(response: "ClientResponse") -> Answer:
    """Read why a request was not answered."""
    code = response.status
    outcome = _outcome_of_status(code) or Outcome.NOT_AN_ENDPOINT
    try:
        body = await response.content.readexactly(MAX_ERROR_BYTES)
    except asyncio.IncompleteReadError as error:
        body = error.partial
    try:
        event = orjson.loads(body)
        words = words_of(event.get("error") or event if isinstance(event, dict) else event)
    except orjson.JSONDecodeError:
        words = (
            words_of(body.decode("utf-8", "replace")[:200]) or response.reason or "no reason given"
        )
    return Answer(
        outcome,
        error=f"{code}: {words}",
        retry_after_s=read_retry_after(response.headers.get("Retry-After", "")),
    )


def read_retry_after(value: str) -> float:
    """Read a Retry-After header, seconds or a date, as seconds from now, at most
    `MAX_RETRY_AFTER_S`.

    >>> read_retry_after("2"), read_retry_after("soon")
    (2.0, 0.0)
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if seconds == seconds else 0.0


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:120] or type(error).__name__
