"""Tokenizes the rows of `merge`, and finds what makes a student that will not stop or think.

In: examples, a tokenizer, a model's folder. Out: whole rows, the last label of each ending its
turn, and findings; `train` repairs some, refuses the rest. Not done here: memory (`train.memory`).
"""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.records import Example
from medkd.core.stage_output import StageOutput
from medkd.models.chat_template import (
    encode_rows,
    find_end_of_turn,
    find_plain_template,
    find_prefix_mismatch,
    find_stop_ids,
    has_thinking_prefix,
    list_ids,
    make_messages,
    repair_pad_token,
    special_tokens,
    takes_system,
)
from medkd.models.inspect import ModelShape, read_generation_config, read_tensor
from medkd.train.config import Target

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that is given, not learnt."""
UNTRAINED_SHARE = 0.5
"""A row of the embeddings shorter than this share of what is usual among the words of the rows was
never trained."""
TWIN_COSINE = 0.999
MIN_BARE_SHARE = 0.5
"""Below this share of bare questions a student learns to think when told to, not by itself."""
N_COMPARED = 3
"""Rows whose packed loss is compared."""
CHUNK = 16384


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


def find_inputs(path: Path) -> tuple[Path, Path | None]:
    """Find the training rows, and the validation rows beside them where there are any."""
    train_path = resolve_input(path, "train.jsonl", made_by="merge")
    val_path = train_path.with_name("val.jsonl")
    has_val = val_path != train_path and val_path.is_file() and val_path.stat().st_size > 0
    return train_path, val_path if has_val else None


def read_examples(path: Path | None, output: StageOutput | None = None) -> list[Example]:
    """Read the rows of a file, none where there is no file; counted where an output is given."""
    if path is None:
        return []
    reader = RecordReader(path, Example, made_by="merge")
    examples = list(reader)
    if output is not None:
        output.read(reader.n_read)
        output.drop_all(reader.dropped())
    return examples


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

    def tell(self) -> str:
        """Write it on one line."""
        rows = f" ({self.n_rows} rows)" if self.n_rows else ""
        return f"{self.cause}: {self.says}{rows}; {self.fix}"


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
        return Preflight([], {}, -1, "", [], [], [_refusal(Cause.NO_TEMPLATE, error)])
    findings += _find_unusable_rows(rows, dropped, max_length)
    if n := sum(row.labels[-1] != end_id for row in rows):
        says, fix = f"the last label is not token {end_id}", "choose another model"
        findings.append(Finding(Cause.NO_END_OF_TURN, says, fix, n, is_repaired=False))
    if target == "reasoned":
        findings += _find_prefix(tokenizer, plain_template) + _find_style(examples)
    untrained: list[int] = []
    if not trains_embeddings:
        special_ids = sorted(tokenizer.added_tokens_decoder)
        untrained = find_untrained_tokens(folder, shape, rows, special_ids)
    stop_ids, stops = _find_stops(folder, tokenizer)
    findings += stops
    if untrained:
        says = f"untrained embedding rows are trained too: {_name(tokenizer, untrained)}"
        fix = "train adds them to the adapter, or start from an Instruct model"
        findings.append(Finding(Cause.UNTRAINED_TOKENS, says, fix))
    return Preflight(rows, dropped, end_id, plain_template, stop_ids, untrained, findings)


def examine_served(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> list[Finding]:
    """Look at a model that is to be served as it is: does its template begin the thinking, does its
    generation end with the turn?"""
    try:
        begins_thinking = has_thinking_prefix(tokenizer)
        end = tokenizer.convert_ids_to_tokens(find_end_of_turn(tokenizer))
        stops = _find_stops(folder, tokenizer)[1]
    except InputError as error:
        return [_refusal(Cause.NO_TEMPLATE, error)]
    findings = [finding._replace(fix="train and export, which write them") for finding in stops]
    if not begins_thinking:
        says = "its chat template does not begin the thinking"
        fix = "train it to think, and export it, which writes the prefix into the template"
        findings.append(Finding(Cause.SERVED_OTHERWISE, says, fix))
    if tokenizer.pad_token is None or tokenizer.pad_token == end:
        says = f"pad token is {tokenizer.pad_token or 'missing'}"
        fix = "train and export, which give it its own"
        findings.append(Finding(Cause.PAD_ENDS_TURN, says, fix))
    return findings


def refuse(findings: Sequence[Finding], place: str) -> None:
    """Raise InputError for the first finding that train cannot repair."""
    for finding in findings:
        if not finding.is_repaired:
            raise InputError("{}: {}", place, finding.tell())


def _refusal(cause: Cause, error: InputError) -> Finding:
    """Make a finding of an error of the form `place: what; fix`."""
    says, _, fix = str(error).partition(": ")[2].rpartition("; ")
    return Finding(cause, says, fix, is_repaired=False)


def _find_pad(tokenizer: "PreTrainedTokenizerBase") -> list[Finding]:
    try:
        repair = repair_pad_token(tokenizer)
    except InputError as error:
        return [_refusal(Cause.PAD_ENDS_TURN, error)]
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
        says = f"no row is left to train on: {reasons or 'the file has no rows'}"
        fix = f"check --input, --target and --max-length {max_length}"
        return [Finding(Cause.UNUSABLE_ROWS, says, fix, is_repaired=False)]
    findings: list[Finding] = []
    if n := dropped.get(Drop.TOO_LONG):
        fix = "train drops them whole, never trimmed; raise --max-length to keep them"
        findings.append(
            Finding(Cause.ROWS_TOO_LONG, f"longer than --max-length {max_length}", fix, n_rows=n)
        )
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
    says = (
        f"only {n_bare} of {len(examples)} questions are asked bare, so the student may think only "
        "when told to"
    )
    fix = "merge again with a larger share of bare questions"
    return [Finding(Cause.FEW_BARE_QUESTIONS, says, fix, n_rows=len(examples) - n_bare)]


def _find_stops(
    folder: Path, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[Finding]]:
    """List the tokens that must stop a generation, and those that the model's config leaves out."""
    config = read_generation_config(folder)
    stop_ids = find_stop_ids(tokenizer, config)
    missing = [stop for stop in stop_ids if stop not in list_ids(config.eos_token_id)]
    if not missing:
        return stop_ids, []
    says = f"generation config did not stop on {_name(tokenizer, missing)}"
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


