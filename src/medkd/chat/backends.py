"""What a chat asks: a model on this machine or one behind an endpoint, streamed piece by piece.

In: a name, turns. Out: pieces of text, each marked as reasoning or answer, and why the reply ended.
Not done here: the screen and the history (`chat.session`).
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from medkd.completers.endpoint import Endpoint
from medkd.completers.llamacpp_engine import SUFFIX, LlamaCppEngine, check_file
from medkd.completers.outcomes import FATAL, AttemptOutcome, AttemptResult
from medkd.completers.providers import Flags, Target, find_target
from medkd.completers.transformers_engine import LOOP_CHECK_INTERVAL, TransformersEngine
from medkd.core.errors import InputError
from medkd.core.records import FinishReason, Message, Request, Sampling
from medkd.core.thinking import CLOSE, OPEN
from medkd.models.chat_template import encode, opens_thinking, render
from medkd.models.load import Device, LoadedModel, find_base, load_model, resolve_adapter
from medkd.text.similarity import is_looping

GGUF_LENGTH = 8192
"""Tokens of a conversation with a GGUF file, the answer with them."""
OnPiece = Callable[[str, bool], None]
"""Called with each piece of text and whether it is reasoning."""


class Reply(NamedTuple):
    """What a speaker said in one turn."""

    reasoning: str
    answer: str
    why: str
    """Why it ended: stop, length, loop, interrupted, or what went wrong."""


class Backend(Protocol):
    """Anything that can be talked to."""

    name: str

    def say(self, turns: Sequence[Message], sampling: Sampling, on_piece: OnPiece) -> Reply: ...


class ThinkingSplitter:
    r"""Tell reasoning from answer in a stream whose tags may be cut anywhere; the tags themselves
    are left out.

    >>> heard = []
    >>> splitter = ThinkingSplitter(lambda piece, is_reasoning: heard.append((piece, is_reasoning)))
    >>> for piece in ("<thi", "nk>\nfever", "</", "think>\n\nflu"):
    ...     splitter.take(piece)
    >>> splitter.finish()
    >>> heard
    [('fever', True), ('flu', False)]
    """

    def __init__(self, on_piece: OnPiece, is_reasoning: bool = False) -> None:
        self.on_piece, self.is_reasoning = on_piece, is_reasoning
        self._rest = ""
        self._is_fresh = True

    def take(self, piece: str) -> None:
        """Take the next piece."""
        self._rest += piece
        while True:
            tag = CLOSE if self.is_reasoning else OPEN
            before, found, after = self._rest.partition(tag)
            if not found:
                break
            self._give(before)
            self._rest, self.is_reasoning, self._is_fresh = after, not self.is_reasoning, True
        n_held = max((n for n in range(1, len(tag)) if self._rest.endswith(tag[:n])), default=0)
        given, self._rest = (
            self._rest[: len(self._rest) - n_held],
            self._rest[len(self._rest) - n_held :],
        )
        self._give(given)

    def finish(self) -> None:
        """Pass on what was held back because it could begin a tag."""
        self._give(self._rest)
        self._rest = ""

    def _give(self, piece: str) -> None:
        # The line breaks around a tag belong to the format, not to what is said.
        piece = piece.lstrip("\n") if self._is_fresh else piece
        if piece:
            self._is_fresh = False
            self.on_piece(piece, self.is_reasoning)


class _Listener:
    """Keeps what was heard, and passes it on."""

    def __init__(self, on_piece: OnPiece) -> None:
        self._on_piece = on_piece
        self._parts: dict[bool, list[str]] = {True: [], False: []}
        self.n_pieces = 0

    def take(self, piece: str, is_reasoning: bool) -> None:
        self._parts[is_reasoning].append(piece)
        self._on_piece(piece, is_reasoning)
        self.n_pieces += 1

    def is_repeating(self) -> bool:
        return is_looping("".join(self._parts[False] or self._parts[True]))

    def sum_up(self, why: str) -> Reply:
        return Reply("".join(self._parts[True]).strip(), "".join(self._parts[False]).strip(), why)


class LocalBackend:
    """A model on this machine, under its own chat template."""

    def __init__(self, name: str, loaded: LoadedModel) -> None:
        self.name = name
        self.model, self.tokenizer = loaded
        self._engine = TransformersEngine(loaded, 1, is_looping)

    def say(self, turns: Sequence[Message], sampling: Sampling, on_piece: OnPiece) -> Reply:
        """Write on behind the turns; an interruption ends the turn and keeps what was said."""
        from transformers import TextStreamer

        prompt = render(self.tokenizer, turns)
        listener = _Listener(on_piece)
        splitter = ThinkingSplitter(listener.take, is_reasoning=opens_thinking(prompt))
        stops = cast(list[str], self.tokenizer.convert_ids_to_tokens(self._engine.stop_ids))

        class Streamer(TextStreamer):
            """Takes the text as it is decoded."""

            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                for stop in stops:
                    text = text.replace(stop, "")
                splitter.take(text)

        streamer = Streamer(cast(Any, self.tokenizer), skip_prompt=True, skip_special_tokens=False)
        seed = secrets.randbits(48) if sampling.seed is None else sampling.seed
        try:
            [generation] = self._engine.generate_batch(
                [encode(self.tokenizer, prompt)], sampling, [seed], streamer
            )
        except KeyboardInterrupt:
            return listener.sum_up("interrupted")
        splitter.finish()
        return listener.sum_up(generation.finish_reason)


class GgufBackend:
    """A GGUF file on this machine, in llama.cpp, under its own chat template."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._engine = LlamaCppEngine(check_file(path), GGUF_LENGTH, n_slots=1)

    def say(self, turns: Sequence[Message], sampling: Sampling, on_piece: OnPiece) -> Reply:
        """Write on behind the turns; an interruption ends the turn and keeps what was said."""
        prompt = render(self._engine.tokenizer, turns)
        listener = _Listener(on_piece)
        splitter = ThinkingSplitter(listener.take, is_reasoning=opens_thinking(prompt))

        def take(text: str) -> bool:
            splitter.take(text)
            return listener.n_pieces % LOOP_CHECK_INTERVAL == 0 and listener.is_repeating()

        if sampling.seed is None:
            sampling = sampling.model_copy(update={"seed": secrets.randbits(32)})
        try:
            why = self._engine.stream(prompt, sampling, take)
        except KeyboardInterrupt:
            return listener.sum_up("interrupted")
        splitter.finish()
        return listener.sum_up(why)


