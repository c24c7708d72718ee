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
from medkd.pipeline import Plan, override, plan, run_recipe
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
    step(one, counter)
    if one.name == "distill":
        os.kill(os.getpid(), signal.SIGKILL)
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


def test_every_stage_has_a_run_and_a_config_with_about_fifteen_fields_that_decide_what_it_makes() -> (
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
        assert len(deciding) <= 16, name
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
    assert {name: config["task"] for name, config in steps.items() if "task" in config} >= {
        "prepare": "treatment",
        "distill": "treatment",
        "verify": "diagnosis",
        "merge": "treatment",
    }
    assert steps["train"]["model"] == steps["evaluate-base"]["model"] == "medkd:tiny"
    assert steps["train-large"]["model"] == "large"
    assert steps["evaluate-served"]["model"] == "theirs"
    assert steps["distill"]["model"] == "" and steps["export"]["model"] is None


def test_task_and_student_are_overridden_by_one_flag() -> None:
    content: dict[str, Any] = {"student": "medkd:tiny", "train": {"input": "x"}}
    override(content, {"student": "Qwen/Qwen3-4B", "task": "treatment"}, "recipe.yaml")
    (step,) = make_plan(content).steps
    assert step.config.model_dump()["model"] == "Qwen/Qwen3-4B"
