"""Libraries are loaded without looking for garbage among them, and looked through as before once
they are there."""

import gc
import subprocess
import sys

import pytest

from medkd.models.load import importing


def test_garbage_is_looked_for_again_after_an_import_that_fails():
    try:
        with importing():
            assert not gc.isenabled()
            raise ImportError
    except ImportError:
        assert gc.isenabled()


def test_one_who_has_turned_the_collector_off_finds_it_off():
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_only_what_an_import_brought_is_exempt_from_later_looks():
    code = (
        "import gc\n"
        "from medkd.models.load import importing\n"
        "with importing():\n    import sqlite3\n"
        "n = gc.get_freeze_count()\n"
        "assert n\n"
        "with importing():\n    import sqlite3\n"
        "assert gc.get_freeze_count() == n\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_loading_them_brings_torch_and_says_nothing():
    code = (
        "import sys\n"
        "from medkd.models.load import load_libraries\n"
        "assert 'torch' not in sys.modules\n"
        "load_libraries()\n"
        "assert 'torch' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""
