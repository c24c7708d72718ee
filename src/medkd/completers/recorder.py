"""One attempt with its row: opened before it is sent, saved as it streams, closed afterwards.

In: a request, a partial answer to resume. Out: an `AttemptRecord`, whatever happens.
Not done here: whether to make another attempt (`completers.client`).
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from medkd.completers.endpoint import Endpoint
from medkd.completers.ledger import Ledger, make_charge
from medkd.completers.limits import AdaptiveLimit
from medkd.completers.outcomes import AttemptOutcome, AttemptResult, classify_finish
from medkd.completers.providers import Price, estimate_tokens
from medkd.completers.resume import (
    FindMissing,
    PartialAnswer,
    append_continuation,
    could_be_whole,
)
from medkd.core.completer import Request
from medkd.core.errors import MedkdError

SAVE_INTERVAL_S = 0.5
"""Seconds between two savings of streamed text: what a kill can lose."""


class AttemptRecord(NamedTuple):
    """An attempt that is over and on disk."""

    id: int
    result: AttemptResult
    """With the whole text, what it resumed included."""
    amount: float
    has_new: bool = False
    """Whether it brought any text of its own."""
    began_anew: bool = False
    """Whether it was to resume a text and did not."""


@dataclass
class _Streaming:
    """The text of an attempt under way, and how much of it is not on disk yet."""

    was_accepted: bool = False
    pieces: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    n_saved: int = 0
    n_rows: int = 0

    def hear(self, piece: str, is_reasoning: bool) -> None:
        self.pieces.append((piece, is_reasoning))

    def take_unsaved(self, attempt: int) -> Iterator[tuple[int, int, bool, str]]:
        """Yield what is new as rows of the ledger."""
        fresh = self.pieces[self.n_saved :]
        self.n_saved = len(self.pieces)
        for is_reasoning in (True, False):
            if text := _join_pieces(fresh, is_reasoning):
                self.n_rows += 1
                yield attempt, self.n_rows, is_reasoning, text


class AttemptRecorder:
    """Make attempts with their rows."""

    def __init__(
        self, endpoint: Endpoint, ledger: Ledger, limit: AdaptiveLimit, find_missing: FindMissing
    ) -> None:
        self._endpoint, self._ledger, self._limit = endpoint, ledger, limit
        self._find_missing = find_missing
        self._streaming: dict[int, _Streaming] = {}
        self.n_tokens = 0
        """Tokens that came in, by our estimate."""

    @property
    def n_running(self) -> int:
        return len(self._streaming)

    async def attempt(
        self,
        item: str,
        label: str,
        request: Request,
        price: Price | None,
        before: PartialAnswer | None,
    ) -> AttemptRecord:
        """Make one attempt, resuming a partial answer if there is one."""
        n_prompt = estimate_tokens(prompt_texts(request, before))
        continues = before.attempt if before else None
        opening = self._ledger.open_attempt(
            item, label, self._endpoint.target, n_prompt, price, continues
        )
        attempt = await asyncio.wrap_future(opening)
        streaming = self._streaming[attempt] = _Streaming()

        def accept() -> None:
            streaming.was_accepted = True
            self._limit.note_accepted()

        ended: AttemptResult | None = None
        try:
            own = ended = await self._endpoint.attempt(request, streaming.hear, before, accept)
        except asyncio.CancelledError:
            reasoning, text = (_join_pieces(streaming.pieces, kind) for kind in (True, False))
            cut = AttemptResult(
                AttemptOutcome.INTERRUPTED, reasoning, text, error="cancelled by us"
            )
            whole, continues = self._join(cut, before)
            self._ledger.close_attempt(attempt, whole, make_charge(cut, n_prompt, price), continues)
            raise
        finally:
            self.n_tokens += estimate_tokens(row[3] for row in streaming.take_unsaved(attempt))
            del self._streaming[attempt]
            outcome, seconds = (ended.outcome, ended.seconds) if ended else (None, 0.0)
            self._limit.note_ended(outcome, streaming.was_accepted, seconds)
        whole, continues = self._join(own, before)
        charge = make_charge(own, n_prompt, price)
        closing = self._ledger.close_attempt(attempt, whole, charge, continues)
        await asyncio.shield(asyncio.wrap_future(closing))
        has_new = bool(own.reasoning or own.text)
        began_anew = has_new and before is not None and continues is None
        return AttemptRecord(attempt, whole, charge.amount, has_new, began_anew)

    def _join(
        self, own: AttemptResult, before: PartialAnswer | None
    ) -> tuple[AttemptResult, int | None]:
        """Return the whole answer and the attempt it resumes; unreadable if the caller finds a part
        missing."""
        whole, continues = own, None
        # The partial answer was all there was to say.
        is_end_alone = (
            before is not None
            and bool(before.text.strip())
            and not own.text.strip()
            and classify_finish(own.finish_reason) is AttemptOutcome.COMPLETE
        )
        joined = None
        if before and (own.reasoning or own.text or is_end_alone):
            joined = append_continuation(before, own.reasoning, own.text)
        if before and joined:
            whole, continues = replace(own, reasoning=joined[0], text=joined[1]), before.attempt
            if is_end_alone:
                whole = replace(whole, outcome=AttemptOutcome.COMPLETE, error="")
        elif before and own.text and not could_be_whole(before, own.text):
            words = "asked to resume, it neither did nor began anew"
            return replace(own, outcome=AttemptOutcome.FAILED_RESUME, error=words), None
        if whole.outcome is AttemptOutcome.COMPLETE:
            missing = self._find_missing(whole.reasoning, whole.text)
            if missing:
                whole = replace(whole, outcome=AttemptOutcome.UNREADABLE, error=missing.words)
        return whole, continues

    async def save_regularly(
        self, on_saved: Callable[[], int], on_error: Callable[[MedkdError], None]
    ) -> None:
        """Write streamed text to disk until cancelled; `on_saved` returns the number of answers so
        far."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            rows = [
                row
                for attempt, streaming in self._streaming.items()
                for row in streaming.take_unsaved(attempt)
            ]
            self.n_tokens += estimate_tokens(row[3] for row in rows)
            try:
                await asyncio.wrap_future(self._ledger.save_pieces(rows, on_saved()))
            except MedkdError as error:
                on_error(error)
                return


def _join_pieces(pieces: list[tuple[str, bool]], is_reasoning: bool) -> str:
    return "".join(piece for piece, kind in pieces if kind is is_reasoning)


def prompt_texts(request: Request, before: PartialAnswer | None) -> list[str]:
    """List all texts that an attempt sends."""
    texts = [message.content for message in request.messages]
    return texts + ([before.reasoning, before.text] if before else [])
