"""A run that meets a fault, and the same command again: the same result as undisturbed, and nothing
paid for twice. The seed is printed; `FAULTS_SEED` repeats one, `FAULTS_ROUNDS` sets how often each
stage is killed, `FAULTS_KILLS` how often the whole demo is."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medkd.core.config import RECIPES
from medkd.core.jsonl import write_records
from medkd.demo.mock_site import serve_site
from medkd.demo.synthetic_cases import generate_cases
from medkd.demo.teacher import serve_teacher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SEED = int(os.environ.get("FAULTS_SEED", random.randrange(2**31)))
ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "2"))
KILLS = int(os.environ.get("FAULTS_KILLS", "8"))
ROAD: dict[str, dict[str, Any]] = {
    "collect": {"delay": 0},
    "deidentify": {},
    "prepare": {"val_share": 0.2, "test_share": 0.2},
    "distill": {"teacher": "rehearsal", "concurrency": 8},
    "verify": {},
    "merge": {},
}
RECORDS = ("deidentify/cases", "prepare/questions", "verify/verified", "merge/train", "merge/test")
JUMPING_CLOCK = """
import random, time
_real, _draw = time.time, random.Random(3)
time.time = lambda: _real() + _draw.choice((0, 0, 86400, -86400))
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe whose site and teacher live on while its runs are killed."""
    folder = tmp_path_factory.mktemp("road")
    with serve_site(generate_cases(60, seed=3)) as site, serve_teacher(latency_s=0.2) as teacher:
        addresses = {"collect": site.base_url, "distill": teacher.base_url}
        stages = {
            name: fields | ({"base_url": addresses[name]} if name in addresses else {})
            for name, fields in ROAD.items()
        }
        path = folder / "road.yaml"
        path.write_text(yaml.safe_dump({"out": str(folder / "run"), **stages}, sort_keys=False))
        yield path


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> dict[str, Any]:
    out = recipe.with_name("undisturbed")
    finish(recipe, out)
    return read_result(out)


def start(recipe: Path, out: Path, **environment: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "medkd", "run", str(recipe), "--out", str(out)]
    with (recipe.with_name(f"{out.name}.log")).open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})


def read_log(recipe: Path, out: Path) -> str:
    return recipe.with_name(f"{out.name}.log").read_text(errors="replace")


def finish(recipe: Path, out: Path, **environment: str) -> None:
    assert start(recipe, out, **environment).wait(900) == 0, read_log(recipe, out)


def read_result(out: Path) -> dict[str, Any]:
    """Read what must be the same: counts of every stage, and which records there are."""
    found: dict[str, Any] = {}
    for stage in ROAD:
        manifest = json.loads((out / stage / "manifest.json").read_bytes())
        assert manifest["state"] == "finished", stage
        found[stage] = manifest["counts"]
    for name in RECORDS:
        lines = (out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = map(json.loads, lines)
        found[name] = sorted(row.get("rationale", row)["id"] for row in rows)
    return found


def find_bought_twice(out: Path) -> list[str]:
    """Find the requests that the ledger holds more than one complete answer of."""
    with sqlite3.connect(out / "distill" / "ledger.sqlite") as ledger:
        return [
            item
            for (item,) in ledger.execute(
                "SELECT item FROM attempts WHERE outcome = 'complete' GROUP BY item, label "
                "HAVING COUNT(*) > 1"
            )
        ]


def wait_for_stage(process: "subprocess.Popen[bytes]", directory: Path) -> bool:
    """Wait until a stage has begun; return whether the run is still going."""
    while process.poll() is None and not (directory / "manifest.json").exists():
        time.sleep(0.01)
    return process.poll() is None


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_killed_in_every_stage_ends_as_one_undisturbed(
    sign: signal.Signals, recipe: Path, undisturbed: dict[str, Any]
) -> None:
    print(f"FAULTS_SEED={SEED}")
    draw = random.Random(SEED)
    n_killed = 0
    for number in range(ROUNDS):
        out = recipe.with_name(f"{sign.name}-{number}")
        for stage in ROAD:
            process = start(recipe, out)
            if wait_for_stage(process, out / stage):
                time.sleep(draw.expovariate(4))
                process.send_signal(sign)
                n_killed += process.wait(60) != 0
        finish(recipe, out)
        assert read_result(out) == undisturbed
        assert find_bought_twice(out) == []
        assert "Traceback" not in read_log(recipe, out)
    assert n_killed >= 3 * ROUNDS


def write_small_demo(folder: Path) -> Path:
    """Write the shipped demo with few cases, short trainings and short answers."""
    content: dict[str, Any] = yaml.safe_load((RECIPES / "demo.yaml").read_text(encoding="utf-8"))
    content["rehearsal"]["cases"] = 60
    short = {"train": {"epochs": 1}, "evaluate": {"max_tokens": 8, "limit": 8}}
    for name in content:
        if name.split("-")[0] in short:
            content[name] |= short[name.split("-")[0]]
    path = folder / "demo.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def read_summary(out: Path) -> dict[str, dict[str, Any]]:
    """Read the scores of every evaluation, speeds apart."""
    scores = json.loads((out / "summary.json").read_bytes())
    return {
        name: {k: v for k, v in one.items() if "second" not in k} for name, one in scores.items()
    }


def test_a_small_demo_killed_at_random_moments_ends_with_the_same_summary(tmp_path: Path) -> None:
    print(f"FAULTS_SEED={SEED}")
    draw, recipe = random.Random(SEED), write_small_demo(tmp_path)
    calm, out = tmp_path / "calm", tmp_path / "killed"
    began = time.monotonic()
    code = start(recipe, calm).wait(900)
    assert code in {0, 3}, read_log(recipe, calm)  # so small a student may stay unproven
    longest, n_killed = (time.monotonic() - began) / 3, 0
    for _ in range(KILLS):
        process = start(recipe, out)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0, longest))
        process.kill()
        n_killed += process.wait(60) == -signal.SIGKILL
    assert start(recipe, out).wait(900) == code, read_log(recipe, out)
    assert n_killed >= KILLS / 2
    assert read_summary(out) == read_summary(calm)
    assert find_bought_twice(out) == []
    assert "Traceback" not in read_log(recipe, out)


def test_two_processes_in_one_directory_do_the_work_once(
    recipe: Path, undisturbed: dict[str, Any]
) -> None:
    out = recipe.with_name("two")
    both = [start(recipe, out), start(recipe, out)]
    codes = sorted(process.wait(900) for process in both)
    assert codes[0] == 0 and codes[1] in {0, 2, 3}, read_log(recipe, out)
    assert read_result(out) == undisturbed
    assert find_bought_twice(out) == []
    assert "Traceback" not in read_log(recipe, out)


def test_a_clock_that_jumps_by_days_changes_nothing(
    recipe: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Python's `time.time` alone: a jump of the system's clock cannot be had in a test."""
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK)
    out = recipe.with_name("clock")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    finish(recipe, out, PYTHONPATH=path)
    assert read_result(out) == undisturbed
    assert find_bought_twice(out) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 kB, where mounting is allowed."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(tmp_path)], capture_output=True
    )
    if made.returncode:
        pytest.skip("no disk may be mounted here")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=False)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_disk_that_fills_up_stops_the_run_with_one_line_and_it_goes_on_with_more(
    recipe: Path, undisturbed: dict[str, Any], small_disk: Path
) -> None:
    out = small_disk / "full"
    assert start(recipe, out).wait(900) == 3
    assert "the disk is full" in read_log(recipe, out)
    assert "Traceback" not in read_log(recipe, out)
    remount(small_disk, "size=64m")
    finish(recipe, out)
    assert read_result(out) == undisturbed
    assert find_bought_twice(out) == []


