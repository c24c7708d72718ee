"""Before the first step of reinforcement: sample the start, and find what is known to make it teach
nothing.

In: questions, a sampler, rewards and weights. Out: what the start is like (`Start`), notes in one
line each. Refuses (InputError) what cannot be learnt from, and says what to change. Not done here:
training; greedy accuracy, which says nothing about what is sampled.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.records import FinishReason, Record
from medkd.grading.diagnosis import grade
from medkd.models.inspect import ModelShape
from medkd.train.plan import GIB, Shape, There, estimate_memory
from medkd.train.rewards import DEFAULT_WEIGHTS, Band, Rollout, choose_band, make_rewards
from medkd.train.rollouts import Asked, Sampler

N_START_QUESTIONS = 32
MAX_TRUNCATED = 0.1
"""Share of answers cut off at the limit from which the limit, not the model, decides what is
learnt."""
ROOM = 1.5
"""The limit should be so many times the 99th percentile of the start's lengths."""
FEW_SPREAD = 0.2
"""Share of groups with a spread of rewards below which most of a step is spent for nothing."""

BatchReward = Callable[[Sequence[Rollout]], list[float]]


class Start(Record):
    """What the model is like before it is reinforced, as sampled."""

    n_questions: int
    n_each: int
    accuracy: float | None
    """Share of sampled answers whose principal diagnosis is right; None where no question has a
    known one."""
    stop_rate: float
    truncated_rate: float
    loop_rate: float
    length_p50: int
    length_p99: int
    band: tuple[int, int]
    """Lengths that earn the whole length reward."""
    rewards: dict[str, float]
    """Mean of each reward."""
    spreads: dict[str, float]
    """Standard deviation of each reward within a group, averaged over the groups."""
    groups_with_spread: float
    """Share of groups whose weighted rewards differ: only these teach anything."""
    notes: tuple[str, ...] = ()


def choose_start(questions: Sequence[Asked], seed: int, n: int = N_START_QUESTIONS) -> list[Asked]:
    """Choose some questions, the same ones for the same seed."""
    return random.Random(f"start:{seed}").sample(list(questions), min(n, len(questions)))


