"""The stage `compare`: several evaluations of the same questions, paired.

In: directories of `evaluate`, the one to compare the others with first. Out: `comparison.json` and
`report.html`. Only questions that all were asked count. Not done here: measuring, which each
evaluation did; pairing and testing (`report.material`).
"""

import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from medkd.core.config import POSITIONAL, RUNTIME, StageConfig
from medkd.core.errors import InputError
from medkd.core.i18n import get_spoken, tell
from medkd.core.jsonl import resolve_input, write_json
from medkd.core.records import Language
from medkd.core.stage_output import Manifest, open_stage_output
from medkd.core.statistics import MIN_QUESTIONS
from medkd.report.document import write_number
from medkd.report.material import (
    ROWS,
    Comparison,
    compare,
    find_drop,
    read_evaluation,
    show_comparison,
)
from medkd.report.run import write_lead, write_material


class Config(StageConfig):
    """Compare evaluations of the same questions."""

    input: Annotated[list[Path], RUNTIME, POSITIONAL]
    """Directories of evaluate, the base first: the others are compared with it."""
    names: list[str] = Field(default_factory=list)
    """Names of the models on the page, in the same order; default: those of the directories."""
    lang: Annotated[Language, RUNTIME] = "en"
    """Language of the report."""

    @field_validator("input")
    @classmethod
    def _hold_several(cls, value: list[Path]) -> list[Path]:
        if len(value) < 2:
            raise ValueError("nothing to compare with; name two directories of evaluate, or more")
        return value


def run(config: Config) -> Manifest:
    """Compare as configured."""
    files = [resolve_input(path, ROWS, made_by="evaluate") for path in config.input]
    names = _choose_names(config)
    with open_stage_output(
        "compare",
        config,
        {"input": [path.parent / "scores.json" for path in files]},
        ["comparison.json", "report.html"],
        names={"input": names},
        libraries=["scipy"],
    ) as space:
        if space.is_finished:
            return space.manifest
        pairs = zip(files, names, strict=True)
        loaded = [read_evaluation(path.parent, name) for path, name in pairs]
        found = compare(loaded, config.input)
        for note in found.notes:
            print(f"warning: {note}", file=sys.stderr)
        n_shared = len(found.evaluations[0].rows)
        space.read(sum(len(e.rows) for e in loaded))
        space.manifest.counts.kept = n_shared
        space.drop("not_asked_of_all", found.n_asked - n_shared)
        comparison = {
            "first": names[0],
            "n": n_shared,
            "scores": {e.name: e.scores for e in found.evaluations},
            "against_first": {
                model: {score: d._asdict() for score, d in group.items()}
                for model, group in found.differences.items()
            },
        }
        write_json(space.path("comparison.json"), comparison)
        _print_table(found)
        page = show_comparison(space.directory, space.manifest, found)
        tell("report: {}", write_material(page, config.lang))
        return space.manifest


def _choose_names(config: Config) -> list[str]:
    """Take the given names, else those of the directories, with their parents' where needed."""
    if config.names and len(config.names) != len(config.input):
        raise InputError(
            "--names: {} names for {} evaluations; pass one for each",
            len(config.names),
            len(config.input),
        )
    folders = [(path if path.is_dir() else path.parent).resolve() for path in config.input]
    names = config.names or [folder.name for folder in folders]
    if len(set(names)) != len(names):
        names = [f"{folder.parent.name}/{n}" for folder, n in zip(folders, names, strict=True)]
    if len(set(names)) != len(names):
        raise InputError(
            "--names: two evaluations are both called {}; pass a name for each",
            max(names, key=names.count),
        )
    return names


def _print_table(found: Comparison) -> None:
    """Print what is right, and the differences to the first model."""
    first = found.evaluations[0]
    print(write_lead(found.evaluations, found.tests))
    by_name = {e.name: e for e in found.evaluations}
    for model in found.differences:
        tell("{} against {}, {} questions", model, first.name, len(first.rows))
        if len(first.rows) < MIN_QUESTIONS:
            said = "  fewer than {} questions: no difference counts as significant"
            tell(said, MIN_QUESTIONS)
        for test in [test for test in found.tests if test["model"] == model]:
            before, after = (e.scores[test["score"]] for e in (first, by_name[model]))
            print(
                f"  {test['score']:<20}{write_number(before):>8} -> {write_number(after):>7}  "
                f"{test['difference']:>8} [{test['interval']}]  p {test['p']}  "
                f"{get_spoken().of('report', test['finding'])}"
            )
    if drop := find_drop(found.tests):
        print(f"warning: {drop}", file=sys.stderr)