def test_a_disk_that_may_only_be_read_is_told_in_one_line(recipe: Path, small_disk: Path) -> None:
    remount(small_disk, "ro")
    out = small_disk / "locked"
    assert start(recipe, out).wait(900) == 2
    last = read_log(recipe, out).strip().splitlines()[-1]
    assert "permission denied" in last and str(small_disk) in last


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_stage_over_many_records_killed_in_the_middle_goes_on_from_there(
    tmp_path: Path, engine: str
) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    cases = generate_cases(4000, seed=5)
    write_records(tmp_path / "raw_cases.jsonl", (case.to_raw_case() for case in cases))

    def begin(out: Path) -> "subprocess.Popen[bytes]":
        given = ["--input", str(tmp_path / "raw_cases.jsonl"), "--engine", engine]
        command = [sys.executable, "-m", "medkd", "deidentify", *given, "--out", str(out)]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    calm, out = tmp_path / "calm", tmp_path / "killed"
    assert begin(calm).wait(900) == 0
    done, size = out / ".done", 0
    for _ in range(2):
        process = begin(out)
        while process.poll() is None and not (done.exists() and done.stat().st_size > size + 10**6):
            time.sleep(0.01)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        assert done.stat().st_size > size  # what was done stays, and more came to it
        size = done.stat().st_size
    assert begin(out).wait(900) == 0
    assert not done.exists()
    for name in ("cases.jsonl", "residue.jsonl", "small_cells.csv"):
        assert (out / name).read_bytes() == (calm / name).read_bytes()
    one, other = (json.loads((folder / "manifest.json").read_bytes()) for folder in (calm, out))
    assert one["counts"] == other["counts"] and one["facts"] == other["facts"]