def measure_start(
    sampler: Sampler,
    questions: Sequence[Asked],
    group_size: int,
    weights: Mapping[str, float],
    judge: BatchReward | None = None,
) -> Start:
    """Sample groups of answers to some questions as a step would, and measure them."""
    groups = sampler.draw_rollouts(questions, group_size, first_sample=-group_size)
    every = [rollout for group in groups for rollout in group]
    lengths = sorted(
        rollout.n_tokens for rollout in every if rollout.finish_reason != FinishReason.LOOP
    ) or [sampler.sampling.max_tokens]
    band = choose_band(lengths)
    scores: dict[str, list[list[float]]] = {
        name: [[reward(rollout) for rollout in group] for group in groups]
        for name, reward in make_rewards(weights, band).items()
    }
    if judge is not None:
        judged = iter(judge(every))
        scores["judge"] = [[next(judged) for _ in group] for group in groups]
    sums = [
        [sum(weights[name] * scores[name][at][i] for name in scores) for i in range(len(group))]
        for at, group in enumerate(groups)
    ]
    known = [
        grade(thinking.read(rollout.text).answer, rollout.reference).principal
        for rollout in every
        if rollout.reference
    ]
    reasons = [rollout.finish_reason for rollout in every]
    start = Start(
        n_questions=len(questions),
        n_each=group_size,
        accuracy=round(fmean(known), 4) if known else None,
        stop_rate=_share(reasons, FinishReason.STOP),
        truncated_rate=_share(reasons, FinishReason.LENGTH),
        loop_rate=_share(reasons, FinishReason.LOOP),
        length_p50=lengths[len(lengths) // 2],
        length_p99=lengths[-1 - len(lengths) // 100],
        band=(band.low, band.high),
        rewards={
            name: round(fmean(value for group in of_groups for value in group), 4)
            for name, of_groups in scores.items()
        },
        spreads={
            name: round(fmean(pstdev(group) for group in of_groups), 4)
            for name, of_groups in scores.items()
        },
        groups_with_spread=round(fmean(pstdev(group) > 1e-6 for group in sums), 4),
    )
    return start.model_copy(update={"notes": tuple(find_notes(start, sampler.sampling.max_tokens))})


def _share(reasons: Sequence[FinishReason], wanted: FinishReason) -> float:
    return round(sum(reason == wanted for reason in reasons) / len(reasons), 4)


def check_memory(skeleton: ModelShape, shape: Shape, there: There) -> None:
    """Raise InputError where a batch of a step does not fit, before anything is drawn.

    What drawing takes is left out: it is less than learning from the same answers, and where it is
    too much, fewer are drawn at once.
    """
    need = estimate_memory(skeleton, "lora", shape)
    if need >= there.memory:
        raise InputError(
            f"learning from a batch of answers needs about {need / GIB:.1f} GiB, {there.memory / GIB:.1f} GiB are there; "
            "lower --batch-size or --max-tokens, or choose a smaller model"
        )


def check_start(start: Start, max_tokens: int) -> None:
    """Raise InputError where reinforcement from this start would teach nothing."""
    if start.truncated_rate > MAX_TRUNCATED:
        raise InputError(
            f"{start.truncated_rate:.0%} of the start's answers are cut off at {max_tokens} tokens and would be masked; "
            f"give --max-tokens {2 * max_tokens}"
        )
    if start.groups_with_spread == 0:
        constant = ", ".join(f"{name} {start.rewards[name]:.2f}" for name in start.rewards)
        raise InputError(
            f"no reward differs within any group of {start.n_each} answers ({constant}): there is nothing to learn from; "
            "choose harder questions, a higher --trainer.temperature, a larger --group-size, or a weaker start"
        )


def find_notes(start: Start, max_tokens: int) -> list[str]:
    """Say what is not wrong enough to refuse."""
    notes = [
        f"reward {name} is the same for every answer of a group ({start.rewards[name]:.2f} on average): it teaches nothing yet"
        for name, spread in start.spreads.items()
        if spread == 0
    ]
    if start.length_p99 * ROOM > max_tokens:
        notes.append(
            f"99 % of the start's answers have up to {start.length_p99} tokens; --max-tokens {max_tokens} leaves them little room to grow"
        )
    if 0 < start.groups_with_spread < FEW_SPREAD:
        notes.append(
            f"only {start.groups_with_spread:.0%} of the groups have a spread of rewards; a larger --group-size uses more of a step"
        )
    return notes


def describe(start: Start) -> str:
    """Sum up the start in one line."""
    accuracy = "" if start.accuracy is None else f"sampled accuracy {start.accuracy:.2f}, "
    rewards = ", ".join(f"{name} {value:.2f}" for name, value in start.rewards.items())
    return (
        f"start: {accuracy}{start.groups_with_spread:.0%} of groups with a spread, lengths {start.length_p50} to {start.length_p99} tokens "
        f"(median, 99th percentile); rewards {rewards}"
    )


def check_weights(weights: Mapping[str, float], has_judge: bool) -> None:
    """Raise InputError for weights that name no reward or that nobody fills."""
    counting = [name for name, weight in weights.items() if weight]
    if not counting:
        raise InputError(
            "rewards: no reward counts, and what is not named counts nothing; give one a weight (--rewards.diagnosis 1), "
            f"of {', '.join([*DEFAULT_WEIGHTS, 'judge'])}, or leave --rewards out for the usual ones"
        )
    if "judge" in counting and not has_judge:
        raise InputError(
            "rewards: judge has a weight, but nobody is to judge; give --judge, a provider of providers.yaml"
        )
    if has_judge and "judge" not in counting:
        raise InputError(
            "rewards: a judge is named but has no weight; name it in rewards (judge: 0.5), or leave --judge out"
        )


def unpack_band(start: Start) -> Band:
    """Give the band that the start set."""
    return Band(*start.band)
