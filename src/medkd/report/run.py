"""Writes the reports of a run and of one step, and the summary of a whole run.

In: a directory. Out: `report.html` and, in `report/`, the same as Markdown with tables and figures
for a paper; of a run also `summary.json` and a table on the screen. Not done here: measuring.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from medkd.core.errors import InputError, MedkdError, Said
from medkd.core.i18n import Texts, get_spoken, tell
from medkd.core.jsonl import MANIFEST, write_json
from medkd.core.records import Language
from medkd.core.stage_output import Manifest
from medkd.grading.scores import HIGH, MEASURES
from medkd.report import lineage, results
from medkd.report.document import Document, Wording, write_document, write_page
from medkd.report.material import (
    SUMMARY,
    Evaluation,
    Material,
    find_drop,
    read_run,
    read_step,
)

SHOWN = [*MEASURES][: [*MEASURES].index("samples_per_second") + 1]
"""The scores of a run's summary; `scores.json` of each step has the others."""


def make_document(material: Material, texts: Texts) -> Document:
    """Make the report of a run or a step."""
    say = Wording(texts)
    told = [*results.write_headline(material, say)] or [*lineage.write_headline(material, say)]
    if material.are_cases_invented:
        line = "The cases are invented: this shows that the road runs, nothing about medicine."
        told.append(say(line))
    elif material.is_teacher_rehearsal:
        line = "The reasoning is the rehearsal teacher's: this shows that the road runs, no more."
        told.append(say(line))
    sections = [
        results.write_results(material, say),
        results.write_groups(material, say),
        results.write_further(material, say),
        results.write_confusions(material, say),
        lineage.write_funnel(material, say),
        lineage.write_training(material, say),
        lineage.write_curves(material, say),
        results.write_missing(material, say),
        lineage.write_methods(material, say),
        lineage.write_cost(material, say),
        lineage.write_settings(material, say),
        lineage.write_said(material, say),
        results.write_answers(material, say),
    ]
    name = material.folder.resolve().name
    title = say(material.title) if material.title else say("MedKD: {name}", name=name)
    note = say("Research software, not a medical device.")
    return Document(title, told, [section for section in sections if section], note)


def write_material(material: Material, language: Language = "en") -> Path:
    """Write the page of a step that is being done into its directory, and return its path."""
    page = material.folder / "report.html"
    texts = Texts(language)
    write_page(make_document(material, texts), page, texts)
    return page


def write_training_page(
    folder: Path, manifest: Manifest, lengths: Mapping[str, Sequence[int]] | None = None
) -> None:
    """Write the page of a training from whatever it left; a page that cannot be drawn hides no
    failure. `lengths` are those of its rows, in tokens."""
    is_failing = sys.exception() is not None
    with suppress(MedkdError, OSError, ImportError, MemoryError) if is_failing else nullcontext():
        write_material(read_step(folder, manifest)._replace(lengths=lengths or {}))


def write_report(folder: Path, out: Path | None, language: Language) -> tuple[Document, Path]:
    """Write the report of a run or a finished step into `out`, else into its folder `report`;
    returns it and the path of its page."""
    texts = Texts(language)
    is_step = (folder / MANIFEST).exists()
    material = read_step(folder) if is_step else read_run(folder)
    if is_step and next(iter(material.steps.values())).state != "finished":
        raise InputError("{}: this step is not finished; run it again first", folder)
    document = make_document(material, texts)
    place = out or folder / "report"
    write_document(document, place, place / "report.html", texts)
    return document, place / "report.html"


def write_run_report(run_dir: Path, models: Mapping[str, str], language: Language = "en") -> None:
    """Write `summary.json`, `report.html` and `report/`, and print the table.

    `models` maps a name to the step that evaluated it, the base first.
    """
    material = read_run(run_dir, models)
    evaluations = material.evaluations
    summary = {e.name: {"step": models[e.name], **_keep_shown(e.scores)} for e in evaluations}
    write_json(run_dir / SUMMARY, summary)
    texts = Texts(language)
    page = run_dir / "report.html"
    write_document(make_document(material, texts), run_dir / "report", page, texts)
    if drop := find_drop(material.tests):
        tell("warning: {}", drop)
    print(f"\n{write_lead(evaluations, material.tests)}")
    _print_table([_keep_shown(e.scores) for e in evaluations], list(models))
    tell("\nreport:  {}\nsummary: {}", page, run_dir / SUMMARY)


def _keep_shown(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the scores of a summary."""

    def is_shown(name: str) -> bool:
        return name in SHOWN or name.endswith(HIGH)

    kept = {name: value for name, value in scores.items() if name == "n" or is_shown(name)}
    intervals = {name: ends for name, ends in scores["intervals"].items() if is_shown(name)}
    return {**kept, "intervals": intervals}


def _print_table(scores: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    width = max(len(name) for name in SHOWN) + 2
    print()
    rows = {
        name: [
            f"{value} [{small.replace(' – ', ', ')}]" if small else value for value, small in cells
        ]
        for name, cells in results.list_scores(scores).items()
    }
    column = 2 + max(len(text) for texts in [names, *rows.values()] for text in texts)
    for name, texts in {"": names, **rows}.items():
        print(f"{name:<{width}}" + "".join(f"{text:>{column}}" for text in texts))


def write_lead(evaluations: Sequence[Evaluation], tests: Sequence[Mapping[str, Any]] = ()) -> str:
    """Write for a terminal what is right: each line a score of a model."""
    lead = results.list_lead(evaluations, tests)
    width = max((len(str(line["model"])) for line in lead), default=0)
    lines: list[str] = []
    texts = get_spoken()
    for line in lead:
        name = f"  {line['score']:<20}{line['model']:<{width}}"
        found = (str(line[key]) for key in ("right", "interval", "decided", "n"))
        lines.append(texts.say(Said("{}  right {}  95 % {}, decided {}, n {}", name, *found)))
        if test := line["test"]:
            finding = texts.of("report", test["finding"])
            parts = (
                " " * (24 + width),
                evaluations[0].name,
                test["difference"],
                test["p"],
                finding,
            )
            lines.append(texts.say(Said("{}against {}: {}, p {}, {}", *parts)))
    return "\n".join(lines)


def write_scores(scores: Mapping[str, Any]) -> str:
    """Write for a terminal the scores of one evaluation, each with its small print."""
    return "\n".join(
        f"  {name:<24}{value:>8}" + (f"  [{small}]" if small else "")
        for name, [(value, small)] in results.list_scores([scores]).items()
        if "_p" not in name
    )
