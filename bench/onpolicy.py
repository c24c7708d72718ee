"""Does an open teacher's word on each token bring more than further supervised training for the
same time? Three students a seed.

In: a run directory with `merge`, and a teacher (`recipes/larger-teacher.yaml`). Out: a line a
student, asked with the likeliest token and sampled at temperature 1, then the mean difference with
its 95 % interval over questions. *Start* is the demo's training; *on-policy* goes on from it; *more
SFT* trains from the base for as many epochs as take the processor time of both together.
Run: `.venv/bin/python bench/onpolicy.py --run runs/demo --teacher runs/larger-teacher/train`;
finished parts are only read.
"""

import argparse
import json
import math
import time
from pathlib import Path
from statistics import fmean, stdev

from medkd.core.config import make_config, read_recipe
from medkd.core.jsonl import RecordReader, write_json
from medkd.core.records import Prediction
from medkd.grading.diagnosis import grade
from medkd.pipeline import STAGES

RATES = ("diagnosis_accuracy", "think_format_rate", "stop_rate", "loop_rate", "mean_tokens")
HEADINGS = ("accuracy", "thinks", "stops", "loops", "tokens")
TEMPERATURES = {"likeliest": 0.0, "sampled": 1.0}


def run_stage(stage: str, fields: dict) -> None:
    """Run a stage; a finished one is only read."""
    module = STAGES[stage].load()
    module.run(make_config(module.Config, fields, stage))


def train(out: Path, fields: dict) -> float:
    """Train, and give the processor time that it took, in seconds."""
    began, spent = time.process_time(), out / "processor_s.json"
    run_stage("train", fields | {"out": out / "train"})
    if not spent.exists():
        write_json(spent, round(time.process_time() - began, 1))
    return float(json.loads(spent.read_text(encoding="utf-8")))


def ask(out: Path, fields: dict, seed: int) -> dict[str, Path]:
    """Ask a model in both ways; gives the evaluations."""
    found = {way: out / f"evaluate-{way}" for way in TEMPERATURES}
    for way, temperature in TEMPERATURES.items():
        run_stage(
            "evaluate", fields | {"temperature": temperature, "seed": seed, "out": found[way]}
        )
    return found


def show(seed: object, name: str, seconds: object, evaluations: dict[str, Path]) -> None:
    """Print the lines of one model."""
    for way, directory in evaluations.items():
        scores = json.loads((directory / "scores.json").read_text(encoding="utf-8"))
        cells = " | ".join(
            f"{scores[rate]:.3f}" if rate != "mean_tokens" else f"{scores[rate]:.0f}"
            for rate in RATES
        )
        print(f"| {seed} | {name} | {seconds} | {way} | {cells} |", flush=True)


def read_right(directory: Path) -> dict[str, float]:
    """Read which questions were answered right."""
    predictions = RecordReader(directory / "predictions.jsonl", Prediction, made_by="evaluate")
    return {p.id: float(grade(p.answer, p.reference).principal) for p in predictions}


def compare(way: str, one: list[Path], other: list[Path]) -> None:
    """Print by how much the first students are more often right, each question's means over the
    seeds compared."""
    first, second = ([read_right(directory) for directory in group] for group in (one, other))
    differences = [
        fmean(right[i] for right in first) - fmean(right[i] for right in second) for i in first[0]
    ]
    half = 1.96 * stdev(differences) / math.sqrt(len(differences))
    print(
        f"accuracy, {way}: {fmean(differences):+.3f} [{fmean(differences) - half:+.3f}, {fmean(differences) + half:+.3f}]",
        flush=True,
    )


def main() -> None:
    """Measure the teacher and each seed, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--teacher", type=Path, default=Path("runs/larger-teacher/train"))
    parser.add_argument("--recipe", type=Path, default=Path("recipes/demo.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--limit", type=int, default=200, help="questions asked")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    recipe, merged, out = (
        read_recipe(options.recipe),
        options.run / "merge",
        options.run / "on-policy",
    )
    supervised = recipe["train"] | {"input": merged}
    asked = {
        "model": supervised["model"],
        "input": merged,
        "max_tokens": recipe["evaluate"]["max_tokens"],
        "limit": options.limit,
    }
    print(
        "| seed | student | processor s | asked | "
        + " | ".join(HEADINGS)
        + " |\n|"
        + "---|" * (4 + len(HEADINGS)),
        flush=True,
    )
    found: dict[str, list[dict[str, Path]]] = {"start": [], "on-policy": [], "more SFT": []}
    for seed in options.seeds:
        place = {name: out / f"{name.replace(' ', '-')}-{seed}" for name in found}
        spent = {"start": train(place["start"], supervised | {"seed": seed})}
        spent["on-policy"] = train(
            place["on-policy"],
            {
                "model": supervised["model"],
                "input": merged,
                "method": "on-policy",
                "adapter": place["start"] / "train",
                "teacher_model": str(options.teacher),
                "epochs": options.epochs,
                "learning_rate": options.learning_rate,
                "batch_size": options.batch_size,
                "max_tokens": 128,
                "seed": seed,
            },
        )
        times = (spent["start"] + spent["on-policy"]) / spent["start"]
        spent["more SFT"] = train(
            place["more SFT"],
            supervised | {"seed": seed, "epochs": round(supervised["epochs"] * times, 1)},
        )
        for name in found:
            found[name].append(ask(place[name], asked | {"adapter": place[name] / "train"}, seed))
            show(
                seed,
                name,
                round(spent[name] + (spent["start"] if name == "on-policy" else 0)),
                found[name][-1],
            )
    show("–", "the teacher", "–", ask(out / "teacher", asked | {"model": str(options.teacher)}, 0))
    for other in ("more SFT", "start"):
        print(f"\non-policy less {other}")
        for way in TEMPERATURES:
            compare(
                way,
                [group[way] for group in found["on-policy"]],
                [group[way] for group in found[other]],
            )


if __name__ == "__main__":
    main()
