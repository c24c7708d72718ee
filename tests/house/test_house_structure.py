"""How the source is cut: no import cycle, imports at the top, functions that fit a screen."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "medkd"
LONGEST_FUNCTION = 60
"""Lines; at most 1 % of the functions may have more."""
MAY_IMPORT_INSIDE = {"medkd.pipeline", "medkd.studio.command"}
"""Modules whose functions may import the package's own modules: the table of stages, and what
would load the web server before the studio is asked for."""


@cache
def parse_all() -> dict[str, ast.Module]:
    """Parse every module of the package, by its dotted name."""
    found: dict[str, ast.Module] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("medkd", *path.relative_to(PACKAGE).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def list_imports(name: str, node: ast.AST) -> set[str]:
    """Name the package's own modules that a statement imports."""
    modules = parse_all()
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names if alias.name in modules}
    if not isinstance(node, ast.ImportFrom) or node.module is None:
        return set()
    assert node.level == 0, f"{name}: a relative import"
    inside = {f"{node.module}.{alias.name}" for alias in node.names}
    return (inside & modules.keys()) or ({node.module} & modules.keys())


def walk_functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def find_cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Find the strongly connected components of more than one module (Tarjan, iteratively)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles: list[set[str]] = []
    for root in graph:
        if root in index:
            continue
        work = [(root, iter(sorted(graph[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        while work:
            name, rest = work[-1]
            following = next(rest, None)
            if following is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == index[name]:
                    at = stack.index(name)
                    component = set(stack[at:])
                    del stack[at:]
                    if len(component) > 1 or name in graph[name]:
                        cycles.append(component)
            elif following not in index:
                index[following] = low[following] = len(index)
                stack.append(following)
                work.append((following, iter(sorted(graph[following]))))
            elif following in stack:
                low[name] = min(low[name], index[following])
    return cycles


def test_a_cycle_is_found() -> None:
    assert find_cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": set()}) == [
        {"a", "b", "c"}
    ]
    assert find_cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert find_cycles({"a": {"a"}}) == [{"a"}]


def test_no_module_is_in_an_import_cycle_imports_inside_functions_counted() -> None:
    graph = {
        name: set[str]().union(*(list_imports(name, node) for node in ast.walk(tree))) - {name}
        for name, tree in parse_all().items()
    }
    assert find_cycles(graph) == []


def test_the_packages_own_modules_are_imported_at_the_top() -> None:
    inside = {
        f"{name}:{node.lineno}"
        for name, tree in parse_all().items()
        if name not in MAY_IMPORT_INSIDE
        for function in walk_functions(tree)
        for node in ast.walk(function)
        if list_imports(name, node)
    }
    assert inside == set()


def test_at_most_one_function_in_a_hundred_is_longer_than_a_screen() -> None:
    lengths = {
        f"{name}.{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for name, tree in parse_all().items()
        for function in walk_functions(tree)
    }
    long = {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION}
    assert len(long) <= len(lengths) / 100, long
