"""Input that lies in a store is read as that of this machine is; what a store refuses, loses or
breaks off is one line."""

import gzip
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fake_s3 import BUCKET, FakeS3, start_s3
from medkd.core import remote
from medkd.core.errors import InputError, MedkdError, StoppedError
from medkd.core.jsonl import hash_path, list_parts
from medkd.core.remote import find_place
from medkd.core.stage_output import read_manifest
from medkd.merge.stage import Config as MergeConfig
from medkd.text.tables import read_rows
from stage_samples import run_stage, write_cases, write_rationales

ADDRESS = f"s3://{BUCKET}/ward/2026"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeS3]:
    """A store whose key and address stand in the environment alone."""
    with start_s3() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-a-test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-written")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        remote._open_store.cache_clear()  # pyright: ignore[reportPrivateUsage]
        yield server
        remote._open_store.cache_clear()  # pyright: ignore[reportPrivateUsage]


def put_parts(s3: FakeS3, path: Path, n_parts: int = 3) -> None:
    """Put the lines of a file into the store, in parts of several forms."""
    lines = path.read_bytes().splitlines(keepends=True)
    pack = (
        lambda data: pyarrow.Codec("zstd").compress(data, asbytes=True),
        lambda data: gzip.compress(data, mtime=0),
        bytes,
    )
    for number in range(n_parts):
        content = b"".join(
            lines[len(lines) * number // n_parts : len(lines) * (number + 1) // n_parts]
        )
        s3.objects[f"ward/2026/part-{number:05}"] = pack[number % 3](content)
    s3.objects["ward/2026/_SUCCESS"] = b""


def test_a_stage_reads_a_store_and_writes_what_it_writes_of_a_local_file(
    s3: FakeS3, tmp_path: Path
) -> None:
    local = write_cases(tmp_path)
    put_parts(s3, local / "raw_cases.jsonl")
    out = run_stage("deidentify", find_place(ADDRESS), tmp_path / "out")
    other = run_stage("deidentify", local, tmp_path / "other")
    assert (out / "cases.jsonl").read_bytes() == (other / "cases.jsonl").read_bytes()
    manifest = read_manifest(out)
    assert list(manifest.inputs) == [f"{ADDRESS}/part-{number:05}" for number in range(3)]
    assert manifest.config["input"] == ADDRESS
    assert b"never-written" not in b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())


def test_a_stage_that_read_a_store_is_finished_for_the_same_content_on_disk(
    s3: FakeS3, tmp_path: Path
) -> None:
    local = write_cases(tmp_path)
    s3.objects["ward/2026/raw_cases.jsonl"] = (local / "raw_cases.jsonl").read_bytes()
    out = run_stage("deidentify", find_place(ADDRESS), tmp_path / "out")
    before = (out / "cases.jsonl").stat().st_mtime_ns
    run_stage("deidentify", local, out)
    assert (out / "cases.jsonl").stat().st_mtime_ns == before


def test_merge_reads_rationales_and_tables_of_a_store(s3: FakeS3, tmp_path: Path) -> None:
    put_parts(s3, write_rationales(tmp_path) / "rationales.jsonl")
    config = MergeConfig.model_validate({"input": ADDRESS, "out": tmp_path / "out"})
    assert config.input[0].is_dir()
    out = run_stage("merge", config.input[0], tmp_path / "out")
    assert read_manifest(out).counts.kept == 300
    rows = [{"question": "头痛？", "n": 1}, {"question": "发热？", "n": 2}]
    file = BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    s3.objects["a.parquet"] = file.getvalue()
    s3.objects["a.json"] = '[{"question": "头痛？"}]'.encode()
    s3.objects["a.csv"] = "question,n\n头痛？,1\n".encode("gb18030")
    for name in ("a.parquet", "a.json", "a.csv"):
        found = next(iter(read_rows(find_place(f"s3://{BUCKET}/{name}"))))
        assert found.content["question"] == "头痛？"


def test_a_part_is_fetched_only_when_its_turn_comes(s3: FakeS3, tmp_path: Path) -> None:
    put_parts(s3, write_cases(tmp_path) / "raw_cases.jsonl")
    parts = list_parts(find_place(ADDRESS))
    assert [part.stat().st_size > 0 for part in parts] == [True] * 3
    assert not any("part" in asked for asked in s3.seen)
    rows = read_rows(find_place(ADDRESS))
    next(rows)
    assert not any("part-00001" in asked for asked in s3.seen)
    assert len(list(rows)) == 299


