"""The stages there are: where each one lives, what it does, and which earlier one feeds it.

Not done here: loading them, but for the one that is asked for; wiring them (`pipeline`).
"""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import NamedTuple


class Stage(NamedTuple):
    """A stage: where its `Config` and `run` live, what it does, and which earlier stage feeds each
    of its paths."""

    module: str
    summary: str
    feeds: Mapping[str, str]

    def load(self) -> ModuleType:
        return importlib.import_module(self.module)


STAGES: dict[str, Stage] = {
    "collect": Stage(
        "medkd.collect.stage", "Collect cases, or questions with answers, from a site or files.", {}
    ),
    "deidentify": Stage(
        "medkd.deidentify.stage",
        "Find identifiers in cases and replace them.",
        {"input": "collect"},
    ),
    "prepare": Stage(
        "medkd.prepare.stage",
        "Turn cases into questions that do not contain their own answer.",
        {"input": "deidentify"},
    ),
    "select": Stage(
        "medkd.evaluate.select",
        "Keep the training questions that a student does not always answer.",
        {"input": "prepare", "adapter": "train"},
    ),
    "distill": Stage(
        "medkd.distill.stage",
        "Ask a teacher for the reasoning behind each known answer.",
        {"input": "prepare"},
    ),
    "verify": Stage(
        "medkd.verify.stage",
        "Check rationales; keep the sound ones, with reasons for the rest.",
        {"input": "distill"},
    ),
    "merge": Stage(
        "medkd.merge.stage",
        "Merge rationales and open datasets into train, val and test.",
        {"input": "verify"},
    ),
    "train": Stage(
        "medkd.train.stage", "Fine-tune a student on the merged dataset.", {"input": "merge"}
    ),
    "reinforce": Stage(
        "medkd.train.reinforce",
        "Reinforce a student for correct, grounded, complete answers.",
        {"input": "merge", "adapter": "train"},
    ),
    "evaluate": Stage(
        "medkd.evaluate.stage",
        "Ask a model unseen questions and score its answers.",
        {"input": "merge", "rubric": "rubric"},
    ),
    "rubric": Stage(
        "medkd.evaluate.judging",
        "Have a teacher write the criteria that answers are graded by.",
        {"input": "merge"},
    ),
    "compare": Stage(
        "medkd.evaluate.compare", "Compare evaluations on the questions they share.", {}
    ),
    "export": Stage(
        "medkd.export.stage",
        "Merge an adapter into a model folder, and test that folder.",
        {"adapter": "train", "evaluation": "evaluate"},
    ),
}
