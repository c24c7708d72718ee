"""The rules hold what docs/benchmarks.md says of them, on the annotated snippets."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def load_bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_deidentify", BENCH / "deidentify.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_deidentify"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["deidentify_snippets.txt", "deidentify_snippets_2.txt"])
def test_recall_and_precision_of_every_category_are_held(name: str) -> None:
    counts = load_bench().measure(BENCH / name)
    for category, n in counts["gold"].items():
        assert counts["found"][category] >= 0.98 * n, f"recall of {category.name}"
    for category, n in counts["finds"].items():
        assert counts["right"][category] >= 0.95 * n, f"precision of {category.name}"


@pytest.mark.parametrize(
    "name",
    [
        "deidentify_held_out.txt",
        "deidentify_wards.txt",
        "deidentify_letters.txt",
        "deidentify_charts.txt",
        "deidentify_plain.txt",
    ],
)
def test_hard_sets_keep_the_precision_and_what_recall_was_reached(name: str) -> None:
    counts = load_bench().measure(BENCH / name)
    assert counts["found"].total() >= 0.92 * counts["gold"].total()
    for category, n in counts["finds"].items():
        assert counts["right"][category] >= 0.95 * n, f"precision of {category.name}"


def test_half_of_the_snippets_are_traps() -> None:
    lines = [
        line
        for line in (BENCH / "deidentify_snippets.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert len(lines) >= 300 and sum("⟦" not in line for line in lines) * 2 >= len(lines)
