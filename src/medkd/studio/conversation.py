"""Speakers for a page: kept in memory, listened to from a thread, their words as they come.

In: turns and sampling. Out: what is said so far, again and again, the last time with its end. A model is loaded once and kept until it is
told to go. Not done here: speaking (`medkd.chat.speakers`), pages.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

from medkd.chat.speakers import LocalSpeaker, RemoteSpeaker, Said, Speaker, find_speaker
from medkd.completers.providers import Target, find_target, read_providers
from medkd.core.completer import Message, Sampling
from medkd.core.errors import InputError, MedkdError

INTERVAL_S = 0.15
"""Seconds between two looks at what is said."""
MAX_HELD = 2
"""Models in memory at once: one before, one after."""


class Spoken(NamedTuple):
    """What a model has said so far in its turn."""

    reasoning: str = ""
    answer: str = ""
    is_thinking: bool = False
    thinking_s: float = 0.0
    seconds: float = 0.0
    end: str = ""
    """Why it ended; empty while it goes on."""


class HeldSpeakers:
    """The models in memory; the one that was used longest ago goes first."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Speaker] = {}
        self._lock = Lock()

    def get(self, name: str, adapter: str = "", key: str = "") -> Speaker:
        """Give a speaker, loading it where it is a model of this machine that is not in memory."""
        model, at, place = name.rpartition("@")
        if at and model:
            return RemoteSpeaker(name, find_endpoint(model, place, key))
        with self._lock:
            wanted = (name, adapter)
            if wanted not in self._held:
                while len(self._held) >= MAX_HELD:
                    del self._held[next(iter(self._held))]
                self._held[wanted] = find_speaker(name, Path(adapter) if adapter else None)
            self._held[wanted] = speaker = self._held.pop(wanted)
            return speaker

    def list_sizes(self) -> dict[str, int]:
        """Give the bytes that the weights of each model take."""
        return {" + ".join(filter(None, key)): _count_bytes(speaker) for key, speaker in list(self._held.items())}

    def release(self) -> None:
        """Let go of every model."""
        import gc
        import sys

        with self._lock:
            self._held.clear()
        gc.collect()
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


HELD = HeldSpeakers()
"""Of this process: the pages of every language and every browser share them."""


def _count_bytes(speaker: Speaker) -> int:
    if not isinstance(speaker, LocalSpeaker):
        return 0
    return sum(weight.numel() * weight.element_size() for weight in speaker.model.parameters())


def find_endpoint(model: str, place: str, key: str) -> Target:
    """Find the endpoint that a name stands for; a key that is given is used for this answer alone."""
    if place.startswith(("http://", "https://")):
        target = find_target("custom", model, place)
        return replace(target, key=key or target.key)
    if key and place in read_providers():
        provider = read_providers()[place]
        return Target(place, provider, model, provider.base_url, key)
    return find_target(place, model)


def speak(speaker: Speaker, turns: Sequence[Message], sampling: Sampling, stop: Event) -> Iterator[Spoken]:
    """Let a speaker answer, until it has ended or `stop` is set; raises what it raises."""
    heard: Queue[tuple[str, bool] | Said | BaseException] = Queue()

    def hear(piece: str, is_reasoning: bool) -> None:
        if stop.is_set():
            raise KeyboardInterrupt  # the way in which a person stops a speaker in the terminal, too
        heard.put((piece, is_reasoning))

    def listen() -> None:
        try:
            heard.put(speaker.say(turns, sampling, hear))
        except BaseException as error:  # noqa: BLE001 - handed over, and raised where the page can tell it
            heard.put(error)

    Thread(target=listen, daemon=True).start()
    started = time.monotonic()
    parts: dict[bool, list[str]] = {True: [], False: []}
    thinking_s, is_thinking = 0.0, False
    while True:
        end = _take(heard, parts)
        seconds = time.monotonic() - started
        if isinstance(end, BaseException):
            raise end if isinstance(end, MedkdError) else InputError(f"{speaker.name}: {type(end).__name__}: {str(end)[:200]}")
        is_thinking = bool(parts[True]) and not parts[False] and end is None
        if parts[True] and not parts[False]:
            thinking_s = seconds
        reasoning, answer = (end.reasoning, end.answer) if end else ("".join(parts[True]), "".join(parts[False]))
        yield Spoken(reasoning, answer, is_thinking, thinking_s, seconds, end.why if end else "")
        if end:
            return


def _take(heard: "Queue[Any]", parts: dict[bool, list[str]]) -> Any:
    """Take what was heard within one interval; gives the end, if it came."""
    deadline = time.monotonic() + INTERVAL_S
    while (left := deadline - time.monotonic()) > 0:
        try:
            piece = heard.get(timeout=left)
        except Empty:
            return None
        if not isinstance(piece, tuple) or isinstance(piece, Said):
            return piece
        parts[piece[1]].append(piece[0])
    return None


def write_turns(turns: Sequence[dict[str, Any]], system: str) -> list[Message]:
    """Write a conversation as a model is given it: what it thought in earlier turns is left out."""
    said = [Message(role="user" if turn["role"] == "user" else "assistant", content=str(turn["answer"])) for turn in turns]
    return [Message(role="system", content=system), *said] if system else said
