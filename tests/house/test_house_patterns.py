"""Every regular expression of the package takes time in proportion to the text.

How it is judged: the patterns that the package compiles are written down while all its modules are
imported and its tables loaded; literal ones inside functions are read from the source. Each is run
over texts of one repeated piece, among them the pattern's own words, at two lengths, in the ways the
source uses it: one that is only matched at a place is not searched for. A text eight times as long
takes a linear pattern eight times as long, a quadratic one 64 times, on any machine: the processor
time of the two is compared, and a pattern over two seconds is given up.
"""

import ast
import functools
import importlib
import inspect
import itertools
import pkgutil
import re
import re._parser as parser
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

SOURCES = sorted((Path(__file__).parents[2] / "src").rglob("*.py"))
LENGTH, FACTOR = 16_000, 8
WORST_GROWTH = 3 * FACTOR
"""Between the 8 of a linear pattern and the 64 of a quadratic one."""
TOO_SHORT_TO_MEASURE_S = 0.06
"""Clocks of processor time tick every hundredth of a second on some machines."""
GIVEN_UP_AFTER_S = 2.0
PIECES = [
    *(
        "a",
        "A",
        "Aa",
        "aA1",
        "a ",
        "Ab ",
        "1",
        "1.",
        "1-",
        "1/",
        "0 ",
        " ",
        "\t",
        "\n",
        " \n",
        "\\",
        "_",
    ),
    *(
        "一",
        "患者",
        "一 ",
        "一，",
        "一,",
        "，",
        ",",
        "。",
        "、",
        "：",
        ": ",
        "；",
        "-",
        "--",
        "*",
        "**",
        "#",
    ),
    *(
        "(",
        "（",
        "[",
        "【",
        "{",
        "<",
        "<a",
        ")",
        "((a",
        "“",
        '"',
        "'",
        "`",
        "|",
        "|-",
        "=",
        "\\boxed{",
        "$",
    ),
]
TAILS = ["", "!", "一", "a", "1"]
ENTRY_POINTS = {
    **dict.fromkeys(("compile", "search", "split", "findall", "finditer", "sub", "subn"), "search"),
    "match": "match",
    "fullmatch": "fullmatch",
}


class SlowError(Exception):
    """A pattern was given up."""


def is_own(name: str) -> bool:
    return name == "medkd" or name.startswith("medkd.")


def collect_patterns() -> dict[tuple[str, int], tuple[str, set[str]]]:
    """Write down each pattern that the package compiles: where, and how it is used."""
    found: dict[tuple[str, int], str] = {}
    compile_really = re._compile  # pyright: ignore[reportAttributeAccessIssue]

    def note(pattern: Any, flags: Any) -> Any:
        frame: FrameType | None = sys._getframe(1)
        while frame and frame.f_globals.get("__name__") == "re":
            frame = frame.f_back
        place = str(frame.f_globals.get("__name__")) if frame else ""
        if place.startswith("medkd") and isinstance(pattern, str):
            found.setdefault((pattern, int(flags)), place)
        return compile_really(pattern, flags)

    modules: list[Any] = []
    # Imported anew, since a module that another test imported compiles its patterns no more.
    imported = {name: sys.modules.pop(name) for name in list(sys.modules) if is_own(name)}
    re._compile = note  # pyright: ignore[reportAttributeAccessIssue]
    try:
        package = importlib.import_module("medkd")
        for name in [m.name for m in pkgutil.walk_packages(package.__path__, "medkd.")]:
            if not name.endswith("__main__"):
                modules.append(importlib.import_module(name))
                load_tables(modules[-1])
    finally:
        re._compile = compile_really  # pyright: ignore[reportAttributeAccessIssue]
        for name in [name for name in sys.modules if is_own(name)]:
            del sys.modules[name]
        sys.modules.update(imported)
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    uses = find_uses(modules, list(trees.values()))
    patterns = {key: (place, uses.get(key[0], {"search"})) for key, place in found.items()}
    for path, tree in trees.items():
        for pattern, line, function in literal_patterns(tree):
            patterns.setdefault((pattern, 0), (f"{path.name}:{line}", {ENTRY_POINTS[function]}))
    return patterns


def find_uses(modules: list[Any], trees: list[ast.AST]) -> dict[str, set[str]]:
    """Find in which ways the patterns that have a name in a module are used."""
    used: dict[str, set[str]] = {}
    nodes = [node for tree in trees for node in ast.walk(tree)]
    owners = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            name = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            used.setdefault(name, set()).add(ENTRY_POINTS.get(node.attr, "search"))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in owners:
            used.setdefault(node.id, set()).add("search")
    uses: dict[str, set[str]] = {}
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                uses.setdefault(value.pattern, set()).update(used.get(name, {"search"}))
    return uses


