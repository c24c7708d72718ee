import gzip
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.core import jsonl
from medkd.core.errors import InputError, MedkdError
from medkd.core.jsonl import (
    RecordAppender,
    RecordReader,
    count_lines,
    printable_name,
    read_lines,
    resolve_input,
    write_atomically,
    write_json,
    write_records,
    write_text,
)
from medkd.core.records import RawCase, Usage


def make_case(number: int) -> RawCase:
    return RawCase(id=f"files:{number}", source="files", sections={"主诉": f"发热{number}天"})


def pack(path: Path, cases: Sequence[RawCase]) -> Path:
    """Write cases in the form that the name asks for."""
    lines = [case.model_dump_json().encode() + b"\n" for case in cases]
    if path.suffix == ".parquet":
        rows = [case.model_dump(mode="json") for case in cases]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":  # two members, as several writers leave them
        path.write_bytes(b"".join(gzip.compress(b"".join(half)) for half in (lines[:1], lines[1:])))
    elif path.suffix == ".zst":
        path.write_bytes(pyarrow.Codec("zstd").compress(b"".join(lines), asbytes=True))
    else:
        path.write_bytes(b"".join(lines))
    return path


SECTIONS = ({"主诉": "发热3天"}, {"主诉": "咳嗽", "查体": "T 38℃"}, {"现病史": "头痛。"})
CASES = [RawCase(id=f"a:{n}", source="a", sections=one) for n, one in enumerate(SECTIONS)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_records_are_read_plain_packed_and_from_parquet(name: str, tmp_path: Path) -> None:
    path = pack(tmp_path / name, CASES)
    assert list(RecordReader(path, RawCase, made_by="collect")) == CASES
    assert count_lines(path) == (3 if name == "a.jsonl" else None)


def test_a_folder_of_parts_is_one_input_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ("part-00000.jsonl.zst", "part-00001.parquet", "part-00002.jsonl")
    for name, case in zip(names, CASES, strict=True):
        pack(tmp_path / name, [case])
    for other in ("_SUCCESS", ".part-00000.crc"):
        (tmp_path / other).write_text("x")
    found = resolve_input(tmp_path, "raw_cases.jsonl", made_by="collect")
    assert list(RecordReader(found, RawCase, made_by="collect")) == CASES


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_packed_file_that_breaks_off_is_one_line(name: str, tmp_path: Path) -> None:
    path = pack(tmp_path / name, CASES)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="damaged"):
        list(RecordReader(path, RawCase, made_by="collect"))


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string()),
        pyarrow.array([[(1, "x")]], pyarrow.map_(pyarrow.int64(), pyarrow.string())),
        pyarrow.array([[("k", "x"), ("k", "y")]], pyarrow.map_(pyarrow.string(), pyarrow.string())),
    ],
    ids=["no UTF-8", "number for a name", "name twice"],
)
def test_parquet_that_no_json_can_hold_is_one_line(column: object, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"sections": column}), path)
    with pytest.raises(InputError, match="damaged"):
        list(read_lines(path))


def test_rows_of_parquet_hold_no_nulls_in_lists_either(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    row = {"verdicts": [{"check": "answer"}, {"check": "leak", "detail": "a"}]}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    assert [json.loads(line) for _, line in read_lines(path)] == [row]


def test_parts_that_are_all_empty_are_refused_as_an_empty_file_is(tmp_path: Path) -> None:
    (tmp_path / "part-00000.jsonl").touch()
    with pytest.raises(InputError, match="the file is empty"):
        resolve_input(tmp_path, "raw_cases.jsonl", made_by="collect")


def test_a_broken_line_is_named_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "raw_cases.jsonl"
    write_records(path, [make_case(1), make_case(2)])
    with path.open("a", encoding="utf-8") as file:
        file.write(
            '{"id": "files:3", "sour\n\n{"id": "files:4", "source": "files"}\n'
            + make_case(5).model_dump_json()
            + "\n"
        )
    reader = RecordReader(path, RawCase, made_by="collect")
    assert count_lines(path) == 6
    assert [case.id for case in reader] == ["files:1", "files:2", "files:5"]
    assert reader.n_read == 5
    assert reader.dropped() == {"broken_line": 2}
    assert "raw_cases.jsonl:3: broken JSON" in reader.broken[0]
    assert reader.broken[1] == "raw_cases.jsonl:5: no sections"
    assert capsys.readouterr().err.count("line passed over") == 2


def test_a_file_of_another_schema_is_refused_with_the_command_that_makes_the_right_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"question": "?", "answer": "!"}\n' * 3, encoding="utf-8")
    with pytest.raises(
        InputError, match=r'cases\.jsonl:1: .*this is no RawCase file, run "medkd collect" first'
    ) as caught:
        list(RecordReader(path, RawCase, made_by="collect"))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_a_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_bytes(make_case(1).model_dump_json().encode() + b"\n\xff\xfe\x00\n")
    reader = RecordReader(path, RawCase, made_by="collect")
    assert len(list(reader)) == 1
    assert reader.dropped() == {"broken_line": 1}


def test_reading_twice_counts_once(tmp_path: Path) -> None:
    write_records(tmp_path / "cases.jsonl", [make_case(1)])
    reader = RecordReader(tmp_path / "cases.jsonl", RawCase, made_by="collect")
    assert list(reader) == list(reader)
    assert reader.n_read == 1


