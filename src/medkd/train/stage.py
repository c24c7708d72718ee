"""The stage `train`: a student learns from its teacher's reasoning, or from bare answers for
comparison.

In: `train.jsonl` of `merge` (and `val.jsonl` beside it). Out: `adapter/` (or `model/`: weights,
tokenizer, template, stop tokens, unseen questions, lineage), `checkpoints/`, `metrics.jsonl`,
`samples.jsonl`, `report.html`.
Not done here: merging the adapter (`export`), reinforcement.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from medkd.core.config import LOADS_CODE, RUNS_COMMAND, RUNTIME, Seed, StageConfig
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.records import Example
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output, read_manifest
from medkd.models.inspect import ModelShape, read_model_shape
from medkd.models.load import (
    WHOLE_MODEL,
    Device,
    Hub,
    choose_device,
    choose_dtype,
    importing,
    load_libraries,
    load_tokenizer,
    resolve_model,
)
from medkd.train import launch
from medkd.train.plan import (
    Method,
    Shape,
    estimate_disk,
    estimate_memory,
    find_too_little_disk,
    find_too_little_memory,
    find_what_is_there,
)
from medkd.train.preflight import Preflight, examine, refuse
from medkd.train.rows import Target, describe_lengths, make_rows

if TYPE_CHECKING:
    import torch

ADAPTER = "adapter"
N_VAL_ROWS = 64
"""Validation rows looked at for the loss at every save."""
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")
WRITES = (
    "checkpoints",
    "adapter",
    "model",
    "metrics.jsonl",
    "samples.jsonl",
    "report.html",
    ".adapter.tmp",
    ".model.tmp",
)
ORPHANS_WAIT_S = 120.0
"""How long processes may keep the directory whose launcher was killed."""
STAGE_KEYS = ("packing", "early_stopping_patience")
"""What `trainer:` may say and TRL is not told: rows are packed, and a run ended, by the stage."""
LEARNING_RATES: dict[Method, float] = {"lora": 2e-4, "qlora": 2e-4, "full": 1e-5}


class Config(StageConfig):
    """Tune a student on `train.jsonl`: an adapter, or all its weights."""

    model: str
    """Base model: medkd:tiny, a folder, or a name on a hub."""
    input: Annotated[Path, RUNTIME]
    """Directory of `merge`, or a file of examples; `val.jsonl` beside it is watched, never trained
    on."""
    hub: Annotated[Hub, RUNTIME] = "huggingface"
    """Where a model that is only named is fetched from."""
    trust_remote_code: Annotated[bool, RUNTIME, LOADS_CODE] = False
    """Let a model run code that came with it."""
    target: Target = "reasoned"
    """Learn reasoning and answer, or bare answers for comparison."""
    method: Method | Literal["on-policy"] = "lora"
    """An adapter; an adapter on a base in 4 bits (GPU); all weights; or an adapter whose answers a
    teacher's model scores."""
    adapter: Annotated[Path | None, RUNTIME] = None
    """on-policy: where to start, a directory of `train` or an adapter folder."""
    teacher_model: str = ""
    """on-policy: the open model that scores each token; of the student's own tokenizer, or of
    another that is byte-level too."""
    max_tokens: int = Field(default=1024, ge=16)
    """on-policy: longest answer in tokens."""
    max_length: int = Field(default=4096, ge=16)
    """Longest row in tokens; longer ones are dropped and counted, never trimmed."""
    epochs: float = Field(default=2, gt=0)
    """Times through the rows."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak; falls along a cosine. Unless told, 2e-4 for an adapter, 1e-5 for all weights."""
    batch_size: int = Field(default=8, ge=1)
    """Rows a step and device."""
    lora_rank: int = Field(default=16, ge=1)
    """Rank of the adapter, on all linear layers; its scale is twice the rank."""
    seed: Seed = 0
    """Decides the order of rows and the adapter's first weights."""
    device: Annotated[Device, RUNTIME] = "auto"
    """Where to compute."""
    launch: Annotated[str, RUNTIME, RUNS_COMMAND] = "auto"
    """What starts a process a GPU: auto, none, zero2, zero3, fsdp2, or a command ('accelerate
    launch --num_processes 8')."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Anything else that TRL's SFTConfig knows (packing, bf16, save_steps …), and
    early_stopping_patience, in saves."""

    @property
    def weights(self) -> Method:
        """What is trained: beside `on-policy`, a method says which weights."""
        return "lora" if self.method == "on-policy" else self.method


