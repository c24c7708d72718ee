"""Everything that is known of a training before its weights are loaded: the rows as tokens, what
would make a student that will not stop or think, memory and disk.

In: examples, a tokenizer, a model's folder and shape, the machine. Out: whole rows, the last label
of each ending its turn, and findings; `train` repairs some, refuses the rest. Memory is an
estimate: weights, gradients and optimizer are counted, activations follow from a formula.
"""

import os
import resource
import shutil
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core import thinking
from medkd.core.errors import InputError, Said
from medkd.core.records import Example
from medkd.models.chat_template import (
    encode_rows,
    find_end_of_turn,
    find_plain_template,
    find_prefix_mismatch,
    find_stop_ids,
    list_ids,
    make_messages,
    repair_pad_token,
    special_tokens,
    takes_system,
)
from medkd.models.inspect import ModelShape, read_generation_config, read_tensor
from medkd.train.config import CHECKPOINTS, N_KEPT, Method, Target

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that is given, not learnt."""
UNTRAINED_SHARE = 0.5
"""A row of the embeddings shorter than this share of what is usual among the words of the rows was
never trained."""
TWIN_COSINE = 0.999
MIN_BARE_SHARE = 0.5
"""Below this share of bare questions a student learns to think when told to, not by itself."""
CHUNK = 16384
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


class Drop(StrEnum):
    """Why an example is not trained on."""

    TOO_LONG = "too_long"
    """More tokens than the limit: trimmed, it would lose the end of its turn."""
    NO_ANSWER = "no_answer"
    """There is nothing to learn."""
    NOT_WELL_FORMED = "not_well_formed"
    """Its output is not exactly one thought and one answer."""
    CONTROL_TOKENS = "control_tokens"
    """A text holds the model's own control tokens and would forge a turn."""
    NO_DIFFERENCE = "no_difference"
    """The two answers of a pair are the same."""


class TokenizedExample(NamedTuple):
    """One example as the trainer takes it; both lists have the same length."""

    input_ids: list[int]
    labels: list[int]


def write_output(example: Example, target: Target) -> str:
    """Write the text that the student is to learn."""
    if target == "reasoned":
        return thinking.write(example.reasoning, example.answer)
    return example.answer.strip()


def find_fault(
    example: Example, output: str, target: Target, control_tokens: Sequence[str]
) -> Drop | None:
    """Tell why an example cannot be used, whatever its length."""
    if not example.answer.strip():
        return Drop.NO_ANSWER
    if target == "reasoned" and not thinking.is_well_formed(output):
        return Drop.NOT_WELL_FORMED
    texts = (example.system, example.instruction, example.input, output)
    is_forged = any(token in text for token in control_tokens for text in texts)
    return Drop.CONTROL_TOKENS if is_forged else None


def tokenize(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    target: Target,
    max_length: int,
    plain_template: str,
    end_id: int,
) -> tuple[list[TokenizedExample], dict[str, int]]:
    """Tokenize all examples that can be used, each whole, and count the others by reason."""
    control_tokens = special_tokens(tokenizer)
    outputs = [write_output(example, target) for example in examples]
    faults = [
        find_fault(example, output, target, control_tokens)
        for example, output in zip(examples, outputs, strict=True)
    ]
    usable = [
        (make_messages(example.input, example.instruction, example.system), output)
        for example, output, fault in zip(examples, outputs, faults, strict=True)
        if fault is None
    ]
    encoded = encode_rows(tokenizer, usable, plain_template, end_id)
    rows = [
        TokenizedExample([*prompt, *completion], [IGNORED] * len(prompt) + completion)
        for prompt, completion in encoded
        if len(prompt) + len(completion) <= max_length
    ]
    dropped = Counter(str(fault) for fault in faults if fault is not None)
    dropped += Counter({str(Drop.TOO_LONG): len(encoded) - len(rows)})
    return rows, dict(dropped.most_common())


