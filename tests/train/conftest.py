"""What the tests of trainings share: settings of a short one, and of one that goes on from it."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def short_training(random_model_dir: Path, merged_dir: Path) -> dict[str, Any]:
    """Settings of a supervised training of twelve steps."""
    return {
        "model": str(random_model_dir),
        "input": merged_dir,
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 5e-3,
        "max_length": 256,
    }


@pytest.fixture(scope="session")
def start(random_model_dir: Path, trained_dir: Path, merged_dir: Path) -> dict[str, Any]:
    """Settings of what goes on from a student that knows the short rows by heart."""
    return {"model": str(random_model_dir), "adapter": trained_dir, "input": merged_dir}