class Job(NamedTuple):
    """Everything a training is made of before anything is loaded."""

    folder: Path
    skeleton: ModelShape
    tokenizer: Any
    examples: list[Example]
    val_examples: list[Example]
    flight: Preflight
    shape: Shape
    device: str

    @property
    def place(self) -> str:
        return str(self.folder)


def run(config: Config) -> Manifest:
    """Train as configured; goes on from the newest whole checkpoint of a run that was killed."""
    if config.method == "on-policy":
        from medkd.train.onpolicy import run_on_policy

        return run_on_policy(config)
    if config.adapter or config.teacher_model:
        flag = "--adapter" if config.adapter else "--teacher-model"
        raise InputError(
            f"{flag}: only --method on-policy takes one, --method {config.method} trains from the base; leave it out"
        )
    if not launch.is_launched() and (command := _find_command(config)):
        launch.run_command(
            command, config.model_dump(mode="json", exclude={"launch"}) | {"launch": "none"}
        )
        return read_manifest(config.out)
    place = launch.find_place()
    if not place.is_main:
        return _follow(config, place)
    train_path, val_path = find_inputs(config)
    folder = resolve_model(config.model, config.hub, config.trust_remote_code)
    inputs = {
        "input": train_path,
        "validation": [val_path] if val_path else [],
        "model": [folder] if Path(config.model).is_dir() else [],
    }
    with open_stage_output(
        "train", config, inputs, WRITES, libraries=LIBRARIES, wait_s=ORPHANS_WAIT_S
    ) as space:
        if place.n_processes > 1:
            launch.agree(space.is_finished, choose_device(config.device))
        if space.is_finished:
            return space.manifest
        job = prepare(config, space)
        refuse(job.flight.findings, config.model)
        space.drop_all(job.flight.dropped)
        with importing():
            from medkd.train.work import work

        work(config, job, place, space)
        return space.manifest


def _follow(config: Config, place: launch.Place) -> Manifest:
    """Train beside the main process, which alone writes and speaks: here nothing is finished that
    could be reported."""
    if not launch.agree(None, choose_device(config.device)):
        job = prepare(config, None)
        refuse(job.flight.findings, config.model)
        with importing():
            from medkd.train.work import work

        work(config, job, place, None)
    return read_manifest(config.out).model_copy(update={"state": "running"})


def _find_command(config: Config) -> list[str]:
    """Find out whether other processes are wanted, and how they are started."""
    if config.launch == "none" or (config.device == "cpu" and config.launch == "auto"):
        return []
    device = choose_device(config.device)
    there = find_what_is_there(device)
    if config.launch == "auto" and there.n_devices <= 1:
        return []
    skeleton = read_model_shape(
        resolve_model(config.model, config.hub, config.trust_remote_code), config.trust_remote_code
    )
    need = estimate_memory(
        skeleton,
        config.weights,
        make_shape(config, device, config.max_length, there.n_devices),
        "ddp",
    )
    return launch.find_command(
        config.launch, there.n_devices if device == "cuda" else 0, need < there.memory
    )


def find_inputs(config: Config) -> tuple[Path, Path | None]:
    """Find the training rows, and the validation rows beside them where there are any."""
    train_path = resolve_input(config.input, "train.jsonl", made_by="merge")
    val_path = train_path.with_name("val.jsonl")
    has_val = val_path != train_path and val_path.exists() and val_path.stat().st_size > 0
    return train_path, val_path if has_val else None


