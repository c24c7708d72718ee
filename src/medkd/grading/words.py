"""The phrases and names that the checks look for, from `check_words.yaml`.

In: the name of a table. Out: one pattern over its phrases, or its names. Not done here: what
follows from a hit (`grading.checks`).
"""

import re
from functools import cache
from typing import Any, cast

from medkd.core.yaml_io import read_shipped_yaml


@cache
def _read_tables() -> dict[str, Any]:
    return cast(dict[str, Any], read_shipped_yaml("medkd.grading", "check_words.yaml"))


@cache
def load_words(name: str) -> re.Pattern[str]:
    """Give one pattern that finds any phrase of a table, without regard to case."""
    return re.compile(
        "|".join(f"(?:{pattern})" for pattern in cast(list[str], _read_tables()[name])),
        re.IGNORECASE,
    )


def load_table(name: str) -> dict[str, Any]:
    """Load a table by names."""
    return cast(dict[str, Any], _read_tables()[name])
