"""Answers sampled of a student before and while it is reinforced, and what they say of it.

In: questions, a model, rewards and weights. Out: rollouts; a `Baseline`, or InputError where it
would teach nothing; at every save, a look at held-out questions, and the end of a run whose rewards
rise while what nobody pays for falls. Not done here: training; greedy accuracy.
"""

import math
import random
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev, stdev
from typing import TYPE_CHECKING, Any, cast

from medkd.completers.transformers_engine import Generation, TransformersEngine
from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.jsonl import write_text
from medkd.core.records import Example, FinishReason, Record, Sampling
from medkd.core.task import find_task
from medkd.grading import checks
from medkd.models.chat_template import encode, make_messages, render
from medkd.models.inspect import ModelShape, read_model_shape
from medkd.models.load import LoadedModel, choose_device
from medkd.report.material import read_lines
from medkd.text.similarity import is_looping
from medkd.train.checkpoints import Callback
from medkd.train.config import (
    CHECKPOINTS,
    StudentConfig,
    broadcast,
    is_checkpointed,
    read_process_info,
)
from medkd.train.preflight import GIB, Workload, estimate_memory, measure_machine
from medkd.train.rewards import (
    BatchReward,
    PromptItem,
    Rollout,
    choose_band,
    fill_undecided,
    grade_rollout,
    make_rewards,
)
from medkd.train.student import Student

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

N_AT_ONCE = 64
"""Answers drawn at once; halved where memory runs out."""
N_BASELINE_QUESTIONS = 32
MAX_TRUNCATED = 0.1
"""Share of answers cut off at the limit from which the limit, not the model, decides what is
learnt."""
ROOM = 1.5
"""The limit should be so many times the 99th percentile of the baseline's lengths."""
FEW_SPREAD = 0.2
"""Share of groups with a spread of rewards below which most of a step is spent for nothing."""
N_QUESTIONS = 64
N_ANSWERS = 128
"""Answers drawn at each look, spread evenly over the questions."""
N_FALLS = 2
"""Saves in a row at which rewards are up and the watch is down that end a run."""
MAX_ANSWER = 120
"""Characters of a short answer, as `verify` wants it."""
MAX_COPIED = 0.6
REASONING_LENGTH = (40, 8000)
"""Fewest and most characters, of which a Latin word counts for two."""
JUDGED = "watch_judge"
"""Name of what a second judge says, among the rates of a look."""

Check = Callable[[Rollout, str, str], bool]
"""Judges an answer by its rollout, its reasoning and its answer."""

CHECKS: Mapping[str, tuple[str, Check]] = {
    "accuracy": ("diagnosis", lambda r, _, __: grade_rollout(r).principal),
    "form": ("format", lambda r, why, said: checks.check_form(why, said, has_stopped(r)).passed),
    "no_loop": ("loop", lambda r, _, __: checks.check_loop(r.text).passed),
    "stops": ("stop", lambda r, _, __: has_stopped(r)),
    "grounded": (
        "grounded",
        lambda r, why, _: checks.check_grounding(why, r.question.record, 0.6).passed,
    ),
    "length": ("length", lambda _, why, __: checks.check_length(why, *REASONING_LENGTH).passed),
    "exact": ("", lambda r, _, __: grade_rollout(r).exact),
    "no_refusal": ("", lambda _, why, said: checks.check_refusal(why, said).passed),
    "language": ("", lambda r, why, _: checks.check_language(why, r.question.record).passed),
    "brevity": (
        "",
        lambda r, _, said: checks.check_brevity(said, r.question.reference, MAX_ANSWER).passed,
    ),
    "no_hint": ("", lambda _, why, __: checks.check_hint(why).passed),
    "no_identifier": ("", lambda _, why, said: checks.check_identifiers(why, said).passed),
    "no_copy": ("", lambda r, why, _: checks.check_copy(why, r.question.record, MAX_COPIED).passed),
}
"""Name of a check to the reward that pays for the same thing, if any, and the check."""


def has_stopped(rollout: Rollout) -> bool:
    """Tell whether the student ended its turn itself."""
    return rollout.finish_reason == FinishReason.STOP


def make_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    examples: Sequence[Example],
    plain_template: str,
    task: str = "",
) -> list[PromptItem]:
    """Put examples into the plain template; `task` names the file of a task that is not shipped."""
    return [
        PromptItem(
            e.id,
            render(tokenizer, make_messages(e.input, e.instruction, e.system), plain_template),
            e.input,
            e.reference,
            find_task(e.task, task).answer.kind,
            e.known,
        )
        for e in examples
    ]


