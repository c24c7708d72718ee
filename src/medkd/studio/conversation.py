"""Conversations for a page: models kept in memory, turns spoken in threads, what is said so far
readable at any time.

In: a question, whom to ask, sampling. Out: the turns of each side as they stand. Not done here:
speaking (`medkd.chat.backends`), pages.
"""

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock, Semaphore, Thread
from typing import Any, NamedTuple

from medkd.chat.backends import Backend, EndpointBackend, Reply, open_backend
from medkd.completers.providers import find_target
from medkd.core.errors import MedkdError
from medkd.core.records import Message, Sampling

MAX_HELD = 2
"""Models in memory at once, and speaking at once: one before, one after."""
FAREWELL_S = 10.0
"""Seconds that a model which is let go has to end its sentence."""
INTERRUPTED = "interrupted"


class Turn(NamedTuple):
    """A question, and what a model has said to it so far."""

    question: str
    reasoning: str
    answer: str
    is_thinking: bool
    thinking_s: float
    seconds: float
    end: str
    """Why the answer ended; empty while it goes on."""
    problem: MedkdError | None
    """What kept the model from speaking."""


class HeldModels:
    """The models in memory; the one that was used longest ago goes first."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], Backend] = {}
        self.voices = Semaphore(MAX_HELD)
        self.speeches: set[Speech] = set()
        self._lock = Lock()

    def get(self, name: str, adapter: str = "", key: str = "") -> Backend:
        """Return a speaker, loading it where it is a model of this machine that is not in memory; a
        key that is given is used for this answer alone."""
        model, at, place = name.rpartition("@")
        if at and model:
            is_address = place.startswith(("http://", "https://"))
            provider, address = ("custom", place) if is_address else (place, "")
            target = find_target(provider, model, address, is_key_needed=not key)
            return EndpointBackend(name, replace(target, key=key or target.key))
        with self._lock:
            wanted = (name, adapter)
            if wanted not in self.models:
                while len(self.models) >= MAX_HELD:
                    del self.models[next(iter(self.models))]
                self.models[wanted] = open_backend(name, Path(adapter) if adapter else None)
            self.models[wanted] = speaker = self.models.pop(wanted)
            return speaker

    def release(self) -> None:
        """Stop what speaks and let go of every model."""
        for speech in list(self.speeches):
            speech.stop()
            speech.join(FAREWELL_S)
        with self._lock:
            self.models.clear()
        gc.collect()
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


HELD = HeldModels()
"""Of this process: the pages of every language and every browser share them."""


class Speech:
    """One answer of one speaker, spoken in a thread of its own."""

    def __init__(
        self,
        question: str,
        find: Callable[[], Backend],
        given: Sequence[Message],
        sampling: Sampling,
    ) -> None:
        self.question = question
        self._is_stopped = Event()
        self._parts: dict[bool, list[str]] = {True: [], False: []}
        self._end: Reply | None = None
        self._problem: MedkdError | None = None
        self._began_at = time.monotonic()
        self._answer_at = self._ended_at = 0.0
        self._thread = Thread(target=self._speak, args=(find, given, sampling), daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return self._is_stopped.is_set() or not self._thread.is_alive()

    def _speak(
        self, find: Callable[[], Backend], given: Sequence[Message], sampling: Sampling
    ) -> None:
        HELD.speeches.add(self)
        try:
            with HELD.voices:
                if not self.is_over:
                    self._end = find().say(given, sampling, self.hear)
        except KeyboardInterrupt:  # stopped before it was heard at all
            pass
        except MedkdError as error:
            self._problem = error
        except Exception as error:  # noqa: BLE001 - whatever a model's own code raises is told on the page
            self._problem = MedkdError("{}: {}", type(error).__name__, str(error)[:200])
        finally:
            HELD.speeches.discard(self)

    def hear(self, piece: str, is_reasoning: bool) -> None:
        """Take a piece as it comes."""
        if self._is_stopped.is_set():
            raise KeyboardInterrupt  # as a person stops a model in the terminal
        if not is_reasoning and not self._answer_at:
            self._answer_at = time.monotonic()
        self._parts[is_reasoning].append(piece)

    def stop(self) -> None:
        """Have it end; it counts as ended at once, however long the model takes to notice."""
        self._is_stopped.set()

    def join(self, seconds: float) -> None:
        """Wait until it has ended."""
        self._thread.join(seconds)

    def read(self) -> Turn:
        """Return what is said so far."""
        is_over = self.is_over
        self._ended_at = self._ended_at or (time.monotonic() if is_over else 0.0)
        now = self._ended_at or time.monotonic()
        reasoning, answer = ("".join(self._parts[part]) for part in (True, False))
        end = INTERRUPTED if is_over and not self._problem else ""
        if is_over and self._end and not self._is_stopped.is_set():
            reasoning, answer, end = self._end.reasoning, self._end.answer, self._end.why
        return Turn(
            self.question,
            reasoning,
            answer,
            is_thinking=bool(reasoning) and not answer and not is_over,
            thinking_s=(self._answer_at or now) - self._began_at if reasoning else 0.0,
            seconds=now - self._began_at,
            end=end,
            problem=self._problem if is_over else None,
        )


class Conversation:
    """What the sides of one page have said to each other and to nobody else."""

    def __init__(self, n_sides: int) -> None:
        self._sides: list[list[Speech]] = [[] for _ in range(n_sides)]

    @property
    def is_speaking(self) -> bool:
        return any(not speech.is_over for side in self._sides for speech in side)

    def ask(self, side: int, text: str, find: Callable[[], Backend], sampling: Sampling) -> None:
        """Put a question to one side. Of earlier turns the model is given no thoughts, and none
        that came to nothing."""
        given: list[Message] = []
        for turn in (speech.read() for speech in self._sides[side]):
            if not turn.problem:
                given.append(Message(role="user", content=turn.question))
                given.append(Message(role="assistant", content=turn.answer))
        given.append(Message(role="user", content=text))
        self._sides[side].append(Speech(text, find, given, sampling))

    def stop(self) -> None:
        """Have every side end its turn."""
        for speech in (speech for side in self._sides for speech in side if not speech.is_over):
            speech.stop()

    def read(self) -> list[list[Turn]]:
        """Return the turns of every side as they stand."""
        return [[speech.read() for speech in side] for side in self._sides]
