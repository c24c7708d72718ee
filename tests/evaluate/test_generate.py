import json
import sys

import pytest

from fake_vllm import FakeEngine
from medkd.completers import vllm_engine
from medkd.evaluate import generate
from medkd.evaluate.generate import MERGED
from medkd.evaluate.stage import Config, run
from medkd.models.chat_template import encode
from medkd.models.load import choose_dtype, load_model
from student_samples import make_random_model, read_lines

DTYPE = str(choose_dtype("auto", "cpu")).removeprefix("torch.")


@pytest.fixture
def settings(random_model_dir, trained_dir, merged_dir):
    return {
        "model": str(random_model_dir),
        "adapter": trained_dir / "adapter",
        "input": merged_dir,
        "max_tokens": 96,
        "device": "cpu",
    }


@pytest.fixture
def usual(settings, tmp_path):
    """The directory of an evaluation as this machine does it."""
    run(Config(**settings, out=tmp_path / "usual"))
    return tmp_path / "usual"


def read_facts(out):
    return json.loads((out / "manifest.json").read_text())["facts"]


def read_answers(out, name="predictions.jsonl"):
    return sorted(read_lines(out / name), key=lambda line: line["id"])


def test_the_manifest_and_the_page_name_the_engine(usual):
    assert read_facts(usual)["generator"] == "transformers"
    assert read_facts(usual)["dtype"] == DTYPE
    assert "transformers" in (usual / "report.html").read_text()


def test_where_vllm_cannot_open_the_model_another_generates_and_a_note_says_why(
    settings, usual, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(generate, "uses_vllm", lambda device: True)
    monkeypatch.setitem(sys.modules, "vllm", None)
    run(Config(**settings, out=tmp_path / "fallen"))
    assert (
        "note: vLLM cannot open this model here (ModuleNotFoundError: import of vllm halted"
        in capsys.readouterr().err
    )
    assert read_facts(tmp_path / "fallen")["generator"] == "transformers"
    assert read_answers(tmp_path / "fallen") == read_answers(usual)
    assert not (tmp_path / "fallen" / MERGED).exists()


def test_an_evaluation_by_an_engine_asks_the_same_of_the_merged_model(
    settings, usual, tmp_path, monkeypatch
):
    opened = []
    _, tokenizer = load_model(settings["model"], settings["adapter"], device="cpu")

    def open_engine(folder, dtype, max_length, n_rows):
        merged = load_model(str(folder), device="cpu").model.state_dict()
        plain = load_model(settings["model"], device="cpu").model.state_dict()
        assert any((merged[name] != plain[name]).any() for name in plain), (
            "the adapter is not in it"
        )
        written = {tuple(encode(tokenizer, "?")): encode(tokenizer, "!")}
        for name in ("predictions.jsonl", "unprompted.jsonl"):
            for line in read_lines(usual / name):
                text = line["raw"].removeprefix(
                    "<think>\n" if line["prompt"].endswith("<think>\n") else ""
                )
                written[tuple(encode(tokenizer, line["prompt"]))] = [
                    *encode(tokenizer, text),
                    *encode(tokenizer, "<|im_end|>"),
                ]
        opened.append((FakeEngine(written), max_length, n_rows, dtype))
        return opened[-1][0], dict

    monkeypatch.setattr(generate, "uses_vllm", lambda device: True)
    monkeypatch.setattr(vllm_engine, "_open_engine", open_engine)
    run(Config(**settings, batch_size=5, out=tmp_path / "fast"))
    for name in ("predictions.jsonl", "unprompted.jsonl"):
        assert read_answers(tmp_path / "fast", name) == read_answers(usual, name)
    assert read_facts(tmp_path / "fast")["generator"] == "vllm"
    [(engine, max_length, n_rows, dtype)] = opened
    longest = max(
        len(encode(tokenizer, line["prompt"])) for line in read_lines(usual / "predictions.jsonl")
    )
    assert (max_length, n_rows, dtype) == (longest + 96, 5, DTYPE)
    assert engine.is_shut and not (tmp_path / "fast" / MERGED).exists()


@pytest.mark.slow
def test_vllm_itself_writes_the_same_answers(merged_dir, tmp_path, monkeypatch):
    """Runs where vLLM is installed, on the CPU too: docs/en/evaluate.md says how to make such an
    environment."""
    pytest.importorskip("vllm")
    from medkd.train import stage

    base = make_random_model(
        tmp_path / "base", hidden_size=128
    )  # heads of 32: vLLM has no kernel for smaller ones on the CPU
    stage.run(
        stage.Config(
            model=str(base),
            input=merged_dir,
            out=tmp_path / "train",
            epochs=30,
            learning_rate=5e-3,
            max_length=256,
        )
    )
    settings = {
        "model": str(base),
        "adapter": tmp_path / "train",
        "input": merged_dir,
        "max_tokens": 96,
    }
    run(Config(**settings, out=tmp_path / "usual"))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setattr(generate, "uses_vllm", lambda device: True)
    run(Config(**settings, out=tmp_path / "fast"))
    assert read_facts(tmp_path / "fast")["generator"] == "vllm"
    for name in ("predictions.jsonl", "unprompted.jsonl"):
        assert read_answers(tmp_path / "fast", name) == read_answers(tmp_path / "usual", name)


def test_vllm_generates_where_it_is_installed_and_a_gpu_computes(tmp_path, monkeypatch):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/__init__.py").touch()
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert generate.uses_vllm("cuda") and not generate.uses_vllm("cpu")
    monkeypatch.setattr(sys, "path", [])
    assert not generate.uses_vllm("cuda")
