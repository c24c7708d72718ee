"""What the same money buys in the rehearsal world: one trace, several, chosen questions,
corrections, preferences on top of them, rounds.

Every arm spends the same money of the rehearsal teacher on the same cases, trains the shipped
student on what it bought, and is asked the same unseen questions. Invented cases and a student of
2.6 M parameters: it shows that the machinery works, and nothing about medicine.

    PYTHONPATH=src python bench/method.py --seeds 0 1 2 --out bench-method
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from medkd.core.config import make_config
from medkd.core.errors import StoppedError
from medkd.core.stage_output import Manifest, read_manifest
from medkd.core.statistics import compare_paired, wilson_interval
from medkd.demo.mock_site import serve_site
from medkd.demo.synthetic_cases import generate_cases
from medkd.demo.teacher import serve_teacher
from medkd.stages import STAGES

STUDENT = "medkd:tiny"
TRAINING = {"epochs": 3.0, "learning_rate": 2.0e-3, "max_length": 1024}
PREFERENCES = {"method": "dpo", "epochs": 2.0, "learning_rate": 2.0e-4, "max_length": 1024}
N_ROUNDS = 2
MAX_TOKENS = 256


class World(NamedTuple):
    """One seed's cases, and what all arms of it share."""

    folder: Path
    seed: int
    money: float
    teacher: str = ""
    """Address of the arm's teacher."""


class Result(NamedTuple):
    """What an arm came to with one seed."""

    money: float
    bought: int
    """Rationales that merge read."""
    rows: int
    """What merge kept of them: copies fall away."""
    right: dict[str, float]


def run_stage(stage: str, out: Path, **fields: Any) -> Manifest:
    """Run a stage; one that stops at its budget has done its work."""
    module = STAGES[stage].load()
    config = make_config(module.Config, {"out": out, **fields}, f"bench {stage}")
    try:
        return module.run(config)
    except StoppedError as error:
        if not str(error).startswith("--budget"):
            raise
    return read_manifest(out)


def make_world(folder: Path, seed: int, n_cases: int, money: float) -> World:
    """Collect, mask and ask the cases of a seed; a third of them is kept to measure on."""
    with serve_site(generate_cases(n_cases, seed)) as site:
        run_stage("collect", folder / "collect", source="iiyi", base_url=site.base_url, delay=0)
    run_stage("deidentify", folder / "deidentify", input=folder / "collect")
    shares = {"val_share": 0.33, "test_share": 0.0, "seed": seed}
    run_stage("prepare", folder / "prepare", input=folder / "deidentify", **shares)
    return World(folder, seed, money)


def evaluate(world: World, name: str, **fields: Any) -> dict[str, float]:
    """Ask the unseen questions; returns which were answered rightly."""
    given = {"input": world.folder / "prepare", "split": "val", "model": STUDENT}
    out = world.folder / name / "evaluate"
    run_stage("evaluate", out, **given, max_tokens=MAX_TOKENS, **fields)
    rows = map(json.loads, (out / "rows.jsonl").read_text("utf-8").splitlines())
    return {row["id"]: row["scores"]["diagnosis_accuracy"] for row in rows}


def select(world: World, folder: str = "", **fields: Any) -> Path:
    """Have the student answer the training questions twice; the untrained one once for all arms."""
    out = world.folder / folder / "select"
    given = {"input": world.folder / "prepare", "model": STUDENT, "samples": 2}
    run_stage("select", out, **given, max_tokens=MAX_TOKENS, **fields)
    return out


def buy(world: World, name: str, questions: Path, **fields: Any) -> Manifest:
    """Spend the money on training questions, in a drawn order."""
    folder = world.folder / name
    folder.mkdir(exist_ok=True)
    lines = (questions / "questions.jsonl").read_text("utf-8").splitlines()
    train = [line for line in lines if json.loads(line)["split"] == "train"]
    (folder / "questions.jsonl").write_text("\n".join(train) + "\n", "utf-8")
    given = {"input": folder, "teacher": "rehearsal", "base_url": world.teacher}
    given |= {"budget": world.money, "max_tokens": 1024, "concurrency": 1}
    return run_stage("distill", folder / "distill", **given, **fields)