def check_memory(
    config: StudentConfig,
    student: Student,
    prompts: Sequence[str],
    teacher: ModelShape | None = None,
) -> None:
    """Raise InputError where a batch of a step does not fit beside the teacher's weights, before
    anything is drawn.

    What drawing takes is left out: it is less than learning from the same answers, and where it is
    too much, fewer are drawn at once.
    """
    device = choose_device(config.device)
    longest = max(len(encode(student.tokenizer, prompt)) for prompt in prompts)
    model = cast(Any, student.model)
    frozen = next(weights for weights in model.parameters() if not weights.requires_grad)
    load = Workload(
        rank=next(iter(model.peft_config.values())).r,
        n_tokens=config.batch_size * (longest + config.max_tokens),
        weight_bytes=frozen.element_size(),
        is_checkpointed=is_checkpointed(config, device),
        on_gpu=device == "cuda",
    )
    need = estimate_memory(read_model_shape(config.resolve_model()), "lora", load)
    if teacher:
        need += teacher.n_parameters * load.weight_bytes
    there = measure_machine(device).memory
    if need >= there:
        raise InputError(
            "learning from a batch of answers needs about {:.1f} GiB, {:.1f} GiB are "
            "there; lower --batch-size or --max-tokens, or choose a smaller model",
            need / GIB,
            there / GIB,
        )


class Sampler:
    """Draws answers of a model that changes under it."""

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", sampling: Sampling
    ) -> None:
        self.sampling = sampling
        self.engine = TransformersEngine(LoadedModel(model, tokenizer), N_AT_ONCE, is_looping)

    def draw(
        self, prompts: Sequence[str], samples: Sequence[int], model: "PreTrainedModel | None" = None
    ) -> list[Generation]:
        """Draw one answer to each prompt, in their order; `samples` tells equal prompts apart.

        Where memory runs out, the engine draws fewer at once and tells so, which changes none of
        them: a smaller group would change what is learnt. The model is in evaluation meanwhile: in
        training, gradient checkpointing forbids the cache.
        """
        self.engine.model = model or self.engine.model
        was_training = self.engine.model.training
        self.engine.model.eval()
        try:
            drawn = dict(self.engine.generate(prompts, self.sampling, samples))
        finally:
            self.engine.model.train(was_training)
        return [drawn[at] for at in range(len(prompts))]

    def draw_rollouts(
        self, questions: Sequence[PromptItem], n_each: int, first_sample: int = 0
    ) -> list[list[Rollout]]:
        """Draw several answers to each question."""
        prompts = [question.prompt for question in questions for _ in range(n_each)]
        samples = [first_sample + number for _ in questions for number in range(n_each)]
        drawn = iter(self.draw(prompts, samples))
        return [[self.read_rollout(next(drawn).ids, q) for _ in range(n_each)] for q in questions]

    def read_rollout(self, ids: Sequence[int], question: PromptItem) -> Rollout:
        """Read an answer from its tokens."""
        return Rollout(*self.read_text(ids), len(ids), question)

    def read_text(self, ids: Sequence[int]) -> tuple[str, FinishReason]:
        """Read a text from its tokens, and how it ended: one without an end is a loop, or else was
        cut off."""
        is_ended = bool(ids) and ids[-1] in self.engine.stop_ids
        kept = list(ids[:-1] if is_ended else ids)
        text = cast(str, self.engine.tokenizer.decode(kept, skip_special_tokens=False))
        if is_ended:
            return text, FinishReason.STOP
        return text, FinishReason.LOOP if is_looping(text) else FinishReason.LENGTH


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