def describe_lengths(rows: Sequence[TokenizedExample]) -> dict[str, int]:
    """Count the tokens of the rows: median, 90th percentile, longest, sum, and how many are
    learnt."""
    lengths = sorted(len(row.input_ids) for row in rows)
    return {
        "median": lengths[len(lengths) // 2],
        "p90": lengths[int(len(lengths) * 0.9)],
        "longest": lengths[-1],
        "tokens": sum(lengths),
        "tokens_learnt": sum(label != IGNORED for row in rows for label in row.labels),
    }


class Cause(StrEnum):
    """A known cause of students that do not stop or do not think."""

    ROWS_TOO_LONG = "rows_too_long"
    """Trimmed, they would lose their end of turn, and the student would never learn to stop."""
    UNUSABLE_ROWS = "unusable_rows"
    """Rows without an answer, without one well-formed thought, or with control tokens of the model
    in their text."""
    NO_END_OF_TURN = "no_end_of_turn"
    """The last label of a row is not the token that ends a turn."""
    UNTRAINED_TOKENS = "untrained_tokens"
    """Embeddings of special tokens that nobody trained, and that LoRA leaves frozen."""
    STOPS_ELSEWHERE = "stops_elsewhere"
    """Generation stops on another token than the one that ends a turn."""
    PAD_ENDS_TURN = "pad_ends_turn"
    """The pad token is the end of turn: masked as padding, it is never learnt."""
    NO_TEMPLATE = "no_template"
    """There is no chat template to train and serve under."""
    SERVED_OTHERWISE = "served_otherwise"
    """The tokens that are served are not those that were trained on."""
    PACKED_OTHERWISE = "packed_otherwise"
    """Rows that are packed into one see each other: their loss is another than alone."""
    NO_SYSTEM_TURN = "no_system_turn"
    """The chat template takes no system text."""
    FEW_BARE_QUESTIONS = "few_bare_questions"
    """Most questions are asked with an instruction: the student learns to think if told to."""
    MEMORY = "memory"
    """It does not fit into this machine."""
    DISK = "disk"
    """Its checkpoints do not fit onto this disk."""


class Finding(NamedTuple):
    """Something that is wrong."""

    cause: Cause
    says: str
    """What and where, without a full stop."""
    fix: str
    """What to do, or what train does, in one line."""
    n_rows: int = 0
    """How many rows it is about; 0 where it is about the model."""
    is_repaired: bool = True
    """Whether train repairs it by itself; it refuses the rest."""

    def tell(self) -> Said:
        """Write it on one line."""
        rows = Said(" ({} rows)", self.n_rows) if self.n_rows else ""
        return Said("{}: {}{}; {}", self.cause, Said.of(self.says), rows, Said.of(self.fix))


class Preflight(NamedTuple):
    """What training starts from."""

    rows: list[TokenizedExample]
    dropped: dict[str, int]
    end_id: int
    plain_template: str
    stop_ids: list[int]
    untrained_ids: list[int]
    findings: list[Finding]

    @property
    def repairs(self) -> list[str]:
        """What was wrong with model or tokenizer and is repaired, each in one line."""
        return [
            finding.says for finding in self.findings if finding.is_repaired and not finding.n_rows
        ]


def examine(
    folder: Path,
    shape: ModelShape,
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    target: Target,
    max_length: int,
    trains_embeddings: bool = False,
) -> Preflight:
    """Tokenize the rows and look for every cause that can be found without loading the model; the
    tokenizer's pad token is repaired at once."""
    try:
        plain_template, end_id = find_plain_template(tokenizer), find_end_of_turn(tokenizer)
        findings = _find_pad(tokenizer) + _find_system(examples, tokenizer, plain_template)
        rows, dropped = tokenize(examples, tokenizer, target, max_length, plain_template, end_id)
    except InputError as error:
        return Preflight([], {}, -1, "", [], [], [make_refusal(Cause.NO_TEMPLATE, error)])
    findings += _find_unusable_rows(rows, dropped, max_length)
    if n := sum(row.labels[-1] != end_id for row in rows):
        says, fix = Said("the last label is not token {}", end_id), "choose another model"
        findings.append(Finding(Cause.NO_END_OF_TURN, says, fix, n, is_repaired=False))
    if target == "reasoned":
        findings += _find_prefix(tokenizer, plain_template) + _find_style(examples)
    untrained: list[int] = []
    if not trains_embeddings:
        special_ids = sorted(tokenizer.added_tokens_decoder)
        untrained = find_untrained_tokens(folder, shape, rows, special_ids)
    stop_ids, stops = find_stops(folder, tokenizer)
    findings += stops
    if untrained:
        said = "untrained embedding rows are trained too: {}"
        says = Said(said, _name(tokenizer, untrained))
        fix = "train adds them to the adapter, or start from an Instruct model"
        findings.append(Finding(Cause.UNTRAINED_TOKENS, says, fix))
    return Preflight(rows, dropped, end_id, plain_template, stop_ids, untrained, findings)


def refuse(findings: Sequence[Finding], place: str) -> None:
    """Raise InputError for the first finding that train cannot repair."""
    for finding in findings:
        if not finding.is_repaired:
            raise InputError("{}: {}", place, finding.tell())


def make_refusal(cause: Cause, error: InputError) -> Finding:
    """Make a finding of an error of the form `place: what; fix`."""
    says, _, fix = str(error).partition(": ")[2].rpartition("; ")
    return Finding(cause, says, fix, is_repaired=False)


def _find_pad(tokenizer: "PreTrainedTokenizerBase") -> list[Finding]:
    try:
        repair = repair_pad_token(tokenizer)
    except InputError as error:
        return [make_refusal(Cause.PAD_ENDS_TURN, error)]
    return (
        [Finding(Cause.PAD_ENDS_TURN, repair, "train saves it with the adapter")] if repair else []
    )


def _find_system(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", template: str
) -> list[Finding]:
    n = sum(bool(example.system) for example in examples)
    if not n or takes_system(tokenizer, template):
        return []
    says, fix = "its chat template takes no system text", "it is put into the user's turn"
    return [Finding(Cause.NO_SYSTEM_TURN, says, fix, n_rows=n)]


def _find_unusable_rows(
    rows: Sequence[TokenizedExample], dropped: dict[str, int], max_length: int
) -> list[Finding]:
    if not rows:
        reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.items())
        says = Said("no row is left to train on: {}", reasons or Said("the file has no rows"))
        fix = Said("check --input, --target and --max-length {}", max_length)
        return [Finding(Cause.UNUSABLE_ROWS, says, fix, is_repaired=False)]
    findings: list[Finding] = []
    if n := dropped.get(Drop.TOO_LONG):
        says = Said("longer than --max-length {}", max_length)
        fix = "train drops them whole, never trimmed; raise --max-length to keep them"
        findings.append(Finding(Cause.ROWS_TOO_LONG, says, fix, n_rows=n))
    if others := {reason: n for reason, n in dropped.items() if reason != Drop.TOO_LONG}:
        reasons = ", ".join(f"{reason} {n}" for reason, n in others.items())
        fix = "train drops them; see what merge or verify let through"
        findings.append(Finding(Cause.UNUSABLE_ROWS, reasons, fix, n_rows=sum(others.values())))
    return findings


