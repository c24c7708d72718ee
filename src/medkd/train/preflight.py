"""Before the first step: turn examples into token rows, and find what is known to make training fail.

In: examples, a tokenizer, a model. Out: rows whose last label is the end of the turn, what was dropped and why, what had
to be repaired. Refuses (InputError) only what it cannot repair. Not done here: training; estimates of memory and time.
"""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.records import Example
from medkd.models.tokens import (
    encode_row,
    find_end_of_turn,
    find_markup,
    find_plain_template,
    find_split_prefix,
    make_messages,
    repair_pad_token,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Target = Literal["reasoned", "answers"]

IGNORED = -100
"""The label of a token that is given, not learnt."""
UNTRAINED_SHARE = 0.5
"""A row shorter than this share of nearly all others was never trained."""


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


class TokenRow(NamedTuple):
    """One example as the trainer takes it; both lists have the same length."""

    input_ids: list[int]
    labels: list[int]


class Preflight(NamedTuple):
    """What training starts from."""

    rows: list[TokenRow]
    dropped: dict[str, int]
    end_id: int
    plain_template: str
    repairs: list[str]
    """What was wrong and is put right, each in one line."""


def write_output(example: Example, target: Target) -> str:
    """Write what the student is to say."""
    return thinking.write(example.reasoning, example.answer) if target == "reasoned" else example.answer.strip()


def make_row(
    example: Example, tokenizer: "PreTrainedTokenizerBase", target: Target, max_length: int, plain_template: str, end_id: int
) -> TokenRow | Drop:
    """Make one token row, whole, or say why it cannot be used."""
    output = write_output(example, target)
    if not example.answer.strip():
        return Drop.NO_ANSWER
    if target == "reasoned" and not thinking.is_well_formed(output):
        return Drop.NOT_WELL_FORMED
    texts = (example.system, example.instruction, example.input, output)
    if any(token in text for token in find_markup(tokenizer) for text in texts):
        return Drop.CONTROL_TOKENS
    messages = make_messages(example.input, example.instruction, example.system)
    prompt, completion = encode_row(tokenizer, messages, output, plain_template, end_id)
    if len(prompt) + len(completion) > max_length:
        return Drop.TOO_LONG
    return TokenRow([*prompt, *completion], [IGNORED] * len(prompt) + completion)


def make_rows(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", target: Target, max_length: int, plain_template: str, end_id: int
) -> tuple[list[TokenRow], dict[str, int]]:
    """Make the token rows of all examples that can be used, and count the others by reason."""
    made = [make_row(example, tokenizer, target, max_length, plain_template, end_id) for example in examples]
    dropped = Counter(str(row) for row in made if isinstance(row, Drop))
    return [row for row in made if not isinstance(row, Drop)], dict(dropped.most_common())


def prepare(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", target: Target, max_length: int) -> Preflight:
    """Make rows from examples and repair the tokenizer; raises InputError where nothing is left or nothing can be learnt from it."""
    plain_template = find_plain_template(tokenizer)
    if plain_template is None:
        raise InputError(
            f"{tokenizer.name_or_path}: no template without a thinking prefix is known for it; choose a model of the ChatML family"
        )
    end_id = find_end_of_turn(tokenizer)
    repairs = [repair_pad_token(tokenizer)]
    rows, dropped = make_rows(examples, tokenizer, target, max_length, plain_template, end_id)
    if not rows:
        reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.items()) or "the file has no rows"
        raise InputError(f"no row is left to train on ({reasons}); check --input, --target and --max-length {max_length}")
    if any(row.labels[-1] != end_id for row in rows):
        raise InputError(
            f"{tokenizer.name_or_path}: rows do not end with the end-of-turn token {end_id}; its template cannot be trained on"
        )
    if target == "reasoned" and (split := find_split_prefix(tokenizer, make_messages(examples[0].input), plain_template)):
        raise InputError(f"{tokenizer.name_or_path}: {split}; its tokenizer cannot keep training and serving alike")
    return Preflight(rows, dropped, end_id, plain_template, [repair for repair in repairs if repair])


def find_untrained_ids(model: "PreTrainedModel", rows: Sequence[TokenRow], special_ids: Sequence[int]) -> list[int]:
    """Find special tokens of the rows whose embeddings were never trained: too short, or the same as those of unused rows.

    LoRA leaves embeddings frozen, so such a token could be learnt neither as input nor as output.
    """
    used = {token for row in rows for token in row.input_ids}
    weights = cast(Any, model.get_input_embeddings()).weight.detach().float()
    norms = weights.norm(dim=-1)
    ordinary = sorted(used - set(special_ids))
    usual = norms[ordinary].quantile(0.05) if ordinary else norms.median()
    return [token for token in special_ids if token in used and (norms[token] < UNTRAINED_SHARE * usual or _has_twin(weights, token))]


def _has_twin(weights: "torch.Tensor", token: int) -> bool:
    """Tell whether another row of the embedding is practically the same: both still stand where they were set at first."""
    import torch

    likeness = torch.nn.functional.cosine_similarity(weights, weights[token][None], dim=-1)
    likeness[token] = 0.0
    return bool((likeness > 0.999).any())


def describe_lengths(rows: Sequence[TokenRow]) -> dict[str, int]:
    """Give the number of tokens of the rows: median, 90th percentile, longest, sum, and how many are learnt."""
    lengths = sorted(len(row.input_ids) for row in rows)
    n_learnt = sum(label != IGNORED for row in rows for label in row.labels)
    return {
        "median": lengths[len(lengths) // 2],
        "p90": lengths[int(len(lengths) * 0.9)],
        "longest": lengths[-1],
        "tokens": sum(lengths),
        "tokens_learnt": n_learnt,
    }
