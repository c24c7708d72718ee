import json
import shutil

import pytest

from medkd.core.stage_output import hash_path
from medkd.evaluate.contamination import find_seen, find_training
from student_samples import make_example, write_examples


def write_manifest(folder, stage, inputs):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(
        json.dumps({"stage": stage, "identity": "x", "config": {}, "inputs": inputs})
    )


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A run made in `tmp_path` with paths as they were typed there: training rows, an adapter, an
    exported model."""
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "runs/mine/merge/train.jsonl"
    rows.parent.mkdir(parents=True)
    write_examples(rows, range(4))
    write_manifest(
        tmp_path / "runs/mine/train", "train", {"runs/mine/merge/train.jsonl": hash_path(rows)}
    )
    adapter = tmp_path / "runs/mine/train/adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    write_manifest(
        tmp_path / "runs/mine/export", "export", {"runs/mine/train/adapter": hash_path(adapter)}
    )
    return tmp_path / "runs/mine"


@pytest.mark.parametrize("model", ["train/adapter", "export"])
def test_the_training_rows_are_found_from_any_directory(made, tmp_path, monkeypatch, model):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_training(made / model).samefile(made / "merge/train.jsonl")
    seen = find_seen(
        [make_example(2, id="renamed:2"), make_example(9)], tmp_path / "test.jsonl", made / model
    )
    assert seen.ids == {"renamed:2"}


@pytest.mark.parametrize("model", ["train/adapter", "export"])
def test_the_training_rows_are_found_in_a_run_that_was_moved(made, tmp_path, model):
    moved = tmp_path / "kept/other-name"
    moved.parent.mkdir()
    shutil.move(made, moved)
    assert find_training(moved / model).samefile(moved / "merge/train.jsonl")


def test_other_rows_of_the_same_name_are_not_taken_for_them(made, tmp_path):
    moved = tmp_path / "kept/mine"
    moved.parent.mkdir()
    shutil.move(made, moved)
    write_examples(moved / "merge/train.jsonl", range(9))
    assert find_training(moved / "train/adapter") is None


def test_the_manifest_of_another_program_tells_nothing(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    assert find_training(tmp_path / "model") is None
