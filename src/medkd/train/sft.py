"""Supervised fine-tuning with TRL and PEFT: load, train, save; resumable after a kill.

In: a job that passed its pre-flight. Out: `adapter/` or `model/`, `checkpoints/`, `metrics.jsonl`,
`report.html`, and the facts of the manifest. Not done here: the pre-flight (`train.preflight`).
"""

import math
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core.errors import InputError, MedkdError, StoppedError, from_os_error, is_disk_full
from medkd.core.records import Example
from medkd.core.stage_output import StageOutput
from medkd.models.chat_template import add_thinking_prefix
from medkd.models.inspect import ModelShape
from medkd.models.load import WHOLE_MODEL, load_weights
from medkd.train.callbacks import (
    Callback,
    SampleWriter,
    StopIfOrphaned,
    write_training_page,
)
from medkd.train.checkpoints import (
    ADAPTER,
    N_KEPT,
    choose_questions,
    find_checkpoint,
    read_step,
    run_trainer,
    save_metadata,
    save_weights,
    trace_lineage,
)
from medkd.train.config import (
    Config,
    ProcessInfo,
    broadcast,
    build_trainer_config,
    choose_training_dtype,
    count_steps,
    explain_refusal,
    make_common_settings,
    read_trainer_keys,
)
from medkd.train.memory import Workload
from medkd.train.preflight import Preflight, compare_packed
from medkd.train.tokenize import TokenizedExample, describe_lengths, tokenize

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

N_SAVES = 4
LOG_INTERVAL = 10
"""Most steps between two lines of metrics."""
N_VAL_ROWS = 64
"""Validation rows whose loss is taken at every save."""
_OWN_KEYS = ("chat_template_path", "skip_prepare_dataset", "padding_free", "max_length")


class Job(NamedTuple):
    """Everything a training is made of before anything is loaded."""

    folder: Path
    shape: ModelShape
    tokenizer: "PreTrainedTokenizerBase"
    examples: list[Example]
    val_examples: list[Example]
    preflight: Preflight
    workload: Workload
    device: str


def train(config: Config, job: Job, process: ProcessInfo, output: StageOutput | None) -> None:
    """Train and save; only the main process has an output, writes and prints."""
    checkpoints = config.out / "checkpoints"
    begins_again = config.overwrite or not process.is_main
    checkpoint = None if begins_again else find_checkpoint(checkpoints)
    if process.n_processes > 1:
        checkpoint = broadcast(checkpoint, job.device)
    step = read_step(checkpoint)

    model = load_student(config, job, process.local_rank)
    packs = choose_packing(config.trainer.get("packing"), job.device)
    if packs and (process.n_processes == 1 or job.device == "cpu"):
        if config.weights != "qlora":
            cast(Any, model).to(job.device)
        findings = compare_packed(model, job.preflight.rows)
        job.preflight.findings.extend(findings)
        packs = not findings
    lengths = _print_rows(job.preflight) if process.is_main else {}
    trainer, n_steps = _assemble(config, job, process, model, packs)
    args = cast("SFTConfig", trainer.args)
    started = time.monotonic()
    metrics = None
    callbacks: list[Callback] = [StopIfOrphaned()] if process.is_launched else []
    if process.is_main and not _is_sharded(args):
        callbacks.append(_make_sampler(config, job, step))
    try:
        metrics = run_trainer(
            trainer, "train", config.out, n_steps, checkpoint, callbacks, process.is_main
        )
        save(trainer, config, job, process)
    except Exception as error:
        is_refused = isinstance(error, ValueError) and trainer.state.global_step <= step
        # What only the optimizer finds wrong, before the first step.
        refusal = explain_refusal(error) if is_refused and config.trainer else None
        raise refusal or explain_failure(error, config.out) from error
    finally:
        if output is not None:
            write_training_page(output.directory, config.model, job.preflight, lengths)
    if output is not None:
        seconds = max(time.monotonic() - started, 1e-9)
        output.manifest.counts.kept = len(job.preflight.rows)
        output.manifest.facts = {
            "lengths": lengths,
            "repairs": job.preflight.repairs,
            "findings": [finding.tell() for finding in job.preflight.findings],
            "resumed_from_step": step,
            "tokens_per_second": round(_count_tokens(trainer, step, lengths["tokens"]) / seconds),
            "expected_s": metrics.expected_s if metrics else None,
            "packed": packs,
            "processes": process.n_processes,
            **_describe_run(config, job.device, trainer),
        }