class EndpointBackend:
    """A model behind an endpoint; asked once a turn, never again by itself: an answer may be
    paid."""

    def __init__(self, name: str, target: Target) -> None:
        self.name, self.target = name, target

    def say(self, turns: Sequence[Message], sampling: Sampling, on_piece: OnPiece) -> Reply:
        """Ask and stream; raises InputError where no other question would fare better."""
        listener = _Listener(on_piece)
        splitter = ThinkingSplitter(listener.take)

        def take(piece: str, is_reasoning: bool) -> None:
            if is_reasoning:
                listener.take(piece, True)
            else:
                splitter.take(piece)
            if listener.n_pieces % LOOP_CHECK_INTERVAL == 0 and listener.is_repeating():
                raise _LoopError

        try:
            answer = asyncio.run(self._ask(Request(messages=tuple(turns), sampling=sampling), take))
        except _LoopError:
            return listener.sum_up(FinishReason.LOOP)
        except KeyboardInterrupt:
            return listener.sum_up("interrupted")
        splitter.finish()
        if answer.outcome == AttemptOutcome.NO_BALANCE:
            raise InputError("{}: the balance is empty ({}); top it up", self.name, answer.error)
        if answer.outcome in FATAL or answer.outcome == AttemptOutcome.UNREACHABLE:
            raise InputError(
                "{}: {}; check the address, the model's name and the key",
                self.name,
                answer.error or answer.outcome,
            )
        why = {
            AttemptOutcome.COMPLETE: str(FinishReason.STOP),
            AttemptOutcome.LENGTH: str(FinishReason.LENGTH),
        }
        return listener.sum_up(why.get(answer.outcome, answer.error or str(answer.outcome)))

    async def _ask(self, request: Request, take: OnPiece) -> AttemptResult:
        endpoint = Endpoint(self.target)
        async with endpoint.connected():
            return await endpoint.attempt(request, take)


class _LoopError(Exception):
    """The endpoint repeats itself; hanging up is the only way to stop it."""


def open_backend(name: str, adapter: Path | None = None, device: Device = "auto") -> Backend:
    """Open the backend that a name stands for; loads it where it is a model of this machine.

    A name is `medkd:tiny`, a folder, a GGUF file, a hub's name, a directory of `train` (its adapter
    on its base), or `MODEL@PLACE`, where the place is a provider of `completers/providers.yaml` or
    the address of an OpenAI-compatible endpoint.
    """
    model, at, place = name.rpartition("@")
    if at and model and not Path(name).expanduser().exists():
        if adapter is not None:
            raise InputError(
                "{}: an adapter belongs to a model on this machine; leave --adapter out", name
            )
        is_address = place.startswith(("http://", "https://"))
        return EndpointBackend(
            name,
            find_target(
                "custom" if is_address else place,
                model,
                place if is_address else "",
                flags=Flags("MODEL@PLACE", "MODEL@PLACE"),
            ),
        )
    if name.endswith(SUFFIX):
        if adapter is not None:
            raise InputError("--adapter: a GGUF file takes none; export the two together first")
        return GgufBackend(name, Path(name).expanduser())
    if adapter is None and is_adapter(Path(name)):
        adapter = resolve_adapter(Path(name))
        base = find_base(adapter)
        return LocalBackend(name, load_model(base, adapter, device))
    found = resolve_adapter(adapter) if adapter is not None else None
    return LocalBackend(name, load_model(name, found, device))


def is_adapter(path: Path) -> bool:
    """Tell whether a path holds an adapter, by itself or as a directory of `train`."""
    return any((path / part / "adapter_config.json").exists() for part in (".", "adapter"))
