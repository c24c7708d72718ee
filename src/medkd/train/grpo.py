"""Reinforcement with TRL's GRPO trainer and PEFT: one flat job, resumable after a kill.

In: a model with a trainable adapter (or none), questions, rewards and their weights. Out: the
trained adapter in memory, checkpoints and a line of metrics a logged step on disk. Not done here:
the pre-flight (`train.start`), the stage's files (`train.reinforce`). This module imports torch,
transformers, trl and peft: import it inside functions only.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from medkd.core.errors import InputError
from medkd.core.progress import Bar
from medkd.models.inspect import read_model_shape
from medkd.models.load import check_base, find_base
from medkd.train.rewards import Reward, Rollout
from medkd.train.rollouts import Asked, Sampler, TrainerRollouts
from medkd.train.sft import make_lora_config
from medkd.train.trainer_config import build_config, check_keys
from medkd.train.watch import Interruption, MetricsWriter

N_SAVES = 4
LORA_RANK = 16
"""Of the adapter that is begun where there is none; one that is there keeps its own."""
FINAL_NORM = "model.norm"
"""The layer before the head: one gain a channel, and how sure of itself the model is hangs on them
more than on any other weights."""
OWN_KEYS = ("reward_weights", "num_generations", "max_completion_length", "max_steps")


def attach_adapter(
    model: PreTrainedModel, adapter: Path | None, name: str, folder: Path
) -> PreTrainedModel:
    """Put a trainable adapter on the model: the one that `train` made, or a new one.

    Raises InputError for an adapter of another base.
    """
    from safetensors import SafetensorError

    if adapter is None:
        return cast(
            PreTrainedModel,
            get_peft_model(model, make_lora_config(LORA_RANK, [], read_model_shape(folder))),
        )
    check_base(adapter, name)
    try:
        return cast(
            PreTrainedModel, PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
        )
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"{adapter}: does not fit {name}; give the model it was trained on ({find_base(adapter) or 'unknown'})"
        ) from error


def attach_norm(
    model: PreTrainedModel, adapter: Path | None, name: str, folder: Path
) -> PreTrainedModel:
    """Put an adapter on the model of which nothing is trained but the gains of the final norm; what
    `train` made stays as it is.

    A group of answers tells a few bits, and the gradient of all the weights of an adapter is mostly
    noise; these few hundred numbers are pushed the same way by most answers. Raises InputError for
    an adapter of another base, and for a model without such a norm.
    """
    if FINAL_NORM not in dict(model.named_modules()):
        raise InputError(
            f"{name}: has no layer named {FINAL_NORM}; reinforce with --weights adapter"
        )
    lora: Any = attach_adapter(model, adapter, name, folder)
    config = lora.peft_config["default"]
    known = get_peft_model_state_dict(lora, save_embedding_layers=False)
    bare = lora.unload()
    config.base_model_name_or_path = (
        None  # PEFT warns of another name for the same folder; `save_weights` writes it
    )
    config.modules_to_save, config.inference_mode = (
        sorted({*(config.modules_to_save or ()), FINAL_NORM}),
        False,
    )
    attached = get_peft_model(bare, config)
    norm = f"base_model.model.{FINAL_NORM}.weight"
    set_peft_model_state_dict(
        attached, {norm: bare.get_submodule(FINAL_NORM).original_module.weight} | known
    )
    for parameter, weights in attached.named_parameters():
        weights.requires_grad_(f"{FINAL_NORM}.modules_to_save" in parameter)
    return attached


def make_trainer_config(
    settings: Mapping[str, Any],
    checkpoints: Path,
    device: str,
    dtype: torch.dtype,
    extra: Mapping[str, Any],
) -> GRPOConfig:
    """Make TRL's config: ours first, then what `trainer:` says; raises InputError for a key that
    TRL does not know."""
    check_keys(GRPOConfig, extra, OWN_KEYS)
    on_gpu = device == "cuda"
    n_steps = int(settings["max_steps"])
    defaults: dict[str, Any] = {
        "beta": 0.01,
        "scale_rewards": "batch",  # by the group, one where all are right and lengths differ a little would count as much as any
        "mask_truncated_completions": True,
        "save_strategy": "steps",
        "save_steps": max(1, -(-n_steps // N_SAVES)),
        "save_total_limit": 2,
        "logging_steps": 1,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": min(5, n_steps // 4),
        "max_grad_norm": 1.0,
        "gradient_checkpointing": on_gpu,
        "bf16": dtype == torch.bfloat16,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "report_to": "none",
        "disable_tqdm": True,
    }
    if not extra.get("use_vllm"):  # `TrainerRollouts` masks what the limit cut off, and only that
        defaults["mask_truncated_completions"] = False
    return build_config(GRPOConfig, {**defaults, **settings}, extra, checkpoints)


class AnswerTrainer(GRPOTrainer):
    """GRPO that projects the answers alone onto the vocabulary where there is no GPU.

    There, TRL 1.16 projects every position, prompts and padding too: most of the time of a step of
    a small model. A large one belongs on a GPU, where TRL's own way keeps memory low.
    """

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *rest: Any,
        **more: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Give the log-probability of each completion token and the entropy at it, both (rows,
        `logits_to_keep`)."""
        score = (
            _score_answers if self.args.use_cpu else GRPOTrainer._get_per_token_logps_and_entropies
        )
        return score(self, model, input_ids, attention_mask, logits_to_keep, *rest, **more)


