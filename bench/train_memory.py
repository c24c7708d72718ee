"""What `medkd doctor` says a training takes against what it takes: the same rows, models of two
sizes, each training a process of its own.

In: `--run`, a finished demo, whose rows are trained on. Out: a line a training: resident memory at
its most, the estimate, and their ratio; then what a larger batch adds on both sides, which is the
formula of the activations alone.
Run: `.venv/bin/python bench/train_memory.py --run runs/demo`
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from medkd.models.inspect import read_model_shape
from medkd.models.load import load_libraries, load_tokenizer, resolve_model
from medkd.train.config import Config, Method
from medkd.train.preflight import GIB, estimate_memory
from medkd.train.stage import make_workload

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from make_tiny_student import build_model

SIZES = ((256, 8), (384, 10))
"""Width and layers."""
METHODS: tuple[Method, ...] = ("lora", "full")
BATCHES = (4, 32)
N_ROWS = 32


def write_rows(run: Path, folder: Path) -> None:
    """Write a few rows of a finished merge as a dataset of their own."""
    lines = (run / "merge/train.jsonl").read_text(encoding="utf-8").splitlines()[:N_ROWS]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(config: Config) -> float:
    """Train in a process of its own and give the most memory that was resident, in bytes."""
    command = [
        sys.executable,
        "-m",
        "medkd",
        "train",
        "--model",
        config.model,
        "--input",
        str(config.input),
        "--out",
        str(config.out),
    ]
    command += [
        "--method",
        config.method,
        "--batch-size",
        str(config.batch_size),
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    command += ["--trainer", '{"bf16": false}']
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(
            f"{' '.join(command)} failed:\n{process.stderr.read().decode()[-2000:] if process.stderr else ''}"
        )
    return usage.ru_maxrss * 1024


def main() -> None:
    """Train each and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    options = parser.parse_args()
    load_libraries()
    print(
        "| parameters | method | tokens a batch | resident, GiB | estimate, GiB | estimate / resident |"
    )
    print("|---|---|---|---|---|---|")
    added: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        write_rows(options.run, Path(place))
        tokenizer = load_tokenizer(resolve_model("medkd:tiny"))
        for width, n_layers in SIZES:
            folder = Path(place) / f"model-{width}"
            model = build_model(tokenizer, seed=0, width=width, n_layers=n_layers)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            shape = read_model_shape(folder)
            for method in METHODS:
                pairs: list[tuple[float, float]] = []
                for batch in BATCHES:
                    out = Path(place) / f"{width}-{method}-{batch}"
                    plain = {"trainer": {"bf16": False}, "device": "cpu"}
                    config = Config(
                        model=str(folder),
                        input=Path(place),
                        out=out,
                        method=method,
                        batch_size=batch,
                        **plain,
                    )
                    resident = measure(config)
                    longest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))[
                        "facts"
                    ]["lengths"]["longest"]
                    workload = make_workload(config, "cpu", longest, 1)
                    estimate = estimate_memory(shape, method, workload)
                    pairs.append((resident, estimate))
                    cells = (
                        f"{resident / GIB:.2f}",
                        f"{estimate / GIB:.2f}",
                        f"{estimate / resident:.2f}",
                    )
                    print(
                        f"| {shape.n_parameters / 1e6:.1f} M | {method} | {workload.n_tokens} | {' | '.join(cells)} |",
                        flush=True,
                    )
                (resident, estimate), (more_resident, more_estimate) = pairs
                more = (more_estimate - estimate) / (more_resident - resident)
                added.append(
                    f"{shape.n_parameters / 1e6:.1f} M {method}: estimate / measured of what the larger batch adds {more:.2f}"
                )
    print("\n" + "\n".join(added))


if __name__ == "__main__":
    main()
