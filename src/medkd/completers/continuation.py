"""Going on from a text that was paid for: what there is to go on from, and whether a server really
did.

In: the attempts at an item, what came back. Out: the text so far, and the two joined, or the
finding that the server began anew.
Not done here: sending (`completers.endpoint`), deciding to try again (`completers.dispatch`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from medkd.completers.outcomes import Outcome
from medkd.completers.stream import separate
from medkd.core import thinking
from medkd.text.similarity import shingles

if TYPE_CHECKING:
    from medkd.completers.providers import Target
    from medkd.core.completer import Request

MIN_CHARACTERS = 24
"""A shorter text is not worth going on from."""
OPENING = 12
"""Characters by which an answer that begins anew is known."""
SHINGLE = 8
MAX_REPEATED = 0.3
"""Share of the text so far that may stand again in what goes on from it; more, and it was said
anew."""
MAX_TIMES_ANEW = 3
"""Times a server may begin anew before it is no longer asked to go on."""


class Missing(NamedTuple):
    """What an asker misses in an answer."""

    words: str
    is_at_end: bool
    """Whether going on from the answer could still bring it."""


FindMissing = Callable[[str, str], Missing | None]
"""Looks at the reasoning and the text of an answer."""


class Part(StrEnum):
    """Where an answer broke off; a server may be able to go on in one and not in the other."""

    REASONING = "reasoning"
    TEXT = "text"


@dataclass(frozen=True)
class SoFar:
    """What an item's attempts have brought of its answer."""

    attempt: int
    """The one that holds it."""
    reasoning: str
    text: str
    is_reasoning_whole: bool = False
    """Whether the reasoning came to its own end and only the text is missing."""

    @property
    def part(self) -> Part:
        return Part.TEXT if self.text else Part.REASONING


class Held(Protocol):
    """What an attempt came to, as far as going on from it is concerned."""

    @property
    def outcome(self) -> Outcome | None: ...
    @property
    def reasoning(self) -> str: ...
    @property
    def text(self) -> str: ...


class Row(Held, Protocol):
    @property
    def id(self) -> int: ...


def find_so_far(attempts: Sequence[Row], find_missing: FindMissing) -> SoFar | None:
    """Give the text to go on from: that of the last attempt which brought enough."""
    last = next(
        (a for a in reversed(attempts) if len(a.reasoning) + len(a.text) >= MIN_CHARACTERS), None
    )
    return take_so_far(last.id, last, find_missing) if last else None


def take_so_far(attempt: int, held: Held, find_missing: FindMissing) -> SoFar | None:
    """Give the text of an attempt to go on from; None where it is too short, or where no end could
    mend it."""
    if held.outcome is None or not held.outcome.is_worth_going_on_from:
        return None
    if held.outcome is Outcome.UNREADABLE:
        missing = find_missing(held.reasoning, held.text)
        if held.text.strip() and not (missing and missing.is_at_end):
            return None
    reasoning, text = separate(held.reasoning, held.text)
    text = _without_frayed_end(text)
    if not text:
        reasoning = _without_frayed_end(reasoning)
    if len(reasoning) + len(text) < MIN_CHARACTERS:
        return None
    return SoFar(attempt, reasoning, text, is_reasoning_whole=held.outcome is Outcome.UNREADABLE)


def _without_frayed_end(text: str) -> str:
    """Cut off half a character, and blanks, which models go on from badly."""
    return text.rstrip("\ufffd").rstrip()


def join(before: SoFar, reasoning: str, text: str) -> tuple[str, str] | None:
    """Put what came back behind the text so far; None where the server did not go on from it.

    >>> join(SoFar(1, "", "<think>发热伴颈"), "", "强直</think>脑膜炎")
    ('', '<think>发热伴颈强直</think>脑膜炎')
    >>> join(SoFar(1, "", "<think>发热伴颈"), "", "<think>患者发热</think>脑膜炎") is None
    True
    """
    if before.part is Part.TEXT:
        return (
            (before.reasoning, before.text + text)
            if not reasoning and _goes_on(before.text, text)
            else None
        )
    if (
        not reasoning and text
    ):  # right behind a whole reasoning; else it took half a one for a whole
        return (before.reasoning, text) if before.is_reasoning_whole else None
    return (before.reasoning + reasoning, text) if _goes_on(before.reasoning, reasoning) else None


def stands_alone(before: SoFar, text: str) -> bool:
    """Tell whether a text that did not go on could be a whole answer: one that was tagged begins
    with its tag again."""
    was_tagged = not before.reasoning and before.text.lstrip().startswith(thinking.OPEN)
    return not was_tagged or text.lstrip().startswith(thinking.OPEN)


def _goes_on(before: str, after: str) -> bool:
    start, new = before.lstrip(), after.lstrip()
    if new and new.startswith(start[:OPENING]):
        return False
    if thinking.OPEN in before and thinking.OPEN in new:
        return False
    if len(start) < SHINGLE:
        return True
    said = shingles(start, SHINGLE)
    return len(said & shingles(new, SHINGLE)) <= MAX_REPEATED * len(said)


class Continuation:
    """What a run has learnt about a server's going on: asked where its provider says so, until it
    shows that it does not."""

    def __init__(self, target: "Target") -> None:
        self._form = target.prefix
        self._has_gone_on: set[Part] = set()
        self._off: set[Part] = set()
        self._times_anew: Counter[Part] = Counter()

    def is_possible(self, before: SoFar, request: "Request") -> bool:
        """Tell whether to ask for going on from a text."""
        if self._form is None or before.part in self._off:
            return False
        return self._form.while_thinking or not (before.reasoning or request.sampling.thinking)

    def note_joined(self, before: SoFar) -> None:
        self._has_gone_on.add(before.part)

    def note_refused(self, before: SoFar) -> None:
        """A refusal is the server's word for all, unless it has gone on before."""
        if before.part not in self._has_gone_on:
            self._off.add(before.part)

    def note_anew(self, before: SoFar) -> None:
        self._times_anew[before.part] += 1
        if self._times_anew[before.part] >= MAX_TIMES_ANEW and before.part not in self._has_gone_on:
            self._off.add(before.part)
