"""One streamed attempt at an OpenAI-compatible endpoint, sent at most once, and its row on the
ledger: opened before it is sent, saved as it streams, closed afterwards.

In: a `Target`, a `Request`, a partial answer to resume. Out: an `AttemptResult`, an
`AttemptRecord`. Not done here: reading the stream (`completers.stream`), retrying
(`completers.scheduler`).
"""

import asyncio
import sys
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from medkd.completers.ledger import Ledger
from medkd.completers.outcomes import (
    AdaptiveLimit,
    AttemptOutcome,
    AttemptResult,
    CircuitBreaker,
    FindMissing,
    RetryPolicy,
    classify_finish,
    classify_status,
    make_charge,
    read_retry_after,
)
from medkd.completers.providers import Price, Target, estimate_tokens, find_proxy
from medkd.completers.resume import PartialAnswer, append_continuation, could_be_whole
from medkd.completers.stream import (
    AnswerReader,
    OnText,
    TextFilter,
    find_message,
    find_own_words,
    load,
    make_line,
)
from medkd.core.errors import MedkdError
from medkd.core.records import Request, Usage

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

MAX_ERROR_BYTES = 16384
CHARACTERS_PER_TOKEN = 32
"""No tokenizer yields more on the whole: a longer answer ignores the token limit."""
SPARE_CHARACTERS = 20_000
INFLATED_BYTES = 2**20
"""What is inflated at once of a body that is compressed unasked."""
_UNREADABLE = (
    *(ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError, zlib.error),
)


@dataclass(frozen=True)
class TimeLimits:
    """How long one attempt may wait, in seconds."""

    connect_s: float = 20.0
    start_s: float = 600.0
    """From sending to the first piece of text."""
    silence_s: float = 60.0
    """Between two pieces of text afterwards; keep-alives are none."""
    whole_s: float = 7200.0
    """From sending to the end."""


@dataclass
class _Attempt:
    """A request under way."""

    request: Request
    before: PartialAnswer | None
    reader: AnswerReader
    on_accepted: Callable[[], None]
    started: float
    status: int | None = None
    heard_at: float = 0.0
    """When text last moved the deadline."""


