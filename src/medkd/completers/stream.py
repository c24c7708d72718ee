r"""Bytes of an answer to text: server-sent events, the JSON in them, one growing `StreamedText`.

In: chunks of bytes cut anywhere. Out: an `AttemptResult` free of keys and control characters.
Not done here: HTTP and time limits (`completers.endpoint`).

>>> reader = EventReader()
>>> reader.feed(b": keep-alive\n\ndata: {\"a\"")
[]
>>> reader.feed(b":1}\r\n\r\ndata: [DONE]\n\n")
[Event(name='', value={'a': 1}), Event(name='', value=b'[DONE]')]
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

import orjson

from medkd.completers.outcomes import (
    AttemptOutcome,
    AttemptResult,
    classify_finish,
    classify_status,
    separate,
)
from medkd.completers.providers import read_mapping, read_usage
from medkd.core.records import Usage

BOM = b"\xef\xbb\xbf"
DONE = b"[DONE]"
MAX_EVENT_BYTES = 16 * 2**20
"""Longest event, and longest body that is no event stream."""
MAX_WORDS = 300
"""Characters kept of a server's words."""
MIN_SECRET = 6
"""A shorter key ("EMPTY", "x") protects nothing, and hiding it would mangle texts."""
MAX_DEPTH = 16
REASONING_FIELDS = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "reasoning_details",
    "thinking_blocks",
    "reasoning_text",
)
"""Where servers put reasoning; several of them hold the same text twice."""
PART_FIELDS = ("text", "thinking", "reasoning", "summary", "content", "value")
ERROR_FIELDS = ("error", "errors", "detail", "message", "msg", "error_msg", "error_message")
_OWN_WORDS = ("code", "type", *ERROR_FIELDS[3:], "status_msg")
IDLE_NAMES = {"ping", "heartbeat", "keepalive", "keep-alive", "keep_alive"}
_HTTP_ERROR = re.compile(r"[45]\d\d", re.ASCII)
_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(127, 160)])
"""Control characters but tab and line ends: they would reach a terminal or cut a text short."""

OnText = Callable[[str, bool], None]
"""Called with each new piece of text and whether it is reasoning."""


class Event(NamedTuple):
    """One event; `value` is its JSON, or its bytes where it holds none."""

    name: str
    value: Any


class EventReader:
    """Cut bytes into events.

    An event whose first line is whole JSON is given at once, so that servers that forget the blank
    line are read too. Lines of no event stream are kept aside: a plain JSON answer, an error page.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._stray: list[bytes] = []
        self._name = ""
        self._n_line = self._n_data = self._n_stray = 0
        self._ends_in_cr, self._is_first = False, True
        self.is_too_long = False
        """Whether an event, or a line, is longer than `MAX_EVENT_BYTES`."""

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes; return the events that became whole."""
        if self._ends_in_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._ends_in_cr = False
        if not chunk or self.is_too_long:
            return []
        if b"\r" in chunk:
            self._ends_in_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *lines = chunk.split(b"\n")
        self._line.append(first)
        self._n_line += len(first)
        events: list[Event] = []
        if lines:
            self._take_line(b"".join(self._line), events)
            for line in lines[:-1]:
                self._take_line(line, events)
            self._line, self._n_line = [lines[-1]], len(lines[-1])
        self.is_too_long = self._n_line + self._n_data > MAX_EVENT_BYTES
        return events

    def finish(self) -> list[Event]:
        """Return what stands in a last line without its end; half an event is left out."""
        events: list[Event] = []
        self._take_line(b"".join(self._line), events)
        self._line = []
        if self._name == "error" or load(b"\n".join(self._data)) is not None:
            self._end_event(events)
        return events

    def stray(self) -> bytes:
        """Return the lines that belong to no event stream."""
        return b"\n".join(self._stray).strip()

    def _take_line(self, line: bytes, events: list[Event]) -> None:
        if self._is_first:
            line, self._is_first = line.removeprefix(BOM), False
        if not line:
            self._end_event(events)
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._take_data(value.strip(), events)
        elif field == b"event":
            self._name = value.strip().decode("utf-8", "replace").lower()
        elif field not in {b"", b"id", b"retry"} and self._n_stray < MAX_EVENT_BYTES:
            self._stray.append(line)
            self._n_stray += len(line)

    def _take_data(self, data: bytes, events: list[Event]) -> None:
        if data in {b"", b"null"}:
            return
        if not self._data and (value := load(data)) is not None:
            events.append(Event(self._name, value))
        else:
            self._data.append(data)
            self._n_data += len(data)

    def _end_event(self, events: list[Event]) -> None:
        name, data = self._name, self._data
        self._name, self._data, self._n_data = "", [], 0
        if data:
            whole = b"\n".join(data)
            values = [load(whole)]
            if values[0] is None and None in (values := [load(line) for line in data]):
                values = [whole]
            events.extend(Event(name, value) for value in values)
        elif name == "error":
            events.append(Event(name, b""))


