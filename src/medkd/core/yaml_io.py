"""Reads YAML: recipes and tables that people write, and the tables shipped in the package.

In: text, or the name of a shipped file. Out: plain values, or one error for all that cannot be
read. Not done here: what the values have to be.
"""

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yaml.nodes import Node

MAX_CHARACTERS = 8 * 2**20
MAX_DEPTH = 50
MAX_NODES = 1_000_000
"""Values in a file, each counted as often as an alias repeats it."""


class BrokenYamlError(ValueError):
    """Text that is not YAML, in one line; `line` counts from 1 and is None where unknown."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(" ".join(problem.split())[:120])
        self.line = line


def parse_yaml(text: str) -> Any:
    """Parse YAML of at most 8 MiB, 50 levels and a million values; raises BrokenYamlError.

    >>> parse_yaml("主诉: [Complaint]")
    {'主诉': ['Complaint']}
    >>> parse_yaml("day: 2021-13-45")
    Traceback (most recent call last):
    medkd.core.yaml_io.BrokenYamlError: month must be in 1..12
    >>> parse_yaml("a: 1\\na: 2")
    Traceback (most recent call last):
    medkd.core.yaml_io.BrokenYamlError: the key 'a' is given twice
    """
    import yaml

    if len(text) > MAX_CHARACTERS:
        raise BrokenYamlError(f"longer than {MAX_CHARACTERS} characters")
    try:
        _check_depth(text)
        loader = _loader()(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count_nodes(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise BrokenYamlError(str(error.problem), mark.line + 1 if mark else None) from error
    except BrokenYamlError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise BrokenYamlError(str(error)) from error


@cache
def read_shipped_yaml(package: str, name: str) -> Any:
    """Read a YAML file of the package, once a process; the values are shared, so none may be
    changed."""
    import yaml

    text = files(package).joinpath(name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=_loader())  # noqa: S506 - a safe loader


def _loader() -> Any:
    """Return the safe loader, written in C where PyYAML was built with it: ten times as fast."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _check_depth(text: str) -> None:
    """Refuse deep nesting before anything follows it by recursion."""
    import yaml

    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=_loader()):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else None
                raise BrokenYamlError(f"nested more than {MAX_DEPTH} levels deep", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _count_nodes(node: "Node", counted: dict[int, int]) -> int:
    """Count the values below a node, aliases written out; refuse cycles and repeated keys."""
    import yaml

    if (known := counted.get(id(node))) is not None:
        if known == 0:
            raise BrokenYamlError("an alias that holds itself", node.start_mark.line + 1)
        return known
    counted[id(node)] = 0
    children: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    n = 1 + sum(_count_nodes(child, counted) for child in children)
    if n > MAX_NODES:
        raise BrokenYamlError(f"more than {MAX_NODES} values", node.start_mark.line + 1)
    counted[id(node)] = n
    return n


def _check_keys(node: Any) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key.value, str):
            if key.value in seen:
                raise BrokenYamlError(
                    f"the key {key.value!r} is given twice", key.start_mark.line + 1
                )
            seen.add(key.value)
