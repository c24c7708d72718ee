"""Supervised fine-tuning with TRL and PEFT: one flat job, resumable after a kill.

In: a model, token rows that passed the pre-flight, settings. Out: a trained adapter in memory, checkpoints and a line of
metrics a logged step on disk. Not done here: making rows (`train.preflight`), the stage's files (`train.stage`).
This module imports torch, transformers, trl and peft: import it inside functions only.
"""

import difflib
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from medkd.core.errors import InputError
from medkd.core.progress import Bar
from medkd.train.preflight import IGNORED, TokenRow

N_SAVES = 4
LOG_INTERVAL = 10
"""Most steps between two lines of metrics."""
OWN_KEYS = ("output_dir", "resume_from_checkpoint", "chat_template_path", "skip_prepare_dataset")
"""What the stage itself decides and `trainer:` may not."""


class LengthGroupedSampler(Sampler[int]):
    """Give rows of like length to the same batch; the order depends on seed and epoch alone, so that a resumed run sees the same."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        chance = random.Random(f"{self.seed}:{self.epoch}")
        order = list(range(len(self.lengths)))
        chance.shuffle(order)
        pool = self.batch_size * 16
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            near = sorted(order[start : start + pool], key=lambda i: self.lengths[i])
            batches += [near[at : at + self.batch_size] for at in range(0, len(near), self.batch_size)]
        # A short batch must come last: the loader cuts the stream into batches of equal size.
        full, short = [b for b in batches if len(b) == self.batch_size], [b for b in batches if len(b) < self.batch_size]
        chance.shuffle(full)
        return iter([index for batch in full + short for index in batch])


class CompletionTrainer(SFTTrainer):
    """TRL's trainer with length-grouped, seeded batches, and a loss that on a processor scores only what is learnt."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = [len(ids) for ids in cast(Any, self.train_dataset)["input_ids"]]
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * max(1, self.args.world_size)
        return LengthGroupedSampler(lengths, batch, self.args.seed)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Give the mean cross entropy of the learnt tokens.

        Without Triton, TRL computes logits for the prompt too, and twice; on a GPU, or for another loss, its own way is taken.
        """
        config = cast(SFTConfig, self.args)
        is_plain = config.loss_type == "nll" and not config.label_smoothing_factor and not return_outputs
        if not is_plain or not config.use_cpu or self.accelerator.num_processes > 1 or "attention_mask" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        is_learnt = labels != IGNORED
        positions = is_learnt.any(dim=0).nonzero()[:, 0]
        output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False, logits_to_keep=positions)
        chosen = is_learnt[:, positions]
        loss = torch.nn.functional.cross_entropy(output.logits[chosen].float(), labels[:, positions][chosen], reduction="sum")
        return loss / (chosen.sum() if num_items_in_batch is None else num_items_in_batch)


class MetricsWriter(TrainerCallback):
    """Write one line of metrics a logged step, and move the bar."""

    def __init__(self, path: Path, bar: Bar, resumed_step: int) -> None:
        self.path, self.bar = path, bar
        kept = [line for line in _read_lines(path) if line["step"] <= resumed_step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._spent = float(kept[-1].get("seconds", 0.0)) if kept else 0.0
        self._started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.advance(state.global_step - self.bar.n_done)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if not logs or not ({"loss", "eval_loss"} & logs.keys()):
            return
        if "loss" in logs:
            self.bar.advance(0, note=f"loss {float(logs['loss']):.3f}")
        line = {"step": state.global_step, "seconds": round(self._spent + time.monotonic() - self._started, 2)}
        line |= {key: float(value) for key, value in logs.items() if isinstance(value, int | float)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def make_trainer_config(
    settings: dict[str, Any], checkpoints: Path, n_rows: int, device: str, dtype: torch.dtype, extra: dict[str, Any]
) -> SFTConfig:
    """Make TRL's config: ours first, then what `trainer:` says; raises InputError for a key that TRL does not know."""
    known = {field.name for field in fields(SFTConfig)}
    for key in extra:
        if key in OWN_KEYS:
            raise InputError(f"trainer: {key} is decided by the stage; take it out of the recipe")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise InputError(f"trainer: unknown key {key!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    merged = {**settings, **extra}
    rows_a_step = int(merged["per_device_train_batch_size"]) * int(merged["gradient_accumulation_steps"])
    n_steps = math.ceil(n_rows / rows_a_step) * math.ceil(float(merged["num_train_epochs"]))
    every = max(1, math.ceil(n_steps / N_SAVES))
    on_gpu = device == "cuda"
    defaults: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "eval_steps": every,
        "logging_steps": max(1, min(LOG_INTERVAL, n_steps // 20)),
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(5, n_steps // 4),
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "group_by_length",
        "gradient_checkpointing": on_gpu,
        "bf16": dtype == torch.bfloat16,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": None,
    }
    try:
        return SFTConfig(**cast(dict[str, Any], {**defaults, **merged, "output_dir": str(checkpoints)}))
    except (ValueError, TypeError) as error:
        raise InputError(f"trainer: {str(error).splitlines()[0]}; correct the recipe") from error


def make_lora_config(rank: int, alpha: int, untrained_ids: Sequence[int]) -> LoraConfig:
    """Describe the adapter: all linear layers, and the embedding rows that nobody trained before."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        trainable_token_indices=list(untrained_ids) or None,
    )


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TokenRow],
    val_rows: Sequence[TokenRow],
    trainer_config: SFTConfig,
    lora: LoraConfig,
    metrics_path: Path,
    checkpoint: Path | None = None,
    resumed_step: int = 0,
) -> SFTTrainer:
    """Tune an adapter on the rows, from the start or from a checkpoint."""
    trainer_config.eval_strategy = cast(Any, "steps" if val_rows else "no")
    trainer = CompletionTrainer(
        model=model,
        args=trainer_config,
        train_dataset=_as_dataset(rows),
        eval_dataset=_as_dataset(val_rows) if val_rows else None,
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.remove_callback(PrinterCallback)
    n_steps = math.ceil(len(rows) / (trainer_config.train_batch_size * trainer_config.gradient_accumulation_steps))
    n_steps = trainer_config.max_steps if trainer_config.max_steps > 0 else math.ceil(n_steps * trainer_config.num_train_epochs)
    with Bar("train", n_steps, "steps") as bar:
        trainer.add_callback(MetricsWriter(metrics_path, bar, resumed_step))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


def _as_dataset(rows: Sequence[TokenRow]) -> Dataset:
    return Dataset.from_dict({"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]})
