"""What a training will take, before anything is loaded: memory a device, disk for checkpoints.

In: the shape of a model, how it is to be trained. Out: bytes, a table, findings. The memory is an
estimate: weights, gradients and optimizer are counted, activations follow from a formula
(`estimate_activations`). Not done here: measuring a run.
"""

import os
import re
import resource
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medkd.core.errors import InputError
from medkd.models.inspect import ModelShape
from medkd.train.config import N_KEPT, Method
from medkd.train.preflight import Cause, Finding

METHODS: tuple[Method, ...] = ("lora", "qlora", "full")
SHARDINGS = ("one device", "ddp", "zero2", "zero3 / fsdp2")
GIB = 2**30
ADAM_BYTES = 8
"""Two moments in float32."""
FOUR_BIT_BYTES = 0.52
"""A weight in NF4 with its share of the scales."""
OVERHEAD = 1.1
"""For what the allocator cannot use."""
FEW_TOKENS = 512
"""A batch of fewer tokens is no use."""
RESERVE = 0.6 * GIB
"""Libraries and kernels."""


class Workload(NamedTuple):
    """How a model is to be trained: what memory depends on beside the model."""

    rank: int
    n_tokens: int
    """Tokens of one batch on one device, padding included."""
    weight_bytes: int
    """Of one frozen weight: 2 in bfloat16, 4 in float32."""
    is_checkpointed: bool
    """Whether activations are computed again in the backward pass."""
    on_gpu: bool
    """Where TRL keeps no logits."""
    n_devices: int = 1


class Machine(NamedTuple):
    """What this machine has for training."""

    device: str
    n_devices: int
    memory: int
    """Bytes of one device, or of the machine where there is none."""


def measure_machine(device: str) -> Machine:
    """Ask the machine for its devices and their memory."""
    if device == "cuda":
        import torch

        memory = torch.cuda.get_device_properties(0).total_memory
        return Machine(torch.cuda.get_device_name(0), torch.cuda.device_count(), memory)
    return Machine("processor", 1, _read_free_memory())


def _read_free_memory() -> int:
    """Read how much memory the machine can still give; its whole memory where it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_peak_memory() -> int:
    """Read the most memory this process held, in bytes: of the GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def count_trained(shape: ModelShape, method: Method, rank: int) -> int:
    """Count the parameters that are trained."""
    return shape.n_parameters if method == "full" else shape.count_lora(rank)


def estimate_activations(shape: ModelShape, load: Workload) -> float:
    """Estimate the bytes kept for the backward pass of one batch.

    A layer keeps about the inputs of its linear layers and the outputs before each non-linearity;
    checkpointed, only its own input, and one layer at a time is whole. Without a GPU the logits of
    every token are there in float32, twice.
    """
    linears = sum(inputs + outputs for inputs, outputs in shape.linears)
    per_token = linears / max(shape.n_layers, 1) * load.weight_bytes
    whole_layers = 1 if load.is_checkpointed else shape.n_layers
    inputs = shape.n_layers * shape.hidden_size * load.weight_bytes
    logits = 0 if load.on_gpu else shape.vocabulary * 4 * 2
    return load.n_tokens * (whole_layers * per_token + inputs + logits)


def estimate_memory(
    shape: ModelShape, method: Method, load: Workload, sharding: str = "one device"
) -> float:
    """Estimate the bytes that one device needs."""
    n = max(load.n_devices, 1)
    trained = count_trained(shape, method, load.rank)
    if method == "qlora":
        others = shape.n_parameters - shape.n_linear
        frozen = FOUR_BIT_BYTES * shape.n_linear + load.weight_bytes * others
    else:
        frozen = load.weight_bytes * shape.n_parameters if method == "lora" else 0.0
    weights = frozen + 4 * trained
    gradients, moments = 4 * trained, ADAM_BYTES * trained
    if sharding in ("zero2", "zero3 / fsdp2"):
        gradients, moments = gradients / n, moments / n
    if sharding == "zero3 / fsdp2":
        weights /= n
    held = weights + gradients + moments + estimate_activations(shape, load)
    return OVERHEAD * held + RESERVE


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
        name: [_least_memory(make_shape(name), method, load) for method in METHODS]
        for name in SIZES
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
    lines = [f"{'memory a device, GiB':<22}{header}{'there':>10}"]
    for name, row in needs.items():
        fits = ("ok" if need < machine.memory else "no" for need in row)
        cells = "".join(f"{n / GIB:>14.1f} {fit:<3}" for n, fit in zip(row, fits, strict=True))
        lines.append(f"{name:<22}{cells}{machine.memory / GIB:>10.1f}")
    return lines


def find_too_little_memory(
    shape: ModelShape, method: Method, load: Workload, machine: Machine
) -> list[Finding]:
    """Find out whether even the best sharding leaves too much for one device; names the fix that
    changes least."""
    need = _least_memory(shape, method, load)
    if need < machine.memory:
        return []
    says = (
        f"{method} needs about {need / GIB:.1f} GiB on each device, "
        f"{machine.memory / GIB:.1f} GiB are there"
    )
    fix = _advise(shape, method, load, machine)
    return [Finding(Cause.MEMORY, says, fix, is_repaired=False)]


def _least_memory(shape: ModelShape, method: Method, load: Workload) -> float:
    shardings = SHARDINGS if load.n_devices > 1 else SHARDINGS[:1]
    return min(estimate_memory(shape, method, load, sharding) for sharding in shardings)


def _advise(shape: ModelShape, method: Method, load: Workload, machine: Machine) -> str:
    shorter = load._replace(n_tokens=min(load.n_tokens, FEW_TOKENS))
    if _least_memory(shape, method, shorter) < machine.memory:
        return "lower --batch-size or --max-length"
    for other in METHODS:
        is_possible = other != method and (other != "qlora" or machine.device != "processor")
        if is_possible and _least_memory(shape, other, shorter) < machine.memory:
            return f"train with --method {other}"
    everywhere = load._replace(n_devices=machine.n_devices)
    if _least_memory(shape, method, everywhere) < machine.memory:
        return "train on all GPUs (docs/en/train.md says how)"
    return "choose a smaller model or a larger machine"


def estimate_disk(shape: ModelShape, method: Method, rank: int, weight_bytes: int) -> int:
    """Estimate the bytes of the kept checkpoints and of what is written at the end."""
    trained = count_trained(shape, method, rank)
    return N_KEPT * trained * (4 + ADAM_BYTES) + trained * (weight_bytes if method == "full" else 4)


def find_too_little_disk(need: int, out: Path) -> list[Finding]:
    """Find out whether the checkpoints fit onto the disk."""
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if need < free:
        return []
    says = f"checkpoints need {need / GIB:.1f} GiB, {free / GIB:.1f} GiB are free at {place}"
    return [Finding(Cause.DISK, says, "free some space or choose another --out", is_repaired=False)]
