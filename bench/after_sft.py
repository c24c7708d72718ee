"""What each method does after supervised training, in the rehearsal world: preferences (DPO), group
rewards (GRPO) and on-policy distillation (from the student with the answer at hand, and from an
open teacher: the demo's student, which learnt from all traces), beside more supervised training
for as many seconds as the slowest of them took.

In: `--merged`, a finished `merge` of the demo. As where traces are bought, few questions have one:
`--traces` of them are what supervised training sees, in the start and after it. The others have
their known answer alone, which is all that the methods need: pairs are a right and a wrong answer
that the start itself draws to one training question. Out: a line a student: greedy accuracy, form,
stops, seconds trained, and the paired differences from the start and from more supervised training
with their 95 % interval over questions (each one's mean over the seeds).
Run: `.venv/bin/python bench/after_sft.py --merged runs/demo/merge --out runs/after-sft --seeds 0`;
finished parts are read. It says nothing about medicine.
"""

import argparse
import json
import math
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from medkd.core import thinking
from medkd.core.config import make_config
from medkd.core.jsonl import RecordReader, write_records
from medkd.core.records import Example, Prediction, Preference, Rejected, Sampling
from medkd.grading.diagnosis import grade
from medkd.models.load import resolve_adapter
from medkd.stages import STAGES
from medkd.train.config import Config
from medkd.train.rollouts import Sampler, make_prompts
from medkd.train.student import load_student

SHARED = {"model": "medkd:tiny"}
SFT = {"learning_rate": 2e-3, "max_length": 1024}
METHODS = ["start", "DPO", "on-policy, self", "on-policy, teacher", "GRPO", "more SFT"]
"""More supervised training comes last: it gets the seconds of the slowest before it."""
RATES = ("diagnosis_accuracy", "think_format_rate", "stop_rate")


def run_stage(stage: str, fields: dict[str, Any]) -> Path:
    """Run a stage; a finished one is only read."""
    module = STAGES[stage].load()
    module.run(make_config(module.Config, SHARED | fields, stage))
    return fields["out"]


def draw_pairs(start: Path, merged: Path, out: Path, n_questions: int, seed: int) -> Path:
    """Draw four answers to each of some training questions, and pair a right one with a wrong
    one."""
    path = out / "preferences.jsonl"
    if path.exists():
        return out
    examples = list(RecordReader(merged / "train.jsonl", Example, made_by="merge"))[:n_questions]
    config = Config(model="medkd:tiny", input=merged, out=out, device="cpu")
    student = load_student(config, resolve_adapter(start))
    sampling = Sampling(max_tokens=256, temperature=1.0, seed=seed)
    sampler = Sampler(student.model, student.tokenizer, sampling)
    questions = make_prompts(student.tokenizer, examples, student.plain_template)
    pairs: list[Preference] = []
    for example, group in zip(examples, sampler.draw_rollouts(questions, 4), strict=True):
        thoughts = [thinking.read(rollout.text) for rollout in group]
        whole = [thought for thought in thoughts if thought.reasoning and thought.answer]
        grades = [grade(thought.answer, example.reference) for thought in whole]
        right = [t for t, g in zip(whole, grades, strict=True) if g.verdict == "right"]
        wrong = [t for t, g in zip(whole, grades, strict=True) if g.verdict == "wrong"]
        if right and wrong:
            worse = Rejected(
                reasoning=wrong[0].reasoning or "",
                answer=wrong[0].answer,
                why="wrong_answer",
                origin="student",
            )
            better = {"reasoning": right[0].reasoning, "answer": right[0].answer}
            pairs.append(
                Preference.model_validate(example.model_dump() | better | {"rejected": worse})
            )
    out.mkdir(parents=True, exist_ok=True)
    write_records(path, pairs)
    print(f"{len(pairs)} pairs of {len(examples)} questions", flush=True)
    return out


def take_traces(merged: Path, out: Path, n_rows: int) -> Path:
    """Write the first rows of `train.jsonl` to a folder that supervised training reads."""
    if not out.exists():
        out.mkdir(parents=True)
        examples = RecordReader(merged / "train.jsonl", Example, made_by="merge")
        write_records(out / "train.jsonl", islice(examples, n_rows))
        shutil.copy(merged / "val.jsonl", out)
    return out


def read_seconds(trained: Path) -> float:
    """Read how long a training took."""
    return json.loads((trained / "manifest.json").read_text(encoding="utf-8"))["seconds"]


