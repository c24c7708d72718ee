"""The same questions in several wordings: does a model think only when it is told to?

In: examples and an asker. Out: for each wording the share of answers that think, and that are
right, in one table. The wordings are in `wordings.yaml`; training never sees them. Not done here:
the answers' other scores.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from medkd.core.prompts import load_prompts
from medkd.core.records import Example, Prediction
from medkd.core.yaml_io import read_shipped_yaml
from medkd.evaluate.scoring import grade_all, score_form
from medkd.evaluate.statistics import interval
from medkd.evaluate.tasks import Task, make_tasks


class Wording(NamedTuple):
    """One way to put a question."""

    name: str
    instructions: tuple[str, ...]
    """Taken in turn over the questions."""
    description: str


def list_wordings() -> list[Wording]:
    """List the wordings, the bare question first."""
    unseen = read_shipped_yaml("medkd.evaluate", "wordings.yaml")
    return [
        Wording("bare", ("",), "the question alone"),
        Wording(
            "instruction",
            (load_prompts("zh").instruction,),
            "under the instruction of training, which asks for thinking",
        ),
        Wording(
            "paraphrase",
            tuple(unseen["paraphrase"]),
            "under other words that never stood in training and do not ask for thinking",
        ),
        Wording("english", tuple(unseen["english"]), "under an English instruction"),
    ]


def make_worded_tasks(examples: Sequence[Example], wording: Wording) -> list[Task]:
    """Put every question in one wording."""
    n = len(wording.instructions)
    tasks = [make_tasks([e], wording.instructions[at % n])[0] for at, e in enumerate(examples)]
    return [task._replace(id=f"{task.id}@{wording.name}") for task in tasks]


def tabulate(predictions: Sequence[Prediction], seed: int) -> list[dict[str, Any]]:
    """Give a row a wording: how many were asked, how many thought, how many were right."""
    table: list[dict[str, Any]] = []
    for wording in list_wordings():
        group = [p for p in predictions if p.id.endswith(f"@{wording.name}")]
        if not group:
            continue
        thought = [score_form(p)["think_format_rate"] for p in group]
        right = [float(found.principal) for found in grade_all(group).values()]
        row: dict[str, Any] = {
            "wording": wording.name,
            "description": wording.description,
            "n": len(group),
        }
        for name, values in (("think_format_rate", thought), ("diagnosis_accuracy", right)):
            if values:
                row[name] = round(sum(values) / len(values), 6)
                row[f"{name}_interval"] = interval(values, seed)
        table.append(row)
    return table
