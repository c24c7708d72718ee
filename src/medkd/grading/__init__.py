"""The one definition of a right, well-formed, honest answer, for verify, rewards and evaluate.

No models, no network, no files but its own tables.
"""

from typing import Any, cast

from medkd.core.config import read_shipped_yaml


def load_table(name: str) -> dict[str, Any]:
    """Load a word table of `tables/`; its values are shared, so none may be changed."""
    return cast(dict[str, Any], read_shipped_yaml("medkd.grading", f"tables/{name}.yaml"))
