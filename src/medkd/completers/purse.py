"""The budget as a hard stop: money is set aside before an attempt is sent, at the most it can cost.

In: what was spent, what an attempt may cost. Out: leave to send, or a `StoppedError`.
Not done here: prices (`completers.providers`).
"""

import asyncio

from medkd.core.errors import StoppedError

ROUNDING = 1e-9
"""Money below this is the rounding of sums, not an attempt in flight."""


class Purse:
    """Holds a budget over what is spent and what is in flight; without a budget it only counts."""

    def __init__(self, budget: float | None, spent: float, currency: str) -> None:
        self.budget, self.spent, self.currency = budget, spent, currency
        self._set_aside = 0.0
        self._changed = asyncio.Condition()

    async def set_aside(self, amount: float) -> None:
        """Wait until an amount fits the budget; raises StoppedError where it never will."""
        async with self._changed:
            while self.budget is not None and self.spent + self._set_aside + amount > self.budget:
                if self._set_aside <= 0:
                    raise StoppedError(
                        f"--budget {self.budget:g}: {self.spent:.4f} {self.currency} paid, and the next attempt may cost {amount:.4f}; "
                        "raise --budget and run the same command again, it goes on from here"
                    )
                await self._changed.wait()
            self._set_aside += amount

    async def settle(self, amount: float, spent: float) -> None:
        """Give back an amount set aside; `spent` is all that is paid by now."""
        async with self._changed:
            left = self._set_aside - amount
            self._set_aside = left if left > ROUNDING else 0.0
            self.spent = spent
            self._changed.notify_all()
