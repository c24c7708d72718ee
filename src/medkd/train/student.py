"""The student that goes on learning after supervised training: loaded, trained and saved.

In: a base, and the adapter of `train` (or none); a trainer of TRL. Out: a model with a trainable
adapter and how it is prompted; in the end `adapter/` with all that serving takes, and the facts of
the manifest. Not done here: supervised training, what is learnt.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core.errors import InputError
from medkd.core.records import Example
from medkd.core.stage_output import StageOutput
from medkd.models.chat_template import (
    find_stop_ids,
    find_templates,
    has_thinking_prefix,
    repair_pad_token,
)
from medkd.models.inspect import read_json, read_model_shape
from medkd.models.load import (
    Dtype,
    check_base,
    choose_device,
    find_base,
    load_model,
    load_tokenizer,
)
from medkd.train.callbacks import Callback, SampleWriter
from medkd.train.checkpoints import (
    ADAPTER,
    LINEAGE,
    QUESTIONS,
    choose_questions,
    find_checkpoint,
    list_checkpoints,
    read_step,
    run_trainer,
    save_metadata,
    save_weights,
)
from medkd.train.config import (
    CHECKPOINTS,
    StudentConfig,
    choose_training_dtype,
    give_head_bias,
    make_lora_config,
)
from medkd.train.memory import read_peak_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

LORA_RANK = 16
"""Of the adapter that is begun where there is none; one that is there keeps its own."""


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


def load_student(config: StudentConfig, adapter: Path | None) -> Student:
    """Load a base with the adapter that goes on being trained, or a new one; raises InputError for
    an adapter of another base."""
    from peft import PeftModel, get_peft_model
    from safetensors import SafetensorError

    name, folder = config.model, config.resolve_model()
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
        model: Any = get_peft_model(base, make_lora_config(LORA_RANK, read_model_shape(folder)))
        return Student(name, None, model, tokenizer, template, pair.plain, stop_ids)
    check_base(adapter, name)
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
    output: StageOutput,
    student: Student,
    examples: Sequence[Example],
    val_examples: Sequence[Example],
    history: Mapping[str, Any],
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train from the newest whole checkpoint, or from the start, and save; the manifest is told.

    `history` names the method, and what the lineage says of it. Shown at each save is what the
    student answers to a few unseen questions.
    """
    checkpoint = None if config.overwrite else find_checkpoint(output.path(CHECKPOINTS))
    step = read_step(checkpoint)
    samples = SampleWriter(
        output.path("samples.jsonl"),
        student.tokenizer,
        student.plain_template,
        val_examples or examples,
        step,
    )
    stage = output.manifest.stage
    run_trainer(trainer, stage, config.out, checkpoint, [samples, *callbacks])
    n_steps = trainer.state.global_step
    said = {method: {**what, "steps": n_steps} for method, what in history.items()}
    save_student(trainer, student, config.out, examples, val_examples, said)
    output.manifest.facts |= {
        "resumed_from_step": step,
        "steps": n_steps,
        "device": choose_device(config.device),
        "peak_memory_gib": round(read_peak_memory() / 2**30, 2),
    }


def save_student(
    trainer: "Trainer",
    student: Student,
    out: Path,
    examples: Sequence[Example],
    val_examples: Sequence[Example],
    history: dict[str, Any],
) -> None:
    """Write the adapter; questions and lineage are those of its start, with what was done since."""
    start = student.adapter
    questions = read_json(start / QUESTIONS) if start else None
    lineage = (read_json(start / LINEAGE) if start else None) or {"base_model": student.name}
    temporary = save_weights(trainer, out / ADAPTER, student.name)
    save_metadata(
        trainer,
        temporary,
        out / ADAPTER,
        student.template,
        student.stop_ids,
        questions or choose_questions(examples, val_examples),
        lineage | history,
    )


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