def choose_numbers(config: Config, device: str) -> "torch.dtype":
    """Choose the number format: bfloat16 where the device computes in it, unless `trainer: bf16`
    says otherwise."""
    wanted = config.trainer.get("bf16")
    return choose_dtype("auto" if wanted is None else "bfloat16" if wanted else "float32", device)


def make_shape(config: Config, device: str, longest: int, n_devices: int) -> Shape:
    """Say what memory depends on beside the model."""
    import torch

    weight_bytes = 2 if choose_numbers(config, device) == torch.bfloat16 else 4
    is_checkpointed = bool(config.trainer.get("gradient_checkpointing", device == "cuda"))
    n_tokens = config.batch_size * min(longest, config.max_length)
    return Shape(
        config.lora_rank, n_tokens, weight_bytes, is_checkpointed, device == "cuda", n_devices
    )


def prepare(config: Config, space: StageOutput | None) -> Job:
    """Read rows, tokenizer and the model's shape, and find whatever is wrong; nothing is loaded
    yet."""
    load_libraries()
    device = choose_device(config.device)
    train_path, val_path = find_inputs(config)
    folder = resolve_model(config.model, config.hub, config.trust_remote_code)
    examples = read_examples(train_path, space)
    val_examples = read_examples(val_path, None) if val_path else []
    skeleton = read_model_shape(folder, config.trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code=config.trust_remote_code)
    flight = examine(
        folder,
        skeleton,
        examples,
        tokenizer,
        config.target,
        config.max_length,
        config.method == "full",
    )
    there = find_what_is_there(device)
    longest = max((len(row.input_ids) for row in flight.rows), default=config.max_length)
    shape = make_shape(config, device, longest, launch.find_place().n_processes)
    disk = estimate_disk(skeleton, config.weights, config.lora_rank, shape.weight_bytes)
    flight.findings.extend(find_too_little_memory(skeleton, config.weights, shape, there))
    flight.findings.extend(find_too_little_disk(disk, config.out))
    return Job(folder, skeleton, tokenizer, examples, val_examples, flight, shape, device)


def read_examples(path: Path, space: StageOutput | None) -> list[Example]:
    """Read the rows of a file."""
    reader = RecordReader(path, Example, made_by="merge")
    examples = list(reader)
    if space is not None:
        space.read(reader.n_read)
        space.drop_all(reader.dropped())
    return examples


def make_val_rows(config: Config, job: Job) -> list[Any]:
    """Make the rows that are watched; raises InputError where a validation file leaves none."""
    few: Sequence[Example] = job.val_examples[:N_VAL_ROWS]
    rows, dropped = make_rows(
        few,
        job.tokenizer,
        config.target,
        config.max_length,
        job.flight.plain_template,
        job.flight.end_id,
    )
    if few and not rows:
        reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.items())
        raise InputError(
            f"val.jsonl: no row is left to watch ({reasons}); raise --max-length, or take the file away"
        )
    return rows


def say_what_is_trained(config: Config, job: Job) -> dict[str, int]:
    """Say in one line what is trained on, what was dropped and what was put right; gives the
    lengths."""
    lengths, flight = describe_lengths(job.flight.rows), job.flight
    dropped = ", ".join(f"{reason} {n}" for reason, n in flight.dropped.items())
    repaired = f"; repaired: {'; '.join(flight.repairs)}" if flight.repairs else ""
    print(
        f"train: {len(flight.rows)} rows, {lengths['tokens']} tokens a pass, longest {lengths['longest']}"
        f"{f'; dropped: {dropped}' if dropped else ''}{repaired}",
        file=sys.stderr,
    )
    return lengths


__all__ = ["ADAPTER", "WHOLE_MODEL", "Config", "Job", "prepare", "run"]