def learn(
    world: World,
    name: str,
    traces: int = 1,
    pairs: Path | None = None,
    before: Sequence[Path] = (),
) -> Result:
    """Check and merge what was bought, now and `before`, train on it, then on `pairs` with the
    student's wrong answers there; ask."""
    folder = world.folder / name
    run_stage("verify", folder / "verify", input=folder / "distill")
    given: dict[str, Any] = {"val_share": 0, "test_share": 0, "traces": traces}
    given |= {"pairs": [pairs]} if pairs else {}
    inputs = [*before, folder / "verify"]
    counts = run_stage("merge", folder / "merge", input=inputs, **given).counts
    trained = {"input": folder / "merge", "model": STUDENT}
    run_stage("train", folder / "train", **trained, **TRAINING)
    adapter = folder / "train" / "adapter"
    if pairs:
        run_stage("train", folder / "prefer", **trained, adapter=adapter, **PREFERENCES)
        adapter = folder / "prefer" / "adapter"
    money = sum(read_manifest(one.parent / "distill").cost.amount for one in inputs)
    return Result(money, counts.read, counts.kept, evaluate(world, name, adapter=adapter))


Arm = Callable[[World, str], Result]


def _spend(
    traces: int = 1, is_selected: bool = False, has_pairs: bool = False, **fields: Any
) -> Arm:
    def arm(world: World, name: str) -> Result:
        more = dict(fields)
        questions = world.folder / "prepare"
        if is_selected or more.get("mode") == "correct":
            questions = select(world)
        if more.get("mode") == "correct":
            more["from_"] = questions
        buy(world, name, questions, **more)
        return learn(world, name, traces, questions if has_pairs else None)

    return arm


def _go_in_rounds(world: World, name: str) -> Result:
    """Spend the money in equal parts, each on what the student of the part before gets wrong."""
    result: Result | None = None
    adapter: Path | None = None
    before: list[Path] = []
    for number in range(1, N_ROUNDS + 1):
        part = f"{name}-{number}"
        questions = select(world, part, adapter=adapter) if adapter else select(world)
        share = world._replace(money=world.money / N_ROUNDS)
        buy(share, part, questions, mode="correct", from_=questions)
        result = learn(world, part, traces=N_ROUNDS, before=before)
        adapter = world.folder / part / "train" / "adapter"
        before.append(world.folder / part / "verify")
    assert result is not None
    return result


ARMS: dict[str, Arm] = {
    "base": lambda world, name: Result(0.0, 0, 0, evaluate(world, name)),
    "one trace": _spend(),
    "three traces": _spend(traces=3, samples=3),
    "selected": _spend(is_selected=True),
    "correction": _spend(mode="correct"),
    "pairs": _spend(mode="correct", has_pairs=True),
    "rounds": _go_in_rounds,
}


def main(arguments: list[str]) -> None:
    """Measure the arms that are named, or all; a killed bench goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", type=int, default=240)
    parser.add_argument("--money", type=float, default=0.03)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path("bench-method"))
    given = parser.parse_args(arguments)
    found: dict[str, list[Result]] = {}
    for seed in given.seeds:
        world = make_world(given.out / f"seed-{seed}", seed, given.cases, given.money)
        for name in given.arms:
            began = time.monotonic()
            with serve_teacher() as teacher:  # its own: no arm finds the prompts of another cached
                asked = world._replace(teacher=teacher.base_url)
                result = ARMS[name](asked, name.replace(" ", "-"))
            found.setdefault(name, []).append(result)
            print(f"seed {seed}, {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
            print_table(found)


def print_table(found: dict[str, list[Result]]) -> None:
    """Print accuracy with its interval, against money and rows, over the seeds so far; and that of
    the questions which the base answered rightly and of the others."""
    print(
        "| arm | seeds | bought | rows | money | right | n | accuracy | 95 % | against one trace ",
        end="",
    )
    print("| base right | base wrong |")
    print("|---" * 12 + "|", flush=True)
    for name, results in found.items():
        right = [value for one in results for value in one.right.values()]
        low, high = wilson_interval(round(sum(right)), len(right))
        apart = ""
        if name != "one trace" and len(found.get("one trace", ())) >= len(results):
            pairs = zip(found["one trace"], results, strict=False)
            first = [one.right[key] for one, other in pairs for key in other.right]
            found_apart = compare_paired(first, right)
            apart = f"{found_apart.difference:+.3f} (p {found_apart.p:.3f})"
        cells = [
            name,
            str(len(results)),
            f"{fmean(one.bought for one in results):.0f}",
            f"{fmean(one.rows for one in results):.0f}",
            f"{fmean(one.money for one in results):.4f}",
            f"{sum(right):.0f}",
            str(len(right)),
            f"{fmean(right):.3f}",
            f"{low:.3f} to {high:.3f}",
            apart,
            *_split_by_base(results, found.get("base", [])),
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def _split_by_base(results: list[Result], base: list[Result]) -> list[str]:
    parts: dict[bool, list[float]] = {True: [], False: []}
    for one, before in zip(results, base, strict=False):
        for key, value in one.right.items():
            parts[bool(before.right[key])].append(value)
    return [f"{fmean(part):.3f} (n {len(part)})" if part else "" for part in parts.values()]


if __name__ == "__main__":
    main(sys.argv[1:])
