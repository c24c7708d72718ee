"""Is `medkd train` faster than LLaMA-Factory at the same work, and does it learn as much?

Both sides tune one model (LoRA of rank 16 on all linear layers, the same rows, batch, precision,
schedule and seed) for one pass over training rows of a finished demo, on the processor, one after
the other in one run. The model is the shipped student, or with `--shape qwen2.5-0.5b` one of the
true shape and tokenizer of Qwen2.5-0.5B with random weights, on which both sides compute activations
again, as both do by default on a GPU. A token counts once, padding and a
default system text not at all. The rate is that between the first step and the last; start-up is
from the start of the process to the end of its first step; memory is the process's own peak as the
kernel counts it; each validation loss is under the side's own prompt.

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

from medkd.core import thinking
from medkd.core.records import Example
from medkd.models.chat_template import find_end_of_turn, find_plain_template
from medkd.models.load import load_tokenizer, shipped_dir
from medkd.train.preflight import tokenize

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from make_twin import TEXT_END, TURN_END, TWINS, write_tokenizer

BATCHES = {"tiny": 8, "qwen2.5-0.5b": 2}
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


def has_bfloat16() -> bool:
    """Tell whether the processor multiplies in bfloat16; elsewhere LLaMA-Factory would train a
    model of that format in it all the same, many times slower."""
    import torch

    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def make_model(shape: str, out: Path) -> Path:
    """Make a model of the true shape of Qwen2.5-0.5B with random weights, or take the student."""
    if shape == "tiny":
        return shipped_dir()
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    sizes = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    sizes |= {"num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151_936}
    ends = {"bos_token_id": TEXT_END, "eos_token_id": TURN_END}
    dtype = torch.bfloat16 if has_bfloat16() else torch.float32
    config = Qwen2Config(**sizes, **ends, tie_word_embeddings=True, dtype=dtype)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(out)
    write_tokenizer(TWINS["qwen2.5-instruct"], out)
    return out


def measure_ours(
    model: Path, data: Path, out: Path, n_tokens: int, batch: int, is_checkpointed: bool
) -> Measured:
    """Train with `medkd train`."""
    settings = {
        "--model": model,
        "--input": data,
        "--out": out,
        "--device": "cpu",
        "--epochs": 1,
        "--learning-rate": RATE,
        "--batch-size": batch,
        "--max-length": MAX_LENGTH * 4,
        "--trainer.logging-steps": 1,
        "--trainer.activation-checkpointing": is_checkpointed,
        "--trainer.save-strategy": "no",
        "--trainer.eval-strategy": "epoch",
        "--trainer.load-best-model-at-end": False,
    }
    words = [str(word) for pair in settings.items() for word in pair]
    command = [sys.executable, "-m", "medkd", "train", *words]
    return watch(command, out / "metrics.jsonl", n_tokens, out.parent, dict(os.environ))


def measure_peer(
    cli: Path, model: Path, data: Path, out: Path, n_tokens: int, n_steps: int, batch: int
) -> Measured:
    """Train with LLaMA-Factory."""

    settings = {
        "model_name_or_path": str(model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_target": "all",
        "dataset": "medkd_train",
        "eval_dataset": "medkd_val",
        "dataset_dir": str(data),
        "template": "qwen",
        "cutoff_len": MAX_LENGTH,
        "output_dir": str(out),
        "overwrite_cache": True,
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": batch,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 5,
        "logging_steps": 1,
        "bf16": has_bfloat16(),
        "eval_strategy": "steps",
        "eval_steps": n_steps,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 0,
        "use_cpu": True,
    }
    (out.parent / "peer.yaml").write_text(yaml.safe_dump(settings))
    command = [str(cli), "train", str(out.parent / "peer.yaml")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return watch(command, out / "trainer_log.jsonl", n_tokens, out.parent, environment)


def count_tokens(examples: list[Example], model: Path) -> int:
    """Count the tokens of all rows, padding and a default system text apart."""
    tokenizer = load_tokenizer(model)
    template, end = find_plain_template(load_tokenizer(shipped_dir())), find_end_of_turn(tokenizer)
    rows, _ = tokenize(examples, tokenizer, "reasoned", MAX_LENGTH * 4, template, end)
    return sum(len(row.input_ids) for row in rows)


def write(folder: Path, rows: dict[str, list[Example]]) -> Path:
    """Write rows as merge does, LLaMA-Factory's beside them."""
    folder.mkdir(parents=True)
    registry = {}
    columns = {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}
    for name, examples in rows.items():
        lines = "".join(row.model_dump_json() + "\n" for row in examples)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        content = [
            row.model_dump(include={"system", "instruction", "input"})
            | {"output": thinking.write(row.reasoning, row.answer)}
            for row in examples
        ]
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False))
        registry[f"medkd_{name}"] = {"file_name": f"{name}.json", "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps(registry))
    return folder


def main() -> None:
    """Measure both sides and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--shape", choices=BATCHES, default="tiny")
    parser.add_argument("--rows", type=int, help="train on the first so many rows")
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
    train = read["train"][: options.rows]
    batch = BATCHES[options.shape]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write(folder / "data", {"train": train, "val": read["val"][: len(train)]})
        model = make_model(options.shape, folder / "model")
        n_tokens = count_tokens(train, model)
        is_checkpointed = options.shape != "tiny"
        ours = measure_ours(model, data, folder / "ours", n_tokens, batch, is_checkpointed)
        print("| | rows | tokens | start-up s | tokens/s | all s | peak MiB | val loss |")
        print("|---" * 8 + "|")
        show = "| {} | {} | {} | {:.1f} | {:.0f} | {:.1f} | {:.0f} | {:.4f} |"
        print(show.format("medkd train", len(train), n_tokens, *ours), flush=True)
        if options.peer:
            n_steps = -(-len(train) // batch)
            peer = measure_peer(
                options.peer.absolute(), model, data, folder / "peer", n_tokens, n_steps, batch
            )
            print(show.format("LLaMA-Factory", len(train), n_tokens, *peer))
            print(
                f"tokens/s x {ours.tokens_per_second / peer.tokens_per_second:.2f}, "
                f"start-up x {ours.startup_s / peer.startup_s:.2f}, "
                f"memory x {ours.peak_mib / peer.peak_mib:.2f}"
            )


if __name__ == "__main__":
    main()
