"""How long to go on asking: waits between attempts, tries an item has, and when to give up
altogether.

In: the answers of attempts, in the order they came. Out: seconds to wait, or the error that stops
the run.
Not done here: waiting and sending (`completers.dispatch`).
"""

import random
import time
from dataclasses import dataclass

from medkd.completers.outcomes import Answer, Outcome
from medkd.completers.providers import Target, key_addresses
from medkd.core.errors import InputError, MedkdError, StoppedError

GO_ON = "run the same command again, it goes on from here"


@dataclass(frozen=True)
class Patience:
    """How long one goes on asking."""

    n_tries: int = 16
    """Attempts at one item in one run."""
    n_unusable: int = 4
    """Of these, attempts that the server may end of itself without a usable answer: they are paid
    in full."""
    n_connecting: int = 3
    """Attempts at one item as long as nobody ever answered; twice as many where somebody took the
    connection."""
    backoff_s: float = 0.5
    """Longest wait after a failure; it doubles with each further sign of overload."""
    backoff_cap_s: float = 30.0
    n_refused: int = 20
    """Refusals in a row, with nothing answered, after which the request itself must be wrong."""
    n_troubles: int = 8
    """Failures in a row, over all items, after which the reader is told of them."""
    n_failures: int = 40
    """Failures in a row, over all items, after which the provider counts as failing."""
    quiet_s: float = 120.0
    """Seconds without an answer that must also have passed, unless the failures are paid ones."""
    drain_s: float = 30.0
    """How long running attempts may go on after a stop."""

    def wait_s(self, outcomes: list[Outcome], n_failures: int, retry_after_s: float) -> float:
        """Draw a wait with full jitter, no shorter than what the server asked for.

        It grows with the signs of overload that the item met, and no faster than the failures that
        all items met in a row: a provider that goes on answering others is not overloaded, and the
        last unlucky item need not wait long.
        """
        n_overloads = (
            sum(outcome.is_sign_of_overload for outcome in outcomes)
            if outcomes[-1].is_sign_of_overload
            else 1
        )
        longest = self.backoff_s * min(2 ** (n_overloads - 1), max(n_failures, 1))
        return max(random.uniform(0.0, min(longest, self.backoff_cap_s)), retry_after_s)

    def is_spent(self, n_tries: int, n_unusable: int) -> bool:
        """Tell whether an item has had all its tries."""
        return n_tries >= self.n_tries or n_unusable >= self.n_unusable


class Breaker:
    """Watches the answers of all items and says when asking on would only burn money or time."""

    def __init__(self, target: Target, patience: Patience, concurrency: int) -> None:
        self._target, self._patience = target, patience
        self._n_failures_allowed = max(patience.n_failures, 2 * concurrency)
        self.n_failures = 0
        """Failures in a row, over all items."""
        self._n_paid_failures = self._n_refused = 0
        self._has_answered = self._was_reached = False
        self._last_answer = time.monotonic()

    @property
    def is_in_trouble(self) -> bool:
        """Whether more failed in a row than bad luck explains; worth telling, not yet worth
        stopping."""
        return self.n_failures >= self._patience.n_troubles

    def watch(self, answer: Answer, n_tried: int) -> None:
        """Take note of an answer; raises what stops the run where there is no point in going on."""
        self._was_reached |= answer.status is not None
        if answer.outcome is Outcome.COMPLETE:
            self.n_failures = self._n_paid_failures = self._n_refused = 0
            self._has_answered, self._last_answer = True, time.monotonic()
            return
        if answer.outcome.is_fatal:
            raise self._fatal(answer)
        self._count(answer.outcome)
        n_allowed = {
            Outcome.UNREACHABLE: self._patience.n_connecting,
            Outcome.NETWORK: 2 * self._patience.n_connecting,
        }
        if not self._was_reached and n_tried >= n_allowed.get(answer.outcome, n_tried + 1):
            raise InputError(f"{answer.error}; start the teacher or check --base-url")
        if self._n_refused >= self._patience.n_refused and not self._has_answered:
            raise InputError(
                f"{self._target.base_url}: every request is refused ({answer.error}); check --model and the sampling flags"
            )
        if self._is_failing():
            raise StoppedError(
                f"{self._target.base_url}: nothing but failures ({answer.error}); see to the provider, then {GO_ON}"
            )

    def _count(self, outcome: Outcome) -> None:
        self._n_refused = self._n_refused + 1 if outcome is Outcome.REFUSED else 0
        if outcome.is_worth_another_try:
            self.n_failures += 1
            self._n_paid_failures += outcome.is_paid_failure

    def _is_failing(self) -> bool:
        is_quiet = time.monotonic() - self._last_answer >= self._patience.quiet_s
        return self._n_paid_failures >= self._n_failures_allowed or (
            is_quiet and self.n_failures >= self._n_failures_allowed
        )

    def _fatal(self, answer: Answer) -> MedkdError:
        place, variable = self._target.base_url, self._target.provider.key_variable
        match answer.outcome:
            case Outcome.KEY_REFUSED:
                state = "refuses the key" if self._target.key else "wants a key"
                own = ", ".join(key_addresses(variable))
                where = f" (which is sent to {own} alone)" if own and not self._target.key else ""
                return StoppedError(
                    f"{place}: {state} ({answer.error}); put a valid one in {variable}{where} and {GO_ON}"
                )
            case Outcome.NO_BALANCE:
                return StoppedError(
                    f"{place}: the balance is empty ({answer.error}); top it up and {GO_ON}"
                )
            case _ if self._has_answered:
                return StoppedError(
                    f"{place}: no longer answers as an endpoint ({answer.error}); check it, then {GO_ON}"
                )
            case _:
                return InputError(
                    f"{place}: not what was expected ({answer.error}); check --base-url (it often ends in /v1) and --model"
                )
