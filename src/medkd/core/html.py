"""Self-contained HTML pages, and small plots for them as SVG text, their words left as words.

In: a template that extends `page.html.jinja` and its values; numbers and names. Out: a page with
everything escaped, no script, no request to any host; one `<svg>` element. Not done here: what is
worth showing.
"""

import hashlib
import html
import io
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkd.core.jsonl import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Name of a line to its x and y values."""

PALETTE = ("#3b7dd8", "#e08a1e", "#3a9d5d", "#c2495c", "#8466c4", "#7d7d7d", "#2aa6b8", "#b0a13a")
"""Told apart on light and on dark ground, and by most colour-blind readers."""

HANZI_FONTS = (
    "Noto Sans CJK SC",
    "Noto Serif CJK SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "WenQuanYi Micro Hei",
    "Noto Sans CJK JP",
    "Noto Serif CJK JP",
)
"""Fonts with hanzi that systems bring; a PDF takes those that are installed."""
_INK = "#010203"
"""Stands for the page's own text colour until the SVG is written."""


def render_page(
    path: Path, package: str, template: str, private: bool = False, **values: Any
) -> None:
    """Render a template of a package into a page; `title` is one of the values."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    packages = (package, "medkd.core", "medkd")
    loader = ChoiceLoader([PackageLoader(name, ".") for name in packages])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    write_text(path, environment.get_template(template).render(**values), private)


def line_figure(series: Series, title: str = "", x_label: str = "", y_label: str = "") -> "Figure":
    """Draw lines over a common x axis."""
    figure, axes = _begin(title, x_label, y_label)
    for colour, (name, (x, y)) in zip(_colours(len(series)), series.items(), strict=True):
        axes.plot(
            x, y, color=colour, label=_plain(name), linewidth=1.6, marker="o" if len(x) < 3 else ""
        )
    return _finish(figure, axes, with_legend=len(series) > 1)


def bar_figure(
    labels: Sequence[str],
    groups: Mapping[str, Sequence[float]],
    title: str = "",
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> "Figure":
    """Draw bars side by side, one group a model; `intervals` holds low and high for each bar of a
    group."""
    figure, axes = _begin(title)
    width = 0.8 / max(len(groups), 1)
    for at, (colour, (name, heights)) in enumerate(
        zip(_colours(len(groups)), groups.items(), strict=True)
    ):
        x = [i + (at - (len(groups) - 1) / 2) * width for i in range(len(labels))]
        axes.bar(
            x,
            heights,
            width * 0.92,
            color=colour,
            label=_plain(name),
            yerr=_error_bars(heights, (intervals or {}).get(name)),
            ecolor=_INK,
        )
    axes.set_xticks(range(len(labels)), [_fold(_plain(label), len(labels)) for label in labels])
    if all(0 <= height <= 1 for heights in groups.values() for height in heights):
        axes.set_ylim(0, 1.02)  # shares: figures can be compared, and no interval is cut
    return _finish(figure, axes, with_legend=len(groups) > 1)


def histogram_figure(
    values: Mapping[str, Sequence[float]],
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    n_bins: int = 30,
) -> "Figure":
    """Draw how values are spread, one outline a name, over common bins."""
    figure, axes = _begin(title, x_label, y_label)
    every = [value for group in values.values() for value in group]
    low, high = (min(every), max(every)) if every else (0.0, 1.0)
    edges = [low + (high - low or 1.0) * i / n_bins for i in range(n_bins + 1)]
    for colour, (name, group) in zip(_colours(len(values)), values.items(), strict=True):
        axes.hist(
            group, bins=edges, histtype="stepfilled", alpha=0.55, color=colour, label=_plain(name)
        )
    return _finish(figure, axes, with_legend=len(values) > 1)


def _colours(n: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def _plain(text: str) -> str:
    """Keep matplotlib from reading a text as a formula or hiding it from the legend."""
    return _printable(text).replace("$", r"\$").lstrip("_")


def _fold(label: str, n: int) -> str:
    """Break a Chinese label into even lines that leave room for `n` labels below a figure.

    >>> _fold("心血管内科", 9).split()
    ['心血管', '内科']
    """
    room = max(2, 40 // n)
    if len(label) <= room or label.isascii():
        return label
    n_lines = -(-len(label) // room)
    width = -(-len(label) // n_lines)
    return "\n".join(label[at : at + width] for at in range(0, len(label), width))


def _printable(text: str) -> str:
    """Leave out the characters that XML cannot hold."""
    return "".join(character for character in text if character.isprintable() or character == "\n")


def _error_bars(
    heights: Sequence[float], intervals: Sequence[tuple[float, float]] | None
) -> list[list[float]] | None:
    if intervals is None:
        return None
    pairs = list(zip(heights, intervals, strict=True))
    return [
        [max(0.0, height - low) for height, (low, _) in pairs],
        [max(0.0, high - height) for height, (_, high) in pairs],
    ]


def _begin(title: str, x_label: str = "", y_label: str = "") -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.set(title=_plain(title), xlabel=_plain(x_label), ylabel=_plain(y_label))
    axes.grid(axis="y", color=_INK, alpha=0.15, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.tick_params(colors=_INK, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(_INK)
    axes.title.set_fontsize(11)
    return figure, axes


def _finish(figure: "Figure", axes: "Axes", with_legend: bool) -> "Figure":
    if with_legend:
        n = len(axes.get_legend_handles_labels()[1])
        # Many names would hide the bars: they go below them.
        place: dict[str, Any] = (
            {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 4} if n > 1 else {}
        )
        axes.legend(frameon=False, labelcolor=_INK, fontsize=9, **place)
    return figure


def write_svg(figure: "Figure") -> str:
    """Write a figure as an `<svg>` element for a page, its words left as words."""
    title = figure.axes[0].get_title()
    style = {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}
    return _for_page(_save(figure, "svg", style).decode(), title)


def write_pdf(figure: "Figure") -> bytes:
    """Write a figure as PDF; words in hanzi need a font of this machine that has them."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in HANZI_FONTS if name in installed)]
    for text in figure.findobj(lambda artist: hasattr(artist, "set_fontfamily")):
        text.set_fontfamily(fonts)  # pyright: ignore[reportAttributeAccessIssue]
    return _save(figure, "pdf", {"pdf.fonttype": 42, "font.family": fonts})


