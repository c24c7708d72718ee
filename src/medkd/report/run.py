"""One page and one JSON file about a run: every model beside the first one on the same questions.

In: the run directory, and which step evaluated which model. Out: `summary.json`, `report.html`, a
table on the screen. Not done here: measuring; each number was written by the step that measured it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medkd.core.errors import InputError
from medkd.core.html import line_plot
from medkd.core.jsonl import write_json
from medkd.core.records import Language
from medkd.core.stage_output import MANIFEST, Manifest, read_manifest
from medkd.evaluate.compare import (
    compare,
    find_drop,
    find_shared,
    hold_against_first,
    keep_shared,
    load,
    show_tests,
)
from medkd.evaluate.report import (
    DESCRIPTIONS,
    Catalogue,
    Note,
    RunPart,
    Table,
    make_lead,
    make_table,
    write_lead,
    write_report,
)
from medkd.evaluate.scoring import HIGH

SEED = 0
OTHER_SEEDS = Note(
    "Other seeds of the training: docs/en/benchmarks.md has three seeds of the demo."
)
INVENTED = Note("Real patients: the cases of the rehearsal world are invented.")
REJECTED = Note(
    "Test questions whose teacher's rationale was rejected: they left the test split with it (see "
    "the verify step)."
)


def write_run_report(
    run_dir: Path,
    models: Mapping[str, str],
    seconds: float,
    is_rehearsal: bool = False,
    language: Language = "en",
) -> None:
    """Write `summary.json` and `report.html` and print the table.

    `models` maps a name to the step that evaluated it, the base first; `seconds` is what the latest
    call took, `is_rehearsal` says that the cases are invented.
    """
    evaluations = [load(run_dir / step, name) for name, step in models.items()]
    steps = _read_steps(run_dir)
    write_json(run_dir / "summary.json", {e.name: _headline(e.scores) for e in evaluations})
    missing = [OTHER_SEEDS]
    missing += [INVENTED] if is_rehearsal else []
    missing += [REJECTED] if "verify" in steps else []
    tests: list[dict[str, Any]] = []
    try:
        ids = find_shared(evaluations, [run_dir / step for step in models.values()])
        shared = [keep_shared(e, ids, SEED) for e in evaluations]
        tests = show_tests(hold_against_first(shared, SEED))
        if len(shared[0].rows) == max(len(e.rows) for e in evaluations):
            evaluations = compare(shared, SEED)
    except InputError as error:  # evaluated on other questions: each stands for itself
        missing.append(Note("The models against each other: {error}.", {"error": error}))
    if drop := find_drop(tests):
        print(f"warning: {drop}")
    say = Catalogue(language)
    head = [say(name) for name in ("step", "in", "kept", "dropped", "seconds")]
    table = Table("", head, [_describe_step(name, m) for name, m in steps.items()])
    cost = describe_cost(steps, seconds)
    part = RunPart(cost, table, describe_versions(steps), _draw_losses(run_dir, say))
    title = Note("MedKD run: {name}", {"name": run_dir.name})
    page = run_dir / "report.html"
    write_report(page, evaluations, title, missing, tests, part, language)
    print(f"\n{write_lead(make_lead(evaluations, tests))}")
    _print_table([_headline(e.scores) for e in evaluations], list(models))
    print(f"\nreport:  {page}\nsummary: {run_dir / 'summary.json'}")


def _headline(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the scores that a run's report shows; `scores.json` of each step has the others."""

    def is_shown(name: str) -> bool:
        return name in DESCRIPTIONS or name.endswith(HIGH)

    kept = {name: value for name, value in scores.items() if name == "n" or is_shown(name)}
    intervals = {name: ends for name, ends in scores["intervals"].items() if is_shown(name)}
    return {**kept, "intervals": intervals}


def _read_steps(run_dir: Path) -> dict[str, Manifest]:
    found = {path.parent.name: read_manifest(path.parent) for path in run_dir.glob(f"*/{MANIFEST}")}
    return dict(sorted(found.items(), key=lambda item: item[1].started_at))


def _draw_losses(run_dir: Path, say: Catalogue) -> list[str]:
    losses = {
        path.parent.name: _read_losses(path)
        for path in sorted(run_dir.glob("train*/metrics.jsonl"))
    }
    return [line_plot(losses, say("Training loss"), say("step"), say("loss"))] if losses else []


def _read_losses(path: Path) -> tuple[Sequence[float], Sequence[float]]:
    points = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [p["step"] for p in points if "loss" in p], [p["loss"] for p in points if "loss" in p]


def is_play_money(manifest: Manifest) -> bool:
    """Tell whether a step's bill is that of the rehearsal teacher, who charges nothing."""
    asked = {manifest.config.get(field) or "" for field in ("teacher", "endpoint", "judge")}
    return asked - {""} == {"rehearsal"}


def describe_cost(steps: Mapping[str, Manifest], seconds: float) -> Note:
    """Say what was paid, in which step, what was play money, and how long it took."""
    paid = [
        f"{m.cost.amount:.4f} {m.cost.currency} in {name}"
        + (" (play money: the rehearsal teacher charges nothing)" if is_play_money(m) else "")
        for name, m in steps.items()
        if m.cost.amount
    ]
    worked = sum(manifest.seconds for manifest in steps.values())
    return Note(
        "{paid}. The work of all steps took {worked} s, the latest call {latest} s.",
        {
            "paid": ", ".join(paid) or "No money is on the bill",
            "worked": f"{worked:.0f}",
            "latest": f"{seconds:.0f}",
        },
    )


def describe_versions(steps: Mapping[str, Manifest]) -> str:
    """List the versions that the steps ran with, each once.

    >>> step = Manifest(stage="merge", identity="", config={}, versions={"medkd": "0.1.0"})
    >>> describe_versions({"merge": step, "train": step})
    'medkd 0.1.0'
    """
    versions = {f"{name} {v}" for step in steps.values() for name, v in step.versions.items()}
    return ", ".join(sorted(versions))


def _describe_step(name: str, manifest: Manifest) -> list[str]:
    counts = manifest.counts
    dropped = ", ".join(f"{n} {reason}" for reason, n in counts.dropped.items())
    return [name, str(counts.read), str(counts.kept), dropped, f"{manifest.seconds:.1f}"]


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