class Endpoint:
    """A target that is asked one attempt at a time."""

    def __init__(self, target: Target, limits: TimeLimits | None = None) -> None:
        self.target = target
        self.limits = limits or TimeLimits()
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
        async with ClientSession(
            connector=TCPConnector(limit=0),
            timeout=ClientTimeout(total=None, sock_connect=self.limits.connect_s),
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
        before: PartialAnswer | None = None,
        on_accepted: Callable[[], None] = lambda: None,
    ) -> AttemptResult:
        """Send a request once and follow its stream to the end; every failure but cancellation is
        an outcome.

        `on_accepted` is called at status 200, the moment from which the server works on it.
        """
        from aiohttp import ClientConnectorError, ClientError, ConnectionTimeoutError

        n_most = request.sampling.max_tokens * CHARACTERS_PER_TOKEN + SPARE_CHARACTERS
        reader = AnswerReader(on_text, self.target.key, n_most)
        attempt = _Attempt(request, before, reader, on_accepted, time.monotonic())
        try:
            async with asyncio.timeout(self.limits.start_s) as timer:
                result = await self._stream(attempt, timer)
        except (ClientConnectorError, ConnectionTimeoutError) as error:
            words = f"no connection to {self.target.base_url} ({self._describe(error)})"
            result = AttemptResult(AttemptOutcome.UNREACHABLE, error=words)
        except TimeoutError:
            result = self._judge_timeout(attempt)
        except (ClientError, OSError) as error:
            words = f"the connection broke before any answer ({self._describe(error)})"
            result = AttemptResult(AttemptOutcome.NETWORK, error=words)
            if attempt.status is not None:
                words = "the connection broke in the middle of the answer"
                result = AttemptResult(AttemptOutcome.CUT, error=words)
        except _UNREADABLE as error:  # whatever a server sends, the run goes on
            words = f"an answer that cannot be read ({self._describe(error)})"
            result = AttemptResult(AttemptOutcome.STREAM_ERROR, error=words)
        is_broken = result.outcome in {AttemptOutcome.CUT, AttemptOutcome.SILENT}
        if attempt.status is not None and is_broken and reader.streamed.finish_reason:
            result = reader.judge()
        return replace(
            reader.add_text(result),
            status=attempt.status,
            seconds=round(time.monotonic() - attempt.started, 3),
        )

    async def _stream(self, attempt: _Attempt, timer: asyncio.Timeout) -> AttemptResult:
        assert self._session is not None, "attempts are made inside `connected`"  # noqa: S101
        body = orjson.dumps(make_body(self.target, attempt.request, attempt.before))
        form = self.target.prefix if attempt.before else None  # resuming may have its own address
        async with self._session.post(
            f"{form.base_url if form else self.target.base_url}/chat/completions",
            data=body,
            proxy=self._proxy,
            allow_redirects=False,
        ) as response:
            attempt.status = response.status
            if response.status != 200:
                return await self._read_refusal(response)
            attempt.on_accepted()
            encoding = response.headers.get("Content-Encoding", "")
            inflate = make_inflater(encoding)
            if inflate is None:
                name = make_line(encoding, self.target.key)
                words = f"a body in Content-Encoding {name}, though identity was asked for"
                return AttemptResult(AttemptOutcome.NOT_AN_ENDPOINT, error=words)
            async for chunk in response.content.iter_any():
                for plain in inflate(chunk):
                    self._take(attempt, plain, timer)
                    if attempt.reader.streamed.is_over:
                        return attempt.reader.finish()
            return attempt.reader.finish()

    def _take(self, attempt: _Attempt, chunk: bytes, timer: asyncio.Timeout) -> None:
        """Read a chunk; new text moves the deadline."""
        streamed = attempt.reader.streamed
        n_before = streamed.n_characters
        attempt.reader.feed(chunk)
        if streamed.n_characters > n_before:
            now = time.monotonic()
            # Moving the deadline at most once a second keeps thousands of streams cheap.
            if now - attempt.heard_at >= min(1.0, self.limits.silence_s / 4):
                attempt.heard_at = now
                left_s = min(self.limits.silence_s, attempt.started + self.limits.whole_s - now)
                timer.reschedule(asyncio.get_running_loop().time() + left_s)

    def _judge_timeout(self, attempt: _Attempt) -> AttemptResult:
        """Say which time limit was passed."""
        limits = self.limits
        if time.monotonic() - attempt.started >= limits.whole_s:
            return AttemptResult(AttemptOutcome.CUT, error=f"no end after {limits.whole_s:g} s")
        if attempt.reader.streamed.has_text:
            words = f"nothing came for {limits.silence_s:g} s"
            return AttemptResult(AttemptOutcome.SILENT, error=words)
        words = f"nothing came for {limits.start_s:g} s"
        return AttemptResult(AttemptOutcome.NOT_STARTED, error=words)

    async def _read_refusal(self, response: "ClientResponse") -> AttemptResult:
        """Read why a request was not answered."""
        code, key, body = response.status, self.target.key, b""
        inflate = make_inflater(response.headers.get("Content-Encoding", ""))
        async for chunk in response.content.iter_any():
            body += b"".join(inflate(chunk)) if inflate else b""
            if len(body) > MAX_ERROR_BYTES or inflate is None:
                break
        event = load(body)
        problem = event if isinstance(event, dict | list) else body.decode(errors="replace")
        words = find_message(problem)
        if len(body) > MAX_ERROR_BYTES:  # its end may be the beginning of the key
            words = TextFilter(key).feed(words)
        reason = make_line(words, key) or make_line(response.reason or "no reason given", key)
        return AttemptResult(
            classify_status(code, find_own_words(problem)) or AttemptOutcome.NOT_AN_ENDPOINT,
            error=f"{code}: {reason}",
            retry_after_s=read_retry_after(response.headers.get("Retry-After", "")),
        )

    def _describe(self, error: BaseException) -> str:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return make_line(text, self.target.key)[:120]


