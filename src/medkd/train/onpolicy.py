"""On-policy distillation: the student answers, an open teacher scores its every token.

In: a student's adapter, the questions of `train.jsonl`, a teacher of the same tokenizer: a model in
this process, one behind a vLLM server, or the student itself with the answer at hand. Out: what
`train` writes. Not done here: a teacher of another tokenizer, supervised training.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medkd.core.errors import InputError, StoppedError
from medkd.core.records import Example
from medkd.core.stage_output import Manifest
from medkd.models.chat_template import (
    encode,
    fold_system,
    has_thinking_prefix,
    make_messages,
    render,
)
from medkd.models.inspect import ModelShape, read_model_shape
from medkd.models.load import (
    choose_device,
    load_libraries,
    load_model,
    load_tokenizer,
    resolve_adapter,
    resolve_model,
)
from medkd.report.run import write_training_page
from medkd.train.config import Config, StudentConfig, build_trainer_config
from medkd.train.rollouts import check_memory
from medkd.train.student import (
    Student,
    find_inputs,
    load_student,
    open_training,
    read_examples,
    train_student,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

TOP_K = 20
"""Likelihoods a token that a server is asked for: what vLLM gives unless it is told otherwise."""
HINT = {
    "zh": "已知正确答案：{answer}\n请像不知道答案那样，从病历一步步推出它。",
    "en": "The right answer is known: {answer}\nReason towards it from the question step by step, "
    "as if it were not known.",
}
"""What the student that teaches itself is told behind the question."""
_OWN_KEYS = (
    "teacher_model_name_or_path",
    "teacher_model_init_kwargs",
    "teacher_model_server_url",
    "max_completion_length",
    "max_prompt_length",
    "packing",
    "early_stopping_patience",
)


def distil_on_policy(config: Config) -> Manifest:
    """Distil as configured; goes on from the newest whole checkpoint of a run that was killed."""
    load_libraries()
    train_path, val_path = find_inputs(config.input)
    adapter = resolve_adapter(cast(Path, config.adapter))
    inputs = {"input": train_path, "validation": val_path, "adapter": adapter}
    with open_training("train", config, inputs, "--max-tokens") as output:
        if output.is_finished:
            return output.manifest
        examples, val_examples = read_examples(train_path, output), read_examples(val_path)
        base_tokenizer = load_tokenizer(config.resolve_model())
        if config.teacher == "self" and has_thinking_prefix(base_tokenizer):
            raise InputError(
                "{}: thinks at length by itself, and with the answer at hand it would "
                "unlearn to; choose --teacher-model, a larger model of its family",
                config.model,
            )
        student = load_student(config, adapter)
        rows = make_rows(config, student, examples)
        name = config.teacher_model
        shape = read_model_shape(resolve_teacher(config, name)) if name else None
        check_memory(config, student, [_read_prompt(row) for row in rows], shape)
        teacher = None
        if config.teacher_url:
            check_server(config.teacher_url, student.tokenizer, rows[0]["prompt"])
        elif name:
            teacher = load_teacher(config, name, student)
        trainer = make_trainer(config, student, teacher, rows)
        named = name or config.teacher_url or "self"
        output.manifest.counts.kept = len(examples)
        output.manifest.facts["teacher"] = named
        history = {"on_policy": {"teacher": named, "questions": len(examples)}}
        try:
            output.manifest.facts |= train_student(
                trainer, config, "train", student, examples, val_examples, history
            )
        except Exception as error:
            if config.teacher_url and _is_lost_server(error):
                raise StoppedError(
                    "--teacher-url {}: answers no more; start the server again and run the same "
                    "command: the last whole checkpoint is kept",
                    config.teacher_url,
                ) from error
            raise
        write_training_page(output.directory, output.manifest)
        return output.manifest


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
        raise _another_tokenizer(name, f"see {strange!r}")
    if teacher_shape.vocabulary < shape.vocabulary:
        raise InputError(
            "{}: knows {} tokens, the student {}; choose another teacher of the student's family",
            name,
            teacher_shape.vocabulary,
            shape.vocabulary,
        )


def _another_tokenizer(name: str, where: str) -> InputError:
    return InputError(
        "{}: has another tokenizer than the student ({}); choose a teacher of the "
        "student's family, or have it write rationales instead (run \"medkd "
        'distill")',
        name,
        where,
    )


def check_server(url: str, tokenizer: "PreTrainedTokenizerBase", prompt: str) -> None:
    """Raise InputError for a server that is not there, or tokenizes otherwise than the student."""
    import requests

    try:
        answer = requests.post(
            f"{url.rstrip('/')}/tokenize",
            json={"prompt": prompt, "add_special_tokens": False},
            timeout=60,
        )
        answer.raise_for_status()
        ids = cast(list[int], answer.json()["tokens"])
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "--teacher-url {}: does not answer as a vLLM server does ({}); start one "
            'with "vllm serve MODEL"',
            url,
            error,
        ) from error
    if ids != encode(tokenizer, prompt):
        raise _another_tokenizer(url, "its /tokenize gives other tokens")


def resolve_teacher(config: StudentConfig, name: str) -> Path:
    """Find the folder of an open teacher; raises InputError where there is none."""
    try:
        return resolve_model(name, config.hub)
    except InputError as error:
        raise InputError(str(error).replace("--model", "--teacher-model")) from error


def load_teacher(config: StudentConfig, name: str, student: Student) -> Any:
    """Load an open teacher with as many tokens as the student; raises InputError for one of another
    tokenizer."""
    folder = resolve_teacher(config, name)
    check_teacher(
        student.tokenizer,
        load_tokenizer(folder),
        read_model_shape(config.resolve_model()),
        read_model_shape(folder),
        name,
    )
    teacher, _ = load_model(name, None, config.device, hub=config.hub)
    # The larger models of a family pad their vocabulary.
    teacher.resize_token_embeddings(cast(Any, student.model).config.vocab_size)
    return teacher


def make_rows(
    config: Config, student: Student, examples: Sequence[Example]
) -> list[dict[str, Any]]:
    """Make the prompts; a student that teaches itself is shown the answer behind the question, in
    turns that TRL writes itself."""
    tokenizer, template = student.tokenizer, student.plain_template
    prompts = [make_messages(e.input, e.instruction, e.system) for e in examples]
    if config.teacher != "self":
        return [{"prompt": render(tokenizer, messages, template)} for messages in prompts]
    tokenizer.chat_template = template
    turns = [fold_system(tokenizer, messages, template) for messages in prompts]
    answers = [HINT[e.language].format(answer=e.reference or e.answer) for e in examples]
    return [
        {"prompt": [turn.model_dump() for turn in each], "privileged_context": answer}
        for each, answer in zip(turns, answers, strict=True)
    ]


def _read_prompt(row: Mapping[str, Any]) -> str:
    """Read the longest text that stands before an answer: what a student that teaches itself
    sees."""
    if isinstance(row["prompt"], str):
        return row["prompt"]
    return "".join([*(turn["content"] for turn in row["prompt"]), row["privileged_context"]])


def _is_lost_server(error: Exception) -> bool:
    """Tell whether TRL's client of a server could not reach it; it raises bare exceptions too."""
    from requests.exceptions import RequestException

    is_connection = isinstance(error, RequestException | ConnectionError)
    return is_connection or str(error).startswith("Request failed")