def _score_answers(
    trainer: GRPOTrainer,
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    logits_to_keep: int,
    batch_size: int | None = None,
    compute_entropy: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    chosen: list[torch.Tensor] = []
    entropies: list[torch.Tensor] = []
    size = batch_size or len(input_ids)
    for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True):
        with trainer.accelerator.autocast():
            logits = model(
                input_ids=ids, attention_mask=mask, logits_to_keep=logits_to_keep + 1
            ).logits[:, :-1]
        logps = (logits.float() / trainer.temperature).log_softmax(-1)
        chosen.append(logps.gather(-1, ids[:, -logits_to_keep:, None])[..., 0])
        if compute_entropy:
            entropies.append(-(logps.detach().exp() * logps.detach()).sum(-1))
    return torch.cat(chosen), torch.cat(entropies) if compute_entropy else None, None


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Asked],
    rewards: Mapping[str, Callable[[Sequence[Rollout]], list[float]]],
    sampler: Sampler,
    trainer_config: GRPOConfig,
) -> GRPOTrainer:
    """Make the trainer of an adapter; `rewards` score all answers of a step at once."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    return AnswerTrainer(
        model=model,
        args=trainer_config,
        reward_funcs=[
            _as_reward_function(name, reward, sampler) for name, reward in rewards.items()
        ],
        train_dataset=Dataset.from_list(
            [{"prompt": q.prompt, "record": q.record, "reference": q.reference} for q in questions]
        ),
        processing_class=tokenizer,
        rollout_func=None if trainer_config.use_vllm else cast(Any, TrainerRollouts(sampler)),
    )


def reinforce(
    trainer: GRPOTrainer,
    metrics_path: Path,
    callbacks: Sequence[TrainerCallback] = (),
    checkpoint: Path | None = None,
    resumed_step: int = 0,
) -> None:
    """Reinforce an adapter, from its start or from a checkpoint; an interruption ends the step and
    keeps a checkpoint first."""
    trainer.remove_callback(PrinterCallback)
    with (
        Bar("reinforce", trainer.args.max_steps, "steps") as bar,
        Interruption("reinforce") as interruption,
    ):
        for callback in (MetricsWriter(metrics_path, bar, resumed_step), *callbacks, interruption):
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if interruption.is_wanted:
            raise KeyboardInterrupt


def score_each(reward: Reward) -> Callable[[Sequence[Rollout]], list[float]]:
    """Make a reward of one answer a reward of many."""
    return lambda rollouts: [reward(rollout) for rollout in rollouts]


def _as_reward_function(
    name: str, reward: Callable[[Sequence[Rollout]], list[float]], sampler: Sampler
) -> Any:
    """Give a reward the form that TRL calls; answers are read from their tokens, since TRL's text
    has lost the control tokens."""

    def function(
        completion_ids: list[list[int]], record: list[str], reference: list[str], **_: Any
    ) -> list[float]:
        rows = zip(completion_ids, record, reference, strict=True)
        return reward([sampler.read_rollout(ids, text, known) for ids, text, known in rows])

    function.__name__ = name
    return function
