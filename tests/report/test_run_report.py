"""The page about a run, from evaluations of files."""

import json
import os
import subprocess
import sys

import pytest

from medkd.core.records import Cost
from medkd.core.stage_output import Manifest
from medkd.evaluate.stage import Config, run
from medkd.report.run import (
    describe_cost,
    describe_versions,
    is_play_money,
    write_run_report,
)

RIGHT, WRONG = "<think>发热。</think>急性阑尾炎", "急性胆囊炎"


def make_step(folder, answers, name="evaluate"):
    path = folder.parent / f"{folder.name}-{name}.jsonl"
    rows = [
        {"prompt": f"请诊断。【主诉】发热{n}", "predict": answer, "label": RIGHT}
        for n, answer in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(Config(predictions=path, out=folder / name))


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run"
    make_step(folder, [WRONG] * 20 + [RIGHT] * 10, "evaluate-base")
    make_step(folder, [RIGHT] * 25 + [WRONG] * 5, "evaluate")
    return folder


MODELS = {"base": "evaluate-base", "distilled": "evaluate"}


def test_the_page_of_a_real_run_says_nothing_of_invented_cases(run_dir):
    write_run_report(run_dir, MODELS, 3.0)
    page = (run_dir / "report.html").read_text()
    assert "invented" not in page and "<script" not in page
    assert "McNemar, 20 gained, 5 lost" in page
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["distilled"]["diagnosis_accuracy"] == pytest.approx(25 / 30, abs=1e-5)
    write_run_report(run_dir, MODELS, 3.0, is_rehearsal=True)
    assert "the cases of the rehearsal world are invented" in (run_dir / "report.html").read_text()


@pytest.mark.slow
def test_two_processes_show_the_same_answers(run_dir):
    code = (
        "import sys; from pathlib import Path; from medkd.report import write_run_report; "
        f"write_run_report(Path(sys.argv[1]), {MODELS}, 3.0)"
    )
    pages = []
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", code, run_dir],
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        pages.append((run_dir / "report.html").read_text())
    assert pages[0] == pages[1]


def test_few_cases_prove_nothing(tmp_path):
    folder = tmp_path / "run"
    make_step(folder, [WRONG] * 2, "evaluate-base")
    make_step(folder, [RIGHT] * 2, "evaluate")
    write_run_report(folder, MODELS, 3.0)
    page = (folder / "report.html").read_text()
    assert "p 0.5000, fewer than 20 questions" in page
    assert '<tr class="significant"' not in page


def test_models_asked_other_questions_stand_each_for_itself(tmp_path):
    folder = tmp_path / "run"
    make_step(folder, [WRONG] * 4, "evaluate-base")
    make_step(folder, [RIGHT] * 4, "evaluate")
    for name in ("rows.jsonl", "predictions.jsonl"):
        path = folder / "evaluate" / name
        path.write_text(path.read_text().replace('"row:', '"other:'))
    write_run_report(folder, MODELS, 3.0)
    assert "not one question in common" in (folder / "report.html").read_text()


def step(stage="distill", amount=0.0, seconds=1.0, **config):
    return Manifest(
        stage=stage,
        identity="",
        config=config,
        cost=Cost(amount=amount),
        seconds=seconds,
        versions={"medkd": "0.1.0", stage: "1"},
    )


def test_play_money_is_not_shown_as_paid():
    steps = {
        "distill": step(amount=0.5, teacher="rehearsal"),
        "evaluate": step("evaluate", amount=0.25, endpoint="deepseek", judge=""),
    }
    told = str(describe_cost(steps, 7.0))
    assert "0.5000 CNY in distill (play money" in told and "0.2500 CNY in evaluate." in told
    assert "The work of all steps took 2 s, the latest call 7 s." in told
    assert not is_play_money(steps["evaluate"]) and not is_play_money(step("merge"))
    assert not is_play_money(step(teacher="deepseek", judge="rehearsal"))


def test_every_version_is_named_once_and_whole():
    told = describe_versions({name: step(name) for name in ("collect", "merge", "train")})
    assert told == "collect 1, medkd 0.1.0, merge 1, train 1"
