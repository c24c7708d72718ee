"""Every method after supervised training from the demo's student, walked by commands: each is killed
with -9 behind its first checkpoint and gone on, and all of them stand in one table.

By hand: `PYTHONPATH=src:tests python tests/train/methods_road.py RUN DIR`; RUN is a run of `demo`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from medkd.demo.teacher import serve_teacher
from medkd.train.checkpoints import is_complete

N_STEPS = 4
STUDENT = ("--model", "medkd:tiny", "--device", "cpu")


def medkd(*words: object) -> None:
    """Run a command to its end, its messages on this terminal."""
    print("$ medkd", *words, flush=True)
    subprocess.run([sys.executable, "-m", "medkd", *map(str, words)], check=True)


def kill_and_go_on(*words: object, out: Path) -> None:
    """Train until the first whole checkpoint, kill, and go on with the same command."""
    command = [sys.executable, "-m", "medkd", *map(str, words), "--out", str(out)]
    if not out.exists():
        process = subprocess.Popen(command)
        while not any(map(is_complete, out.glob("checkpoints/checkpoint-*"))):
            assert process.poll() is None, "it ended before the first checkpoint"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    medkd(*words, "--out", out)
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    assert facts["resumed_from_step"] >= 1


def walk(run: Path, root: Path) -> None:
    """Walk the road from a run of the demo."""
    start = run / "train"
    evaluate = ("evaluate", *STUDENT, "--max-tokens", 256)
    drawn = ("--split", "train", "--allow-seen", "--temperature", 1, "--limit", 128)
    medkd(*evaluate, "--adapter", start, "--input", run / "merge", *drawn, "--out", root / "drawn")
    merged = root / "merge"
    medkd("merge", "--input", run / "verify", "--pairs", root / "drawn", "--out", merged)

    trained = {"start": start}
    go_on = (*STUDENT, "--adapter", start, "--input", merged, "--trainer.save-steps", 1)
    short = ("--trainer.max-steps", N_STEPS, "--learning-rate", 5e-4)
    own = ("--teacher", "self", "--max-tokens", 256)
    for method, more in {"dpo": (), "kto": (), "on-policy": own}.items():
        trained[method] = root / method
        kill_and_go_on("train", "--method", method, *go_on, *short, *more, out=root / method)
    with serve_teacher(port=8765):
        medkd(
            *("rubric", "--input", merged / "train.jsonl", "--teacher", "rehearsal"),
            *("--out", root / "rubric"),
        )
        trained["grpo"] = root / "grpo"
        kill_and_go_on(
            *("reinforce", *go_on, "--steps", N_STEPS, "--questions", 4, "--group-size", 4),
            *("--max-tokens", 256, "--learning-rate", 5e-4, "--rubric", root / "rubric"),
            *("--judge", "rehearsal", "--rewards.diagnosis", 1, "--rewards.rubric", 1),
            out=root / "grpo",
        )
    measured = {name: root / f"evaluate-{name}" for name in trained}
    for name, adapter in trained.items():
        rows = ("--input", merged, "--limit", 96)
        medkd(*evaluate, "--adapter", adapter, *rows, "--out", measured[name])
    medkd("compare", *measured.values(), "--names", *measured, "--out", root / "compare")


if __name__ == "__main__":
    os.environ["MEDKD_REHEARSAL_KEY"] = "none"
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    walk(Path(sys.argv[1]), Path(sys.argv[2]))
