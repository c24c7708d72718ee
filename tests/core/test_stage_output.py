import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import pytest

from medkd.core.config import RUNTIME, StageConfig
from medkd.core.errors import InputError, StoppedError
from medkd.core.records import Usage
from medkd.core.stage_output import StageOutput, hash_path, open_stage_output, read_manifest


class Config(StageConfig):
    share: float = 0.5
    delay: Annotated[float, RUNTIME] = 2.0


def work(out: Path, source: Path, *, follows_inputs: bool = False, **fields: Any) -> StageOutput:
    """Do a piece of work that notes how often it was really done."""
    config = Config(out=out, **fields)
    with open_stage_output(
        "verify", config, inputs=[source], keep=["ledger*"], follows_inputs=follows_inputs
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


def test_overwrite_begins_again_and_keeps_what_was_paid(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    work(out, source)
    (out / "ledger.sqlite").write_text("paid")
    (out / "ledger.sqlite-wal").write_text("paid")
    (out / "folder").mkdir()
    (out / "folder" / "old").write_text("old")
    work(out, source, share=0.7, overwrite=True)
    assert times_done(out) == 1
    assert sorted(p.name for p in out.iterdir()) == [
        "done.txt",
        "ledger.sqlite",
        "ledger.sqlite-wal",
        "manifest.json",
        "usage.jsonl",
    ]


def test_overwrite_does_not_follow_a_link_out_of_the_directory(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out"
    work(out, source)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("keep me")
    (out / "link").symlink_to(precious)
    work(out, source, overwrite=True)
    assert (precious / "file").read_text() == "keep me"
    assert not (out / "link").exists()


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
        open_stage_output("verify", Config(out=out), inputs=[source]),
    ):
        raise Exception(says)
    assert read_manifest(out).state == "stopped"
    with (
        pytest.raises(ZeroDivisionError),
        open_stage_output("verify", Config(out=out), inputs=[source]),
    ):
        raise ZeroDivisionError("another fault stays itself")


def test_work_that_failed_says_so_and_is_done_when_asked_again(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(StoppedError),
        open_stage_output("verify", Config(out=out), inputs=[source]) as space,
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
        with open_stage_output("verify", StageConfig(out=Path(sys.argv[1])), inputs=[Path(sys.argv[2])]) as space:
            space.path("half.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(out), str(source)])
    assert killed.returncode == -signal.SIGKILL
    assert read_manifest(out).state == "running"
    with open_stage_output("verify", StageConfig(out=out), inputs=[source]) as space:
        assert not space.is_finished
        assert space.path("half.txt").read_text() == "half"
    assert read_manifest(out).state == "finished"


def test_another_stages_directory_a_file_and_a_torn_manifest_are_refused(
    tmp_path: Path, source: Path
) -> None:
    work(tmp_path / "out", source)
    with (
        pytest.raises(InputError, match="holds the output of verify"),
        open_stage_output("merge", Config(out=tmp_path / "out")),
    ):
        pass
    with (
        pytest.raises(InputError, match="is a file"),
        open_stage_output("verify", Config(out=source)),
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
