"""Does reasoning help in the rehearsal world, whatever the seed? Trains both students anew for each
seed on one demo's data.

In: the run directory of a finished `medkd demo`. Out: a table on the screen, and one line a seed
with both accuracies.
Run: `.venv/bin/python bench/demo_seeds.py --run runs/demo --seeds 0 1 2`
"""

import argparse
import json
from pathlib import Path

from medkd.core.config import make_config, read_recipe
from medkd.stages import STAGES

RATES = (
    "diagnosis_accuracy",
    "think_format_rate",
    "think_unprompted_rate",
    "stop_rate",
    "loop_rate",
)


def measure(run_dir: Path, recipe: dict, seed: int, name: str, train: str, evaluate: str) -> dict:
    """Train and evaluate one student with one seed; finished ones are read."""
    out = run_dir / "seeds" / f"{name}-{seed}"
    fields = recipe[train] | {"input": run_dir / "merge", "out": out / "train", "seed": seed}
    STAGES["train"].load().run(make_config(STAGES["train"].load().Config, fields, train))
    fields = recipe[evaluate] | {
        "input": run_dir / "merge",
        "adapter": out / "train" / "adapter",
        "out": out / "evaluate",
    }
    STAGES["evaluate"].load().run(make_config(STAGES["evaluate"].load().Config, fields, evaluate))
    return json.loads((out / "evaluate" / "scores.json").read_text(encoding="utf-8"))


def main() -> None:
    """Measure each seed and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--recipe", type=Path, default=Path("recipes/demo.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    recipe = read_recipe(options.recipe)
    base = json.loads((options.run / "evaluate-base" / "scores.json").read_text(encoding="utf-8"))
    print("| seed | model | n | " + " | ".join(RATES) + " |")
    print("|---|---|---|" + "---|" * len(RATES))
    print(
        f"| – | base | {base['n']} | " + " | ".join(f"{base[rate]:.3f}" for rate in RATES) + " |",
        flush=True,
    )
    for seed in options.seeds:
        for name, train, evaluate in (
            ("answer_only", "train-answers", "evaluate-answers"),
            ("distilled", "train", "evaluate"),
        ):
            scores = measure(options.run, recipe, seed, name, train, evaluate)
            print(
                f"| {seed} | {name} | {scores['n']} | "
                + " | ".join(f"{scores[rate]:.3f}" for rate in RATES)
                + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
