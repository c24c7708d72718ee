import json
import shutil
from pathlib import Path

import pytest
import torch

from medkd.core.errors import InputError
from medkd.models import load
from medkd.models.load import (
    choose_device,
    choose_dtype,
    find_base,
    is_different_model,
    load_model,
    resolve_model,
    shipped_dir,
)
from student_samples import make_random_model


def test_a_folder_is_found_and_loaded(tiny_model_dir):
    loaded = load_model(str(tiny_model_dir), device="cpu")
    assert loaded.model.config.model_type == "qwen2"
    assert not loaded.model.training


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere/at/all", "no such folder"),
        ("./nowhere", "no such folder"),
        ("plainword", "no such folder"),
    ],
)
def test_a_missing_model_is_named_in_one_line(name, says):
    with pytest.raises(InputError, match=says) as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        resolve_model(str(tmp_path))


def test_an_adapter_given_as_a_model_is_recognised(trained_dir):
    with pytest.raises(InputError, match="give it as --adapter"):
        resolve_model(str(trained_dir / "adapter"))


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="pickled"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("kind", ["qwen2", "odd"])
def test_code_that_comes_with_a_model_is_never_run(random_model_dir, tmp_path, kind):
    folder = shutil.copytree(random_model_dir, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": kind, "auto_map": {"AutoModelForCausalLM": "odd.Odd"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "odd.py").write_text("raise SystemExit\n")
    if kind == "odd":
        with pytest.raises(InputError, match="code of its own"):
            load_model(str(folder), device="cpu")
    else:
        assert type(load_model(str(folder), device="cpu").model).__name__ == "Qwen2ForCausalLM"


def test_truncated_weights_are_one_line(random_model_dir, tmp_path):
    folder = shutil.copytree(random_model_dir, tmp_path / "m")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_model(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


def test_an_adapter_of_another_base_is_refused(trained_dir, tmp_path):
    other = make_random_model(tmp_path / "other", hidden_size=32)
    with pytest.raises(InputError, match="was trained on"):
        load_model(str(other), trained_dir / "adapter", device="cpu")


def test_an_adapter_whose_base_is_gone_is_refused_where_it_does_not_fit(trained_dir, tmp_path):
    adapter = shutil.copytree(trained_dir / "adapter", tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "/gone/with/the/disk"})
    )
    with pytest.raises(InputError, match=r"does not fit .*; give the model it was trained on"):
        load_model(
            str(make_random_model(tmp_path / "other", hidden_size=32)), adapter, device="cpu"
        )


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no adapter_config\.json"):
        find_base(tmp_path)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no GPU"):
        choose_device("cuda")
    assert choose_device() == "cpu"


def test_half_precision_is_taken_only_where_the_processor_computes_in_it(monkeypatch):
    monkeypatch.setattr(load, "has_bfloat16", lambda: False)
    assert choose_dtype("auto", "cpu") == torch.float32
    monkeypatch.setattr(load, "has_bfloat16", lambda: True)
    assert choose_dtype("auto", "cpu") == torch.bfloat16


def test_names_of_hubs_are_told_apart_without_asking_one_and_a_folder_may_have_been_moved(tmp_path):
    assert is_different_model("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct")
    assert is_different_model("Qwen/Qwen2.5-7B", "medkd:tiny")
    assert not is_different_model("Qwen/Qwen2.5-7B", str(tmp_path))
    assert not is_different_model("/gone/with/the/disk", "Qwen/Qwen2.5-7B")
    assert is_different_model(str(tmp_path), str(Path(__file__).parent))


def test_a_copy_of_the_same_weights_is_the_same_model(tmp_path):
    shutil.copytree(shipped_dir(), tmp_path / "copy")
    other = make_random_model(tmp_path / "other")
    assert not is_different_model("medkd:tiny", str(tmp_path / "copy")) and not is_different_model(
        str(tmp_path / "copy"), str(shipped_dir())
    )
    assert is_different_model("medkd:tiny", str(other)) and is_different_model(
        str(other), "medkd:tiny"
    )


def test_an_adapter_of_a_model_of_the_same_shape_is_refused(
    random_model_dir, trained_dir, tmp_path
):
    loaded = load_model(str(random_model_dir), device="cpu")
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[0] += 1.0
    loaded.model.save_pretrained(tmp_path / "instruct")
    loaded.tokenizer.save_pretrained(tmp_path / "instruct")
    with pytest.raises(
        InputError,
        match=f"was trained on {random_model_dir}, not on {tmp_path / 'instruct'}; give --model",
    ):
        load_model(str(tmp_path / "instruct"), trained_dir / "adapter", device="cpu")
