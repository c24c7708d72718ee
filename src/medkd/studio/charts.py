"""Small plots as SVG: the page's own colours by class, so that they fit light and dark ground.

In: numbers and names. Out: one `<svg>` element, without style or script. Not done here: what is
worth plotting.
"""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

Point = tuple[float, float]
WIDTH, HEIGHT = 480, 200
LEFT, RIGHT, TOP, BOTTOM = 60, 10, 12, 26
MAX_POINTS = 300
N_COLOURS = 8
"""Classes `c0` to `c7` of the style sheet."""


def line_chart(series: Mapping[str, Sequence[Point]], title: str, x_label: str = "") -> Markup:
    """Draw lines over a common x axis, named below it where there are several."""
    points = [
        point
        for line in series.values()
        for point in line
        if math.isfinite(point[0]) and math.isfinite(point[1])
    ]
    if not points:
        return Markup()
    x_low, x_high = _spread([x for x, _ in points])
    y_low, y_high = _spread([y for _, y in points])

    def place(point: Point) -> str:
        x = LEFT + (point[0] - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        y = TOP + (y_high - point[1]) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    body: list[str] = [*_grid(y_low, y_high), *_x_axis(x_low, x_high, x_label)]
    for at, line in enumerate(series.values()):
        step = max(1, len(line) // MAX_POINTS)
        kept = [point for point in (*line[:-1:step], *line[-1:]) if math.isfinite(point[1])]
        colour = f"c{at % N_COLOURS}"
        if len(kept) < 3:
            body += [
                f'<circle class="{colour}" cx="{x}" cy="{y}" r="3"/>'
                for x, y in (place(point).split(",") for point in kept)
            ]
        body.append(f'<polyline class="line {colour}" points="{" ".join(map(place, kept))}"/>')
    return _frame(body, title, list(series) if len(series) > 1 else [])


def share_bar(share: float, label: str) -> Markup:
    """Draw a share from 0 to 1 as a bar."""
    width = max(0.0, min(1.0, share)) * 100
    return Markup(
        '<svg class="share" role="img" aria-label="{}" viewBox="0 0 100 6" '
        'preserveAspectRatio="none"><rect class="track" width="100" height="6"/>'
        '<rect class="c0" width="{}" height="6"/></svg>'
    ).format(label, f"{width:.1f}")


def interval_bar(value: float, low: float, high: float, colour: int, label: str) -> Markup:
    """Draw a rate from 0 to 1 with its interval."""
    x, left, right = (max(0.0, min(1.0, number)) * 200 for number in (value, low, high))
    return Markup(
        '<svg class="rate" role="img" aria-label="{}" viewBox="0 0 200 14">'
        '<rect class="track" y="5" width="200" height="4"/>'
        '<rect class="c{}" y="4" width="{}" height="6"/>'
        '<path class="whisker" d="M{} 2v10M{} 7H{}M{} 2v10"/></svg>'
    ).format(label, colour % N_COLOURS, *(f"{n:.1f}" for n in (x, left, left, right, right)))


def _spread(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _write(value: float) -> str:
    return (
        f"{value:.3g}"
        if 0.01 <= abs(value) < 1000
        else f"{value:.1e}"
        if 0 < abs(value) < 0.01
        else f"{value:,.0f}"
    )


def _grid(low: float, high: float) -> list[str]:
    lines: list[str] = []
    for at in range(4):
        value = low + (high - low) * at / 3
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * at / 3
        lines.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="end">{_write(value)}</text>')
    return lines


def _x_axis(low: float, high: float, label: str) -> list[str]:
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [
        f'<text x="{LEFT}" y="{HEIGHT - 8}">{_write(low)}</text>',
        f'<text x="{middle}" y="{HEIGHT - 8}" class="middle">{escape(label)}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" class="end">{_write(high)}</text>',
    ]


def _frame(body: Sequence[str], title: str, names: Sequence[str]) -> Markup:
    legend = Markup("").join(
        Markup(
            '<li><svg viewBox="0 0 10 10"><circle class="c{}" cx="5" cy="5" r="5"/></svg>{}</li>'
        ).format(at % N_COLOURS, name)
        for at, name in enumerate(names)
    )
    # The body holds numbers and escaped labels only.
    drawn = Markup("".join(body))  # noqa: S704
    listed = Markup('<ul class="legend">{}</ul>').format(legend) if names else Markup()
    return Markup(
        '<figure class="plot"><figcaption>{}</figcaption>'
        '<svg role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>{}</figure>'
    ).format(title, title, WIDTH, HEIGHT, drawn, listed)