def load(data: bytes) -> Any:
    """Read JSON as servers write it: infinities, halves of surrogate pairs and broken UTF-8 as
    well; `[DONE]` is itself, None is no JSON."""
    if data == DONE:
        return DONE
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


class TextFilter:
    """Take control characters and the key out of a text that comes in pieces cut anywhere."""

    def __init__(self, key: str = "") -> None:
        self._key = key if len(key) >= MIN_SECRET else ""
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece; return what is certain to be no part of the key."""
        text = self._held + piece
        self._held = ""
        if not text.isprintable():
            text = text.translate(_CONTROLS)
            if not text.isascii():
                text = self._join_surrogates(text)
        return self._hide(text) if self._key else text

    def finish(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held.encode("utf-8", "replace").decode()

    def _join_surrogates(self, text: str) -> str:
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text

    def _hide(self, text: str) -> str:
        key = self._key
        if key in text:
            text = text.replace(key, "…")
        start = max(len(text) - len(key) + 1, 0)
        while (at := text.find(key[0], start)) >= 0:
            if key.startswith(text[at:]):
                self._held = text[at:] + self._held
                return text[:at]
            start = at + 1
        return text


def make_line(words: object, key: str = "") -> str:
    """Write a server's words on one short line without the key or anything a terminal would obey.

    >>> make_line("bad\\x1b[31m key sk-123456", "sk-123456")
    'bad[31m key …'
    """
    text = " ".join(str(words)[:MAX_EVENT_BYTES].split())
    whole = TextFilter(key)
    return (whole.feed(text) + whole.finish())[:MAX_WORDS]


class StreamedText:
    """An answer as far as it has come."""

    def __init__(self, on_text: OnText, key: str = "", max_characters: int = 0) -> None:
        self._on_text, self._key = on_text, key
        self._filters = {True: TextFilter(key), False: TextFilter(key)}
        self._max_characters = max_characters
        self.reasoning: list[str] = []
        self.text: list[str] = []
        self.n_characters = 0
        self.finish_reason = ""
        self.usage: Usage | None = None
        self.model = ""
        """The model that the reply says it comes from."""
        self.has_refused = False
        """Whether the model's refusal came in a field of its own."""
        self.error = ""
        """The server's words where it reported an error inside the stream."""
        self.error_means: AttemptOutcome | None = None
        """What the status and the words of such an error mean; None where they tell nothing."""
        self.is_done = False
        """Whether the server itself ended the stream; nothing behind it counts."""

    @property
    def has_text(self) -> bool:
        return self.n_characters > 0

    @property
    def is_endless(self) -> bool:
        """Whether more came than the request allows by far."""
        return 0 < self._max_characters < self.n_characters

    @property
    def is_over(self) -> bool:
        """Whether nothing that follows counts."""
        return self.is_done or bool(self.error) or self.is_endless

    def take(self, event: Event) -> None:
        """Take an event; nothing is taken after an error, which leaves a hole."""
        if self.error or self.is_done or event.name in IDLE_NAMES:
            return
        if event.name == "error":
            self._fail(
                load(event.value) or event.value if isinstance(event.value, bytes) else event.value
            )
        elif event.value == DONE:
            self.is_done = True
        elif isinstance(event.value, bytes):
            start = make_line(event.value.decode("utf-8", "replace"), self._key)[:80]
            self.error = f"an event that is no JSON: {start!r}"
        else:
            self.take_event(event.value)

    def take_event(self, event: Any) -> None:
        """Take one parsed event, of a stream or of an answer in one piece."""
        if isinstance(event, list):
            for one in cast(list[Any], event):
                self.take_event(one)
            return
        if not isinstance(event, dict):
            self.error = f"an event that is no JSON object: {make_line(event, self._key)[:80]!r}"
            return
        fields = cast(Mapping[str, Any], event)
        if (problem := find_problem(fields)) is not None:
            self._fail(problem)
            return
        self._take_usage(fields)
        if not self.model and isinstance(name := fields.get("model"), str):
            self.model = make_line(name, self._key)[:80]
        choices = fields.get("choices")
        for choice in cast(list[Any], choices) if isinstance(choices, list) else ():
            if not read_mapping(choice).get("index"):
                self._take_choice(read_mapping(choice))

    def finish(self) -> None:
        """Take what was held back in case it was the beginning of the key."""
        for is_reasoning, held in self._filters.items():
            self._keep(held.finish(), is_reasoning)

    def _fail(self, problem: object) -> None:
        self.error = make_line(find_message(problem), self._key) or "an error without words"
        self.error_means = classify_status(_code_of(problem), find_own_words(problem))

    def _take_usage(self, fields: Mapping[str, Any]) -> None:
        if fields.get("usage"):
            self.usage = read_usage(fields["usage"])

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        if choice.get("error"):
            self._fail(choice["error"])
            return
        self._take_usage(choice)
        delta = read_mapping(choice.get("delta"))
        if "delta" not in choice and "message" not in choice:
            delta = {"content": choice.get("text")}
        elif not delta and not self.has_text:
            delta = read_mapping(choice.get("message"))
        for value in filter(None, map(delta.get, REASONING_FIELDS)):
            if pieces := [text for text, _ in find_texts(value, True) if text]:
                for piece in pieces:
                    self._add(piece, True)
                break
        if content := delta.get("content"):
            for piece, is_reasoning in find_texts(content, False):
                self._add(piece, is_reasoning)
        self.has_refused |= bool(delta.get("refusal"))
        self._take_finish(choice.get("finish_reason"))

    def _take_finish(self, reason: object) -> None:
        if isinstance(reason, dict):
            reason = read_mapping(reason).get("type")
        word = make_line(reason, self._key)[:80] if reason else ""
        if word.lower() not in {"", "null", "none"}:
            self.finish_reason = word

    def _add(self, piece: str, is_reasoning: bool) -> None:
        self._keep(self._filters[is_reasoning].feed(piece), is_reasoning)

    def _keep(self, piece: str, is_reasoning: bool) -> None:
        if piece:
            (self.reasoning if is_reasoning else self.text).append(piece)
            self.n_characters += len(piece)
            self._on_text(piece, is_reasoning)


