"""The rewards of reinforcement: the graders and checks of `grading/`, and a paid judge.

In: answers as `Rollout`. Out: a number between 0 and 1 for each reward. Not done here: their
weights (the stage's config), sampling answers (`train.rollouts`), the judge's rubric
(`grading.judge`, `grading.rubric`).

>>> text = "<think>\\n咳嗽三天，右下肺湿啰音。\\n</think>\\n\\n肺炎"
>>> question = PromptItem("1", "", record="咳嗽三天，右下肺湿啰音", reference="肺炎")
>>> right = Rollout(text, FinishReason.STOP, 20, question)
>>> reward_answer(right), reward_format(right), reward_stop(right), reward_loop(right)
(1.0, 1.0, 1.0, 1.0)
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from medkd.completers.client import LedgerClient, open_client
from medkd.completers.providers import find_target_of
from medkd.core import thinking
from medkd.core.errors import InputError, StoppedError
from medkd.core.records import Completer, FinishReason
from medkd.core.task import AnswerKind
from medkd.grading.diagnosis import Grade
from medkd.grading.graders import get_grader
from medkd.grading.grounding import grounded_rate
from medkd.grading.judge import judge, load_rubric, make_fault_finder, rationale_texts
from medkd.grading.rubric import QuestionRubric, score_rubrics
from medkd.text.similarity import is_looping

NAMES = ("diagnosis", "format", "stop", "loop", "grounded", "length", "judge", "rubric")
DEFAULT_WEIGHTS: Mapping[str, float] = {
    "diagnosis": 1.0,
    "format": 0.5,
    "stop": 0.25,
    "loop": 0.25,
    "grounded": 0.25,
    "length": 0.1,
}


class PromptItem(NamedTuple):
    """A question, and the prompt it is asked by: under the plain template, so that the model itself
    has to begin to think."""

    id: str
    prompt: str
    record: str
    reference: str
    """The known answer; empty where none is known."""
    kind: AnswerKind = "diagnosis"
    """What the answer is: the kind names the grader."""
    known: tuple[str, ...] = ()
    """What the record itself tells as known."""


class Rollout(NamedTuple):
    """One answer to a question, as the rewards see it."""

    text: str
    """Everything the student wrote, its thinking prefix included, the end of its turn left out."""
    finish_reason: FinishReason
    n_tokens: int
    question: PromptItem


class Band(NamedTuple):
    """Lengths in tokens that earn the whole length reward."""

    low: int
    high: int


BatchReward = Callable[[Sequence[Rollout]], list[float | None]]
"""Scores many answers at once; None where it cannot tell."""


def grade_rollout(rollout: Rollout, terms_path: Path | None = None) -> Grade:
    """Grade an answer as its task does; a thought that was never closed has no answer."""
    question, answer = rollout.question, thinking.read(rollout.text).answer
    return get_grader(question.kind, terms_path)(answer, question.reference, known=question.known)


def reward_answer(rollout: Rollout, terms_path: Path | None = None) -> float | None:
    """Pay the soft F1 of the answer; None where the grader is undecided.

    An answer that states nothing earns nothing.
    """
    found = grade_rollout(rollout, terms_path)
    return found.f1 if found.decided else None if found.stated else 0.0


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
    rate = grounded_rate(reasoning, rollout.question.record)
    return 0.5 if rate is None else rate


def reward_length(rollout: Rollout, band: Band) -> float:
    """Pay for a length within the band; outside, less in proportion to the distance, nothing from
    half and from twice.

    >>> answer = Rollout("", FinishReason.STOP, 150, PromptItem("", "", "", ""))
    >>> [reward_length(answer, band) for band in (Band(50, 200), Band(20, 100), Band(10, 75))]
    [1.0, 0.5, 0.0]
    """
    if rollout.n_tokens < band.low:
        return max(0.0, 2 * rollout.n_tokens / band.low - 1)
    return max(0.0, min(1.0, 2 - rollout.n_tokens / band.high))


def make_rewards(
    weights: Mapping[str, float], band: Band, terms_path: Path | None = None
) -> dict[str, BatchReward]:
    """List the rewards that count and need no judge, in the order of the config."""
    rules: dict[str, Callable[[Rollout], float | None]] = {
        "diagnosis": lambda rollout: reward_answer(rollout, terms_path),
        "format": reward_format,
        "stop": reward_stop,
        "loop": reward_loop,
        "grounded": reward_grounded,
        "length": lambda rollout: reward_length(rollout, band),
    }
    counting = [name for name, weight in weights.items() if weight and name in rules]
    return {name: _score_each(rules[name]) for name in counting}


def _score_each(rule: Callable[[Rollout], float | None]) -> BatchReward:
    return lambda rollouts: [rule(rollout) for rollout in rollouts]


def fill_undecided(rollouts: Sequence[Rollout], scores: Sequence[float | None]) -> list[float]:
    """Give an undecided answer the mean of the decided ones to its question: it counts as neither
    right nor wrong. Where none is decided, all earn nothing alike.

    >>> asked = [PromptItem("", "", record, "") for record in "aaab"]
    >>> rollouts = [Rollout("", FinishReason.STOP, 1, question) for question in asked]
    >>> fill_undecided(rollouts, [1.0, 0.0, None, None])
    [1.0, 0.0, 0.5, 0.0]
    """
    decided: dict[str, list[float]] = {}
    for rollout, score in zip(rollouts, scores, strict=True):
        if score is not None:
            decided.setdefault(rollout.question.record, []).append(score)
    return [
        score if score is not None else fmean(decided.get(rollout.question.record, [0.0]))
        for rollout, score in zip(rollouts, scores, strict=True)
    ]


def choose_band(lengths: Sequence[int]) -> Band:
    """Choose the band that nearly all baseline answers lie in: from the 1st to the 99th percentile,
    a quarter wider."""
    ordered = sorted(lengths)
    low, high = ordered[len(ordered) // 100], ordered[-1 - len(ordered) // 100]
    return Band(max(1, low * 3 // 4), max(2, -(-high * 5 // 4)))


def check_weights(weights: Mapping[str, float], has_judge: bool, has_rubric: bool) -> None:
    """Raise InputError for weights of which none counts, or a judge without a weight or without an
    endpoint."""
    counting = [name for name, weight in weights.items() if weight]
    if not counting:
        raise InputError(
            "rewards: no reward counts, and what is not named counts nothing; set a "
            "weight (--rewards.diagnosis 1), of {}, or leave --rewards out for the "
            "usual ones",
            ", ".join(NAMES),
        )
    judged = [name for name in ("judge", "rubric") if name in counting]
    if judged and not has_judge:
        raise InputError(
            "rewards: {} has a weight, but nobody is to judge; set --judge, a provider "
            "of providers.yaml",
            judged[0],
        )
    if has_judge and not judged:
        raise InputError(
            "rewards: a judge is named but has no weight; name it in rewards (judge: 0.5), or "
            "leave --judge out"
        )
    if has_rubric != ("rubric" in counting):
        raise InputError(
            "rewards: rubric and --rubric belong together; set both the weight (rubric: 1) and "
            'the directory of "medkd rubric", or neither'
        )


class JudgeReward:
    """The reward `judge`: how good the reasoning is by the rubric `rationale`.

    A judgement that cannot be read stops the run: a zero for an answer that nobody judged would be
    learnt from.
    """

    def __init__(self, completer: Completer) -> None:
        self.completer = completer

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        """Score answers; one without a closed thought has no reasoning to judge and earns nothing,
        unasked."""
        thoughts = [thinking.read(rollout.text) for rollout in rollouts]
        asked = [at for at, thought in enumerate(thoughts) if thought.reasoning and thought.answer]
        texts = [
            rationale_texts(
                rollouts[at].question.record,
                thoughts[at].reasoning or "",
                thoughts[at].answer,
                rollouts[at].question.reference,
            )
            for at in asked
        ]
        scores: list[float | None] = [0.0] * len(rollouts)
        judged = judge(texts, load_rubric("rationale"), self.completer)
        for at, answer in zip(asked, judged, strict=True):
            if answer.judgement is None:
                raise _unreadable(answer.error)
            scores[at] = answer.judgement.score
        return scores


class RubricReward:
    """The reward `rubric`: the share of the points of each question's own rubric, none below zero.

    A question without a rubric is undecided; a criterion on which the judge cannot be read stops
    the run.
    """

    def __init__(self, completer: Completer, rubrics: Mapping[str, QuestionRubric]) -> None:
        self.completer, self.rubrics = completer, rubrics

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        scores: list[float | None] = [None] * len(rollouts)
        asked = [at for at, rollout in enumerate(rollouts) if rollout.question.id in self.rubrics]
        answers = [
            (each.question.record, each.text, self.rubrics[each.question.id])
            for each in (rollouts[at] for at in asked)
        ]
        for at, score in zip(asked, score_rubrics(answers, self.completer), strict=True):
            if score.unreadable:
                raise _unreadable("a criterion of a rubric")
            scores[at] = max(0.0, score.low)
        return scores


def _unreadable(error: str) -> StoppedError:
    return StoppedError(
        "the judge could not be read ({}); choose another judge, or run the same "
        "command again: the last checkpoint and every judgement paid for are kept",
        error,
    )


def open_judge(
    flag: str, endpoint: str, model: str, budget: float | None, ledger_path: Path
) -> AbstractContextManager[LedgerClient]:
    """Open a judge, whom `flag` names by its provider or address; every judgement is on the ledger
    and within the budget. It says nothing: it is asked at every step."""
    find_faults = [make_fault_finder(load_rubric(name)) for name in ("rationale", "criterion")]

    def find_fault(reasoning: str, text: str) -> str:
        faults = [find_fault(reasoning, text) for find_fault in find_faults]
        return faults[0] if all(faults) else ""

    return open_client(find_target_of(endpoint, model, flag), ledger_path, "", find_fault, budget)
