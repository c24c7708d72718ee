"""Examples to token rows: each whole, or dropped with a reason; a row is never trimmed.

In: examples and a tokenizer. Out: rows whose last label ends the turn, and how long they are. Not
done here: looking for what would make training fail (`train.preflight`).
"""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

from medkd.core import thinking
from medkd.core.records import Example
from medkd.models.chat_template import encode_rows, make_messages, special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Target = Literal["reasoned", "answers"]

IGNORED = -100
"""The label of a token that is given, not learnt."""
N_BINS = 12


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


def write_output(example: Example, target: Target) -> str:
    """Write what the student is to say."""
    return (
        thinking.write(example.reasoning, example.answer)
        if target == "reasoned"
        else example.answer.strip()
    )


def find_fault(example: Example, output: str, target: Target, markup: Sequence[str]) -> Drop | None:
    """Say why an example cannot be used, whatever its length; `markup` are the control tokens of
    the model."""
    if not example.answer.strip():
        return Drop.NO_ANSWER
    if target == "reasoned" and not thinking.is_well_formed(output):
        return Drop.NOT_WELL_FORMED
    texts = (example.system, example.instruction, example.input, output)
    return Drop.CONTROL_TOKENS if any(token in text for token in markup for text in texts) else None


def make_rows(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    target: Target,
    max_length: int,
    plain_template: str,
    end_id: int,
) -> tuple[list[TokenRow], dict[str, int]]:
    """Make the token rows of all examples that can be used, each whole, and count the others by
    reason."""
    markup = special_tokens(tokenizer)
    outputs = [write_output(example, target) for example in examples]
    faults = [
        find_fault(example, output, target, markup)
        for example, output in zip(examples, outputs, strict=True)
    ]
    usable = [
        (make_messages(example.input, example.instruction, example.system), output)
        for example, output, fault in zip(examples, outputs, faults, strict=True)
        if fault is None
    ]
    encoded = encode_rows(tokenizer, usable, plain_template, end_id)
    rows = [
        TokenRow([*prompt, *completion], [IGNORED] * len(prompt) + completion)
        for prompt, completion in encoded
        if len(prompt) + len(completion) <= max_length
    ]
    dropped = Counter(
        [str(fault) for fault in faults if fault is not None]
        + [str(Drop.TOO_LONG)] * (len(encoded) - len(rows))
    )
    return rows, dict(dropped.most_common())


def describe_lengths(rows: Sequence[TokenRow]) -> dict[str, int]:
    """Give the number of tokens of the rows: median, 90th percentile, longest, sum, and how many
    are learnt."""
    lengths = sorted(len(row.input_ids) for row in rows)
    n_learnt = sum(label != IGNORED for row in rows for label in row.labels)
    return {
        "median": lengths[len(lengths) // 2],
        "p90": lengths[int(len(lengths) * 0.9)],
        "longest": lengths[-1],
        "tokens": sum(lengths),
        "tokens_learnt": n_learnt,
    }


def draw_lengths(rows: Sequence[TokenRow], width: int = 40) -> list[str]:
    """Draw the lengths of the rows as lines of text, a bin of equal width each.

    >>> draw_lengths([TokenRow([1] * 4, [1] * 4), TokenRow([1] * 24, [1] * 24)], width=3)[0]
    '     4 -      5        1  ###'
    """
    lengths = [len(row.input_ids) for row in rows]
    low = min(lengths)
    step = -(-(max(lengths) - low + 1) // N_BINS)
    counts = Counter((length - low) // step for length in lengths)
    most = max(counts.values())
    bins = range(max(counts) + 1)
    return [
        f"{low + at * step:>6} - {low + (at + 1) * step - 1:>6} {counts[at]:>8}  {'#' * -(-width * counts[at] // most)}"
        for at in bins
    ]
