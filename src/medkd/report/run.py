"""The report of a run or of one step, and the summary of a whole run.

In: a directory. Out: `report.html` and, in `report/`, the same as Markdown with tables and figures
for a paper; of a run also `summary.json` and a table on the screen. Not done here: what stands in
it (`sections`), measuring.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medkd.core.i18n import Texts
from medkd.core.jsonl import write_json
from medkd.core.records import Language
from medkd.evaluate.compare import find_drop
from medkd.evaluate.report import DESCRIPTIONS, make_lead, make_table, write_lead
from medkd.evaluate.scoring import HIGH
from medkd.report.document import Document, write_document
from medkd.report.material import read_material
from medkd.report.sections import make_document


def write_report(folder: Path, out: Path | None, language: Language) -> tuple[Document, Path]:
    """Write the report of a run or a step into `out`, else into its folder `report`; returns it
    and the path of its page."""
    texts = Texts(language)
    document = make_document(read_material(folder), texts)
    place = out or folder / "report"
    write_document(document, place, place / "report.html", texts)
    return document, place / "report.html"


def write_run_report(run_dir: Path, models: Mapping[str, str], language: Language = "en") -> None:
    """Write `summary.json`, `report.html` and `report/`, and print the table.

    `models` maps a name to the step that evaluated it, the base first.
    """
    material = read_material(run_dir, models)
    evaluations = material.evaluations
    write_json(run_dir / "summary.json", {e.name: _keep_shown(e.scores) for e in evaluations})
    texts = Texts(language)
    page = run_dir / "report.html"
    write_document(make_document(material, texts), run_dir / "report", page, texts)
    if drop := find_drop(material.tests):
        print(f"warning: {drop}")
    print(f"\n{write_lead(make_lead(evaluations, material.tests))}")
    _print_table([_keep_shown(e.scores) for e in evaluations], list(models))
    print(f"\nreport:  {page}\nsummary: {run_dir / 'summary.json'}")


def _keep_shown(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the scores that a run's report shows; `scores.json` of each step has the others."""

    def is_shown(name: str) -> bool:
        return name in DESCRIPTIONS or name.endswith(HIGH)

    kept = {name: value for name, value in scores.items() if name == "n" or is_shown(name)}
    intervals = {name: ends for name, ends in scores["intervals"].items() if is_shown(name)}
    return {**kept, "intervals": intervals}


def _print_table(scores: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    width = max(len(name) for name in DESCRIPTIONS) + 2
    print()
    rows = {
        row["name"]: [
            f"{c['value']} [{c['interval'].replace(' – ', ', ')}]" if c["interval"] else c["value"]
            for c in row["cells"]
        ]
        for row in make_table(scores)
    }
    column = 2 + max(len(text) for texts in [names, *rows.values()] for text in texts)
    for name, texts in {"": names, **rows}.items():
        print(f"{name:<{width}}" + "".join(f"{text:>{column}}" for text in texts))
