"""What `train` is told, and the config of TRL that follows from it.

In: a recipe's fields and its `trainer:` mapping; what a launcher (accelerate, torchrun) puts into
the environment. Out: a validated `Config`; a TRL config, or one line that names the wrong key and
the nearest valid one; the rank of this process. Not done here: training, launching.
"""

import difflib
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from medkd.core.config import RUNTIME, SENDS_KEY, Seed, StageConfig
from medkd.core.errors import InputError, StoppedError
from medkd.core.i18n import tell
from medkd.models.inspect import ModelShape
from medkd.models.load import Device, Hub, choose_dtype, resolve_model

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

C = TypeVar("C")
V = TypeVar("V")
Method = Literal["lora", "qlora", "full"]
Target = Literal["reasoned", "answers"]

CHECKPOINTS = "checkpoints"
STAGE_KEYS = ("packing", "early_stopping_patience")
"""Keys of `trainer:` that the stage reads itself and TRL is not told."""
LOG_INTERVAL = 10
"""Most steps between two lines of metrics."""
N_SAVES = 4
N_KEPT = 3
"""Checkpoints kept: the best, the newest, and one in case that is torn."""
PATIENCE = timedelta(hours=2)
"""How long processes wait while the main one reads or samples alone; torch's own 10 minutes on GPUs
are few."""
_OWN_KEYS = ("output_dir", "resume_from_checkpoint")
_CHECKPOINTING, _FORMER = "activation_checkpointing", "gradient_checkpointing"
"""The present name in transformers, and the one that it gives up: both are taken, and a run that
was begun under one goes on under the other."""
_COUNTS = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "logging_steps",
    "save_steps",
    "eval_steps",
    "early_stopping_patience",
)
"""Keys of `trainer:` that must be at least 1; TRL divides by some of them."""

MaxLength = Annotated[int, Field(ge=16, le=2**22)]
BatchSize = Annotated[int, Field(ge=1, le=2**16)]
Rank = Annotated[int, Field(ge=1, le=4096)]
Epochs = Annotated[float, Field(gt=0, le=10_000)]
LearningRate = Annotated[float, Field(gt=0, le=100)]


