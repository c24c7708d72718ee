"""The ways to train beside the plain one: all weights, packed, stopped early, on two processes; and
what goes wrong on the way."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from trl.trainer.sft_config import SFTConfig

from medkd.core.errors import InputError, MedkdError
from medkd.core.jsonl import write_records
from medkd.core.records import Preference, Rejected
from medkd.models.load import load_model, resolve_model
from medkd.train.checkpoints import is_complete
from medkd.train.config import read_trainer_keys
from medkd.train.stage import Config, LengthGroupedSampler, run
from student_samples import (
    make_example,
    read_adapter,
    read_lines,
    read_losses,
    save_base,
    undo_last_steps,
    write_examples,
)


def test_all_weights_can_be_trained_and_the_folder_is_a_model(
    short_training, random_model_dir, tmp_path
):
    manifest = run(Config(**short_training | {"epochs": 6}, method="full", out=tmp_path))
    assert not (tmp_path / "adapter").exists()
    assert resolve_model(str(tmp_path)) == tmp_path / "model"
    before, after = (
        load_model(str(path), device="cpu", dtype="float32").model
        for path in (random_model_dir, tmp_path)
    )
    assert not torch.equal(
        before.get_input_embeddings().weight, after.get_input_embeddings().weight
    )
    assert json.loads((tmp_path / "model/generation_config.json").read_text())["eos_token_id"] == [
        258,
        256,
    ]
    assert json.loads((tmp_path / "model/config.json").read_text())["use_cache"] is True
    assert manifest.facts["eval_loss"] < 4


def test_packed_rows_are_learnt_as_well_and_none_is_lost(short_training, tmp_path):
    manifest = run(
        Config(
            **short_training | {"epochs": 12, "batch_size": 1},
            trainer={"packing": True},
            out=tmp_path,
        )
    )
    assert manifest.facts["packed"]
    by_step = list(read_losses(tmp_path).values())
    assert by_step[-1] < by_step[0] / 2


def test_packed_and_unpacked_rows_have_the_same_loss(short_training, merged_dir, tmp_path):
    """The first step of both sees the same rows before anything is learnt."""
    few = write_examples(tmp_path / "in/train.jsonl", range(4))
    shared = short_training | {"input": few, "epochs": 1, "trainer": {"bf16": False}}
    run(Config(**shared, out=tmp_path / "alone"))
    run(
        Config(
            **shared
            | {"batch_size": 1, "max_length": 1024, "trainer": {"bf16": False, "packing": True}},
            out=tmp_path / "packed",
        )
    )
    assert read_losses(tmp_path / "packed")[1] == pytest.approx(
        read_losses(tmp_path / "alone")[1], rel=1e-4
    )


@pytest.mark.slow
def test_the_best_by_validation_is_kept_and_patience_ends_a_run(short_training, tmp_path):
    patient = {
        "save_steps": 1,
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "early_stopping_patience": 2,
    }
    manifest = run(Config(**short_training | {"epochs": 20}, trainer=patient, out=tmp_path))
    assert manifest.facts["steps"] < 20 * 6
    evaluated = {
        line["step"]: line["eval_loss"]
        for line in read_lines(tmp_path / "metrics.jsonl")
        if "eval_loss" in line
    }
    best = min(evaluated, key=evaluated.get)
    assert manifest.facts["best_step"] == best < max(evaluated)
    kept = load_file(tmp_path / f"checkpoints/checkpoint-{best}/adapter_model.safetensors")
    saved = read_adapter(tmp_path)
    assert all(torch.equal(kept[name], saved[name]) for name in kept)
    # Killed one save before it ended, or behind the last one, it ends at the same step.
    for last in (manifest.facts["steps"], None):
        undo_last_steps(tmp_path, last)
        again = run(Config(**short_training | {"epochs": 20}, trainer=patient, out=tmp_path))
        assert again.facts["steps"] == manifest.facts["steps"]
        assert all(torch.equal(kept[name], read_adapter(tmp_path)[name]) for name in kept)


@pytest.mark.slow
def test_an_interrupted_run_keeps_a_checkpoint_and_comes_to_the_same_losses(
    short_training, tmp_path
):
    whole, broken = (
        Config(**short_training | {"epochs": 8}, out=tmp_path / "whole"),
        Config(**short_training | {"epochs": 8}, out=tmp_path / "broken"),
    )
    run(whole)
    script = "import sys; from medkd.train.stage import Config, run; run(Config.model_validate_json(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", script, broken.model_dump_json()], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 600
    while not losses_so_far(broken.out) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "keeping a checkpoint first" in process.communicate()[1]
    assert not (broken.out / "adapter").exists()
    resumed = run(broken).facts["resumed_from_step"]
    assert 0 < resumed < 48
    one, other = read_losses(broken.out), read_losses(whole.out)
    # A line is the mean of two steps; the one in which the interruption came may hold the second
    # alone.
    assert {step: loss for step, loss in one.items() if step > resumed + 1} == {
        s: loss for s, loss in other.items() if s > resumed + 1
    }


def losses_so_far(out):
    return read_losses(out) if (out / "metrics.jsonl").exists() else {}


def test_what_the_student_says_at_each_save_stands_in_the_report(trained_dir):
    samples = read_lines(trained_dir / "samples.jsonl")
    steps = sorted({sample["step"] for sample in samples})
    assert len(steps) >= 4 and len(samples) == 2 * len(steps)
    assert all(
        sample["thinks"] and sample["stops"] for sample in samples if sample["step"] == steps[-1]
    )
    page = (trained_dir / "report.html").read_text()
    assert (
        "<svg" in page
        and "stops_elsewhere" in page
        and "means" in page
        and f"Step {steps[-1]}" in page
    )


def test_a_run_logs_at_least_every_ten_steps_and_saves_four_times(trained_dir):
    steps = [line["step"] for line in read_lines(trained_dir / "metrics.jsonl") if "loss" in line]
    assert max(b - a for a, b in zip([0, *steps], steps, strict=False)) <= 10
    facts = json.loads((trained_dir / "manifest.json").read_text())["facts"]
    assert facts["peak_memory_gib"] > 0


def test_special_rows_of_a_head_of_its_own_are_trained_too(random_model_dir, merged_dir, tmp_path):
    loaded = load_model(str(random_model_dir), device="cpu", dtype="float32")
    end = loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
    head = loaded.model.get_output_embeddings()
    loaded.model.config.tie_word_embeddings = False
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    with torch.no_grad():
        head.weight[end] = 0.0
    base = tmp_path / "base"
    save_base(loaded, base)
    run(
        Config(
            model=str(base),
            input=merged_dir,
            out=tmp_path / "out",
            epochs=4,
            learning_rate=1e-2,
            max_length=256,
        )
    )
    tuned = load_model(str(base), tmp_path / "out/adapter", device="cpu", dtype="float32").model
    assert tuned.get_output_embeddings().weight[end].norm() > 0.01


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
LAUNCHERS = {
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0"),
    ],
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}


def launch_command(launcher, fields):
    flags = [
        word for key, value in fields.items() for word in (f"--{key.replace('_', '-')}", str(value))
    ]
    return [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "medkd", "train", *flags]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_together(short_training, tmp_path, launcher):
    fields = short_training | {"epochs": 8, "batch_size": 2, "device": "cpu", "out": tmp_path}
    command = launch_command(launcher, fields)
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["state"] == "finished"
    assert (manifest["facts"]["processes"], manifest["facts"]["steps"]) == (2, 48)
    by_step = list(read_losses(tmp_path).values())
    assert by_step[-1] < by_step[0] / 2
    assert done.stderr.count("rows, ") == 1
    assert done.stdout.count("see ") == 1 and "see " not in done.stderr
    assert (tmp_path / "adapter/questions.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victims", ["all", "launcher"])
def test_two_processes_killed_and_started_again_come_to_the_same_losses(
    short_training, tmp_path, victims
):
    """Where the launcher alone is killed its workers outlive it for a while: the second start must
    neither race with them nor go on from what they go on writing."""
    fields = short_training | {"epochs": 4, "batch_size": 2, "device": "cpu"}
    fields |= {"trainer.save-steps": 8, "trainer.logging-steps": 4}
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    whole = launch_command("torchrun", fields | {"out": undisturbed})
    subprocess.run(whole, check=True, capture_output=True, env=ONE_THREAD)
    command = launch_command("torchrun", fields | {"out": killed})
    first = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ONE_THREAD,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not _has_complete_checkpoint(killed) and time.monotonic() < deadline:
        time.sleep(0.01)
    if victims == "all":
        os.killpg(first.pid, signal.SIGKILL)
    else:
        os.kill(first.pid, signal.SIGKILL)
    first.wait()
    again = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD)
    assert again.returncode == 0, again.stderr[-3000:]
    facts = json.loads((killed / "manifest.json").read_text())["facts"]
    assert 0 < facts["resumed_from_step"] < 24
    assert read_losses(killed) == read_losses(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "on-policy", "reinforce"])
def test_two_processes_go_on_from_an_adapter_together(start, trained_dir, tmp_path, method):
    worse = {"reasoning": "sign x means cold", "answer": "cold", "why": "wrong_answer"}
    rejected = Rejected.model_validate(worse | {"origin": "student"})
    rows = [make_example(number).model_dump() | {"rejected": rejected} for number in range(8)]
    write_records(tmp_path / "preferences.jsonl", map(Preference.model_validate, rows))
    fields = start | {"adapter": trained_dir, "device": "cpu", "out": tmp_path / "out"}
    if method == "dpo":
        fields |= {"input": tmp_path, "batch_size": 2, "trainer.max-steps": 4}
    else:
        fields |= {"batch_size": 2, "max_tokens": 96}
    if method == "on-policy":
        fields |= {"teacher": "self", "trainer.max-steps": 4}
    if method == "reinforce":
        fields |= {"steps": 4, "questions": 2, "group_size": 4, "trainer.temperature": 0.7}
    else:
        fields |= {"method": method}
    command = launch_command("torchrun", fields)
    command[command.index("train")] = "reinforce" if method == "reinforce" else "train"
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["state"], manifest["facts"]["steps"]) == ("finished", 4)
    assert (tmp_path / "out/adapter/questions.json").exists()
    assert len(read_lines(tmp_path / "out/metrics.jsonl")) >= 4
    assert done.stdout.count("see ") == 1


def _has_complete_checkpoint(out):
    return any(is_complete(path) for path in out.glob("checkpoints/checkpoint-*"))


@pytest.mark.slow
def test_what_a_launched_process_refuses_is_one_line_of_ours(short_training, tmp_path):
    fields = short_training | {"device": "cpu", "max_length": 16, "out": tmp_path / "out"}
    command = launch_command("accelerate", fields)
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    ended = [line for line in said if line.startswith("error: terminated")]  # by the launcher
    assert len(said) > len(ended)
    assert all("no row is left to train on" in line for line in said if line not in ended)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"method": "qlora", "device": "cpu"}, "needs a GPU"),
        ({"device": "cuda"}, "sees no GPU"),
        ({"trainer": {"report_to": "swanlab"}}, "swanlab"),
        ({"trainer": {"padding_free": True}}, "decided by the stage"),
        ({"trainer": {"weight_decay": float("nan")}}, "weight_decay: input should be a finite"),
        ({"trainer": {"gradient_accumulation_steps": 0}}, "should be greater than 0"),
        ({"trainer": {"early_stopping_patience": "soon"}}, "early_stopping_patience: input should"),
        ({"trainer": {"max_steps": 2.5}}, "max_steps: input should be a valid integer"),
        ({"trainer": {"weight_decay": "abc"}}, "weight_decay: input should be a valid number"),
        ({"method": "full", "batch_size": 2**16}, "--batch-size"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said where no GPU is")
def test_what_cannot_be_done_here_is_one_line_and_leaves_nothing(
    short_training, tmp_path, fields, says
):
    with pytest.raises(InputError, match=says) as caught:
        run(Config(**short_training | fields, out=tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "adapter").exists()


def test_a_number_that_yaml_takes_for_text_is_read_as_a_number():
    assert read_trainer_keys(SFTConfig, {"weight_decay": "1e-4", "optim": "adamw_torch"}) == {
        "weight_decay": 1e-4,
        "optim": "adamw_torch",
    }


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"lora_rank": 8}, {"method": "full"}])
def test_a_checkpoint_of_another_adapter_or_method_is_one_line(short_training, tmp_path, changes):
    short = short_training | {"trainer": {"max_steps": 2, "save_steps": 1}, "out": tmp_path}
    run(Config(**short))
    undo_last_steps(tmp_path, 2)
    with pytest.raises(InputError, match="checkpoint-1: is of another model, --method or --lora"):
        run(Config(**short | changes, resume=True))


def test_a_switch_that_is_off_in_text_is_off(short_training, tmp_path):
    off = {"packing": "false", "bf16": "false", "early_stopping_patience": "3", "max_steps": 1}
    facts = run(Config(**short_training, trainer=off, out=tmp_path)).facts
    assert (facts["packed"], facts["dtype"]) == (False, "float32")


def test_a_validation_file_that_leaves_no_row_is_one_line(short_training, tmp_path):
    path = write_examples(tmp_path / "in/train.jsonl", range(4))
    write_examples(tmp_path / "in/val.jsonl", range(4, 6), input="long " * 200)
    with pytest.raises(InputError, match=r"val.jsonl: no row is left to watch \(too_long 2\)"):
        run(Config(**short_training | {"input": path}, out=tmp_path / "out"))


def test_a_setting_that_only_the_optimizer_finds_wrong_is_refused_in_one_line(
    short_training, tmp_path
):
    with pytest.raises(
        InputError, match=r"trainer: Invalid learning rate: -1.*; correct the recipe"
    ):
        run(Config(**short_training | {"trainer": {"learning_rate": -1.0}}, out=tmp_path / "out"))


@pytest.mark.slow
def test_a_full_disk_at_a_save_keeps_the_last_checkpoint_and_says_so(
    short_training, random_model_dir, merged_dir, tmp_path
):
    """The limit on the size of a file stands in for a full disk: the second checkpoint's log of
    steps outgrows it."""
    words = f'--model "{random_model_dir}" --input "{merged_dir}" --epochs 1 --max-length 256 --out "{tmp_path / "out"}" --device cpu'
    command = f'ulimit -f 40; exec "{sys.executable}" -m medkd train {words}'
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 3, done.stderr[-2000:]
    assert "the disk is full" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    again = subprocess.run(
        ["bash", "-c", command.partition("; ")[2]], capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr[-2000:]


def test_what_ended_a_run_is_said_also_where_no_page_can_be_drawn_of_it(short_training, tmp_path):
    (tmp_path / "adapter").touch()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(MedkdError) as caught:
        run(Config(**short_training, out=tmp_path))
    assert "report" not in str(caught.value)


LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=200)


@given(lengths=LENGTHS, batch_size=st.integers(1, 16), epoch=st.integers(0, 5))
def test_every_row_comes_once_an_epoch_and_the_order_repeats(lengths, batch_size, epoch):
    one, other = (LengthGroupedSampler(lengths, batch_size, 1, lambda: epoch) for _ in range(2))
    assert sorted(one) == list(range(len(lengths)))
    assert list(one) == list(other)


def test_batches_hold_rows_of_like_length():
    lengths = [10, 500] * 64
    sampler = LengthGroupedSampler(lengths, 8, 0, lambda: 0)
    order = list(sampler)
    mixed = sum(len({lengths[i] for i in order[at : at + 8]}) > 1 for at in range(0, 128, 8))
    assert mixed <= 1


def test_epochs_differ():
    first, second = (
        list(LengthGroupedSampler(list(range(100)), 8, 0, lambda epoch=epoch: epoch))
        for epoch in range(2)
    )
    assert first != second
