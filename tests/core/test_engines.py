"""The same bytes out of every engine, whatever the number of workers; and what Ray does when a
worker dies."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from medkd.core import parallel
from medkd.core.errors import InputError
from stage_samples import N, run_stage, write_cases, write_rationales

ray = pytest.importorskip("ray", reason="Ray is not installed")
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers import no tests
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def share_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few records be shared among workers, as many are."""
    monkeypatch.setattr(parallel.map_in_order, "__defaults__", (100, "local", parallel.BATCH, None))
    monkeypatch.setattr("medkd.deidentify.stage.MANY", 100)
    monkeypatch.setattr("medkd.merge.stage._MANY", 1)


@pytest.fixture(params=[1, 3])
def n_workers(request: pytest.FixtureRequest) -> Iterator[int]:
    ray.init(address="local", num_cpus=request.param, log_to_driver=False, include_dashboard=False)
    yield request.param
    ray.shutdown()


def read_all(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def test_every_stage_over_records_writes_the_same_bytes(tmp_path: Path, n_workers: int) -> None:
    cases, rationales = write_cases(tmp_path / "collect"), write_rationales(tmp_path / "distill")
    shard_rows = 70 if n_workers > 1 else 0
    for engine in ("local", "ray"):
        out, how = tmp_path / engine, {"engine": engine, "shard_rows": shard_rows}
        run_stage("deidentify", cases, out / "deidentify", **how)
        run_stage("prepare", out / "deidentify", out / "prepare", **how)
        run_stage("verify", rationales, out / "verify", **how)
        run_stage("merge", out / "verify", out / "merge", **how)
    local, on_ray = read_all(tmp_path / "local"), read_all(tmp_path / "ray")
    assert len(local) > 12
    assert on_ray == local


def die_once(marks: Path, number: int) -> int:
    """Kill the worker at the middle item, the first time."""
    if number == N // 2 and not marks.exists():
        marks.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return -number


def fail(number: int) -> int:
    if number == N - 1:
        raise InputError("{}: no such number; give another", number)
    return number


@pytest.fixture
def with_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Iterator[int]]]:
    """Map over the first numbers on a Ray that finds the functions of this file."""
    here = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(here))
    ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield lambda work: parallel.map_in_order(work, range(N), engine="ray")
    ray.shutdown()


def test_a_worker_that_is_killed_loses_nothing_and_nothing_comes_twice(
    tmp_path: Path, with_ray: Callable[..., Iterator[int]]
) -> None:
    found = list(with_ray(partial(die_once, tmp_path / "mark")))
    assert (tmp_path / "mark").exists()
    assert found == [-number for number in range(N)]


def test_an_error_of_the_work_is_told_as_it_is(with_ray: Callable[..., Iterator[int]]) -> None:
    with pytest.raises(InputError, match="no such number; give another"):
        list(with_ray(fail))
