import json
import shutil

import pytest
import torch
from transformers import PreTrainedModel

from medkd.core.errors import InputError, ProofError
from medkd.core.i18n import Texts
from medkd.export.proof import ask_folder
from medkd.export.stage import (
    Config,
    explain_unproven,
    export,
    find_base_format,
    hand_over_gguf,
    judge,
    prove,
    run,
    write_modelfile,
)
from medkd.models.load import load_tokenizer
from student_samples import make_example


@pytest.fixture(scope="module")
def adapter_dir(trained_dir, tmp_path_factory):
    """The adapter with as many unseen questions beside it as a proof takes."""
    adapter = shutil.copytree(trained_dir / "adapter", tmp_path_factory.mktemp("adapter") / "a")
    questions = [{"id": e.id, "question": e.input} for e in map(make_example, range(24, 44))]
    (adapter / "questions.json").write_text(json.dumps({"unseen": True, "questions": questions}))
    return adapter


@pytest.fixture(scope="module")
def exported(adapter_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    run(Config(adapter=adapter_dir, max_tokens=96, out=out))
    return out


def test_the_folder_is_whole_and_its_proof_is_kept(exported):
    names = {path.name for path in exported.iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
    } <= names
    assert {"MODELCARD.md", "README.md", "Modelfile", "proof.json", "manifest.json"} <= names
    assert "UNPROVEN" not in names
    proof = json.loads((exported / "proof.json").read_text())
    assert (
        proof["passed"]
        and proof["unseen"]
        and proof["n"] == proof["n_thinking"] == proof["n_stopped"] == 20
    )


def test_the_generation_stops_on_both_tokens(exported):
    stops = json.loads((exported / "generation_config.json").read_text())["eos_token_id"]
    assert load_tokenizer(exported).convert_ids_to_tokens(stops) == ["<|im_end|>", "<|endoftext|>"]


def test_the_merged_weights_say_what_the_adapter_said(exported, trained_dir, random_model_dir):
    import torch

    from medkd.models.load import load_model

    ids = torch.tensor([[40, 41, 42, 43]])
    merged = load_model(str(exported), device="cpu", dtype="float32").model
    adapted = load_model(
        str(random_model_dir), trained_dir / "adapter", device="cpu", dtype="float32"
    ).model
    with torch.inference_mode():
        assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-4)


def test_the_modelfile_gives_a_conversation_as_the_template_does(exported):
    text = (exported / "Modelfile").read_text()
    assert (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n<|im_start|>user\n{{ else }}<|im_start|>user\n{{ end }}"
        in text
    )
    assert (
        "{{ .Content }}{{ if $last }}<|im_end|>\n<|im_start|>assistant\n<think>\n{{ end }}" in text
    )
    assert (
        "<|im_end|>\n<|im_start|>assistant\n{{ .Content }}{{ if not $last }}<|im_end|>\n<|im_start|>user\n{{ end }}"
        in text
    )
    assert 'PARAMETER stop "<|im_end|>"' in text and 'PARAMETER stop "<|endoftext|>"' in text
    assert text.endswith("PARAMETER temperature 0\nPARAMETER repeat_penalty 1.0\n")


def test_the_modelfile_keeps_a_default_system_text_where_none_is_given(exported):
    tokenizer = load_tokenizer(exported)
    given = "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\nUsual.<|im_end|>\n' }}{%- endif %}"
    tokenizer.chat_template = given + tokenizer.chat_template
    text = write_modelfile(tokenizer, [])
    assert "{{ else }}<|im_start|>system\nUsual.<|im_end|>\n<|im_start|>user\n{{ end }}" in text
    assert text.count("Usual.") == 1


def test_the_card_tells_lineage_and_shows_an_answer(exported):
    card = (exported / "MODELCARD.md").read_text()
    assert "rehearsal: 24" in card and "Apache-2.0: 24" in card and "    <think>" in card
    assert "UNPROVEN" not in card and "the likeliest token" in card


@pytest.mark.slow
def test_a_model_that_does_not_think_is_marked_and_refused(adapter_dir, tmp_path):
    config = Config(adapter=adapter_dir, max_tokens=2, out=tmp_path / "out")
    with pytest.raises(ProofError, match="UNPROVEN, 0 of 20 answers think") as caught:
        run(config)
    assert caught.value.exit_code == 3
    assert (config.out / "UNPROVEN").exists()
    assert "(UNPROVEN)" in (config.out / "MODELCARD.md").read_text()
    assert json.loads((config.out / "manifest.json").read_text())["state"] == "stopped"
    run(config.model_copy(update={"max_tokens": 96, "overwrite": True}))
    assert not (config.out / "UNPROVEN").exists()