def make_body(
    target: Target, request: Request, before: PartialAnswer | None = None
) -> dict[str, Any]:
    """Write the body of a request, or of one that resumes a partial answer."""
    provider, sampling = target.provider, request.sampling
    messages: list[dict[str, Any]] = [
        {"role": message.role, "content": message.content} for message in request.messages
    ]
    body: dict[str, Any] = {
        "model": target.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        provider.max_tokens_field: sampling.max_tokens,
    }
    optional: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    }
    if provider.effort_field:
        effort = sampling.effort
        optional[provider.effort_field] = provider.efforts.get(effort, effort) if effort else None
    body |= {name: value for name, value in optional.items() if value is not None}
    if sampling.thinking is not None:
        body |= provider.thinking_on if sampling.thinking else provider.thinking_off
    form = target.prefix
    if before is None or form is None:
        return body
    body |= form.body
    if form.text_field:
        return {**body, form.text_field: before.text}
    last = {"role": "assistant", "content": before.text, **form.message}
    if before.reasoning:
        last["reasoning_content"] = before.reasoning
    return {**body, "messages": [*messages, last]}


def make_inflater(encoding: str) -> Callable[[bytes], Iterable[bytes]] | None:
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


# --- With its row on the ledger

SAVE_INTERVAL_S = 0.5
"""Seconds between two savings of streamed text: what a kill can lose."""


class AttemptRecord(NamedTuple):
    """An attempt that is over and on disk."""

    id: int
    result: AttemptResult
    """With the whole text, what it resumed included."""
    amount: float
    has_new: bool = False
    """Whether it brought any text of its own."""
    began_anew: bool = False
    """Whether it was to resume a text and did not."""


@dataclass
class _Streaming:
    """The text of an attempt under way, and how much of it is not on disk yet."""

    was_accepted: bool = False
    pieces: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    n_saved: int = 0
    n_rows: int = 0

    def hear(self, piece: str, is_reasoning: bool) -> None:
        self.pieces.append((piece, is_reasoning))

    def take_unsaved(self, attempt: int) -> Iterator[tuple[int, int, bool, str]]:
        """Yield what is new as rows of the ledger."""
        fresh = self.pieces[self.n_saved :]
        self.n_saved = len(self.pieces)
        for is_reasoning in (True, False):
            if text := _join_pieces(fresh, is_reasoning):
                self.n_rows += 1
                yield attempt, self.n_rows, is_reasoning, text


class Address:
    """One of a model's addresses, and what a run has learnt about it."""

    def __init__(self, target: Target, limits: TimeLimits, retry: RetryPolicy, cap: int) -> None:
        self.endpoint = Endpoint(target, limits)
        self.limit = AdaptiveLimit(cap)
        self.breaker = CircuitBreaker(target, retry, cap)
        self.is_left_out = False
        self.left_out_s = 0.0
        """Seconds for which it was left out last; 0 since it answers."""


