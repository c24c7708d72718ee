"""Records in a folder of parts are those of one file, stage after stage; a part of a
run that did not end is not there."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from medkd.core.errors import InputError
from medkd.core.jsonl import (
    RecordReader,
    RecordWriter,
    Shard,
    hash_path,
    list_parts,
    read_lines,
    write_records,
)
from medkd.core.records import RawCase
from medkd.core.reviews import REVIEWS, Decision, Review
from medkd.core.stage_output import read_manifest
from medkd.demo.synthetic_cases import generate_cases
from medkd.train.student import find_inputs
from stage_samples import N, run_stage, write_cases, write_rationales

ROWS = 70
RECORDS = (
    "deidentify/cases.jsonl",
    "prepare/questions.jsonl",
    "verify/verified.jsonl",
    "merge/train.jsonl",
    "merge/val.jsonl",
    "merge/test.jsonl",
)


def write(path: Path, n: int, shard_rows: int) -> RecordWriter:
    with RecordWriter(path, shard_rows) as writer:
        for number in range(n):
            writer.add(RawCase(id=f"a:{number}", source="a", sections={"主诉": "发热"}))
    return writer


def read(path: Path) -> list[str]:
    return [case.id for case in RecordReader(path, RawCase, made_by="collect")]


@pytest.mark.parametrize("n", [1, 6, 7, 8, 21])
def test_parts_hold_the_records_in_order_and_say_how_many_they_are(tmp_path: Path, n: int) -> None:
    path = tmp_path / "cases.jsonl"
    writer = write(path, n, shard_rows=7)
    assert writer.n == n
    assert read(path) == [f"a:{number}" for number in range(n)]
    parts = list_parts(path)
    assert [part.name for part in parts] == [f"part-{k:05}.jsonl.zst" for k in range(-(-n // 7))]
    assert writer.shards == {
        f"cases.jsonl/{part.name}": Shard(rows=min(7, n - 7 * k), sha256=hash_path(part))
        for k, part in enumerate(parts)
    }


def test_without_any_record_there_is_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    write(path, 10, shard_rows=7)
    assert write(path, 0, shard_rows=7).shards == {}
    assert path.read_bytes() == b""


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("now", [0, 7])
def test_what_was_written_before_in_either_form_goes(tmp_path: Path, before: int, now: int) -> None:
    path = tmp_path / "cases.jsonl"
    write(path, 10, shard_rows=before)
    write(path, 5, shard_rows=now)
    assert read(path) == [f"a:{number}" for number in range(5)]
    assert path.is_dir() == bool(now)


@pytest.mark.parametrize("before", [0, 7])
def test_an_error_leaves_no_part_that_could_be_taken_for_the_whole(
    tmp_path: Path, before: int
) -> None:
    path = tmp_path / "cases.jsonl"
    write(path, before, shard_rows=7)
    with pytest.raises(InputError), RecordWriter(path, 7) as writer:
        for number in range(10):
            writer.write(f'{{"id": "{number}"}}'.encode())
        raise InputError("no more")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_beside_goes_with_the_next(tmp_path: Path) -> None:
    left = RecordWriter(tmp_path / "cases.jsonl", 2).__enter__()
    for number in range(5):
        left.write(f'{{"id": "{number}"}}'.encode())
    assert [path.name for path in tmp_path.iterdir()] == [".cases.jsonl.parts"]
    write(tmp_path / "cases.jsonl", 3, shard_rows=7)
    assert [path.name for path in tmp_path.iterdir()] == ["cases.jsonl"]


@pytest.mark.parametrize("now", [0, 7])
def test_a_folder_that_holds_another_file_is_left_as_it_is(tmp_path: Path, now: int) -> None:
    path = tmp_path / "cases.jsonl"
    write(path, 10, shard_rows=7)
    (path / "_SUCCESS").touch()
    with pytest.raises(InputError, match=r"cases.jsonl: holds _SUCCESS"):
        write(path, 5, shard_rows=now)
    assert len(read(path)) == 10


FULL_DISK = """
    import os, resource, sys
    from pathlib import Path
    from medkd.core.errors import StoppedError
    from medkd.core.jsonl import RecordWriter
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        with RecordWriter(Path(sys.argv[1]) / "cases.jsonl", 1000) as writer:
            for number in range(2000):
                writer.write(os.urandom(40 + 200 * (number > 1000)).hex().encode())
    except StoppedError as error:
        print(error)
        sys.exit(error.exit_code)
