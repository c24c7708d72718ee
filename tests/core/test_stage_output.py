import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.core.config import RUNTIME, StageConfig
from medkd.core.errors import InputError, StoppedError
from medkd.core.jsonl import hash_path
from medkd.core.records import Usage
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output, read_manifest


class Config(StageConfig):
    share: float = 0.5
    delay: Annotated[float, RUNTIME] = 2.0


WRITES = ("done.txt", "usage.jsonl", "half.txt", "folder")


def work(out: Path, source: Path, *, follows_inputs: bool = False, **fields: Any) -> StageOutput:
    """Do a piece of work that notes how often it was really done."""
    config = Config(out=out, **fields)
    with open_stage_output(
        "verify", config, {"input": source}, WRITES, follows_inputs=follows_inputs
    ) as space:
        if not space.is_finished:
            with space.path("done.txt").open("a") as file:
                file.write("x")
            space.manifest.counts.kept = space.write_records("usage.jsonl", [Usage(prompt=1)])
    return space


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.jsonl"
    path.write_text("one\n")
    return path


def times_done(out: Path) -> int:
    return len((out / "done.txt").read_text())


def test_finished_work_is_recognised_and_not_done_again(tmp_path: Path, source: Path) -> None:
    first = work(tmp_path / "out", source).manifest
    second = work(tmp_path / "out", source, delay=0.0).manifest
    assert times_done(tmp_path / "out") == 1
    assert first == second == read_manifest(tmp_path / "out")
    assert first.state == "finished"
    assert first.counts.kept == 1
    assert first.outputs == ["done.txt", "usage.jsonl"]
    assert first.inputs == {str(source): hash_path(source)}
    assert {"medkd", "python"} <= first.versions.keys()


def test_a_moved_source_of_the_same_content_is_the_same_work(tmp_path: Path, source: Path) -> None:
    work(tmp_path / "out", source)
    moved = source.rename(tmp_path / "moved.jsonl")
    assert work(tmp_path / "out", moved).is_finished
    assert times_done(tmp_path / "out") == 1


def test_a_directory_of_another_config_is_refused_with_what_changed_and_what_to_do(
    tmp_path: Path, source: Path
) -> None:
    work(tmp_path / "out", source)
    with pytest.raises(InputError) as caught:
        work(tmp_path / "out", source, share=0.7)
    message = str(caught.value)
    assert "(changed: share)" in message
    assert "--resume" in message
    assert "--overwrite" in message
    assert "\n" not in message
    assert times_done(tmp_path / "out") == 1


def test_a_directory_made_from_other_input_is_refused(tmp_path: Path, source: Path) -> None:
    work(tmp_path / "out", source)
    source.write_text("two\n")
    with pytest.raises(InputError, match="the input files changed"):
        work(tmp_path / "out", source)


def test_resume_goes_on_in_a_directory_of_another_config(tmp_path: Path, source: Path) -> None:
    work(tmp_path / "out", source)
    work(tmp_path / "out", source, share=0.7, resume=True)
    assert times_done(tmp_path / "out") == 2
    assert work(tmp_path / "out", source, share=0.7).is_finished
    assert times_done(tmp_path / "out") == 2