class AnswerReader:
    """Read one answer out of the bytes of a 200 body, and say what became of it."""

    def __init__(self, on_text: OnText, key: str = "", max_characters: int = 0) -> None:
        self._key = key
        self._events = EventReader()
        self.streamed = StreamedText(on_text, key, max_characters)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        for event in self._events.feed(chunk):
            self.streamed.take(event)
        if self._events.is_too_long and not self.streamed.is_over:
            self.streamed.error = f"an event of more than {MAX_EVENT_BYTES // 2**20} MiB"

    def finish(self) -> AttemptResult:
        """Return the answer of a body that came to its end."""
        for event in self._events.finish():
            self.streamed.take(event)
        streamed, stray = self.streamed, self._events.stray()
        is_silent = not (streamed.has_text or streamed.finish_reason or streamed.is_done)
        if is_silent and stray and not streamed.error and (answer := self._read_plain_body(stray)):
            return self.add_text(answer)
        return self.judge()

    def judge(self) -> AttemptResult:
        """Return the answer by what has come."""
        return self.add_text(self._judge())

    def add_text(self, answer: AttemptResult) -> AttemptResult:
        """Add the text that came to a result."""
        streamed = self.streamed
        streamed.finish()
        reasoning, text = separate("".join(streamed.reasoning), "".join(streamed.text))
        return replace(
            answer,
            reasoning=reasoning,
            text=text,
            finish_reason=streamed.finish_reason,
            usage=streamed.usage,
            model=streamed.model,
        )

    def _judge(self) -> AttemptResult:
        streamed = self.streamed
        word = streamed.finish_reason
        if streamed.error:
            named = AttemptOutcome.STREAM_ERROR
            if not streamed.has_text:
                named = streamed.error_means or named
            return AttemptResult(named, error=f"the server says: {streamed.error}")
        if streamed.is_endless:
            words = f"{streamed.n_characters} characters came, far more than --max-tokens allows"
            return AttemptResult(AttemptOutcome.LENGTH, error=words)
        if streamed.has_refused:
            return AttemptResult(AttemptOutcome.FILTERED, error="the model refused")
        if not (word or streamed.has_text or streamed.is_done):
            return AttemptResult(AttemptOutcome.EMPTY, error="status 200 and an empty body")
        outcome = classify_finish(word)
        if outcome is not AttemptOutcome.COMPLETE and (word or streamed.has_text):
            ending = f"finish_reason {word}" if word else "the stream ended without a finish_reason"
            return AttemptResult(outcome, error=ending)
        if not separate("".join(streamed.reasoning), "".join(streamed.text))[1].strip():
            outcome = AttemptOutcome.UNREADABLE if streamed.reasoning else AttemptOutcome.EMPTY
            return AttemptResult(outcome, error="an answer without content")
        return AttemptResult(AttemptOutcome.COMPLETE)

    def _read_plain_body(self, body: bytes) -> AttemptResult | None:
        """Take a body that is no event stream: an answer in one piece, an error, or a page of
        something else, which is an answer of its own."""
        event = load(body)
        if event is None and body.startswith((b"{", b"[")):
            return AttemptResult(AttemptOutcome.STREAM_ERROR, error="a JSON answer that breaks off")
        if event is None:
            start = make_line(body.decode("utf-8", "replace"), self._key)[:80]
            return AttemptResult(
                AttemptOutcome.NOT_AN_ENDPOINT, error=f"no chat completion but {start!r}"
            )
        self.streamed.take_event(event)
        if self.streamed.error or self.streamed.has_text or self.streamed.finish_reason:
            return None
        return AttemptResult(
            AttemptOutcome.NOT_AN_ENDPOINT, error="JSON that is no chat completion"
        )


