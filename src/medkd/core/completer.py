"""The interface to every model, local or remote: requests in, completions out.

Implemented in `completers`: an endpoint over HTTP, a model on this machine, a script for tests. Not
done here: prices, retries, templates.
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
    """Sampling parameters; None leaves one to the model's default."""

    max_tokens: int = 1024
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    thinking: bool | None = None
    """The endpoint's own thinking switched on or off; None says nothing about it."""
    effort: str | None = None


class Request(Record):
    """One request; equal requests are one item and paid once."""

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    sample: int = 0


class Completion(Record):
    """The result of one request, over all its attempts."""

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
    """Anything that answers requests, in their order."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]: ...
