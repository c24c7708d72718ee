"""Resume a paid answer that broke off: what there is to resume, and whether a server really did.

In: the attempts at an item, what came back. Out: the partial answer, and the two joined.
Not done here: sending (`completers.endpoint`), deciding to retry (`completers.client`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from medkd.completers.outcomes import AttemptOutcome
from medkd.completers.providers import PrefixForm
from medkd.completers.stream import separate
from medkd.core import thinking

MIN_CHARACTERS = 24
"""A shorter text is not worth resuming."""
OPENING = 12
"""Characters by which an answer that begins anew is recognised."""
SHINGLE = 8
MAX_REPEATED = 0.3
"""Share of the partial answer that may occur again in its continuation; more, and it was said
anew."""
MAX_RESTARTS = 3
"""Times a server may begin anew before it is no longer asked to resume."""


class MissingPart(NamedTuple):
    """What a caller misses in an answer."""

    words: str
    is_at_end: bool
    """Whether resuming the answer could still bring it."""


FindMissing = Callable[[str, str], MissingPart | None]
"""Looks at the reasoning and the text of an answer."""


class AnswerPart(StrEnum):
    """Where an answer broke off; a server may be able to resume one and not the other."""

    REASONING = "reasoning"
    TEXT = "text"


@dataclass(frozen=True)
class PartialAnswer:
    """What an item's attempts have brought of its answer."""

    attempt: int
    """The attempt that holds it."""
    reasoning: str
    text: str
    is_reasoning_whole: bool = False
    """Whether the reasoning came to its own end and only the text is missing."""

    @property
    def part(self) -> AnswerPart:
        return AnswerPart.TEXT if self.text else AnswerPart.REASONING


class HasAnswer(Protocol):
    """What an attempt came to, as far as resuming is concerned."""

    @property
    def outcome(self) -> AttemptOutcome | None: ...
    @property
    def reasoning(self) -> str: ...
    @property
    def text(self) -> str: ...


class HasAnswerAndId(HasAnswer, Protocol):
    @property
    def id(self) -> int: ...


def find_partial(
    attempts: Sequence[HasAnswerAndId], find_missing: FindMissing
) -> PartialAnswer | None:
    """Return the partial answer of the last attempt which brought enough."""
    for attempt in reversed(attempts):
        if len(attempt.reasoning) + len(attempt.text) >= MIN_CHARACTERS:
            return make_partial(attempt.id, attempt, find_missing)
    return None


def make_partial(attempt: int, held: HasAnswer, find_missing: FindMissing) -> PartialAnswer | None:
    """Return the partial answer of an attempt; None if it is too short, or if no end could mend
    it."""
    if held.outcome is None or not held.outcome.is_resumable:
        return None
    reasoning, text = separate(held.reasoning, held.text)
    is_unreadable = held.outcome is AttemptOutcome.UNREADABLE
    if is_unreadable and text.strip():
        missing = find_missing(reasoning, text)
        if not (missing and missing.is_at_end):
            return None
    text = _trim_end(text)
    if not text:
        reasoning = _trim_end(reasoning)
    if len(reasoning) + len(text) < MIN_CHARACTERS:
        return None
    return PartialAnswer(attempt, reasoning, text, is_reasoning_whole=is_unreadable)


def _trim_end(text: str) -> str:
    """Cut off half a character, and blanks, which models continue badly."""
    return text.rstrip("\ufffd").rstrip()


def append_continuation(before: PartialAnswer, reasoning: str, text: str) -> tuple[str, str] | None:
    """Append what came back to the partial answer; None if the server did not resume it.

    >>> append_continuation(PartialAnswer(1, "", "<think>发热伴颈"), "", "强直</think>脑膜炎")
    ('', '<think>发热伴颈强直</think>脑膜炎')
    >>> append_continuation(PartialAnswer(1, "", "<think>发热"), "", "<think>患者</think>脑膜炎")
    """
    if before.part is AnswerPart.TEXT:
        is_resumed = not reasoning and _continues(before.text, text)
        return (before.reasoning, before.text + text) if is_resumed else None
    if text and not reasoning:
        # Right after a whole reasoning; otherwise the server took half a one for a whole.
        return (before.reasoning, text) if before.is_reasoning_whole else None
    is_resumed = _continues(before.reasoning, reasoning)
    return (before.reasoning + reasoning, text) if is_resumed else None


def could_be_whole(before: PartialAnswer, text: str) -> bool:
    """Whether a text that did not resume could be a whole answer: one that was tagged begins with
    its tag again."""
    was_tagged = not before.reasoning and before.text.lstrip().startswith(thinking.OPEN)
    return not was_tagged or text.lstrip().startswith(thinking.OPEN)


def _continues(before: str, after: str) -> bool:
    start, new = before.lstrip(), after.lstrip()
    if new and new.startswith(start[:OPENING]):
        return False
    if thinking.OPEN in before and thinking.OPEN in new:
        return False
    said = _shingles(start)
    return not said or len(said & _shingles(new)) <= MAX_REPEATED * len(said)


def _shingles(text: str) -> set[str]:
    return {text[n : n + SHINGLE] for n in range(len(text) - SHINGLE + 1)}


class ResumeSupport:
    """What a run has learnt about a server's prefix completion: used as the provider says, until
    the server shows that it has none."""

    def __init__(self, form: PrefixForm | None) -> None:
        self._form = form
        self._has_resumed: set[AnswerPart] = set()
        self._off: set[AnswerPart] = set()
        self._n_restarts: Counter[AnswerPart] = Counter()

    def is_possible(self, before: PartialAnswer, is_thinking: bool | None) -> bool:
        """Whether to ask the server to resume; `is_thinking` is the request's own switch."""
        if self._form is None or before.part in self._off:
            return False
        return self._form.while_thinking or not (before.reasoning or is_thinking)

    def note_resumed(self, before: PartialAnswer) -> None:
        self._has_resumed.add(before.part)

    def note_refused(self, before: PartialAnswer) -> None:
        """A refusal holds for all items, unless the server has resumed before."""
        if before.part not in self._has_resumed:
            self._off.add(before.part)

    def note_restarted(self, before: PartialAnswer) -> None:
        self._n_restarts[before.part] += 1
        if self._n_restarts[before.part] >= MAX_RESTARTS:
            self.note_refused(before)
