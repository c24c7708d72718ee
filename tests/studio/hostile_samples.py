"""Texts that try to break into a page, and a run made of them."""

import json
from pathlib import Path

from medkd.core.stage_output import MANIFEST, Manifest

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
