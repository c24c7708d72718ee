"""What the pages make of results: why rows were dropped, how evaluations differ."""

import json
from pathlib import Path

import pytest
from hostile_samples import make_step, write

from medkd.core.stage_output import MANIFEST
from medkd.evaluate.stage import Config as EvaluateConfig
from medkd.evaluate.stage import run as evaluate


def make_evaluation(
    out: Path, answers: list[str], label: str = "<think>发热。</think>急性阑尾炎"
) -> None:
    path = out.with_suffix(".jsonl")
    path.parent.mkdir(parents=True)
    write(
        path,
        *(
            {"prompt": f"请诊断。【主诉】发热{n}", "predict": answer, "label": label}
            for n, answer in enumerate(answers)
        ),
    )
    evaluate(EvaluateConfig(predictions=path, out=out))


def test_a_reason_that_is_picked_opens_the_rows_that_fell_for_it(
    open_studio, watch, tmp_path: Path
) -> None:
    step = make_step(tmp_path / "runs" / "one" / "verify", "verify")
    manifest = json.loads((step / MANIFEST).read_text())
    manifest["counts"] = {"read": 4, "kept": 1, "dropped": {"loop": 2, "refusal": 1}}
    (step / MANIFEST).write_text(json.dumps(manifest))

    def make_row(number: int, reason: str) -> dict:
        question = {"id": f"q:{number}", "input": "发热三天", "reference": "肺炎"}
        verdict = {"check": reason or "form", "passed": not reason, "reason": reason, "detail": ""}
        return {
            "rationale": {
                "id": f"q:{number}",
                "question": question,
                "reasoning": "x",
                "answer": "肺炎",
            },
            "verdicts": [verdict],
        }

    write(step / "verified.jsonl", make_row(0, ""))
    write(step / "rejected.jsonl", make_row(1, "loop"), make_row(2, "refusal"), make_row(3, "loop"))
    studio, watched = open_studio(), watch()
    page = watched.page
    page.set_default_timeout(60_000)
    page.goto(f"{studio.url}/en/data?run=one")
    page.get_by_text("1 of 1 rows").wait_for()
    page.get_by_role("button", name="loop 2").click()
    page.get_by_text("2 of 3 rows").wait_for()
    assert [one.inner_text() for one in page.locator(".rows .id").all()] == ["q:1", "q:3"]
    page.get_by_role("button", name="refusal 1").click()
    page.get_by_text("1 of 3 rows").wait_for()
    page.get_by_role("button", name="refusal 1").click()
    page.get_by_text("3 of 3 rows").wait_for()
    assert watched.errors == []


@pytest.mark.slow
def test_evaluations_are_held_against_the_first_one_and_others_questions_are_told(
    open_studio, watch, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    make_evaluation(runs / "a" / "evaluate", ["急性胆囊炎"] * 15 + ["急性阑尾炎"] * 15)
    make_evaluation(
        runs / "b" / "evaluate",
        ["<think>发热。</think>急性阑尾炎"] * 25 + ["<b>急性胆囊炎</b>"] * 5,
    )
    make_evaluation(runs / "c" / "evaluate", ["急性阑尾炎"] * 30, label="肺炎")
    studio, watched = open_studio(), watch()
    page = watched.page
    page.set_default_timeout(60_000)
    page.goto(f"{studio.url}/en/evaluate?steps=a/evaluate,b/evaluate")
    page.get_by_text("Held against a/evaluate, on the same 30 questions").wait_for()
    accuracy = page.get_by_role("row").filter(has_text="McNemar, 15 gained, 5 lost")
    assert "+0.333" in accuracy.first.inner_text()
    assert "0.0414" in accuracy.first.inner_text()
    page.get_by_role("button", name="they differ 20").click()
    page.get_by_text("20 of 30 rows").wait_for()
    page.goto(f"{studio.url}/en/evaluate?steps=a/evaluate,c/evaluate")
    page.locator(".notice.bad").filter(
        has_text="evaluate all models on the same test file"
    ).wait_for()
    page.get_by_role("cell", name="diagnosis_accuracy").wait_for()
    assert watched.errors == []
