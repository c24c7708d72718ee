"""Times the stages over records of this tree beside those of an older commit, in one run.

`python bench/stages.py REF` checks REF out beside, runs `recipes/rehearsal-data.yaml` and a merge
in both trees by turns, and prints seconds a stage and their ratio (1.0: as fast; 2.0: twice).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).parents[1]
RECIPE = "src/medkd/recipes/rehearsal-data.yaml"
STAGES = ("deidentify", "prepare", "distill", "verify", "merge")


@contextmanager
def open_tree(ref: str) -> Iterator[Path]:
    """Check a commit out beside this tree, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "then"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", tree, ref], cwd=TOP, check=True
        )
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=TOP, check=True)


def run_stages(tree: Path, out: Path, n_cases: int) -> dict[str, float]:
    """Seconds of each stage, as the manifests of a finished run tell them."""
    recipe = (tree / RECIPE).read_text().replace("cases: 240", f"cases: {n_cases}")
    path = out.with_suffix(".yaml")
    path.write_text(recipe + "\nmerge: {}\n")
    subprocess.run(
        [sys.executable, "-m", "medkd", "run", str(path), "--out", str(out)],
        env=os.environ | {"PYTHONPATH": str(tree / "src"), "HF_HUB_OFFLINE": "1"},
        cwd=out.parent,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return {
        stage: json.loads((out / stage / "manifest.json").read_text())["seconds"]
        for stage in STAGES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ref", help="commit to compare with")
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    times: dict[str, dict[str, list[float]]] = {
        side: {stage: [] for stage in STAGES} for side in ("then", "now")
    }
    with open_tree(given.ref) as then, tempfile.TemporaryDirectory() as folder:
        for repeat in range(given.repeats):
            for side, tree in (("then", then), ("now", TOP)):
                found = run_stages(tree, Path(folder) / f"{side}-{repeat}", given.cases)
                for stage, seconds in found.items():
                    times[side][stage].append(seconds)
    print(f"{given.cases} cases, best of {given.repeats}; then is {given.ref}\n")
    print("| stage | then, s | now, s | then / now |\n|---|---|---|---|")
    for stage in STAGES:
        before, after = (min(times[side][stage]) for side in ("then", "now"))
        medians = [statistics.median(times[side][stage]) for side in ("then", "now")]
        print(
            f"| {stage} | {before:.2f} | {after:.2f} | {before / after:.2f} "
            f"(medians {medians[0] / medians[1]:.2f}) |"
        )


if __name__ == "__main__":
    main()
