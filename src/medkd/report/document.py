"""A report as data, its wording, and the forms it is written in: page, Markdown, tables and figures
for a paper.

In: sections of paragraphs, tables, figures, lists and samples. Out: `report.html`, `report.md`,
`tables/*.csv|tex|md`, `figures/*.svg|pdf`. Not done here: what stands in a report (`results`,
`lineage`).
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core.html import render_page, write_pdf, write_svg
from medkd.core.i18n import Texts
from medkd.core.jsonl import write_atomically, write_json, write_text
from medkd.grading.scores import MEASURES, SAMPLED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUMBER = re.compile(r"[-+–<]? ?\d|–$")
"""How a cell with a number begins; the dash stands for none."""
WRITTEN = ".files.json"
"""Names the tables and figures of a report, so that the next one leaves none of them behind."""
N_SAMPLES = 8
"""Samples of a section in Markdown; the page has all of them."""
Cell = str | tuple[str, str]
"""A text, or a text and its small print."""


class Note(NamedTuple):
    """A line of a report, and the values of its placeholders."""

    text: str
    values: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return self.text.format(**self.values)


class Wording:
    """Says the texts of a report in one language; one that has no translation stays English."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    def __call__(self, text: str | Note, **values: Any) -> str:
        note = text if isinstance(text, Note) else Note(text, values)
        told = {k: self(v) if isinstance(v, Note) else v for k, v in note.values.items()}
        return self.texts.of("report", note.text, **told)

    def join(self, sentences: Iterable[str]) -> str:
        """Join sentences as the language does: Chinese has no space between them."""
        return ("" if self.texts.language == "zh" else " ").join(sentences)

    def describe(self, score: str) -> str:
        """Say what a score measures."""
        if score not in MEASURES:
            return self(SAMPLED)
        return self.texts.field("measures", score, MEASURES[score])[1]


def write_number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def write_percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def write_range(low: float, high: float) -> str:
    return write_number(low) if low == high else f"{write_number(low)} – {write_number(high)}"


def write_ends(ends: Sequence[float]) -> str:
    return " – ".join(map(write_number, ends))


class Table(NamedTuple):
    """A table; `name` is that of its files."""

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    @staticmethod
    def is_long(value: str) -> bool:
        """Tell whether a cell holds a word, such as a path, that may be broken anywhere."""
        return max(map(len, value.split()), default=0) > 24

    def is_text(self, column: int) -> bool:
        """Tell whether a column holds words, which stand on the left; numbers stand on the
        right."""
        cells = (row[column] for row in self.rows)
        values = (cell if isinstance(cell, str) else cell[0] for cell in cells)
        return not all(_NUMBER.match(value) for value in values if value)


class Plot(NamedTuple):
    """A figure; `name` is that of its files."""

    name: str
    title: str
    figure: "Figure"


class Sample(NamedTuple):
    """Texts that belong together: one question with what was answered."""

    title: str
    texts: Sequence[tuple[str, str]]
    """Name and text of each."""
    about: str = ""
    """Small print: id, length, why it ended."""
    tags: Sequence[str] = ()
    """Words that a reader can choose samples by."""


