"""The baseline of reinforcement: what the model is like before it, as sampled.

In: questions, a sampler, rewards and weights. Out: a `Baseline`, with notes in one line each; what
would teach nothing is refused (InputError), with what to change. Not done here: training; greedy
accuracy, which tells nothing about what is sampled.
"""

import random
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.records import FinishReason, Record
from medkd.grading.diagnosis import grade
from medkd.models.inspect import ModelShape
from medkd.train.grpo import PromptItem, Sampler
from medkd.train.memory import GIB, Machine, Workload, estimate_memory
from medkd.train.rewards import BatchReward, Rollout, choose_band, make_rewards

N_BASELINE_QUESTIONS = 32
MAX_TRUNCATED = 0.1
"""Share of answers cut off at the limit from which the limit, not the model, decides what is
learnt."""
ROOM = 1.5
"""The limit should be so many times the 99th percentile of the baseline's lengths."""
FEW_SPREAD = 0.2
"""Share of groups with a spread of rewards below which most of a step is spent for nothing."""


class Baseline(Record):
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


def choose_questions(
    questions: Sequence[PromptItem], seed: int, n: int = N_BASELINE_QUESTIONS
) -> list[PromptItem]:
    """Choose some questions, the same ones for the same seed."""
    return random.Random(f"start:{seed}").sample(list(questions), min(n, len(questions)))


def measure_baseline(
    sampler: Sampler,
    questions: Sequence[PromptItem],
    group_size: int,
    weights: Mapping[str, float],
    judge: BatchReward | None = None,
) -> Baseline:
    """Sample groups of answers to some questions as a step would, and measure them."""
    groups = sampler.draw_rollouts(questions, group_size, first_sample=-group_size)
    rollouts = [rollout for group in groups for rollout in group]
    ended = [r.n_tokens for r in rollouts if r.finish_reason != FinishReason.LOOP]
    lengths = sorted(ended) or [sampler.sampling.max_tokens]
    band = choose_band(lengths)
    scores = _score(groups, rollouts, make_rewards(weights, band), judge)
    sums = [
        [sum(weights[name] * scores[name][at][i] for name in scores) for i in range(len(group))]
        for at, group in enumerate(groups)
    ]
    known = [
        grade(thinking.read(rollout.text).answer, rollout.reference).principal
        for rollout in rollouts
        if rollout.reference
    ]
    means = {name: fmean(v for group in of for v in group) for name, of in scores.items()}
    spreads = {name: fmean(pstdev(group) for group in of) for name, of in scores.items()}
    baseline = Baseline(
        n_questions=len(questions),
        n_each=group_size,
        accuracy=round(fmean(known), 4) if known else None,
        stop_rate=_share(rollouts, FinishReason.STOP),
        truncated_rate=_share(rollouts, FinishReason.LENGTH),
        loop_rate=_share(rollouts, FinishReason.LOOP),
        length_p50=lengths[len(lengths) // 2],
        length_p99=lengths[-1 - len(lengths) // 100],
        band=(band.low, band.high),
        rewards={name: round(value, 4) for name, value in means.items()},
        spreads={name: round(value, 4) for name, value in spreads.items()},
        groups_with_spread=round(fmean(pstdev(group) > 1e-6 for group in sums), 4),
    )
    notes = find_notes(baseline, sampler.sampling.max_tokens)
    return baseline.model_copy(update={"notes": tuple(notes)})


def _score(
    groups: Sequence[Sequence[Rollout]],
    rollouts: Sequence[Rollout],
    rewards: Mapping[str, BatchReward],
    judge: BatchReward | None,
) -> dict[str, list[list[float]]]:
    """Score all answers by every reward, group by group."""
    scores: dict[str, list[list[float]]] = {}
    for name, reward in (*rewards.items(), *([("judge", judge)] if judge else [])):
        values = iter(reward(rollouts))
        scores[name] = [[next(values) for _ in group] for group in groups]
    return scores


def _share(rollouts: Sequence[Rollout], reason: FinishReason) -> float:
    return round(sum(r.finish_reason == reason for r in rollouts) / len(rollouts), 4)


def check_memory(shape: ModelShape, load: Workload, machine: Machine) -> None:
    """Raise InputError where a batch of a step does not fit, before anything is drawn.

    What drawing takes is left out: it is less than learning from the same answers, and where it is
    too much, fewer are drawn at once.
    """
    need = estimate_memory(shape, "lora", load)
    if need >= machine.memory:
        raise InputError(
            f"learning from a batch of answers needs about {need / GIB:.1f} GiB, "
            f"{machine.memory / GIB:.1f} GiB are there; lower --batch-size or --max-tokens, or "
            "choose a smaller model"
        )


def check_baseline(baseline: Baseline, max_tokens: int) -> None:
    """Raise InputError where reinforcement from this baseline would teach nothing."""
    if baseline.truncated_rate > MAX_TRUNCATED:
        raise InputError(
            f"{baseline.truncated_rate:.0%} of the start's answers are cut off at {max_tokens} "
            f"tokens and would be masked; give --max-tokens {2 * max_tokens}"
        )
    if baseline.groups_with_spread == 0:
        constant = ", ".join(f"{name} {value:.2f}" for name, value in baseline.rewards.items())
        raise InputError(
            f"no reward differs within any group of {baseline.n_each} answers ({constant}): there "
            "is nothing to learn from; choose harder questions, a higher --trainer.temperature, a "
            "larger --group-size, or a weaker start"
        )


def find_notes(baseline: Baseline, max_tokens: int) -> list[str]:
    """List what is not wrong enough to refuse."""
    notes = [
        f"reward {name} is the same for every answer of a group "
        f"({baseline.rewards[name]:.2f} on average): it teaches nothing yet"
        for name, spread in baseline.spreads.items()
        if spread == 0
    ]
    if baseline.length_p99 * ROOM > max_tokens:
        notes.append(
            f"99 % of the start's answers have up to {baseline.length_p99} tokens; "
            f"--max-tokens {max_tokens} leaves them little room to grow"
        )
    if 0 < baseline.groups_with_spread < FEW_SPREAD:
        notes.append(
            f"only {baseline.groups_with_spread:.0%} of the groups have a spread of rewards; "
            "a larger --group-size uses more of a step"
        )
    return notes


def describe(baseline: Baseline) -> str:
    """Sum up the baseline in one line."""
    accuracy = "" if baseline.accuracy is None else f"sampled accuracy {baseline.accuracy:.2f}, "
    rewards = ", ".join(f"{name} {value:.2f}" for name, value in baseline.rewards.items())
    return (
        f"start: {accuracy}{baseline.groups_with_spread:.0%} of groups with a spread, lengths "
        f"{baseline.length_p50} to {baseline.length_p99} tokens (median, 99th percentile); "
        f"rewards {rewards}"
    )
