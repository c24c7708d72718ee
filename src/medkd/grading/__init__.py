"""The one definition of a right, well-formed, honest answer, for verify, rewards and evaluate.

No models, no network, no files but its own tables.
"""

from functools import partial

from medkd.core.config import read_shipped_yaml

load_table = partial(read_shipped_yaml, "medkd.grading.tables")
"""Loads a word table of `tables/`; its values are shared, so none may be changed."""
