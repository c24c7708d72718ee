"""How many files one record passes in a stage: who follows it must not get lost."""

from pathlib import Path

import pytest

import hops

BOUNDS = {"deidentify": 15, "distill": 16, "merge": 16, "train": 14, "evaluate": 24}
"""Files a stage; 15 is what is wanted of each."""


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(stage, marks=[pytest.mark.slow] if stage in ("train", "evaluate") else [])
        for stage in hops.MEASURED
    ],
)
def test_one_record_passes_few_files(stage: str, tmp_path: Path) -> None:
    files = hops.measure(stage, tmp_path).files
    assert "core/stage_output.py" in files
    assert len(files) <= BOUNDS[stage], files
