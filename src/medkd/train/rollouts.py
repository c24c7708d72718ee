"""Sampled answers of the model that is being trained: for the trainer, for the pre-flight, for the
watch.

In: questions and the model as it stands. Out: several sampled answers to each, their very tokens
kept. Not done here: rewards. On a GPU with vLLM (`trainer: {use_vllm: true}`) TRL draws the
trainer's answers itself; here they come from `completers.transformers_engine`, whose batches are many times
faster on a processor than the ones of TRL.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.completers.transformers_engine import Generation, TransformersEngine
from medkd.core.completer import Sampling
from medkd.core.records import Example, FinishReason
from medkd.grading.repetition import is_looping
from medkd.models.chat_template import encode, make_messages, render
from medkd.models.load import LoadedModel
from medkd.train.rewards import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl.trainer.grpo_trainer import GRPOTrainer

N_AT_ONCE = 64
"""Answers drawn at once; halved where memory runs out."""


class Asked(NamedTuple):
    """A question as the model is given it, under its plain template: it has to begin to think by
    itself."""

    id: str
    prompt: str
    record: str
    reference: str


class Sampler:
    """Draws answers of a model that changes under it."""

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", sampling: Sampling
    ) -> None:
        self.sampling = sampling
        self.local = TransformersEngine(LoadedModel(model, tokenizer), N_AT_ONCE, is_looping)

    def draw(
        self, prompts: Sequence[str], samples: Sequence[int], model: "PreTrainedModel | None" = None
    ) -> list[Generation]:
        """Draw one answer to each prompt, in their order; `samples` tells equal prompts apart.

        Where memory runs out, fewer are drawn at once (`completers.transformers_engine` says so), which changes
        none of them: a smaller group would change what is learnt.
        """
        self.local.model = model or self.local.model
        with _without_training(self.local.model):
            drawn = dict(self.local.generate(prompts, self.sampling, samples))
        return [drawn[at] for at in range(len(prompts))]

    def draw_rollouts(
        self, questions: Sequence[Asked], n_each: int, first_sample: int = 0
    ) -> list[list[Rollout]]:
        """Draw several answers to each question."""
        prompts = [question.prompt for question in questions for _ in range(n_each)]
        samples = [first_sample + number for _ in questions for number in range(n_each)]
        drawn = iter(self.draw(prompts, samples))
        return [
            [self.read_rollout(next(drawn).ids, q.record, q.reference) for _ in range(n_each)]
            for q in questions
        ]

    def read_rollout(self, ids: Sequence[int], record: str, reference: str) -> Rollout:
        """Read an answer back from its tokens: what was stopped without an end is a loop, or else
        was cut off."""
        is_ended = bool(ids) and ids[-1] in self.local.stop_ids
        text = cast(
            str,
            self.local.tokenizer.decode(
                list(ids[:-1] if is_ended else ids), skip_special_tokens=False
            ),
        )
        reason = (
            FinishReason.STOP
            if is_ended
            else FinishReason.LOOP
            if is_looping(text)
            else FinishReason.LENGTH
        )
        return Rollout(text, reason, len(ids), record, reference)


def ask(
    tokenizer: "PreTrainedTokenizerBase", examples: Sequence[Example], plain_template: str
) -> list[Asked]:
    """Put examples into the plain template."""
    return [
        Asked(
            e.id,
            render(tokenizer, make_messages(e.input, e.instruction, e.system), plain_template),
            e.input,
            e.reference,
        )
        for e in examples
    ]


class TrainerRollouts:
    """What TRL calls for the answers of a step (its `rollout_func`).

    An answer that the limit cut off is masked out of the loss: it was not finished, and nobody
    knows how it would have ended. One that was stopped because it repeats itself is not: that is
    what it is to be paid less for.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __call__(self, prompts: list[str], trainer: "GRPOTrainer") -> dict[str, Any]:
        from trl.models.utils import unwrap_model_for_generation

        rank = trainer.accelerator.process_index
        first = (trainer.state.global_step * trainer.accelerator.num_processes + rank) * len(
            prompts
        )
        with unwrap_model_for_generation(
            cast(Any, trainer.model_wrapped), trainer.accelerator
        ) as model:
            drawn = self.sampler.draw(
                prompts, [first + number for number in range(len(prompts))], cast(Any, model)
            )
        return {
            "prompt_ids": [encode(self.sampler.local.tokenizer, prompt) for prompt in prompts],
            "completion_ids": [generation.ids for generation in drawn],
            "logprobs": None,
            "env_mask": [
                [int(not self.is_cut_off(generation))] * generation.n_tokens for generation in drawn
            ],
        }

    def is_cut_off(self, generation: Generation) -> bool:
        return (
            self.sampler.read_rollout(generation.ids, "", "").finish_reason == FinishReason.LENGTH
        )


@contextmanager
def _without_training(model: "PreTrainedModel") -> Generator[None]:
    """Switch a model to evaluation for a while: in training, gradient checkpointing forbids the
    cache."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
