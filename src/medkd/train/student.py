"""The student of a training, whatever the method: loaded, trained and saved.

In: a base, and the adapter of `train` (or none); a trainer of TRL. Out: a model and how it is
prompted; in the end `adapter/` or `model/` with all that serving takes, and facts of the manifest.
Not done here: what is learnt; what is written meanwhile (`train.checkpoints`).
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core.errors import InputError, MedkdError, StoppedError, is_disk_full
from medkd.core.jsonl import RecordReader, resolve_input, write_json
from medkd.core.progress import Bar
from medkd.core.records import Example
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.models.chat_template import (
    find_stop_ids,
    find_templates,
    has_thinking_prefix,
    repair_pad_token,
)
from medkd.models.inspect import read_json, read_model_shape
from medkd.models.load import (
    WHOLE_MODEL,
    Dtype,
    check_base,
    choose_device,
    find_base,
    load_model,
    load_tokenizer,
    open_to_readers,
)
from medkd.train.checkpoints import (
    STATE,
    Callback,
    CheckpointKeeper,
    Interruption,
    MetricsWriter,
    SampleWriter,
    StopIfOrphaned,
    delete_checkpoints,
    find_checkpoint,
    list_checkpoints,
    read_step,
)
from medkd.train.config import (
    CHECKPOINTS,
    StudentConfig,
    Target,
    broadcast,
    choose_training_dtype,
    explain_refusal,
    give_head_bias,
    make_lora_config,
    read_process_info,
)
from medkd.train.preflight import read_peak_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

ADAPTER, QUESTIONS, LINEAGE = "adapter", "questions.json", "lineage.json"
N_QUESTIONS = 20
"""Unseen questions kept beside the weights, for `export` to prove the model on."""
LORA_RANK = 16
"""Of the adapter that is begun where there is none; one that is there keeps its own."""
ORPHANS_WAIT_S = 120.0
"""Seconds that processes may keep the run's directory whose launcher was killed."""
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")
_MISFITS = ("state_dict", "state dict", "find a valid checkpoint", "find a checkpoint index")
"""What torch and transformers say where a checkpoint is not of the model."""
WRITES = (
    ADAPTER,
    WHOLE_MODEL,
    "metrics.jsonl",
    "samples.jsonl",
    "held_out.jsonl",
    "start.json",
    "report.html",
    ".adapter.tmp",
    ".model.tmp",
)


def find_inputs(path: Path) -> tuple[Path, Path | None]:
    """Find the training rows, and the validation rows beside them where there are any."""
    train_path = resolve_input(path, "train.jsonl", made_by="merge")
    val_path = train_path.with_name("val.jsonl")
    has_val = val_path != train_path and val_path.exists() and val_path.stat().st_size > 0
    return train_path, val_path if has_val else None


def read_examples(path: Path | None, output: StageOutput | None = None) -> list[Example]:
    """Read the rows of a file, none where there is no file; counted where an output is given."""
    if path is None:
        return []
    reader = RecordReader(path, Example, made_by="merge")
    examples = list(reader)
    if output is not None:
        output.read(reader.n_read)
        output.drop_all(reader.dropped())
    return examples


@contextmanager
def open_training(
    stage: str, config: StudentConfig, inputs: Mapping[str, Path | None], limit: str
) -> Generator[StageOutput]:
    """Open the directory of a stage that trains; to begin again, its own checkpoints are deleted.
    What can happen in a long training is told in one line; `limit` is the flag of lengths.

    `checkpoints` is not among what the stage writes: of it only `train.checkpoints` deletes. Of
    several processes the main one alone has the directory and speaks.
    """
    process, device = read_process_info(), choose_device(config.device)
    if not process.is_main:
        with _follow(stage, config, device) as output, explaining(config.out, limit):
            yield output
        return
    model = config.resolve_model() if Path(config.model).is_dir() else None
    roles = {role: [path] if path else [] for role, path in {**inputs, "model": model}.items()}
    with open_stage_output(
        stage, config, roles, WRITES, libraries=LIBRARIES, wait_s=ORPHANS_WAIT_S
    ) as output:
        broadcast(output.is_finished, device)
        if config.overwrite and not output.is_finished:
            delete_checkpoints(output.path(CHECKPOINTS))
        with explaining(config.out, limit):
            yield output


