"""Before the first step: find each known way to get a student that will not stop or will not think.

In: examples, a tokenizer, what a model's folder says. Out: token rows, and findings, each with its
cause, its rows and the fix in one line; those that `train` puts right by itself are told apart from
those it refuses. Not done here: memory, time and disk (`train.plan`), putting right what needs a
loaded model (`train.stage`).
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core.errors import InputError
from medkd.core.records import Example
from medkd.models.chat_template import (
    find_end_of_turn,
    find_plain_template,
    find_prefix_mismatch,
    find_stop_ids,
    has_thinking_prefix,
    list_ids,
    make_messages,
    repair_pad_token,
    takes_system,
)
from medkd.models.inspect import ModelShape, read_generation_config, read_tensor
from medkd.train.rows import Drop, Target, TokenRow, make_rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNTRAINED_SHARE = 0.5
"""A row of the embeddings shorter than this share of what is usual among the words of the rows was
never trained."""
TWIN_COSINE = 0.999
MIN_BARE_SHARE = 0.5
"""Below this share of bare questions a student learns to think when told to, not by itself."""
N_COMPARED = 3
"""Rows whose packed loss is compared."""
CHUNK = 16384


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
    """Whether train puts it right by itself; it refuses the rest."""

    def tell(self) -> str:
        """Say it on one line."""
        rows = f" ({self.n_rows} rows)" if self.n_rows else ""
        return f"{self.cause}: {self.says}{rows}; {self.fix}"


class Preflight(NamedTuple):
    """What training starts from."""

    rows: list[TokenRow]
    dropped: dict[str, int]
    end_id: int
    plain_template: str
    stop_ids: list[int]
    untrained_ids: list[int]
    findings: list[Finding]

    @property
    def repairs(self) -> list[str]:
        """What was wrong with model or tokenizer and is put right, each in one line."""
        return [
            finding.says for finding in self.findings if finding.is_repaired and not finding.n_rows
        ]


def examine(
    folder: Path,
    skeleton: ModelShape,
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    target: Target,
    max_length: int,
    trains_embeddings: bool = False,
) -> Preflight:
    """Make rows and look for every cause that can be found without loading the model; the
    tokenizer's pad is put right at once."""
    findings: list[Finding] = []
    try:
        plain_template, end_id = find_plain_template(tokenizer), find_end_of_turn(tokenizer)
    except InputError as error:
        says, _, fix = str(error).partition(": ")[2].rpartition("; ")
        return _give_up([Finding(Cause.NO_TEMPLATE, says, fix, is_repaired=False)])
    findings += _find_pad(tokenizer) + _find_system(examples, tokenizer, plain_template)
    rows, dropped = make_rows(examples, tokenizer, target, max_length, plain_template, end_id)
    findings += _find_unusable_rows(rows, dropped, max_length)
    if n := sum(row.labels[-1] != end_id for row in rows):
        findings.append(
            Finding(
                Cause.NO_END_OF_TURN,
                f"the last label is not token {end_id}",
                "choose another model",
                n_rows=n,
                is_repaired=False,
            )
        )
    if target == "reasoned":
        findings += _find_prefix(tokenizer, plain_template) + _find_style(examples)
    stop_ids, stops = _find_stops(folder, tokenizer)
    untrained = (
        []
        if trains_embeddings
        else find_untrained_tokens(folder, skeleton, rows, sorted(tokenizer.added_tokens_decoder))
    )
    if untrained:
        says = f"untrained embedding rows are trained too: {_name(tokenizer, untrained)}"
        stops.append(
            Finding(
                Cause.UNTRAINED_TOKENS,
                says,
                "train adds them to the adapter, or start from an Instruct model",
            )
        )
    return Preflight(rows, dropped, end_id, plain_template, stop_ids, untrained, findings + stops)