def _assemble(
    config: Config, job: Job, process: ProcessInfo, model: "PreTrainedModel", packs: bool
) -> "tuple[SFTTrainer, int]":
    """Make the datasets, TRL's config and the trainer; returns it with its number of steps."""
    rows = make_dataset(job.preflight.rows, config.max_length if packs else None)
    val_rows = _tokenize_validation(config, job)
    args = make_trainer_config(
        config, job.device, len(rows), process.n_processes, bool(val_rows), packs
    )
    untrained_ids = job.preflight.untrained_ids
    trainer = make_trainer(
        model,
        job.tokenizer,
        rows,
        make_dataset(val_rows) if val_rows else None,
        args,
        make_lora_config(config.lora_rank, job.shape, untrained_ids)
        if config.method != "full"
        else None,
        config.trainer.get("early_stopping_patience"),
    )
    rows_per_step = args.train_batch_size * args.gradient_accumulation_steps * process.n_processes
    return trainer, count_steps(len(rows), rows_per_step, args.num_train_epochs, args.max_steps)


def load_student(config: Config, job: Job, local_rank: int = 0) -> "PreTrainedModel":
    """Load the weights for training; raises InputError where the method cannot be done here.

    All weights are trained in float32 and multiplied in the chosen format; frozen ones stand in
    that format, or in 4 bits.
    """
    import torch

    dtype = choose_training_dtype(config, job.device)
    options: dict[str, Any] = {
        "trust_remote_code": config.trust_remote_code,
        "dtype": torch.float32 if config.weights == "full" else dtype,
    }
    if job.device == "cuda" and find_spec("flash_attn") and dtype == torch.bfloat16:
        options["attn_implementation"] = "flash_attention_2"
    if config.weights == "qlora":
        options["quantization_config"] = _make_four_bits(job.device, dtype)
        options["device_map"] = {"": local_rank}
    model = load_weights(job.folder, config.model, **options)
    cast(Any, model).config.use_cache = False
    return model


