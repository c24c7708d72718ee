"""One page and one JSON file about a run: every model beside every other on the same questions.

In: the run directory, and which step evaluated which model. Out: `summary.json`, `report.html`, a
table on the screen.
Not done here: measuring; each number was written by the step that measured it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medkd.core.errors import InputError
from medkd.core.html import write_page
from medkd.core.jsonl import RecordReader, write_json
from medkd.core.plots import bar_plot, histogram, line_plot
from medkd.core.records import Prediction
from medkd.core.stage_output import MANIFEST, Manifest, read_manifest
from medkd.evaluate.report import DESCRIPTIONS, write_number
from medkd.grading.diagnosis import grade

N_CASES = 3
"""Cases shown side by side."""
RATES = (
    "diagnosis_accuracy",
    "think_format_rate",
    "think_unprompted_rate",
    "stop_rate",
    "loop_rate",
    "truncated_rate",
)
MISSING = (
    "Medical soundness: no clinician has read these answers; the cases of the rehearsal world are invented.",
    "Whether the reasoning led to the answer: only its form and its overlap with the teacher's are measured.",
    "Other seeds of the training: the intervals are over questions; docs/benchmarks.md has three seeds of the demo.",
    "Test questions whose teacher's rationale was rejected: they left the test split with it (see the verify step).",
    "Exams, other languages, other wordings of the question, repeated sampling.",
)


def write_report(run_dir: Path, models: Mapping[str, str], seconds: float) -> None:
    """Write `summary.json` and `report.html` and print the table; `models` maps a name to the step
    that evaluated it."""
    scores = {name: _read_scores(run_dir / step) for name, step in models.items()}
    predictions = {name: _read_predictions(run_dir / step) for name, step in models.items()}
    steps = _read_steps(run_dir)
    write_json(run_dir / "summary.json", {name: _headline(found) for name, found in scores.items()})
    write_page(
        run_dir / "report.html",
        "medkd.report",
        "report.html.jinja",
        title=f"MedKD run: {run_dir.name}",
        n=next(iter(scores.values()))["n"],
        models=list(scores),
        rows=_make_rows(scores),
        comparisons=_compare(predictions),
        plots=_draw(run_dir, scores, predictions),
        cases=_choose_cases(predictions),
        cost=_tell_cost(steps, seconds),
        steps=[_tell_step(name, manifest) for name, manifest in steps.items()],
        missing=MISSING,
        versions=", ".join(
            f"{k} {v}"
            for manifest in steps.values()
            for k, v in manifest.versions.items()
            if k == "medkd"
        )[:40],
    )
    _print_table(scores)
    print(f"\nreport:  {run_dir / 'report.html'}\nsummary: {run_dir / 'summary.json'}")


def _read_scores(directory: Path) -> dict[str, Any]:
    path = directory / "scores.json"
    if not path.exists():
        raise InputError(f"{path}: no such file; run the evaluation again with --overwrite")
    return json.loads(path.read_text(encoding="utf-8"))


def _headline(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the scores that a run's report shows; `scores.json` of each step has the others."""
    kept = {name: value for name, value in scores.items() if name == "n" or name in DESCRIPTIONS}
    return {
        **kept,
        "intervals": {
            name: value for name, value in scores["intervals"].items() if name in DESCRIPTIONS
        },
    }


def _read_predictions(directory: Path) -> dict[str, Prediction]:
    return {
        p.id: p
        for p in RecordReader(directory / "predictions.jsonl", Prediction, made_by="evaluate")
    }


def _read_steps(run_dir: Path) -> dict[str, Manifest]:
    found = {path.parent.name: read_manifest(path.parent) for path in run_dir.glob(f"*/{MANIFEST}")}
    return dict(sorted(found.items(), key=lambda item: item[1].started_at))


