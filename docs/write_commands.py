"""Writes `docs/en/commands.md`: what every command says about itself. `make docs` runs it.

In: the commands. Out: the page. Not done here: the text, which stands in each stage's `Config`.
"""

import io
from pathlib import Path

from rich.console import Console

from medkd.cli import app as cli
from medkd.cli.overview import COMMANDS

WIDTH = 110
HEAD = """# Commands

What `medkd COMMAND --help-all` prints; `make docs` writes this page. The flags of a stage
are the fields of its `Config`: the same names, with `_` for `-`, stand in a recipe, and in a
stage's `manifest.json`.

Exit codes: 0 done; 1 a bug of MedKD, told in one line with a log; 2 unusable input or config,
nothing was done; 3 stopped before the end with what was done kept, and the same command goes on
from there.
"""


def make_page() -> str:
    """Put the help of every command on one page."""
    return HEAD + "".join(f"\n## {name}\n```text\n{read_help(name)}\n```\n" for name in COMMANDS)


def read_help(name: str) -> str:
    """Return the help of one command as plain text."""
    page = io.StringIO()
    console = Console(
        file=page, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False
    )
    cli.build_app([name, "--help-all"]).help_print([name], console=console)
    return "\n".join(line.rstrip() for line in page.getvalue().strip().split("\n"))


if __name__ == "__main__":
    Path(__file__).with_name("en").joinpath("commands.md").write_text(make_page(), encoding="utf-8")
