"""Does reinforcement help in the rehearsal world, whatever the seed? Reinforces one student several
times, and asks before and after.

In: a run directory with `merge` and `train`. Out: a line a seed and draw, then the mean difference
with its 95 % interval. Every answer is sampled at temperature 1, `--draws` times; the interval is
over questions, each one's mean after less its mean before.
Run: `.venv/bin/python bench/grpo_seeds.py --run runs/demo-grpo --seeds 0 1 2`; finished parts are
read, so seeds may be run side by side.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev

from medkd.core.config import make_config, read_recipe
from medkd.core.jsonl import RecordReader
from medkd.core.records import Prediction
from medkd.grading.diagnosis import grade
from medkd.stages import STAGES

RATES = (
    "diagnosis_accuracy",
    "think_format_rate",
    "think_unprompted_rate",
    "stop_rate",
    "loop_rate",
    "mean_tokens",
)


def run_stage(stage: str, fields: dict) -> None:
    """Run a stage; a finished one is only read."""
    module = STAGES[stage].load()
    module.run(make_config(module.Config, fields, stage))


def measure(
    options: argparse.Namespace, recipe: dict, seed: int
) -> Iterator[tuple[str, int, Path]]:
    """Reinforce with one seed, and ask before and after with the same draws; gives each
    evaluation."""
    out, merged, start = options.run / "grpo", options.run / "merge", options.run / "train"
    reinforced, student = out / f"reinforce-{seed}", {"model": recipe["student"]}
    run_stage(
        "reinforce",
        student
        | recipe["reinforce"]
        | {"input": merged, "adapter": start, "out": reinforced, "seed": seed},
    )
    for draw in range(seed * options.draws, (seed + 1) * options.draws):
        for name, adapter in (("start", start), ("reinforced", reinforced)):
            asked = out / f"evaluate-{name}-{draw}"
            run_stage(
                "evaluate",
                student
                | recipe["evaluate"]
                | {"input": merged, "adapter": adapter, "out": asked, "seed": draw},
            )
            yield name, draw, asked


def read_right(directory: Path) -> dict[str, float]:
    """Read which questions were answered right."""
    predictions = RecordReader(directory / "predictions.jsonl", Prediction, made_by="evaluate")
    return {p.id: float(grade(p.answer, p.reference).principal) for p in predictions}


def main() -> None:
    """Measure each seed and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo-grpo"))
    parser.add_argument("--recipe", type=Path, default=Path("recipes/demo-grpo.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--draws", type=int, default=4)
    options = parser.parse_args()
    recipe = read_recipe(options.recipe)
    print("| seed | draw | student | n | " + " | ".join(RATES) + " |")
    print("|---|---|---|---|" + "---|" * len(RATES))
    right: dict[str, list[dict[str, float]]] = {"start": [], "reinforced": []}
    for seed in options.seeds:
        for name, draw, directory in measure(options, recipe, seed):
            scores = json.loads((directory / "scores.json").read_text(encoding="utf-8"))
            right[name].append(read_right(directory))
            print(
                f"| {seed} | {draw} | {name} | {scores['n']} | "
                + " | ".join(f"{scores[rate]:.3f}" for rate in RATES)
                + " |",
                flush=True,
            )
    differences = [
        fmean(after[i] for after in right["reinforced"])
        - fmean(before[i] for before in right["start"])
        for i in right["start"][0]
    ]
    half = 1.96 * stdev(differences) / math.sqrt(len(differences))
    mean = fmean(differences)
    print(f"\nsampled accuracy: {mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]")


if __name__ == "__main__":
    main()
