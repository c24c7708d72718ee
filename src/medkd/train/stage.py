"""The stage `train`: a student learns from its teacher's reasoning, or from bare answers for comparison.

In: `train.jsonl` of `merge` (and `val.jsonl` beside it). Out: `adapter/` (weights, tokenizer, template, stop tokens, unseen
questions, lineage), `checkpoints/`, `metrics.jsonl`. Not done here: merging the adapter (`export`), reinforcement.
"""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from medkd.core.artifacts import RecordReader, resolve_input, write_json
from medkd.core.errors import StoppedError, from_os_error
from medkd.core.recipe import HOW, StageConfig
from medkd.core.records import Example
from medkd.core.workspace import Manifest, Workspace, open_workspace
from medkd.models.load import Device, Dtype, Hub, LoadedModel, choose_device, load_model, resolve_model
from medkd.models.tokens import add_thinking_prefix, find_stop_ids
from medkd.train.preflight import Preflight, Target, describe_lengths, find_untrained_ids, make_rows, prepare

if TYPE_CHECKING:
    from trl.trainer.sft_trainer import SFTTrainer

ADAPTER = "adapter"
N_QUESTIONS = 20
"""Unseen questions kept beside the adapter, for `export` to prove the model on."""
N_VAL_ROWS = 64
"""Validation rows looked at for the loss at every save."""


class Config(StageConfig):
    """Tune a LoRA adapter on `train.jsonl`."""

    model: str
    """Base model: medkd:tiny, a folder, or a name on a hub."""
    input: Annotated[Path, HOW]
    """Directory of `merge`, or a file of examples; `val.jsonl` beside it is watched, never trained on."""
    hub: Annotated[Hub, HOW] = "huggingface"
    """Where a model that is only named is fetched from."""
    target: Target = "reasoned"
    """Learn reasoning and answer, or bare answers for comparison."""
    max_length: int = Field(default=4096, ge=16)
    """Longest row in tokens; longer ones are dropped and counted, never trimmed."""
    epochs: float = Field(default=2, gt=0)
    """Times through the rows."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak; falls along a cosine."""
    batch_size: int = Field(default=8, ge=1)
    """Rows a step and device."""
    accumulation: int = Field(default=1, ge=1)
    """Batches added up before a step."""
    lora_rank: int = Field(default=16, ge=1)
    """Rank of the adapter, on all linear layers."""
    lora_alpha: int = Field(default=32, ge=1)
    """Scale of the adapter; twice the rank is usual."""
    seed: int = 0
    """Decides the order of rows and the adapter's first weights."""
    dtype: Dtype = "auto"
    """Number format; auto takes bfloat16 where the processor computes in it."""
    device: Annotated[Device, HOW] = "auto"
    """Where to compute."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Anything else that TRL's SFTConfig knows, passed straight to it."""


def run(config: Config) -> Manifest:
    """Train as configured; goes on from the newest whole checkpoint of a run that was killed."""
    train_path = resolve_input(config.input, "train.jsonl", made_by="merge")
    val_path = train_path.with_name("val.jsonl")
    folder = resolve_model(config.model, config.hub)
    has_val = val_path != train_path and val_path.exists() and val_path.stat().st_size > 0
    inputs = [train_path, *([val_path] if has_val else []), *([folder] if Path(config.model).is_dir() else [])]
    libraries = ["torch", "transformers", "trl", "peft", "accelerate"]
    with open_workspace("train", config, inputs=inputs, libraries=libraries) as space:
        if space.is_finished:
            return space.manifest
        examples = _read(train_path, space)
        val_examples = _read(val_path, None) if has_val else []
        _train(config, space, examples, val_examples)
        return space.manifest


def _read(path: Path, space: Workspace | None) -> list[Example]:
    reader = RecordReader(path, Example, made_by="merge")
    examples = list(reader)
    if space is not None:
        space.read(reader.n_read)
        space.drop_all(reader.dropped())
    return examples


def _train(config: Config, space: Workspace, examples: Sequence[Example], val_examples: Sequence[Example]) -> None:
    from medkd.train.checkpoints import find_checkpoint, read_step
    from medkd.train.sft import make_lora_config, make_trainer_config, train

    loaded = load_model(config.model, device=config.device, dtype=config.dtype, hub=config.hub)
    flight = prepare(examples, loaded.tokenizer, config.target, config.max_length)
    space.drop_all(flight.dropped)
    val_rows, _ = make_rows(
        val_examples[:N_VAL_ROWS], loaded.tokenizer, config.target, config.max_length, flight.plain_template, flight.end_id
    )
    stop_ids = find_stop_ids(loaded.tokenizer, loaded.model.generation_config)
    special_ids = sorted(loaded.tokenizer.added_tokens_decoder)
    untrained = find_untrained_ids(loaded.model, flight.rows, special_ids)
    repairs = flight.repairs + _repair_stops(loaded, stop_ids)
    if untrained:
        names = " ".join(str(name) for name in cast(list[str], loaded.tokenizer.convert_ids_to_tokens(untrained)))
        repairs.append(f"untrained embedding rows are trained too: {names}")
    lengths = describe_lengths(flight.rows)
    _say_what_is_trained(flight, lengths, repairs)

    checkpoints = space.path("checkpoints")
    checkpoint = find_checkpoint(checkpoints)
    settings: dict[str, Any] = {
        "num_train_epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "seed": config.seed,
    }
    device = choose_device(config.device)
    trainer_config = make_trainer_config(settings, checkpoints, len(flight.rows), device, loaded.model.dtype, config.trainer)
    lora = make_lora_config(config.lora_rank, config.lora_alpha, untrained)
    step = read_step(checkpoint) if checkpoint else 0
    started = time.monotonic()
    try:
        trainer = train(
            loaded.model, loaded.tokenizer, flight.rows, val_rows, trainer_config, lora, space.path("metrics.jsonl"), checkpoint, step
        )
        _save_adapter(trainer, config, space, flight, stop_ids, examples, val_examples)
    except OSError as error:
        raise from_os_error(error, space.directory) from error
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error):
            raise
        raise StoppedError(
            f"{space.directory}: out of memory; lower batch_size or max_length and run again, the last checkpoint is kept"
        ) from error
    space.manifest.counts.kept = len(flight.rows)
    space.manifest.facts = {
        "lengths": lengths,
        "repairs": repairs,
        "resumed_from_step": step,
        "tokens_per_second": round(_count_tokens(trainer, step, lengths["tokens"]) / max(time.monotonic() - started, 1e-9)),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": device,
        "steps": trainer.state.global_step,
        **_last_losses(trainer),
    }


