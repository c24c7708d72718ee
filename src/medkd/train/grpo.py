"""Reinforcement with TRL's GRPO trainer and PEFT: prompts, sampled answers, the trainer.

In: a model with a trainable adapter (or none), questions, rewards. Out: the trained adapter in
memory, checkpoints and metrics on disk. On a GPU with vLLM (`trainer: {use_vllm: true}`) TRL draws
the answers of a step itself. Not done here: the stage's files (`train.reinforce`).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.completers.transformers_engine import Generation, TransformersEngine
from medkd.core.records import Example, FinishReason, Sampling
from medkd.core.task import AnswerKind, find_task
from medkd.models.chat_template import encode, make_messages, render
from medkd.models.load import LoadedModel
from medkd.text.similarity import is_looping
from medkd.train.config import StudentConfig, build_trainer_config
from medkd.train.rewards import BatchReward, Rollout, fill_undecided
from medkd.train.student import Student

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

N_AT_ONCE = 64
"""Answers drawn at once; halved where memory runs out."""
_OWN_KEYS = ("reward_weights", "num_generations", "max_completion_length", "max_steps", "packing")


class PromptItem(NamedTuple):
    """A question as the model is given it, under its plain template: the model itself has to begin
    to think."""

    id: str
    prompt: str
    record: str
    reference: str
    kind: AnswerKind = "diagnosis"
    known: tuple[str, ...] = ()
    """What the record itself tells as known."""


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
        text, end = self.read_text(ids)
        return Rollout(
            text,
            end,
            len(ids),
            question.record,
            question.reference,
            question.kind,
            question.known,
            question.id,
        )

    def read_text(self, ids: Sequence[int]) -> tuple[str, FinishReason]:
        """Read a text from its tokens, and how it ended: one without an end is a loop, or else was
        cut off."""
        is_ended = bool(ids) and ids[-1] in self.engine.stop_ids
        kept = list(ids[:-1] if is_ended else ids)
        text = cast(str, self.engine.tokenizer.decode(kept, skip_special_tokens=False))
        if is_ended:
            return text, FinishReason.STOP
        return text, FinishReason.LOOP if is_looping(text) else FinishReason.LENGTH


class TrainerRollouts:
    """Draws the answers of a step for TRL (its `rollout_func`).

    An answer that the limit cut off is masked out of the loss: nobody knows how it would have
    ended. One that was stopped because it repeats itself is not: it is to be paid less.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __call__(self, prompts: list[str], trainer: "GRPOTrainer") -> dict[str, Any]:
        from trl.models.utils import unwrap_model_for_generation

        n, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
        first = (trainer.state.global_step * n + rank) * len(prompts)
        samples = [first + number for number in range(len(prompts))]
        with unwrap_model_for_generation(
            cast(Any, trainer.model_wrapped), trainer.accelerator
        ) as model:
            drawn = self.sampler.draw(prompts, samples, cast(Any, model))
        return {
            "prompt_ids": [encode(self.sampler.engine.tokenizer, prompt) for prompt in prompts],
            "completion_ids": [generation.ids for generation in drawn],
            "logprobs": None,
            "env_mask": [
                [int(self.sampler.read_text(each.ids)[1] != FinishReason.LENGTH)] * each.n_tokens
                for each in drawn
            ],
        }


def make_trainer_config(
    config: StudentConfig, device: str, settings: Mapping[str, Any]
) -> "GRPOConfig":
    """Make TRL's config of what all methods share, `settings`, and what `trainer:` says."""
    from trl.trainer.grpo_config import GRPOConfig

    defaults = {
        "beta": 0.01,
        # Scaled by the group, one where all are right and lengths differ a little would count as
        # much as any.
        "scale_rewards": "batch",
        # `TrainerRollouts` masks what the limit cut off, and only that.
        "mask_truncated_completions": bool(config.trainer.get("use_vllm")),
        "lr_scheduler_type": "constant_with_warmup",
    }
    return build_trainer_config(GRPOConfig, config, device, 0, defaults | dict(settings), _OWN_KEYS)


def make_trainer(
    student: Student,
    questions: Sequence[PromptItem],
    rewards: Mapping[str, BatchReward],
    sampler: Sampler,
    args: "GRPOConfig",
) -> "GRPOTrainer":
    """Make TRL's trainer of an adapter; each reward scores all answers of a step at once."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.trainer.grpo_trainer import GRPOTrainer

    rows = [{"prompt": question.prompt, "at": at} for at, question in enumerate(questions)]
    trainer = GRPOTrainer(
        model=student.model,
        args=args,
        reward_funcs=[
            _as_trl_reward(name, reward, questions, sampler) for name, reward in rewards.items()
        ],
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
        rollout_func=None if args.use_vllm else cast(Any, TrainerRollouts(sampler)),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _as_trl_reward(
    name: str, reward: BatchReward, questions: Sequence[PromptItem], sampler: Sampler
) -> Any:
    """Make the function that TRL calls; answers are read from their tokens, since TRL's text has
    lost the control tokens."""

    def function(
        completion_ids: list[list[int]],
        at: list[int],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float]:
        pairs = zip(completion_ids, at, strict=True)
        rollouts = [sampler.read_rollout(ids, questions[number]) for ids, number in pairs]
        scores = reward(rollouts)
        log_metric(f"undecided/{name}", sum(score is None for score in scores) / len(scores))
        return fill_undecided(rollouts, scores)

    function.__name__ = name
    return function
