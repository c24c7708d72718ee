"""Evaluations held against the first one, paired, as `medkd compare` does it; worked out once for
the files as they stand.

In: directories of `evaluate`. Out: a table of tests. Not done here: the tests
(`medkd.evaluate.compare`), measuring.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from medkd.core.jsonl import resolve_input
from medkd.core.statistics import Difference
from medkd.evaluate.compare import find_shared, hold_against_first, keep_shared, load, show_tests
from medkd.evaluate.scoring import FILE_NAME
from medkd.studio.places import Step
from medkd.studio.present import show_table
from medkd.studio.texts import Texts

SEED = 0
"""The same as `medkd compare` has by itself."""
COLUMNS = ("model", "measure", "shared", "difference", "interval", "p", "test", "significant")


def show_comparison(steps: Sequence[Step], t: Texts) -> str:
    """Show every difference to the first evaluation; raises InputError for evaluations that cannot
    be compared."""
    if len(steps) < 2:
        return ""
    files = [resolve_input(step.path, FILE_NAME, made_by="evaluate") for step in steps]
    stamps = tuple(
        (step.name, file.parent, file.stat().st_mtime_ns)
        for step, file in zip(steps, files, strict=True)
    )
    n_shared, tests = _compare(stamps)
    head = ["p" if name == "p" else t(f"evaluate.{name}") for name in COLUMNS]
    rows = [
        (
            line["model"],
            t.label("measures", line["score"], "")[0],
            line["n"],
            line["difference"],
            line["interval"],
            line["p"],
            name_test(found, t),
            line["is_significant"],
        )
        for line, found in tests
    ]
    return show_table(head, rows, t, t("evaluate.tests", first=steps[0].name, n=f"{n_shared:,}"))


def name_test(found: Difference, t: Texts) -> str:
    """Name the test behind a p-value."""
    if found.n_first_only or found.n_second_only:
        return t("evaluate.gained", gained=found.n_second_only, lost=found.n_first_only)
    return t("evaluate.bootstrap")


@lru_cache(maxsize=32)
def _compare(
    stamps: tuple[tuple[str, Path, int], ...],
) -> tuple[int, list[tuple[dict[str, Any], Difference]]]:
    loaded = [load(folder, name) for name, folder, _ in stamps]
    shared = find_shared(loaded, [folder for _, folder, _ in stamps])
    differences = hold_against_first([keep_shared(one, shared, SEED) for one in loaded], SEED)
    flat = [found for group in differences.values() for found in group.values()]
    return len(shared), list(zip(show_tests(differences), flat, strict=True))
