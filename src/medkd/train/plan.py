"""What a training will take, before anything is loaded: memory a device, disk for checkpoints; and
what is there.

In: the shape of a model, how it is to be trained. Out: bytes, a table, findings. The memory is an
estimate: weights, gradients and optimizer are counted, activations follow from a formula
(`estimate_activations`). Not done here: measuring a run (`train.watch`).
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from medkd.models.inspect import ModelShape
from medkd.train.preflight import Cause, Finding

Method = Literal["lora", "qlora", "full"]
METHODS: tuple[Method, ...] = ("lora", "qlora", "full")
SPREADS = ("one device", "ddp", "zero2", "zero3 / fsdp2")
GIB = 2**30
ADAM_BYTES = 8
"""Two moments in float32."""
FOUR_BIT_BYTES = 0.52
"""A weight in NF4 with its share of the scales."""
N_KEPT = 3
"""Checkpoints kept: the best, the newest, and one in case that is torn."""
OVERHEAD = 1.1
"""For what the allocator cannot use."""
FEW_TOKENS = 512
"""Less than one row of these is no use."""
RESERVE = 0.6 * GIB
"""Libraries and kernels."""
TOKEN_TILE, VOCABULARY_TILE = 4096, 32768
"""What TRL compares two models over at a time."""


class Shape(NamedTuple):
    """How a model is to be trained: what memory depends on beside the model."""

    rank: int
    n_tokens: int
    """Tokens of one batch on one device, padding included."""
    weight_bytes: int
    """Of one frozen weight: 2 in bfloat16, 4 in float32."""
    is_checkpointed: bool
    """Whether activations are computed again in the backward pass."""
    on_gpu: bool
    """Where the head scores in chunks and keeps no logits."""
    n_devices: int = 1


class There(NamedTuple):
    """What this machine has for training."""

    device: str
    n_devices: int
    memory: int
    """Bytes of one device, or of the machine where there is none."""


def find_what_is_there(device: str) -> There:
    """Ask the machine for its memory."""
    import torch

    if device == "cuda":
        name = torch.cuda.get_device_name(0)
        return There(
            name, torch.cuda.device_count(), torch.cuda.get_device_properties(0).total_memory
        )
    return There("processor", 1, _read_free_memory())


def _read_free_memory() -> int:
    """Read how much memory the machine can still give; its whole memory where it does not say what
    is free."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def count_trained(skeleton: ModelShape, method: Method, rank: int) -> int:
    """Count the parameters that are trained."""
    return skeleton.n_parameters if method == "full" else skeleton.count_lora(rank)


def estimate_activations(skeleton: ModelShape, shape: Shape) -> float:
    """Estimate the bytes kept for the backward pass of one batch.

    A layer keeps about the inputs of its linear layers and the outputs before each non-linearity;
    checkpointed, only its own input, and one layer at a time is whole. On a processor the logits of
    the learnt tokens, about half of all, are there in float32, twice.
    """
    a_token = (
        sum(inputs + outputs for inputs, outputs in skeleton.linears)
        / max(skeleton.n_layers, 1)
        * shape.weight_bytes
    )
    whole_layers = 1 if shape.is_checkpointed else skeleton.n_layers
    inputs = skeleton.n_layers * skeleton.hidden_size * shape.weight_bytes
    logits = 0 if shape.on_gpu else skeleton.vocabulary * 4 * 2 / 2
    return shape.n_tokens * (whole_layers * a_token + inputs + logits)


def estimate_memory(
    skeleton: ModelShape, method: Method, shape: Shape, spread: str = "one device"
) -> float:
    """Estimate the bytes that one device needs."""
    n = max(shape.n_devices, 1)
    trained = count_trained(skeleton, method, shape.rank)
    frozen = {"lora": shape.weight_bytes * skeleton.n_parameters, "full": 0.0}.get(method)
    if frozen is None:
        frozen = FOUR_BIT_BYTES * skeleton.n_linear + shape.weight_bytes * (
            skeleton.n_parameters - skeleton.n_linear
        )
    weights = frozen + 4 * trained
    gradients, moments = 4 * trained, ADAM_BYTES * trained
    if spread in ("zero2", "zero3 / fsdp2"):
        gradients, moments = gradients / n, moments / n
    if spread == "zero3 / fsdp2":
        weights /= n
    return (
        OVERHEAD * (weights + gradients + moments + estimate_activations(skeleton, shape)) + RESERVE
    )


def make_table(skeleton: ModelShape, shape: Shape, there: There) -> list[str]:
    """Draw what each method needs on each device, in GiB, and whether it fits."""
    spreads = SPREADS if shape.n_devices > 1 else SPREADS[:1]
    lines = [
        f"{'memory a device, GiB':<22}"
        + "".join(f"{spread:>18}" for spread in spreads)
        + f"{'there':>10}"
    ]
    for method in METHODS:
        needs = [estimate_memory(skeleton, method, shape, spread) for spread in spreads]
        cells = "".join(
            f"{need / GIB:>14.1f} {'ok' if need < there.memory else 'no':<3}" for need in needs
        )
        lines.append(f"{method:<22}{cells}{there.memory / GIB:>10.1f}")
    return lines