class StudentConfig(StageConfig):
    """What every stage that trains a student takes."""

    model: str
    """Base model: medkd:tiny, a folder, or a name on a hub."""
    hub: Annotated[Hub, RUNTIME] = "huggingface"
    """Hub to download a named model from."""
    max_tokens: MaxLength = 1024
    """Longest answer in tokens, where the student answers (on-policy, reinforce); what it cuts off
    is not learnt from."""
    learning_rate: LearningRate | None = None
    """Peak of the schedule; default: 2e-4 for an adapter, 2e-5 for preferences, 1e-5 for all
    weights and for rewards."""
    batch_size: BatchSize = 8
    """Rows or answers computed at a time on a device; lower it where memory runs out."""
    seed: Seed = 0
    """Seed of the order of rows, of the draws and of an adapter's first weights."""
    device: Annotated[Device, RUNTIME] = "auto"
    """Where to compute."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Any other field of TRL's config of the method (packing, bf16, beta, temperature, use_vllm,
    save_steps …), and early_stopping_patience, in saves."""

    @field_validator("trainer")
    @classmethod
    def _name_anew(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        given = {_CHECKPOINTING: trainer[_FORMER]} if _FORMER in trainer else {}
        return given | {key: value for key, value in trainer.items() if key != _FORMER}

    def resolve_model(self) -> Path:
        """Find the folder of the base model."""
        return resolve_model(self.model, self.hub)


class Config(StudentConfig):
    """Tune a student on `train.jsonl`: an adapter, or all its weights."""

    input: Annotated[Path, RUNTIME]
    """Directory of `merge`, or a file of examples (dpo, kto: of preferences); `val.jsonl` beside it
    is evaluated on, never trained on."""
    target: Target = "reasoned"
    """Learn reasoning and answer, or bare answers for comparison."""
    method: Literal[Method, "dpo", "kto", "on-policy"] = "lora"
    """Train an adapter; an adapter on a base in 4 bits (GPU); all weights; or an adapter by
    preferences (dpo for pairs, kto for single verdicts), or by on-policy distillation from an open
    teacher."""
    adapter: Annotated[Path | None, RUNTIME] = None
    """dpo, kto, on-policy: adapter to start from, a directory of `train` or an adapter folder."""
    teacher: Literal["model", "self"] = "model"
    """on-policy: who scores each token: --teacher-model or --teacher-url, or the student itself
    with the answer at hand."""
    teacher_model: str = ""
    """on-policy: open model that scores each token; it must have the student's tokenizer."""
    teacher_url: Annotated[str, RUNTIME, SENDS_KEY] = ""
    """on-policy: address of a vLLM server that scores instead of a model in this process."""
    max_length: MaxLength = 4096
    """Longest row in tokens; longer ones are dropped and counted, never trimmed."""
    epochs: Epochs = 2
    """Passes over the rows."""
    lora_rank: Rank = 16
    """Rank of the adapter, on all linear layers; its scale is twice the rank."""

    @property
    def weights(self) -> Method:
        """The weights that are trained: a LoRA adapter unless the method says otherwise."""
        return self.method if self.method in ("qlora", "full") else "lora"


def check_method(config: Config) -> None:
    """Raise InputError for a field that the method does not take, or one that it lacks; warn of one
    that it has no use for."""
    if config.adapter and config.method in ("lora", "qlora", "full"):
        raise InputError(
            "--adapter: --method {} trains from the base; leave it out, or go on with "
            "--method dpo, kto or on-policy",
            config.method,
        )
    if config.target != "reasoned" and config.method in ("dpo", "kto", "on-policy"):
        raise InputError(
            "--target: --method {} learns from reasoned answers alone; leave it out", config.method
        )
    if config.method == "kto" and config.batch_size < 2:
        raise InputError(
            "--batch-size 1: --method kto compares an answer with another of its batch; set "
            "--batch-size 2"
        )
    if config.method == "on-policy" and config.max_length != _default("max_length"):
        tell("warning: --max-length: --method on-policy has no use for it", to=sys.stderr)
    if config.adapter and config.lora_rank != _default("lora_rank"):
        tell("warning: --lora-rank: the adapter that is given keeps its own", to=sys.stderr)
    teachers = {
        "--teacher-model": bool(config.teacher_model),
        "--teacher-url": bool(config.teacher_url),
        "--teacher": config.teacher == "self",
    }
    if config.method != "on-policy":
        for flag in (flag for flag, is_given in teachers.items() if is_given):
            raise InputError("{}: only --method on-policy takes one; leave it out", flag)
    elif config.adapter is None:
        raise InputError("--method on-policy: needs --adapter, a student that answers")
    elif sum(teachers.values()) != 1:
        raise InputError(
            "--method on-policy: needs one teacher: --teacher-model, the open model that scores "
            "the answers, --teacher-url, a server of one, or --teacher self"
        )


def _default(field: str) -> Any:
    return Config.model_fields[field].default


def is_checkpointed(config: StudentConfig, device: str) -> bool:
    """Tell whether activations are computed again in the backward pass: on a GPU, unless
    `trainer:` says otherwise."""
    told = read_trainer_value(config, _CHECKPOINTING, bool)
    return device == "cuda" if told is None else told


def choose_training_dtype(config: StudentConfig, device: str) -> "torch.dtype":
    """Choose the number format: bfloat16 where the device computes in it, unless `trainer.bf16`
    says otherwise."""
    wanted = read_trainer_value(config, "bf16", bool)
    return choose_dtype("auto" if wanted is None else "bfloat16" if wanted else "float32", device)


def count_steps(n_rows: int, rows_per_step: int, epochs: float, max_steps: int = -1) -> int:
    """Count the steps of a training.

    >>> count_steps(n_rows=10, rows_per_step=4, epochs=2)
    6
    """
    return max_steps if max_steps > 0 else math.ceil(math.ceil(n_rows / rows_per_step) * epochs)


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
    rows = {name: list(untrained_ids) for name in names} if untrained_ids else None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        trainable_token_indices=rows,
    )


def give_head_bias(model: Any) -> None:
    """Set on the head the attribute `bias`, which TRL's losses read: PEFT's wrapper of a head with
    trained rows has none (PEFT 0.21, TRL 1.16)."""
    head = model.get_output_embeddings()
    if head is not None and not hasattr(head, "bias"):
        head.bias = None


