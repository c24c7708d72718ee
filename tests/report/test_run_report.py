"""The page about a run, from evaluations of files."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from medkd.core.errors import InputError
from medkd.core.i18n import Texts
from medkd.core.records import Cost
from medkd.core.stage_output import Manifest
from medkd.evaluate.compare import Config as CompareConfig
from medkd.evaluate.compare import run as compare
from medkd.evaluate.stage import Config, run
from medkd.report.document import Wording
from medkd.report.lineage import is_play_money, write_cost, write_methods, write_training
from medkd.report.material import Material, read_run
from medkd.report.run import make_document, write_report, write_run_report

RIGHT, WRONG = "<think>发热。</think>急性阑尾炎", "急性胆囊炎"


def make_step(folder, answers, name="evaluate"):
    path = folder.parent / f"{folder.name}-{name}.jsonl"
    rows = [
        {"prompt": f"请诊断。【主诉】发热{n}", "predict": answer, "label": RIGHT}
        for n, answer in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(Config(predictions=path, out=folder / name))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported") / "run"
    make_step(folder, [WRONG] * 20 + [RIGHT] * 10, "evaluate-base")
    make_step(folder, [RIGHT] * 25 + [WRONG] * 5, "evaluate")
    return folder


MODELS = {"base": "evaluate-base", "distilled": "evaluate"}


def read_table(folder, name):
    with (folder / "tables" / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_page_of_a_real_run_says_nothing_of_invented_cases(run_dir):
    write_run_report(run_dir, MODELS)
    page = (run_dir / "report.html").read_text()
    assert "invented" not in page and "<script" not in page
    said = "distilled answers 83 % of 30 questions right (95 % interval 66 % – 93 %)"
    assert said.replace(" %", "\u00a0%") in page  # a number keeps its sign on a phone
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["distilled"]["diagnosis_accuracy"] == pytest.approx(25 / 30, abs=1e-5)


def test_a_report_comes_in_every_form_with_the_base_first_and_no_row_twice(run_dir):
    (run_dir / "summary.json").write_text('{"of": 3, "another": {"n": 1}}')  # made by hand
    document, page = write_report(run_dir, None, "en")
    place = run_dir / "report"
    assert page == place / "report.html" and document.headline[0].startswith("evaluate-base ")
    scores = read_table(place, "results")
    assert [*scores[0]][:3:2] == ["score", "evaluate-base"]
    numbers = [tuple(line.values())[2:] for line in scores]
    assert len({*numbers}) == len(numbers)
    (test,) = [t for t in read_table(place, "tests") if t["score"] == "diagnosis_accuracy"]
    assert test["difference"] == "+0.500" and test["finding"] == "significant"
    confused = read_table(place, "confusions-1")
    assert confused == [{"known answer": "急性阑尾炎", "answered": WRONG, "times": "20"}]
    for name in ("results", "tests"):
        assert "\\toprule" in (place / "tables" / f"{name}.tex").read_text()
    assert (place / "figures" / "accuracy.pdf").read_bytes().startswith(b"%PDF")
    ElementTree.parse(place / "figures" / "accuracy.svg")
    said = (place / "report.md").read_text()
    assert "## What was not measured" in said and "gained: " in said and "lost: " in said


def test_a_report_in_chinese_says_nothing_in_english_but_names(run_dir):
    document, page = write_report(run_dir / "evaluate", run_dir / "zh", "zh")
    assert document.headline[0].startswith("run-evaluate.jsonl 在 30 道题中答对 83 %")
    assert "如何生成、题目是否未见过，这里无从得知" in page.read_text()
    assert "max_tokens" not in page.read_text()
    assert "没有测量的内容" in page.read_text() and '<html lang="zh">' in page.read_text()
    titles = [section.title for section in document.sections]
    assert not [title for title in titles if title.isascii()]


def test_a_later_report_of_a_run_keeps_the_names_of_its_own(run_dir):
    write_run_report(run_dir, MODELS)
    document, _ = write_report(run_dir, run_dir / "later", "en")
    assert [line.split()[0] for line in document.headline] == [*MODELS]


def test_a_comparison_is_reported_from_what_it_compared(run_dir):
    folders = [run_dir / "evaluate-base", run_dir / "evaluate"]
    compare(CompareConfig(input=folders, names=["before", "after"], out=run_dir / "compare"))
    document, _ = write_report(run_dir / "compare", None, "en")
    assert [line.split()[0] for line in document.headline] == ["before", "after"]


def test_a_training_is_reported_with_its_losses_and_settings(trained_dir, tmp_path):
    document, _ = write_report(trained_dir, tmp_path, "en")
    assert "rows" in document.headline[0]
    settings = {r["setting"]: r[trained_dir.name] for r in read_table(tmp_path, "training")}
    assert settings["rows"] == "24" and "learning rate" in settings
    drawn = (tmp_path / "figures" / f"{trained_dir.name}-loss.svg").read_text()
    assert "training" in drawn and "validation" in drawn


def test_two_trainings_stand_side_by_side_and_play_money_is_named():
    steps = {"train": step("train", target="reasoned"), "train-2": step("train", target="answers")}
    taught = step(amount=0.5, teacher="rehearsal")
    say = Wording(Texts("en"))
    found = write_training(Material(Path(), {"distill": taught, **steps}), say)
    training, teacher = found.tables
    assert training.head == ["setting", "train", "train-2"]
    assert ["learns", "reasoned", "answers"] in training.rows
    assert teacher.note.startswith("Play money")


def test_a_folder_without_a_finished_step_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished step"):
        write_report(tmp_path, None, "en")


@pytest.mark.slow
def test_two_processes_show_the_same_answers(run_dir):
    code = (
        "import sys; from pathlib import Path; from medkd.report.run import write_run_report; "
        f"write_run_report(Path(sys.argv[1]), {MODELS})"
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
    write_run_report(folder, MODELS)
    page = (folder / "report.html").read_text()
    assert "(p 0.5000; fewer than 20 questions)" in page


def test_models_asked_other_questions_stand_each_for_itself(tmp_path):
    folder = tmp_path / "run"
    make_step(folder, [WRONG] * 4, "evaluate-base")
    make_step(folder, [RIGHT] * 4, "evaluate")
    for name in ("rows.jsonl", "predictions.jsonl"):
        path = folder / "evaluate" / name
        text = path.read_text().replace('"row:', '"other:')
        path.write_text(text.replace("发热", "咳嗽"))
    write_run_report(folder, MODELS)
    assert "not one question in common" in (folder / "report.html").read_text()


def step(stage="distill", amount=0.0, seconds=1.0, **config):
    return Manifest(
        stage=stage,
        config=config,
        cost=Cost(amount=amount),
        seconds=seconds,
        versions={"medkd": "0.1.0", stage: "1"},
    )


def test_play_money_is_told_as_such():
    def tell(**steps):
        return write_cost(Material(Path("x"), steps), Wording(Texts("en"))).tables[0]

    paid = step(amount=0.5, teacher="rehearsal")
    assert tell(distill=paid).rows == [["distill", "1 s", "0.5000 CNY"]]
    assert "Play money" in tell(distill=paid).note
    other = step("evaluate", amount=0.25, endpoint="deepseek", judge="")
    assert tell(evaluate=other).note == ""
    assert not is_play_money(other) and not is_play_money(step("merge"))
    assert not is_play_money(step(teacher="deepseek", judge="rehearsal"))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({"collect": step("collect", base_url="http://127.0.0.1:9")}, "The cases are invented"),
        (
            {
                "merge": step("merge").model_copy(
                    update={"inputs": {"runs/x/rehearsal/a.json": "1"}}
                )
            },
            "The cases are invented",
        ),
        ({"distill": step(teacher="rehearsal")}, "The reasoning is the rehearsal teacher's"),
        ({"distill": step(teacher="vllm", base_url="http://127.0.0.1:8000/v1")}, ""),
    ],
)
def test_own_cases_are_not_called_invented(steps, said):
    told = "\n".join(make_document(Material(Path("x"), steps), Texts("en")).headline)
    assert said in told and ("invented" in told) == ("invented" in said)
    assert ("rehearsal" in told) == ("rehearsal" in said)


def test_a_step_that_was_run_once_more_stands_where_the_road_has_it(tmp_path):
    begun = {
        "collect": ("1", "cases"),
        "deidentify": ("4", "collect"),
        "prepare": ("3", "deidentify"),
    }
    for name, (at, source) in begun.items():
        (tmp_path / name).mkdir()
        read = {f"{tmp_path}/{source}/rows.jsonl": "0"}
        manifest = step(name).model_copy(
            update={
                "started_at": f"2026-11-30T10:0{at}:00+00:00",
                "inputs": read,
                "state": "finished",
            }
        )
        (tmp_path / name / "manifest.json").write_text(manifest.model_dump_json())
    assert list(read_run(tmp_path).steps) == ["collect", "deidentify", "prepare"]


def test_every_version_is_named_once_and_whole():
    steps = {name: step(name) for name in ("collect", "merge", "train")}
    (told,) = write_methods(Material(Path("x"), steps), Wording(Texts("en"))).paragraphs
    assert told.endswith("Versions: collect 1, medkd 0.1.0, merge 1, train 1.")


def test_a_run_of_rounds_tells_the_gain_for_the_money_round_by_round(tmp_path):
    one = {
        **{"number": 1, "n": 81, "accuracy": 0.642, "low": 0.533, "high": 0.738, "gain": 0.432},
        **{"noise": 0.111, "bought": 49, "rows": 49, "amount": 0.0325, "currency": "CNY"},
        **{"gain_per_money": 13.305, "stopped": ""},
    }
    two = {**one, "number": 2, "gain_per_money": None, "stopped": "1 rounds were wanted"}
    (tmp_path / "rounds.json").write_text(json.dumps([one, two]))
    steps = {"train-1": Manifest(stage="train", config={}, seconds=1)}
    table = write_cost(Material(tmp_path, steps), Wording(Texts("en"))).tables[1]
    said = ["1", "0.642 (0.533 – 0.738)", "+0.432 ± 0.111", "49", "49", "0.0325 CNY", "13.31"]
    assert (table.rows[0][:6], table.note) == (said[:6], "1 rounds were wanted")
    assert [row[6] for row in table.rows] == ["13.30", "–"]
