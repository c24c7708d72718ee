"""The same bytes out of every engine, whatever the number of workers; and what Ray does when a
worker dies."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from medkd.core import parallel
from medkd.core.errors import InputError
from medkd.core.jsonl import write_records
from medkd.core.records import Cost, Question, Rationale, Usage
from medkd.demo.synthetic_cases import generate_cases
from medkd.stages import STAGES

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
N = 300
REASONING = (
    "患者腹痛{}天，起病较急，年龄尚轻。腹痛位于右下腹时首先考虑阑尾受累，需与胆囊炎、肠梗阻、"
    "输尿管结石相鉴别：胆囊炎压痛多在右上腹，结石多为绞痛并向会阴部放射，肠梗阻有停止排气，"
    "均与本例不符。综合病史与症状，诊断指向急性阑尾炎。"
)


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


def write_cases(folder: Path) -> Path:
    cases = generate_cases(N, seed=5)
    write_records(folder / "raw_cases.jsonl", (case.to_raw_case() for case in cases))
    return folder


def write_rationales(folder: Path) -> Path:
    def make(number: int) -> Rationale:
        text = f"【主诉】腹痛{number}天，伴第{number * 7919}号症状，{number % 50}岁。"
        question = Question(
            id=f"q:{number}", case_id=f"q:{number}", source="site", system="S", instruction="I", input=text, reference="急性阑尾炎",
            split="train", deidentified_by="rules 1",
        )  # fmt: skip
        return Rationale(
            id=f"q:{number}", question=question, reasoning=REASONING.format(number), sample=0,
            answer="急性阑尾炎", finish_reason="stop", complete=True, model="teacher",
            mode="rationalize", attempts=1, usage=Usage(), cost=Cost(),
        )  # fmt: skip

    write_records(folder / "rationales.jsonl", map(make, range(N)))
    return folder


def run_stage(stage: str, given: Path, out: Path, **fields: Any) -> Path:
    module = STAGES[stage].load()
    module.run(module.Config(input=(given,) if stage == "merge" else given, out=out, **fields))
    return out


def read_all(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def test_every_stage_over_records_writes_the_same_bytes(tmp_path: Path, n_workers: int) -> None:
    cases, rationales = write_cases(tmp_path / "collect"), write_rationales(tmp_path / "distill")
    for engine in ("local", "ray"):
        out = tmp_path / engine
        run_stage("deidentify", cases, out / "deidentify", engine=engine)
        run_stage("prepare", out / "deidentify", out / "prepare", engine=engine)
        run_stage("verify", rationales, out / "verify", engine=engine)
        run_stage("merge", rationales, out / "merge", engine=engine)
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
