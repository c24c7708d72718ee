"""How many attempts run at once: grows additively, shrinks when the server says it is too much.

In: attempts that enter, are accepted, leave. Out: leave to send. It never shrinks below what the
server has just been serving at once, so that a real cap is found in a few rounds and faults that
have nothing to do with load cost no speed.
Not done here: waiting after a failure (`completers.patience`).
"""

import asyncio
import time
from collections import deque

from medkd.completers.outcomes import Outcome

GROWTH_A_ROUND = 0.05
"""Share of the cap by which it grows for each full round of answers."""
SMOOTHING = 0.2
FIRST_ROUND_S = 1.0


class Gate:
    """Lets attempts through up to a limit that moves between 1 and the cap."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.limit = float(cap)
        self.n_inside = 0
        self._n_served = 0
        self._most_served = self._most_before = 0
        """Attempts served at once, at most, in this round and in the one before."""
        self._round_began = time.monotonic()
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._is_closed = False
        self._round_s = FIRST_ROUND_S
        self._shrunk_at = -1e9

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    async def enter(self) -> bool:
        """Wait for a place; False where the gate was closed meanwhile."""
        if self._is_closed:
            return False
        if self.n_inside < int(self.limit) and not self._waiting:
            self.n_inside += 1
            return True
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.result():
                self.leave()
            raise

    def leave(self) -> None:
        self.n_inside -= 1
        self._let_in()

    def note_accepted(self) -> None:
        """The server has taken an attempt up."""
        self._n_served += 1
        self._turn_round()
        self._most_served = max(self._most_served, self._n_served)

    def _turn_round(self) -> None:
        if time.monotonic() - self._round_began >= self._round_s:
            self._most_before, self._most_served, self._round_began = (
                self._most_served,
                self._n_served,
                time.monotonic(),
            )

    def note_ended(self, outcome: Outcome | None, was_accepted: bool, seconds: float) -> None:
        """An attempt is over; None where it was broken off by us."""
        self._turn_round()
        self._n_served -= was_accepted
        if outcome is Outcome.COMPLETE:
            self._round_s += SMOOTHING * (seconds - self._round_s)
            self.limit = min(
                self.cap, self.limit + max(1.0, GROWTH_A_ROUND * self.cap) / self.limit
            )
        elif (
            outcome is not None
            and outcome.is_sign_of_limits
            and time.monotonic() - self._shrunk_at >= self._round_s
        ):
            self._shrunk_at = time.monotonic()
            self.limit = max(
                1.0,
                min(
                    self.limit,
                    max(float(self._most_served), float(self._most_before), self.limit / 2),
                ),
            )
        self._let_in()

    def close(self) -> None:
        """Let nobody in any more."""
        self._is_closed = True
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(False)

    def _let_in(self) -> None:
        while self._waiting and self.n_inside < int(self.limit):
            place = self._waiting.popleft()
            if not place.done():
                self.n_inside += 1
                place.set_result(True)
