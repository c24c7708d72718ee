"""YAML that people write by hand: recipes, tables of names, providers, boxes of a form.

In: its text. Out: what it says, or one error for all that cannot be read. Not done here: what it
has to say, how the reader is told.
"""

from typing import Any


class BrokenYamlError(ValueError):
    """Text that is no YAML, in one line; `line` says where, counted from 1, where that is known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(" ".join(problem.split())[:120])
        self.line = line


def parse_yaml(text: str) -> Any:
    """Parse YAML; raises BrokenYamlError for a mark in the wrong place, a day 2021-13-45, more
    brackets than can be followed.

    >>> parse_yaml("主诉: [Complaint]")
    {'主诉': ['Complaint']}
    >>> parse_yaml("day: 2021-13-45")
    Traceback (most recent call last):
    medkd.core.yaml_io.BrokenYamlError: month must be in 1..12
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise BrokenYamlError(str(error.problem), mark.line + 1 if mark else None) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BrokenYamlError(str(error)) from error
