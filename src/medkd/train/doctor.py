"""The command `doctor`: what this machine can train, and what would make the student fail.

In: a model, a dataset, or both. Out: what was found, each with its rows and the fix in one line;
exit code 2 where anything is wrong. Nothing is written or repaired: `train` repairs. Not done
here: judging the dataset's content (`merge`, `verify`).
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import field_validator

from medkd.core.config import Options
from medkd.core.errors import InputError
from medkd.models.inspect import read_model_shape
from medkd.models.load import (
    Device,
    Hub,
    choose_device,
    choose_dtype,
    has_bfloat16,
    load_libraries,
    load_tokenizer,
    resolve_model,
)
from medkd.train.callbacks import tell_time
from medkd.train.config import (
    BatchSize,
    Epochs,
    MaxLength,
    Method,
    Rank,
    Target,
    count_steps,
    make_lora_config,
)
from medkd.train.config import Config as TrainConfig
from medkd.train.memory import (
    GIB,
    Machine,
    Workload,
    draw_sizes,
    draw_table,
    estimate_disk,
    find_too_little_memory,
    measure_machine,
    read_gpus,
)
from medkd.train.preflight import (
    Cause,
    Finding,
    compare_packed,
    describe_lengths,
    examine_served,
)
from medkd.train.stage import (
    Job,
    load_student,
    make_dataset,
    make_trainer,
    make_trainer_config,
    make_workload,
    prepare,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEASURED_STEPS = 4


class Config(Options):
    """Look at a model, a dataset and this machine before a training."""

    model: str | None = None
    """Model to look at: medkd:tiny, a folder, or a name on a hub; without --input as one that is
    to be served."""
    input: Path | None = None
    """Directory of merge, or a file of examples, that the model is to be trained on."""
    hub: Hub = "huggingface"
    """Hub to download a named model from."""
    target: Target = "reasoned"
    """Learn reasoning and answer, or bare answers."""
    method: Method = "lora"
    """Weights to be trained."""
    max_length: MaxLength = 4096
    """Longest row in tokens."""
    batch_size: BatchSize = 8
    """Rows a step and device."""
    epochs: Epochs = 2
    """Passes over the rows."""
    lora_rank: Rank = 16
    """Rank of the adapter."""
    out: Path = Path("runs")
    """Directory the training would write to: its disk is looked at."""
    device: Device = "auto"
    """Where to compute."""
    gpu: str = ""
    """GPUs to plan for instead of this machine's: 3x24 is three of 24 GiB each. Without --model,
    what trainings of published models need on them."""

    @field_validator("gpu", mode="before")
    @classmethod
    def _read_number(cls, gpu: object) -> str:
        return str(gpu)


def run(config: Config) -> int:
    """Look, print what was found, and return the exit code."""
    if config.gpu:
        return _plan(config, read_gpus(config.gpu))
    if config.model is None and config.device == "auto" and _is_without_gpu():
        device, dtype = "cpu", "bfloat16" if has_bfloat16() else "float32"
    else:
        device = choose_device(config.device)
        dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    machine = measure_machine(device)
    print(
        f"machine: {machine.device}, {machine.n_devices} x {machine.memory / GIB:.1f} GiB, "
        f"computes in {dtype}"
    )
    if config.model is None:
        if config.input is not None:
            raise InputError(
                "medkd doctor: --input needs --model: which rows are too long depends on its "
                "tokenizer"
            )
        return 0
    load_libraries()
    if config.input:
        findings = _look_at_training(config, config.model, machine, device)
    else:
        findings = _look_at_serving(config, config.model)
    for finding in findings:
        result = "train puts it right" if finding.is_repaired else "refused"
        print(f"wrong ({result}): {finding.tell()}")
    if not findings:
        print("nothing is wrong")
        return 0
    print("1 thing is wrong" if len(findings) == 1 else f"{len(findings)} things are wrong")
    return 2


def _is_without_gpu() -> bool:
    """Tell whether no driver of a GPU is here, which is known without torch, two seconds earlier.

    Raises ModuleNotFoundError where torch is not installed.
    """
    if find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    is_linux = sys.platform == "linux"
    return is_linux and not any(next(Path("/dev").glob(n), None) for n in ("nvidia*", "dxg", "kfd"))


def _plan(config: Config, machine: Machine) -> int:
    """Print what trainings need on GPUs that need not be here, with rows of --max-length."""
    load = Workload(
        rank=config.lora_rank,
        n_tokens=config.batch_size * config.max_length,
        weight_bytes=2,
        is_checkpointed=True,
        on_gpu=True,
        n_devices=machine.n_devices,
    )
    print(
        f"plan: {machine.n_devices} x {machine.memory / GIB:.0f} GiB, {config.batch_size} rows of "
        f"{config.max_length} tokens a step and device, bfloat16, activations computed again"
    )
    if config.model is None:
        print(*draw_sizes(load, machine), sep="\n")
        return 0
    folder = resolve_model(config.model, config.hub)
    shape = read_model_shape(folder)
    print(*draw_table(shape, load, machine), sep="\n")
    findings = find_too_little_memory(shape, config.method, load, machine)
    for finding in findings:
        print(f"wrong (refused): {finding.tell()}")
    return 2 if findings else 0


def _look_at_serving(config: Config, model: str) -> list[Finding]:
    folder = resolve_model(model, config.hub)
    shape = read_model_shape(folder)
    print(
        f"model: {shape.n_parameters / 1e6:.1f} M parameters, {shape.n_layers} layers; "
        "as one that is served, no --input was given"
    )
    tokenizer = load_tokenizer(folder)
    return examine_served(folder, tokenizer)


def _look_at_training(config: Config, model: str, machine: Machine, device: str) -> list[Finding]:
    shared = config.model_dump(include=set(TrainConfig.model_fields), exclude={"model"})
    plan = TrainConfig.model_validate(shared | {"model": model})
    job = prepare(plan)
    shape, rows = job.shape, job.preflight.rows
    findings = list(job.preflight.findings)
    print(
        f"model: {shape.n_parameters / 1e6:.1f} M parameters, {shape.n_layers} layers. "
        f"{_describe_kind(findings)}"
    )
    if rows:
        lengths = describe_lengths(rows)
        print(
            f"rows: {len(rows)}, {lengths['tokens']} tokens a pass, {lengths['tokens_learnt']} of "
            f"them learnt; half have up to {lengths['median']} tokens, nine of ten up to "
            f"{lengths['p90']}, the longest {lengths['longest']}"
        )
    longest = max((len(row.input_ids) for row in rows), default=config.max_length)
    workload = make_workload(plan, device, longest, machine.n_devices)
    print(*draw_table(shape, workload, machine), sep="\n")
    disk = estimate_disk(shape, plan.weights, plan.lora_rank, job.workload.weight_bytes)
    print(f"disk: {disk / GIB:.2f} GiB for checkpoints and what is left at the end")
    if all(finding.is_repaired for finding in findings) and plan.weights != "qlora":
        student = load_student(plan, job)
        student.to(device)  # pyright: ignore[reportArgumentType]
        findings += compare_packed(student, rows)
        _measure_steps(plan, job, student)
    return findings


def _describe_kind(findings: Sequence[Finding]) -> str:
    """Describe what a Base model needs that an Instruct one does not."""
    needs = {
        Cause.UNTRAINED_TOKENS: "embeddings of its turn tokens trained with the adapter",
        Cause.STOPS_ELSEWHERE: "stop tokens written into its generation config",
        Cause.NO_TEMPLATE: "a chat template",
    }
    causes = {finding.cause for finding in findings}
    missing = [need for cause, need in needs.items() if cause in causes]
    if not missing:
        return "It ends its turns itself, as an Instruct model does."
    return f"It is like a Base model and needs {', '.join(missing)}."


def _measure_steps(plan: TrainConfig, job: Job, student: "PreTrainedModel") -> None:
    """Time a few steps; what is learnt is thrown away."""
    rows = make_dataset(job.preflight.rows)
    with tempfile.TemporaryDirectory() as folder:
        few_steps = {"max_steps": MEASURED_STEPS, "save_strategy": "no"}
        brief = plan.model_copy(update={"out": Path(folder), "trainer": few_steps})
        args = make_trainer_config(brief, job.device, len(rows), 1, has_val=False, packs=False)
        lora = None
        if plan.weights != "full":
            lora = make_lora_config(plan.lora_rank, job.shape, job.preflight.untrained_ids)
        trainer = make_trainer(student, job.tokenizer, rows, None, args, lora)
        started = time.monotonic()
        trainer.train()
        step_s = (time.monotonic() - started) / MEASURED_STEPS
    n_steps = count_steps(len(rows), plan.batch_size, plan.epochs)
    print(
        f"time: about {tell_time(step_s * n_steps)} for {n_steps} steps on one device, from "
        f"{MEASURED_STEPS} measured ones"
    )
