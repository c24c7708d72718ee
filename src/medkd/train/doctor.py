"""The command `doctor`: what this machine can train, and what in a model or a dataset would make
the student fail.

In: a model, a dataset, or both. Out: what was found, each with its rows and the fix in one line;
exit code 2 where anything is wrong. Nothing is written and nothing is put right here: `train` does
that. Not done here: judging the dataset's content (`merge`, `verify`).
"""

import sys
import tempfile
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from medkd.core.errors import InputError
from medkd.models.inspect import read_model_shape
from medkd.models.load import (
    Device,
    Hub,
    choose_device,
    choose_dtype,
    importing,
    load_libraries,
    load_tokenizer,
    resolve_model,
)
from medkd.train.plan import (
    GIB,
    Method,
    There,
    estimate_disk,
    find_what_is_there,
    make_table,
    tell_kind,
)
from medkd.train.preflight import Finding, compare_packed, examine_served
from medkd.train.rows import Target, describe_lengths, draw_lengths
from medkd.train.stage import Config as TrainConfig
from medkd.train.stage import Job, choose_numbers, make_shape, prepare

MEASURED_STEPS = 4


class Config(BaseModel):
    """Look at a model, a dataset and this machine before a training."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    model: str | None = None
    """Model to look at: medkd:tiny, a folder, or a name on a hub. Without --input it is looked at
    as one that is to be served."""
    input: Path | None = None
    """Directory of merge, or a file of examples, that the model is to be trained on."""
    hub: Hub = "huggingface"
    """Where a model that is only named is fetched from."""
    trust_remote_code: bool = False
    """Let a model run code that came with it."""
    target: Target = "reasoned"
    """What is to be learnt: reasoning and answer, or bare answers."""
    method: Method = "lora"
    """What is to be trained."""
    max_length: int = Field(default=4096, ge=16)
    """Longest row in tokens."""
    batch_size: int = Field(default=8, ge=1)
    """Rows a step and device."""
    epochs: float = Field(default=2, gt=0)
    """Times through the rows."""
    lora_rank: int = Field(default=16, ge=1)
    """Rank of the adapter."""
    out: Path = Path("runs")
    """Where the training would write: its disk is looked at."""
    device: Device = "auto"
    """Where to compute."""


def run(config: Config) -> int:
    """Look, say what was found, and give the exit code."""
    device = choose_device(config.device)
    there = find_what_is_there(device)
    print(
        f"machine: {there.device}, {there.n_devices} x {there.memory / GIB:.1f} GiB{_tell_arithmetic(device)}"
    )
    if config.model is None:
        if config.input is not None:
            raise InputError(
                "medkd doctor: --input needs --model: which rows are too long depends on its tokenizer"
            )
        return 0
    load_libraries()
    findings = (
        _look_at_training(config, config.model, there, device)
        if config.input
        else _look_at_serving(config, config.model)
    )
    for finding in findings:
        what = "train puts it right" if finding.is_repaired else "refused"
        print(f"wrong ({what}): {finding.tell()}")
    print(f"{len(findings)} things are wrong" if findings else "nothing is wrong")
    return 2 if findings else 0


def _tell_arithmetic(device: str) -> str:
    return f", computes in {str(choose_dtype('auto', device)).removeprefix('torch.')}"


def _look_at_serving(config: Config, model: str) -> list[Finding]:
    folder = resolve_model(model, config.hub, config.trust_remote_code)
    skeleton = read_model_shape(folder, config.trust_remote_code)
    print(
        f"model: {skeleton.n_parameters / 1e6:.1f} M parameters, {skeleton.n_layers} layers; as one that is served, no --input was given"
    )
    return examine_served(
        folder, load_tokenizer(folder, trust_remote_code=config.trust_remote_code)
    )


def _look_at_training(config: Config, model: str, there: There, device: str) -> list[Finding]:
    shared = {
        name: getattr(config, name)
        for name in TrainConfig.model_fields
        if name in Config.model_fields
    }
    plan = TrainConfig.model_validate(shared | {"model": model})
    job = prepare(plan, None)
    skeleton, flight = job.skeleton, job.flight
    print(
        f"model: {skeleton.n_parameters / 1e6:.1f} M parameters, {skeleton.n_layers} layers. {tell_kind(flight.findings)}"
    )
    if flight.rows:
        lengths = describe_lengths(flight.rows)
        print(
            f"rows: {len(flight.rows)}, {lengths['tokens']} tokens a pass, {lengths['tokens_learnt']} of them learnt; their lengths:"
        )
        print("\n".join(draw_lengths(flight.rows)))
    disk = estimate_disk(skeleton, plan.weights, plan.lora_rank, job.shape.weight_bytes)
    longest = max((len(row.input_ids) for row in flight.rows), default=config.max_length)
    print(
        "\n".join(make_table(skeleton, make_shape(plan, device, longest, there.n_devices), there))
    )
    print(f"disk: {disk / GIB:.2f} GiB for checkpoints and what is left at the end")
    findings = list(flight.findings)
    if all(finding.is_repaired for finding in findings) and plan.weights != "qlora":
        findings += _measure(plan, job)
    return findings


def _measure(plan: TrainConfig, job: Job) -> list[Finding]:
    """Load the model, compare packed rows with single ones, and time a few steps; what is learnt is
    thrown away."""
    with importing():
        from medkd.train.sft import (
            count_steps,
            make_dataset,
            make_lora_config,
            make_trainer,
            make_trainer_config,
        )
    from medkd.train.student import load_student
    from medkd.train.watch import tell_time
    from medkd.train.work import make_settings

    dtype = choose_numbers(plan, job.device)
    student = load_student(
        job.folder,
        plan.model,
        plan.weights,
        dtype,
        job.device,
        trust_remote_code=plan.trust_remote_code,
    )
    findings = compare_packed(student, job.flight.rows)
    rows = make_dataset(job.flight.rows)
    with tempfile.TemporaryDirectory() as folder:
        extra = {"max_steps": MEASURED_STEPS, "save_strategy": "no"}
        settings = make_settings(plan, job.device, packs=False)
        trainer_config = make_trainer_config(
            settings, Path(folder), len(rows), job.device, False, extra
        )
        lora = None
        if plan.weights != "full":
            lora = make_lora_config(plan.lora_rank, job.flight.untrained_ids, job.skeleton)
        trainer = make_trainer(student, job.tokenizer, rows, None, trainer_config, lora)
        started = time.monotonic()
        trainer.train()
        a_step = (time.monotonic() - started) / MEASURED_STEPS
    n_steps = count_steps(len(rows), plan.batch_size, plan.epochs)
    print(
        f"time: about {tell_time(a_step * n_steps)} for {n_steps} steps on one device, from {MEASURED_STEPS} measured ones",
        file=sys.stdout,
    )
    return findings