class Section(NamedTuple):
    """A part of a report, in the order of its fields."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    items: Sequence[str] = ()
    samples: Sequence[Sample] = ()
    filters: Mapping[str, Sequence[str]] = {}
    """Name of each choice above the samples to the tags that can be chosen."""


class Document(NamedTuple):
    """A whole report."""

    title: str
    headline: Sequence[str]
    sections: Sequence[Section]
    note: str = ""
    """What is said below everything."""

    @property
    def tables(self) -> Iterator[Table]:
        return (table for section in self.sections for table in section.tables)

    @property
    def plots(self) -> Iterator[Plot]:
        return (plot for section in self.sections for plot in section.plots)


def write_page(document: Document, page: Path, texts: Texts) -> dict[str, str]:
    """Write a report as one page; returns its figures as SVG, by name."""
    drawn = {plot.name: write_svg(plot.figure) for plot in document.plots}
    render_page(
        page,
        "medkd.report",
        "report.html.jinja",
        title=document.title,
        document=document,
        drawn=drawn,
        language=texts.language,
        all=texts.of("report", "all"),
    )
    return drawn


def write_document(document: Document, folder: Path, page: Path, texts: Texts) -> None:
    """Write a report in all its forms into a folder, its page to `page`; of an earlier report's
    tables and figures what this one has not is deleted."""
    drawn = write_page(document, page, texts)
    write_text(folder / "report.md", write_markdown(document))
    written: list[Path] = []
    for table in document.tables:
        place = folder / "tables" / table.name
        forms = {".csv": write_csv(table), ".tex": write_latex(table), ".md": _write_rows(table)}
        for ending, text in forms.items():
            written.append(place.with_suffix(ending))
            write_text(written[-1], text)
    for plot in document.plots:
        place = folder / "figures" / plot.name
        written += [place.with_suffix(".svg"), place.with_suffix(".pdf")]
        standalone = drawn[plot.name].replace("<svg ", '<svg color="black" ', 1)
        write_text(written[-2], standalone)
        with write_atomically(written[-1], binary=True) as file:
            file.write(write_pdf(plot.figure))
    names = [path.relative_to(folder).as_posix() for path in written]
    for name in set(_read_written(folder)) - set(names):
        (folder / name).unlink(missing_ok=True)
    write_json(folder / WRITTEN, names)


def _read_written(folder: Path) -> list[str]:
    """Read which tables and figures an earlier report wrote into a folder."""
    try:
        names = json.loads((folder / WRITTEN).read_bytes())
    except (OSError, ValueError):
        return []
    listed = cast("list[Any]", names) if isinstance(names, list) else []
    own = (re.fullmatch(r"(tables|figures)/\w[^/\0]*", str(name)) for name in listed)
    return [match[0] for match in own if match]


def _join(cell: Cell) -> str:
    """Write a cell with its small print in brackets behind it."""
    return cell if isinstance(cell, str) else f"{cell[0]} ({cell[1]})" if cell[1] else cell[0]


def write_csv(table: Table) -> str:
    """Write a table as CSV, the small print of a cell in a column of its own.

    >>> write_csv(Table("t", "T", ["score", "base"], [["accuracy", ("0.5", "0.4 – 0.6")]]))
    'score,base,base (2)\\naccuracy,0.5,0.4 – 0.6\\n'
    """
    parts = [[row[at] for row in table.rows] for at in range(len(table.head))]
    columns: list[list[str]] = []
    for name, cells in zip(table.head, parts, strict=True):
        columns.append([name, *(cell if isinstance(cell, str) else cell[0] for cell in cells)])
        if any(not isinstance(cell, str) for cell in cells):
            small = ("" if isinstance(cell, str) else cell[1] for cell in cells)
            columns.append([f"{name} (2)", *small])
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(zip(*columns, strict=True))
    return file.getvalue()


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
}


def write_latex(table: Table) -> str:
    r"""Write a table for LaTeX with booktabs: caption above, words to the left, true minus signs.

    >>> lines = write_latex(Table("t", "T", ["a_b", "n"], [["50 %", "-3"]])).splitlines()
    >>> print(lines[4], lines[8])
    \begin{tabular}{lr} 50 \% & $-$3 \\
    """
    columns = ["l" if table.is_text(at) else "r" for at in range(1, len(table.head))]
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_escape_latex(table.title)}}}",
        f"\\label{{tab:{table.name}}}",
        f"\\begin{{tabular}}{{l{''.join(columns)}}}",
        "\\toprule",
        " & ".join(map(_escape_latex, table.head)) + r" \\",
        "\\midrule",
        *(" & ".join(_escape_latex(_join(cell)) for cell in row) + r" \\" for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _escape_latex(text: str) -> str:
    escaped = "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)


def _write_rows(table: Table) -> str:
    """Write the rows of a table in Markdown."""
    rows = [[_escape_markdown(_join(cell)) for cell in row] for row in table.rows]
    lines = [[_escape_markdown(name) for name in table.head], ["---"] * len(table.head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", " ".join(text.split()))


def write_markdown(document: Document) -> str:
    """Write a report in Markdown, its figures beside it."""
    parts = [f"# {_escape_markdown(document.title)}"]
    parts += [f"**{_escape_markdown(line)}**" for line in document.headline]
    for section in document.sections:
        parts.append(f"## {_escape_markdown(section.title)}")
        parts += map(_escape_markdown, section.paragraphs)
        for table in section.tables:
            parts += [f"### {_escape_markdown(table.title)}", _write_rows(table).rstrip()]
            parts += [_escape_markdown(table.note)] if table.note else []
        parts += [f"![{_escape_markdown(p.title)}](figures/{p.name}.svg)" for p in section.plots]
        if section.items:
            parts.append("\n".join(f"- {_escape_markdown(item)}" for item in section.items))
        for sample in section.samples[:N_SAMPLES]:
            parts.append(f"### {_escape_markdown(sample.title)}")
            for name, text in sample.texts:
                quoted = "\n".join(f"> {_escape_markdown(line)}" for line in text.splitlines())
                parts.append(f"{_escape_markdown(name)}:\n\n{quoted or '> –'}")
    return "\n\n".join([*parts, _escape_markdown(document.note)]) + "\n"
