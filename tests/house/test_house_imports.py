import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from medkd.stages import STAGES

HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "scrapy",
    "twisted",
    "matplotlib",
    "aiohttp",
    "jieba",
    "scipy",
}


def find_heavy(code: str) -> set[str]:
    """Name the heavy libraries that are loaded after some code ran in a fresh process."""
    script = f"{code}\nimport sys\nprint('LOADED', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return HEAVY & set(done.stdout.rpartition("LOADED")[2].split())


def test_help_loads_no_library_that_is_slow_to_load() -> None:
    code = "from medkd.cli.app import run_command\ntry:\n    run_command(['--help'])\nexcept SystemExit:\n    pass"
    assert find_heavy(code) == set()


@pytest.mark.parametrize("module", [stage.module for stage in STAGES.values()])
def test_a_stage_can_be_imported_for_its_config_alone(module: str) -> None:
    assert find_heavy(f"import {module}") == set()


def test_help_is_timed(record_testsuite_property: Callable[[str, object], None]) -> None:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "medkd", "--help"], check=True, capture_output=True)
    record_testsuite_property("seconds_of_help", round(time.perf_counter() - began, 2))
