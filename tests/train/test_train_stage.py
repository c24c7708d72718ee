import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from medkd.core.config import make_config
from medkd.core.errors import InputError
from medkd.models.chat_template import has_thinking_prefix
from medkd.models.load import load_model, load_tokenizer
from medkd.train.checkpoints import is_complete
from medkd.train.stage import Config, run
from student_samples import (
    have_equal_weights,
    make_example,
    read_lines,
    read_losses,
    save_base,
    write_examples,
)

SCRIPT = """
import sys, time
from trl.trainer.sft_trainer import SFTTrainer
from medkd.train.stage import Config, run
step = SFTTrainer.training_step
def slowly(self, *a, **k):
    time.sleep(0.05)
    return step(self, *a, **k)
SFTTrainer.training_step = slowly
run(Config.model_validate_json(sys.argv[1]))
"""


def test_everything_that_serving_takes_stands_beside_the_adapter(trained_dir):
    adapter = trained_dir / "adapter"
    names = {path.name for path in adapter.iterdir()}
    assert {
        "adapter_model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
        "questions.json",
    } <= names
    tokenizer = load_tokenizer(adapter)
    assert has_thinking_prefix(tokenizer)
    stops = json.loads((adapter / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(stops) == ["<|im_end|>", "<|endoftext|>"]


def test_the_weights_have_the_mode_of_every_new_file(trained_dir):
    adapter = trained_dir / "adapter"
    modes = {
        (adapter / name).stat().st_mode for name in ("adapter_model.safetensors", "lineage.json")
    }
    assert len(modes) == 1


def test_the_questions_beside_the_adapter_were_not_trained_on(trained_dir, merged_dir):
    kept = json.loads((trained_dir / "adapter/questions.json").read_text())
    trained_on = {line["input"] for line in read_lines(merged_dir / "train.jsonl")}
    assert kept["unseen"] and kept["questions"]
    assert not trained_on & {entry["question"] for entry in kept["questions"]}


def test_lineage_leads_back_to_sources_and_teachers(trained_dir):
    lineage = json.loads((trained_dir / "adapter/lineage.json").read_text())
    assert (lineage["sources"], lineage["teachers"], lineage["licences"]) == (
        {"made": 24},
        {"rehearsal": 24},
        {"Apache-2.0": 24},
    )


def test_metrics_have_a_line_a_logged_step_and_the_loss_falls(trained_dir):
    by_step = list(read_losses(trained_dir).values())
    assert by_step[-1] < by_step[0] / 3
    assert any("eval_loss" in line for line in read_lines(trained_dir / "metrics.jsonl"))


def test_what_was_repaired_stands_in_the_manifest(trained_dir):
    facts = json.loads((trained_dir / "manifest.json").read_text())["facts"]
    assert facts["repairs"] == ["generation config did not stop on <|im_end|>"]


def test_bare_answers_keep_a_plain_template(short_training, tmp_path):
    run(Config(**short_training | {"epochs": 1}, target="answers", out=tmp_path))
    assert not has_thinking_prefix(load_tokenizer(tmp_path / "adapter"))


def test_a_finished_run_is_not_done_again(short_training, tmp_path):
    first = run(Config(**short_training | {"epochs": 1}, out=tmp_path))
    stamp = (tmp_path / "adapter/adapter_model.safetensors").stat().st_mtime_ns
    assert (
        run(Config(**short_training | {"epochs": 1}, out=tmp_path)).started_at == first.started_at
    )
    assert (tmp_path / "adapter/adapter_model.safetensors").stat().st_mtime_ns == stamp


def test_killed_and_started_again_it_comes_to_the_same_losses_and_weights_to_the_bit(
    short_training, tmp_path
):
    whole, killed = (
        Config(**short_training | {"epochs": 8}, out=tmp_path / "whole"),
        Config(**short_training | {"epochs": 8}, out=tmp_path / "killed"),
    )
    run(whole)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, killed.model_dump_json()],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 600
    while (
        not any(is_complete(path) for path in killed.out.glob("checkpoints/checkpoint-*"))
        and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed.out / "adapter").exists()
    manifest = run(killed)
    assert manifest.facts["resumed_from_step"] > 0
    assert read_losses(killed.out) == read_losses(whole.out)
    assert have_equal_weights(whole.out, killed.out)


def test_tokens_that_nobody_trained_are_trained_too(random_model_dir, merged_dir, tmp_path):
    loaded = load_model(str(random_model_dir), device="cpu", dtype="float32")
    end = loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[end] = 0.0
    base = tmp_path / "base"
    save_base(loaded, base)
    manifest = run(
        Config(
            model=str(base),
            input=merged_dir,
            out=tmp_path / "out",
            epochs=4,
            learning_rate=1e-2,
            max_length=256,
        )
    )
    assert "untrained embedding rows are trained too: <|im_end|>" in manifest.facts["repairs"]
    tuned = load_model(str(base), tmp_path / "out/adapter", device="cpu", dtype="float32").model
    assert tuned.get_input_embeddings().weight[end].norm() > 0.01
    assert torch.equal(
        tuned.get_output_embeddings().weight[end], tuned.get_input_embeddings().weight[end]
    )


def test_trl_short_training_pass_through_and_a_wrong_one_is_named(short_training, tmp_path):
    manifest = run(
        Config(**short_training, trainer={"max_steps": 3, "weight_decay": 0.1}, out=tmp_path / "a")
    )
    assert manifest.facts["steps"] == 3
    with pytest.raises(InputError, match="did you mean 'weight_decay'"):
        run(Config(**short_training, trainer={"weigth_decay": 0.1}, out=tmp_path / "b"))
    with pytest.raises(InputError, match="decided by the stage"):
        run(Config(**short_training, trainer={"output_dir": "elsewhere"}, out=tmp_path / "c"))


def test_a_broken_line_is_counted_and_the_rest_goes_on(short_training, tmp_path):
    path = write_examples(tmp_path / "in/train.jsonl", range(6))
    path.write_text(path.read_text() + "{broken\n" + make_example(9).model_dump_json() + "\n")
    counts = run(
        Config(**short_training | {"input": path, "epochs": 1}, out=tmp_path / "out")
    ).counts
    assert (counts.read, counts.kept, counts.dropped) == (8, 7, {"broken_line": 1})


@pytest.mark.parametrize(("content", "says"), [("", "empty"), ('{"id": "x"}\n', "no Example file")])
def test_a_file_that_is_no_training_file_is_refused(short_training, tmp_path, content, says):
    path = tmp_path / "train.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=says):
        run(Config(**short_training | {"input": path}, out=tmp_path / "out"))


def test_a_missing_file_names_the_command_that_makes_it(short_training, tmp_path):
    with pytest.raises(InputError, match='run "medkd merge" first'):
        run(Config(**short_training | {"input": tmp_path}, out=tmp_path / "out"))


@pytest.mark.parametrize(
    "field",
    [
        {"epochs": float("inf")},
        {"epochs": float("nan")},
        {"epochs": 0},
        {"seed": -1},
        {"seed": 2**32},
        {"batch_size": 10**20},
        {"batch_size": 0},
        {"learning_rate": -1e-4},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"lora_rank": 10**9},
        {"max_length": 10**20},
        {"max_length": 0},
        {"max_tokens": -5},
    ],
    ids=str,
)
def test_numbers_out_of_bounds_are_refused_by_their_field(short_training, tmp_path, field):
    [name] = field
    with pytest.raises(InputError, match=name) as caught:
        make_config(Config, short_training | field | {"out": tmp_path / "out"}, "train")
    assert "\n" not in str(caught.value)