class AttemptRecorder:
    """Make attempts with their rows."""

    def __init__(self, ledger: Ledger, find_missing: FindMissing) -> None:
        self._ledger, self._find_missing = ledger, find_missing
        self._streaming: dict[int, _Streaming] = {}
        self._stated: set[str] = set()
        """Other models that replies named, each told once."""
        self.n_tokens = 0
        """Tokens that came in, by our estimate."""

    @property
    def n_running(self) -> int:
        return len(self._streaming)

    async def attempt(
        self,
        address: Address,
        item: str,
        label: str,
        request: Request,
        price: Price | None,
        before: PartialAnswer | None,
    ) -> AttemptRecord:
        """Make one attempt, resuming a partial answer if there is one."""
        n_prompt = estimate_tokens(prompt_texts(request, before))
        continues = before.attempt if before else None
        target, limit = address.endpoint.target, address.limit
        opening = self._ledger.open_attempt(item, label, target, n_prompt, price, continues)
        attempt = await asyncio.wrap_future(opening)
        streaming = self._streaming[attempt] = _Streaming()

        def accept() -> None:
            streaming.was_accepted = True
            limit.note_accepted()

        ended: AttemptResult | None = None
        try:
            ended = _find_too_long(target, request)
            own = ended = ended or await address.endpoint.attempt(
                request, streaming.hear, before, accept
            )
        except asyncio.CancelledError:
            reasoning, text = (_join_pieces(streaming.pieces, kind) for kind in (True, False))
            cut = AttemptResult(
                AttemptOutcome.INTERRUPTED, reasoning, text, error="cancelled by us"
            )
            whole, continues = self._join(cut, before)
            self._ledger.close_attempt(attempt, whole, make_charge(cut, n_prompt, price), continues)
            raise
        finally:
            self.n_tokens += estimate_tokens(row[3] for row in streaming.take_unsaved(attempt))
            del self._streaming[attempt]
            outcome, seconds = (ended.outcome, ended.seconds) if ended else (None, 0.0)
            limit.note_ended(outcome, streaming.was_accepted, seconds)
        whole, continues = self._join(own, before)
        self._tell_model(target, own.model)
        charge = make_charge(own, n_prompt, price)
        closing = self._ledger.close_attempt(attempt, whole, charge, continues)
        await asyncio.shield(asyncio.wrap_future(closing))
        has_new = bool(own.reasoning or own.text)
        began_anew = has_new and before is not None and continues is None
        return AttemptRecord(attempt, whole, charge.amount, has_new, began_anew)

    def _tell_model(self, target: Target, stated: str) -> None:
        """Warn once of each other model that replies name; a dated name of the same one is none."""
        if stated and not stated.startswith(target.model) and stated not in self._stated:
            self._stated.add(stated)
            print(
                f"warning: {target.name}: asked for {target.model}, the reply says that {stated} "
                "answered; the bill counts such attempts",
                file=sys.stderr,
                flush=True,
            )

    def _join(
        self, own: AttemptResult, before: PartialAnswer | None
    ) -> tuple[AttemptResult, int | None]:
        """Return the whole answer and the attempt it resumes; unreadable if the caller finds a part
        missing."""
        whole, continues = own, None
        if before:
            # The partial answer was all there was to say.
            is_end_alone = (
                bool(before.text.strip())
                and not own.text.strip()
                and classify_finish(own.finish_reason) is AttemptOutcome.COMPLETE
            )
            joined = None
            if own.reasoning or own.text or is_end_alone:
                joined = append_continuation(before, own)
            if joined:
                whole, continues = joined, before.attempt
                if is_end_alone:
                    whole = replace(whole, outcome=AttemptOutcome.COMPLETE, error="")
            elif own.text and not could_be_whole(before, own.text):
                words = "asked to resume, it neither did nor began anew"
                return replace(own, outcome=AttemptOutcome.FAILED_RESUME, error=words), None
        if whole.outcome is AttemptOutcome.COMPLETE:
            missing = self._find_missing(whole.reasoning, whole.text)
            if missing:
                whole = replace(whole, outcome=AttemptOutcome.UNREADABLE, error=missing.words)
        return whole, continues

    async def save_regularly(
        self, on_saved: Callable[[], None], on_error: Callable[[MedkdError], None]
    ) -> None:
        """Write streamed text to disk until cancelled."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            rows = [
                row
                for attempt, streaming in self._streaming.items()
                for row in streaming.take_unsaved(attempt)
            ]
            self.n_tokens += estimate_tokens(row[3] for row in rows)
            on_saved()
            try:
                await asyncio.wrap_future(self._ledger.save_pieces(rows))
            except MedkdError as error:
                on_error(error)
                return


def _find_too_long(target: Target, request: Request) -> AttemptResult | None:
    """Refuse a question that does not fit; nothing is sent."""
    context = target.terms.context if target.terms else None
    n_prompt = estimate_tokens(prompt_texts(request))
    if context is None or n_prompt <= context:
        return None
    words = f"about {n_prompt} tokens, and {target.model} takes {context}; "
    hint = "shorten the record or choose another --model"
    return AttemptResult(AttemptOutcome.TOO_LONG, error=words + hint)


def _join_pieces(pieces: list[tuple[str, bool]], is_reasoning: bool) -> str:
    return "".join(piece for piece, kind in pieces if kind is is_reasoning)


def prompt_texts(request: Request, before: PartialAnswer | None = None) -> list[str]:
    """List all texts that an attempt sends."""
    texts = [message.content for message in request.messages]
    return texts + ([before.reasoning, before.text] if before else [])


def find_worst_case(request: Request, before: PartialAnswer | None, price: Price | None) -> float:
    """Return the most an attempt can cost: a token a character of the prompt, none cached, and
    every token allowed."""
    if price is None:
        return 0.0
    n_prompt = sum(map(len, prompt_texts(request, before)))
    return price.amount(Usage(prompt=n_prompt, completion=request.sampling.max_tokens))