def load_tables(module: Any) -> None:
    """Call the cached loaders of a module that need no argument: their tables become patterns."""
    for name, value in vars(module).items():
        if not isinstance(value, functools._lru_cache_wrapper) or "load" not in name:
            continue
        needed = [p for p in inspect.signature(value).parameters.values() if p.default is p.empty]
        if not needed and value.__module__ == module.__name__:
            value()


def literal_patterns(tree: ast.AST) -> Iterator[tuple[str, int, str]]:
    """Yield the patterns that stand as plain strings in calls of `re`."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "re"
            and node.func.attr in ENTRY_POINTS.keys() - {"compile"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            yield node.args[0].value, node.lineno, node.func.attr


def words_of(pattern: str, flags: int) -> list[str]:
    """List runs of plain characters in a pattern, the longest first."""
    words: list[str] = []

    def walk(items: Any) -> None:
        run = ""
        for op, value in items:
            if op is parser.LITERAL:
                run += chr(value)
                continue
            words.append(run)
            run = ""
            for part in value if isinstance(value, tuple | list) else [value]:
                if isinstance(part, parser.SubPattern):
                    walk(part)
                elif isinstance(part, list) and all(isinstance(p, parser.SubPattern) for p in part):
                    for branch in part:
                        walk(branch)
        words.append(run)

    walk(parser.parse(pattern, flags))
    return sorted({word for word in words if word}, key=len, reverse=True)


def texts_for(pattern: str, flags: int) -> Iterator[str]:
    """Make pieces to repeat: common ones, and the pattern's own words alone and before others."""
    words = words_of(pattern, flags)
    chosen = [*words[:6], *words[-4:]]
    yield from PIECES
    yield from chosen
    yield from (
        one + other for one, other in itertools.product(chosen[:4], ("a", "1", " ", "，", "一"))
    )


def measure(compiled: re.Pattern[str], text: str, uses: Iterable[str]) -> float:
    """Take the processor time of the ways in which a pattern is used."""
    start = time.process_time()
    for use in uses:
        if use == "search":
            for _ in compiled.finditer(text):
                pass
        else:
            getattr(compiled, use)(text)
    return time.process_time() - start


def find_growth(
    compiled: re.Pattern[str], piece: str, tail: str, uses: Iterable[str] = ("search",)
) -> float:
    """Tell how many times as long a text eight times as long takes; 1 where it takes no time."""
    long_text, short_text = (
        (piece * (length // len(piece) + 1))[:length] + tail
        for length in (LENGTH, LENGTH // FACTOR)
    )
    signal.setitimer(signal.ITIMER_VIRTUAL, GIVEN_UP_AFTER_S)
    try:
        long = measure(compiled, long_text, uses)
        if long < TOO_SHORT_TO_MEASURE_S:
            return 1.0
        long = min(long, measure(compiled, long_text, uses))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        times = [measure(compiled, short_text, uses) for _ in range(4 * FACTOR)]
        return long / max(sum(times) / len(times), 1e-3)
    except SlowError:
        return float("inf")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def give_up(*_: object) -> None:
    raise SlowError


@pytest.mark.slow
def test_every_pattern_is_linear() -> None:
    patterns = collect_patterns()
    assert len(patterns) > 300, "the patterns of the package were not found"
    previous = signal.signal(signal.SIGVTALRM, give_up)
    slow: list[str] = []
    try:
        for (pattern, flags), (place, uses) in patterns.items():
            compiled = re.compile(pattern, flags)
            for n, piece in enumerate(texts_for(pattern, flags)):
                growth = find_growth(compiled, piece, TAILS[n % len(TAILS)], uses)
                if growth > WORST_GROWTH:
                    slow.append(f"{place}: {growth:.0f} times on {piece!r}: {pattern[:90]}")
                    break
    finally:
        signal.signal(signal.SIGVTALRM, previous)
    assert not slow, (
        f"{len(slow)} of {len(patterns)} patterns are slower than linear:\n" + "\n".join(slow)
    )


@pytest.mark.parametrize(
    ("pattern", "piece"),
    [(r"(?:[A-Za-z]+\s?)*x型", "a"), (r"\s+$", " "), (r"\w+:", "a"), (r"(?:a|b)*\d", "ab")],
)
def test_a_pattern_that_is_not_linear_is_told(pattern: str, piece: str) -> None:
    previous = signal.signal(signal.SIGVTALRM, give_up)
    try:
        assert find_growth(re.compile(pattern), piece, "!") > WORST_GROWTH
        assert find_growth(re.compile(r"[A-Za-z]+\s?"), piece, "!") < WORST_GROWTH
    finally:
        signal.signal(signal.SIGVTALRM, previous)
