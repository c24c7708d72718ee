"""Attempts with their rows: opened before anything is sent, their text saved as it comes, closed
after, whatever happens.

In: a request and what it may go on from. Out: the answer as far as it came, everything that led to
it included, and on the disk.
Not done here: whether to make another attempt (`completers.dispatch`).
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from medkd.completers.attempts import make_closing
from medkd.completers.continuation import FindMissing, SoFar, join, stands_alone
from medkd.completers.endpoint import Endpoint
from medkd.completers.gate import Gate
from medkd.completers.ledger import Ledger
from medkd.completers.outcomes import Answer, Outcome, classify_finish
from medkd.completers.providers import Price, estimate_tokens
from medkd.core.completer import Request
from medkd.core.errors import MedkdError

SAVE_INTERVAL_S = 0.5
"""Seconds between two savings of streamed text: what a kill can lose."""


class Recorded(NamedTuple):
    """An attempt that is over."""

    id: int
    answer: Answer
    """With the whole text, what it went on from included."""
    amount: float
    has_new: bool
    """Whether it brought any text of its own."""
    began_anew: bool
    """Whether it was to go on from a text and did not."""


@dataclass
class _Running:
    """An attempt under way: its text, and how much of it is not on the disk yet."""

    was_accepted: bool = False
    pieces: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    n_pieces_saved: int = 0
    n_rows: int = 0

    def hear(self, piece: str, is_reasoning: bool) -> None:
        self.pieces.append((piece, is_reasoning))

    def take_unsaved(self, attempt: int) -> Iterator[tuple[int, int, bool, str]]:
        """Give what is new as rows of the ledger."""
        fresh = self.pieces[self.n_pieces_saved :]
        self.n_pieces_saved = len(self.pieces)
        for kind in (True, False):
            if text := "".join(piece for piece, is_reasoning in fresh if is_reasoning is kind):
                self.n_rows += 1
                yield attempt, self.n_rows, kind, text

    def text(self, kind: bool) -> str:
        return "".join(piece for piece, is_reasoning in self.pieces if is_reasoning is kind)


class Recorder:
    """Makes attempts for one run."""

    def __init__(
        self, endpoint: Endpoint, ledger: Ledger, gate: Gate, find_missing: FindMissing
    ) -> None:
        self._endpoint, self._ledger, self._gate, self._find_missing = (
            endpoint,
            ledger,
            gate,
            find_missing,
        )
        self._running: dict[int, _Running] = {}
        self.n_tokens = 0
        """Tokens that came in, by our estimate."""

    @property
    def n_running(self) -> int:
        return len(self._running)

    async def attempt(
        self, item: str, label: str, request: Request, price: Price | None, before: SoFar | None
    ) -> Recorded:
        """Make one attempt, going on from a text where there is one."""
        n_prompt = estimate_tokens(
            [
                *(m.content for m in request.messages),
                *((before.reasoning, before.text) if before else ()),
            ]
        )
        opening = self._ledger.open_attempt(
            item, label, self._endpoint.target, n_prompt, price, before.attempt if before else None
        )
        attempt = await asyncio.wrap_future(opening)
        running = self._running[attempt] = _Running()

        def accept() -> None:
            running.was_accepted = True
            self._gate.note_accepted()

        ended: Answer | None = None
        try:
            own = ended = await self._endpoint.attempt(request, running.hear, before, accept)
        except asyncio.CancelledError:
            broken = Answer(
                Outcome.INTERRUPTED, running.text(True), running.text(False), error="stopped by us"
            )
            whole, continues = self._judge(broken, before)
            self._ledger.close_attempt(
                attempt, make_closing(whole, n_prompt, price, continues, broken)
            )
            raise
        finally:
            self.n_tokens += estimate_tokens(row[3] for row in running.take_unsaved(attempt))
            del self._running[attempt]
            self._gate.note_ended(
                ended.outcome if ended else None,
                running.was_accepted,
                ended.seconds if ended else 0.0,
            )
        whole, continues = self._judge(own, before)
        closing = make_closing(whole, n_prompt, price, continues, own)
        await asyncio.shield(asyncio.wrap_future(self._ledger.close_attempt(attempt, closing)))
        has_new = bool(own.reasoning or own.text)
        return Recorded(
            attempt,
            whole,
            closing.amount,
            has_new,
            began_anew=has_new and before is not None and continues is None,
        )

    def _judge(self, own: Answer, before: SoFar | None) -> tuple[Answer, int | None]:
        """Give the whole answer and the attempt it goes on from; unreadable where the asker finds a
        part missing."""
        whole, continues = own, None
        is_end_alone = (
            classify_finish(own.finish_reason) is Outcome.COMPLETE
            and not own.text.strip()
            and before is not None
            and bool(before.text.strip())
        )
        if (
            before
            and (own.reasoning or own.text or is_end_alone)
            and (joined := join(before, own.reasoning, own.text))
        ):
            whole, continues = replace(own, reasoning=joined[0], text=joined[1]), before.attempt
            if is_end_alone:  # the text so far was all there was to say
                whole = replace(whole, outcome=Outcome.COMPLETE, error="")
        elif before and own.text and not stands_alone(before, own.text):
            return replace(
                own, outcome=Outcome.ASTRAY, error="asked to go on, it neither did nor began anew"
            ), None
        if whole.outcome is Outcome.COMPLETE and (
            missing := self._find_missing(whole.reasoning, whole.text)
        ):
            whole = replace(whole, outcome=Outcome.UNREADABLE, error=missing.words)
        return whole, continues

    async def save_regularly(
        self, on_saved: Callable[[], int], on_error: Callable[[MedkdError], None]
    ) -> None:
        """Put streamed text on the disk until cancelled; `on_saved` gives the number of answers so
        far."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            rows = [
                row
                for attempt, running in self._running.items()
                for row in running.take_unsaved(attempt)
            ]
            self.n_tokens += estimate_tokens(row[3] for row in rows)
            try:
                await asyncio.wrap_future(self._ledger.save_pieces(rows, on_saved()))
            except MedkdError as error:
                on_error(error)
                return
