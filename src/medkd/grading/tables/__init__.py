"""The word tables of grading: YAML, read once a process, their words as patterns.

In: the name of a table and of a list in it. Out: its values, or one pattern over its phrases.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any, cast

from medkd.core.yaml_io import read_shipped_yaml

TABLES_DIR = Path(__file__).parent


def load_table(name: str) -> dict[str, Any]:
    """Load a table; its values are shared, so none may be changed."""
    return cast(dict[str, Any], read_shipped_yaml(__name__, f"{name}.yaml"))


@cache
def load_phrases(name: str) -> re.Pattern[str]:
    """Compile one pattern that finds any phrase of a list of `check_phrases.yaml`, in any case."""
    phrases = cast(list[str], load_table("check_phrases")[name])
    return re.compile("|".join(f"(?:{phrase})" for phrase in phrases), re.IGNORECASE)
