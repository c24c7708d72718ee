"""Is `medkd train` faster than LLaMA-Factory at the same work, and does it learn as much? And how
does it grow with rows and length?

Both sides tune the shipped student (LoRA of rank 16 on all linear layers, the same rows, batch,
precision, schedule and seed) for one pass over the training rows of a finished demo, on the
processor, one after the other in one run. A token counts once, padding and LLaMA-Factory's default
system text not at all. The rate is that between the first step and the last; start-up is from the
start of the process to the end of its first step; memory is the process's own peak as the kernel
counts it; each validation loss is under the side's own prompt.

In: the run directory of a demo, and the `llamafactory-cli` of an environment of its own
(`bench/README.md`). Out: a table.
Run: `.venv/bin/python bench/sft.py --run runs/demo --peer PATH/bin/llamafactory-cli`
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

from medkd.core.records import Example
from medkd.models.load import load_tokenizer, tiny_dir
from medkd.train.preflight import tokenize

BATCH = 8
RATE = 2e-3
MAX_LENGTH = 1024


class Measured(NamedTuple):
    """What one side took."""

    startup_s: float
    tokens_per_second: float
    seconds: float
    peak_mib: float
    val_loss: float


def watch(
    command: list[str], log: Path, n_tokens: int, cwd: Path, environment: dict[str, str]
) -> Measured:
    """Run one side, watching the file into which it writes a line a step."""
    began = time.perf_counter()
    with (cwd / f"{log.parent.name}.out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=cwd, env=environment)
        stamps: list[float] = []
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            lines = (
                [line for line in log.read_text().splitlines() if '"loss"' in line]
                if log.exists()
                else []
            )
            stamps += [time.perf_counter()] * (len(lines) - len(stamps))
            if pid:
                break
            time.sleep(0.01)
    seconds = time.perf_counter() - began
    if status:
        sys.exit((cwd / f"{log.parent.name}.out").read_text()[-3000:])
    losses = [
        json.loads(line)["eval_loss"]
        for line in log.read_text().splitlines()
        if '"eval_loss"' in line
    ]
    share = (len(stamps) - 1) / len(stamps)
    return Measured(
        stamps[0] - began,
        n_tokens * share / (stamps[-1] - stamps[0]),
        seconds,
        usage.ru_maxrss / 1024,
        losses[-1],
    )


def measure_ours(data: Path, out: Path, n_tokens: int) -> Measured:
    """Train with `medkd train`."""
    command = [
        sys.executable,
        "-m",
        "medkd",
        "train",
        "--model",
        "medkd:tiny",
        "--input",
        str(data),
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    command += [
        "--epochs",
        "1",
        "--learning-rate",
        str(RATE),
        "--batch-size",
        str(BATCH),
        "--max-length",
        str(MAX_LENGTH * 4),
    ]
    command += [
        "--trainer.logging-steps",
        "1",
        "--trainer.save-strategy",
        "no",
        "--trainer.eval-strategy",
        "epoch",
    ]
    command += ["--trainer.load-best-model-at-end", "False"]
    return watch(command, out / "metrics.jsonl", n_tokens, out.parent, dict(os.environ))


def measure_peer(cli: Path, data: Path, out: Path, n_tokens: int, n_steps: int) -> Measured:
    """Train with LLaMA-Factory."""
    import torch

    settings = {
        "model_name_or_path": str(tiny_dir()),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_target": "all",
        "dataset": "medkd_train",
        "eval_dataset": "medkd_val",
        "dataset_dir": str(data / "llamafactory"),
        "template": "qwen",
        "cutoff_len": MAX_LENGTH,
        "output_dir": str(out),
        "overwrite_cache": True,
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 5,
        "logging_steps": 1,
        "bf16": bool(torch.cpu.get_capabilities().get("avx512_bf16")),
        "eval_strategy": "steps",
        "eval_steps": n_steps,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 0,
        "use_cpu": True,
    }
    (out.parent / "peer.yaml").write_text(yaml.safe_dump(settings))
    # It imports torchaudio, whose builds want a GPU; it uses none of it here.
    shim = out.parent / "shim"
    shim.mkdir()
    (shim / "torchaudio.py").write_text("")
    environment = os.environ | {"PYTHONPATH": str(shim)}
    return watch(
        [str(cli), "train", str(out.parent / "peer.yaml")],
        out / "trainer_log.jsonl",
        n_tokens,
        out.parent,
        environment,
    )


def count_tokens(examples: list[Example]) -> int:
    """Count the tokens of all rows, padding apart."""
    tokenizer = load_tokenizer(tiny_dir())
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    rows, _ = tokenize(
        examples, tokenizer, "reasoned", MAX_LENGTH * 4, str(tokenizer.chat_template), int(end)
    )
    return sum(len(row.input_ids) for row in rows)


def write(folder: Path, examples: list[Example], val: list[Example]) -> Path:
    """Write rows as merge does."""
    folder.mkdir(parents=True)
    for name, rows in (("train", examples), ("val", val)):
        (folder / f"{name}.jsonl").write_text(
            "".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8"
        )
    return folder


def main() -> None:
    """Measure both sides, then how ours grows, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument(
        "--peer",
        type=Path,
        help="llamafactory-cli of its own environment; without it only ours is measured",
    )
    options = parser.parse_args()
    merged = options.run.absolute() / "merge"
    read = {
        name: [Example.model_validate_json(line) for line in (merged / f"{name}.jsonl").open()]
        for name in ("train", "val")
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_tokens = count_tokens(read["train"])
        ours = measure_ours(merged, folder / "ours", n_tokens)
        print(
            "| | rows | tokens | start-up s | tokens/s | all s | peak MiB | val loss |\n|---|---|---|---|---|---|---|---|"
        )
        show = "| {} | {} | {} | {:.1f} | {:.0f} | {:.1f} | {:.0f} | {:.4f} |"
        print(show.format("medkd train", len(read["train"]), n_tokens, *ours), flush=True)
        if options.peer:
            peer = measure_peer(
                options.peer.absolute(),
                merged,
                folder / "peer",
                n_tokens,
                -(-len(read["train"]) // BATCH),
            )
            print(show.format("LLaMA-Factory", len(read["train"]), n_tokens, *peer))
            ratios = (
                ours.tokens_per_second / peer.tokens_per_second,
                ours.startup_s / peer.startup_s,
                ours.peak_mib / peer.peak_mib,
            )
            print(
                f"tokens/s x {ratios[0]:.2f}, start-up x {ratios[1]:.2f}, memory x {ratios[2]:.2f}",
                flush=True,
            )
        few = read["train"][:64]
        many = [row.model_copy(update={"id": f"{row.id}#{n}"}) for n in range(10) for row in few]
        long = [row.model_copy(update={"input": row.input * 4}) for row in few]
        for title, rows in (
            ("64 rows", few),
            ("x 10 rows", many),
            ("x 4 length of the record", long),
        ):
            data, tokens = (
                write(folder / f"data-{title.replace(' ', '-')}", rows, read["val"]),
                count_tokens(rows),
            )
            grown = measure_ours(data, folder / f"out-{title.replace(' ', '-')}", tokens)
            print(show.format(title, len(rows), tokens, *grown), flush=True)


if __name__ == "__main__":
    main()
