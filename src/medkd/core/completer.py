"""The one port through which any model, near or far, is asked: a request in, a completion out.

Implemented by `completers` (an endpoint over HTTP, a model on this machine, a script for tests).
Not done here: prices, retries, templates.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import ConfigDict

from medkd.core.records import Cost, Record, Usage


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(Record):
    """How tokens are drawn; what is None is left to the model's own default."""

    max_tokens: int = 1024
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    thinking: bool | None = None
    """The endpoint's own thinking switched on or off; None says nothing about it."""
    effort: str | None = None


class Request(Record):
    """One thing to ask; equal requests are the same item, paid once."""

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    sample: int = 0


class Completion(Record):
    """What came back for one request, all attempts together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reasoning: str = ""
    """Sent beside the content by endpoints that do so; empty otherwise."""
    text: str = ""
    finish_reason: str = "stop"
    """The word the endpoint ended with; what went wrong where it said none."""
    complete: bool = True
    """Whether it came to a known good end with all parts there."""
    truncated: bool = False
    """Whether the token limit cut it off."""
    usage: Usage = Usage()
    cost: Cost = Cost()
    attempts: int = 1
    error: str = ""
    """Why there is no complete answer, in one line; empty when there is one."""


class Completer(Protocol):
    """Anything that answers requests; results come in the order of the requests."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]: ...
