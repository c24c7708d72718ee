"""What reinforcement pays for: the graders and checks of `grading/`, and nothing of its own.

In: one answer as a `Rollout`. Out: a number between 0 and 1 for each reward. Not done here: how
much each counts (the stage's config), sampling answers (`train.rollouts`), asking a judge
(`train.judging`).

>>> text = "<think>\\n咳嗽三天，右下肺湿啰音。\\n</think>\\n\\n肺炎"
>>> right = Rollout(text, FinishReason.STOP, 20, record="咳嗽三天，右下肺湿啰音", reference="肺炎")
>>> reward_diagnosis(right), reward_format(right), reward_stop(right), reward_loop(right)
(1.0, 1.0, 1.0, 1.0)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from medkd.core import thinking
from medkd.core.records import FinishReason
from medkd.grading.compare import Relation
from medkd.grading.diagnosis import grade
from medkd.grading.grounding import grounded_rate
from medkd.grading.repetition import is_looping

NAMES = ("diagnosis", "format", "stop", "loop", "grounded", "length", "judge")
DEFAULT_WEIGHTS: Mapping[str, float] = {
    "diagnosis": 1.0,
    "format": 0.5,
    "stop": 0.25,
    "loop": 0.25,
    "grounded": 0.25,
    "length": 0.1,
}


class Rollout(NamedTuple):
    """One answer to a question, as the rewards see it."""

    text: str
    """Everything the student wrote, its thinking prefix included, the end of its turn left out."""
    finish_reason: FinishReason
    n_tokens: int
    record: str
    reference: str
    """The known diagnosis; empty where none is known."""


class Band(NamedTuple):
    """Lengths in tokens that earn the whole length reward."""

    low: int
    high: int


Reward = Callable[[Rollout], float]


def reward_diagnosis(rollout: Rollout) -> float:
    """Pay the soft F1 of the answer; a thought that was never closed has no answer.

    What the rules cannot place at all earns nothing: the benefit of the doubt would pay for noise
    and for naming everything.
    """
    found = grade(thinking.read(rollout.text).answer, rollout.reference)
    return 0.0 if found.relation is Relation.UNCLEAR else found.f1


def reward_format(rollout: Rollout) -> float:
    """Pay for exactly one closed thought and an answer behind it."""
    return float(thinking.is_well_formed(rollout.text))


def reward_stop(rollout: Rollout) -> float:
    """Pay for a turn that the student ended by itself."""
    return float(rollout.finish_reason == FinishReason.STOP)


def reward_loop(rollout: Rollout) -> float:
    """Pay for a text that does not repeat itself."""
    return float(rollout.finish_reason != FinishReason.LOOP and not is_looping(rollout.text))


def reward_grounded(rollout: Rollout) -> float:
    """Pay the share of checkable claims that stand in the record; without a closed thought there is
    nothing to pay for.

    A thought that cites nothing checkable earns half: whole, and silence would be the safest thing
    to say.
    """
    reasoning = thinking.read(rollout.text).reasoning
    if not reasoning:
        return 0.0
    rate = grounded_rate(reasoning, rollout.record)
    return 0.5 if rate is None else rate


def reward_length(rollout: Rollout, band: Band) -> float:
    """Pay for a length within the band; outside, less in proportion to the distance, nothing from
    half and from twice.

    >>> answer = Rollout("", FinishReason.STOP, 150, "", "")
    >>> reward_length(answer, Band(50, 200)), reward_length(answer, Band(20, 100)), reward_length(answer, Band(10, 75))
    (1.0, 0.5, 0.0)
    """
    if rollout.n_tokens < band.low:
        return max(0.0, 2 * rollout.n_tokens / band.low - 1)
    return max(0.0, min(1.0, 2 - rollout.n_tokens / band.high))


def make_rewards(weights: Mapping[str, float], band: Band) -> dict[str, Reward]:
    """List the rewards that count, in the order of the config; a judge's is added by the stage,
    which pays for it."""
    rules: dict[str, Reward] = {
        "diagnosis": reward_diagnosis,
        "format": reward_format,
        "stop": reward_stop,
        "loop": reward_loop,
        "grounded": reward_grounded,
        "length": lambda rollout: reward_length(rollout, band),
    }
    return {name: rules[name] for name, weight in weights.items() if weight and name in rules}


def choose_band(lengths: Sequence[int]) -> Band:
    """Choose the band that nearly all answers of the start lie in: from the 1st to the 99th
    percentile, a quarter wider."""
    ordered = sorted(lengths)
    low, high = ordered[len(ordered) // 100], ordered[-1 - len(ordered) // 100]
    return Band(max(1, low * 3 // 4), max(2, -(-high * 5 // 4)))
