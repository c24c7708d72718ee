"""The page about a training: losses, findings, lengths of rows, samples at each save.

In: `metrics.jsonl`, `samples.jsonl`, the pre-flight. Out: `report.html`. Not done here: measuring;
the report of a whole run (`medkd.report`).
"""

import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

from medkd.core.errors import MedkdError
from medkd.core.html import histogram, line_plot, write_page
from medkd.train.callbacks import read_lines
from medkd.train.preflight import Preflight


def write_training_page(
    out: Path, model: str, preflight: Preflight, lengths: Mapping[str, int]
) -> None:
    """Write the page of whatever is there; a page that cannot be drawn hides no failure."""
    lines = read_lines(out / "metrics.jsonl")
    losses = {
        name: (
            [line["step"] for line in lines if key in line],
            [line[key] for line in lines if key in line],
        )
        for name, key in (("training", "loss"), ("validation", "eval_loss"))
        if any(key in line for line in lines)
    }
    samples: dict[int, list[dict[str, object]]] = {}
    for sample in read_lines(out / "samples.jsonl"):
        samples.setdefault(int(sample["step"]), []).append(sample)
    n_tokens = {"rows": [float(len(row.input_ids)) for row in preflight.rows]}
    is_failing = sys.exception() is not None
    with suppress(MedkdError, OSError, ImportError, MemoryError) if is_failing else nullcontext():
        plots = [line_plot(losses, "Loss", "step", "loss")] if losses else []
        write_page(
            out / "report.html",
            "medkd.train",
            "report.html.jinja",
            title=f"Training of {model}",
            findings=[finding.tell() for finding in preflight.findings],
            plots=[*plots, histogram(n_tokens, "Length of rows", "tokens", "rows")],
            lengths=lengths,
            dropped=preflight.dropped,
            samples=samples,
            last=lines[-1] if lines else {},
        )
