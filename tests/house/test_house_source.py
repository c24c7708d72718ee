import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "v2"}
MAX_LINES = 550
"""About 500 lines a file."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_arrows_point_down_only_and_rooms_on_one_floor_do_not_see_each_other() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_says_what_it_is_stays_short_and_has_a_name_of_its_own(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert len(text.splitlines()) <= MAX_LINES
    assert not FORBIDDEN & {
        part.removesuffix(".py") for part in path.relative_to(ROOT / "src").parts
    }


def test_names_of_test_files_are_unique() -> None:
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert [name for name, n in names.items() if n > 1 and name != "conftest.py"] == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_unfinished_is_left(path: Path) -> None:
    assert not re.search(
        r"\b(TODO|FIXME|XXX|NotImplementedError)\b", path.read_text(encoding="utf-8")
    )
