"""Curves as places on a plot, for `templates/plot.html` to draw.

In: names and numbers. Out: a `Plot`; nothing where there is nothing to draw. Not done here: what is
worth plotting (`studio.road`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Point = tuple[float, float]
WIDTH, HEIGHT = 480, 200
LEFT, RIGHT, TOP, BOTTOM = 76, 10, 12, 26
MAX_POINTS = 300
N_GRID = 4


class Plot(NamedTuple):
    """Lines over a common x axis."""

    title: str
    lines: Mapping[str, Sequence[tuple[str, str]]]
    """Name of a line to its points, as an SVG has them."""
    grid: Sequence[tuple[str, str]]
    """Height and value of each line of the grid."""
    ends: tuple[str, str]
    """The first and the last value of the x axis."""


def draw_lines(series: Mapping[str, Sequence[Point]], title: str) -> Plot | None:
    """Draw lines; points that are no numbers are left out."""
    finite = {
        name: [point for point in line if all(map(math.isfinite, point))]
        for name, line in series.items()
    }
    points = [point for line in finite.values() for point in line]
    if not points:
        return None
    x_low, x_high = _spread([x for x, _ in points])
    y_low, y_high = _spread([y for _, y in points])

    def place(x: float, y: float) -> tuple[str, str]:
        right = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return f"{right:.1f}", f"{down:.1f}"

    lines: dict[str, list[tuple[str, str]]] = {}
    for name, line in finite.items():
        step = max(1, len(line) // MAX_POINTS)
        lines[name] = [place(*point) for point in (*line[:-1:step], *line[-1:])]
    values = [y_low + (y_high - y_low) * at / (N_GRID - 1) for at in range(N_GRID)]
    grid = [(place(x_low, value)[1], _write(value)) for value in values]
    return Plot(title, lines, grid, (_write(x_low), _write(x_high)))


def _spread(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _write(value: float) -> str:
    if 0 < abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
