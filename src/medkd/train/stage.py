"""The stage `train`: a student learns from its teacher's reasoning, or from bare answers.

In: `train.jsonl` of `merge` (and `val.jsonl` beside it). Out: `adapter/` or `model/` with all that
serving takes, `checkpoints/`, `metrics.jsonl`, `samples.jsonl`, `report.html`. Not done here: the
other methods (`train.preferences`, `train.onpolicy`), reinforcement, merging an adapter.
"""

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core.errors import InputError, Said
from medkd.core.i18n import tell
from medkd.core.records import Example
from medkd.core.stage_output import Manifest, StageOutput
from medkd.models.chat_template import add_thinking_prefix
from medkd.models.inspect import ModelShape, read_model_shape
from medkd.models.load import (
    choose_device,
    load_libraries,
    load_tokenizer,
    load_weights,
)
from medkd.report.run import write_training_page
from medkd.train.config import (
    Config,
    ProcessInfo,
    build_trainer_config,
    check_method,
    choose_training_dtype,
    give_head_bias,
    is_checkpointed,
    make_lora_config,
    read_process_info,
    read_trainer_value,
)
from medkd.train.onpolicy import distil_on_policy
from medkd.train.preferences import train_on_preferences
from medkd.train.preflight import (
    Cause,
    Finding,
    Preflight,
    TokenizedExample,
    Workload,
    describe_lengths,
    estimate_disk,
    examine,
    find_too_little_disk,
    find_too_little_memory,
    measure_machine,
    refuse,
    tokenize,
)
from medkd.train.student import (
    Student,
    find_inputs,
    open_training,
    read_examples,
    trace_lineage,
    train_student,
)

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

N_VAL_ROWS = 64
"""Validation rows whose loss is taken at every save."""
N_COMPARED = 3
"""Rows whose packed loss is compared."""
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


def run(config: Config) -> Manifest:
    """Train as configured; goes on from the newest whole checkpoint of a run that was killed."""
    check_method(config)
    if config.method == "on-policy":
        return distil_on_policy(config)
    if config.method in ("dpo", "kto"):
        return train_on_preferences(config)
    train_path, val_path = find_inputs(config.input)
    inputs = {"input": train_path, "validation": val_path}
    with open_training("train", config, inputs, "--max-length") as output:
        if output.is_finished:
            return output.manifest
        job = prepare(config, output)
        refuse(job.preflight.findings, config.model)
        output.drop_all(job.preflight.dropped)
        output.manifest.counts.kept = len(job.preflight.rows)
        findings = [finding.tell() for finding in job.preflight.findings]
        output.manifest.facts = {"findings": findings}
        try:
            output.manifest.facts = train(config, job, read_process_info())
        finally:
            lengths = {"rows": [len(row.input_ids) for row in job.preflight.rows]}
            write_training_page(output.directory, output.manifest, lengths)
        return output.manifest


def prepare(config: Config, output: StageOutput | None = None) -> Job:
    """Read rows, tokenizer and the model's shape, and find whatever is wrong; nothing is loaded
    yet."""
    load_libraries()
    process = read_process_info()
    device = choose_device(config.device)
    train_path, val_path = find_inputs(config.input)
    folder = config.resolve_model()
    examples, val_examples = read_examples(train_path, output), read_examples(val_path)
    shape = read_model_shape(folder)
    tokenizer = load_tokenizer(folder)
    is_full = config.method == "full"
    preflight = examine(
        folder, shape, examples, tokenizer, config.target, config.max_length, is_full
    )
    machine = measure_machine(device)
    if machine.n_devices > 1 and not process.is_launched:
        said = "train: 1 of {} GPUs is used; docs/en/train.md says how all are"
        tell(said, machine.n_devices, to=sys.stderr)
    longest = max((len(row.input_ids) for row in preflight.rows), default=config.max_length)
    workload = make_workload(config, device, longest, process.n_processes)
    disk = estimate_disk(shape, config.weights, config.lora_rank)
    if preflight.rows:  # or how long they are is not known
        preflight.findings.extend(find_too_little_memory(shape, config.weights, workload, machine))
    preflight.findings.extend(find_too_little_disk(disk, config.out))
    return Job(folder, shape, tokenizer, examples, val_examples, preflight, workload, device)


def make_workload(config: Config, device: str, longest: int, n_devices: int) -> Workload:
    """Describe what memory depends on beside the model."""
    return Workload(
        rank=config.lora_rank,
        n_tokens=config.batch_size * min(longest, config.max_length),
        weight_bytes=choose_training_dtype(config, device).itemsize,
        is_checkpointed=is_checkpointed(config, device),
        on_gpu=device == "cuda",
        n_devices=n_devices,
    )