def compare_packed(model: "PreTrainedModel", rows: Sequence[TokenizedExample]) -> list[Finding]:
    """Compare the loss of a few rows alone with that of the same rows packed into one; they must
    not see each other."""
    import torch

    few = sorted(rows, key=lambda row: len(row.input_ids))[:N_COMPARED]
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        alone = sum(_sum_loss(model, [row]) for row in few)
        packed = _sum_loss(model, few)
    model.train(was_training)
    tolerance = 0.02 if model.dtype == torch.bfloat16 else 1e-3
    if abs(packed - alone) <= tolerance * max(alone, 1.0):
        return []
    says = (
        f"{len(few)} rows have the loss {alone:.3f} alone and {packed:.3f} packed: "
        "they see each other"
    )
    fix = "train packs nothing; install flash-attn, or leave packing off"
    return [Finding(Cause.PACKED_OTHERWISE, says, fix)]


def _sum_loss(model: "PreTrainedModel", rows: Sequence[TokenizedExample]) -> float:
    """Sum the loss over the learnt tokens of rows packed into one."""
    import torch

    def place(numbers: list[int]) -> torch.Tensor:
        return torch.tensor([numbers], device=model.device)

    ids = place([token for row in rows for token in row.input_ids])
    positions = place([position for row in rows for position in range(len(row.input_ids))])
    labels = place([label for row in rows for label in row.labels])
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    return float(
        torch.nn.functional.cross_entropy(logits[0, :-1].float(), labels[0, 1:], reduction="sum")
    )


def _name(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    return " ".join(
        str(token) for token in cast(list[Any], tokenizer.convert_ids_to_tokens(list(ids)))
    )
