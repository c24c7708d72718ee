"""The stage `reinforce`: a student that already answers is rewarded for better answers, with TRL's
GRPO trainer.

In: an adapter of `train` (or the bare base), the questions of `train.jsonl`; `val.jsonl` beside it
is the holdout. Out: `adapter/`, `checkpoints/`, `metrics.jsonl`, `start.json` (the baseline),
`held_out.jsonl`, `report.html`, the judges' ledgers. Not done here: grading, `train`.
"""

import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field, field_validator

from medkd.core.config import (
    RUNTIME,
    SENDS_KEY,
    AcceptIdentified,
    did_you_mean,
)
from medkd.core.errors import InputError, Said
from medkd.core.jsonl import write_json
from medkd.core.records import Example, FinishReason, Sampling, check_deidentified
from medkd.core.stage_output import Manifest, StageOutput, is_finished
from medkd.core.task import TaskFile, check_tasks, list_task_inputs
from medkd.grading.compare import TermsFile, list_terms_inputs
from medkd.grading.rubric import read_rubrics
from medkd.models.chat_template import encode
from medkd.models.inspect import read_json, read_model_shape
from medkd.models.load import choose_device, load_libraries, resolve_adapter
from medkd.report.run import write_training_page
from medkd.train.config import (
    CHECKPOINTS,
    BatchSize,
    StudentConfig,
    broadcast,
    build_trainer_config,
    is_sharded_launch,
    read_process_info,
    read_trainer_value,
)
from medkd.train.onpolicy import encode_as_served, load_teacher, resolve_teacher
from medkd.train.rewards import (
    DEFAULT_WEIGHTS,
    NAMES,
    Band,
    BatchReward,
    JudgeReward,
    PromptItem,
    RubricReward,
    check_weights,
    fill_undecided,
    make_rewards,
    open_judge,
)
from medkd.train.rollouts import (
    Baseline,
    Sampler,
    Watch,
    check_baseline,
    check_memory,
    describe,
    make_prompts,
    measure_baseline,
)
from medkd.train.student import (
    Student,
    find_inputs,
    load_student,
    open_training,
    read_examples,
    restore,
    train_student,
)

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

FROM_BASE = Path("base")
"""The value of `adapter` for a start without one."""
_OWN_KEYS = (
    "reward_weights",
    "num_generations",
    "max_completion_length",
    "max_steps",
    "packing",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "generation_batch_size",
    "steps_per_generation",
)
_VLLM_KEYS = ("top_k", "min_p", "repetition_penalty", "generation_kwargs")
"""Keys of `trainer:` that only vLLM draws by."""


