"""The road of a real base, from `doctor` to `chat`, walked by commands on a twin of a family.

By hand: `PYTHONPATH=src:tests:tools python tests/tools/twin_road.py KIND DIR`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from make_twin import make_twin
from medkd.core import thinking
from medkd.train.checkpoints import is_complete
from student_samples import make_example, read_lines, write_examples

EVERYWHERE = ("--device", "cpu")
KEPT, ASKED, TRAINED = range(16, 38), range(38, 44), range(44, 68)


def medkd(*words: object, said: str = "") -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "medkd", *map(str, words)],
        capture_output=True,
        text=True,
        input=said,
    )
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


def train_and_kill(*words: object, out: Path) -> None:
    """Train until the first whole checkpoint, and kill."""
    command = [sys.executable, "-m", "medkd", "train", *map(str, words), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any(map(is_complete, out.glob("checkpoints/checkpoint-*"))):
        assert process.poll() is None, "it ended before the first checkpoint"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((out / "manifest.json").read_text())["state"] == "running"


def walk(kind: str, out: Path) -> dict[str, object]:
    """Walk the road on one kind; returns what came out."""
    twin = make_twin(kind, out / "twin")
    merged = out / "merge"
    write_examples(merged / "train.jsonl", TRAINED)
    write_examples(merged / "val.jsonl", KEPT)
    write_examples(merged / "test.jsonl", ASKED)
    rows = ("--input", merged, "--max-length", 256, "--batch-size", 6, *EVERYWHERE)

    looked = subprocess.run(
        [sys.executable, "-m", "medkd", "doctor", "--model", twin, *map(str, rows)],
        capture_output=True,
        text=True,
    )
    assert looked.returncode in (0, 2) and "refused" not in looked.stdout, looked.stdout

    full = out / "full"
    whole = ("--method", "full", "--epochs", 28, "--learning-rate", 1e-2)
    whole += ("--trainer.eval-strategy", "no", "--trainer.load-best-model-at-end", False)
    medkd("train", "--model", twin, *rows, *whole, "--out", full)

    lora = out / "lora"
    adapter = ("--model", full, *rows, "--epochs", 4, "--learning-rate", 1e-3)
    train_and_kill(*adapter, "--trainer.save-steps", 2, out=lora)
    medkd("train", *adapter, "--trainer.save-steps", 2, "--out", lora)
    facts = json.loads((lora / "manifest.json").read_text())["facts"]
    assert facts["resumed_from_step"] >= 2

    asked = ("--model", full, "--adapter", lora, "--max-tokens", 96)
    medkd("evaluate", *asked, "--input", merged, *EVERYWHERE, "--out", out / "evaluate")
    scores = json.loads((out / "evaluate/scores.json").read_text())

    medkd(
        *("export", "--model", full, "--adapter", lora, "--gguf", "q8_0", "--max-tokens", 96),
        *("--out", out / "export"),
    )
    proofs = [
        json.loads((out / "export" / name).read_text())
        for name in ("proof.json", "proof-gguf.json")
    ]
    question = make_example(35).input
    answers = [
        medkd("chat", "--model", out / "export" / name, "--max-tokens", 96, said=f"{question}\n")
        for name in (".", "model-q8_0.gguf")
    ]
    predictions = read_lines(out / "evaluate/predictions.jsonl")
    return {
        "doctor": [line for line in looked.stdout.splitlines() if line.startswith("wrong")],
        "resumed_from": facts["resumed_from_step"],
        "thinks": scores["think_format_rate"],
        "stops": scores["stop_rate"],
        "one_thought": all(thinking.is_well_formed(line["raw"]) for line in predictions),
        "proofs": proofs,
        "answers": answers,
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(json.dumps(walk(sys.argv[1], Path(sys.argv[2])), ensure_ascii=False, indent=1))