def list_files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def test_overwrite_deletes_what_the_stage_wrote_and_nothing_else(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out"
    work(out, source)
    others = {"ledger.sqlite", "ledger.sqlite-wal", "reviews.jsonl", "notes/mine.txt", "folder/own"}
    for name in others:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("not the stage's")
    work(out, source, share=0.7, overwrite=True)
    assert times_done(out) == 1
    assert list_files(out) == others | {"done.txt", "usage.jsonl", "manifest.json"}
    assert read_manifest(out).outputs == ["done.txt", "usage.jsonl"]


def test_a_manifest_of_version_0_1_names_all_that_was_there_and_yet_only_own_files_are_deleted(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out"
    work(out, source)
    (out / "raw_cases.jsonl").write_text("the input of then")
    (out / "reviews.jsonl").write_text("a day's work")
    manifest = read_manifest(out)
    manifest.outputs = sorted(list_files(out) - {"manifest.json"})
    make_old(out, manifest)
    work(out, source, share=0.7, overwrite=True)
    assert times_done(out) == 1
    assert (out / "raw_cases.jsonl").exists()
    assert (out / "reviews.jsonl").exists()


def make_old(out: Path, manifest: Manifest) -> None:
    """Write a manifest as version 0.1 did."""
    content = manifest.model_dump(mode="json", exclude={"roles", "names"})
    hashes = sorted(manifest.inputs.values())
    decisive = {"stage": "verify", "config": {"share": manifest.config["share"]}, "inputs": hashes}
    text = json.dumps(decisive, sort_keys=True, ensure_ascii=False)
    content["identity"] = hashlib.sha256(text.encode()).hexdigest()
    (out / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize("state", ["finished", "stopped", "running"])
def test_a_run_of_version_0_1_is_read_and_resumed(
    tmp_path: Path, source: Path, state: Literal["finished", "stopped", "running"]
) -> None:
    out = tmp_path / "out"
    manifest = work(out, source).manifest
    manifest.state = state
    make_old(out, manifest)
    assert work(out, source).is_finished
    assert times_done(out) == (1 if state == "finished" else 2)
    with pytest.raises(InputError, match="changed: share"):
        work(out, source, share=0.7)


def test_a_field_that_was_added_or_taken_away_since_does_not_make_other_work(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out"
    manifest = work(out, source).manifest
    del manifest.config["share"]
    manifest.config |= {"gone": 3}
    make_old(out, manifest.model_copy(update={"config": manifest.config | {"share": 0.5}}))
    assert work(out, source).is_finished
    assert times_done(out) == 1


def open_two(out: Path, first: Path, second: Path, **names: list[str]) -> bool:
    """Open a directory with inputs of two roles; return whether all was done before."""
    config, inputs = Config(out=out), {"input": first, "against": second}
    with open_stage_output("merge", config, inputs, ["a.txt"], names=names) as space:
        return space.is_finished


def test_swapped_inputs_and_other_names_are_another_run(tmp_path: Path, source: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("two\n")
    assert not open_two(tmp_path / "out", source, other)
    assert open_two(tmp_path / "out", source, other)
    with pytest.raises(InputError, match="the same input files in another role or order"):
        open_two(tmp_path / "out", other, source)
    assert not open_two(tmp_path / "named", source, other, input=["a"])
    assert open_two(tmp_path / "named", source, other, input=["a"])
    with pytest.raises(InputError, match="under other names"):
        open_two(tmp_path / "named", source, other, input=["b"])


def test_swapped_inputs_of_a_run_of_version_0_1_are_another_run(
    tmp_path: Path, source: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("two\n")
    open_two(tmp_path / "out", source, other)
    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    del content["roles"], content["names"]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(content))
    assert open_two(tmp_path / "out", source, other)
    with pytest.raises(InputError, match="in another role or order"):
        open_two(tmp_path / "out", other, source)


def test_the_rules_that_version_0_1_kept_as_a_field_are_compared(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out"
    open_two(out, source, source, rules=["rules 8"])
    content = json.loads((out / "manifest.json").read_text())
    del content["roles"], content["names"]
    content["config"]["rules"] = "rules 7"
    (out / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="rules: rules 7 then, rules 8 now"):
        open_two(out, source, source, rules=["rules 8"])
    assert open_two(out, source, source, rules=["rules 7"])


@pytest.mark.parametrize("place", ["out", "out/deep", "link"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_inside_the_output_directory_is_refused_and_stays(
    tmp_path: Path, place: str, overwrite: bool
) -> None:
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    source = tmp_path / place / "source.jsonl"
    source.write_text("one\n")
    with pytest.raises(InputError, match="lies inside --out") as caught:
        work(tmp_path / "out", source, overwrite=overwrite)
    assert "\n" not in str(caught.value)
    assert list_files(tmp_path / "out") == {
        source.resolve().relative_to(tmp_path / "out").as_posix()
    }


def test_a_file_of_others_under_a_name_that_the_stage_writes_is_refused(
    tmp_path: Path, source: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "usage.jsonl").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"usage\.jsonl: was not made by verify"):
            work(tmp_path / "out", source, overwrite=overwrite)
    assert (tmp_path / "out" / "usage.jsonl").read_text() == "mine"


NAMES = st.sampled_from(
    ["done.txt", "usage.jsonl", "folder", "reviews.jsonl", "ledger.sqlite", "notes", ".hidden", "a"]
)
TREES = st.recursive(st.binary(max_size=3), lambda inner: st.dictionaries(NAMES, inner, max_size=4))


def plant(place: Path, tree: Any) -> None:
    """Write a tree of files, leaving what is there alone."""
    if isinstance(tree, bytes):
        if not place.exists():
            place.write_bytes(tree)
        return
    if place.exists() and not place.is_dir():
        return
    place.mkdir(exist_ok=True)
    for name, inner in tree.items():
        plant(place / name, inner)


@settings(max_examples=40, deadline=None)
@given(
    before=st.dictionaries(NAMES, TREES, max_size=4),
    after=st.dictionaries(NAMES, TREES, max_size=4),
    state=st.sampled_from(["finished", "stopped"]),
)
def test_whatever_others_put_there_before_or_after_outlives_overwrite(
    before: dict[str, Any], after: dict[str, Any], state: Literal["finished", "stopped"]
) -> None:
    with tempfile.TemporaryDirectory() as top:
        source, out = Path(top) / "source", Path(top) / "out"
        source.write_text("one")
        plant(out, before)
        try:
            manifest = work(out, source).manifest
        except InputError:
            assert before.keys() & {"done.txt", "usage.jsonl", "folder"}
            return
        (out / "manifest.json").write_text(
            manifest.model_copy(update={"state": state}).model_dump_json()
        )
        plant(out, after)
        own = {"done.txt", "usage.jsonl", "manifest.json"}
        others = {name: (out / name).read_bytes() for name in list_files(out) - own}
        work(out, source, share=0.7, overwrite=True)
        assert {name: (out / name).read_bytes() for name in list_files(out) - own} == others
        assert times_done(out) == 1


def test_overwrite_does_not_follow_a_link_out_of_the_directory(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out"
    work(out, source)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "done.txt").write_text("keep me")
    (out / "link").symlink_to(precious)
    (out / "done.txt").unlink()
    (out / "done.txt").symlink_to(precious / "done.txt")
    work(out, source, overwrite=True)
    assert (precious / "done.txt").read_text() == "keep me"
    assert (out / "link").is_symlink()


HOLDER = """
import sys, time
from pathlib import Path
from medkd.core.config import StageConfig
from medkd.core.stage_output import open_stage_output
with open_stage_output("verify", StageConfig(out=Path(sys.argv[1])), {}, []):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Generator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def open_late(out: Path, wait_s: float) -> bool:
    with open_stage_output("verify", StageConfig(out=out), {}, [], wait_s=wait_s) as space:
        return space.is_finished


def test_a_second_process_is_refused_in_one_line_where_the_first_stays(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(InputError, match="another process is working here") as caught:
        open_late(tmp_path / "out", wait_s=0.2)
    assert "\n" not in str(caught.value)
    assert read_manifest(tmp_path / "out").state == "running"


def test_a_second_process_waits_says_so_and_reads_what_the_first_made(
    tmp_path: Path, holder: "subprocess.Popen[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    assert holder.stdin is not None
    threading.Timer(0.3, holder.stdin.close).start()
    assert open_late(tmp_path / "out", wait_s=60)
    assert capsys.readouterr().err == f"{tmp_path / 'out'}: waiting for another process\n"


def test_a_second_process_continues_where_the_first_was_killed(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    holder.kill()
    holder.wait()
    assert not open_late(tmp_path / "out", wait_s=60)


def test_leftovers_of_a_killed_process_are_swept_and_those_of_a_living_one_stay(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".usage.jsonl.{dead.pid}.tmp", f".usage.jsonl.{os.getppid()}.tmp", ".mine.tmp"]
    for name in names:
        (out / name).touch()
    work(out, source)
    assert [name for name in names if (out / name).exists()] == names[1:]


def test_what_cannot_be_a_directory_or_a_file_is_one_line(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out" / "manifest.json").mkdir(parents=True)
    with pytest.raises(InputError, match="is a directory where a file is expected"):
        work(tmp_path / "out", source)
    os.mkfifo(tmp_path / "pipe")
    for pipe in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(InputError, match="is a pipe or a device"):
            work(tmp_path / "new", pipe)
    assert not (tmp_path / "new").exists()


def test_names_that_are_not_utf8_do_not_stop_a_directory_from_being_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(b"caf\xe9")).write_text("one")
    assert not work(tmp_path / "out", tmp_path / "in").manifest.facts


def test_an_output_directory_inside_an_input_directory_does_not_change_the_input(
    tmp_path: Path,
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("one")
    work(tmp_path / "in" / "out", tmp_path / "in")
    assert work(tmp_path / "in" / "out", tmp_path / "in").is_finished
    assert times_done(tmp_path / "in" / "out") == 1


def test_work_keyed_by_content_goes_on_when_its_input_changed(tmp_path: Path, source: Path) -> None:
    work(tmp_path / "out", source, follows_inputs=True)
    assert work(tmp_path / "out", source, follows_inputs=True).is_finished
    source.write_text("one\ntwo\n")
    work(tmp_path / "out", source, follows_inputs=True)
    assert times_done(tmp_path / "out") == 2


@pytest.mark.parametrize(
    "says",
    [
        "No space left on device (os error 28)",
        "Error while serializing: I/O error: File too large (os error 27)",
    ],
)
def test_a_full_disk_is_told_in_one_line_whatever_library_says_it_in_whatever_kind_of_error(
    tmp_path: Path, source: Path, says: str
) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(StoppedError, match="out: the disk is full; free some space"),
        open_stage_output("verify", Config(out=out), {"input": source}, WRITES),
    ):
        raise Exception(says)
    assert read_manifest(out).state == "stopped"
    with (
        pytest.raises(ZeroDivisionError),
        open_stage_output("verify", Config(out=out), {"input": source}, WRITES),
    ):
        raise ZeroDivisionError("another fault stays itself")


def test_work_that_failed_says_so_and_is_done_when_asked_again(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(StoppedError),
        open_stage_output("verify", Config(out=out), {"input": source}, WRITES) as space,
    ):
        space.read(7)
        space.drop("broken_line", 2)
        raise StoppedError("enough")
    stopped = read_manifest(out)
    assert stopped.state == "stopped"
    assert stopped.counts.dropped == {"broken_line": 2}
    work(out, source)
    assert read_manifest(out).state == "finished"


def test_a_killed_run_goes_on_when_asked_again(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    script = """
        import os, signal, sys
        from pathlib import Path
        from medkd.core.config import StageConfig
        from medkd.core.stage_output import open_stage_output
        with open_stage_output("verify", StageConfig(out=Path(sys.argv[1])), {"input": Path(sys.argv[2])}, ["half.txt"]) as space:
            space.path("half.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(out), str(source)])
    assert killed.returncode == -signal.SIGKILL
    assert read_manifest(out).state == "running"
    with open_stage_output("verify", StageConfig(out=out), {"input": source}, WRITES) as space:
        assert not space.is_finished
        assert space.path("half.txt").read_text() == "half"
    assert read_manifest(out).state == "finished"


def test_another_stages_directory_a_file_and_a_torn_manifest_are_refused(
    tmp_path: Path, source: Path
) -> None:
    work(tmp_path / "out", source)
    with (
        pytest.raises(InputError, match="holds the output of verify"),
        open_stage_output("merge", Config(out=tmp_path / "out"), {}, ()),
    ):
        pass
    with (
        pytest.raises(InputError, match="is a file"),
        open_stage_output("verify", Config(out=source), {}, ()),
    ):
        pass
    (tmp_path / "out" / "manifest.json").write_text('{"stage": "ver')
    with pytest.raises(InputError, match=r"manifest\.json: broken JSON"):
        work(tmp_path / "out", source)
    with pytest.raises(InputError, match=r"no manifest\.json"):
        read_manifest(tmp_path)


def test_a_directory_is_known_by_its_content_not_by_its_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text("same")
    assert hash_path(tmp_path / "one") == hash_path(tmp_path / "two")
    (tmp_path / "two" / "sub" / "file").write_text("other")
    assert hash_path(tmp_path / "one") != hash_path(tmp_path / "two")
