"""On-policy distillation: the student answers, an open teacher scores its every token, and the
student moves towards the teacher there.

In: a student's adapter, the questions of `train.jsonl`, a teacher. Out: what `train` writes:
`adapter/`, `checkpoints/`, `metrics.jsonl`. TRL's distillation trainer does the work, in one
process; a teacher of another tokenizer goes through `train.across`.
Not done here: a teacher behind a server, which TRL can ask for single probabilities only;
supervised training (`train.work`).
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkd.core.errors import InputError
from medkd.core.records import Example
from medkd.core.stage_output import Manifest, open_stage_output
from medkd.models.chat_template import (
    encode,
    find_plain_template,
    find_stop_ids,
    find_template,
    repair_pad_token,
)
from medkd.models.inspect import ModelShape, read_json, read_model_shape
from medkd.models.load import (
    LoadedModel,
    choose_device,
    importing,
    load_libraries,
    load_model,
    load_tokenizer,
    resolve_adapter,
    resolve_model,
)
from medkd.train.checkpoints import find_checkpoint, read_step
from medkd.train.plan import GIB, find_too_little_memory_for_two, find_what_is_there
from medkd.train.preflight import refuse
from medkd.train.rollouts import Asked, ask
from medkd.train.save import LINEAGE, QUESTIONS, choose_questions, save_papers, save_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from medkd.train.stage import Config

OWN_KEYS = ("teacher_model_name_or_path", "teacher_model_init_kwargs", "max_completion_length")


def run_on_policy(config: "Config") -> Manifest:
    """Distil as configured; goes on from the newest whole checkpoint of a run that was killed."""
    from medkd.train.stage import (
        LIBRARIES,
        ORPHANS_WAIT_S,
        WRITES,
        find_inputs,
        read_examples,
    )

    load_libraries()
    if not config.teacher_model or config.adapter is None:
        missing = (
            "--teacher-model, the open model that scores the answers"
            if not config.teacher_model
            else "--adapter, a student that answers"
        )
        raise InputError(f"--method on-policy: give {missing}")
    train_path, val_path = find_inputs(config)
    folder, teacher = (
        resolve_model(config.model, config.hub, config.trust_remote_code),
        _resolve_teacher(config),
    )
    adapter = resolve_adapter(config.adapter)
    inputs = {
        "input": train_path,
        "validation": [val_path] if val_path else [],
        "adapter": adapter,
    }
    with open_stage_output(
        "train", config, inputs, WRITES, libraries=LIBRARIES, wait_s=ORPHANS_WAIT_S
    ) as space:
        if space.is_finished:
            return space.manifest
        examples = read_examples(train_path, space)
        val_examples = read_examples(val_path, None) if val_path else []
        space.manifest.counts.kept = len(examples)
        space.manifest.facts = _distil(config, examples, val_examples, folder, teacher, adapter)
        return space.manifest


def _resolve_teacher(config: "Config") -> Path:
    try:
        return resolve_model(config.teacher_model, config.hub, config.trust_remote_code)
    except InputError as error:
        raise InputError(str(error).replace("--model", "--teacher-model")) from error


def find_strange_token(
    student: "PreTrainedTokenizerBase", teacher: "PreTrainedTokenizerBase"
) -> str | None:
    """Find a token of the student that has another number at the teacher; None where whole
    distributions can be compared."""
    known = teacher.get_vocab()
    numbered = sorted(student.get_vocab().items(), key=lambda item: item[1])
    return next((token for token, number in numbered if known.get(token) != number), None)


def check_sizes(student: ModelShape, teacher: ModelShape, name: str) -> None:
    """Raise InputError where the teacher's distribution is narrower than the student's; a wider one
    ends with places nobody uses."""
    if teacher.vocabulary < student.vocabulary:
        raise InputError(
            f"{name}: knows {teacher.vocabulary} tokens, the student {student.vocabulary}; choose another teacher of the student's family"
        )


def _distil(
    config: "Config",
    examples: Sequence[Example],
    val_examples: Sequence[Example],
    folder: Path,
    teacher_folder: Path,
    adapter: Path,
) -> dict[str, Any]:
    import torch

    with importing():
        from medkd.train.across import check_tokenizers
        from medkd.train.across import make_trainer as make_trainer_across
        from medkd.train.grpo import attach_adapter
        from medkd.train.work import read_peak_memory

    trust, device = config.trust_remote_code, choose_device(config.device)
    tokenizer, teacher_tokenizer = (
        load_tokenizer(folder, adapter, trust),
        load_tokenizer(teacher_folder, None, trust),
    )
    strange = find_strange_token(tokenizer, teacher_tokenizer)
    plain_template = find_plain_template(tokenizer)
    if plain_template is None:
        raise InputError(
            f"{config.model}: no template without a thinking prefix is known for it; choose a model of the ChatML family"
        )
    template = find_template(tokenizer)
    repair_pad_token(tokenizer)
    questions = ask(tokenizer, examples, plain_template)
    skeletons = read_model_shape(folder, trust), read_model_shape(teacher_folder, trust)
    if strange is None:
        check_sizes(*skeletons, config.teacher_model)
    else:
        check_tokenizers(tokenizer, teacher_tokenizer, questions[0].prompt, config.teacher_model)
        print(
            f"on-policy: the teacher has another tokenizer (see {strange!r}); texts are compared byte by byte",
            file=sys.stderr,
        )
    longest = max(len(encode(tokenizer, question.prompt)) for question in questions)
    need = _check_memory(config, device, *skeletons, longest, keeps_logits=strange is not None)
    loaded = load_model(config.model, None, config.device, hub=config.hub, trust_remote_code=trust)
    stop_ids = find_stop_ids(tokenizer, loaded.model.generation_config)
    loaded.model.generation_config.eos_token_id = stop_ids  # pyright: ignore[reportOptionalMemberAccess]
    model = attach_adapter(loaded.model, adapter, config.model, folder)
    teacher = load_model(
        config.teacher_model, None, config.device, hub=config.hub, trust_remote_code=trust
    )
    student = LoadedModel(model, tokenizer)
    settings = _make_settings(config, device, len(questions)) | {
        "bf16": loaded.model.dtype == torch.bfloat16
    }
    if strange is None:
        teacher.model.resize_token_embeddings(loaded.model.config.vocab_size)
        trainer = make_trainer(student, teacher, questions, settings, config.trainer, config.out)
    else:
        trainer = make_trainer_across(
            student, teacher, teacher_folder, questions, settings, config.trainer, config.out
        )
    distil(trainer, len(questions), config.out)
    final = config.out / "adapter"
    proof = read_json(adapter / QUESTIONS) or choose_questions(examples, val_examples)
    lineage = (read_json(adapter / LINEAGE) or {"base_model": config.model}) | {
        "on_policy": {"teacher": config.teacher_model, "questions": len(examples)}
    }
    save_papers(
        trainer,
        save_weights(trainer, final, config.model, is_main=True),
        final,
        template,
        stop_ids,
        proof,
        lineage,
    )
    return {
        "teacher": config.teacher_model,
        "compared_by": "tokens" if strange is None else "bytes",
        "steps": trainer.state.global_step,
        "device": device,
        "expected_memory_gib": round(need / GIB, 2),
        "peak_memory_gib": round(read_peak_memory() / GIB, 2),
    }


def _check_memory(
    config: "Config",
    device: str,
    student: ModelShape,
    teacher: ModelShape,
    longest: int,
    keeps_logits: bool,
) -> float:
    """Say what both models will need, and refuse what is not there; gives the bytes."""
    from medkd.train.stage import make_shape

    there = find_what_is_there(device)
    n_tokens = config.batch_size * (longest + config.max_tokens)
    shape = make_shape(config, device, longest, 1)._replace(n_tokens=n_tokens)
    need, findings = find_too_little_memory_for_two(
        student, teacher, shape, there, is_tiled=not keeps_logits
    )
    refuse(findings, config.teacher_model)
    print(
        f"on-policy: about {need / GIB:.1f} GiB for student and teacher, {there.memory / GIB:.1f} GiB are there",
        file=sys.stderr,
    )
    return need


def _make_settings(config: "Config", device: str, n_questions: int) -> dict[str, Any]:
    """Say in TRL's words what the stage's own fields say; `beta` 1 is the reverse divergence, which
    looks at what the student says."""
    from medkd.train.sft import count_steps
    from medkd.train.stage import LEARNING_RATES

    on_gpu = device == "cuda"
    return {
        "num_train_epochs": config.epochs,
        "learning_rate": config.learning_rate or LEARNING_RATES[config.weights],
        "per_device_train_batch_size": config.batch_size,
        "max_completion_length": config.max_tokens,
        "seed": config.seed,
        "beta": 1.0,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 20,
        "save_total_limit": 2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(5, count_steps(n_questions, config.batch_size, config.epochs) // 4),
        "max_grad_norm": 1.0,
        "gradient_checkpointing": on_gpu,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "report_to": "none",
        "disable_tqdm": True,
    }


def make_trainer(
    student: LoadedModel,
    teacher: LoadedModel,
    questions: Sequence[Asked],
    settings: Mapping[str, Any],
    extra: Mapping[str, Any],
    out: Path,
) -> Any:
    """Put TRL's distillation trainer together, for a teacher of the student's own tokens."""
    from datasets import Dataset
    from trl.trainer.distillation_config import DistillationConfig
    from trl.trainer.distillation_trainer import DistillationTrainer

    from medkd.train.trainer_config import build_config, check_keys

    check_keys(DistillationConfig, extra, OWN_KEYS)
    return DistillationTrainer(
        model=student.model,
        teacher_model=teacher.model,
        args=build_config(DistillationConfig, settings, extra, out / "checkpoints"),
        train_dataset=Dataset.from_list([{"prompt": question.prompt} for question in questions]),
        processing_class=student.tokenizer,
    )


def distil(trainer: Any, n_questions: int, out: Path) -> None:
    """Let the student answer and the teacher score, from the start or from the newest whole
    checkpoint."""
    from transformers import PrinterCallback

    from medkd.core.progress import Bar
    from medkd.train.sft import count_steps
    from medkd.train.watch import Interruption, MetricsWriter
    from medkd.train.work import explain

    checkpoint = find_checkpoint(out / "checkpoints")
    trainer.remove_callback(PrinterCallback)
    rows_a_step = (
        trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    )
    n_steps = count_steps(
        n_questions, rows_a_step, trainer.args.num_train_epochs, trainer.args.max_steps
    )
    with Bar("on-policy", n_steps, "steps") as bar, Interruption("on-policy") as interruption:
        trainer.add_callback(
            MetricsWriter(out / "metrics.jsonl", bar, read_step(checkpoint) if checkpoint else 0)
        )
        trainer.add_callback(interruption)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except (OSError, MemoryError, RuntimeError) as error:
            raise explain(error, out, limit="--max-tokens") from error
        if interruption.is_wanted:
            raise KeyboardInterrupt
