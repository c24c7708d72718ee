import json

import pytest

from medkd.core.errors import InputError
from medkd.models.load import load_model, load_tokenizer, tiny_dir
from medkd.models.tokens import has_thinking_prefix
from medkd.train.stage import Config, run
from student_samples import read_lines


@pytest.fixture(scope="module")
def teacher_dir(random_model_dir, trained_dir, tmp_path_factory):
    """The student that knows the short rows by heart, as a whole model."""
    folder = tmp_path_factory.mktemp("teacher")
    loaded = load_model(str(random_model_dir), trained_dir / "adapter", device="cpu", dtype="float32")
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def settings(random_model_dir, merged_dir, teacher_dir, tmp_path_factory):
    start = tmp_path_factory.mktemp("start")
    run(Config(model=str(random_model_dir), input=merged_dir, out=start, epochs=15, learning_rate=1e-2, max_length=256))
    return {
        "model": str(random_model_dir),
        "method": "on-policy",
        "adapter": start,
        "teacher_model": str(teacher_dir),
        "input": merged_dir,
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "max_tokens": 48,
    }


def test_the_student_comes_closer_to_its_teacher_on_its_own_answers(settings, tmp_path):
    manifest = run(Config(**settings, out=tmp_path))
    losses = [line["loss"] for line in read_lines(tmp_path / "metrics.jsonl") if "loss" in line]
    assert len(losses) == manifest.facts["steps"] == 12
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert has_thinking_prefix(load_tokenizer(tmp_path / "adapter"))
    lineage = json.loads((tmp_path / "adapter/lineage.json").read_text())
    assert (lineage["sources"], lineage["on_policy"]["questions"]) == ({"made": 24}, 24)


def test_a_teacher_of_another_tokenizer_is_refused(settings, tmp_path):
    with pytest.raises(InputError, match="has another tokenizer"):
        run(Config(**settings | {"teacher_model": str(tiny_dir())}, out=tmp_path / "out"))
    assert not (tmp_path / "out/adapter").exists()


@pytest.mark.parametrize(("field", "says"), [("teacher_model", "--teacher-model"), ("adapter", "--adapter")])
def test_a_start_and_a_teacher_are_both_asked_for(settings, tmp_path, field, says):
    with pytest.raises(InputError, match=says):
        run(Config(**{key: value for key, value in settings.items() if key != field}, out=tmp_path / "out"))