def examine_served(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> list[Finding]:
    """Look at a model that is to be served as it is: does its template begin the thinking, does its
    generation end with the turn?"""
    try:
        begins, end = (
            has_thinking_prefix(tokenizer),
            tokenizer.convert_ids_to_tokens(find_end_of_turn(tokenizer)),
        )
    except InputError as error:
        says, _, fix = str(error).partition(": ")[2].rpartition("; ")
        return [Finding(Cause.NO_TEMPLATE, says, fix, is_repaired=False)]
    findings = [
        finding._replace(fix="train and export, which write them")
        for finding in _find_stops(folder, tokenizer)[1]
    ]
    if not begins:
        says = "its chat template does not begin the thinking"
        findings.append(
            Finding(
                Cause.SERVED_OTHERWISE,
                says,
                "train it to think, and export it, which writes the prefix into the template",
            )
        )
    if tokenizer.pad_token is None or tokenizer.pad_token == end:
        findings.append(
            Finding(
                Cause.PAD_ENDS_TURN,
                f"pad token is {tokenizer.pad_token or 'missing'}",
                "train and export, which give it its own",
            )
        )
    return findings


def refuse(findings: Sequence[Finding], place: str) -> None:
    """Raise InputError for the first finding that train cannot put right by itself."""
    for finding in findings:
        if not finding.is_repaired:
            raise InputError(f"{place}: {finding.tell()}")


def _give_up(findings: list[Finding]) -> Preflight:
    return Preflight([], {}, -1, "", [], [], findings)


def _find_pad(tokenizer: "PreTrainedTokenizerBase") -> list[Finding]:
    try:
        repair = repair_pad_token(tokenizer)
    except InputError as error:
        says, _, fix = str(error).partition(": ")[2].rpartition("; ")
        return [Finding(Cause.PAD_ENDS_TURN, says, fix, is_repaired=False)]
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
    rows: Sequence[TokenRow], dropped: dict[str, int], max_length: int
) -> list[Finding]:
    if not rows:
        reasons = (
            ", ".join(f"{reason} {n}" for reason, n in dropped.items()) or "the file has no rows"
        )
        says, fix = (
            f"no row is left to train on: {reasons}",
            f"check --input, --target and --max-length {max_length}",
        )
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
    says = f"only {n_bare} of {len(examples)} questions are asked bare, so the student may think only when told to"
    return [
        Finding(
            Cause.FEW_BARE_QUESTIONS,
            says,
            "merge again with a larger share of bare questions",
            n_rows=len(examples) - n_bare,
        )
    ]


def _find_stops(
    folder: Path, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[Finding]]:
    """List what must stop a generation, and say what of it the model's own config forgets."""
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
    folder: Path, skeleton: ModelShape, rows: Sequence[TokenRow], special_ids: Sequence[int]
) -> list[int]:
    """Find special tokens of the rows that nobody trained, as input or as output, from a model's
    files alone."""
    found: set[int] = set()
    for name in dict.fromkeys((skeleton.input_name, skeleton.output_name)):
        weights = read_tensor(folder, name)
        if weights is not None and rows:
            found |= set(find_untrained_ids(weights, rows, special_ids))
    return sorted(found)


def find_untrained_ids(
    weights: "torch.Tensor", rows: Sequence[TokenRow], special_ids: Sequence[int]
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
    """Tell whether another row of the embedding is practically the same: both still stand where
    they were set at first."""
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


def compare_packed(model: "PreTrainedModel", rows: Sequence[TokenRow]) -> list[Finding]:
    """Compare the loss of a few rows alone with that of the same rows packed into one; they must
    not see each other."""
    import torch

    few = sorted(rows, key=lambda row: len(row.input_ids))[:N_COMPARED]
    loss = torch.nn.functional.cross_entropy

    def score(ids: list[int], labels: list[int], positions: list[int]) -> float:
        place = model.device
        output = model(
            input_ids=torch.tensor([ids], device=place),
            position_ids=torch.tensor([positions], device=place),
            use_cache=False,
        )
        return float(
            loss(
                output.logits[0, :-1].float(),
                torch.tensor(labels[1:], device=place),
                reduction="sum",
            )
        )

    was_training = model.training
    model.eval()
    with torch.inference_mode():
        alone = sum(
            score(row.input_ids, row.labels, list(range(len(row.input_ids)))) for row in few
        )
        packed = score(
            [token for row in few for token in row.input_ids],
            [label for row in few for label in row.labels],
            [position for row in few for position in range(len(row.input_ids))],
        )
    model.train(was_training)
    tolerance = 0.02 if model.dtype == torch.bfloat16 else 1e-3
    if abs(packed - alone) <= tolerance * max(alone, 1.0):
        return []
    says = f"{len(few)} rows have the loss {alone:.3f} alone and {packed:.3f} packed: they see each other"
    return [
        Finding(
            Cause.PACKED_OTHERWISE,
            says,
            "train packs nothing; install flash-attn, or leave packing off",
        )
    ]


def _name(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    return " ".join(
        str(token) for token in cast(list[Any], tokenizer.convert_ids_to_tokens(list(ids)))
    )
