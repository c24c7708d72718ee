import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medkd.cli.app import run_command
from medkd.core.errors import InputError
from medkd.train import stage
from medkd.train.doctor import read_gpus
from medkd.train.preflight import Machine
from student_samples import write_examples


def see(capsys, *words):
    code = run_command(["doctor", "--device", "cpu", *map(str, words)])
    return code, capsys.readouterr().out


def test_the_machine_alone_is_told(capsys):
    code, shown = see(capsys)
    assert code == 0 and "machine: processor" in shown


def test_a_model_and_a_dataset_are_looked_at_before_a_training(
    capsys, random_model_dir, merged_dir
):
    code, shown = see(
        capsys, "--model", random_model_dir, "--input", merged_dir, "--max-length", "256"
    )
    assert code == 2
    assert "wrong (train puts it right): stops_elsewhere" in shown
    assert "rows: 24" in shown and "the longest" in shown
    assert "memory a device" in shown and "qlora" in shown
    assert "time: about" in shown and "disk:" in shown


def test_what_cannot_be_repaired_is_told_and_nothing_is_loaded(capsys, random_model_dir, tmp_path):
    write_examples(tmp_path / "train.jsonl", range(3))
    code, shown = see(
        capsys, "--model", random_model_dir, "--input", tmp_path, "--max-length", "16"
    )
    assert code == 2
    assert "wrong (refused): unusable_rows: no row is left to train on" in shown
    assert "time:" not in shown


def test_no_memory_is_missed_for_rows_that_a_template_keeps_from_being_read(
    capsys, random_model_dir, merged_dir, tmp_path, monkeypatch
):
    folder = shutil.copytree(random_model_dir, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{% include '/etc/passwd' %}")
    monkeypatch.setattr(stage, "measure_machine", lambda _: Machine("processor", 1, 1))
    code, shown = see(capsys, "--model", folder, "--input", merged_dir)
    assert code == 2 and "its chat template cannot be used" in shown
    assert "1 thing is wrong" in shown and "memory" not in shown


def test_a_model_that_is_to_be_served_is_looked_at_as_it_is(capsys, random_model_dir):
    code, shown = see(capsys, "--model", random_model_dir)
    assert code == 2 and "its chat template does not begin the thinking" in shown


def test_rows_without_a_model_are_one_line(capsys, merged_dir):
    assert run_command(["doctor", "--input", str(merged_dir)]) == 2
    assert "--input needs --model" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["./nowhere", "no/such/name/at/all"])
def test_a_model_that_is_none_is_one_line(capsys, name):
    assert run_command(["doctor", "--model", name]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_gpus_that_are_not_here_are_planned_for(capsys):
    code, shown = see(capsys, "--gpu", "3x24", "--max-length", "4096", "--batch-size", "2")
    assert code == 0 and "plan: 3 x 24 GiB" in shown
    [line] = [line for line in shown.splitlines() if line.startswith("Qwen2.5-7B")]
    assert [word for word in line.split() if word in ("ok", "no")] == ["ok", "ok", "no"]


def test_a_model_is_planned_for_and_what_does_not_fit_is_refused(capsys, random_model_dir):
    assert see(capsys, "--gpu", "24", "--model", random_model_dir)[0] == 0
    words = ["--gpu", "2x1", "--model", random_model_dir, "--batch-size", "60000"]
    code, shown = see(capsys, *words)
    assert code == 2 and "memory: lora needs about" in shown


@pytest.mark.parametrize("gpus", ["3 of 24", "0x24", "3x", "x", "-1x24"])
def test_gpus_that_cannot_be_read_are_one_line(capsys, gpus):
    with pytest.raises(InputError, match="write 3x24"):
        read_gpus(gpus)


@pytest.mark.skipif(any(Path("/dev").glob("nvidia*")), reason="asks torch where a GPU is")
def test_a_machine_without_a_gpu_is_told_before_torch_is_loaded():
    code = "import sys; from medkd.cli.app import run_command as run; run(['doctor'])"
    told = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"],
        capture_output=True,
        text=True,
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("machine: processor")
