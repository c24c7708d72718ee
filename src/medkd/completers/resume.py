"""What of a broken answer a next attempt can resume, and what came back appended to it.

In: the texts of attempts. Out: a `PartialAnswer`; a whole answer; whether a server can resume.
Not done here: asking for it (`completers.endpoint`). A request that is answered at once never comes
here.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from medkd.completers.outcomes import (
    RESUMABLE,
    AttemptOutcome,
    AttemptResult,
    FindMissing,
    separate,
)
from medkd.completers.providers import PrefixForm
from medkd.core import thinking
from medkd.core.records import Request
from medkd.text.similarity import shingles

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


class Held(Protocol):
    """What an attempt brought: an `AttemptResult`, or its row on the ledger."""

    @property
    def outcome(self) -> AttemptOutcome | None: ...
    @property
    def reasoning(self) -> str: ...
    @property
    def text(self) -> str: ...


def find_partial(
    attempts: Sequence[tuple[int, Held]], find_missing: FindMissing
) -> PartialAnswer | None:
    """Return the partial answer of the last attempt, of those numbered, which brought enough."""
    for number, held in reversed(attempts):
        if len(held.reasoning) + len(held.text) >= MIN_CHARACTERS:
            return make_partial(number, held, find_missing)
    return None


def make_partial(attempt: int, held: Held, find_missing: FindMissing) -> PartialAnswer | None:
    """Return the partial answer of an attempt; None if it is too short, or if no end could mend
    it."""
    if held.outcome not in RESUMABLE:
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


def append_continuation(before: PartialAnswer, own: AttemptResult) -> AttemptResult | None:
    """Append what came back to the partial answer; None if the server did not resume it.

    >>> before = PartialAnswer(1, "", "<think>发热伴颈")
    >>> def resume(text: str) -> AttemptResult | None:
    ...     return append_continuation(before, AttemptResult(AttemptOutcome.COMPLETE, text=text))
    >>> resume("强直</think>脑膜炎").text
    '<think>发热伴颈强直</think>脑膜炎'
    >>> resume("<think>患者</think>脑膜炎")
    """
    if before.part is AnswerPart.TEXT:
        is_resumed = not own.reasoning and _continues(before.text, own.text)
        joined = before.reasoning, before.text + own.text
    elif own.text and not own.reasoning:
        # Right after a whole reasoning; otherwise the server took half a one for a whole.
        is_resumed, joined = before.is_reasoning_whole, (before.reasoning, own.text)
    else:
        is_resumed = _continues(before.reasoning, own.reasoning)
        joined = before.reasoning + own.reasoning, own.text
    return replace(own, reasoning=joined[0], text=joined[1]) if is_resumed else None


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
    said = shingles(start, SHINGLE)
    return len(said & shingles(new, SHINGLE)) <= MAX_REPEATED * len(said)


class ResumeSupport:
    """What a run has learnt about a server's prefix completion: used as the provider says, until
    the server shows that it has none."""

    def __init__(self, form: PrefixForm | None) -> None:
        self._form = form
        self._has_resumed: set[AnswerPart] = set()
        self._off: set[AnswerPart] = set()
        self._n_restarts: Counter[AnswerPart] = Counter()

    def is_possible(self, before: PartialAnswer | None, request: Request) -> bool:
        """Whether to ask the server to resume what there is of an answer."""
        if self._form is None or before is None or before.part in self._off:
            return False
        return self._form.while_thinking or not (before.reasoning or request.sampling.thinking)

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