@contextmanager
def _follow(stage: str, config: StudentConfig, device: str) -> Generator[StageOutput]:
    """Open an output that nobody reads, for a process beside the main one."""
    manifest = Manifest(stage=stage, config=config.model_dump(mode="json"))
    manifest.state = "finished" if broadcast(False, device) else "running"
    with (
        TemporaryDirectory() as scratch,
        Path(os.devnull).open("w") as nowhere,
        redirect_stderr(nowhere),
    ):
        yield StageOutput(Path(scratch), manifest)
    manifest.state = "running"  # the main process reports


@contextmanager
def explaining(out: Path, limit: str) -> Generator[None]:
    """Turn what can happen in a long training into one line with the next step; a bug stays
    itself."""
    try:
        yield
    except MedkdError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise StoppedError(
                "{}: the disk is full; free some space and run the same command again, the "
                "last whole checkpoint is kept",
                out,
            ) from error
        text = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
            raise StoppedError(
                "{}: out of memory; lower --batch-size or {}, or give "
                "--trainer.activation-checkpointing true, and run again with --resume: the "
                "last checkpoint is kept",
                out,
                limit,
            ) from error
        raise


class Student(NamedTuple):
    """A model that goes on learning, and how it is prompted."""

    name: str
    adapter: Path | None
    """Where it started, if not from the base alone."""
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    template: str
    """The template to save: one that begins the thinking where the tokenizer's own does."""
    plain_template: str
    stop_ids: list[int]


def load_student(config: StudentConfig, adapter: Path | None, rank: int = LORA_RANK) -> Student:
    """Load a base with the adapter that goes on being trained, or a new one of a rank; raises
    InputError for an adapter of another base."""
    from peft import PeftModel, get_peft_model
    from safetensors import SafetensorError
    from transformers import set_seed

    name, folder = config.model, config.resolve_model()
    if adapter is not None:
        check_base(adapter, name)
    dtype = str(choose_training_dtype(config, choose_device(config.device)))
    base, _ = load_model(
        name, None, config.device, cast(Dtype, dtype.removeprefix("torch.")), config.hub
    )
    tokenizer = load_tokenizer(folder, adapter)
    pair = find_templates(tokenizer)
    template = pair.thinking if has_thinking_prefix(tokenizer) else pair.plain
    repair_pad_token(tokenizer)
    stop_ids = find_stop_ids(tokenizer, base.generation_config)
    cast(Any, base).generation_config.eos_token_id = stop_ids
    if adapter is None:
        set_seed(config.seed)
        model: Any = get_peft_model(base, make_lora_config(rank, read_model_shape(folder)))
        return Student(name, None, model, tokenizer, template, pair.plain, stop_ids)
    try:
        model = PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            "{}: does not fit {}; give the model it was trained on ({})",
            adapter,
            name,
            find_base(adapter) or "unknown",
        ) from error
    give_head_bias(model)
    return Student(name, adapter, model, tokenizer, template, pair.plain, stop_ids)


