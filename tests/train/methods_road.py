"""Every method after supervised training from one start, by its stage, each gone on from a kill, and
all of them in one table.

By hand: `PYTHONPATH=src:tests python tests/train/methods_road.py DIR`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from medkd.core.config import make_config
from medkd.core.jsonl import write_records
from medkd.demo.teacher import serve_teacher
from medkd.grading.rubric import Criterion, QuestionRubric
from medkd.stages import STAGES
from student_samples import (
    make_example,
    make_random_model,
    read_lines,
    undo_last_steps,
    write_examples,
)

N_STEPS = 4


def run(stage: str, out: Path, **fields: Any) -> Path:
    """Run a stage as its command does."""
    module = STAGES[stage].load()
    module.run(make_config(module.Config, {**fields, "out": out}, stage))
    return out


def run_twice(stage: str, out: Path, **fields: Any) -> Path:
    """Run a stage, undo what followed its last checkpoint but one, and go on."""
    run(stage, out, **fields)
    undo_last_steps(out, N_STEPS)
    run(stage, out, **fields)
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    assert facts["resumed_from_step"] == N_STEPS - 1
    return out


def walk(root: Path) -> Path:
    """Walk the road; returns the directory of `compare`."""
    base = {"model": str(make_random_model(root / "base")), "device": "cpu"}
    write_examples(root / "rows/train.jsonl", range(24))
    write_examples(root / "asked/test.jsonl", range(24))
    write_examples(root / "rows/test.jsonl", range(30, 42))
    write_examples(root / "rows/val.jsonl", range(24, 30))
    learnt = {"epochs": 50, "learning_rate": 1e-2, "max_length": 256}
    start = run("train", root / "start", **base, **learnt, input=root / "rows")

    asked = {**base, "max_tokens": 64, "dtype": "float32"}
    wrong = run(
        "evaluate",
        root / "wrong",
        **asked,
        adapter=start,
        input=root / "asked",
        temperature=1.0,
        allow_seen=True,
    )
    merged = run(
        "merge", root / "merge", input=[root / "rows/train.jsonl"], pairs=[wrong], near=1.0
    )
    assert read_lines(merged / "preferences.jsonl")

    go_on = {**base, "adapter": start, "trainer": {"max_steps": N_STEPS, "save_steps": 1}}
    methods = {"start": start}
    for method in ("dpo", "kto"):
        methods[method] = run_twice(
            "train", root / method, **go_on, method=method, input=merged, learning_rate=5e-4
        )
    own = {"method": "on-policy", "teacher": "self", "input": root / "rows", "max_tokens": 64}
    methods["self"] = run_twice("train", root / "self", **go_on, **own, learning_rate=5e-4)
    criteria = [
        QuestionRubric(
            id=example.id, criteria=(Criterion(text=f"说出「{example.answer}」", points=10),)
        )
        for example in map(make_example, range(24))
    ]
    (root / "rubric").mkdir(exist_ok=True)
    write_records(root / "rubric/rubrics.jsonl", criteria)
    with serve_teacher(faults=0.0, latency_s=0) as server:
        judged = {
            "judge": "custom",
            "judge_model": "rehearsal",
            "judge_base_url": server.base_url,
            "rubric": root / "rubric",
            "rewards": {"diagnosis": 1.0, "rubric": 1.0},
            "accept_identified": True,
        }
        small = {
            "steps": N_STEPS,
            "questions": 2,
            "group_size": 4,
            "max_tokens": 96,
            "trainer": {"temperature": 0.7},
        }
        methods["grpo"] = run_twice(
            "reinforce",
            root / "grpo",
            **base,
            **judged,
            **small,
            adapter=start,
            input=root / "rows",
            learning_rate=1e-3,
        )
    evaluated = [
        run("evaluate", root / f"evaluate-{name}", **asked, adapter=trained, input=root / "rows")
        for name, trained in methods.items()
    ]
    return run("compare", root / "compare", input=evaluated, names=list(methods))


if __name__ == "__main__":
    os.environ["MEDKD_API_KEY"] = "none"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(walk(Path(sys.argv[1])))