def find_texts(value: object, is_reasoning: bool, depth: int = 0) -> Iterator[tuple[str, bool]]:
    """Find the texts of a field, which may hold a string, a part, or a list of parts.

    >>> list(find_texts([{"type": "thinking", "thinking": [{"text": "a"}]}, "b"], False))
    [('a', True), ('b', False)]
    """
    if isinstance(value, str):
        yield value, is_reasoning
    elif isinstance(value, list) and depth < MAX_DEPTH:
        for part in cast(list[object], value):
            yield from find_texts(part, is_reasoning, depth + 1)
    elif isinstance(value, dict) and depth < MAX_DEPTH:
        part = read_mapping(cast(object, value))
        kind = str(part.get("type")).lower()
        thinks = is_reasoning or "thinking" in kind or "reasoning" in kind or "thinking" in part
        field = next((part[name] for name in PART_FIELDS if part.get(name)), None)
        yield from find_texts(field, thinks, depth + 1)


def find_problem(event: Mapping[str, Any]) -> object | None:
    """Find the error that an event reports, in whatever form; None where it reports none."""
    problem = event.get("error")
    if problem:
        return problem if isinstance(problem, str | dict | list) else event
    if "error" in (event.get("object"), event.get("type"), event.get("status")):
        return event
    if read_mapping(event.get("base_resp")).get("status_code"):
        return event["base_resp"]
    if event.get("choices") or event.get("usage"):
        return None
    is_empty_error = problem is not None and problem is not False
    return event if is_empty_error or any(event.get(name) for name in ERROR_FIELDS) else None


def find_message(problem: object) -> str:
    """Find the message in an error object of the shapes that servers use."""
    for _ in range(MAX_DEPTH):
        if isinstance(problem, list) and len(cast(list[object], problem)) == 1:
            problem = cast(list[object], problem)[0]
        if not isinstance(problem, dict) or not problem:
            break
        fields = read_mapping(cast(object, problem))
        names = (*ERROR_FIELDS[3:], "status_msg", *ERROR_FIELDS[:3])
        words = next((fields[name] for name in names if fields.get(name)), None)
        if words is None:
            break
        problem = words
    if isinstance(problem, bytes):
        return problem.decode("utf-8", "replace")
    return str(problem) if problem else ""


def find_own_words(problem: object) -> str:
    """Find what an error object says by itself: its code, type and message, not the input that some
    servers echo beside them.

    >>> find_own_words({"error": {"code": 30001, "message": "no funds", "input": "fever"}})
    '30001 no funds'
    """
    for _ in range(MAX_DEPTH):
        if isinstance(problem, list) and len(cast(list[object], problem)) == 1:
            problem = cast(list[object], problem)[0]
        fields = read_mapping(cast(object, problem))
        if not fields.get("error"):
            break
        problem = fields["error"]
    if not isinstance(problem, dict):
        return make_line("" if isinstance(problem, list) else find_message(problem))
    own = [read_mapping(cast(object, problem)).get(name) for name in _OWN_WORDS]
    return make_line(" ".join(str(one) for one in own if isinstance(one, str | int)))


def _code_of(problem: object) -> int:
    """Find the HTTP status an error object names."""
    fields = read_mapping(problem)
    for name in ("code", "status", "http_code", "status_code"):
        if _HTTP_ERROR.fullmatch(str(fields.get(name))[:4]):
            return int(fields[name])
    return _code_of(fields["error"]) if isinstance(fields.get("error"), dict) else 0
