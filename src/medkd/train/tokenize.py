"""The rows of `merge` as the trainer takes them: each whole, or dropped with a reason.

In: a directory of `merge`, a tokenizer. Out: token rows whose last label ends the turn, and their
lengths. A row is never trimmed. Not done here: looking for what would make training fail
(`train.preflight`).
"""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medkd.core import thinking
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.records import Example
from medkd.core.stage_output import StageOutput
from medkd.models.chat_template import encode_rows, make_messages, special_tokens
from medkd.train.config import Target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


def draw_lengths(rows: Sequence[TokenizedExample], width: int = 40) -> list[str]:
    """Draw the lengths of the rows as lines of text, a bin of equal width each.

    >>> rows = [TokenizedExample([1] * n, [1] * n) for n in (4, 24)]
    >>> draw_lengths(rows, width=3)[0]
    '     4 -      5        1  ###'
    """
    lengths = [len(row.input_ids) for row in rows]
    low = min(lengths)
    step = -(-(max(lengths) - low + 1) // N_BINS)
    counts = Counter((length - low) // step for length in lengths)
    most = max(counts.values())
    return [
        f"{low + at * step:>6} - {low + (at + 1) * step - 1:>6} {counts[at]:>8}  "
        + "#" * -(-width * counts[at] // most)
        for at in range(max(counts) + 1)
    ]
