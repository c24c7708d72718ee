import time

import pytest

from medkd import background_jobs
from medkd.core.errors import InputError


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def rehearse(directory):
    return background_jobs.start(
        ["rehearse", "--site-port", "0", "--teacher-port", "0", "--cases", "2"], directory
    )


def test_a_command_goes_on_alone_is_followed_and_keeps_its_exit_code(tmp_path):
    run = background_jobs.start(["bill", str(tmp_path / "nowhere")], tmp_path)
    assert run.name == "bill-1"
    heard = "".join(background_jobs.follow_log(run, directory=tmp_path))
    assert heard.startswith("error: ") and "nowhere" in heard
    assert background_jobs.read_state(run, tmp_path) == "failed"
    assert background_jobs.start(["--version"], tmp_path).name == "--version-1"


def test_a_run_is_interrupted_as_by_a_person_and_says_so(tmp_path):
    run = rehearse(tmp_path)
    wait_for(lambda: "case site" in background_jobs.read_log(run, directory=tmp_path)[0])
    assert background_jobs.read_state(run, tmp_path) == "running"
    assert background_jobs.stop(run, tmp_path) == "stopped"
    assert (
        "interrupted; what was done is kept" in background_jobs.read_log(run, directory=tmp_path)[0]
    )
    assert [found.name for found in background_jobs.list_runs(tmp_path)] == [run.name]


def test_a_run_whose_processes_are_gone_was_killed_whoever_has_its_number_now(tmp_path):
    import os
    import signal

    run = rehearse(tmp_path)
    wait_for(lambda: "case site" in background_jobs.read_log(run, directory=tmp_path)[0])
    os.killpg(run.pid, signal.SIGKILL)
    wait_for(lambda: background_jobs.read_state(run, tmp_path) == "killed")
    assert background_jobs.stop(run, tmp_path) == "killed"


def test_an_unknown_run_is_named_with_the_nearest_one(tmp_path):
    with pytest.raises(InputError, match="none was started"):
        background_jobs.find_run("train-1", tmp_path)
    run = background_jobs.start(["--version"], tmp_path)
    wait_for(lambda: background_jobs.read_state(run, tmp_path) == "done")
    with pytest.raises(InputError, match="did you mean '--version-1'"):
        background_jobs.find_run("-version-1", tmp_path)
    (tmp_path / "torn-1").mkdir()
    (tmp_path / "torn-1" / "run.json").write_text("{")
    assert [found.name for found in background_jobs.list_runs(tmp_path)] == ["--version-1"]