@pytest.mark.slow
def test_a_model_all_of_whose_weights_were_trained_is_exported_without_an_adapter(
    random_model_dir, merged_dir, tmp_path
):
    from medkd.train.stage import Config as TrainConfig
    from medkd.train.stage import run as train

    fields = {
        "model": str(random_model_dir),
        "input": merged_dir,
        "epochs": 30,
        "learning_rate": 5e-3,
        "max_length": 256,
    }
    train(TrainConfig(**fields, method="full", batch_size=4, out=tmp_path / "train"))
    with pytest.raises(
        ProofError, match="UNPROVEN, few: 6 of 6 answers think, 6 stop; too few questions"
    ):
        run(Config(model=str(tmp_path / "train"), max_tokens=96, out=tmp_path / "out"))
    assert (tmp_path / "out/model.safetensors").exists()


def test_nothing_to_export_and_a_model_that_train_did_not_leave_are_one_line(
    random_model_dir, tmp_path
):
    with pytest.raises(InputError, match="nothing to export"):
        run(Config(out=tmp_path / "out"))
    with pytest.raises(InputError, match=r"no questions\.json"):
        run(Config(model=str(random_model_dir), out=tmp_path / "out"))


@pytest.mark.slow
def test_the_scores_of_an_evaluation_stand_on_the_card_with_their_intervals(trained_dir, tmp_path):
    scores = {
        "n": 12,
        "stop_rate": 1.0,
        "intervals": {"stop_rate": [0.9, 1.0]},
        "model": "left out",
    }
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(
        ProofError, match="UNPROVEN, few: 6 of 6 answers think, 6 stop; too few questions"
    ):
        run(
            Config(
                adapter=trained_dir,
                evaluation=tmp_path,
                max_tokens=96,
                out=tmp_path / "out",
            )
        )
    assert (tmp_path / "out/UNPROVEN").exists()
    card = (tmp_path / "out/MODELCARD.md").read_text()
    assert "| stop_rate | 1 [0.9, 1] |" in card and "left out" not in card
    with pytest.raises(InputError, match="medkd evaluate"):
        run(Config(adapter=trained_dir, evaluation=tmp_path / "nowhere", out=tmp_path / "other"))


def test_a_folder_that_transformers_cannot_use_proves_nothing(tmp_path):
    proof = prove(tmp_path, ["?"], 4)
    assert not proof["passed"] and "could not use it" in proof["finding"]
    assert "train again" not in str(explain_unproven(tmp_path, proof))


def test_the_proof_computes_on_a_gpu_where_there_is_one(random_model_dir, monkeypatch):
    places = []

    def move(_, place):
        places.append(place)
        raise InterruptedError("no such device in a test")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(PreTrainedModel, "to", move)
    with pytest.raises(InterruptedError):
        ask_folder(str(random_model_dir), ["?"], 4)
    assert places == ["cuda"]


def test_only_the_opening_tag_of_a_prompt_without_line_breaks_belongs_to_the_answer(
    tiny_model_dir, tmp_path
):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "<|im_start|>{{ messages[0].content }}<|im_end|><think>{{ '\\n' }}"
    )
    [answer] = prove(folder, ["【主诉】发热3天。"], 4)["answers"]
    assert answer["text"].startswith("<think>\n")


def test_a_folder_that_is_called_like_a_file_of_llama_cpp_is_asked_with_transformers(
    tiny_model_dir, tmp_path
):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "mine.gguf")
    assert len(prove(folder, ["【主诉】发热3天。"], 4)["answers"]) == 1


