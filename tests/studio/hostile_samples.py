"""Texts that try to break into a page, and a run made of them."""

import json
from pathlib import Path

from medkd.completers.ledger import FILE_NAME, Ledger
from medkd.completers.outcomes import AttemptOutcome, AttemptResult, Charge
from medkd.completers.providers import Price, find_target
from medkd.core.jsonl import MANIFEST
from medkd.core.records import Prediction, Usage
from medkd.core.stage_output import Manifest
from medkd.grading.scores import score, summarise, to_columns

HOSTILE = (
    "<img src=x onerror=\"document.title='broken in'\"><script>alert(1)</script> [a link](javascript:alert(1)) "
    "![](http://evil.example/x.png) ${document.title='broken in'} {{constructor.constructor('alert(1)')()}} "
    "<a href='http://evil.example'>a</a> </td></table><style>*{}</style>"
)
HUGE = "长" * 1_000_000


def make_step(folder: Path, stage: str) -> Path:
    folder.mkdir(parents=True)
    manifest = Manifest(
        stage=stage, state="finished", identity="x", config={}, started_at="2026-01-01"
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def write(path: Path, *rows: dict) -> None:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def make_hostile_runs(runs: Path) -> Path:
    """A run whose every text tries to break in, and whose second answer is a megabyte long."""
    question = {
        "id": "q:1", "case_id": "q:1", "source": HOSTILE, "url": "javascript:alert(1)", "department": [HOSTILE], "system": "",
        "instruction": "", "input": f"体温38.5℃ {HOSTILE}", "reference": HOSTILE, "split": "test", "deidentified_by": "x",
    }  # fmt: skip
    rationale = {
        "id": "q:1", "question": question, "sample": 0, "reasoning": f"体温38.5℃ {HOSTILE}", "answer": HOSTILE, "finish_reason": "stop",
        "complete": True, "model": HOSTILE, "mode": "rationalize", "attempts": 1, "usage": {}, "cost": {},
    }  # fmt: skip
    verdict = {"check": "loop", "passed": False, "reason": HOSTILE, "detail": HOSTILE}
    huge = rationale | {"id": "q:2", "reasoning": HUGE, "answer": HUGE}
    write(
        make_step(runs / "bad" / "verify", "verify") / "verified.jsonl",
        *({"rationale": r, "verdicts": [verdict]} for r in (rationale, huge)),
    )
    evaluated = make_step(runs / "bad" / "evaluate", "evaluate")
    prediction = {
        "prompt": HOSTILE,
        "question": HOSTILE,
        "reasoning": HOSTILE,
        "answer": HOSTILE,
        "raw": HOSTILE,
        "reference": HOSTILE,
    }
    prediction |= {"teacher": HOSTILE, "department": [], "finish_reason": "stop", "n_tokens": 3}
    write(
        evaluated / "predictions.jsonl",
        prediction | {"id": "q:1"},
        prediction | {"id": "q:2", "answer": HUGE, "raw": HUGE},
    )
    (evaluated / "scores.json").write_text(
        json.dumps(
            {"n": 2, "diagnosis_accuracy": 0.5, "intervals": {"diagnosis_accuracy": [0.1, 0.9]}}
        )
    )
    exported = make_step(runs / "bad" / "export", "export")
    answers = [
        {"question": HOSTILE, "text": HOSTILE, "stopped": True, "thinks": True, "n_tokens": 3}
    ]
    (exported / "Modelfile").write_text("FROM .")
    (exported / "proof.json").write_text(json.dumps({"answers": answers}))
    return runs


def make_evaluation(folder: Path, answers: list[str]) -> None:
    step = make_step(folder, "evaluate")
    ids = [f"q:{n}" for n in range(len(answers))]
    predictions = [
        Prediction(
            id=key, prompt="x", question=f"咳嗽{key}", reasoning="", answer=answer, raw=answer,
            reference="肺炎", finish_reason="stop", n_tokens=3,
        )
        for key, answer in zip(ids, answers, strict=True)
    ]  # fmt: skip
    rows = list(score(predictions))
    write(step / "predictions.jsonl", *(p.model_dump() for p in predictions))
    write(step / "rows.jsonl", *(row.model_dump() for row in rows))
    means, intervals = summarise(to_columns(rows))
    scores = {"n": len(rows), **means, "intervals": intervals}
    (step / "scores.json").write_text(json.dumps(scores))
    (step / "breakdown.json").write_text("{}")


def make_ledger(folder: Path) -> None:
    """A step whose teacher was paid for one answer."""
    price = Price(cache_hit=0, cache_miss=1, output=4)
    with Ledger(make_step(folder, "distill") / FILE_NAME) as ledger:
        ledger.start_run(1)
        attempt = ledger.open_attempt("one", "case:1", find_target("rehearsal"), 10, price).result()
        result = AttemptResult(AttemptOutcome.COMPLETE, "", "流感", "stop", status=200, seconds=0.1)
        charge = Charge(Usage(prompt=10, completion=5), False, 0.5)
        ledger.close_attempt(attempt, result, charge).result()
