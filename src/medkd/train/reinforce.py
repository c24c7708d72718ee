"""The stage `reinforce`: a student that already answers is paid for better answers (GRPO).

In: an adapter of `train` (or, named so, the bare base), the questions of `train.jsonl`; `val.jsonl`
beside it is watched. Out: `adapter/`, `checkpoints/`, `metrics.jsonl`, `start.json` (what the start
was like), `held_out.jsonl`, `report.html`, and `ledger.sqlite` where a judge is paid. Not done
here: what is right (`grading`), supervised training (`train.stage`).
"""

import json
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, field_validator

from medkd.core.completer import Sampling
from medkd.core.config import LOADS_CODE, RUNTIME, SENDS_KEY, Seed, StageConfig, did_you_mean
from medkd.core.errors import InputError, StoppedError, from_os_error
from medkd.core.jsonl import RecordReader, resolve_input, write_json
from medkd.core.records import Example
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.models.chat_template import (
    encode,
    find_plain_template,
    find_stop_ids,
    find_template,
    repair_pad_token,
)
from medkd.models.inspect import read_json
from medkd.models.load import (
    Device,
    Dtype,
    Hub,
    choose_device,
    importing,
    load_model,
    load_tokenizer,
    resolve_adapter,
    resolve_model,
)
from medkd.train.checkpoints import find_checkpoint, read_step
from medkd.train.held_out import Watch, make_callback
from medkd.train.rewards import DEFAULT_WEIGHTS, NAMES, make_rewards
from medkd.train.rollouts import Asked, Sampler, ask
from medkd.train.save import LINEAGE, QUESTIONS, choose_questions, save_papers, save_weights
from medkd.train.start import (
    Start,
    check_memory,
    check_start,
    check_weights,
    choose_start,
    describe,
    measure_start,
    unpack_band,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from medkd.train.judging import Judge

FROM_BASE = Path("base")
"""The word that `adapter` takes for a start without one."""
ADAPTER, LEDGER = "adapter", "ledger.sqlite"
WRITES = (
    "checkpoints",
    ADAPTER,
    "metrics.jsonl",
    "held_out.jsonl",
    "start.json",
    "report.html",
    ".adapter.tmp",
)


class Config(StageConfig):
    """Reinforce an adapter on the questions of `train.jsonl`."""

    model: str
    """Base model: medkd:tiny, a folder, or a name on a hub."""
    adapter: Annotated[Path, RUNTIME]
    """Where to start: the directory of `train`, an adapter folder, or the word `base` for the model
    as it is."""
    input: Annotated[Path, RUNTIME]
    """Directory of `merge`, or a file of examples; `val.jsonl` beside it is watched, never trained
    on."""
    hub: Annotated[Hub, RUNTIME] = "huggingface"
    """Where a model that is only named is fetched from."""
    trust_remote_code: Annotated[bool, RUNTIME, LOADS_CODE] = False
    """Let a model run code that came with it."""
    rewards: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=lambda: dict(DEFAULT_WEIGHTS)
    )
    """Weight of each reward: diagnosis, format, stop, loop, grounded, length, judge; what is not
    named does not count."""
    judge: str = ""
    """Who fills the reward `judge`: a provider of providers.yaml, or `custom` with --judge-base-url
    and --judge-model."""
    judge_model: str = ""
    """The judge's model; the provider's first where none is given."""
    judge_base_url: Annotated[str, RUNTIME, SENDS_KEY] = ""
    """Address of the judge; the provider's own where none is given."""
    budget: Annotated[float | None, RUNTIME, Field(gt=0)] = None
    """Most money the judge may cost, in the provider's currency; a hard stop."""
    steps: int = Field(default=100, ge=1)
    """Steps, each with fresh answers."""
    questions: int = Field(default=8, ge=1)
    """Questions a step."""
    group_size: int = Field(default=8, ge=2)
    """Answers to each question, compared with each other."""
    max_tokens: int = Field(default=1024, ge=16)
    """Longest answer in tokens; what it cuts off is not learnt from."""
    weights: Literal["adapter", "norm"] = "adapter"
    """What is trained: the LoRA adapter, or the gain of the final norm alone, for a start whose
    rewards only wander."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """After a short warm-up; a LoRA adapter of a 7B model bears 1e-5, the tiny student a hundred
    times that; a norm far more."""
    batch_size: int = Field(default=8, ge=1)
    """Answers computed at a time; lower it where memory runs out."""
    seed: Seed = 0
    """Decides the order of questions and what is drawn."""
    dtype: Dtype = "auto"
    """Number format; auto takes bfloat16 where the processor computes in it."""
    device: Annotated[Device, RUNTIME] = "auto"
    """Where to compute."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Anything else that TRL's GRPOConfig knows (beta, temperature, use_vllm, …), passed straight
    to it."""

    @field_validator("rewards")
    @classmethod
    def _know_rewards(cls, rewards: dict[str, float]) -> dict[str, float]:
        for name in rewards:
            if name not in NAMES:
                raise ValueError(f"unknown reward {name!r}{did_you_mean(name, list(NAMES))}")
        return rewards


def run(config: Config) -> Manifest:
    """Reinforce as configured; goes on from the newest whole checkpoint of a run that was
    killed."""
    check_weights(config.rewards, bool(config.judge))
    if config.questions * config.group_size % config.batch_size:
        raise InputError(
            f"--batch-size {config.batch_size} does not divide the {config.questions} x {config.group_size} answers of a step; "
            f"give --batch-size {config.group_size}"
        )
    train_path = resolve_input(config.input, "train.jsonl", made_by="merge")
    val_path = train_path.with_name("val.jsonl")
    has_val = val_path != train_path and val_path.exists() and val_path.stat().st_size > 0
    folder = resolve_model(config.model, config.hub, config.trust_remote_code)
    adapter = None if config.adapter == FROM_BASE else resolve_adapter(config.adapter)
    inputs = {
        "input": train_path,
        "validation": [val_path] if has_val else [],
        "adapter": [adapter] if adapter else [],
        "model": [folder] if Path(config.model).is_dir() else [],
    }
    libraries = ["torch", "transformers", "trl", "peft", "accelerate"]
    with open_stage_output("reinforce", config, inputs, WRITES, libraries=libraries) as space:
        if space.is_finished:
            return space.manifest
        examples = _read(train_path, space, needs_reference=bool(config.rewards.get("diagnosis")))
        held_out = list(RecordReader(val_path, Example, made_by="merge")) if has_val else []
        with _open_judge(config, space) as judge:
            _reinforce(config, space, examples, held_out, folder, adapter, judge)
        return space.manifest


def _read(path: Path, space: StageOutput, needs_reference: bool) -> list[Example]:
    reader = RecordReader(path, Example, made_by="merge")
    examples = list(reader)
    space.read(reader.n_read)
    space.drop_all(reader.dropped())
    kept = [example for example in examples if example.reference or not needs_reference]
    space.drop("no_reference", len(examples) - len(kept))
    if not kept:
        raise InputError(
            f"{path}: none of {len(examples)} questions has a known diagnosis to pay for; add a dataset with references, "
            "or set --rewards.diagnosis 0 and have a judge pay"
        )
    return kept


@contextmanager
def _open_judge(config: Config, space: StageOutput) -> Generator["Judge | None"]:
    if not config.judge:
        yield None
        return
    from medkd.train.judging import open_judge

    with open_judge(
        config.judge, config.judge_model, config.judge_base_url, config.budget, space.path(LEDGER)
    ) as judge:
        try:
            yield judge
        finally:
            space.manifest.cost = judge.cost()


def _reinforce(
    config: Config,
    space: StageOutput,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    folder: Path,
    adapter: Path | None,
    judge: "Judge | None",
) -> None:
    with importing():
        from medkd.train.grpo import (
            attach_adapter,
            attach_norm,
            make_trainer,
            make_trainer_config,
            reinforce,
            score_each,
        )
    from medkd.train.reinforce_report import write_report

    device = choose_device(config.device)
    if config.weights == "norm" and config.dtype not in ("auto", "float32"):
        raise InputError(
            f"--dtype {config.dtype}: too coarse for the small steps of a norm; leave it out, or --weights adapter"
        )
    dtype: Dtype = "float32" if config.weights == "norm" else config.dtype
    loaded = load_model(
        config.model, None, config.device, dtype, config.hub, config.trust_remote_code
    )
    tokenizer = load_tokenizer(folder, adapter, config.trust_remote_code)
    template, plain_template = (
        find_template(tokenizer),
        _find_plain_template(tokenizer, config.model),
    )
    repair_pad_token(tokenizer)
    stop_ids = find_stop_ids(tokenizer, loaded.model.generation_config)
    model = (attach_norm if config.weights == "norm" else attach_adapter)(
        loaded.model, adapter, config.model, folder
    )
    questions = ask(tokenizer, examples, plain_template)

    settings: dict[str, Any] = {
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.questions * config.group_size // config.batch_size,
        "num_generations": config.group_size,
        "max_completion_length": config.max_tokens,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
    }
    trainer_config = make_trainer_config(
        settings, space.path("checkpoints"), device, loaded.model.dtype, config.trainer
    )
    _check_room(
        config,
        folder,
        model,
        [len(encode(tokenizer, question.prompt)) for question in questions],
        device,
    )
    sampling = Sampling(
        max_tokens=config.max_tokens,
        temperature=trainer_config.temperature,
        top_p=_below_one(trainer_config.top_p),
        seed=config.seed,
    )
    sampler = Sampler(model, tokenizer, sampling)

    try:
        start = _find_start(config, space, sampler, questions, judge)
        checkpoint = find_checkpoint(space.path("checkpoints"))
        step = read_step(checkpoint) if checkpoint else 0
        watch = Watch(
            space.path("held_out.jsonl"),
            sampler,
            ask(tokenizer, held_out, plain_template),
            _paid(config),
            step,
        )
        if not step:
            watch.look(0)
        rewards = {
            name: score_each(reward)
            for name, reward in make_rewards(config.rewards, unpack_band(start)).items()
        }
        if judge is not None:
            rewards["judge"] = judge
        trainer_config.reward_weights = [config.rewards[name] for name in rewards]
        trainer = make_trainer(model, tokenizer, questions, rewards, sampler, trainer_config)
        reinforce(trainer, space.path("metrics.jsonl"), [make_callback(watch)], checkpoint, step)
    except OSError as error:
        raise from_os_error(error, space.directory) from error
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        raise StoppedError(
            f"{space.directory}: out of memory; lower --batch-size or --max-tokens and run again with --resume, the last checkpoint is kept"
        ) from error
    watch.look(trainer.state.global_step)
    proof_questions, lineage = _trace(config, examples, held_out, adapter)
    final = space.path(ADAPTER)
    temporary = save_weights(trainer, final, config.model, is_main=True)
    save_papers(trainer, temporary, final, template, stop_ids, proof_questions, lineage)
    falls = watch.find_falls()
    for name, (before, after) in falls.items():
        print(
            f"warning: held-out {name}, which no reward pays for, fell from {before:.2f} to {after:.2f}; read report.html",
            file=sys.stderr,
        )
    write_report(
        space.path("report.html"),
        space.path("metrics.jsonl"),
        start,
        watch,
        config.model_dump(mode="json"),
    )
    space.manifest.counts.kept = len(questions)
    space.manifest.facts = {
        "start": start.model_dump(mode="json"),
        "resumed_from_step": step,
        "steps": trainer.state.global_step,
        "held_out": {str(look.step): look.rates for look in watch.looks},
        "fell": falls,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": device,
    }


def _find_plain_template(tokenizer: "PreTrainedTokenizerBase", name: str) -> str:
    template = find_plain_template(tokenizer)
    if template is None:
        raise InputError(
            f"{name}: no template without a thinking prefix is known for it; choose a model of the ChatML family"
        )
    return template


def _check_room(
    config: Config, folder: Path, model: "PreTrainedModel", lengths: Sequence[int], device: str
) -> None:
    from medkd.models.inspect import read_model_shape
    from medkd.train.plan import Shape, find_what_is_there

    frozen = next(weights for weights in model.parameters() if not weights.requires_grad)
    shape = Shape(
        rank=next(iter(cast(Any, model).peft_config.values())).r,
        n_tokens=config.batch_size * (max(lengths) + config.max_tokens),
        weight_bytes=frozen.element_size(),
        is_checkpointed=device == "cuda",
        on_gpu=device == "cuda",
    )
    check_memory(
        read_model_shape(folder, config.trust_remote_code), shape, find_what_is_there(device)
    )


def _below_one(top_p: float) -> float | None:
    return top_p if top_p < 1 else None


def _find_start(
    config: Config,
    space: StageOutput,
    sampler: Sampler,
    questions: Sequence[Asked],
    judge: "Judge | None",
) -> Start:
    """Measure the start, or read what an earlier run of the same work measured: the band of lengths
    must not move."""
    path = space.path("start.json")
    found = read_json(path)
    if found:
        return Start.model_validate_json(json.dumps(found))
    start = measure_start(
        sampler, choose_start(questions, config.seed), config.group_size, config.rewards, judge
    )
    print(f"reinforce: {len(questions)} questions; {describe(start)}", file=sys.stderr)
    for note in start.notes:
        print(f"note: {note}", file=sys.stderr)
    check_start(start, config.max_tokens)
    write_json(path, start.model_dump(mode="json"))
    return start


def _paid(config: Config) -> list[str]:
    return [name for name, weight in config.rewards.items() if weight]


def _trace(
    config: Config, examples: Sequence[Example], held_out: Sequence[Example], adapter: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Carry on what came with the start, and add what was reinforced on."""
    lineage = (read_json(adapter / LINEAGE) if adapter else None) or {"base_model": config.model}
    questions = (read_json(adapter / QUESTIONS) if adapter else None) or choose_questions(
        examples, held_out
    )
    rewards = {name: weight for name, weight in config.rewards.items() if weight}
    return questions, lineage | {
        "reinforced": {
            "questions": len(examples),
            "steps": config.steps,
            "rewards": rewards,
            "judge": config.judge,
        }
    }