def read_trainer_keys(
    config: type[Any], extra: Mapping[str, Any], own_keys: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Read the `trainer:` mapping as the fields of a TRL config, numbers written as text too.

    Raises InputError for a key that TRL does not know or the stage decides, and for a value of
    another type.
    """
    known = {field.name for field in fields(config)}
    hints = get_type_hints(config) | {"early_stopping_patience": int}
    values: dict[str, Any] = {}
    for key, value in extra.items():
        if key in (*_OWN_KEYS, *own_keys):
            raise InputError("trainer: {} is decided by the stage; take it out of the recipe", key)
        if key == _CHECKPOINTING:
            continue
        if key not in known and key not in STAGE_KEYS:
            near = difflib.get_close_matches(key, [*known, *STAGE_KEYS], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError("trainer: unknown key {!r}{}", key, hint)
        values[key] = _read_value(key, value, hints[key])
    return values


def build_trainer_config(
    kind: type[C],
    config: StudentConfig,
    device: str,
    n_rows: int,
    settings: Mapping[str, Any],
    own_keys: tuple[str, ...] = (),
) -> C:
    """Build a TRL config: what all methods share, then `settings`, then what `trainer:` says.

    A save falls on a line of metrics: in the middle of one, a resumed run would write the mean of
    other steps there. In one process one GPU is used: TRL refuses the replicas that transformers
    would make on the others. Raises InputError with the first line of TRL's own error.
    """
    extra = read_trainer_keys(kind, config.trainer, own_keys)
    on_gpu = device == "cuda"
    values: dict[str, Any] = {
        "per_device_train_batch_size": config.batch_size,
        "seed": config.seed,
        "max_grad_norm": 1.0,
        _CHECKPOINTING if hasattr(kind, _CHECKPOINTING) else _FORMER: is_checkpointed(
            config, device
        ),
        "bf16": str(choose_training_dtype(config, device)) == "torch.bfloat16",
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_total_limit": N_KEPT,
        "lr_scheduler_type": "cosine",
        **settings,
        **{key: value for key, value in extra.items() if key not in STAGE_KEYS},
        "output_dir": str(config.out / CHECKPOINTS),
    }
    rows_per_step = values["per_device_train_batch_size"] * read_process_info().n_processes
    rows_per_step *= values.get("gradient_accumulation_steps", 1)
    epochs, max_steps = values.get("num_train_epochs", 1), values.get("max_steps", -1)
    n_steps = count_steps(n_rows, rows_per_step, epochs, max_steps)
    logging_steps = values.setdefault("logging_steps", max(1, min(LOG_INTERVAL, n_steps // 20)))
    quarter = math.ceil(n_steps / N_SAVES) // logging_steps * logging_steps
    values.setdefault("save_steps", max(logging_steps, quarter))
    values.setdefault("eval_steps", values["save_steps"])
    values.setdefault("warmup_steps", min(5, n_steps // 4))
    try:
        built: Any = kind(**values)
        built._n_gpu = min(built.n_gpu, 1)
    except (ValueError, TypeError, ImportError, ArithmeticError) as error:
        raise explain_refusal(error) from error
    return built


def read_trainer_value(config: StudentConfig, key: str, kind: type[V]) -> V | None:
    """Read what `trainer:` says of one key, as text or not; None where it says nothing."""
    value = config.trainer.get(key)
    return None if value is None else _read_value(key, value, kind)


def explain_refusal(error: Exception) -> InputError:
    """Turn an error of TRL about a setting into one line."""
    return InputError("trainer: {}; correct the recipe", str(error).splitlines()[0])


def _read_value(key: str, value: Any, hint: Any) -> Any:
    try:
        read = TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise InputError(
            "trainer: {}: {}{} (got {!r})", key, message[0].lower(), message[1:], value
        ) from error
    if isinstance(read, float) and not math.isfinite(read):
        raise InputError("trainer: {}: input should be a finite number (got {!r})", key, value)
    if key in _COUNTS and isinstance(read, int | float) and read <= 0:
        raise InputError("trainer: {}: input should be greater than 0 (got {!r})", key, value)
    return read if isinstance(value, str) else value


class ProcessInfo(NamedTuple):
    """This process among those that train together."""

    rank: int = 0
    local_rank: int = 0
    n_processes: int = 1
    is_launched: bool = False
    """Whether a launcher started it."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def read_process_info() -> ProcessInfo:
    """Read what a launcher says in the environment; one process where there is none."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return ProcessInfo()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    rank, n_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return ProcessInfo(rank, local_rank, n_processes, is_launched=True)


def is_sharded_launch() -> bool:
    """Tell whether a launcher has the weights shared out (FSDP, ZeRO-3): no process has them
    whole."""
    is_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    return is_fsdp or os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"


def broadcast(value: V, device: str = "") -> V:
    """Return the main process's value in every process; waits for all of them. `device` decides
    how they talk, before there is a trainer."""
    if read_process_info().n_processes == 1:
        return value
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=device == "cpu", timeout=PATIENCE)
    try:
        return broadcast_object_list([value])[0]
    except RuntimeError as error:
        raise StoppedError("another process of this training has ended; it says why") from error