def _make_four_bits(device: str, dtype: "torch.dtype") -> Any:
    if device != "cuda":
        raise InputError(
            "--method qlora: needs a GPU, and torch sees none here; train with --method lora"
        )
    if find_spec("bitsandbytes") is None:
        raise InputError("--method qlora: bitsandbytes is not installed; pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def make_trainer_config(
    config: Config, device: str, n_rows: int, n_processes: int, has_val: bool, packs: bool
) -> "SFTConfig":
    """Make TRL's config: defaults, then the stage's fields, then what `trainer:` says.

    A save falls on a line of metrics: in the middle of one, a resumed run would write the mean of
    other steps there.
    """
    from trl.trainer.sft_config import SFTConfig

    extra = read_trainer_keys(SFTConfig, config.trainer, _OWN_KEYS)
    own: dict[str, Any] = {
        "num_train_epochs": config.epochs,
        "learning_rate": config.peak_learning_rate,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.batch_size,
        "seed": config.seed,
        "padding_free": packs,
        "max_length": None,
    }
    merged = own | extra
    rows_per_step = merged["per_device_train_batch_size"] * n_processes
    rows_per_step *= merged.get("gradient_accumulation_steps", 1)
    epochs, max_steps = merged["num_train_epochs"], merged.get("max_steps", -1)
    n_steps = count_steps(n_rows, rows_per_step, epochs, max_steps)
    logging_steps = extra.get("logging_steps", max(1, min(LOG_INTERVAL, n_steps // 20)))
    quarter = math.ceil(n_steps / N_SAVES) // logging_steps * logging_steps
    save_steps = extra.get("save_steps", max(logging_steps, quarter))
    strategy = extra.get("save_strategy", "steps")
    on_gpu = device == "cuda"
    defaults = make_common_settings(device, choose_training_dtype(config, device)) | {
        "save_strategy": strategy,
        "save_steps": save_steps,
        "save_total_limit": N_KEPT,
        "eval_strategy": strategy if has_val else "no",
        "eval_steps": save_steps,
        "load_best_model_at_end": has_val and strategy != "no",
        "metric_for_best_model": "eval_loss" if has_val else None,
        "logging_steps": logging_steps,
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(5, n_steps // 4),
        "train_sampling_strategy": "group_by_length",
        "use_liger_kernel": on_gpu and find_spec("liger_kernel") is not None,
    }
    return build_trainer_config(SFTConfig, defaults | own, extra, config.out / "checkpoints")


def make_lora_config(
    rank: int, shape: ModelShape, untrained_ids: Sequence[int] = ()
) -> "LoraConfig":
    """Describe the adapter: all linear layers, and the embedding rows that nobody trained before,
    of the head too where it is its own."""
    from peft import LoraConfig

    names = {
        name.removesuffix(".weight").rpartition(".")[2]
        for name in (shape.input_name, shape.output_name)
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


def make_dataset(rows: Sequence[TokenizedExample], pack_length: int | None = None) -> "Dataset":
    """Make a dataset of rows; with a length, whole rows are packed into rows of that length, with
    their bounds kept beside."""
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    dataset = Dataset.from_dict(
        {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    )
    return pack_dataset(dataset, pack_length, "bfd") if pack_length else dataset


def choose_packing(wanted: bool | None, device: str) -> bool:
    """Choose whether rows are packed: by default only where attention knows their bounds for
    nothing (flash-attn on a GPU).

    Elsewhere attention over a packed row costs the square of its length, and batches of like
    lengths hold little padding.
    """
    has_flash_attention = device == "cuda" and find_spec("flash_attn") is not None
    return wanted if wanted is not None else has_flash_attention


def make_trainer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: "Dataset",
    val_rows: "Dataset | None",
    args: "SFTConfig",
    lora: "LoraConfig | None",
    patience: int | None = None,
) -> "SFTTrainer":
    """Make TRL's trainer, with batches of like lengths in an order that a resumed run repeats.

    Without `lora` all weights are trained. Raises InputError where a tracker is not installed.
    """
    from transformers import EarlyStoppingCallback, PrinterCallback
    from trl.trainer.sft_trainer import SFTTrainer

    callbacks: list[Any] = []
    if patience and val_rows is not None:
        callbacks.append(EarlyStoppingCallback(patience))
    try:
        trainer = SFTTrainer(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=val_rows,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=callbacks,
        )
    except (RuntimeError, ImportError) as error:
        if "install" not in str(error):
            raise
        raise InputError(
            "trainer: {}; install it, or correct report_to", str(error).splitlines()[0]
        ) from error
    give_head_bias(trainer.model)
    if args.train_sampling_strategy == "group_by_length":
        batch = args.train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)
        lengths = [len(ids) for ids in cast(Any, trainer.train_dataset)["input_ids"]]
        sampler = LengthGroupedSampler(
            lengths, batch, args.seed, lambda: int(trainer.state.epoch or 0)
        )
        # transformers' own sampler draws another order when a run is resumed.
        _replace_sampler(trainer, sampler)
    trainer.remove_callback(PrinterCallback)
    return trainer


def give_head_bias(model: Any) -> None:
    """Set on the head the attribute `bias`, which TRL's losses read: PEFT's wrapper of a head with
    trained rows has none (PEFT 0.21, TRL 1.16)."""
    head = model.get_output_embeddings()
    if head is not None and not hasattr(head, "bias"):
        head.bias = None


def _replace_sampler(trainer: Any, sampler: "LengthGroupedSampler") -> None:
    def get_train_sampler(_dataset: Any = None) -> LengthGroupedSampler:
        return sampler

    trainer._get_train_sampler = get_train_sampler


class LengthGroupedSampler:
    """Puts rows of like length into the same batch; the order depends on seed and epoch alone, so
    that a resumed run sees the same.

    The epoch is asked for: a loader of several processes that skips what an earlier run did tells
    its sampler no epoch.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, read_epoch: Callable[[], int]
    ) -> None:
        self.lengths, self.batch_size = lengths, batch_size
        self.seed, self.read_epoch = seed, read_epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        chance = random.Random(f"{self.seed}:{self.read_epoch()}")
        order = list(range(len(self.lengths)))
        chance.shuffle(order)
        n_pool = self.batch_size * 16
        batches: list[list[int]] = []
        for start in range(0, len(order), n_pool):
            pool = sorted(order[start : start + n_pool], key=lambda i: self.lengths[i])
            batches += [
                pool[at : at + self.batch_size] for at in range(0, len(pool), self.batch_size)
            ]
        # A short batch must come last: the loader cuts the stream into batches of equal size.
        full = [batch for batch in batches if len(batch) == self.batch_size]
        short = [batch for batch in batches if len(batch) < self.batch_size]
        chance.shuffle(full)
        return iter([index for batch in full + short for index in batch])


def save(trainer: "SFTTrainer", config: Config, job: Job, process: ProcessInfo) -> None:
    """Write the folder that serving and `export` take."""
    final = config.out / (WHOLE_MODEL if config.method == "full" else ADAPTER)
    temporary = save_weights(trainer, final, config.model, process.is_main)
    if process.is_main:
        plain = job.preflight.plain_template
        save_metadata(
            trainer,
            temporary,
            final,
            add_thinking_prefix(plain) if config.target == "reasoned" else plain,
            job.preflight.stop_ids,
            choose_questions(job.examples, job.val_examples),
            trace_lineage(job.examples, config.model, config.target),
        )


def explain_failure(error: Exception, out: Path, limit: str = "--max-length") -> Exception:
    """Turn what can happen in a long training into one line with the next step; a bug stays
    itself."""
    if isinstance(error, MedkdError):
        return error
    if is_disk_full(error):
        return StoppedError(
            "{}: the disk is full; free some space and run the same command again, "
            "the last whole checkpoint is kept",
            out,
        )
    if isinstance(error, OSError):
        return from_os_error(error, out)
    text = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return StoppedError(
            "{}: out of memory; lower --batch-size or {}, or give "
            "--trainer.gradient-checkpointing true, and run again with --resume: the "
            "last checkpoint is kept",
            out,
            limit,
        )
    return error


def read_peak_memory() -> int:
    """Read the most memory this process held, in bytes: of the GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _print_rows(preflight: Preflight) -> dict[str, int]:
    """Print in one line what is trained on, what was dropped and what was repaired; returns the
    lengths."""
    lengths = describe_lengths(preflight.rows)
    dropped = ", ".join(f"{reason} {n}" for reason, n in preflight.dropped.items())
    print(
        f"train: {len(preflight.rows)} rows, {lengths['tokens']} tokens a pass, "
        f"longest {lengths['longest']}"
        + (f"; dropped: {dropped}" if dropped else "")
        + (f"; repaired: {'; '.join(preflight.repairs)}" if preflight.repairs else ""),
        file=sys.stderr,
    )
    return lengths


def _tokenize_validation(config: Config, job: Job) -> list[TokenizedExample]:
    """Tokenize the validation rows; raises InputError where a validation file leaves none."""
    few, preflight = job.val_examples[:N_VAL_ROWS], job.preflight
    rows, dropped = tokenize(
        few,
        job.tokenizer,
        config.target,
        config.max_length,
        preflight.plain_template,
        preflight.end_id,
    )
    if few and not rows:
        reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.items())
        raise InputError(
            "val.jsonl: no row is left to watch ({}); raise --max-length, or take the file away",
            reasons,
        )
    return rows


def _is_sharded(args: "SFTConfig") -> bool:
    distributed: Any = args.distributed_state
    return bool(args.deepspeed_plugin) or str(distributed.distributed_type).endswith("FSDP")


def _make_sampler(config: Config, job: Job, step: int) -> SampleWriter:
    return SampleWriter(
        config.out / "samples.jsonl",
        job.tokenizer,
        job.preflight.plain_template,
        job.val_examples or job.examples,
        step,
    )


def _count_tokens(trainer: "SFTTrainer", resumed_step: int, n_tokens: int) -> float:
    """Count the tokens, padding apart, that this call trained on."""
    epochs = trainer.state.epoch or 0.0
    return n_tokens * epochs * (1 - resumed_step / max(trainer.state.global_step, 1))


def _describe_run(config: Config, device: str, trainer: "SFTTrainer") -> dict[str, Any]:
    return {
        "peak_memory_gib": round(read_peak_memory() / 2**30, 2),
        "dtype": str(choose_training_dtype(config, device)).removeprefix("torch."),
        "device": device,
        "steps": trainer.state.global_step,
        **_read_losses(trainer),
    }


def _read_losses(trainer: "SFTTrainer") -> dict[str, float]:
    """Return the last losses, and the best on validation."""
    losses: dict[str, float] = {}
    for line in cast(list[dict[str, Any]], trainer.state.log_history):
        losses |= {key: float(line[key]) for key in ("loss", "eval_loss") if key in line}
    if (best := trainer.state.best_metric) is None:
        return losses
    best_step = int(trainer.state.best_global_step or 0)
    return losses | {"best_eval_loss": float(best), "best_step": best_step}