def test_weights_that_cannot_be_found_are_one_line(trained_dir, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        export("./nowhere", trained_dir / "adapter", tmp_path)


def test_an_adapter_without_questions_is_refused(trained_dir, tmp_path):
    adapter = shutil.copytree(trained_dir / "adapter", tmp_path / "adapter")
    (adapter / "questions.json").unlink()
    with pytest.raises(InputError, match="no questions"):
        run(Config(adapter=adapter, out=tmp_path / "out"))


@pytest.mark.parametrize(
    ("text", "stopped", "passed"),
    [
        ("<think>\na\n</think>\n\nb", True, True),
        ("<think>\na\n</think>\n\nb", False, False),
        ("<think>\na\n</think>\n\n", True, False),
        ("<think>\na", True, False),
        ("b", True, False),
    ],
)
def test_thinking_must_be_closed_answered_and_ended(text, stopped, passed):
    answers = [{"question": "?", "text": text, "stopped": stopped} for _ in range(20)]
    assert judge(answers)["passed"] is passed
    few = judge(answers[:19])
    assert not few["passed"] and few["finding"].startswith("few: ")
    assert Texts("zh").say(few["finding"]).endswith("自行结束；题目太少，自检需要 20 道")


def test_none_of_twenty_has_an_interval_too():
    answers = [{"question": "?", "text": "b", "stopped": True} for _ in range(20)]
    assert judge(answers)["intervals"] == {
        "thinking": (0.0, 0.161125),
        "stopped": (0.838875, 1.0),
    }


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_number_format_of_the_base_is_kept(random_model_dir, trained_dir, tmp_path, dtype, key):
    import torch
    from safetensors.torch import load_file, save_file

    base = shutil.copytree(random_model_dir, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config.pop("dtype", None)
    (base / "config.json").write_text(json.dumps(config | {key: dtype}))
    weights = {
        k: v.to(getattr(torch, dtype)) for k, v in load_file(base / "model.safetensors").items()
    }
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    adapter = shutil.copytree(trained_dir / "adapter", tmp_path / "adapter")
    lora = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(lora | {"base_model_name_or_path": str(base)})
    )
    export(str(base), adapter, tmp_path / "out")
    assert {v.dtype for v in load_file(tmp_path / "out/model.safetensors").values()} == {
        getattr(torch, dtype)
    }
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("is_here", [True, False], ids=["base here", "base elsewhere"])
def test_an_adapter_on_a_fully_trained_folder_is_exported_in_the_format_of_its_base(
    random_model_dir, tmp_path, is_here
):
    """`train --method full` leaves float32, whatever the base is published in."""
    base = shutil.copytree(random_model_dir, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    trained = shutil.copytree(random_model_dir, tmp_path / "trained")
    (trained / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    lineage = {"base_model": str(base) if is_here else "owner/elsewhere"}
    (trained / "lineage.json").write_text(json.dumps(lineage))
    assert find_base_format(trained) == ("float16" if is_here else "bfloat16")
    (trained / "lineage.json").unlink()
    assert find_base_format(trained) == "float32"


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "do_sample": True},
        {"temperature": 0.9, "top_p": 0.6},
    ],
    ids=["sampling", "sampling left out of use, which transformers does not save"],
)
def test_how_the_base_draws_its_tokens_is_left_out(
    random_model_dir, trained_dir, tmp_path, settings
):
    """Students are measured and proved greedily, without a penalty."""
    base = shutil.copytree(random_model_dir, tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps(settings))
    export(str(base), trained_dir / "adapter", tmp_path / "out")
    written = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert written["do_sample"] is False
    assert not settings.keys() & {key for key, value in written.items() if value}


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_a_gguf_file_is_handed_over_only_when_it_is_proved(
    tiny_model_dir, tmp_path, monkeypatch, capsys, kind
):
    pytest.importorskip("gguf")
    out = shutil.copytree(tiny_model_dir, tmp_path / "out")
    tokenizer = load_tokenizer(out)
    good = [{"question": "?", "text": "<think>\na\n</think>\n\nb", "stopped": True}] * 20
    monkeypatch.setattr("medkd.export.stage.prove", lambda *_: judge(good))
    facts = hand_over_gguf(out, kind, tokenizer, ["?"], 8)
    assert facts["passed"] and facts["bytes"] == (out / f"model-{kind}.gguf").stat().st_size
    assert ("llama-quantize" in capsys.readouterr().out) == (kind == "f16")
    monkeypatch.setattr("medkd.export.stage.prove", lambda *_: judge(good[:19]))
    with pytest.raises(ProofError, match=r"see proof-gguf\.json"):
        hand_over_gguf(out, kind, tokenizer, ["?"], 8)
    assert (out / "UNPROVEN").exists()


def test_a_base_of_which_no_gguf_is_written_is_refused_before_anything_is_merged(
    tiny_model_dir, tmp_path
):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(InputError, match="leave --gguf out"):
        run(Config(model=str(folder), gguf="f16", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
