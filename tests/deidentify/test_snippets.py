"""The rules hold what docs/en/benchmarks.md says of them, on the annotated snippets."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from medkd.deidentify.search import find_identifiers

BENCH = Path(__file__).parents[2] / "bench"
SETS = sorted(path.name for path in (BENCH / "deid_snippets").glob("*.txt"))
LEAST = {
    "first.txt": 0.98,
    "second.txt": 0.98,
    "fresh_zh.txt": 0.94,
    "fresh_en.txt": 0.95,
    "clerk_zh.txt": 0.79,
    "clerk_en.txt": 0.87,
    "round_en.txt": 0.86,
}
"""Recall that was reached in each set; 0.92 in the others."""
UNREAD = {"cuts_zh.txt": 0.83, "cuts_en.txt": 0.68, "reports_zh.txt": 0.85, "reports_en.txt": 0.73}
"""Recall in the sets on whose misses no rule was mended."""


def load_bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_deidentify", BENCH / "deidentify.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_deidentify"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["first.txt", "second.txt"])
def test_recall_of_every_kind_is_held_under_its_own_kind(name: str) -> None:
    bench = load_bench()
    rows = bench.read_set(BENCH / "deid_snippets" / name)
    counts = bench.measure(rows, find_identifiers, is_own_kind=True)
    for kind, n in counts.gold.items():
        # Names that are everyday words (盛夏, 花蕾) are weighed against being words, and some lose.
        floor = 0.92 if kind == "name" else 0.98
        assert counts.found[kind] >= floor * n, f"recall of {kind}"


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_found_in_text_that_no_rule_was_written_on_is_held(name: str) -> None:
    bench = load_bench()
    rows = bench.read_set(BENCH / "deid_snippets" / name)
    counts = bench.measure(rows, find_identifiers, is_own_kind=True)
    assert counts.found.total() >= UNREAD[name] * counts.gold.total()
    assert counts.right.total() >= 0.97 * counts.finds.total()


@pytest.mark.parametrize("name", sorted(set(SETS) - set(UNREAD)))
def test_every_set_keeps_the_recall_that_was_reached_and_the_precision(name: str) -> None:
    bench = load_bench()
    rows = bench.read_set(BENCH / "deid_snippets" / name)
    counts = bench.measure(rows, find_identifiers, is_own_kind=True)
    assert counts.found.total() >= LEAST.get(name, 0.92) * counts.gold.total()
    for kind, n in counts.finds.items():
        assert counts.right[kind] >= 0.95 * n, f"precision of {kind}"


def test_half_of_the_snippets_are_traps() -> None:
    rows = load_bench().read_set(BENCH / "deid_snippets" / "first.txt")
    assert len(rows) >= 300 and sum(not row.spans for row in rows) * 2 >= len(rows)