def _make_rows(scores: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = [name for name in DESCRIPTIONS if any(name in s for s in scores.values())]
    return [
        {
            "name": name,
            "description": DESCRIPTIONS[name],
            "cells": [_make_cell(model, name) for model in scores.values()],
        }
        for name in names
    ]


def _make_cell(scores: Mapping[str, Any], name: str) -> dict[str, str]:
    interval = scores["intervals"].get(name)
    return {
        "value": write_number(scores[name]) if name in scores else "–",
        "interval": f"{write_number(interval[0])} – {write_number(interval[1])}"
        if interval
        else "",
    }


def _is_right(prediction: Prediction) -> bool:
    return bool(prediction.reference) and grade(prediction.answer, prediction.reference).principal


def _compare(predictions: Mapping[str, Mapping[str, Prediction]]) -> list[str]:
    """Say of the last model and each other how often one alone is right, with the exact McNemar
    test."""
    from scipy.stats import binomtest

    *others, last = predictions
    lines: list[str] = []
    for other in others:
        shared = predictions[last].keys() & predictions[other].keys()
        right = [
            (_is_right(predictions[last][i]), _is_right(predictions[other][i])) for i in shared
        ]
        n_last, n_other = right.count((True, False)), right.count((False, True))
        p = binomtest(n_last, n_last + n_other).pvalue if n_last + n_other else 1.0
        lines.append(
            f"On the same {len(shared)} cases {last} alone names the diagnosis in {n_last}, {other} alone in {n_other} "
            f"(exact McNemar test, p {'< 0.0001' if p < 1e-4 else f'= {p:.4f}'})."
        )
    return lines


def _draw(
    run_dir: Path, scores: Mapping[str, Any], predictions: Mapping[str, Mapping[str, Prediction]]
) -> list[str]:
    names = [name for name in RATES if all(name in s for s in scores.values())]
    labels = [name.removesuffix("_rate").replace("_", "\n") for name in names]
    bars = {model: [s[name] for name in names] for model, s in scores.items()}
    intervals = {
        model: [(s["intervals"][name][0], s["intervals"][name][1]) for name in names]
        for model, s in scores.items()
    }
    losses = {
        path.parent.name: _read_losses(path)
        for path in sorted(run_dir.glob("train*/metrics.jsonl"))
    }
    lengths = {
        model: [float(p.n_tokens) for p in group.values()] for model, group in predictions.items()
    }
    return [
        bar_plot(labels, bars, "Rates", intervals=intervals),
        line_plot(losses, "Training loss", "step", "loss"),
        histogram(lengths, "Length of answers", "tokens", "answers"),
    ]


def _read_losses(path: Path) -> tuple[Sequence[float], Sequence[float]]:
    points = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [p["step"] for p in points if "loss" in p], [p["loss"] for p in points if "loss" in p]


def _choose_cases(predictions: Mapping[str, Mapping[str, Prediction]]) -> list[dict[str, Any]]:
    """Choose the first cases of each kind: the last model right and the first wrong, both right,
    the last wrong."""
    first, last = next(iter(predictions.values())), list(predictions.values())[-1]
    kinds: dict[tuple[bool, bool], str] = {}
    for i in last.keys() & first.keys():
        kinds.setdefault((_is_right(last[i]), _is_right(first[i])), i)
    order = [
        kinds[kind]
        for kind in ((True, False), (False, False), (True, True), (False, True))
        if kind in kinds
    ]
    chosen = [*order, *(i for i in last if i not in order)][:N_CASES]
    return [
        {
            "id": i,
            "reference": last[i].reference,
            "question": last[i].question,
            "texts": {"teacher": last[i].teacher or ""}
            | {name: group[i].raw for name, group in predictions.items() if i in group},
        }
        for i in chosen
    ]


def _tell_cost(steps: Mapping[str, Manifest], seconds: float) -> str:
    paid = [manifest for manifest in steps.values() if manifest.cost.amount]
    money = (
        ", ".join(f"{m.cost.amount:.4f} {m.cost.currency} to the teacher" for m in paid)
        or "No money is on the bill"
    )
    worked = sum(manifest.seconds for manifest in steps.values())
    return f"{money}; {worked:.0f} seconds of work in all steps, {seconds:.0f} of them in the latest call."


def _tell_step(name: str, manifest: Manifest) -> dict[str, str]:
    counts = manifest.counts
    return {
        "name": name,
        "read": str(counts.read),
        "kept": str(counts.kept),
        "dropped": ", ".join(f"{n} {reason}" for reason, n in counts.dropped.items()),
        "seconds": f"{manifest.seconds:.1f}",
    }


def _print_table(scores: Mapping[str, Mapping[str, Any]]) -> None:
    width = max(len(name) for name in DESCRIPTIONS) + 2
    print("\n" + " " * width + "".join(f"{name:>24}" for name in scores))
    for row in _make_rows(scores):
        cells = [
            f"{c['value']} [{c['interval'].replace(' – ', ', ')}]" if c["interval"] else c["value"]
            for c in row["cells"]
        ]
        print(f"{row['name']:<{width}}" + "".join(f"{cell:>24}" for cell in cells))