def make_trainer(
    config: Config, student: Student, teacher: Any, rows: Sequence[dict[str, Any]]
) -> "Trainer":
    """Make the trainer of TRL that fits the teacher.

    A model in this process gives its whole distribution (reverse divergence, `beta` 1), a server
    its likeliest tokens (forward divergence, `beta` 0); the student itself scores what it said
    behind a prompt that holds the answer.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset

    config_class, trainer_class, own = _choose_trainer(config)
    settings = {
        "num_train_epochs": config.epochs,
        "learning_rate": config.learning_rate or 2e-4,
        "max_completion_length": config.max_tokens,
        **own,
    }
    device = choose_device(config.device)
    args = build_trainer_config(config_class, config, device, len(rows), settings, _OWN_KEYS)
    teachers = {} if teacher is None else {"teacher_model": teacher}
    trainer = trainer_class(
        model=student.model,
        args=args,
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=student.tokenizer,
        **teachers,
    )
    if config.teacher != "self":
        encode_as_served(trainer)
    return trainer


def encode_as_served(trainer: Any) -> None:
    """Have a trainer of TRL encode prompts that are texts as they stand: they hold the token that a
    text begins with, and TRL 1.16 lets the tokenizer add it once more."""
    tokenizer = trainer.processing_class

    def tokenize(prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [encode(tokenizer, prompt) for prompt in prompts], None, {}

    if not hasattr(type(trainer), "_tokenize_prompts"):  # it would be replaced in vain
        raise RuntimeError("TRL names the method that encodes prompts otherwise")
    trainer._tokenize_prompts = tokenize


def _choose_trainer(config: Config) -> tuple[Any, Any, dict[str, Any]]:
    """Choose TRL's config, its trainer, and the settings that are its own."""
    if config.teacher == "self":
        from trl.experimental.sdft import SDFTConfig, SDFTTrainer

        own = {
            "teacher_model_kind": "live",
            "num_generations": 1,
            "max_prompt_length": None,
        }
        return SDFTConfig, SDFTTrainer, own
    if config.teacher_url:
        from trl.experimental.server_distillation import (
            ServerDistillationConfig,
            ServerDistillationTrainer,
        )

        own = {
            "teacher_model_server_url": config.teacher_url,
            "beta": 0.0,
            "loss_top_k": TOP_K,
        }
        return ServerDistillationConfig, ServerDistillationTrainer, own
    from trl.trainer.distillation_config import DistillationConfig
    from trl.trainer.distillation_trainer import DistillationTrainer

    return DistillationConfig, DistillationTrainer, {"beta": 1.0}