def test_a_hash_is_that_of_the_same_file_on_disk(
    s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 12_289
    (tmp_path / "a").write_bytes(content)
    s3.objects["a"] = content
    for whole in (2**28, 2**20):
        monkeypatch.setattr("medkd.core.jsonl.WHOLE_HASH_BYTES", whole)
        assert hash_path(find_place(f"s3://{BUCKET}/a")) == hash_path(tmp_path / "a")


def fail_to_deidentify(address: str, tmp_path: Path) -> MedkdError:
    with pytest.raises(MedkdError) as caught:
        run_stage("deidentify", find_place(address), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert address in str(caught.value)
    return caught.value


@pytest.mark.parametrize("address", [f"s3://{BUCKET}/none", "s3://no-such-bucket/ward"])
def test_what_is_not_there_is_told_as_a_missing_file_is(
    address: str, s3: FakeS3, tmp_path: Path
) -> None:
    error = fail_to_deidentify(address, tmp_path)
    assert isinstance(error, InputError)
    assert "no such file" in str(error)


def test_a_store_that_gives_no_access_is_one_line(s3: FakeS3, tmp_path: Path) -> None:
    s3.refuses = True
    error = fail_to_deidentify(ADDRESS, tmp_path)
    assert isinstance(error, InputError)
    assert "no access" in str(error)
    assert "never-written" not in str(error)


def test_an_object_that_vanishes_while_it_is_read_stops_the_stage(
    s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parts(s3, write_cases(tmp_path) / "raw_cases.jsonl")
    monkeypatch.setattr(remote, "_BUFFER_BYTES", 2**12)
    s3.vanishing["ward/2026/part-00002"] = 20
    error = fail_to_deidentify(ADDRESS, tmp_path)
    assert error.exit_code in (2, 3)
    assert "part-00002" in str(error)


def test_a_store_that_breaks_off_stops_the_stage_and_the_same_command_goes_on(
    s3: FakeS3, tmp_path: Path
) -> None:
    put_parts(s3, write_cases(tmp_path) / "raw_cases.jsonl")
    s3.cuts_off = True
    assert isinstance(fail_to_deidentify(ADDRESS, tmp_path), StoppedError)
    s3.cuts_off = False
    assert len((run_stage("deidentify", find_place(ADDRESS), tmp_path / "out") / "cases.jsonl").read_bytes().splitlines()) == 300  # fmt: skip


def test_a_packed_part_that_was_put_there_torn_is_named(s3: FakeS3, tmp_path: Path) -> None:
    put_parts(s3, write_cases(tmp_path) / "raw_cases.jsonl")
    s3.objects["ward/2026/part-00001"] = s3.objects["ward/2026/part-00001"][:-9]
    error = fail_to_deidentify(ADDRESS, tmp_path)
    assert isinstance(error, InputError)
    assert "part-00001: damaged" in str(error)


@pytest.mark.parametrize(
    "address",
    [
        "s3://user:secret@bucket/a",
        "s3://user:se/secret@bucket/a",
        "s3://user:se/secret",
        "s3://secret@bucket/a",
        "s3://my secret/a",
        "s3:///secret/a",
        "hdfs://user:1/secret@host/a",
        "hdfs:///secret/a",
        "file://secret/a",
    ],
)
def test_an_address_without_a_bucket_or_with_a_key_is_refused_unsaid(address: str) -> None:
    with pytest.raises(InputError, match="--input: an address") as caught:
        find_place(address)
    assert "secret" not in str(caught.value)


def test_an_address_names_its_host_and_a_file_none_but_this_machine() -> None:
    assert str(find_place("hdfs://name-node:8020/a")) == "hdfs://name-node:8020/a"
    assert str(find_place(find_place("s3://bucket/a@b"))) == "s3://bucket/a@b"
    for address in ("file:/a/b", "file:///a/b", "file://localhost/a/b"):
        assert find_place(address) == Path("/a/b")


def test_an_address_that_the_store_does_not_know_is_one_line(tmp_path: Path) -> None:
    assert isinstance(fail_to_deidentify("hdfs://host:99999999/b", tmp_path), InputError)


def test_output_is_no_address_and_a_store_is_not_opened_as_a_disk_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out: must be on this machine"):
        MergeConfig.model_validate({"input": tmp_path, "out": "s3://bucket/a"})
    with pytest.raises(InputError, match="fetch it to this machine first"):
        open(find_place("s3://bucket/a"))  # noqa: PTH123, SIM115