def _save(figure: "Figure", kind: str, style: Any) -> bytes:
    import matplotlib as mpl

    # Only the width of a text is measured with matplotlib's own font, which lacks hanzi; the page's
    # font writes it.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    buffer = io.BytesIO()
    dates: dict[str, Any] = {"Date": None} if kind == "svg" else {"CreationDate": None}
    quiet = warnings.catch_warnings(action="ignore", category=UserWarning)
    with mpl.rc_context(style), quiet:
        figure.savefig(
            buffer,
            format=kind,
            transparent=True,
            bbox_inches="tight",
            metadata={**dates, "Creator": None},
        )
    return buffer.getvalue()


def _for_page(svg: str, title: str) -> str:
    """Cut the file's head off, let it take the page's text colour and width, and give it a name for
    screen readers."""
    body = (
        svg[svg.index("<svg") :]
        .replace(_INK, "currentColor")
        .replace("font-family: sans-serif", "font-family: inherit")
    )
    before, mark, rest = body.partition("<metadata>")
    body = before + rest.partition("</metadata>")[2] if mark else body
    body = _with_own_ids(body)
    label = html.escape(_printable(title) or "plot")
    head = f'<svg role="img" aria-label="{label}" style="max-width:100%;height:auto" '
    return head + body.removeprefix("<svg ").strip()


def _with_own_ids(svg: str) -> str:
    """Make ids unlike those of other plots on the same page."""
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'id="([^"]+)"', rf'id="{mark}-\1"', svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{mark}-", svg)