def test_a_directory_or_the_file_in_it_may_be_named(tmp_path: Path) -> None:
    write_records(tmp_path / "cases.jsonl", [make_case(1)])
    assert resolve_input(tmp_path, "cases.jsonl", "deidentify") == resolve_input(
        tmp_path / "cases.jsonl", "cases.jsonl", "deidentify"
    )


def test_a_missing_and_an_empty_file_are_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='no such file; run "medkd deidentify" first'):
        resolve_input(tmp_path, "cases.jsonl", "deidentify")
    (tmp_path / "cases.jsonl").touch()
    with pytest.raises(InputError, match='the file is empty; run "medkd deidentify" again'):
        resolve_input(tmp_path, "cases.jsonl", "deidentify")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), write_atomically(path) as file:
        file.write("half of the new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_records_that_fail_on_the_way_leave_no_file(tmp_path: Path) -> None:
    def cases():
        yield make_case(1)
        raise InputError("no more")

    with pytest.raises(InputError):
        write_records(tmp_path / "new" / "cases.jsonl", cases())
    assert list((tmp_path / "new").iterdir()) == []


def test_json_keeps_hanzi_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"诊断": "感冒"})
    assert "感冒" in (tmp_path / "a.json").read_text(encoding="utf-8")


FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    from medkd.core.jsonl import RecordAppender, write_records
    from medkd.core.errors import StoppedError
    from medkd.core.records import RawCase
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    folder = Path(sys.argv[1])
    cases = (RawCase(id=f"files:{n}", source="files", sections={"a": "x" * 1000}) for n in range(100))
    try:
        if sys.argv[2] == "write":
            write_records(folder / "cases.jsonl", cases)
        else:
            with RecordAppender(folder / "cases.jsonl") as file:
                for case in cases:
                    file.append(case)
    except StoppedError as error:
        print(error)
        sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("how", ["write", "append"])
def test_a_full_disk_stops_with_the_next_step_and_nothing_half_written(
    tmp_path: Path, how: str
) -> None:
    pytest.importorskip("resource")
    script = textwrap.dedent(FULL_DISK)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), how], capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    assert (
        "cases.jsonl: the disk is full; free some space and run the same command again"
        in done.stdout
    )
    if how == "write":
        assert list(tmp_path.iterdir()) == []
    else:
        kept = list(RecordReader(tmp_path / "cases.jsonl", RawCase, made_by="collect"))
        assert [case.id for case in kept] == [f"files:{n}" for n in range(len(kept))]
        assert kept


@given(n_whole=st.integers(0, 3), torn=st.binary(max_size=200).map(lambda b: b.replace(b"\n", b"")))
def test_a_torn_last_line_is_cut_off_before_the_next_record(
    tmp_path_factory: pytest.TempPathFactory, n_whole: int, torn: bytes
) -> None:
    path = tmp_path_factory.mktemp("torn") / "usage.jsonl"
    line = Usage(prompt=1).model_dump_json().encode() + b"\n"
    path.write_bytes(line * n_whole + torn)
    with RecordAppender(path) as file:
        file.append(Usage(prompt=2))
    found = list(RecordReader(path, Usage, made_by="distill"))
    assert [usage.prompt for usage in found] == [1] * n_whole + [2]


def test_a_torn_line_longer_than_one_block_is_cut_off_too(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    path.write_bytes(b'{"prompt":1}\n' + b"x" * 200_000)
    with RecordAppender(path):
        pass
    assert path.read_bytes() == b'{"prompt":1}\n'


def test_what_may_name_patients_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    write_records(tmp_path / "raw.jsonl", [make_case(1)], private=True)
    with RecordAppender(tmp_path / "more.jsonl", private=True) as file:
        file.append(make_case(2))
    write_text(tmp_path / "plain.txt", "x")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes["raw.jsonl"] == modes["more.jsonl"] == 0o600
    assert modes["plain.txt"] & 0o044


def test_leftovers_of_killed_processes_go_and_all_else_stays(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    kept = [f".a.{os.getpid()}.tmp", ".a.tmp", "a.1.tmp", ".hidden", ".a.x.tmp"]
    for name in (*kept, f".train.jsonl.{gone.pid}.tmp"):
        (tmp_path / name).touch()
    write_text(tmp_path / "new", "")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "new"}


def test_halves_of_characters_and_names_that_are_no_utf8_can_be_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "caf\udce9", "诊断": "感冒"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "name": "caf\udce9",
        "诊断": "感冒",
    }
    odd = tmp_path / os.fsdecode("caf\udce9.json".encode("utf-8", "surrogateescape"))
    write_text(odd, "x")
    assert printable_name(odd) == "caf\\xe9.json" and odd.read_text() == "x"


def test_what_is_no_file_of_records_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder" / "cases.jsonl").mkdir(parents=True)
    for path in ("pipe", "folder", "a\0b", "x" * 300, "cases.jsonl/b"):
        with pytest.raises(MedkdError) as refused:
            resolve_input(tmp_path / path, "cases.jsonl", "collect")
        assert "\n" not in str(refused.value)
    with pytest.raises(MedkdError):
        list(RecordReader(tmp_path / "folder", RawCase, made_by="collect"))
    with pytest.raises(MedkdError):
        write_text(tmp_path / "folder", "x")


def test_a_line_without_end_is_a_broken_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 200)
    line = make_case(1).model_dump_json().encode() + b"\n"
    (tmp_path / "a").write_bytes(line + b'{"id": "' + b"x" * 999 + b'"}\n' + line)
    reader = RecordReader(tmp_path / "a", RawCase, made_by="collect")
    assert len(list(reader)) == 2 and reader.dropped() == {"broken_line": 1}