def train(config: Config, job: Job, process: ProcessInfo) -> dict[str, Any]:
    """Train and save, and return the facts of the manifest; the main process alone writes and
    prints.

    TRL's config is made first: under ZeRO-3 it decides how the weights are loaded.
    """
    preflight = job.preflight
    val_rows = _tokenize_validation(config, job)
    packs = choose_packing(read_trainer_value(config, "packing", bool), job.device)
    rows = make_dataset(preflight.rows, config.max_length if packs else None)
    has_val = bool(val_rows)
    args = make_trainer_config(config, job.device, len(rows), has_val, packs)
    model = load_student(config, job, process.local_rank)
    if packs and not _is_packable(config, job, process, model):
        rows = make_dataset(preflight.rows)
        args = make_trainer_config(config, job.device, len(rows), has_val, packs=False)
    lora = None
    if config.method != "full":
        lora = make_lora_config(config.lora_rank, job.shape, preflight.untrained_ids)
    patience = read_trainer_value(config, "early_stopping_patience", int)
    shown = make_dataset(val_rows) if val_rows else None
    trainer = make_trainer(model, job.tokenizer, rows, shown, args, lora, patience)
    if process.is_main:
        _print_rows(preflight)
    started = time.monotonic()
    plain = preflight.plain_template
    template = add_thinking_prefix(plain) if config.target == "reasoned" else plain
    student = Student(config.model, None, model, job.tokenizer, template, plain, preflight.stop_ids)
    lineage = trace_lineage(job.examples, config.model, config.target)
    facts = train_student(
        trainer, config, "train", student, job.examples, job.val_examples, lineage=lineage
    )
    lengths = describe_lengths(preflight.rows)
    n_tokens = lengths["tokens"] * (trainer.state.epoch or 0.0)
    n_tokens *= 1 - facts["resumed_from_step"] / max(trainer.state.global_step, 1)
    return facts | {
        "lengths": lengths,
        "repairs": preflight.repairs,
        "findings": [finding.tell() for finding in preflight.findings],
        "tokens_per_second": round(n_tokens / max(time.monotonic() - started, 1e-9)),
        "packed": args.padding_free,
        "processes": process.n_processes,
        "dtype": str(choose_training_dtype(config, job.device)).removeprefix("torch."),
        **_read_losses(trainer),
    }


def load_student(config: Config, job: Job, local_rank: int = 0) -> "PreTrainedModel":
    """Load the weights for training; raises InputError where the method cannot be done here.

    All weights are trained in float32 and multiplied in the chosen format; frozen ones stand in
    that format, or in 4 bits.
    """
    import torch

    dtype = choose_training_dtype(config, job.device)
    options: dict[str, Any] = {
        "dtype": torch.float32 if config.weights == "full" else dtype,
    }
    if job.device == "cuda" and find_spec("flash_attn") and dtype == torch.bfloat16:
        options["attn_implementation"] = "flash_attention_2"
    if config.weights == "qlora":
        options["quantization_config"] = make_four_bits(job.device, dtype)
        options["device_map"] = {"": local_rank}
    model = load_weights(job.folder, config.model, **options)
    cast(Any, model).config.use_cache = False
    return model


def make_four_bits(device: str, dtype: "torch.dtype") -> Any:
    """Describe the base in 4 bits; it is stored in the format of the other weights, or FSDP could
    not shard it with them."""
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
        bnb_4bit_quant_storage=dtype,
    )


def make_trainer_config(
    config: Config, device: str, n_rows: int, has_val: bool, packs: bool
) -> "SFTConfig":
    """Make TRL's config of what all methods share, the stage's fields, and what `trainer:` says."""
    from trl.trainer.sft_config import SFTConfig

    strategy = config.trainer.get("save_strategy", "steps")
    settings = {
        "num_train_epochs": config.epochs,
        "learning_rate": config.learning_rate or (1e-5 if config.method == "full" else 2e-4),
        "per_device_eval_batch_size": config.batch_size,
        "padding_free": packs,
        "max_length": None,
        "eval_strategy": strategy if has_val else "no",
        "load_best_model_at_end": has_val and strategy != "no",
        "metric_for_best_model": "eval_loss" if has_val else None,
        "train_sampling_strategy": "group_by_length",
    }
    return build_trainer_config(SFTConfig, config, device, n_rows, settings, _OWN_KEYS)


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