def _repair_stops(loaded: LoadedModel, stop_ids: list[int]) -> list[str]:
    configured = cast(Any, loaded.model.generation_config).eos_token_id
    before = [configured] if isinstance(configured, int) else list(configured or [])
    missing = [stop for stop in stop_ids if stop not in before]
    if not missing:
        return []
    names = " ".join(str(name) for name in cast(list[str], loaded.tokenizer.convert_ids_to_tokens(missing)))
    return [f"generation config did not stop on {names}"]


def _say_what_is_trained(flight: Preflight, lengths: dict[str, int], repairs: list[str]) -> None:
    dropped = ", ".join(f"{reason} {n}" for reason, n in flight.dropped.items())
    repaired = f"; repaired: {'; '.join(repairs)}" if repairs else ""
    print(
        f"train: {len(flight.rows)} rows, {lengths['tokens']} tokens a pass, longest {lengths['longest']}"
        f"{f'; dropped: {dropped}' if dropped else ''}{repaired}",
        file=sys.stderr,
    )


def _count_tokens(trainer: "SFTTrainer", resumed_step: int, n_tokens: int) -> float:
    """Count the tokens, padding apart, that this process trained on."""
    done = trainer.state.epoch or 0.0
    share = 1 - resumed_step / max(trainer.state.global_step, 1)
    return n_tokens * done * share


def _last_losses(trainer: "SFTTrainer") -> dict[str, float]:
    last: dict[str, float] = {}
    for line in trainer.state.log_history:
        last |= {key: float(line[key]) for key in ("loss", "eval_loss") if key in line}
    return last


def _save_adapter(
    trainer: "SFTTrainer",
    config: Config,
    space: Workspace,
    flight: Preflight,
    stop_ids: list[int],
    examples: Sequence[Example],
    val_examples: Sequence[Example],
) -> None:
    """Write everything that serving the adapter takes, whole or not at all."""
    model, tokenizer = cast(Any, trainer.model), cast(Any, trainer.processing_class)
    temporary, final = space.path(f".{ADAPTER}.tmp"), space.path(ADAPTER)
    shutil.rmtree(temporary, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = config.model
    model.save_pretrained(str(temporary), safe_serialization=True)
    (temporary / "README.md").unlink(missing_ok=True)
    tokenizer.chat_template = add_thinking_prefix(flight.plain_template) if config.target == "reasoned" else flight.plain_template
    tokenizer.save_pretrained(str(temporary))
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = stop_ids, tokenizer.pad_token_id
    generation.save_pretrained(str(temporary))
    write_json(temporary / "questions.json", choose_questions(examples, val_examples))
    write_json(temporary / "lineage.json", trace_lineage(examples, config))
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)


def choose_questions(examples: Sequence[Example], val_examples: Sequence[Example]) -> dict[str, Any]:
    """Choose bare questions to prove the model on: from rows it never saw, or else from the last ones it was trained on."""
    source = val_examples or examples[-N_QUESTIONS:]
    return {"unseen": bool(val_examples), "questions": [{"id": e.id, "question": e.input} for e in source[:N_QUESTIONS]]}


def trace_lineage(examples: Sequence[Example], config: Config) -> dict[str, Any]:
    """Sum up where the training rows come from: sources, licences, teachers, what they cost, how they were de-identified."""
    costs: Counter[str] = Counter()
    for example in examples:
        costs[example.lineage.cost.currency] += example.lineage.cost.amount  # pyright: ignore[reportArgumentType]
    return {
        "base_model": config.model,
        "target": config.target,
        "rows": len(examples),
        "sources": dict(Counter(example.source for example in examples)),
        "licences": dict(Counter(example.lineage.licence or "unknown" for example in examples)),
        "teachers": dict(Counter(example.lineage.teacher or "none" for example in examples)),
        "deidentified_by": dict(Counter(example.lineage.deidentified_by or "not patient text" for example in examples)),
        "styles": dict(Counter(str(example.style) for example in examples)),
        "cost": {currency: round(amount, 6) for currency, amount in costs.items() if amount},
    }