def find_too_little_memory(
    skeleton: ModelShape, method: Method, shape: Shape, there: There
) -> list[Finding]:
    """Say so where even the best way to spread it leaves too much for one device; the fix that fits
    best is named."""
    spreads = SPREADS if shape.n_devices > 1 else SPREADS[:1]
    need = min(estimate_memory(skeleton, method, shape, spread) for spread in spreads)
    if need < there.memory:
        return []
    says = f"{method} needs about {need / GIB:.1f} GiB on each device, {there.memory / GIB:.1f} GiB are there"
    return [
        Finding(
            Cause.MEMORY, says, _advise(skeleton, method, shape, there, spreads), is_repaired=False
        )
    ]


def estimate_teacher(skeleton: ModelShape, shape: Shape) -> float:
    """Estimate the bytes of a teacher that only scores: its weights, and one layer's activations at
    a time."""
    passing = estimate_activations(skeleton, shape._replace(is_checkpointed=True))
    return OVERHEAD * (shape.weight_bytes * skeleton.n_parameters + passing)


def estimate_divergence(skeleton: ModelShape, n_tokens: int, on_gpu: bool) -> int:
    """Estimate the bytes in which TRL compares what two models say, tile by tile, in float32.

    A buffer for each model is as wide as a tile, however small the vocabulary; on a processor only
    what is written to is taken, and the steps in between take about four times one of them (read
    off `trl.kernels.chunked_divergence`, TRL 1.16).
    """
    width = min(skeleton.vocabulary, VOCABULARY_TILE)
    return 4 * min(n_tokens, TOKEN_TILE) * (2 * VOCABULARY_TILE + width if on_gpu else 6 * width)


def find_too_little_memory_for_two(
    student: ModelShape, teacher: ModelShape, shape: Shape, there: There, is_tiled: bool
) -> tuple[float, list[Finding]]:
    """Give the bytes of a student that is trained beside a teacher that scores it, and say so where
    they are not there.

    `is_tiled` tells that the two are compared tile by tile and no logits are kept.
    """

    def estimate(shape: Shape) -> float:
        tiles = estimate_divergence(student, shape.n_tokens, shape.on_gpu) if is_tiled else 0
        kept = shape._replace(on_gpu=True) if is_tiled else shape
        return estimate_memory(student, "lora", kept) + estimate_teacher(teacher, kept) + tiles

    need = estimate(shape)
    if need < there.memory:
        return need, []
    says = f"student and teacher need about {need / GIB:.1f} GiB together, {there.memory / GIB:.1f} GiB are there"
    is_enough = estimate(shape._replace(n_tokens=min(shape.n_tokens, FEW_TOKENS))) < there.memory
    fix = (
        "lower --batch-size or --max-tokens"
        if is_enough
        else "choose a smaller --teacher-model or a larger machine"
    )
    return need, [Finding(Cause.MEMORY, says, fix, is_repaired=False)]


def _advise(
    skeleton: ModelShape, method: Method, shape: Shape, there: There, spreads: Sequence[str]
) -> str:
    shorter = shape._replace(n_tokens=min(shape.n_tokens, FEW_TOKENS))
    if min(estimate_memory(skeleton, method, shorter, spread) for spread in spreads) < there.memory:
        return "lower --batch-size or --max-length"
    for other in METHODS:
        is_possible = other != method and (other != "qlora" or there.device != "processor")
        if (
            is_possible
            and min(estimate_memory(skeleton, other, shorter, spread) for spread in spreads)
            < there.memory
        ):
            return f"train with --method {other}"
    return "choose a smaller model or a larger machine"


def estimate_disk(skeleton: ModelShape, method: Method, rank: int, weight_bytes: int) -> int:
    """Give the bytes of the kept checkpoints and of what is written at the end."""
    trained = count_trained(skeleton, method, rank)
    return N_KEPT * trained * (4 + ADAM_BYTES) + trained * (weight_bytes if method == "full" else 4)


def find_too_little_disk(need: int, out: Path) -> list[Finding]:
    """Say so where the checkpoints do not fit onto the disk."""
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if need < free:
        return []
    says = f"checkpoints need {need / GIB:.1f} GiB, {free / GIB:.1f} GiB are free at {place}"
    return [Finding(Cause.DISK, says, "free some space or choose another --out", is_repaired=False)]


def tell_kind(findings: Sequence[Finding]) -> str:
    """Say what a Base model needs that an Instruct one does not."""
    causes = {finding.cause for finding in findings}
    missing = causes & {Cause.UNTRAINED_TOKENS, Cause.STOPS_ELSEWHERE, Cause.NO_TEMPLATE}
    if not missing:
        return "It ends its turns itself, as an Instruct model does."
    needs = {
        Cause.UNTRAINED_TOKENS: "embeddings of its turn tokens trained with the adapter",
        Cause.STOPS_ELSEWHERE: "stop tokens written into its generation config",
        Cause.NO_TEMPLATE: "a chat template",
    }
    return f"It is like a Base model and needs {', '.join(needs[cause] for cause in needs if cause in missing)}."
