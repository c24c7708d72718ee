"""What the rehearsal teacher says and how it stands on the wire, in OpenAI's and DeepSeek's form.

In: a reasoning and a content. Out: the bytes of events, or one JSON answer, with usage.
Not done here: what is said (`demo.dialogue`), serving it (`demo.teacher`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from medkd.completers.providers import estimate_tokens
from medkd.core.records import Usage

MODEL = "rehearsal"
PIECE = 12
"""Characters of one streamed delta."""


@dataclass(frozen=True)
class Reply:
    """What is to be said to one request."""

    reasoning: str
    """Sent beside the content; empty where the content holds it tagged."""
    content: str
    finish_reason: str
    n_prompt: int
    n_cached: int

    def usage(self, reasoning: str, content: str) -> Usage:
        """Count the tokens of what was really sent."""
        n_reasoning = estimate_tokens([reasoning])
        completion = n_reasoning + estimate_tokens([content])
        return Usage(
            prompt=self.n_prompt,
            cache_hit=self.n_cached,
            completion=completion,
            reasoning=n_reasoning,
        )


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
