"""The stage `reinforce`: a student that already answers is rewarded for better answers (GRPO).

In: an adapter of `train` (or the bare base), the questions of `train.jsonl`; `val.jsonl` beside it
is the holdout. Out: `adapter/`, `checkpoints/`, `metrics.jsonl`, `start.json` (the baseline),
`held_out.jsonl`, `report.html`, `ledger.sqlite` of a judge. Not done here: grading, `train`.
"""

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

from pydantic import Field, field_validator

from medkd.core.completer import Sampling
from medkd.core.config import LOADS_CODE, RUNTIME, SENDS_KEY, Seed, StageConfig, did_you_mean
from medkd.core.errors import InputError, Said
from medkd.core.jsonl import write_json
from medkd.core.privacy import AcceptIdentified, check_deidentified
from medkd.core.records import Example
from medkd.core.stage_output import Manifest, StageOutput
from medkd.core.task import TaskFile, check_tasks, list_task_inputs
from medkd.grading.terms import TermsFile, list_terms_inputs
from medkd.models.chat_template import (
    encode,
    find_plain_template,
    find_stop_ids,
    repair_pad_token,
)
from medkd.models.inspect import read_json, read_model_shape
from medkd.models.load import (
    Device,
    Dtype,
    Hub,
    choose_device,
    load_libraries,
    load_model,
    load_tokenizer,
    resolve_adapter,
    resolve_model,
)
from medkd.train.checkpoints import (
    ADAPTER,
    choose_template,
    find_checkpoint,
    inherit,
    open_training,
    read_step,
    run_trainer,
    save_metadata,
    save_weights,
)
from medkd.train.config import BatchSize, LearningRate, MaxLength
from medkd.train.grpo import (
    PromptItem,
    Sampler,
    attach_adapter,
    make_prompts,
    make_trainer,
    make_trainer_config,
)
from medkd.train.memory import Workload, measure_machine
from medkd.train.monitoring import (
    Baseline,
    HoldoutMonitor,
    check_baseline,
    check_memory,
    choose_questions,
    describe,
    measure_baseline,
    write_reinforcement_page,
)
from medkd.train.rewards import (
    DEFAULT_WEIGHTS,
    NAMES,
    Band,
    JudgeReward,
    check_weights,
    make_rewards,
    open_judge,
)
from medkd.train.sft import explain_failure
from medkd.train.tokenize import find_inputs, read_examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl.trainer.grpo_config import GRPOConfig

