"""On-policy distillation: the student answers, an open teacher scores its every token.

In: a student's adapter, the questions of `train.jsonl`, a teacher of the same tokenizer. Out: what
`train` writes. TRL's `DistillationTrainer` does the work, in one process. Not done here: a teacher
behind a server or of another tokenizer, supervised training (`train.sft`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medkd.core.errors import InputError
from medkd.core.records import Example
from medkd.core.stage_output import Manifest, StageOutput
from medkd.models.chat_template import (
    find_plain_template,
    find_stop_ids,
    repair_pad_token,
)
from medkd.models.inspect import ModelShape, read_model_shape
from medkd.models.load import (
    LoadedModel,
    choose_device,
    load_libraries,
    load_model,
    load_tokenizer,
    resolve_adapter,
    resolve_model,
)
from medkd.train.checkpoints import (
    ADAPTER,
    CHECKPOINTS,
    choose_template,
    find_checkpoint,
    inherit,
    open_training,
    run_trainer,
    save_metadata,
    save_weights,
)
from medkd.train.config import (
    WRITES,
    Config,
    build_trainer_config,
    count_steps,
    make_common_settings,
    read_trainer_keys,
)
from medkd.train.grpo import PromptItem, attach_adapter, make_prompts
from medkd.train.sft import explain_failure, read_peak_memory
from medkd.train.tokenize import find_inputs, read_examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl.trainer.distillation_trainer import DistillationTrainer

_OWN_KEYS = (
    "teacher_model_name_or_path",
    "teacher_model_init_kwargs",
    "max_completion_length",
    "packing",
    "early_stopping_patience",
)


def distil_on_policy(config: Config) -> Manifest:
    """Distil as configured; goes on from the newest whole checkpoint of a run that was killed."""
    if not config.teacher_model or config.adapter is None:
        missing = (
            "--teacher-model, the open model that scores the answers"
            if not config.teacher_model
            else "--adapter, a student that answers"
        )
        raise InputError("--method on-policy: give {}", missing)
    load_libraries()
    train_path, val_path = find_inputs(config.input)
    folder = resolve_model(config.model, config.hub, config.trust_remote_code)
    teacher_folder = _resolve_teacher(config)
    adapter = resolve_adapter(config.adapter)
    inputs = {"input": train_path, "validation": val_path, "adapter": adapter}
    with open_training("train", config, inputs, WRITES) as output:
        if output.is_finished:
            return output.manifest
        examples, val_examples = read_examples(train_path, output), read_examples(val_path)
        output.manifest.counts.kept = len(examples)
        _distil(config, output, examples, val_examples, folder, teacher_folder, adapter)
        return output.manifest


def _resolve_teacher(config: Config) -> Path:
    try:
        return resolve_model(config.teacher_model, config.hub, config.trust_remote_code)
    except InputError as error:
        raise InputError(str(error).replace("--model", "--teacher-model")) from error


def check_teacher(
    tokenizer: "PreTrainedTokenizerBase",
    teacher_tokenizer: "PreTrainedTokenizerBase",
    shape: ModelShape,
    teacher_shape: ModelShape,
    name: str,
) -> None:
    """Raise InputError for a teacher of another tokenizer, or with fewer tokens than the
    student."""
    known = teacher_tokenizer.get_vocab()
    numbered = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    strange = next((token for token, number in numbered if known.get(token) != number), None)
    if strange is not None:
        raise InputError(
            "{}: has another tokenizer than the student (see {!r}); choose a teacher "
            "of the student's family, or have it write rationales instead (run "
            '"medkd distill")',
            name,
            strange,
        )
    if teacher_shape.vocabulary < shape.vocabulary:
        raise InputError(
            "{}: knows {} tokens, the student {}; choose another teacher of the student's family",
            name,
            teacher_shape.vocabulary,
            shape.vocabulary,
        )


def _distil(
    config: Config,
    output: StageOutput,
    examples: Sequence[Example],
    val_examples: Sequence[Example],
    folder: Path,
    teacher_folder: Path,
    adapter: Path,
) -> None:
    trust, device = config.trust_remote_code, choose_device(config.device)
    tokenizer = load_tokenizer(folder, adapter, trust)
    check_teacher(
        tokenizer,
        load_tokenizer(teacher_folder, None, trust),
        read_model_shape(folder, trust),
        read_model_shape(teacher_folder, trust),
        config.teacher_model,
    )
    plain_template, template = find_plain_template(tokenizer), choose_template(tokenizer)
    repair_pad_token(tokenizer)
    prompts = make_prompts(tokenizer, examples, plain_template)
    base, _ = load_model(config.model, None, config.device, hub=config.hub, trust_remote_code=trust)
    stop_ids = find_stop_ids(tokenizer, base.generation_config)
    cast(Any, base).generation_config.eos_token_id = stop_ids
    student = LoadedModel(attach_adapter(base, adapter, config.model, folder), tokenizer)
    teacher, _ = load_model(
        config.teacher_model, None, config.device, hub=config.hub, trust_remote_code=trust
    )
    # The larger models of a family pad their vocabulary.
    teacher.resize_token_embeddings(cast(Any, base).config.vocab_size)

    trainer = make_trainer(config, device, student, teacher, prompts)
    train(trainer, config, len(prompts))
    final = output.path(ADAPTER)
    temporary = save_weights(trainer, final, config.model)
    questions, lineage = inherit(adapter, config.model, examples, val_examples)
    lineage["on_policy"] = {"teacher": config.teacher_model, "questions": len(examples)}
    save_metadata(trainer, temporary, final, template, stop_ids, questions, lineage)
    output.manifest.facts = {
        "teacher": config.teacher_model,
        "steps": trainer.state.global_step,
        "device": device,
        "peak_memory_gib": round(read_peak_memory() / 2**30, 2),
    }


def make_trainer(
    config: Config,
    device: str,
    student: LoadedModel,
    teacher: Any,
    prompts: Sequence[PromptItem],
) -> "DistillationTrainer":
    """Make TRL's trainer; `beta` 1 is the reverse divergence, taken on what the student wrote."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.trainer.distillation_config import DistillationConfig
    from trl.trainer.distillation_trainer import DistillationTrainer

    n_steps = count_steps(len(prompts), config.batch_size, config.epochs)
    settings = make_common_settings(device, student.model.dtype) | {
        "num_train_epochs": config.epochs,
        "learning_rate": config.peak_learning_rate,
        "per_device_train_batch_size": config.batch_size,
        "max_completion_length": config.max_tokens,
        "seed": config.seed,
        "beta": 1.0,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 20,
        "save_total_limit": 2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(5, n_steps // 4),
    }
    extra = read_trainer_keys(DistillationConfig, config.trainer, _OWN_KEYS)
    checkpoints = config.out / "checkpoints"
    trainer = DistillationTrainer(
        model=student.model,
        teacher_model=teacher,
        args=build_trainer_config(DistillationConfig, settings, extra, checkpoints),
        train_dataset=Dataset.from_list([{"prompt": item.prompt} for item in prompts]),
        processing_class=student.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def train(trainer: "DistillationTrainer", config: Config, n_prompts: int) -> None:
    """Let the student answer and the teacher score, from the start or from the newest whole
    checkpoint."""
    args: Any = trainer.args
    checkpoint = None if config.overwrite else find_checkpoint(config.out / CHECKPOINTS)
    rows_per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    n_steps = count_steps(n_prompts, rows_per_step, args.num_train_epochs, args.max_steps)
    try:
        run_trainer(trainer, "on-policy", config.out, n_steps, checkpoint)
    except Exception as error:
        raise explain_failure(error, config.out, limit="--max-tokens") from error
