"""The page about a reinforcement: rewards, lengths, entropy, divergence, and the held-out checks.

In: `metrics.jsonl`, the baseline, the looks at held-out questions. Out: a self-contained
`report.html`, everything from models escaped. Not done here: measuring; judging whether the
student became better (`evaluate`, before and after).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medkd.core.html import Series, line_plot, write_page
from medkd.train.baseline import Baseline, describe
from medkd.train.callbacks import read_lines
from medkd.train.holdout_monitor import CHECKS, HoldoutMonitor, Look

MISSING = (
    "Medical soundness: nobody with a licence read these answers.",
    "Questions of another kind: the held-out ones come from the same source as those that were "
    "reinforced on.",
    "Whether a reasoning led to its answer: rewards see the form, the findings cited and the "
    "diagnosis.",
)


def write_reinforcement_page(
    path: Path,
    metrics_path: Path,
    baseline: Baseline,
    monitor: HoldoutMonitor,
    settings: Mapping[str, Any],
) -> None:
    """Write the page."""
    lines = read_lines(metrics_path)
    falls = monitor.find_falls()
    write_page(
        path,
        "medkd.train",
        "reinforce.html.jinja",
        title="Reinforcement",
        start=describe(baseline),
        notes=baseline.notes,
        falls=[f"{name}: {before:.3f} to {after:.3f}" for name, (before, after) in falls.items()],
        n_questions=len(monitor.questions),
        rows=_make_rows(monitor),
        steps=[look.step for look in monitor.looks],
        plots=_draw(lines, monitor.looks),
        answers=_gather_answers(monitor.looks),
        missing=MISSING
        if monitor.looks
        else ("Held-out questions: there are none; keep a share for val.", *MISSING),
        settings={key: value for key, value in settings.items() if value not in (None, "", {})},
    )


def _make_rows(monitor: HoldoutMonitor) -> list[dict[str, Any]]:
    names = [name for name in CHECKS if monitor.looks and name in monitor.looks[0].rates]
    return [
        {
            "name": name,
            "is_paid": name not in monitor.unpaid,
            "rates": [f"{look.rates[name]:.3f}" for look in monitor.looks],
        }
        for name in names
    ]


def _draw(lines: Sequence[Mapping[str, float]], looks: Sequence[Look]) -> list[str]:
    rewards = {
        key.removeprefix("rewards/").removesuffix("/mean"): _take(lines, key)
        for key in (lines[0] if lines else {})
        if key.startswith("rewards/") and key.endswith("/mean")
    }
    lengths = {name: _take(lines, f"completions/{name}_length") for name in ("min", "mean", "max")}
    steps = [float(look.step) for look in looks]
    watched = {
        name: (steps, [look.rates[name] for look in looks])
        for name in ("accuracy", "exact", "no_copy", "no_hint")
        if looks and name in looks[0].rates
    }
    plots: list[tuple[str, Series, str]] = [
        ("Rewards", rewards, "mean"),
        (
            "Spread",
            {
                "share of groups without": _take(lines, "frac_reward_zero_std"),
                "of the sum": _take(lines, "reward_std"),
            },
            "",
        ),
        ("Lengths", lengths, "tokens"),
        ("Entropy", {"entropy": _take(lines, "entropy")}, "nats a token"),
        ("Divergence from the start", {"KL": _take(lines, "kl")}, "nats a token"),
        ("Held-out questions", watched, "share"),
    ]
    drawn = [
        (title, {name: points for name, points in series.items() if points[0]}, unit)
        for title, series, unit in plots
    ]
    return [line_plot(series, title, "step", unit) for title, series, unit in drawn if series]


def _take(lines: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    points = [(line["step"], line[key]) for line in lines if key in line]
    return [step for step, _ in points], [value for _, value in points]


def _gather_answers(looks: Sequence[Look]) -> list[dict[str, Any]]:
    """Put the answers to the same question at all looks together."""
    if not looks:
        return []
    return [
        {
            **first,
            "texts": [
                (look.step, look.answers[at]["text"]) for look in looks if at < len(look.answers)
            ],
        }
        for at, first in enumerate(looks[0].answers)
    ]
