"""Supervised fine-tuning with TRL and PEFT: one flat job, resumable after a kill.

In: a model, token rows that passed the pre-flight, settings. Out: a trained adapter or model in
memory, checkpoints on disk.
Not done here: making rows (`train.rows`), what is written while it runs (`train.watch`), the
stage's files (`train.stage`). This module imports torch, transformers, trl and peft: import it
inside functions only.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import Sampler
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
)
from trl.data_utils import pack_dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from medkd.core.errors import InputError
from medkd.models.inspect import ModelShape
from medkd.train.plan import N_KEPT
from medkd.train.rows import IGNORED, TokenRow
from medkd.train.trainer_config import build_config, check_keys

N_SAVES = 4
LOG_INTERVAL = 10
"""Most steps between two lines of metrics."""
OWN_KEYS = ("chat_template_path", "skip_prepare_dataset", "padding_free", "max_length")
"""What this stage decides beside what every one does."""


class LengthGroupedSampler(Sampler[int]):
    """Give rows of like length to the same batch; the order depends on seed and epoch alone, so
    that a resumed run sees the same.

    The epoch is asked for: a loader of several processes that skips what an earlier run did tells
    its sampler no epoch.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, read_epoch: Callable[[], int]
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.read_epoch = (
            lengths,
            batch_size,
            seed,
            read_epoch,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        chance = random.Random(f"{self.seed}:{self.read_epoch()}")
        order = list(range(len(self.lengths)))
        chance.shuffle(order)
        pool = self.batch_size * 16
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            near = sorted(order[start : start + pool], key=lambda i: self.lengths[i])
            batches += [
                near[at : at + self.batch_size] for at in range(0, len(near), self.batch_size)
            ]
        # A short batch must come last: the loader cuts the stream into batches of equal size.
        full, short = (
            [b for b in batches if len(b) == self.batch_size],
            [b for b in batches if len(b) < self.batch_size],
        )
        chance.shuffle(full)
        return iter([index for batch in full + short for index in batch])


class CompletionTrainer(SFTTrainer):
    """TRL's trainer with length-grouped, seeded batches, and a loss that scores only what is learnt
    where TRL's own would not."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = [len(ids) for ids in cast(Any, self.train_dataset)["input_ids"]]
        batch = (
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * max(1, self.args.world_size)
        )
        return LengthGroupedSampler(
            lengths, batch, self.args.seed, lambda: int(self.state.epoch or 0)
        )

    def _has_own_loss(self) -> bool:
        """Tell whether TRL's way is the worse one.

        Without Triton it computes logits for the prompt too, and twice; with trained rows in the
        head it reads the weights past them.
        """
        config = cast(SFTConfig, self.args)
        is_plain = (
            config.loss_type == "nll"
            and not config.label_smoothing_factor
            and not self.aux_loss_enabled
        )
        head = cast(Any, self.accelerator.unwrap_model(self.model)).get_output_embeddings()
        return is_plain and (config.use_cpu or not isinstance(head, torch.nn.Linear))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Give the mean cross entropy of the learnt tokens."""
        if return_outputs or not self._has_own_loss():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        positions = (labels != IGNORED).any(dim=0).nonzero()[:, 0]
        given = {key: value for key, value in inputs.items() if key != "labels"}
        if _is_padded_at_the_end(given):
            del given["attention_mask"]  # nobody looks ahead, and a kernel without a mask is faster
        logits = model(**given, use_cache=False, logits_to_keep=positions).logits.flatten(0, 1)
        learnt = labels[:, positions].flatten()
        chosen = (learnt != IGNORED).nonzero()[
            :, 0
        ]  # by number: the gradient of a choice by mask sorts
        loss = torch.nn.functional.cross_entropy(
            logits.index_select(0, chosen).float(), learnt[chosen], reduction="sum"
        )
        if num_items_in_batch is None:
            return loss / len(chosen)
        # The count is that of all processes, whose gradients are averaged.
        return (
            loss
            / num_items_in_batch
            * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
        )


def _is_padded_at_the_end(inputs: Mapping[str, Any]) -> bool:
    """Tell whether all that a mask hides stands behind a row's tokens, and rows are not packed."""
    mask = inputs.get("attention_mask")
    return (
        mask is not None
        and "position_ids" not in inputs
        and bool((mask[:, 1:] <= mask[:, :-1]).all())
    )


def count_steps(n_rows: int, rows_a_step: int, epochs: float, max_steps: int = -1) -> int:
    """Count the steps of a training.

    >>> count_steps(n_rows=10, rows_a_step=4, epochs=2)
    6
    """
    return max_steps if max_steps > 0 else math.ceil(math.ceil(n_rows / rows_a_step) * epochs)


def count_processes() -> int:
    """Count the processes that train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def count_steps_of(config: SFTConfig, n_rows: int) -> int:
    """Count the steps of a training as TRL's config has it."""
    rows_a_step = config.train_batch_size * config.gradient_accumulation_steps * count_processes()
    return count_steps(n_rows, rows_a_step, config.num_train_epochs, config.max_steps)


def make_trainer_config(
    settings: dict[str, Any],
    checkpoints: Path,
    n_rows: int,
    device: str,
    has_val: bool,
    extra: dict[str, Any],
) -> SFTConfig:
    """Make TRL's config: ours first, then what `trainer:` says; raises InputError for a key that
    TRL does not know."""
    check_keys(SFTConfig, extra, OWN_KEYS)
    merged = {**settings, **extra}
    rows_a_step = (
        int(merged["per_device_train_batch_size"])
        * int(merged.get("gradient_accumulation_steps", 1))
        * count_processes()
    )
    n_steps = count_steps(
        n_rows, rows_a_step, float(merged["num_train_epochs"]), int(merged.get("max_steps", -1))
    )
    logging_steps = int(merged.get("logging_steps", max(1, min(LOG_INTERVAL, n_steps // 20))))
    # A save in the middle of a line of metrics would leave that line, once resumed, the mean of
    # other steps.
    every = merged.get(
        "save_steps",
        max(logging_steps, math.ceil(n_steps / N_SAVES) // logging_steps * logging_steps),
    )
    strategy = merged.get("save_strategy", "steps")
    on_gpu = device == "cuda"
    defaults: dict[str, Any] = {
        "save_strategy": strategy,
        "save_steps": every,
        "save_total_limit": N_KEPT,
        "eval_strategy": strategy if has_val else "no",
        "eval_steps": every,
        "load_best_model_at_end": has_val and strategy != "no",
        "metric_for_best_model": "eval_loss" if has_val else None,
        "logging_steps": logging_steps,
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(5, n_steps // 4),
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "group_by_length",
        "gradient_checkpointing": on_gpu,
        "use_liger_kernel": on_gpu and find_spec("liger_kernel") is not None,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": None,
    }
    return build_config(SFTConfig, {**defaults, **settings}, extra, checkpoints)


def make_lora_config(rank: int, untrained_ids: Sequence[int], skeleton: ModelShape) -> LoraConfig:
    """Describe the adapter: all linear layers, and the embedding rows that nobody trained before,
    of the head too where it is its own."""
    names = {
        name.removesuffix(".weight").rpartition(".")[2]
        for name in (skeleton.input_name, skeleton.output_name)
    }
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        trainable_token_indices={name: list(untrained_ids) for name in names}
        if untrained_ids
        else None,
    )


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: Dataset,
    val_rows: Dataset | None,
    trainer_config: SFTConfig,
    lora: LoraConfig | None,
    patience: int | None = None,
) -> SFTTrainer:
    """Put a trainer together; without `lora` the whole model is trained. Raises InputError where a
    tracker is not installed."""
    stopping: list[Any] = (
        [EarlyStoppingCallback(patience)] if patience and val_rows is not None else []
    )
    try:
        trainer = CompletionTrainer(
            model=model,
            args=trainer_config,
            train_dataset=train_rows,
            eval_dataset=val_rows,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=stopping,
        )
    except (RuntimeError, ImportError) as error:
        if "install" not in str(error):
            raise
        raise InputError(
            f"trainer: {str(error).splitlines()[0]}; install it, or correct report_to"
        ) from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def make_dataset(rows: Sequence[TokenRow], pack_length: int | None = None) -> Dataset:
    """Make a dataset of rows; with a length, whole rows are packed into rows of that length, with
    their bounds kept beside."""
    dataset = Dataset.from_dict(
        {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    )
    return pack_dataset(dataset, pack_length, "bfd") if pack_length else dataset


def choose_packing(wanted: bool | None, device: str) -> bool:
    """Choose whether rows are packed: by default only where attention can be told their bounds for
    nothing (flash-attn on a GPU).

    Elsewhere attention over a packed row costs the square of its length, and batches of like
    lengths hold little padding.
    """
    return (
        wanted if wanted is not None else device == "cuda" and find_spec("flash_attn") is not None
    )
