"""Records a command and draws it as a moving picture of a terminal (SVG, no script in it).

In: `record_terminal.py OUT.svg COMMAND…`. Out: the picture; each line appears when it was printed,
with the run's seconds shortened to `SECONDS`. Not done here: colours and cursor movements, which
MedKD leaves out where its output is no terminal.
"""

import re
import subprocess
import sys
import time
from html import escape
from pathlib import Path
from typing import NamedTuple
from unicodedata import east_asian_width

COLUMNS, ROWS = 122, 28
CHARACTER, LINE, MARGIN = 7.8, 19, 14
SECONDS = 22.0
HOLD = 8.0
"""Seconds that the last lines stay before the picture begins again."""
LONGEST_GAP = 0.04
"""Share of the run that one line waits for at most."""
REPEATED = re.compile(r"^train: \d+/\d+ steps")


class Line(NamedTuple):
    at_s: float
    text: str


def record(command: list[str]) -> list[Line]:
    """Run the command; return its lines with the seconds at which each was printed."""
    began = time.monotonic()
    lines = [Line(0.0, "$ " + " ".join(command))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        lines += [Line(time.monotonic() - began, text.rstrip()) for text in process.stdout or ()]
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {lines[-1].text}")
    return lines


def thin(lines: list[Line], every: int = 7) -> list[Line]:
    """Leave out most of the lines that only report the progress of a training."""
    kept, n_repeated = list[Line](), 0
    for line in lines:
        n_repeated += bool(REPEATED.match(line.text))
        if not REPEATED.match(line.text) or n_repeated % every == 0:
            kept.append(line)
    return kept


def shorten(lines: list[Line]) -> list[Line]:
    """Scale the times to `SECONDS`, long waits cut."""
    total = max(lines[-1].at_s, 1.0)
    at, last, scaled = 0.0, 0.0, list[Line]()
    for line in lines:
        at += min(line.at_s - last, total * LONGEST_GAP)
        last = line.at_s
        scaled.append(Line(at, line.text))
    return [Line(line.at_s / max(at, 1e-9) * SECONDS, line.text) for line in scaled]


def cut(text: str, columns: int = COLUMNS) -> str:
    """Cut a line to the width of the terminal; a wide character takes two columns."""
    width = 0
    for index, character in enumerate(text):
        width += 2 if east_asian_width(character) in "WF" else 1
        if width > columns:
            return text[: index - 1] + "…"
    return text


def draw(lines: list[Line]) -> str:
    """Draw the lines as an SVG that moves by CSS alone."""
    total = SECONDS + HOLD
    width, height = COLUMNS * CHARACTER + 2 * MARGIN, ROWS * LINE + 2 * MARGIN
    covers, scrolls = list[str](), list[str]()
    for n, line in enumerate(lines, start=1):
        share = f"{100 * line.at_s / total:.2f}%"
        covers.append(f"{share}{{transform:translateY({n * LINE}px)}}")
        scrolls.append(f"{share}{{transform:translateY({-max(0, n - ROWS) * LINE}px)}}")
    end = f"100%{{transform:translateY({len(lines) * LINE}px)}}"
    end_scroll = f"100%{{transform:translateY({-max(0, len(lines) - ROWS) * LINE}px)}}"
    texts = "\n".join(
        f'<text x="0" y="{(n + 0.75) * LINE:.1f}" class="{_style(line.text)}">'
        f"{escape(cut(line.text))}</text>"
        for n, line in enumerate(lines)
    )
    moves = f"{total}s step-end infinite"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" role="img"
 viewBox="0 0 {width:.0f} {height}">
<title>{escape(lines[0].text)}</title>
<style>
text{{font:13px ui-monospace,Menlo,Consolas,"Noto Sans Mono CJK SC",monospace;white-space:pre;
fill:#d7dde5}}
.step{{fill:#7fd1b9;font-weight:bold}} .shell{{fill:#f0c674}} .dim{{fill:#8b98a8}}
.cover{{animation:cover {moves}}} .scroll{{animation:scroll {moves}}}
@keyframes cover{{{"".join(covers)}{end}}}
@keyframes scroll{{{"".join(scrolls)}{end_scroll}}}
</style>
<rect width="100%" height="100%" rx="8" fill="#15191f"/>
<clipPath id="window"><rect width="{COLUMNS * CHARACTER:.0f}" height="{ROWS * LINE}"/></clipPath>
<g transform="translate({MARGIN} {MARGIN})" clip-path="url(#window)"><g class="scroll">
{texts}
<rect class="cover" width="100%" height="{(len(lines) + 1) * LINE}" fill="#15191f"/>
</g></g>
</svg>
"""


def _style(text: str) -> str:
    if text.startswith("$ "):
        return "shell"
    if re.match(r"\[\d+/\d+\]", text):
        return "step"
    return "dim" if re.match(r"[a-z-]+: ", text) else "plain"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(shorten(thin(record(sys.argv[2:])))), encoding="utf-8")
