import json
import shutil

import pytest

from medkd.core.stage_output import hash_path
from medkd.evaluate.contamination import (
    Flaw,
    check_stops,
    find_flaws,
    find_seen,
    find_training,
    list_flawed,
)
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


def test_rows_that_were_cut_off_are_told_from_whole_ones():
    assert find_flaws(make_example(1, reasoning="The patient has a fev")) == (Flaw.ENDS_EARLY,)
    assert find_flaws(
        make_example(
            1,
            reasoning="发热三天。",
            answer="考虑"
            + "社区获得性肺炎，" * 2
            + "建议完善胸部影像学检查并予以抗感染治疗同时注意补液对症支持",
        )
    ) == (Flaw.ENDS_EARLY,)
    assert find_flaws(make_example(1, reasoning="发热三天（体温39℃）。", answer="脑积水")) == ()


def test_rows_that_teach_not_to_stop_are_listed_and_counted(tmp_path):
    rows = [
        make_example(1),
        make_example(2, reasoning="sign a means flu. " * 7),
        make_example(3, reasoning="The patient has a fev"),
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    listed, lines = list_flawed(path)
    assert [(row.id, row.flaws) for row in listed][-2:] == [
        ("made:2", (Flaw.REPEATS,)),
        ("made:3", (Flaw.ENDS_EARLY,)),
    ]
    assert lines[0].startswith("1 of 3 training rows: repeats itself")


def test_rows_without_a_flaw_are_said_to_be_without_one(tmp_path):
    path = write_examples(tmp_path / "train.jsonl", range(4), reasoning="Short and whole.")
    assert list_flawed(path)[0] == []
    assert "None of 4 training rows" in list_flawed(path)[1][0]


def test_a_model_that_stops_elsewhere_is_named(random_model_dir, trained_dir):
    (line,) = check_stops(random_model_dir, random_model_dir)
    assert "does not stop on <|im_end|>" in line
    assert check_stops(trained_dir / "adapter", random_model_dir) == []


def test_the_manifest_of_another_program_tells_nothing(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    assert find_training(tmp_path / "model") is None
