import os
import signal
import time

import pytest

from medkd import background_jobs
from medkd.core.errors import InputError


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start_servers():
    return background_jobs.start(
        ["mock-servers", "--site-port", "0", "--teacher-port", "0", "--cases", "2"]
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder of all runs, which is this test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    background_jobs.runs_dir().mkdir(parents=True)
    return background_jobs.runs_dir()


def test_a_command_goes_on_alone_is_followed_and_keeps_its_exit_code(folder):
    run = background_jobs.start(["bill", str(folder / "nowhere")])
    assert run.name == "bill-1"
    heard = "".join(background_jobs.follow_log(run))
    assert heard.startswith("error: ") and "nowhere" in heard
    assert background_jobs.read_state(run) == "failed"
    assert background_jobs.start(["--version"]).name == "--version-1"


def test_a_run_is_interrupted_as_by_a_person_and_says_so(folder):
    run = start_servers()
    wait_for(lambda: "case site" in background_jobs.read_log(run)[0])
    assert background_jobs.read_state(run) == "running"
    assert background_jobs.stop(run) == "stopped"
    assert "interrupted; what was done is kept" in background_jobs.read_log(run)[0]
    assert [found.name for found in background_jobs.list_runs()] == [run.name]


def test_a_run_whose_processes_are_gone_was_killed_whoever_has_its_number_now(folder):
    run = start_servers()
    wait_for(lambda: "case site" in background_jobs.read_log(run)[0])
    os.killpg(run.pid, signal.SIGKILL)
    wait_for(lambda: background_jobs.read_state(run) == "killed")
    assert background_jobs.stop(run) == "killed"


def test_a_run_that_is_told_to_end_by_the_system_stopped_and_was_not_killed(folder):
    run = start_servers()
    wait_for(lambda: "case site" in background_jobs.read_log(run)[0])
    os.kill(run.pid, signal.SIGTERM)
    wait_for(lambda: background_jobs.read_state(run) != "running")
    assert background_jobs.read_state(run) == "stopped"
    assert "error: terminated; what was done" in background_jobs.read_log(run)[0]


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ('{"code": 0, "ended_at": ""}', "done"),
        ('{"code": 1, "ended_at": ""}', "crashed"),
        ('{"code": 2, "ended_at": ""}', "failed"),
        ('{"code": 3, "ended_at": ""}', "stopped"),
        ('{"code": 139, "ended_at": ""}', "crashed"),
        ('{"code": -9, "ended_at": ""}', "killed"),
        ("{", "killed"),
        ("", "killed"),
    ],
)
def test_a_crash_is_told_from_a_kill_by_what_a_run_wrote_at_its_end(folder, end, state):
    (folder / "train-1").mkdir()
    (folder / "train-1" / "alive").touch()
    if end:
        (folder / "train-1" / "end.json").write_text(end)
    run = background_jobs.Job(
        name="train-1", words=["train"], cwd=folder, pid=1, started_at="2026-01-01T00:00:00"
    )
    assert background_jobs.read_state(run) == state


def test_whoever_records_an_end_holds_the_run_alive_until_then(folder):
    run = background_jobs.Job(
        name="a-1", words=["a"], cwd=folder, pid=1, started_at="2026-01-01T00:00:00"
    )
    (folder / "a-1").mkdir()
    with pytest.raises(ZeroDivisionError), background_jobs.record_end(folder / "a-1"):
        assert background_jobs.read_state(run) == "running"
        raise ZeroDivisionError
    assert background_jobs.read_state(run) == "crashed"


def test_a_run_that_is_about_to_take_its_lock_is_no_killed_one(folder, monkeypatch):
    (folder / "a-1").mkdir()
    run = background_jobs.Job(name="a-1", words=["a"], cwd=folder, pid=1, started_at="2026-01-01")
    lock, states = background_jobs.fcntl.flock, []

    def look_first(file, how):
        if how == background_jobs.fcntl.LOCK_EX:
            states.append(background_jobs.read_state(run))
        lock(file, how)

    monkeypatch.setattr(background_jobs.fcntl, "flock", look_first)
    with background_jobs.record_end(folder / "a-1"):
        assert background_jobs.read_state(run) == "running"
    assert states == ["running"]


def test_an_unknown_run_is_named_with_the_nearest_one(folder):
    with pytest.raises(InputError, match="none was started"):
        background_jobs.find_run("train-1")
    run = background_jobs.start(["--version"])
    wait_for(lambda: background_jobs.read_state(run) == "done")
    with pytest.raises(InputError, match="did you mean '--version-1'"):
        background_jobs.find_run("-version-1")
    (folder / "torn-1").mkdir()
    (folder / "torn-1" / "run.json").write_text("{")
    assert [found.name for found in background_jobs.list_runs()] == ["--version-1"]
