import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from medkd.core.config import RuntimeField
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, write_json
from medkd.core.records import Example, RawCase
from medkd.core.stage_output import read_manifest
from medkd.pipeline import Plan, override, plan, plan_recipe, run_recipe
from medkd.stages import STAGES

ROAD = """
out: {out}
rehearsal: {{cases: 24, seed: 3}}
collect: {{base_url: rehearsal, delay: 0}}
deidentify: {{}}
prepare: {{val_share: 0.2, test_share: 0.2}}
distill: {{teacher: rehearsal, concurrency: 8}}
verify: {{}}
merge: {{}}
"""


def make_plan(content: dict[str, Any], out: Path | None = None, overwrite: bool = False) -> Plan:
    with ExitStack() as servers:
        return plan(content, "recipe.yaml", out, overwrite, servers)


@pytest.fixture
def road(tmp_path: Path) -> Path:
    recipe = tmp_path / "road.yaml"
    recipe.write_text(ROAD.format(out=tmp_path / "run"))
    return recipe


def test_the_data_side_of_the_road_is_walked_and_the_second_time_skipped(
    road: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_recipe(road)
    manifests = {
        name: read_manifest(run / name)
        for name in ("collect", "deidentify", "prepare", "distill", "verify", "merge")
    }
    assert all(manifest.state == "finished" for manifest in manifests.values())
    assert manifests["collect"].counts.kept == manifests["deidentify"].counts.read == 24
    assert manifests["distill"].cost.amount > 0
    for name, manifest in manifests.items():
        made = {
            p.relative_to(run / name).as_posix() for p in (run / name).rglob("*") if p.is_file()
        }
        paid = {file for file in made if file.startswith(("ledger", ".", "manifest.json"))}
        assert set(manifest.outputs) == made - paid, name
    examples = list(RecordReader(run / "merge" / "train.jsonl", Example, "merge"))
    first_cases = {
        case.id for case in RecordReader(run / "collect" / "raw_cases.jsonl", RawCase, "collect")
    }
    assert examples
    assert {example.lineage.case_id for example in examples} <= first_cases
    assert all(example.lineage.deidentified_by for example in examples)
    assert "[6/6] merge: " in capsys.readouterr().err

    written = {path: path.stat().st_mtime_ns for path in run.rglob("*.jsonl")}
    run_recipe(road)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.jsonl")} == written


@pytest.mark.slow
def test_a_run_killed_half_way_goes_on_and_pays_for_nothing_twice(road: Path) -> None:
    run = road.with_name("run")
    script = f"""
import os, signal
from pathlib import Path
from medkd import pipeline
from medkd.pipeline import run_recipe
from medkd.stages import STAGES
step = pipeline._run_step
def killed(one, counter):
    manifest = step(one, counter)
    if one.name == "distill":
        os.kill(os.getpid(), signal.SIGKILL)
    return manifest
pipeline._run_step = killed
run_recipe(Path({str(road)!r}))
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    paid = read_manifest(run / "distill").cost
    run_recipe(road)
    assert read_manifest(run / "distill").cost == paid
    assert read_manifest(run / "merge").state == "finished"


def test_a_teacher_that_fails_at_times_loses_no_question(road: Path) -> None:
    run = run_recipe(road, overrides={"rehearsal": {"faults": 0.2}})
    prepared, distilled = read_manifest(run / "prepare"), read_manifest(run / "distill")
    assert distilled.counts.kept == prepared.counts.kept
    assert distilled.facts["failed"] == 0


def test_steps_are_wired_by_what_came_before_and_a_name_stands_for_its_folder(
    tmp_path: Path,
) -> None:
    content = {
        "collect": {"source": "files", "input": "cases.json"},
        "deidentify": {},
        "prepare": None,
        "distill": {"teacher": "rehearsal", "base_url": "http://127.0.0.1:1"},
        "verify": {},
        "merge": {"input": ["verify", "other.jsonl"]},
        "train": {"model": "medkd:tiny"},
        "train-answers": {"model": "medkd:tiny", "target": "answers"},
        "evaluate-answers": {"model": "medkd:tiny", "adapter": "train-answers"},
        "export": {},
        "evaluate-export": {"model": "export"},
        "report": {"answers": "evaluate-answers"},
    }
    planned = make_plan(content, tmp_path)
    configs: dict[str, Any] = {step.name: step.config for step in planned.steps}
    assert [step.stage for step in planned.steps][-3:] == ["evaluate", "export", "evaluate"]
    assert configs["deidentify"].input == tmp_path / "collect"
    assert configs["merge"].input == (tmp_path / "verify", Path("other.jsonl"))
    assert configs["train-answers"].out == tmp_path / "train-answers"
    assert configs["train-answers"].input == tmp_path / "merge"
    assert configs["evaluate-answers"].adapter == tmp_path / "train-answers" / "adapter"
    assert configs["export"].adapter == tmp_path / "train" / "adapter"
    assert configs["evaluate-export"].model == str(tmp_path / "export")
    assert planned.report == {"answers": "evaluate-answers"}


def test_the_run_directory_is_the_callers_else_the_recipes_else_named_after_it() -> None:
    content = {"collect": {"source": "files", "input": "a.json"}}
    assert make_plan(content).out == Path("runs/recipe")
    assert make_plan({"out": "mine", **content}).out == Path("mine")
    assert make_plan({"out": "mine", **content}, Path("yours")).steps[0].config.out == Path(
        "yours/collect"
    )


def test_overwrite_reaches_every_step() -> None:
    planned = make_plan(
        {"collect": {"source": "files", "input": "a.json"}, "deidentify": {}}, overwrite=True
    )
    assert [step.config.overwrite for step in planned.steps] == [True, True]


def test_every_stage_has_a_run_and_a_config_with_at_most_eighteen_fields_that_decide_what_it_makes() -> (
    None
):
    for name, stage in STAGES.items():
        module = stage.load()
        assert callable(module.run)
        fields = module.Config.model_fields
        deciding = [
            key
            for key, field in fields.items()
            if not any(isinstance(mark, RuntimeField) for mark in field.metadata)
        ]
        assert len(deciding) <= 18, name
        assert all(field.description for field in module.Config.model_fields.values()), name


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)
NAMES = (
    st.sampled_from(["collect", "prepare", "report", "rehearsal", "out", "train-", "colect"])
    | st.integers()
    | st.none()
    | st.text()
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example({1: 3, "merge": {2: 3}})
@example({"merge": 3})
@given(st.dictionaries(NAMES, VALUES, min_size=1))
def test_any_mapping_is_planned_or_refused_in_one_line(content: dict[Any, Any]) -> None:
    try:
        make_plan(content)
    except InputError as error:
        assert "\n" not in " ".join(str(error).split())


@pytest.mark.slow
def test_the_whole_road_on_own_cases_ends_in_a_report_and_an_unproven_model(
    tmp_path: Path, random_model_dir: Path
) -> None:
    from medkd.demo.synthetic_cases import generate_cases

    cases = [
        {
            "title": case.title,
            "department": list(case.department),
            "url": "",
            "id": str(case.number),
            "raw_medical_record": case.sections,
        }
        for case in generate_cases(30, seed=11)
    ]
    write_json(tmp_path / "cases.json", cases)
    recipe = Path(__file__).parents[1] / "recipes" / "own-cases.yaml"
    words: list[str | Path] = [
        "--out",
        tmp_path / "run",
        "--collect.input",
        tmp_path / "cases.json",
    ]
    for step in ("train", "evaluate-base", "evaluate"):
        words += [f"--{step}.model", random_model_dir]
    words += [
        "--train.epochs",
        "1",
        "--evaluate.max-tokens",
        "32",
        "--evaluate-base.max-tokens",
        "32",
        "--export.max-tokens",
        "32",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "medkd", "run", recipe, *words], capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    assert "UNPROVEN" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert f"next: medkd report {tmp_path / 'run'}" in done.stdout
    assert (tmp_path / "run" / "export" / "UNPROVEN").exists()
    assert "UNPROVEN" in (tmp_path / "run" / "export" / "MODELCARD.md").read_text(encoding="utf-8")
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_flag_of_a_stage_that_has_variants_only_means_all_of_them() -> None:
    content: dict[str, Any] = {
        "train-base": {"model": "a"},
        "train-other": None,
        "evaluate": {},
        "evaluate-base": {},
    }
    override(
        content,
        {
            "train": {"model": "medkd:tiny"},
            "evaluate": {"max_tokens": 8},
            "train-other": {"epochs": 1},
        },
        "recipe.yaml",
    )
    assert content == {
        "train-base": {"model": "medkd:tiny"},
        "train-other": {"model": "medkd:tiny", "epochs": 1},
        "evaluate": {"max_tokens": 8},
        "evaluate-base": {},
    }


def test_the_task_and_the_student_of_a_recipe_reach_every_step_that_has_such_a_field() -> None:
    content: dict[str, Any] = {
        "task": "treatment",
        "student": "medkd:tiny",
        "prepare": {"input": "cases.jsonl"},
        "distill": {},
        "verify": {"task": "diagnosis"},
        "merge": {},
        "train": {},
        "train-large": {"model": "large"},
        "evaluate-base": {},
        "evaluate-served": {"endpoint": "custom", "model": "theirs"},
        "export": {"adapter": "train"},
    }
    steps = {step.name: step.config.model_dump() for step in make_plan(content).steps}
    tasks = {name: config["task"] for name, config in steps.items() if "task" in config}
    expected = {
        "prepare": "treatment",
        "distill": "treatment",
        "verify": "diagnosis",
        "merge": "treatment",
    }
    assert tasks.items() >= expected.items()
    assert steps["train"]["model"] == steps["evaluate-base"]["model"] == "medkd:tiny"
    assert steps["train-large"]["model"] == "large"
    assert steps["evaluate-served"]["model"] == "theirs"
    assert steps["distill"]["model"] == "" and steps["export"]["model"] is None


def test_task_and_student_are_overridden_by_one_flag() -> None:
    content: dict[str, Any] = {"student": "medkd:tiny", "train": {"input": "x"}}
    override(content, {"student": "Qwen/Qwen3-4B", "task": "treatment"}, "recipe.yaml")
    (step,) = make_plan(content).steps
    assert step.config.model_dump()["model"] == "Qwen/Qwen3-4B"


MIXED = [
    {
        "id": "1",
        "主诉": "转移性右下腹痛12小时。",
        "现病史": "12小时前脐周隐痛，4小时前转移并固定于右下腹，伴恶心，无腹泻，体温37.8℃，进食后加重。",
        "查体": "体温38.1℃，麦氏点压痛、反跳痛明显，结肠充气试验阳性，腰大肌试验阴性。",
        "诊断结果": "急性阑尾炎",
    },
    {
        "id": "2",
        "Chief complaint": "Left flank pain and haematuria for three hours.",
        "History of present illness": "Sudden colicky left flank pain radiating to the groin, "
        "with nausea and red urine since the early morning.",
        "Physical examination": "Left renal angle tenderness, abdomen soft, no fever.",
        "Final diagnosis": "Ureteric stone",
    },
]


def test_cases_in_two_languages_in_one_file_go_the_road_each_in_its_own(tmp_path: Path) -> None:
    write_json(tmp_path / "cases.json", MIXED)
    recipe = tmp_path / "road.yaml"
    recipe.write_text(
        "collect: {source: files}\ndeidentify: {}\nprepare: {}\n"
        "distill: {teacher: rehearsal}\nverify: {}\nmerge: {val_share: 0, test_share: 0}\n"
    )
    overrides = {"collect": {"input": str(tmp_path / "cases.json")}}
    out = run_recipe(recipe, tmp_path / "run", overrides)
    rows = [
        example
        for name in ("train", "val", "test")
        for example in RecordReader(out / "merge" / f"{name}.jsonl", Example, "merge")
    ]
    assert {row.language: row.answer for row in rows} == {
        "zh": "急性阑尾炎",
        "en": "Ureteric stone",
    }


def test_logs_of_another_trade_go_the_road_with_a_task_of_three_lines(tmp_path: Path) -> None:
    (tmp_path / "logs.csv").write_text(
        "设备,故障现象,故障原因\n1号离心泵,振动大，轴承温度85℃,轴承磨损\n"
        "2号循环泵,出口压力由0.6MPa降到0.2MPa,吸入滤网堵塞\n",
        encoding="utf-8",
    )
    (tmp_path / "pump.yaml").write_text(
        "name: pump\nquestion: {sections: [设备, 故障现象]}\nanswer: {section: 故障原因}\n",
        encoding="utf-8",
    )
    recipe = tmp_path / "road.yaml"
    recipe.write_text(
        f"task: {tmp_path / 'pump.yaml'}\ncollect: {{source: files}}\ndeidentify: {{}}\n"
        "prepare: {test_share: 0, val_share: 0}\ndistill: {teacher: rehearsal}\nverify: {}\n"
        "merge: {bare_share: 0}\n"
    )
    overrides = {"collect": {"input": str(tmp_path / "logs.csv")}}
    out = run_recipe(recipe, tmp_path / "run", overrides)
    rows = list(RecordReader(out / "merge" / "train.jsonl", Example, "merge"))
    assert {row.answer for row in rows} == {"轴承磨损", "吸入滤网堵塞"}
    assert {(row.task, row.system) for row in rows} == {
        ("pump", "你是一名知识可靠、表达清楚的助手。")
    }
    assert all("故障原因是什么？" in row.input and "临床" not in row.instruction for row in rows)


def test_what_a_recipe_says_itself_stands_where_its_cases_are_in_english(road: Path) -> None:
    said = road.read_text().replace("seed: 3", "seed: 3, language: en")
    road.write_text(said.replace("merge: {}", "merge: {near: 0.7}"))
    with ExitStack() as servers:
        steps = plan_recipe(road, None, None, False, False, None, servers).steps
    merge: Any = steps[-1].config
    assert (merge.near, merge.contained) == (0.7, 1)


@pytest.mark.parametrize(
    ("section", "fields", "said"),
    [
        ("distill", {"teacher": "deepseek"}, "no key; put it in the environment variable DEEPSEEK"),
        ("evaluate", {"model": "medkd:tiny", "judge": "deepseek"}, "--judge deepseek: no key"),
        ("rubric", {"teacher": "deepsek"}, "--teacher deepsek: unknown provider"),
        ("verify", {"judge": True}, "--teacher deepseek: no key"),
    ],
)
def test_a_missing_key_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, fields: Any, said: str
) -> None:
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    write_json(tmp_path / "cases.json", MIXED)
    recipe = tmp_path / "road.yaml"
    sections = {"collect": {"source": "files", "input": str(tmp_path / "cases.json")}}
    sections |= {"deidentify": {}, "prepare": {}, "distill": {"teacher": "rehearsal"}}
    sections |= {"verify": {}, "merge": {}}
    write_json(recipe, sections | {section: {**sections.get(section, {}), **fields}})
    with pytest.raises(InputError, match=said):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_of_cases_that_is_missing_is_told_with_the_flag_that_names_it() -> None:
    with pytest.raises(InputError, match=r"no such file; check --collect\.input"):
        run_recipe(Path("own-cases"), overrides={"collect": {"input": "none.json"}})


def test_a_student_that_is_nowhere_is_told_before_a_teacher_is_paid(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="qwen: no such folder, and no name of the form owner/"):
        run_recipe(Path("demo"), tmp_path / "run", {"student": "qwen"})
    assert not (tmp_path / "run").exists()


def test_packages_that_a_later_step_needs_are_told_before_the_first_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medkd.pipeline.find_spec", lambda name: None)
    write_json(tmp_path / "cases.json", [])
    with pytest.raises(InputError):
        run_recipe(Path("own-cases"), tmp_path, {"collect": {"input": tmp_path / "cases.json"}})
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("note: train and what follows need more packages: pip install")


def test_a_split_that_got_no_question_is_told_before_anything_is_paid_for(tmp_path: Path) -> None:
    write_json(tmp_path / "cases.json", MIXED[:1])
    overrides = {"collect": {"input": str(tmp_path / "cases.json")}}
    with pytest.raises(InputError, match="1 questions, and none of them in the split"):
        run_recipe(Path("own-cases"), tmp_path / "run", overrides)
    assert not (tmp_path / "run/distill").exists()
