"""The student that goes on learning after supervised training: loaded with its adapter, and saved.

In: a base, and the adapter of `train` (or none). Out: a model with a trainable adapter, how it is
prompted, and in the end `adapter/` with all that serving takes. Not done here: `train` itself, what
is learnt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core.errors import InputError
from medkd.core.records import Example
from medkd.models.chat_template import (
    find_stop_ids,
    find_templates,
    has_thinking_prefix,
    repair_pad_token,
)
from medkd.models.inspect import read_json, read_model_shape
from medkd.models.load import (
    Device,
    Dtype,
    Hub,
    check_base,
    find_base,
    load_model,
    load_tokenizer,
)
from medkd.train.checkpoints import (
    ADAPTER,
    LINEAGE,
    QUESTIONS,
    choose_questions,
    list_checkpoints,
    read_step,
    save_metadata,
    save_weights,
)
from medkd.train.config import give_head_bias, make_lora_config

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


def load_student(
    name: str,
    folder: Path,
    adapter: Path | None,
    device: Device,
    dtype: Dtype,
    hub: Hub,
) -> Student:
    """Load a base with the adapter that goes on being trained, or a new one."""
    base, _ = load_model(name, None, device, dtype, hub)
    tokenizer = load_tokenizer(folder, adapter)
    pair = find_templates(tokenizer)
    template = pair.thinking if has_thinking_prefix(tokenizer) else pair.plain
    repair_pad_token(tokenizer)
    stop_ids = find_stop_ids(tokenizer, base.generation_config)
    cast(Any, base).generation_config.eos_token_id = stop_ids
    model = _attach_adapter(base, adapter, name, folder)
    return Student(name, adapter, model, tokenizer, template, pair.plain, stop_ids)


def _attach_adapter(
    model: "PreTrainedModel", adapter: Path | None, name: str, folder: Path
) -> "PreTrainedModel":
    """Put a trainable adapter on the model; raises InputError for an adapter of another base."""
    from peft import PeftModel, get_peft_model
    from safetensors import SafetensorError

    if adapter is None:
        lora = make_lora_config(LORA_RANK, read_model_shape(folder))
        return cast("PreTrainedModel", get_peft_model(model, lora))
    check_base(adapter, name)
    try:
        student = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            "{}: does not fit {}; give the model it was trained on ({})",
            adapter,
            name,
            find_base(adapter) or "unknown",
        ) from error
    give_head_bias(student)
    return cast("PreTrainedModel", student)


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
