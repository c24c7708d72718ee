"""What a training leaves: weights, and beside them all that serving takes, whole or not at all.

In: a finished trainer, the examples. Out: `adapter/`, or `model/` where all weights were trained.
Not done here: merging and proving (`medkd.export`).
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medkd.core.jsonl import write_json
from medkd.core.records import Example
from medkd.models.chat_template import find_templates, has_thinking_prefix
from medkd.models.inspect import read_json
from medkd.models.load import open_to_readers
from medkd.train.config import Target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

ADAPTER, QUESTIONS, LINEAGE = "adapter", "questions.json", "lineage.json"
N_QUESTIONS = 20
"""Unseen questions kept beside the weights, for `export` to prove the model on."""


def save_weights(trainer: "Trainer", final: Path, base: str, is_main: bool = True) -> Path:
    """Write the weights into a folder beside the final one; every process takes part where they
    are sharded."""
    temporary = final.with_name(f".{final.name}.tmp")
    if is_main:
        shutil.rmtree(temporary, ignore_errors=True)
    trainer.save_model(str(temporary))
    if is_main:
        open_to_readers(temporary)
        config_path = temporary / "adapter_config.json"
        if config := read_json(config_path):
            write_json(config_path, config | {"base_model_name_or_path": base})
        for name in ("training_args.bin", "README.md"):
            (temporary / name).unlink(missing_ok=True)
        # The start from which reinforcement measures its divergence.
        shutil.rmtree(temporary / "ref", ignore_errors=True)
    return temporary


def save_metadata(
    trainer: "Trainer",
    temporary: Path,
    final: Path,
    template: str,
    stop_ids: Sequence[int],
    questions: dict[str, Any],
    lineage: dict[str, Any],
) -> None:
    """Write everything else that serving takes beside the weights, and put the folder in its
    place."""
    tokenizer = cast(Any, trainer.processing_class)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(str(temporary))
    model = cast(Any, trainer.accelerator.unwrap_model(cast(Any, trainer.model)))
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = list(stop_ids), tokenizer.pad_token_id
    generation.save_pretrained(str(temporary))
    write_json(temporary / QUESTIONS, questions)
    write_json(temporary / LINEAGE, lineage)
    _replace(final, temporary)


def _replace(final: Path, temporary: Path) -> None:
    """Put a folder in the place of another; files that a person put into the other one stay."""
    if final.is_dir():
        for path in final.iterdir():
            if not (temporary / path.name).exists():
                path.rename(temporary / path.name)
        shutil.rmtree(final)
    temporary.rename(final)


def choose_questions(
    examples: Sequence[Example], val_examples: Sequence[Example]
) -> dict[str, Any]:
    """Choose bare questions to prove the model on: from rows it never saw, or else from the last
    ones it was trained on."""
    source = val_examples or examples[-N_QUESTIONS:]
    return {
        "unseen": bool(val_examples),
        "questions": [{"id": e.id, "question": e.input} for e in source[:N_QUESTIONS]],
    }


def trace_lineage(examples: Sequence[Example], model: str, target: Target) -> dict[str, Any]:
    """Sum up where the training rows come from: sources, licences, teachers, what they cost, how
    they were de-identified."""
    costs: Counter[str] = Counter()
    for example in examples:
        costs[example.lineage.cost.currency] += example.lineage.cost.amount  # pyright: ignore[reportArgumentType]
    return {
        "base_model": model,
        "target": target,
        "rows": len(examples),
        "sources": dict(Counter(e.source for e in examples)),
        "licences": dict(Counter(e.lineage.licence or "unknown" for e in examples)),
        "teachers": dict(Counter(e.lineage.teacher or "none" for e in examples)),
        "deidentified_by": dict(
            Counter(e.lineage.deidentified_by or "not patient text" for e in examples)
        ),
        "styles": dict(Counter(str(e.style) for e in examples)),
        "cost": {currency: round(amount, 6) for currency, amount in costs.items() if amount},
    }


def choose_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Choose the template to save: one that begins the thinking where the tokenizer's own does."""
    pair = find_templates(tokenizer)
    return pair.thinking if has_thinking_prefix(tokenizer) else pair.plain


def inherit(
    adapter: Path | None, model: str, examples: Sequence[Example], val_examples: Sequence[Example]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the questions and the lineage that stand beside the adapter a training started
    from."""
    questions = read_json(adapter / QUESTIONS) if adapter else None
    lineage = read_json(adapter / LINEAGE) if adapter else None
    return questions or choose_questions(examples, val_examples), lineage or {"base_model": model}
