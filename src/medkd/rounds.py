"""Active rounds of a recipe: the same steps again and again, until a round gains no more.

In: the section `rounds`, what its steps left. Out: the steps of every round by name and fields;
whether to go on; `rounds.json`, with gain for money. Not done here: running steps (`pipeline`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.core.config import Options, did_you_mean
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, write_json
from medkd.core.stage_output import Manifest, find_manifest
from medkd.core.statistics import wilson_interval
from medkd.grading.scores import Row, list_accuracies
from medkd.report.material import ROWS

NAME = "rounds.json"
NOISE = 1.645
"""Standard errors of a gain within which it may be chance: one-sided, 95 %."""
ALL, LAST = "@all", "@last"
"""Behind the name of a step: its folders of all rounds so far, its folder of the round before."""


_HEAD = ("round", "n", "accuracy", "gain", "bought", "rows", "money", "gain for 1")
_ROW = "{:>5} {:>5} {:>22} {:>14} {:>7} {:>6} {:>12}  {}"


class Rounds(Options):
    """The section `rounds` of a recipe."""

    most: int = Field(default=3, ge=1, le=50)
    """Rounds at the most."""
    watch: str
    """Step of each round, an evaluation, whose accuracy tells whether the round gained."""
    before: str = ""
    """Step before the rounds that asks the same questions: what the first round is compared
    with."""
    budget: float | None = Field(default=None, gt=0)
    """Money of all rounds together; the round in which it is spent is the last one."""
    steps: dict[str, dict[str, Any] | None] = Field(min_length=1)
    """Steps of a round, as in a recipe; `train@last` is the folder of `train` in the round before,
    `verify@all` in a list those of all rounds so far."""


def left_nothing(manifest: Manifest) -> bool:
    """Tell whether a step left nothing to go on with: nothing to ask a teacher, no answer of it."""
    if manifest.stage == "select":
        return manifest.facts.get("selected") == 0
    return manifest.stage in ("distill", "verify") and manifest.counts.kept == 0


class RoundStep(NamedTuple):
    """One step of one round."""

    name: str
    section: str
    fields: dict[str, Any]


def expand(rounds: Rounds, run_dir: Path, place: str, before: Sequence[str]) -> Iterator[RoundStep]:
    """Write out the steps of all rounds, their references resolved; raises InputError for a step
    that there is not."""
    named = (("watch", rounds.watch, rounds.steps), ("before", rounds.before, before))
    for field, name, steps in named:
        if name and name not in steps:
            raise InputError(
                "{}: rounds: {}: no step {!r}{}", place, field, name, did_you_mean(name, steps)
            )
    for number in range(1, rounds.most + 1):
        for section, given in rounds.steps.items():
            fields = {
                name: resolved
                for name, value in (given or {}).items()
                if (resolved := _resolve(value, rounds.steps, number)) is not None
            }
            if section.split("-")[0] == "distill":
                fields.setdefault("ledger", str(run_dir / LEDGER))
                if rounds.budget is not None:
                    fields.setdefault("budget", rounds.budget)
            yield RoundStep(f"{section}-{number}", section, fields)


def _resolve(value: Any, steps: Mapping[str, Any], number: int) -> Any:
    """Put the step of this round, or of those before, in the place of its name."""
    if isinstance(value, list):
        found: list[Any] = []
        for item in value:
            name = str(item).removesuffix(ALL)
            if str(item).endswith(ALL) and name in steps:
                found += [f"{name}-{n}" for n in range(1, number + 1)]
            elif (resolved := _resolve(item, steps, number)) is not None:
                found.append(resolved)
        return found
    if not isinstance(value, str):
        return value
    name = value.removesuffix(LAST)
    if value.endswith(LAST) and name in steps:
        return f"{name}-{number - 1}" if number > 1 else None
    return f"{value}-{number}" if value in steps else value


class Round(NamedTuple):
    """What one round came to."""

    number: int
    n: int
    """Questions of the evaluation that is watched."""
    accuracy: float
    low: float
    high: float
    gain: float | None
    """Over the round before; None for the first where nothing was measured before."""
    noise: float | None
    """What chance may gain on the same questions: `NOISE` standard errors."""
    bought: int
    rows: int
    amount: float
    currency: str
    gain_per_money: float | None
    stopped: str = ""
    """Why no round follows."""


class RoundKeeper:
    """Watches rounds go by, and says when to stop."""

    def __init__(self, rounds: Rounds, run_dir: Path) -> None:
        self._rounds, self._run_dir = rounds, run_dir
        self._is_spent = False
        self.done: list[Round] = []

    def note_budget(self) -> None:
        """The budget is spent: this round is the last."""
        self._is_spent = True

    def describe(self, why: str) -> str:
        """Say on one line what the last round came to."""
        last = self.done[-1]
        gain = "" if last.gain is None else f", gain {last.gain:+.3f}"
        said = f"round {last.number}: accuracy {last.accuracy:.3f} of {last.n}{gain}"
        return f"{said}, {last.amount:.4f} {last.currency}; {why or 'on to the next'}"

    def find_reason_to_skip(self, name: str, number: int) -> str:
        """Say why the rest of a round has nothing to do: its step selected or bought nothing."""
        manifest = find_manifest(self._run_dir / name)
        if manifest is None or not left_nothing(manifest):
            return ""
        why = f"nothing to buy in round {number}"
        if self.done:
            self.done[-1] = self.done[-1]._replace(stopped=why)
        return why

    def close(self, number: int) -> str:
        """Measure a round that is over; returns why no round follows, if none does."""
        folder = self._run_dir / f"{self._rounds.watch}-{number}"
        now = _read_right(folder)
        earlier = f"{self._rounds.watch}-{number - 1}" if number > 1 else self._rounds.before
        gain, noise = (
            _compare(_read_right(self._run_dir / earlier), now) if earlier else (None, None)
        )
        why = ""
        if gain is not None and noise is not None and gain <= noise:
            why = f"the gain of {gain:+.3f} is within its noise ({noise:.3f})"
        elif self._is_spent:
            why = "the budget is spent"
        elif number == self._rounds.most:
            why = f"{number} rounds were wanted"
        low, high = wilson_interval(round(sum(now.values())), len(now)) if now else (0.0, 0.0)
        manifests = [
            manifest
            for section in self._rounds.steps
            if (manifest := find_manifest(self._run_dir / f"{section}-{number}")) is not None
        ]
        bought = [manifest for manifest in manifests if manifest.stage == "distill"]
        amount = sum(manifest.cost.amount for manifest in manifests)
        rows = [manifest.counts.kept for manifest in manifests if manifest.stage == "merge"]
        self.done.append(
            Round(
                number=number,
                n=len(now),
                accuracy=round(sum(now.values()) / max(len(now), 1), 4),
                low=round(low, 4),
                high=round(high, 4),
                gain=gain,
                noise=noise,
                bought=sum(int(m.facts.get("bought", 0)) for m in bought),
                rows=rows[-1] if rows else 0,
                amount=round(amount, 6),
                currency=bought[0].cost.currency if bought else "",
                gain_per_money=round(gain / amount, 3) if amount and gain is not None else None,
                stopped=why,
            )
        )
        return why

    def write(self) -> None:
        """Write `rounds.json` and print the table."""
        write_json(self._run_dir / NAME, [one._asdict() for one in self.done])
        print("\n" + _ROW.format(*_HEAD))
        for one in self.done:
            print(
                _ROW.format(
                    *(one.number, one.n, f"{one.accuracy:.3f} ({one.low:.3f}-{one.high:.3f})"),
                    "" if one.gain is None else f"{one.gain:+.3f} ±{one.noise or 0:.3f}",
                    *(one.bought, one.rows, f"{one.amount:.4f} {one.currency}"),
                    "" if one.gain_per_money is None else f"{one.gain_per_money:.2f}",
                )
            )
        if self.done and self.done[-1].stopped:
            print(f"stopped: {self.done[-1].stopped}")


def _read_right(folder: Path) -> dict[str, float]:
    """Read which questions of an evaluation were answered rightly: 1 or 0 by id."""
    path = folder / ROWS
    rows = RecordReader(path, Row, made_by="evaluate") if path.is_file() else ()
    return {row.id: row.scores[name] for row in rows for name in list_accuracies(row.scores)[:1]}


def _compare(
    before: Mapping[str, float], now: Mapping[str, float]
) -> tuple[float | None, float | None]:
    """Return the gain on the questions that both asked, and its noise; None where they share none.

    >>> _compare({"a": 0, "b": 0, "c": 1, "d": 0}, {"a": 1, "b": 0, "c": 1, "d": 1})
    (0.5, 0.4113)
    """
    apart = [now[key] - before[key] for key in now if key in before]
    if not apart:
        return None, None
    n, gain = len(apart), sum(apart) / len(apart)
    spread = math.sqrt(max(sum(one * one for one in apart) / n - gain * gain, 0.0) / n)
    return round(gain, 4), round(NOISE * spread, 4)
