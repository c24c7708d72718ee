"""The rewards of reinforcement: the graders and checks of `grading/`, and a paid judge.

In: answers as `Rollout`. Out: a number between 0 and 1 for each reward. Not done here: their
weights (the stage's config), sampling answers (`train.grpo`), the judge's rubric
(`grading.judge`).

>>> text = "<think>\\n咳嗽三天，右下肺湿啰音。\\n</think>\\n\\n肺炎"
>>> right = Rollout(text, FinishReason.STOP, 20, record="咳嗽三天，右下肺湿啰音", reference="肺炎")
>>> reward_diagnosis(right), reward_format(right), reward_stop(right), reward_loop(right)
(1.0, 1.0, 1.0, 1.0)
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from medkd.completers.client import LedgerClient, RunOptions
from medkd.completers.endpoint import Endpoint
from medkd.completers.ledger import Ledger
from medkd.completers.providers import find_target
from medkd.completers.resume import MissingPart
from medkd.core import thinking
from medkd.core.completer import Completer
from medkd.core.errors import InputError, StoppedError
from medkd.core.records import Cost, FinishReason
from medkd.core.task import AnswerKind
from medkd.grading.compare import Relation
from medkd.grading.diagnosis import Grade
from medkd.grading.graders import get_grader
from medkd.grading.grounding import grounded_rate
from medkd.grading.judge import judge, load_rubric, make_fault_finder, rationale_texts
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
    """The known answer; empty where none is known."""
    kind: AnswerKind = "diagnosis"
    """What the answer is: the kind names the grader."""
    known: tuple[str, ...] = ()
    """What the record itself tells as known."""


class Band(NamedTuple):
    """Lengths in tokens that earn the whole length reward."""

    low: int
    high: int


BatchReward = Callable[[Sequence[Rollout]], list[float]]
"""Scores many answers at once."""


def grade_rollout(rollout: Rollout, terms_path: Path | None = None) -> Grade:
    """Grade an answer as its task does; a thought that was never closed has no answer."""
    answer = thinking.read(rollout.text).answer
    return get_grader(rollout.kind, terms_path)(answer, rollout.reference, known=rollout.known)


def reward_diagnosis(rollout: Rollout, terms_path: Path | None = None) -> float:
    """Pay the soft F1 of the answer.

    What the rules cannot place at all earns nothing: the benefit of the doubt would pay for noise
    and for naming everything.
    """
    found = grade_rollout(rollout, terms_path)
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
    >>> [reward_length(answer, band) for band in (Band(50, 200), Band(20, 100), Band(10, 75))]
    [1.0, 0.5, 0.0]
    """
    if rollout.n_tokens < band.low:
        return max(0.0, 2 * rollout.n_tokens / band.low - 1)
    return max(0.0, min(1.0, 2 - rollout.n_tokens / band.high))


def make_rewards(
    weights: Mapping[str, float], band: Band, terms_path: Path | None = None
) -> dict[str, BatchReward]:
    """List the rewards that count, in the order of the config, without the judge's."""
    rules: dict[str, Callable[[Rollout], float]] = {
        "diagnosis": lambda rollout: reward_diagnosis(rollout, terms_path),
        "format": reward_format,
        "stop": reward_stop,
        "loop": reward_loop,
        "grounded": reward_grounded,
        "length": lambda rollout: reward_length(rollout, band),
    }
    counting = [name for name, weight in weights.items() if weight and name in rules]
    return {name: _score_each(rules[name]) for name in counting}


def _score_each(rule: Callable[[Rollout], float]) -> BatchReward:
    return lambda rollouts: [rule(rollout) for rollout in rollouts]


def choose_band(lengths: Sequence[int]) -> Band:
    """Choose the band that nearly all baseline answers lie in: from the 1st to the 99th percentile,
    a quarter wider."""
    ordered = sorted(lengths)
    low, high = ordered[len(ordered) // 100], ordered[-1 - len(ordered) // 100]
    return Band(max(1, low * 3 // 4), max(2, -(-high * 5 // 4)))


def check_weights(weights: Mapping[str, float], has_judge: bool) -> None:
    """Raise InputError for weights of which none counts, or a judge without a weight or without an
    endpoint."""
    counting = [name for name, weight in weights.items() if weight]
    if not counting:
        raise InputError(
            "rewards: no reward counts, and what is not named counts nothing; give "
            "one a weight (--rewards.diagnosis 1), of {}, or leave --rewards out for "
            "the usual ones",
            ", ".join(NAMES),
        )
    if "judge" in counting and not has_judge:
        raise InputError(
            "rewards: judge has a weight, but nobody is to judge; give --judge, a provider of "
            "providers.yaml"
        )
    if has_judge and "judge" not in counting:
        raise InputError(
            "rewards: a judge is named but has no weight; name it in rewards (judge: 0.5), or "
            "leave --judge out"
        )


class JudgeReward:
    """The reward `judge`: how good the reasoning is by the rubric `rationale`.

    A judgement that cannot be read stops the run: a zero for an answer that nobody judged would be
    learnt from.
    """

    def __init__(self, completer: Completer, tell_cost: Callable[[], Cost] = Cost) -> None:
        self.completer = completer
        self.tell_cost = tell_cost
        """Returns what all judgements on the ledger have cost."""

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score answers; one without a closed thought has no reasoning to judge and earns nothing,
        unasked."""
        thoughts = [thinking.read(rollout.text) for rollout in rollouts]
        asked = [at for at, thought in enumerate(thoughts) if thought.reasoning and thought.answer]
        texts = [
            rationale_texts(
                rollouts[at].record,
                thoughts[at].reasoning or "",
                thoughts[at].answer,
                rollouts[at].reference,
            )
            for at in asked
        ]
        scores = [0.0] * len(rollouts)
        judged = judge(texts, load_rubric("rationale"), self.completer)
        for at, answer in zip(asked, judged, strict=True):
            if answer.judgement is None:
                raise StoppedError(
                    "the judge could not be read ({}); choose another judge, or run the same "
                    "command again: the last checkpoint and every judgement paid for are kept",
                    answer.error,
                )
            scores[at] = answer.judgement.score
        return scores


@contextmanager
def open_judge(
    provider: str, model: str, base_url: str, budget: float | None, ledger_path: Path
) -> Generator[JudgeReward]:
    """Open a judge over an endpoint; every judgement is on the ledger and within the budget."""
    find_fault = make_fault_finder(load_rubric("rationale"))

    def find_missing(reasoning: str, text: str) -> MissingPart | None:
        fault = find_fault(reasoning, text)
        return MissingPart(fault, is_at_end=False) if fault else None

    target = find_target(provider, model, base_url)
    with Ledger(ledger_path) as ledger:
        options = RunOptions(budget=budget, find_missing=find_missing)
        completer = LedgerClient(Endpoint(target), ledger, options)
        currency = target.provider.currency
        yield JudgeReward(
            completer, lambda: Cost(amount=round(ledger.spent(), 6), currency=currency)
        )
