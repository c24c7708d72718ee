"""What a training leaves: weights, and beside them all that serving takes, whole or not at all.

In: a finished trainer, the pre-flight, the examples. Out: `adapter/`, or `model/` where all weights
were trained.
Not done here: merging and proving (`medkd.export`).
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medkd.core.jsonl import write_json
from medkd.core.records import Example
from medkd.models.inspect import read_json
from medkd.train.rows import Target

if TYPE_CHECKING:
    from transformers import Trainer

QUESTIONS, LINEAGE = "questions.json", "lineage.json"
N_QUESTIONS = 20
"""Unseen questions kept beside the weights, for `export` to prove the model on."""


def save_weights(trainer: "Trainer", final: Path, base: str, is_main: bool) -> Path:
    """Write weights, and nothing else, into a folder beside the final one; every process takes part
    where weights are spread."""
    temporary = final.with_name(f".{final.name}.tmp")
    if is_main:
        shutil.rmtree(temporary, ignore_errors=True)
    trainer.save_model(str(temporary))
    if is_main:
        if adapter := read_json(temporary / "adapter_config.json"):
            write_json(
                temporary / "adapter_config.json", adapter | {"base_model_name_or_path": base}
            )
        (temporary / "training_args.bin").unlink(missing_ok=True)
        (temporary / "README.md").unlink(missing_ok=True)
        shutil.rmtree(
            temporary / "ref", ignore_errors=True
        )  # the start that reinforcement measures its distance from
    return temporary


def save_papers(
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
    model, tokenizer = (
        cast(Any, trainer.accelerator.unwrap_model(cast(Any, trainer.model))),
        cast(Any, trainer.processing_class),
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(str(temporary))
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = list(stop_ids), tokenizer.pad_token_id
    generation.save_pretrained(str(temporary))
    write_json(temporary / QUESTIONS, questions)
    write_json(temporary / LINEAGE, lineage)
    shutil.rmtree(final, ignore_errors=True)
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
        "sources": dict(Counter(example.source for example in examples)),
        "licences": dict(Counter(example.lineage.licence or "unknown" for example in examples)),
        "teachers": dict(Counter(example.lineage.teacher or "none" for example in examples)),
        "deidentified_by": dict(
            Counter(example.lineage.deidentified_by or "not patient text" for example in examples)
        ),
        "styles": dict(Counter(str(example.style) for example in examples)),
        "cost": {currency: round(amount, 6) for currency, amount in costs.items() if amount},
    }
