"""The phrases and names that the checks look for, from `check_words.yaml`.

In: the name of a table. Out: one pattern over its phrases, or its names. Not done here: what
follows from a hit (`grading.checks`).
"""

import re
from functools import cache
from pathlib import Path
from typing import Any, cast


@cache
def _read_tables() -> dict[str, Any]:
    import yaml

    return cast(
        dict[str, Any],
        yaml.safe_load((Path(__file__).parent / "check_words.yaml").read_text(encoding="utf-8")),
    )


@cache
def load_words(name: str) -> re.Pattern[str]:
    """Give one pattern that finds any phrase of a table, without regard to case."""
    return re.compile(
        "|".join(f"(?:{pattern})" for pattern in cast(list[str], _read_tables()[name])),
        re.IGNORECASE,
    )


def load_table(name: str) -> dict[str, str]:
    """Give a table of names and what they are written as."""
    return cast(dict[str, str], _read_tables()[name])