def _is_packable(config: Config, job: Job, process: ProcessInfo, model: "PreTrainedModel") -> bool:
    """Tell whether packed rows have the loss they have alone; on several GPUs it is not tried, the
    weights may be sharded."""
    if process.n_processes > 1 and job.device != "cpu":
        return True
    if config.weights != "qlora":
        cast(Any, model).to(job.device)
    findings = compare_packed(model, job.preflight.rows)
    job.preflight.findings.extend(findings)
    return not findings


def compare_packed(model: "PreTrainedModel", rows: Sequence[TokenizedExample]) -> list[Finding]:
    """Compare the loss of a few rows alone with that of the same rows packed into one; they must
    not see each other."""
    import torch

    few = sorted(rows, key=lambda row: len(row.input_ids))[:N_COMPARED]
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        alone = sum(_sum_loss(model, [row]) for row in few)
        packed = _sum_loss(model, few)
    model.train(was_training)
    tolerance = 0.02 if model.dtype == torch.bfloat16 else 1e-3
    if abs(packed - alone) <= tolerance * max(alone, 1.0):
        return []
    told = "{} rows have the loss {:.3f} alone and {:.3f} packed: they see each other"
    says = Said(told, len(few), alone, packed)
    fix = "train packs nothing; install flash-attn, or leave packing off"
    return [Finding(Cause.PACKED_OTHERWISE, says, fix)]


def _sum_loss(model: "PreTrainedModel", rows: Sequence[TokenizedExample]) -> float:
    """Sum the loss over the learnt tokens of rows packed into one."""
    import torch

    def place(numbers: list[int]) -> torch.Tensor:
        return torch.tensor([numbers], device=model.device)

    ids = place([token for row in rows for token in row.input_ids])
    positions = place([position for row in rows for position in range(len(row.input_ids))])
    labels = place([label for row in rows for label in row.labels])
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    return float(
        torch.nn.functional.cross_entropy(logits[0, :-1].float(), labels[0, 1:], reduction="sum")
    )


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
            "trainer: {}; install it, or correct report_to",
            str(error).splitlines()[0],
        ) from error
    give_head_bias(trainer.model)
    if args.train_sampling_strategy == "group_by_length":
        batch = args.train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)
        lengths = [len(ids) for ids in cast(Any, trainer.train_dataset)["input_ids"]]
        sampler = LengthGroupedSampler(
            lengths, batch, args.seed, lambda: int(trainer.state.epoch or 0)
        )

        def get_train_sampler(*_: Any) -> LengthGroupedSampler:
            return sampler

        # transformers' own sampler draws another order when a run is resumed.
        cast(Any, trainer)._get_train_sampler = get_train_sampler
    trainer.remove_callback(PrinterCallback)
    return trainer


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


def _print_rows(preflight: Preflight) -> None:
    """Print in one line what is trained on, what was dropped and what was repaired."""
    lengths = describe_lengths(preflight.rows)
    dropped = ", ".join(f"{reason} {n}" for reason, n in preflight.dropped.items())
    tell(
        "train: {} rows, {} tokens a pass, longest {}{}{}",
        len(preflight.rows),
        lengths["tokens"],
        lengths["longest"],
        Said("; dropped: {}", dropped) if dropped else "",
        Said("; repaired: {}", "; ".join(preflight.repairs)) if preflight.repairs else "",
        to=sys.stderr,
    )


def _tokenize_validation(config: Config, job: Job) -> list[TokenizedExample]:
    """Tokenize the validation rows; raises InputError where a validation file leaves none."""
    few, preflight = job.val_examples[:N_VAL_ROWS], job.preflight
    template, end_id = preflight.plain_template, preflight.end_id
    rows, dropped = tokenize(few, job.tokenizer, config.target, config.max_length, template, end_id)
    if few and not rows:
        reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.items())
        raise InputError(
            "val.jsonl: no row is left to watch ({}); raise --max-length, or take the file away",
            reasons,
        )
    return rows


def _read_losses(trainer: "SFTTrainer") -> dict[str, float]:
    """Return the last losses, and the best on validation."""
    losses: dict[str, float] = {}
    for line in cast(list[dict[str, Any]], trainer.state.log_history):
        losses |= {key: float(line[key]) for key in ("loss", "eval_loss") if key in line}
    if (best := trainer.state.best_metric) is None:
        return losses
    best_step = int(trainer.state.best_global_step or 0)
    return losses | {"best_eval_loss": float(best), "best_step": best_step}
