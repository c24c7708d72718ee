"""Two processes never work in one run's directory: the second waits, goes on when the first has
ended, or is refused in one line."""

import subprocess
import sys

import pytest

from medkd.core.errors import InputError
from medkd.train.alone import hold

HOLDER = """
import sys, time
from pathlib import Path
from medkd.train.alone import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield tmp_path / "run", process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_in_one_line_when_the_first_stays(held):
    with (
        pytest.raises(InputError, match="another process is still at work here") as caught,
        hold(held[0], patience_s=0.2),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_second_process_goes_on_when_the_first_was_killed(held, capsys):
    run, process = held
    process.kill()
    with hold(run):
        assert "another" not in capsys.readouterr().err


def test_a_second_process_says_that_it_waits(held, capsys):
    run, process = held
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {process.pid}"])
    with hold(run):
        pass
    assert capsys.readouterr().err == f"{run}: waiting for an earlier process to leave it\n"


def test_a_directory_that_nothing_was_written_to_does_not_stay(tmp_path):
    with pytest.raises(InputError), hold(tmp_path / "a/b"):
        raise InputError("refused")
    assert not (tmp_path / "a/b").exists()
    with hold(tmp_path / "c"):
        (tmp_path / "c/file").touch()
    assert (tmp_path / "c/file").exists()


def test_what_cannot_be_a_directory_is_left_to_what_opens_it(tmp_path):
    (tmp_path / "file").touch()
    with hold(tmp_path / "file"):
        assert (tmp_path / "file").is_file()