def _find_prefix(tokenizer: "PreTrainedTokenizerBase", plain_template: str) -> list[Finding]:
    split = find_prefix_mismatch(tokenizer, make_messages("?"), plain_template)
    fix = "its tokenizer cannot keep training and serving alike; choose another model"
    return [Finding(Cause.SERVED_OTHERWISE, split, fix, is_repaired=False)] if split else []


def _find_style(examples: Sequence[Example]) -> list[Finding]:
    n_bare = sum(example.style == "bare" for example in examples)
    if not examples or n_bare >= MIN_BARE_SHARE * len(examples):
        return []
    says = Said(
        "only {} of {} questions are asked bare, so the student may think only when told to",
        n_bare,
        len(examples),
    )
    fix = "merge again with a larger share of bare questions"
    return [Finding(Cause.FEW_BARE_QUESTIONS, says, fix, n_rows=len(examples) - n_bare)]


def find_stops(
    folder: Path, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[Finding]]:
    """List the tokens that must stop a generation, and those that the model's config leaves out."""
    config = read_generation_config(folder)
    stop_ids = find_stop_ids(tokenizer, config)
    missing = [stop for stop in stop_ids if stop not in list_ids(config.eos_token_id)]
    if not missing:
        return stop_ids, []
    says = Said("generation config did not stop on {}", _name(tokenizer, missing))
    return stop_ids, [
        Finding(Cause.STOPS_ELSEWHERE, says, "train and export write every stop token")
    ]


