r"""The bytes of a streamed answer, read by hand: server-sent events to payloads, payloads to text.

In: chunks of bytes cut anywhere. Out: JSON payloads, then one growing `StreamedText`.
Not done here: HTTP, time limits (`completers.endpoint`).

>>> reader = EventReader()
>>> reader.feed(b": keep-alive\n\ndata: {\"a\"")
[]
>>> reader.feed(b":1}\r\n\r\ndata: [DONE]\n\n")
[b'{"a":1}', b'[DONE]']
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import orjson

from medkd.core.records import Usage

DONE = b"[DONE]"
KEPT_STRAY_BYTES = 16 * 2**20
"""What is kept of a body that is no event stream; a plain JSON answer fits."""

OnText = Callable[[str, bool], None]
"""Called with each new piece of text and whether it is reasoning."""


class EventReader:
    """Cut bytes into the payloads of `data:` lines; comments and blank lines are passed over,
    anything else kept aside."""

    def __init__(self) -> None:
        self._rest = b""
        self._stray: list[bytes] = []
        self._n_stray = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes and give the payloads that became whole."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return self._payloads(lines)

    def finish(self) -> list[bytes]:
        """Give the payload of a last line without its line end."""
        last, self._rest = self._rest, b""
        return self._payloads([last])

    def stray(self) -> bytes:
        """Give the lines that belong to no event stream: a plain JSON answer, an error page."""
        return b"\n".join(self._stray).strip()

    def _payloads(self, lines: list[bytes]) -> list[bytes]:
        payloads: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                payloads.append(line[5:].strip())
            elif not line.startswith((b":", b"event:", b"id:", b"retry:")) and (
                stripped := line.strip()
            ):
                self._keep_stray(stripped)
        return payloads

    def _keep_stray(self, line: bytes) -> None:
        if self._n_stray < KEPT_STRAY_BYTES:
            self._stray.append(line)
            self._n_stray += len(line)


class StreamedText:
    """An answer as far as it has come."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self.reasoning: list[str] = []
        self.text: list[str] = []
        self.finish_reason = ""
        self.usage: Usage | None = None
        self.error = ""
        """The server's words where it reported an error inside the stream."""
        self.error_code = 0
        """The HTTP status that such an error names; 0 where it names none."""
        self.is_done = False
        """Whether the server itself ended the stream."""

    @property
    def has_text(self) -> bool:
        return bool(self.text or self.reasoning)

    def take(self, payload: bytes) -> None:
        """Take one payload; a broken one is noted as an error, and nothing is taken after it: it
        would leave a hole."""
        if self.error:
            return
        if payload == DONE:
            self.is_done = True
            return
        try:
            event = orjson.loads(payload)
        except orjson.JSONDecodeError:
            self.error = "an event that is no JSON"
            return
        self.take_event(event)

    def take_event(self, event: Any) -> None:
        """Take one parsed event, of a stream or of an answer in one piece."""
        if not isinstance(event, dict):
            self.error = "an event that is no JSON object"
            return
        if problem := event.get("error"):
            self.error = words_of(problem) or "an error without words"
            self.error_code = _code_of(problem)
            return
        if usage := event.get("usage"):
            self.usage = read_usage(usage)
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not _mapping(choice).get("index"):
                self._take_choice(_mapping(choice))

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        delta = _mapping(choice.get("delta")) or _mapping(choice.get("message"))
        self._add(
            delta.get("reasoning_content") or delta.get("reasoning"),
            self.reasoning,
            is_reasoning=True,
        )
        self._add(delta.get("content"), self.text, is_reasoning=False)
        if reason := choice.get("finish_reason"):
            self.finish_reason = str(reason)

    def _add(self, piece: object, pieces: list[str], is_reasoning: bool) -> None:
        if isinstance(piece, str) and piece:
            pieces.append(piece)
            self._on_text(piece, is_reasoning)


def _mapping(value: object) -> Mapping[str, Any]:
    """Take a value for a JSON object; anything else a server may send in its place counts as an
    empty one."""
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else {}


def _code_of(problem: object) -> int:
    """Give the HTTP status an error object names."""
    fields = _mapping(problem)
    for code in (fields.get("code"), fields.get("status"), fields.get("http_code")):
        if str(code).isdigit() and 400 <= int(str(code)) < 600:
            return int(str(code))
    return 0


def words_of(problem: object) -> str:
    """Give the message of an error object in the shapes that servers use, on one short line."""
    if isinstance(problem, dict):
        problem = problem.get("message") or problem.get("error") or problem.get("detail") or problem
    return " ".join(str(problem).split())[:300]


def read_usage(usage: object) -> Usage | None:
    """Read token counts in DeepSeek's or OpenAI's names; None where they are no counts."""
    counted = _mapping(usage)
    cached = counted.get("prompt_cache_hit_tokens")
    if cached is None:
        cached = _mapping(counted.get("prompt_tokens_details")).get("cached_tokens")
    reasoning = _mapping(counted.get("completion_tokens_details")).get("reasoning_tokens")
    counts = (counted.get("prompt_tokens"), cached, counted.get("completion_tokens"), reasoning)
    prompt, hit, completion, thought = (n if isinstance(n, int) and n >= 0 else 0 for n in counts)
    return (
        Usage(prompt=prompt, cache_hit=min(hit, prompt), completion=completion, reasoning=thought)
        if prompt or completion
        else None
    )