def train_student(
    trainer: "Trainer",
    config: StudentConfig,
    stage: str,
    student: Student,
    examples: Sequence[Example],
    val_examples: Sequence[Example],
    history: Mapping[str, Mapping[str, Any]] | None = None,
    lineage: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train from the newest whole checkpoint, or from the start, and save; returns facts of the
    manifest. The main process alone writes and prints.

    `lineage` is where a new student comes from; one that goes on keeps its own, and `history` says
    by method what is added. Shown at each save is what it answers to a few unseen questions.
    """
    process, device = read_process_info(), choose_device(config.device)
    checkpoint = None
    if process.is_main and not config.overwrite:
        checkpoint = find_checkpoint(config.out / CHECKPOINTS)
    checkpoint = broadcast(checkpoint, device)
    step = read_step(checkpoint)
    observers: list[Callback] = [StopIfOrphaned()] if process.is_launched else []
    if process.is_main and not _is_sharded(trainer.args):
        asked = val_examples or examples
        path, template = config.out / "samples.jsonl", student.plain_template
        observers.append(SampleWriter(path, student.tokenizer, template, asked))
    observers += callbacks
    run_trainer(trainer, stage, config.out, checkpoint, observers, process.is_main)
    n_steps = trainer.state.global_step
    said = {method: {**what, "steps": n_steps} for method, what in (history or {}).items()}
    start = student.adapter
    before = read_json(start / LINEAGE) if start else None
    questions = read_json(start / QUESTIONS) if start else None
    save_student(
        trainer,
        student,
        config.out,
        questions or choose_questions(examples, val_examples),
        (before or {"base_model": student.name}) | dict(lineage or {}) | said,
        process.is_main,
    )
    return {
        "resumed_from_step": step,
        "steps": n_steps,
        "device": device,
        "peak_memory_gib": round(read_peak_memory() / 2**30, 2),
    }


def _is_sharded(args: "TrainingArguments") -> bool:
    distributed: Any = args.distributed_state
    return bool(args.deepspeed_plugin) or str(distributed.distributed_type).endswith("FSDP")


def run_trainer(
    trainer: "Trainer",
    name: str,
    out: Path,
    checkpoint: Path | None,
    callbacks: Sequence[Callback] = (),
    is_main: bool = True,
) -> None:
    """Train from the start or from a checkpoint; an interruption ends the step and saves a
    checkpoint first.

    Raises InputError before the first step for a setting that only the optimizer finds wrong, and
    for a checkpoint that does not fit.
    """
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    bar = Bar(name, unit="steps") if is_main else nullcontext()
    step = read_step(checkpoint)
    with bar as shown, Interruption(name) as interruption:
        metrics = MetricsWriter(out / "metrics.jsonl", shown) if shown else None
        keeper = CheckpointKeeper(out / CHECKPOINTS, trainer.args)
        for callback in (metrics, interruption, keeper, *callbacks):
            if callback is not None:
                trainer.add_callback(cast(Any, callback))
        if checkpoint and (
            _is_over(checkpoint, trainer) or any(each.has_ended(step) for each in callbacks)
        ):
            # Resumed in the middle of an epoch, a trainer takes a step before it counts them.
            trainer.args.max_steps, trainer.args.num_train_epochs = -1, 0
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except (ValueError, RuntimeError) as error:
            if trainer.state.global_step > step:
                raise
            if checkpoint and any(sign in str(error) for sign in _MISFITS):
                raise InputError(
                    "{}: is of another model, --method or --lora-rank; give those it was begun "
                    "with, or begin again with --overwrite",
                    checkpoint,
                ) from error
            is_optimizers = isinstance(error, ValueError) and "Invalid" in str(error)
            raise explain_refusal(error) if is_optimizers else error from error
        if interruption.is_wanted:
            raise KeyboardInterrupt


def _is_over(checkpoint: Path, trainer: "Trainer") -> bool:
    """Tell whether a checkpoint is the last one of a training; where it is not, early stopping goes
    on counting from it."""
    from transformers import EarlyStoppingCallback

    state, args = json.loads((checkpoint / STATE).read_bytes()), trainer.args
    for callback in cast(list[Any], trainer.callback_handler.callbacks):
        saved = state["stateful_callbacks"].get("EarlyStoppingCallback")
        if isinstance(callback, EarlyStoppingCallback) and saved:
            n_worse = saved["attributes"]["early_stopping_patience_counter"]
            callback.early_stopping_patience_counter = n_worse
            if n_worse >= callback.early_stopping_patience:
                return True
    if args.max_steps > 0:
        return state["global_step"] >= args.max_steps
    return state["epoch"] >= args.num_train_epochs


def save_student(
    trainer: "Trainer",
    student: Student,
    out: Path,
    questions: Mapping[str, Any],
    lineage: Mapping[str, Any],
    is_main: bool,
) -> None:
    """Write the folder that serving and `export` take, and put it in its place; every process takes
    part where weights are sharded."""
    model = cast(Any, trainer.accelerator.unwrap_model(cast(Any, trainer.model)))
    final = out / (ADAPTER if hasattr(model, "peft_config") else WHOLE_MODEL)
    temporary = final.with_name(f".{final.name}.tmp")
    if is_main:
        shutil.rmtree(temporary, ignore_errors=True)
    trainer.save_model(str(temporary))
    if not is_main:
        return
    open_to_readers(temporary)
    # Training switches the cache off; whoever generates with the folder wants it on.
    changes = {
        "adapter_config.json": {"base_model_name_or_path": student.name},
        "config.json": {"use_cache": True},
    }
    for name, change in changes.items():
        if content := read_json(temporary / name):
            write_json(temporary / name, content | change)
    for name in ("training_args.bin", "README.md"):
        (temporary / name).unlink(missing_ok=True)
    # The start from which reinforcement measures its divergence.
    shutil.rmtree(temporary / "ref", ignore_errors=True)
    tokenizer = cast(Any, trainer.processing_class)
    tokenizer.chat_template = student.template
    tokenizer.save_pretrained(str(temporary))
    generation = model.generation_config
    generation.eos_token_id = list(student.stop_ids)
    generation.pad_token_id = tokenizer.pad_token_id
    generation.save_pretrained(str(temporary))
    write_json(temporary / QUESTIONS, questions)
    write_json(temporary / LINEAGE, lineage)
    _replace(final, temporary)


def _replace(final: Path, temporary: Path) -> None:
    """Put a folder in the place of another; files that a person put into the other one stay."""
    if final.is_dir():
        for path in final.iterdir():
            if not (temporary / path.name).exists():
                path.rename(temporary / path.name)
        shutil.rmtree(final)
    temporary.rename(final)


def choose_questions(
    examples: Sequence[Example], val_examples: Sequence[Example]
) -> dict[str, Any]:
    """Choose bare questions to prove the model on: from rows it never saw, or else from the last
    ones it was trained on."""
    source = val_examples or examples[-N_QUESTIONS:]
    return {
        "unseen": bool(val_examples),
        "questions": [{"id": e.id, "question": e.input} for e in source[:N_QUESTIONS]],
    }


def trace_lineage(examples: Sequence[Example], model: str, target: Target) -> dict[str, Any]:
    """Sum up where the training rows come from: sources, licences, teachers, what they cost, how
    they were de-identified."""
    costs: Counter[str] = Counter()
    for example in examples:
        costs[example.lineage.cost.currency] += example.lineage.cost.amount  # pyright: ignore[reportArgumentType]
    return {
        "base_model": model,
        "target": target,
        "rows": len(examples),
        "sources": dict(Counter(e.source for e in examples)),
        "licences": dict(Counter(e.lineage.licence or "unknown" for e in examples)),
        "teachers": dict(Counter(e.lineage.teacher or "none" for e in examples)),
        "deidentified_by": dict(
            Counter(e.lineage.deidentified_by or "not patient text" for e in examples)
        ),
        "styles": dict(Counter(str(e.style) for e in examples)),
        "cost": {currency: round(amount, 6) for currency, amount in costs.items() if amount},
    }


def restore(student: Student, checkpoints: Path, step: int) -> int:
    """Put the weights of an earlier step back, 0 for the start; returns the step that is kept: a
    new adapter has no start to go back to, and keeps its first checkpoint."""
    from peft import load_peft_weights, set_peft_model_state_dict

    folder = checkpoints / f"checkpoint-{step}" if step else student.adapter
    if folder is None:
        folder = list_checkpoints(checkpoints)[0]
        step = read_step(folder)
    set_peft_model_state_dict(cast(Any, student.model), load_peft_weights(str(folder)))
    return step
