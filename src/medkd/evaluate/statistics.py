"""Means of the scores of many questions with their 95 % intervals, and the accuracy by group.

In: rows of scores. Out: one number a name with its interval. Not done here: what is right
(`evaluate.scoring`), intervals and tests (`core.statistics`), pages.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from medkd.core import thinking
from medkd.core.records import Prediction
from medkd.core.statistics import interval
from medkd.evaluate.scoring import Row

Columns = dict[str, list[float]]
"""Name of a score to its value for each question it applies to."""
PERCENTILES = (50, 90, 99)
ACCURACY, DECIDED, HIGH = "_accuracy", "_decided", "_accuracy_high"
"""Ends of names: right if every undecided answer is wrong; share decided; right if every undecided
answer is right."""


def to_columns(rows: Sequence[Row]) -> Columns:
    """Turn rows into columns; a score holds the questions it applies to. Beside each accuracy
    stands what it would be if every undecided answer were right."""
    columns: Columns = {}
    for row in rows:
        for name, value in row.scores.items():
            columns.setdefault(name, []).append(value)
            if name.endswith(ACCURACY):
                high = find_bounds(row.scores, name)[1]
                columns.setdefault(name + HIGH.removeprefix(ACCURACY), []).append(high)
    return columns


def find_bounds(scores: Mapping[str, float], name: str) -> tuple[float, float]:
    """Return the lowest and the highest that a score of one question may be.

    >>> find_bounds({"exam_accuracy": 0.0, "exam_decided": 0.0}, "exam_accuracy")
    (0.0, 1.0)
    """
    value = scores[name]
    is_open = (
        name.endswith(ACCURACY) and scores.get(name.removesuffix(ACCURACY) + DECIDED, 1.0) == 0
    )
    return value, 1.0 if is_open else value


class AccuracyRange(NamedTuple):
    """An accuracy with undecided answers."""

    low: float
    """Share right if every undecided answer is wrong."""
    high: float
    """Share right if every undecided answer is right."""
    interval: tuple[float, float]
    """From the low end of the one's 95 % interval to the high end of the other's."""
    decided: float
    """Share of the answers that were decided."""


def list_accuracies(scores: Mapping[str, Any]) -> list[str]:
    """List the accuracies among scores, the judged one behind that of the rules."""
    found = [name for name in scores if name.endswith(ACCURACY)]
    return sorted(found, key=lambda name: name.startswith("judged"))


def find_range(scores: Mapping[str, Any], name: str) -> AccuracyRange:
    """Read an accuracy out of `scores.json`; one without undecided answers is a single number."""
    low, intervals = scores[name], scores["intervals"]
    top = name.removesuffix(ACCURACY) + HIGH
    ends = intervals.get(name, (low, low))
    return AccuracyRange(
        low,
        scores.get(top, low),
        (ends[0], intervals.get(top, ends)[1]),
        scores.get(name.removesuffix(ACCURACY) + DECIDED, 1.0),
    )


def summarise(columns: Columns, seed: int = 0) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the mean of every column and its 95 % interval."""
    means = {
        name: round(sum(values) / len(values), 6) for name, values in columns.items() if values
    }
    return means, {name: interval(values, seed) for name, values in columns.items() if values}


def describe_lengths(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Return percentiles of the answers' lengths, in tokens where they were counted, else in
    characters."""
    import numpy as np

    has_tokens = any(p.n_tokens for p in predictions)
    unit = "tokens" if has_tokens else "characters"
    lengths = [p.n_tokens if has_tokens else len(p.raw) for p in predictions]
    return {f"{unit}_p{p}": float(np.percentile(lengths, p)) for p in PERCENTILES if predictions}


def make_scores(
    rows: Sequence[Row],
    predictions: Sequence[Prediction],
    unprompted: Sequence[Prediction],
    samples_per_second: float | None,
    seed: int,
    general: Sequence[Row] = (),
) -> dict[str, Any]:
    """Make what `scores.json` holds: name to number, and `intervals`, name to low and high; of a
    score that not all questions have, `n_NAME` is their number.

    Without a template of its own that begins the thinking, a model was asked plainly already: both
    think rates are one.
    """
    columns = to_columns([*rows, *general])
    plain = unprompted or predictions
    columns["think_unprompted_rate"] = [float(thinking.is_well_formed(p.raw)) for p in plain]
    means, intervals = summarise(columns, seed)
    speed = (
        {} if samples_per_second is None else {"samples_per_second": round(samples_per_second, 3)}
    )
    few = {f"n_{name}": len(column) for name, column in columns.items() if len(column) != len(rows)}
    return {
        "n": len(rows),
        **means,
        **few,
        **describe_lengths(predictions),
        **speed,
        "intervals": intervals,
    }


def break_down(
    rows: Sequence[Row], before: Mapping[str, str] | None = None, seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the accuracy by department, length of the question, number of known answers, and by
    another model's verdicts."""
    bounds: dict[str, tuple[float, float]] = {}
    for row in rows:
        if name := next((name for name in row.scores if name.endswith(ACCURACY)), ""):
            bounds[row.id] = find_bounds(row.scores, name)
    graded = [row for row in rows if row.id in bounds]
    edges = sorted(row.n_characters for row in graded) or [0]
    short, long = edges[len(edges) // 3], edges[2 * len(edges) // 3]

    def name_length(n: int) -> str:
        return f"short (< {short})" if n < short else f"long (> {long})" if n > long else "middle"

    axes: dict[str, Callable[[Row], str]] = {
        "department": lambda row: row.department[-1] if row.department else "unknown",
        "length": lambda row: name_length(row.n_characters),
        "diagnoses": lambda row: str(row.n_known) if row.n_known < 4 else "4 or more",
    }
    if before:
        axes["base"] = lambda row: f"base was {before.get(row.id, 'not asked')}"
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for axis, name_group in axes.items():
        groups: dict[str, list[tuple[float, float]]] = {}
        for row in graded:
            groups.setdefault(name_group(row), []).append(bounds[row.id])
        if groups:
            found[axis] = {name: _sum_up(values, seed) for name, values in sorted(groups.items())}
    return found


def _sum_up(bounds: Sequence[tuple[float, float]], seed: int) -> dict[str, Any]:
    """Sum up a group; its first key is called so whatever the kind of answer, as in version 0.1."""
    low, high = ([pair[end] for pair in bounds] for end in (0, 1))
    n = len(bounds)
    summed = {"n": n, "diagnosis_accuracy": round(sum(low) / n, 6)}
    ends = [interval(low, seed)[0], interval(high, seed)[1]]
    return {**summed, "high": round(sum(high) / n, 6), "interval": ends}
