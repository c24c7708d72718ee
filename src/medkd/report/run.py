"""One page and one JSON file about a run: every model beside every other on the same questions.

In: the run directory, and which step evaluated which model. Out: `summary.json`, `report.html`, a
table on the screen. Not done here: measuring; each number was written by the step that measured it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medkd.core.errors import InputError
from medkd.core.html import line_plot, write_page
from medkd.core.jsonl import write_json
from medkd.core.stage_output import MANIFEST, Manifest, read_manifest
from medkd.evaluate.compare import (
    find_shared,
    hold_against_first,
    keep_shared,
    load,
    show_before_after,
    show_tests,
    write_p,
)
from medkd.evaluate.report import DESCRIPTIONS, Evaluation, make_table, make_values
from medkd.evaluate.statistics import MIN_QUESTIONS, compare_paired

SEED = 0
OTHER_SEEDS = (
    "Other seeds of the training: the intervals are over questions; docs/benchmarks.md has three "
    "seeds of the demo."
)
INVENTED = "Real patients: the cases of the rehearsal world are invented."
REJECTED = (
    "Test questions whose teacher's rationale was rejected: they left the test split with it (see "
    "the verify step)."
)


def write_report(
    run_dir: Path, models: Mapping[str, str], seconds: float, is_rehearsal: bool = False
) -> None:
    """Write `summary.json` and `report.html` and print the table.

    `models` maps a name to the step that evaluated it, `seconds` is what the latest call took,
    `is_rehearsal` says that the cases are invented.
    """
    evaluations = [load(run_dir / step, name) for name, step in models.items()]
    steps = _read_steps(run_dir)
    write_json(run_dir / "summary.json", {e.name: _headline(e.scores) for e in evaluations})
    missing = [OTHER_SEEDS]
    missing += [INVENTED] if is_rehearsal else []
    missing += [REJECTED] if "verify" in steps else []
    shared: list[Evaluation] = []
    try:
        ids = find_shared(evaluations, [run_dir / step for step in models.values()])
        shared = [keep_shared(e, ids, SEED) for e in evaluations]
    except InputError as error:  # evaluated on other questions: each stands for itself
        missing.append(f"The models against each other: {error}.")
    values = make_values(evaluations, f"MedKD run: {run_dir.name}", missing)
    values["plots"] = [*values["plots"], *_draw_losses(run_dir)]
    write_page(
        run_dir / "report.html",
        "medkd.report",
        "run.html.jinja",
        **values,
        tests=show_tests(hold_against_first(shared, SEED)) if len(shared) > 1 else [],
        before_after=show_before_after(evaluations),
        comparisons=_compare(shared),
        cost=describe_cost(steps, seconds),
        steps=[_describe_step(name, manifest) for name, manifest in steps.items()],
        versions=describe_versions(steps),
    )
    _print_table(evaluations)
    print(f"\nreport:  {run_dir / 'report.html'}\nsummary: {run_dir / 'summary.json'}")


def _headline(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the scores that a run's report shows; `scores.json` of each step has the others."""
    kept = {name: value for name, value in scores.items() if name == "n" or name in DESCRIPTIONS}
    intervals = {name: ends for name, ends in scores["intervals"].items() if name in DESCRIPTIONS}
    return {**kept, "intervals": intervals}


def _read_steps(run_dir: Path) -> dict[str, Manifest]:
    found = {path.parent.name: read_manifest(path.parent) for path in run_dir.glob(f"*/{MANIFEST}")}
    return dict(sorted(found.items(), key=lambda item: item[1].started_at))


def _list_right(evaluation: Evaluation) -> dict[str, float]:
    """List which questions with a known diagnosis were answered right, in their order."""
    name = "diagnosis_accuracy"
    return {row.id: row.scores[name] for row in evaluation.rows if name in row.scores}


def _compare(evaluations: Sequence[Evaluation]) -> list[str]:
    """Say of the last model and each other how often one alone is right, with McNemar's test."""
    lines: list[str] = []
    for other in evaluations[:-1]:
        last = evaluations[-1]
        right, right_before = _list_right(last), _list_right(other)
        ids = [i for i in right if i in right_before]
        if not ids:
            continue
        found = compare_paired([right_before[i] for i in ids], [right[i] for i in ids], SEED)
        p = write_p(found.p)
        doubt = f"exact McNemar test, p {p if p.startswith('<') else f'= {p}'}"
        few = (
            f"; fewer than {MIN_QUESTIONS} cases prove nothing" if len(ids) < MIN_QUESTIONS else ""
        )
        lines.append(
            f"On the same {len(ids)} cases {last.name} alone names the diagnosis in "
            f"{found.n_second_only}, {other.name} alone in {found.n_first_only} ({doubt}{few})."
        )
    return lines


def _draw_losses(run_dir: Path) -> list[str]:
    losses = {
        path.parent.name: _read_losses(path)
        for path in sorted(run_dir.glob("train*/metrics.jsonl"))
    }
    return [line_plot(losses, "Training loss", "step", "loss")] if losses else []


def _read_losses(path: Path) -> tuple[Sequence[float], Sequence[float]]:
    points = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [p["step"] for p in points if "loss" in p], [p["loss"] for p in points if "loss" in p]


def is_play_money(manifest: Manifest) -> bool:
    """Tell whether a step's bill is that of the rehearsal teacher, who charges nothing."""
    asked = {manifest.config.get(field) or "" for field in ("teacher", "endpoint", "judge")}
    return asked - {""} == {"rehearsal"}


def describe_cost(steps: Mapping[str, Manifest], seconds: float) -> str:
    """Say what was paid, in which step, what was play money, and how long it took."""
    paid = [
        f"{m.cost.amount:.4f} {m.cost.currency} in {name}"
        + (" (play money: the rehearsal teacher charges nothing)" if is_play_money(m) else "")
        for name, m in steps.items()
        if m.cost.amount
    ]
    worked = sum(manifest.seconds for manifest in steps.values())
    return (
        f"{', '.join(paid) or 'No money is on the bill'}. The work of all steps took "
        f"{worked:.0f} s, the latest call {seconds:.0f} s."
    )


def describe_versions(steps: Mapping[str, Manifest]) -> str:
    """List the versions that the steps ran with, each once.

    >>> step = Manifest(stage="merge", identity="", config={}, versions={"medkd": "0.1.0"})
    >>> describe_versions({"merge": step, "train": step})
    'medkd 0.1.0'
    """
    versions = {f"{name} {v}" for step in steps.values() for name, v in step.versions.items()}
    return ", ".join(sorted(versions))


def _describe_step(name: str, manifest: Manifest) -> dict[str, str]:
    counts = manifest.counts
    return {
        "name": name,
        "read": str(counts.read),
        "kept": str(counts.kept),
        "dropped": ", ".join(f"{n} {reason}" for reason, n in counts.dropped.items()),
        "seconds": f"{manifest.seconds:.1f}",
    }


def _print_table(evaluations: Sequence[Evaluation]) -> None:
    width = max(len(name) for name in DESCRIPTIONS) + 2
    print("\n" + " " * width + "".join(f"{e.name:>24}" for e in evaluations))
    for row in make_table([_headline(e.scores) for e in evaluations]):
        cells = [
            f"{c['value']} [{c['interval'].replace(' – ', ', ')}]" if c["interval"] else c["value"]
            for c in row["cells"]
        ]
        print(f"{row['name']:<{width}}" + "".join(f"{cell:>24}" for cell in cells))
