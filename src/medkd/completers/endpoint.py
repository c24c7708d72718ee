"""One streamed attempt at an OpenAI-compatible endpoint: one request sent at most once, whatever
becomes of it.

In: a `Target`, a `Request`, the text to go on from where there is one. Out: an `Answer`: the new
text as far as it came, the usage as reported, and an `Outcome`. Not done here: the body
(`completers.wire`), trying again (`completers.dispatch`), keeping (`completers.ledger`).
"""

import asyncio
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import orjson

from medkd.completers.continuation import SoFar
from medkd.completers.outcomes import Answer, Outcome, classify_status
from medkd.completers.providers import Target
from medkd.completers.stream import (
    AnswerReader,
    OnText,
    StreamedText,
    TextFilter,
    load,
    make_line,
    words_of,
)
from medkd.completers.wire import address_of, find_proxy, make_body
from medkd.core.completer import Request

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

MAX_RETRY_AFTER_S = 600.0
MAX_ERROR_BYTES = 16384
CHARACTERS_A_TOKEN = 32
"""No tokenizer yields more on the whole: an answer of more characters heeds no --max-tokens."""
SPARE_CHARACTERS = 20_000
_UNFORESEEN = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    zlib.error,
)
INFLATED_BYTES = 2**20
"""What is inflated at once of a body that is compressed unasked."""


@dataclass(frozen=True)
class Limits:
    """How long one attempt may wait, in seconds."""

    connect_s: float = 20.0
    start_s: float = 600.0
    """From sending to the first piece of text."""
    silence_s: float = 60.0
    """Between two pieces of text afterwards; keep-alives are none."""
    whole_s: float = 7200.0
    """From sending to the end."""


@dataclass(frozen=True)
class _Sent:
    """A request under way."""

    request: Request
    before: SoFar | None
    reader: AnswerReader
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
            connector=TCPConnector(limit=0),
            timeout=timeout,
            headers=headers,
            auto_decompress=False,
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
        n_most = request.sampling.max_tokens * CHARACTERS_A_TOKEN + SPARE_CHARACTERS
        reader = AnswerReader(on_text, self.target.key, n_most)
        status: list[int] = []
        try:
            async with asyncio.timeout(self.limits.start_s) as timer:
                sent = _Sent(request, before, reader, status, on_accepted)
                answer = await self._stream(sent, timer)
        except (ClientConnectorError, ConnectionTimeoutError) as error:
            words = f"no connection to {self.target.base_url} ({self._reason(error)})"
            answer = Answer(Outcome.UNREACHABLE, error=words)
        except TimeoutError:
            answer = self._judge_time(reader.streamed, time.monotonic() - started)
        except (ClientError, OSError) as error:
            words = f"the connection broke before any answer ({self._reason(error)})"
            answer = Answer(Outcome.NETWORK, error=words)
            if status:
                answer = Answer(
                    Outcome.CUT, error="the connection broke in the middle of the answer"
                )
        except _UNFORESEEN as error:  # whatever a server sends, the run goes on
            words = f"an answer that cannot be read ({self._reason(error)})"
            answer = Answer(Outcome.STREAM_ERROR, error=words)
        if (
            status
            and answer.outcome in {Outcome.CUT, Outcome.SILENT}
            and reader.streamed.finish_reason
        ):
            answer = reader.judge()
        return replace(
            reader.make_answer(answer),
            status=status[0] if status else None,
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
                return await self._read_refusal(response)
            sent.on_accepted()
            inflate = _make_inflater(response.headers.get("Content-Encoding", ""))
            if inflate is None:
                words = make_line(response.headers["Content-Encoding"], self.target.key)
                return Answer(
                    Outcome.NOT_AN_ENDPOINT,
                    error=f"a body in Content-Encoding {words}, though identity was asked for",
                )
            reader, streamed = sent.reader, sent.reader.streamed
            streamed.ends_at = asyncio.get_running_loop().time() + self.limits.whole_s
            async for chunk in response.content.iter_any():
                for plain in inflate(chunk):
                    self._take(reader, plain, timer)
                    if streamed.is_over:
                        break
                if streamed.is_over:
                    break
            return reader.finish()

    def _take(self, reader: AnswerReader, chunk: bytes, timer: asyncio.Timeout) -> None:
        """Read a chunk; new text moves the deadline."""
        streamed = reader.streamed
        n_before = streamed.n_characters
        reader.feed(chunk)
        if streamed.n_characters > n_before:
            now = asyncio.get_running_loop().time()
            # Moving the deadline at most once a second keeps thousands of streams cheap.
            if now - streamed.heard_at >= min(1.0, self.limits.silence_s / 4):
                streamed.heard_at = now
                timer.reschedule(min(now + self.limits.silence_s, streamed.ends_at))

    def _judge_time(self, streamed: StreamedText, seconds: float) -> Answer:
        """Say which time limit was passed."""
        if seconds >= self.limits.whole_s:
            return Answer(Outcome.CUT, error=f"no end after {self.limits.whole_s:g} s")
        limit = self.limits.silence_s if streamed.has_text else self.limits.start_s
        outcome = Outcome.SILENT if streamed.has_text else Outcome.NOT_STARTED
        return Answer(outcome, error=f"nothing came for {limit:g} s")

    async def _read_refusal(self, response: "ClientResponse") -> Answer:
        """Read why a request was not answered."""
        code = response.status
        outcome = classify_status(code) or Outcome.NOT_AN_ENDPOINT
        body = b""
        inflate = _make_inflater(response.headers.get("Content-Encoding", ""))
        if inflate is not None:
            async for chunk in response.content.iter_any():
                body += b"".join(inflate(chunk))
                if len(body) > MAX_ERROR_BYTES:
                    break
        event = load(body)
        words = words_of(event) if isinstance(event, dict | list) else body.decode(errors="replace")
        if len(body) > MAX_ERROR_BYTES:  # its end may be the beginning of the key
            words = TextFilter(self.target.key).feed(words)
        words = make_line(words, self.target.key) or make_line(
            response.reason or "no reason given", self.target.key
        )
        return Answer(
            outcome,
            error=f"{code}: {words}",
            retry_after_s=read_retry_after(response.headers.get("Retry-After", "")),
        )

    def _reason(self, error: BaseException) -> str:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return make_line(text, self.target.key)[:120]


def _make_inflater(encoding: str) -> Callable[[bytes], Iterable[bytes]] | None:
    """Make what turns a body into plain bytes, piece by piece; None for an unknown encoding."""
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return lambda chunk: (chunk,)
    if name not in {"gzip", "x-gzip", "deflate"}:
        return None
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def inflate(chunk: bytes) -> Iterator[bytes]:
        while chunk and not inflater.eof:
            yield inflater.decompress(chunk, INFLATED_BYTES)
            chunk = inflater.unconsumed_tail

    return inflate


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
        except (ValueError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if seconds == seconds else 0.0