def train_all(options: argparse.Namespace, seed: int) -> dict[str, Path]:
    """Train the start and what follows it with one seed; returns the directories."""
    merged, out = options.merged, options.out / f"seed-{seed}"
    traces = take_traces(merged, options.out / "traces", options.traces)

    def train_on_traces(name: str, n_steps: int) -> Path:
        fields = {"input": traces, "seed": seed, "out": out / name}
        return run_stage("train", SFT | fields | {"trainer": {"max_steps": n_steps}})

    start = train_on_traces("start", options.start_steps)
    go_on = {"input": merged, "seed": seed, "adapter": start}

    def prefer() -> Path:
        pairs = draw_pairs(start, merged, out / "pairs", options.pairs, seed)
        fields = {"method": "dpo", "input": pairs, "epochs": 2.0, "learning_rate": 2e-4}
        return run_stage("train", go_on | fields | {"out": out / "dpo"})

    def distil(name: str, **teacher: str) -> Path:
        fields = {"method": "on-policy", "max_tokens": 256, **teacher}
        fields |= {"learning_rate": 5e-4, "trainer": {"max_steps": options.steps}}
        return run_stage("train", go_on | fields | {"out": out / name})

    def reinforce() -> Path:
        fields = {"steps": options.grpo_steps, "questions": 16, "group_size": 8, "batch_size": 32}
        fields |= {"max_tokens": 256, "learning_rate": 1e-3}
        return run_stage("reinforce", go_on | fields | {"out": out / "grpo"})

    def train_longer() -> Path:
        longest = max(map(read_seconds, made.values()))
        share = longest / read_seconds(start)
        return train_on_traces("more-sft", round(options.start_steps * (1 + share)))

    ways = {
        "DPO": prefer,
        "on-policy, self": lambda: distil("on-policy", teacher="self"),
        "on-policy, teacher": lambda: distil("teacher", teacher_model=str(options.teacher)),
        "GRPO": reinforce,
    }
    made: dict[str, Path] = {"start": start}
    for name, train in (ways | {"more SFT": train_longer}).items():
        if name in options.methods:
            made[name] = train()
    return made


def read_right(directory: Path) -> dict[str, float]:
    """Read which questions were answered right."""
    predictions = RecordReader(directory / "predictions.jsonl", Prediction, made_by="evaluate")
    return {p.id: float(grade(p.answer, p.reference).principal) for p in predictions}


def compare(one: Sequence[dict[str, float]], other: Sequence[dict[str, float]]) -> str:
    """Return the mean difference over questions and its 95 % interval."""
    differences = [
        fmean(each[i] for each in one) - fmean(each[i] for each in other) for i in one[0]
    ]
    half = 1.96 * stdev(differences) / math.sqrt(len(differences))
    mean = fmean(differences)
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def main() -> None:
    """Train, ask and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merged", type=Path, default=Path("runs/demo/merge"))
    parser.add_argument("--out", type=Path, default=Path("runs/after-sft"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=319, help="test questions asked")
    parser.add_argument("--pairs", type=int, default=294, help="questions to draw pairs of")
    parser.add_argument("--traces", type=int, default=48, help="rows of supervised training")
    parser.add_argument("--start-steps", type=int, default=18, help="supervised steps of the start")
    parser.add_argument("--steps", type=int, default=16, help="steps of on-policy distillation")
    parser.add_argument("--grpo-steps", type=int, default=8)
    parser.add_argument("--teacher", type=Path, default=Path("runs/demo/export"))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    options = parser.parse_args()
    right: dict[str, list[dict[str, float]]] = {}
    rates: dict[str, list[list[float]]] = {}
    for seed in options.seeds:
        for name, trained in train_all(options, seed).items():
            out = trained.with_name(f"evaluate-{trained.name}")
            asked = {"adapter": trained, "input": options.merged, "limit": options.limit}
            run_stage("evaluate", asked | {"max_tokens": 256, "out": out})
            scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
            right.setdefault(name, []).append(read_right(out))
            measured = [scores[rate] for rate in RATES] + [read_seconds(trained)]
            rates.setdefault(name, []).append(measured)
    others = [name for name in ("start", "more SFT") if name in right]
    heads = " | ".join(f"less {name}" for name in others)
    print(f"| student | accuracy | think format | stops | s trained | {heads} |")
    print("|---" * (5 + len(others)) + "|")
    for name, measured in rates.items():
        *shown, seconds = (fmean(column) for column in zip(*measured, strict=True))
        cells = " | ".join(f"{value:.3f}" for value in shown)
        apart = " | ".join(compare(right[name], right[other]) for other in others)
        print(f"| {name} | {cells} | {seconds:.0f} | {apart} |")
    n = len(next(iter(right.values()))[0])
    print(f"\nn {n} questions, seeds {options.seeds}, greedy")


if __name__ == "__main__":
    main()
