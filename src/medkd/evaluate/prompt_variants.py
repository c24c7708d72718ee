"""The same questions in several wordings: does a model think only when it is told to?

In: examples; their answers. Out: prompts; a table of the share that thinks and is right by wording.
Not done here: asking (`evaluate.generate`), the answers' other scores.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from medkd.core.records import Example, Prediction
from medkd.core.task import load_task
from medkd.core.yaml_io import read_shipped_yaml
from medkd.evaluate.generate import Prompt, make_prompts
from medkd.evaluate.scoring import score_prediction
from medkd.evaluate.statistics import interval, to_columns


class Variant(NamedTuple):
    """One way to put a question."""

    name: str
    instructions: tuple[str, ...]
    """Taken in turn over the questions."""
    description: str


def list_variants() -> list[Variant]:
    """List the ways to put a question, the bare one first; training never sees the others' words,
    which are in `prompt_variants.yaml`."""
    unseen = read_shipped_yaml("medkd.evaluate", "prompt_variants.yaml")
    return [
        Variant("bare", ("",), "the question alone"),
        Variant(
            "instruction",
            load_task("diagnosis").student.instructions["zh"][:1],
            "under the instruction of training, which asks for thinking",
        ),
        Variant(
            "paraphrase",
            tuple(unseen["paraphrase"]),
            "under other words that never stood in training and do not ask for thinking",
        ),
        Variant("english", tuple(unseen["english"]), "under an English instruction"),
    ]


def make_variant_prompts(examples: Sequence[Example]) -> list[Prompt]:
    """Put every question in every way; the id says which, as in `made:1@english`."""
    return [
        make_prompts([e], variant.instructions[at % len(variant.instructions)])[0]._replace(
            id=f"{e.id}@{variant.name}"
        )
        for variant in list_variants()
        for at, e in enumerate(examples)
    ]


def tabulate_variants(predictions: Sequence[Prediction], seed: int) -> list[dict[str, Any]]:
    """Make a row for each way to put a question: how many were asked, how many thought, how many
    were right."""
    table: list[dict[str, Any]] = []
    for variant in list_variants():
        group = [p for p in predictions if p.id.endswith(f"@{variant.name}")]
        if not group:
            continue
        row: dict[str, Any] = {
            "wording": variant.name,
            "description": variant.description,
            "n": len(group),
        }
        columns = to_columns([score_prediction(p) for p in group])
        for name in ("think_format_rate", "diagnosis_accuracy"):
            if name in columns:
                row[name] = round(sum(columns[name]) / len(columns[name]), 6)
                row[f"{name}_interval"] = interval(columns[name], seed)
        table.append(row)
    return table