class Config(StudentConfig):
    """Reinforce an adapter on the questions of `train.jsonl`."""

    adapter: Annotated[Path, RUNTIME]
    """Adapter to start from: the directory of `train`, an adapter folder, or `base` for the model
    without one."""
    input: Annotated[Path, RUNTIME]
    """Directory of `merge`, or a file of examples; `val.jsonl` beside it is the holdout, never
    trained on."""
    task: TaskFile = ""
    """Task file, where the rows are of a task of your own."""
    rewards: dict[str, Annotated[float, Field(ge=0, le=1e6)]] = Field(
        default_factory=lambda: dict(DEFAULT_WEIGHTS)
    )
    """Weight of each reward: diagnosis (the grader of the task), format, stop, loop, grounded,
    length, judge, rubric; one that is not named does not count."""
    terms: TermsFile = None
    """Table of codes and names (CSV or Excel) by which the reward `diagnosis` knows names of one
    disease."""
    judge: Annotated[str, SENDS_KEY] = ""
    """Endpoint of the rewards `judge` and `rubric`: a provider of providers.yaml, or an address."""
    judge_model: str = ""
    """Model of the judge; default: the provider's first."""
    rubric: Annotated[Path | None, RUNTIME] = None
    """Directory of `rubric`, or its file, with criteria of the training questions: the reward
    `rubric`."""
    watch_judge: Annotated[str, SENDS_KEY] = ""
    """Endpoint of a second judge, of another family, whom no reward asks: what it says of held-out
    answers is watched instead of the checks."""
    watch_judge_model: str = ""
    """Model of the second judge; default: the provider's first."""
    teacher_model: str = ""
    """Open model of the student's tokenizer that answers are drawn towards too, token by token;
    `trainer.beta` is its weight beside the rewards, 1 by default."""
    accept_identified: AcceptIdentified = False
    """Send rows without deidentified_by to the judge too."""
    budget: Annotated[float | None, RUNTIME, Field(gt=0)] = None
    """Most money each judge may cost, in its provider's currency; a hard stop."""
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Steps, each with fresh answers."""
    questions: BatchSize = 8
    """Questions a step."""
    group_size: Annotated[int, Field(ge=2, le=4096)] = 8
    """Answers to each question, compared with each other."""

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


Judges = tuple[dict[str, BatchReward], BatchReward | None]
"""What the judge that pays says, by the name of the reward, and what the one that watches says."""


def run(config: Config) -> Manifest:
    """Reinforce as configured; goes on from the newest whole checkpoint of a run that was
    killed."""
    n_processes = read_process_info().n_processes
    if n_processes > 1 and (config.judge or config.watch_judge):
        raise InputError(
            "--judge: is asked by one process; start it without accelerate launch or torchrun"
        )
    if n_processes > 1 and is_sharded_launch():
        raise InputError(
            "medkd reinforce: draws answers from whole weights; start it without FSDP and ZeRO-3 "
            "(accelerate launch --multi_gpu)"
        )
    check_weights(config.rewards, bool(config.judge), config.rubric is not None)
    if config.questions % n_processes:
        raise InputError(
            "--questions {}: cannot be shared by {} processes; set --questions {}",
            config.questions,
            n_processes,
            -(-config.questions // n_processes) * n_processes,
        )
    if config.questions * config.group_size // n_processes % config.batch_size:
        raise InputError(
            "--batch-size {} does not divide the {} x {} answers of a step; set --batch-size {}",
            config.batch_size,
            config.questions // n_processes,
            config.group_size,
            config.group_size,
        )
    if config.teacher_model and read_trainer_value(config, "beta", float) == 0:
        raise InputError("--teacher-model: counts for nothing with trainer.beta 0; leave one out")
    if config.watch_judge and (config.watch_judge, config.watch_judge_model) == (
        config.judge,
        config.judge_model,
    ):
        raise InputError(
            "--watch-judge: is the judge that pays; choose a model of another family, or leave it "
            "out"
        )
    train_path, val_path = find_inputs(config.input)
    adapter = None if config.adapter == FROM_BASE else resolve_adapter(config.adapter)
    inputs = {
        "input": train_path,
        "validation": val_path,
        "adapter": adapter,
        "rubric": config.rubric,
        **list_terms_inputs(config.terms),
        **list_task_inputs(config.task),
    }
    was_finished = is_finished(config.out) and not config.overwrite
    with open_training("reinforce", config, inputs, "--max-tokens") as output:
        if output.is_finished:
            return output.manifest
        examples = _read(config, train_path, output)
        held_out = read_examples(val_path)
        with _open_judges(config, output, examples) as judges:
            _reinforce(config, output, examples, held_out, adapter, judges, was_finished)
        return output.manifest


def _read(config: Config, path: Path, output: StageOutput) -> list[Example]:
    """Read the questions that can be rewarded, and may be shown to the judges."""
    examples = read_examples(path, output)
    check_tasks({example.task for example in examples}, config.task, path)
    needs_reference = bool(config.rewards.get("diagnosis"))
    kept = [example for example in examples if example.reference or not needs_reference]
    output.drop("no_reference", len(examples) - len(kept))
    if not kept:
        raise InputError(
            "{}: none of {} questions has a known answer to pay for; add a dataset with "
            "references, or set --rewards.diagnosis 0 and have a judge pay",
            path,
            len(examples),
        )
    if config.judge or config.watch_judge:
        marks = (example.lineage.deidentified_by for example in kept)
        n_identified = check_deidentified(marks, path, "the judge", config.accept_identified)
        output.manifest.facts["accepted_identified"] = n_identified
    if len(kept) < config.questions:  # TRL would leave a short step out, and take none
        n_processes = read_process_info().n_processes
        if len(kept) < n_processes:
            raise InputError(
                "{}: {} questions for {} processes; start fewer processes",
                path,
                len(kept),
                n_processes,
            )
        raise InputError(
            "--questions {}: only {} are there; set --questions {}",
            config.questions,
            len(kept),
            len(kept) // n_processes * n_processes,
        )
    return kept


@contextmanager
def _open_judges(
    config: Config, output: StageOutput, examples: Sequence[Example]
) -> Generator[Judges]:
    """Open the judge that pays and the one that watches; what both cost stands in the manifest."""
    rewards: dict[str, BatchReward] = {}
    rubrics = read_rubrics(config.rubric) if config.rubric else {}
    if config.rubric and not any(example.id in rubrics for example in examples):
        raise InputError(
            '{}: has no rubric of any training question; run "medkd rubric" on train.jsonl',
            config.rubric,
        )
    named = [
        ("--judge", config.judge, config.judge_model, "ledger.sqlite"),
        ("--watch-judge", config.watch_judge, config.watch_judge_model, "watch.sqlite"),
    ]
    with ExitStack() as stack:
        opened = {
            flag: stack.enter_context(
                open_judge(flag, endpoint, model, config.budget, output.path(ledger))
            )
            for flag, endpoint, model, ledger in named
            if endpoint
        }
        pays, watches = opened.get("--judge"), opened.get("--watch-judge")
        if pays and config.rewards.get("judge"):
            rewards["judge"] = JudgeReward(pays)
        if pays and rubrics:
            rewards["rubric"] = RubricReward(pays, rubrics)
        try:
            yield rewards, JudgeReward(watches) if watches else None
        finally:
            if pays:
                output.manifest.cost = pays.tell_cost()
            if watches:
                output.manifest.facts["watch_cost"] = watches.tell_cost().model_dump(mode="json")


def _reinforce(
    config: Config,
    output: StageOutput,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    adapter: Path | None,
    judges: Judges,
    was_finished: bool,
) -> None:
    load_libraries()
    judged, watching = judges
    device = choose_device(config.device)
    student = load_student(config, adapter)
    questions, holdout = (
        make_prompts(student.tokenizer, rows, student.plain_template, config.task)
        for rows in (examples, held_out)
    )
    args = make_trainer_config(config, device)
    name = config.teacher_model
    shape = read_model_shape(resolve_teacher(config, name)) if name else None
    check_memory(config, student, [question.prompt for question in questions], shape)
    teacher = load_teacher(config, name, student) if name else None
    sampling = Sampling(
        max_tokens=config.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p if args.top_p < 1 else None,
        seed=config.seed,
    )
    sampler = Sampler(student.model, student.tokenizer, sampling)
    found = None
    if read_process_info().is_main:
        found = _find_baseline(config, output, sampler, questions, judged)
    baseline = cast(Baseline, broadcast(found, device))
    watch = Watch(
        output.path("held_out.jsonl"),
        sampler,
        holdout,
        config.paid,
        partial(restore, student, config.out / CHECKPOINTS),
        watching,
        was_finished,
    )
    rewards = make_rewards(config.rewards, Band(*baseline.band), config.terms) | judged
    args.reward_weights = [config.rewards[name] for name in rewards]
    trainer = make_trainer(student, questions, rewards, sampler, args)
    history = {"questions": len(examples), "rewards": config.paid, "judge": config.judge}
    if teacher is not None:
        set_teacher(trainer, teacher)
        history["teacher"] = name
    output.manifest.facts |= train_student(
        trainer,
        config,
        "reinforce",
        student,
        examples,
        held_out,
        history={"reinforced": history},
        callbacks=[watch],
    )
    falls = watch.find_falls()
    fell = [
        f"held-out {name}, which no reward pays for, fell from {before:.2f} to {after:.2f}"
        for name, (before, after) in falls.items()
    ]
    for line in fell:
        print(f"warning: {line}; read report.html", file=sys.stderr)
    output.manifest.counts.kept = len(questions)
    output.manifest.facts |= {
        "start": baseline.model_dump(mode="json"),
        "stopped_by_watch": watch.stopped_at,
        "kept_step": trainer.state.global_step,
        "held_out": {str(look.step): look.rates for look in watch.looks},
        "unpaid": watch.unpaid,
        "fell": falls,
        "findings": [describe(baseline), *baseline.notes],
        "dtype": str(cast(Any, student.model).dtype).removeprefix("torch."),
    }
    write_training_page(output.directory, output.manifest)


def _find_baseline(
    config: Config,
    output: StageOutput,
    sampler: Sampler,
    questions: Sequence[PromptItem],
    judged: Mapping[str, BatchReward],
) -> Baseline:
    """Measure the baseline, or read what an earlier start of the same run measured: the band of
    lengths must not move."""
    path = output.path("start.json")
    if found := read_json(path):
        return Baseline.model_validate(found)
    baseline = measure_baseline(
        sampler, questions, config.group_size, config.rewards, judged, config.terms
    )
    print(f"reinforce: {len(questions)} questions; {describe(baseline)}", file=sys.stderr)
    for note in baseline.notes:
        print(f"note: {note}", file=sys.stderr)
    check_baseline(baseline, config.max_tokens)
    write_json(path, baseline.model_dump(mode="json"))
    return baseline


def draw_step(sampler: Sampler, prompts: list[str], trainer: "GRPOTrainer") -> dict[str, Any]:
    """Draw the answers of a step for TRL (its `rollout_func`).

    An answer that the limit cut off is masked out of the loss: nobody knows how it would have
    ended. One that was stopped because it repeats itself is not: it is to be paid less.
    """
    from trl.models.utils import unwrap_model_for_generation

    each = trainer.accelerator
    first = (trainer.state.global_step * each.num_processes + each.process_index) * len(prompts)
    samples = range(first, first + len(prompts))
    with unwrap_model_for_generation(
        cast(Any, trainer.model_wrapped), trainer.accelerator
    ) as model:
        drawn = sampler.draw(prompts, samples, cast(Any, model))
    return {
        "prompt_ids": [encode(sampler.engine.tokenizer, prompt) for prompt in prompts],
        "completion_ids": [generation.ids for generation in drawn],
        "logprobs": None,
        "env_mask": [
            [int(sampler.read_text(each.ids)[1] != FinishReason.LENGTH)] * each.n_tokens
            for each in drawn
        ],
    }


def make_trainer_config(config: Config, device: str) -> "GRPOConfig":
    """Make TRL's config of what all methods share, the stage's fields, and what `trainer:` says."""
    from trl.trainer.grpo_config import GRPOConfig

    n_answers = config.questions * config.group_size
    n_processes = read_process_info().n_processes
    uses_vllm = bool(read_trainer_value(config, "use_vllm", bool))
    settings = {
        "max_steps": config.steps,
        "gradient_accumulation_steps": n_answers // (config.batch_size * n_processes),
        "num_generations": config.group_size,
        "max_completion_length": config.max_tokens,
        "learning_rate": config.learning_rate or 1e-5,
        "beta": 1.0 if config.teacher_model else 0.01,
        # Scaled by the group, one where all are right and lengths differ a little would count as
        # much as any; scaled by the batch, TRL does not count the groups without a spread.
        "scale_rewards": "none",
        # `draw_step` masks what the limit cut off, and only that.
        "mask_truncated_completions": uses_vllm,
        "lr_scheduler_type": "constant_with_warmup",
    }
    own_keys = _OWN_KEYS if uses_vllm else _OWN_KEYS + _VLLM_KEYS
    return build_trainer_config(GRPOConfig, config, device, 0, settings, own_keys)


def make_trainer(
    student: Student,
    questions: Sequence[PromptItem],
    rewards: Mapping[str, BatchReward],
    sampler: Sampler,
    args: "GRPOConfig",
) -> "GRPOTrainer":
    """Make TRL's trainer of an adapter; each reward scores all answers of a step at once."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset
    from trl.trainer.grpo_trainer import GRPOTrainer

    rows = [{"prompt": question.prompt, "at": at} for at, question in enumerate(questions)]
    trainer = GRPOTrainer(
        model=student.model,
        args=args,
        reward_funcs=[
            _as_trl_reward(name, reward, questions, sampler) for name, reward in rewards.items()
        ],
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
        rollout_func=None if args.use_vllm else cast(Any, partial(draw_step, sampler)),
    )
    encode_as_served(trainer)
    return trainer


def set_teacher(trainer: "GRPOTrainer", teacher: Any) -> None:
    """Make an open teacher, in place of the start, what `beta` holds the student to: this is
    on-policy distillation beside the rewards."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(teacher, trainer.temperature)
    trainer.ref_model = trainer.accelerator.prepare_model(teacher, evaluation_mode=True)


def _as_trl_reward(
    name: str, reward: BatchReward, questions: Sequence[PromptItem], sampler: Sampler
) -> Any:
    """Make the function that TRL calls; answers are read from their tokens, since TRL's text has
    lost the control tokens."""

    def function(
        completion_ids: list[list[int]],
        at: list[int],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float]:
        pairs = zip(completion_ids, at, strict=True)
        rollouts = [sampler.read_rollout(ids, questions[number]) for ids, number in pairs]
        scores = reward(rollouts)
        log_metric(f"undecided/{name}", sum(score is None for score in scores) / len(scores))
        return fill_undecided(rollouts, scores)

    function.__name__ = name
    return function
