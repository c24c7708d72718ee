"""The page of one training: its losses, what was found before it, how long its rows are, what the
student said at each save.

In: the files beside it, the pre-flight. Out: `report.html`. Not done here: measuring; the report of
a whole run (`medkd.report`).
"""

from collections.abc import Mapping
from pathlib import Path

from medkd.core.html import write_page
from medkd.core.plots import histogram, line_plot
from medkd.train.preflight import Preflight
from medkd.train.watch import read_lines


def write_report(out: Path, model: str, flight: Preflight, lengths: Mapping[str, int]) -> None:
    """Write the page from whatever is there."""
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
    n_tokens = {"rows": [float(len(row.input_ids)) for row in flight.rows]}
    plots = [line_plot(losses, "Loss", "step", "loss")] if losses else []
    write_page(
        out / "report.html",
        "medkd.train",
        "report.html.jinja",
        title=f"Training of {model}",
        findings=[finding.tell() for finding in flight.findings],
        plots=[*plots, histogram(n_tokens, "Length of rows", "tokens", "rows")],
        lengths=lengths,
        dropped=flight.dropped,
        samples=samples,
        last=lines[-1] if lines else {},
    )