def measure_baseline(
    sampler: Sampler,
    questions: Sequence[PromptItem],
    group_size: int,
    weights: Mapping[str, float],
    judged: Mapping[str, BatchReward],
    terms_path: Path | None = None,
) -> Baseline:
    """Sample groups of answers to some of the questions as a step would, and measure them; the same
    ones for the same seed."""
    chance = random.Random(f"start:{sampler.sampling.seed}")
    asked = chance.sample(list(questions), min(N_BASELINE_QUESTIONS, len(questions)))
    groups = sampler.draw_rollouts(asked, group_size, first_sample=-group_size)
    rollouts = [rollout for group in groups for rollout in group]

    def share(reason: FinishReason) -> float:
        return round(sum(r.finish_reason == reason for r in rollouts) / len(rollouts), 4)

    ended = [r.n_tokens for r in rollouts if r.finish_reason != FinishReason.LOOP]
    lengths = sorted(ended) or [sampler.sampling.max_tokens]
    band = choose_band(lengths)
    rewards = make_rewards(weights, band, terms_path) | dict(judged)
    scores: dict[str, list[list[float]]] = {}
    for name, reward in rewards.items():
        values = iter(fill_undecided(rollouts, reward(rollouts)))
        scores[name] = [[next(values) for _ in group] for group in groups]
    sums = [
        [sum(weights[name] * scores[name][at][i] for name in scores) for i in range(len(group))]
        for at, group in enumerate(groups)
    ]
    known = [grade_rollout(r, terms_path).principal for r in rollouts if r.question.reference]
    means = {name: fmean(v for group in of for v in group) for name, of in scores.items()}
    spreads = {name: fmean(pstdev(group) for group in of) for name, of in scores.items()}
    baseline = Baseline(
        n_questions=len(asked),
        n_each=group_size,
        accuracy=round(fmean(known), 4) if known else None,
        stop_rate=share(FinishReason.STOP),
        truncated_rate=share(FinishReason.LENGTH),
        loop_rate=share(FinishReason.LOOP),
        length_p50=lengths[len(lengths) // 2],
        length_p99=lengths[-1 - len(lengths) // 100],
        band=(band.low, band.high),
        rewards={name: round(value, 4) for name, value in means.items()},
        spreads={name: round(value, 4) for name, value in spreads.items()},
        groups_with_spread=round(fmean(pstdev(group) > 1e-6 for group in sums), 4),
    )
    notes = find_notes(baseline, sampler.sampling.max_tokens)
    return baseline.model_copy(update={"notes": tuple(notes)})


def check_baseline(baseline: Baseline, max_tokens: int) -> None:
    """Raise InputError where reinforcement from this baseline would teach nothing."""
    if baseline.truncated_rate > MAX_TRUNCATED:
        raise InputError(
            "{:.0%} of the start's answers are cut off at {} tokens and would be "
            "masked; set --max-tokens {}",
            baseline.truncated_rate,
            max_tokens,
            2 * max_tokens,
        )
    if baseline.groups_with_spread == 0:
        constant = ", ".join(f"{name} {value:.2f}" for name, value in baseline.rewards.items())
        raise InputError(
            "no reward differs within any group of {} answers ({}): there is nothing to "
            "learn from; choose harder questions, a higher --trainer.temperature, a "
            "larger --group-size, or a weaker start",
            baseline.n_each,
            constant,
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


class Look(Record):
    """What the held-out answers were like at one step."""

    step: int
    rates: dict[str, float]
    """Check to the share of answers that pass."""
    by_question: dict[str, list[float]]
    """Check to the share of each question's answers that pass, in the order of the questions."""
    reward: float | None = None
    """Mean reward of the training answers since the look before."""


class Watch(Callback):
    """Samples held-out answers at every save and looks at what no reward pays for, or at what a
    second judge says; ends a run that is rewarded for getting worse.

    A run ends where at `N_FALLS` saves in a row the watch is below its best so far by more than
    chance explains, while the reward is above what it was there; `restore` puts the weights of the
    best look back. The looks of an earlier run up to the resumed step are kept; of one that was
    finished and is gone on with, they end nothing.
    """

    def __init__(
        self,
        path: Path,
        sampler: Sampler,
        questions: Sequence[PromptItem],
        paid: Collection[str],
        restore: Callable[[int], int],
        judge: BatchReward | None = None,
        was_finished: bool = False,
    ) -> None:
        self.path, self.sampler, self.judge = path, sampler, judge
        self.was_finished, self._n_settled = was_finished, 0
        self.restore = restore
        # Of several processes the main one alone looks, and all do what it decides.
        self.questions = list(questions)[:N_QUESTIONS] if read_process_info().is_main else []
        self.paid = set(paid)
        self.looks: list[Look] = []
        self.stopped_at: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._read_looks(state.global_step)
        self._protect(state)
        # The start; or the look of a checkpoint behind which the run was killed.
        self.on_save(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        since = self.looks[-1].step if self.looks else 0
        history = cast(list[dict[str, float]], state.log_history)
        rewards = [line["reward"] for line in history if "reward" in line and line["step"] > since]
        self.look(state.global_step, fmean(rewards) if rewards else None)
        self._protect(state)
        if broadcast(self._is_gamed_on()):
            self.stopped_at = state.global_step
            control.should_training_stop = True
            best = self.find_best().step if self.looks else 0
            print(
                f"reinforce: stopped at step {state.global_step}: the reward rose, and what no "
                f"reward pays for fell at {N_FALLS} saves in a row; step {best} is kept",
                file=sys.stderr,
                flush=True,
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.look(state.global_step)
        if self.stopped_at is not None:
            best = self.find_best().step if self.looks else 0
            state.global_step = self.restore(broadcast(best))

    def has_ended(self, step: int) -> bool:
        """Tell whether the looks of an earlier run up to a step ended it."""
        self._read_looks(step)
        return broadcast(self._is_gamed_on())

    def _read_looks(self, step: int) -> None:
        before = [Look.model_validate(line) for line in read_lines(self.path)]
        self.looks = [look for look in before if look.step <= step]
        self._n_settled = len(self.looks) if self.was_finished else 0

    def _is_gamed_on(self) -> bool:
        if len(self.looks) < max(self._n_settled, 1) + N_FALLS:
            return False
        return all(map(self.is_gamed, self.looks[-N_FALLS:]))

    def _protect(self, state: Any) -> None:
        """Have the checkpoint of the best look kept, whatever is saved after it."""
        if self.looks and (step := self.find_best().step):
            folder = self.path.parent / CHECKPOINTS / f"checkpoint-{step}"
            state.best_model_checkpoint = str(folder)

    def look(self, step: int, reward: float | None = None) -> Look | None:
        """Draw answers at a step and write down what they are like; None for a step that was looked
        at before, or without questions."""
        if not self.questions or any(look.step == step for look in self.looks):
            return None
        n_each = math.ceil(N_ANSWERS / len(self.questions))
        groups = self.sampler.draw_rollouts(self.questions, n_each)
        thoughts = [[(r, thinking.read(r.text)) for r in group] for group in groups]
        has_references = all(question.reference for question in self.questions)
        scores = {
            name: [fmean(check(r, t.reasoning or "", t.answer) for r, t in g) for g in thoughts]
            for name, (_, check) in CHECKS.items()
            if has_references or name not in ("accuracy", "exact")
        }
        if self.judge is not None:
            rollouts = [rollout for group in groups for rollout in group]
            said = iter(fill_undecided(rollouts, self.judge(rollouts)))
            scores[JUDGED] = [fmean(next(said) for _ in group) for group in groups]
        look = Look(
            step=step,
            rates={name: round(fmean(values), 4) for name, values in scores.items()},
            by_question=scores,
            reward=reward,
        )
        self.looks.append(look)
        write_text(self.path, "".join(each.model_dump_json() + "\n" for each in self.looks))
        return look

    @property
    def unpaid(self) -> list[str]:
        """What no reward pays for: the second judge where there is one, and the other checks."""
        named = [name for name, (reward, _) in CHECKS.items() if reward not in self.paid]
        return [JUDGED, *named] if self.judge is not None else named

    def watched(self, look: Look) -> list[float]:
        """Return what is watched for each question: what the second judge says, or the mean of the
        checks that nobody pays for."""
        names = [JUDGED] if self.judge is not None else self.unpaid
        columns = [look.by_question[name] for name in names if name in look.by_question]
        return [fmean(values) for values in zip(*columns, strict=True)]

    def find_best(self) -> Look:
        """Find the look with the best watch, the earliest of equals."""
        return max(self.looks, key=lambda look: fmean(self.watched(look)))

    def is_gamed(self, look: Look) -> bool:
        """Tell whether at a look the watch is below its best before, and the reward above what it
        was there."""
        before = [each for each in self.looks if each.step < look.step]
        best = max(before, key=lambda each: fmean(self.watched(each)), default=look)
        # The start has no reward of its own: the first steps stand for it.
        known = [each.reward for each in before if each.step >= best.step and each.reward]
        has_risen = bool(known) and look.reward is not None and look.reward > known[0]
        return has_risen and _has_fallen(self.watched(best), self.watched(look))

    def find_falls(self) -> dict[str, list[float]]:
        """Name what nobody pays for and fell from the first look to that of the weights that are
        kept, and both rates.

        A fall is one that the 95 % interval of the mean difference over questions, each compared
        with itself, does not explain by chance.
        """
        if len(self.looks) < 2:
            return {}
        first = self.looks[0]
        last = self.looks[-1] if self.stopped_at is None else self.find_best()
        return {
            name: [first.rates[name], last.rates[name]]
            for name in self.unpaid
            if name in first.rates and _has_fallen(first.by_question[name], last.by_question[name])
        }


def _has_fallen(before: Sequence[float], after: Sequence[float]) -> bool:
    differences = [b - a for a, b in zip(before, after, strict=True)]
    if len(differences) < 2:
        return bool(differences) and differences[0] < 0
    return fmean(differences) + 1.96 * stdev(differences) / math.sqrt(len(differences)) < 0