"""


def test_a_full_disk_stops_with_the_next_step_and_no_part(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "part-00001.jsonl.zst: the disk is full; free some space" in done.stdout
    assert not list(tmp_path.iterdir())


def run_road(folder: Path, out: Path, shard_rows: int) -> Path:
    how = {"shard_rows": shard_rows}
    run_stage("deidentify", folder, out / "deidentify", **how)
    run_stage("prepare", out / "deidentify", out / "prepare", **how)
    run_stage("verify", folder, out / "verify", **how)
    shares = {"val_share": 0.2, "test_share": 0.2}
    run_stage("merge", out / "verify", out / "merge", **how, **shares)
    return out


def test_every_stage_reads_the_parts_of_the_one_before_and_makes_the_same(tmp_path: Path) -> None:
    write_cases(tmp_path), write_rationales(tmp_path)
    plain = run_road(tmp_path, tmp_path / "plain", 0)
    parts = run_road(tmp_path, tmp_path / "parts", ROWS)
    for name in RECORDS:
        lines = [line.rstrip(b"\n") for _, line in read_lines(parts / name)]
        assert lines == (plain / name).read_bytes().splitlines()
        assert (parts / name).is_dir() == bool(lines)
    merged = read_manifest(parts / "merge")
    verified = read_manifest(parts / "verify")
    assert sum(shard.rows for shard in verified.shards.values()) == verified.counts.kept == N
    assert list(merged.inputs.values()) == [shard.sha256 for shard in verified.shards.values()]
    assert set(merged.shards) <= set(merged.outputs)


def test_train_finds_the_rows_to_watch_in_parts_too(tmp_path: Path) -> None:
    for name in ("train.jsonl", "val.jsonl"):
        write(tmp_path / name, 10, ROWS)
    assert find_inputs(tmp_path) == (tmp_path / "train.jsonl", tmp_path / "val.jsonl")


@pytest.mark.parametrize("given", ["", "verified.jsonl"])
def test_merge_heeds_reviews_beside_parts(tmp_path: Path, given: str) -> None:
    verified = run_stage("verify", write_rationales(tmp_path), tmp_path / "out", shard_rows=ROWS)
    review = Review(id="q:3", decision=Decision.REJECT, reviewer="a", at="2026-01-01T00:00:00")
    write_records(verified / REVIEWS, [review])
    merged = read_manifest(run_stage("merge", verified / given, tmp_path / "merge"))
    assert merged.counts.dropped["rejected_by_reviewer"] == 1


def test_another_number_of_rows_is_another_output(tmp_path: Path) -> None:
    out = run_stage("deidentify", write_cases(tmp_path), tmp_path / "out", shard_rows=ROWS)
    with pytest.raises(InputError, match="changed: shard_rows"):
        run_stage("deidentify", tmp_path, out)
    run_stage("deidentify", tmp_path, out, overwrite=True)
    assert (out / "cases.jsonl").is_file()
    assert read_manifest(out).shards == {}


@pytest.mark.slow
def test_a_stage_that_is_killed_goes_on_to_the_same_parts(tmp_path: Path) -> None:
    cases = (case.to_raw_case() for case in generate_cases(2200, seed=5))
    write_records(tmp_path / "raw_cases.jsonl", cases)
    whole = run_stage("deidentify", tmp_path, tmp_path / "whole", shard_rows=500)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "medkd", "deidentify", "--input", str(tmp_path)]
    command += ["--out", str(out), "--shard-rows", "500"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while not (out / ".cases.jsonl.parts/part-00001.jsonl.zst").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (out / ".done").stat().st_size > 0
    assert not (out / "cases.jsonl").exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    found, wanted = (read_manifest(folder) for folder in (out, whole))
    assert found.shards == wanted.shards
    assert found.counts == wanted.counts
    assert {p.name for p in (out / "cases.jsonl").iterdir()} == {
        Path(name).name for name in wanted.shards
    }
    assert json.dumps(found.facts) == json.dumps(wanted.facts)
