"""Writes `docs/en/commands.md` and `docs/zh/commands.md`: what every command says about itself.

In: the commands. Out: the pages; `make docs` runs it. Not done here: the texts, which stand in each
stage's `Config` and in the catalogues of `medkd.locale`.
"""

import io
from pathlib import Path

from rich.console import Console

from medkd.cli import app as cli
from medkd.cli.overview import COMMANDS
from medkd.core.i18n import Texts

WIDTH = 110
HEADS = {
    "en": """# Commands

What `medkd COMMAND --help-all` prints; `make docs` writes this page. The flags of a stage
are the fields of its `Config`: the same names, with `_` for `-`, stand in a recipe, and in a
stage's `manifest.json`. The common ones alone: `--help`.

Exit codes: 0 done; 1 a bug of MedKD, told in one line with a log; 2 unusable input or config,
nothing was done; 3 stopped before the end with what was done kept, and the same command goes on
from there.
""",
    "zh": """# 全部命令

本页由 `make docs` 写出，内容就是 `medkd COMMAND --help-all --lang zh` 打印的帮助。
阶段的参数就是它 `Config` 的字段：在配方里用同样的名字（`-` 写成 `_`），
在该阶段的 `manifest.json` 里也是。只看常用的几个用 `--help`。

退出码：0 完成；1 是 MedKD 的缺陷，一行话加日志；2 输入或设置不可用，什么都没做；
3 没做完就停了，已做的保留，同样的命令接着做。
""",
}


def make_page(language: str) -> str:
    """Put the help of every command on one page."""
    texts = Texts(language)
    helps = (f"\n## {name}\n```text\n{read_help(name, texts)}\n```\n" for name in COMMANDS)
    return HEADS[language] + "".join(helps)


def read_help(name: str, texts: Texts) -> str:
    """Return the help of one command as plain text."""
    page = io.StringIO()
    console = Console(
        file=page, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False
    )
    cli.build_app([name, "--help-all"], texts).help_print([name], console=console)
    return "\n".join(line.rstrip() for line in page.getvalue().strip().split("\n"))


if __name__ == "__main__":
    for language in HEADS:
        path = Path(__file__).parent / language / "commands.md"
        path.write_text(make_page(language), encoding="utf-8")
