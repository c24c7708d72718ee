"""The command `doctor`: what this machine can train, and what would make the student fail.

In: a model, a dataset, or both. Out: what was found, each with its rows and the fix in one line;
exit code 2 where anything is wrong. Nothing is written or repaired: `train` repairs. Not done
here: judging the dataset's content (`merge`, `verify`).
"""

import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import field_validator

from medkd.core.config import Options
from medkd.core.errors import InputError, Said
from medkd.core.i18n import get_spoken, tell
from medkd.models.chat_template import find_end_of_turn, has_thinking_prefix
from medkd.models.inspect import ModelShape, read_model_shape
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
from medkd.train.preflight import (
    GIB,
    METHODS,
    SHARDINGS,
    Cause,
    Finding,
    Machine,
    Workload,
    describe_lengths,
    estimate_disk,
    estimate_memory,
    find_stops,
    find_too_little_memory,
    least_memory,
    make_refusal,
    measure_machine,
)
from medkd.train.stage import (
    Job,
    compare_packed,
    load_student,
    make_dataset,
    make_trainer,
    make_trainer_config,
    make_workload,
    prepare,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEASURED_STEPS = 4
SIZES: Mapping[str, tuple[int, int, int, int, int, int, bool]] = {
    "Qwen2.5-0.5B": (896, 24, 896, 128, 4864, 151936, True),
    "Qwen2.5-1.5B": (1536, 28, 1536, 256, 8960, 151936, True),
    "Qwen2.5-3B": (2048, 36, 2048, 256, 11008, 151936, True),
    "Qwen3-4B": (2560, 36, 4096, 1024, 9728, 151936, True),
    "Qwen2.5-7B": (3584, 28, 3584, 512, 18944, 152064, False),
    "Qwen3-8B": (4096, 36, 4096, 1024, 12288, 151936, False),
    "Qwen2.5-14B": (5120, 48, 5120, 1024, 13824, 152064, False),
    "Qwen2.5-32B": (5120, 64, 5120, 1024, 27648, 152064, False),
}
"""Published models: hidden size, layers, width of all query heads and of all key heads, width of
the feed-forward part, vocabulary, and whether the head is tied to the embedding."""


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
    memory = machine.memory / GIB
    said = "machine: {}, {} x {:.1f} GiB, computes in {}"
    tell(said, Said(machine.device), machine.n_devices, memory, dtype)
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
        result = Said("train puts it right") if finding.is_repaired else Said("refused")
        tell("wrong ({}): {}", result, finding.tell())
    if not findings:
        tell("nothing is wrong")
        return 0
    tell("1 thing is wrong" if len(findings) == 1 else "{} things are wrong", len(findings))
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
    tell(
        "plan: {} x {:.0f} GiB, {} rows of {} tokens a step and device, bfloat16, activations "
        "computed again",
        machine.n_devices,
        machine.memory / GIB,
        config.batch_size,
        config.max_length,
    )
    if config.model is None:
        print(*draw_sizes(load, machine), sep="\n")
        return 0
    folder = resolve_model(config.model, config.hub)
    shape = read_model_shape(folder)
    print(*draw_table(shape, load, machine), sep="\n")
    findings = find_too_little_memory(shape, config.method, load, machine)
    for finding in findings:
        tell("wrong ({}): {}", Said("refused"), finding.tell())
    return 2 if findings else 0


def _look_at_serving(config: Config, model: str) -> list[Finding]:
    folder = resolve_model(model, config.hub)
    shape = read_model_shape(folder)
    said = "model: {:.1f} M parameters, {} layers; as one that is served, no --input was given"
    tell(said, shape.n_parameters / 1e6, shape.n_layers)
    return examine_served(folder, load_tokenizer(folder))


def examine_served(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> list[Finding]:
    """Look at a model that is to be served as it is: does its template begin the thinking, does its
    generation end with the turn?"""
    try:
        begins_thinking = has_thinking_prefix(tokenizer)
        end = tokenizer.convert_ids_to_tokens(find_end_of_turn(tokenizer))
        stops = find_stops(folder, tokenizer)[1]
    except InputError as error:
        return [make_refusal(Cause.NO_TEMPLATE, error)]
    findings = [finding._replace(fix="train and export, which write them") for finding in stops]
    if not begins_thinking:
        says = "its chat template does not begin the thinking"
        fix = "train it to think, and export it, which writes the prefix into the template"
        findings.append(Finding(Cause.SERVED_OTHERWISE, says, fix))
    if tokenizer.pad_token is None or tokenizer.pad_token == end:
        says = Said("pad token is {}", tokenizer.pad_token or Said("missing"))
        fix = "train and export, which give it its own"
        findings.append(Finding(Cause.PAD_ENDS_TURN, says, fix))
    return findings


def _look_at_training(config: Config, model: str, machine: Machine, device: str) -> list[Finding]:
    shared = config.model_dump(include=set(TrainConfig.model_fields), exclude={"model"})
    plan = TrainConfig.model_validate(shared | {"model": model})
    job = prepare(plan)
    shape, rows = job.shape, job.preflight.rows
    findings = list(job.preflight.findings)
    tell("model: {:.1f} M parameters, {} layers", shape.n_parameters / 1e6, shape.n_layers)
    if rows:
        lengths = describe_lengths(rows)
        tell(
            "rows: {}, {} tokens a pass, {} of them learnt; half have up to {} tokens, nine of ten "
            "up to {}, the longest {}",
            len(rows),
            *(lengths[key] for key in ("tokens", "tokens_learnt", "median", "p90", "longest")),
        )
        workload = make_workload(plan, device, lengths["longest"], machine.n_devices)
        print(*draw_table(shape, workload, machine), sep="\n")
    disk = estimate_disk(shape, plan.weights, plan.lora_rank)
    tell("disk: {:.2f} GiB for checkpoints and what is left at the end", disk / GIB)
    if all(finding.is_repaired for finding in findings) and plan.weights != "qlora":
        student = load_student(plan, job)
        student.to(device)  # pyright: ignore[reportArgumentType]
        findings += compare_packed(student, rows)
        _measure_steps(plan, job, student)
    return findings


def _measure_steps(plan: TrainConfig, job: Job, student: "PreTrainedModel") -> None:
    """Time a few steps; what is learnt is thrown away."""
    rows = make_dataset(job.preflight.rows)
    with tempfile.TemporaryDirectory() as folder:
        few_steps = {"max_steps": MEASURED_STEPS, "save_strategy": "no"}
        brief = plan.model_copy(update={"out": Path(folder), "trainer": few_steps})
        args = make_trainer_config(brief, job.device, len(rows), has_val=False, packs=False)
        lora = None
        if plan.weights != "full":
            lora = make_lora_config(plan.lora_rank, job.shape, job.preflight.untrained_ids)
        trainer = make_trainer(student, job.tokenizer, rows, None, args, lora)
        started = time.monotonic()
        trainer.train()
        step_s = (time.monotonic() - started) / MEASURED_STEPS
    n_steps = count_steps(len(rows), plan.batch_size, plan.epochs)
    said = "time: about {} for {} steps on one device, from {} measured ones"
    tell(said, tell_time(step_s * n_steps), n_steps, MEASURED_STEPS)


def make_shape(name: str) -> ModelShape:
    """Make the shape of one of `SIZES` without its config; biases and norms are left out, a
    thousandth of the whole.

    >>> round(make_shape("Qwen2.5-7B").n_parameters / 1e9, 1)
    7.6
    """
    hidden, n_layers, queries, keys, inner, vocabulary, is_tied = SIZES[name]
    layer = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    layer += [(hidden, inner), (hidden, inner), (inner, hidden)]
    n_embedded = hidden * vocabulary * (1 if is_tied else 2)
    n_linear = n_layers * sum(inputs * outputs for inputs, outputs in layer)
    return ModelShape(
        n_parameters=n_linear + n_embedded,
        linears=layer * n_layers,
        n_layers=n_layers,
        hidden_size=hidden,
        vocabulary=vocabulary,
        input_name="model.embed_tokens.weight",
        output_name="model.embed_tokens.weight" if is_tied else "lm_head.weight",
    )


def read_gpus(text: str) -> Machine:
    """Read which GPUs are planned for: `3x24` is three of 24 GiB each, `80` is one.

    >>> read_gpus("3x24")
    Machine(device='GPU', n_devices=3, memory=25769803776)
    """
    found = re.fullmatch(r"(?:(\d{1,4})x)?(\d{1,5})", text.strip().lower())
    if found is None or not int(found[2]) or (found[1] and not int(found[1])):
        raise InputError("--gpu {}: is no number of GPUs and their GiB; write 3x24 or 80", text)
    return Machine("GPU", int(found[1] or 1), int(found[2]) * GIB)


def draw_sizes(load: Workload, machine: Machine) -> list[str]:
    """Draw what each method needs a device for published models, with the best sharding."""
    needs = {
        name: [least_memory(make_shape(name), method, load) for method in METHODS] for name in SIZES
    }
    return _draw(METHODS, needs, machine)


def draw_table(shape: ModelShape, load: Workload, machine: Machine) -> list[str]:
    """Draw what each method needs on each device, by sharding."""
    shardings = SHARDINGS if load.n_devices > 1 else SHARDINGS[:1]
    needs = {
        method: [estimate_memory(shape, method, load, sharding) for sharding in shardings]
        for method in METHODS
    }
    return _draw(shardings, needs, machine)


def _draw(
    columns: Sequence[str], needs: Mapping[str, Sequence[float]], machine: Machine
) -> list[str]:
    """Draw needs in GiB, each with whether it fits."""
    header = "".join(f"{column:>18}" for column in columns)
    told, there = (get_spoken().say(Said(text)) for text in ("memory a device, GiB", "there"))
    lines = [f"{told:<22}{header}{there:>10}"]
    for name, row in needs.items():
        fits = ("ok" if need < machine.memory else "no" for need in row)
        cells = "".join(f"{n / GIB:>14.1f} {fit:<3}" for n, fit in zip(row, fits, strict=True))
        lines.append(f"{name:<22}{cells}{machine.memory / GIB:>10.1f}")
    return lines


def tell_time(seconds: float) -> str:
    """Write a duration as a person would.

    >>> tell_time(50), tell_time(5000), tell_time(50000)
    ('50 s', '83 min', '13.9 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