def find_untrained_tokens(
    folder: Path, shape: ModelShape, rows: Sequence[TokenizedExample], special_ids: Sequence[int]
) -> list[int]:
    """Find special tokens of the rows that nobody trained, as input or as output, from a model's
    files alone."""
    found: set[int] = set()
    for name in dict.fromkeys((shape.input_name, shape.output_name)):
        weights = read_tensor(folder, name)
        if weights is not None and rows:
            found |= set(find_untrained_ids(weights, rows, special_ids))
    return sorted(found)


def find_untrained_ids(
    weights: "torch.Tensor", rows: Sequence[TokenizedExample], special_ids: Sequence[int]
) -> list[int]:
    """Find special tokens of the rows whose embeddings were never trained: too short, or the same
    as those of unused rows.

    LoRA leaves embeddings frozen, so such a token could be learnt neither as input nor as output.
    """
    import torch

    used = {token for row in rows for token in row.input_ids}
    norms = torch.cat([chunk.float().norm(dim=-1) for chunk in weights.split(CHUNK)])
    ordinary = sorted(used - set(special_ids))
    usual = norms[ordinary].median() if ordinary else norms.median()
    return [
        token
        for token in special_ids
        if token in used and (norms[token] < UNTRAINED_SHARE * usual or _has_twin(weights, token))
    ]


def _has_twin(weights: "torch.Tensor", token: int) -> bool:
    """Tell whether another row of the embedding is practically the same: both still hold their
    first values."""
    import torch

    wanted = weights[token][None].float()
    likeness = torch.cat(
        [
            torch.nn.functional.cosine_similarity(chunk.float(), wanted, dim=-1)
            for chunk in weights.split(CHUNK)
        ]
    )
    likeness[token] = 0.0
    return bool((likeness > TWIN_COSINE).any())


def _name(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    return " ".join(
        str(token) for token in cast(list[Any], tokenizer.convert_ids_to_tokens(list(ids)))
    )


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


def find_too_little_memory(
    shape: ModelShape, method: Method, load: Workload, machine: Machine
) -> list[Finding]:
    """Find out whether even the best sharding leaves too much for one device; names the fix that
    changes least."""
    need = least_memory(shape, method, load)
    if need < machine.memory:
        return []
    told = "{} needs about {:.1f} GiB on each device, {:.1f} GiB are there"
    says = Said(told, method, need / GIB, machine.memory / GIB)
    fix = _advise(shape, method, load, machine)
    return [Finding(Cause.MEMORY, says, fix, is_repaired=False)]


def least_memory(shape: ModelShape, method: Method, load: Workload) -> float:
    shardings = SHARDINGS if load.n_devices > 1 else SHARDINGS[:1]
    return min(estimate_memory(shape, method, load, sharding) for sharding in shardings)


def _advise(shape: ModelShape, method: Method, load: Workload, machine: Machine) -> str:
    shorter = load._replace(n_tokens=min(load.n_tokens, FEW_TOKENS))
    if least_memory(shape, method, shorter) < machine.memory:
        return "lower --batch-size or --max-length"
    for other in METHODS:
        is_possible = other != method and (other != "qlora" or machine.device != "processor")
        if is_possible and least_memory(shape, other, shorter) < machine.memory:
            return Said("train with --method {}", other)
    everywhere = load._replace(n_devices=machine.n_devices)
    if least_memory(shape, method, everywhere) < machine.memory:
        return "train on all GPUs (docs/en/train.md says how)"
    return "choose a smaller model or a larger machine"


def estimate_disk(shape: ModelShape, method: Method, rank: int) -> int:
    """Estimate the bytes of the kept checkpoints and of what is written at the end, in float32."""
    return count_trained(shape, method, rank) * (N_KEPT * (4 + ADAM_BYTES) + 4)


def find_too_little_disk(need: int, out: Path) -> list[Finding]:
    """Find out whether the checkpoints fit onto the disk, beside or in place of those there."""
    files = (path for path in (out / CHECKPOINTS).rglob("*") if path.is_file())
    need -= sum(path.stat().st_size for path in files)
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if need < free:
        return []
    said = "checkpoints need {:.1f} GiB, {:.1f} GiB are free at {}"
    says = Said(said, need / GIB, free / GIB, place)
    return [Finding(Cause.DISK, says, "free some space or choose another --out", is_repaired=False)]