FROM_BASE = Path("base")
"""The value of `adapter` for a start without one."""
LEDGER = "ledger.sqlite"
WRITES = (
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
    """Adapter to start from: the directory of `train`, an adapter folder, or `base` for the model
    without one."""
    input: Annotated[Path, RUNTIME]
    """Directory of `merge`, or a file of examples; `val.jsonl` beside it is the holdout, never
    trained on."""
    task: TaskFile = ""
    """Task file, where the rows are of a task of your own."""
    hub: Annotated[Hub, RUNTIME] = "huggingface"
    """Hub to download a named model from."""
    trust_remote_code: Annotated[bool, RUNTIME, LOADS_CODE] = False
    """Run the code that a model brings with it."""
    rewards: dict[str, Annotated[float, Field(ge=0, le=1e6)]] = Field(
        default_factory=lambda: dict(DEFAULT_WEIGHTS)
    )
    """Weight of each reward: diagnosis, format, stop, loop, grounded, length, judge; one that is
    not named does not count."""
    terms: TermsFile = None
    """Table of codes and names (CSV or Excel) by which the reward `diagnosis` knows names of one
    disease."""
    judge: str = ""
    """Endpoint of the reward `judge`: a provider of providers.yaml, or `custom` with
    --judge-base-url and --judge-model."""
    judge_model: str = ""
    """Model of the judge; default: the provider's first."""
    judge_base_url: Annotated[str, RUNTIME, SENDS_KEY] = ""
    """Address of the judge; default: the provider's own."""
    accept_identified: AcceptIdentified = False
    """Send rows without deidentified_by to the judge too."""
    budget: Annotated[float | None, RUNTIME, Field(gt=0)] = None
    """Most money the judge may cost, in the provider's currency; a hard stop."""
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Steps, each with fresh answers."""
    questions: BatchSize = 8
    """Questions a step."""
    group_size: Annotated[int, Field(ge=2, le=4096)] = 8
    """Answers to each question, compared with each other."""
    max_tokens: MaxLength = 1024
    """Longest answer in tokens; what it cuts off is not learnt from."""
    learning_rate: LearningRate = 1e-5
    """After a short warm-up; a LoRA adapter of a 7B model bears 1e-5, the tiny student a hundred
    times that."""
    batch_size: BatchSize = 8
    """Answers computed at a time; lower it where memory runs out."""
    seed: Seed = 0
    """Seed of the order of questions and of the draws."""
    dtype: Dtype = "auto"
    """Number format; auto takes bfloat16 where the processor computes in it."""
    device: Annotated[Device, RUNTIME] = "auto"
    """Where to compute."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Any other field of TRL's GRPOConfig (beta, temperature, use_vllm, …)."""

    @field_validator("rewards")
    @classmethod
    def _know_rewards(cls, rewards: dict[str, float]) -> dict[str, float]:
        for name in rewards:
            if name not in NAMES:
                raise ValueError(
                    Said("unknown reward {!r}{}", name, did_you_mean(name, list(NAMES)))
                )
        return rewards

    @property
    def paid(self) -> dict[str, float]:
        """The rewards that count."""
        return {name: weight for name, weight in self.rewards.items() if weight}


class Student(NamedTuple):
    """The model that is reinforced, and how it is prompted."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    template: str
    plain_template: str
    stop_ids: list[int]


def run(config: Config) -> Manifest:
    """Reinforce as configured; goes on from the newest whole checkpoint of a run that was
    killed."""
    check_weights(config.rewards, bool(config.judge))
    if config.questions * config.group_size % config.batch_size:
        raise InputError(
            "--batch-size {0} does not divide the {1} x {2} answers of a step; give "
            "--batch-size {2}",
            config.batch_size,
            config.questions,
            config.group_size,
        )
    train_path, val_path = find_inputs(config.input)
    folder = resolve_model(config.model, config.hub, config.trust_remote_code)
    adapter = None if config.adapter == FROM_BASE else resolve_adapter(config.adapter)
    base = folder if Path(config.model).is_dir() else None
    inputs = {
        "input": train_path,
        "validation": val_path,
        "adapter": adapter,
        "model": base,
        **list_terms_inputs(config.terms),
        **list_task_inputs(config.task),
    }
    with open_training("reinforce", config, inputs, WRITES) as output:
        if output.is_finished:
            return output.manifest
        examples = _read(config, train_path, output)
        held_out = read_examples(val_path)
        with _open_judge(config, output) as judge:
            try:
                _reinforce(config, output, examples, held_out, folder, adapter, judge)
            except Exception as error:
                raise explain_failure(error, config.out, limit="--max-tokens") from error
        return output.manifest


def _read(config: Config, path: Path, output: StageOutput) -> list[Example]:
    """Read the questions that can be rewarded, and may be shown to the judge."""
    examples = read_examples(path, output)
    check_tasks({example.task for example in examples}, config.task, path)
    needs_reference = bool(config.rewards.get("diagnosis"))
    kept = [example for example in examples if example.reference or not needs_reference]
    output.drop("no_reference", len(examples) - len(kept))
    if not kept:
        raise InputError(
            "{}: none of {} questions has a known diagnosis to pay for; add a "
            "dataset with references, or set --rewards.diagnosis 0 and have a judge "
            "pay",
            path,
            len(examples),
        )
    if config.judge:
        marks = (example.lineage.deidentified_by for example in kept)
        n_identified = check_deidentified(marks, path, "the judge", config.accept_identified)
        output.manifest.facts["accepted_identified"] = n_identified
    return kept


@contextmanager
def _open_judge(config: Config, output: StageOutput) -> Generator[JudgeReward | None]:
    if not config.judge:
        yield None
        return
    ledger = output.path(LEDGER)
    with open_judge(
        config.judge, config.judge_model, config.judge_base_url, config.budget, ledger
    ) as judge:
        try:
            yield judge
        finally:
            output.manifest.cost = judge.tell_cost()


def _reinforce(
    config: Config,
    output: StageOutput,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    folder: Path,
    adapter: Path | None,
    judge: JudgeReward | None,
) -> None:
    load_libraries()
    device = choose_device(config.device)
    student = _load_student(config, folder, adapter)
    model, tokenizer = student.model, student.tokenizer
    questions = make_prompts(tokenizer, examples, student.plain_template, config.task)
    args = _make_args(config, device, model)
    _check_memory(config, folder, student, questions, device)
    sampler = _make_sampler(config, student, args)
    baseline = _find_baseline(config, output, sampler, questions, judge)
    checkpoints = output.path("checkpoints")
    checkpoint = None if config.overwrite else find_checkpoint(checkpoints)
    step = read_step(checkpoint)
    holdout = make_prompts(tokenizer, held_out, student.plain_template, config.task)
    monitor = HoldoutMonitor(output.path("held_out.jsonl"), sampler, holdout, config.paid, step)
    if not step:
        monitor.look(0)
    rewards = make_rewards(config.rewards, Band(*baseline.band), config.terms)
    if judge is not None:
        rewards["judge"] = judge
    args.reward_weights = [config.rewards[name] for name in rewards]

    trainer = make_trainer(model, tokenizer, questions, rewards, sampler, args)
    run_trainer(trainer, "reinforce", config.out, config.steps, checkpoint, [monitor])
    monitor.look(trainer.state.global_step)
    proof_questions, lineage = inherit(adapter, config.model, examples, held_out)
    lineage["reinforced"] = {
        "questions": len(examples),
        "steps": config.steps,
        "rewards": config.paid,
        "judge": config.judge,
    }
    final = output.path(ADAPTER)
    temporary = save_weights(trainer, final, config.model)
    save_metadata(
        trainer, temporary, final, student.template, student.stop_ids, proof_questions, lineage
    )
    _tell_falls(monitor)
    settings = config.model_dump(mode="json")
    metrics_path = output.path("metrics.jsonl")
    write_reinforcement_page(output.path("report.html"), metrics_path, baseline, monitor, settings)
    output.manifest.counts.kept = len(questions)
    output.manifest.facts |= {
        "start": baseline.model_dump(mode="json"),
        "resumed_from_step": step,
        "steps": trainer.state.global_step,
        "held_out": {str(look.step): look.rates for look in monitor.looks},
        "fell": monitor.find_falls(),
        "dtype": str(cast(Any, model).dtype).removeprefix("torch."),
        "device": device,
    }


def _make_sampler(config: Config, student: Student, args: "GRPOConfig") -> Sampler:
    sampling = Sampling(
        max_tokens=config.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p if args.top_p < 1 else None,
        seed=config.seed,
    )
    return Sampler(student.model, student.tokenizer, sampling)


def _load_student(config: Config, folder: Path, adapter: Path | None) -> Student:
    base, _ = load_model(
        config.model, None, config.device, config.dtype, config.hub, config.trust_remote_code
    )
    tokenizer = load_tokenizer(folder, adapter, config.trust_remote_code)
    plain_template = find_plain_template(tokenizer)
    template = choose_template(tokenizer)
    repair_pad_token(tokenizer)
    stop_ids = find_stop_ids(tokenizer, base.generation_config)
    model = attach_adapter(base, adapter, config.model, folder)
    return Student(model, tokenizer, template, plain_template, stop_ids)


def _make_args(config: Config, device: str, model: "PreTrainedModel") -> "GRPOConfig":
    n_answers = config.questions * config.group_size
    settings = {
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": n_answers // config.batch_size,
        "num_generations": config.group_size,
        "max_completion_length": config.max_tokens,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
    }
    checkpoints = config.out / "checkpoints"
    return make_trainer_config(settings, checkpoints, device, model.dtype, config.trainer)


def _check_memory(
    config: Config,
    folder: Path,
    student: Student,
    questions: Sequence[PromptItem],
    device: str,
) -> None:
    longest = max(len(encode(student.tokenizer, question.prompt)) for question in questions)
    model = cast(Any, student.model)
    frozen = next(weights for weights in model.parameters() if not weights.requires_grad)
    load = Workload(
        rank=next(iter(model.peft_config.values())).r,
        n_tokens=config.batch_size * (longest + config.max_tokens),
        weight_bytes=frozen.element_size(),
        is_checkpointed=device == "cuda",
        on_gpu=device == "cuda",
    )
    shape = read_model_shape(folder, config.trust_remote_code)
    check_memory(shape, load, measure_machine(device))


def _find_baseline(
    config: Config,
    output: StageOutput,
    sampler: Sampler,
    questions: Sequence[PromptItem],
    judge: JudgeReward | None,
) -> Baseline:
    """Measure the baseline, or read what an earlier start of the same run measured: the band of
    lengths must not move."""
    path = output.path("start.json")
    if found := read_json(path):
        return Baseline.model_validate(found)
    chosen = choose_questions(questions, config.seed)
    baseline = measure_baseline(
        sampler, chosen, config.group_size, config.rewards, judge, config.terms
    )
    print(f"reinforce: {len(questions)} questions; {describe(baseline)}", file=sys.stderr)
    for note in baseline.notes:
        print(f"note: {note}", file=sys.stderr)
    check_baseline(baseline, config.max_tokens)
    write_json(path, baseline.model_dump(mode="json"))
    return baseline


def _tell_falls(monitor: HoldoutMonitor) -> None:
    for name, (before, after) in monitor.find_falls().items():
        print(
            f"warning: held-out {name}, which no reward pays for, fell from {before:.2f} to "
            f"{after:.2f}; read report.html",
            file=sys.stderr,
        )
