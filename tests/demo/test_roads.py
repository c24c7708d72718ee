"""The recipe of the open datasets runs offline, on rows of their forms made here."""

import json
from pathlib import Path

import pytest

from medkd.cli.commands import OPEN_DATASETS
from medkd.core.config import RECIPES
from medkd.core.errors import ProofError
from medkd.demo.synthetic_cases import write_open_datasets
from medkd.merge.stage import Config, run
from medkd.pipeline import run_recipe


@pytest.mark.slow
def test_the_recipe_of_the_open_datasets_runs_offline_and_measures_each_source(tmp_path: Path):
    out = tmp_path / "out"
    small = {
        "rehearsal": {"cases": 48, "seed": 7},
        "train": {**OPEN_DATASETS["train"], "trainer": {"max_steps": 2}},
        "evaluate": {"max_tokens": 8},
        "export": {"max_tokens": 8},
    }
    with pytest.raises(ProofError):  # after two steps it neither thinks nor stops
        run_recipe(
            RECIPES / "open-datasets.yaml", out, OPEN_DATASETS | {"student": "medkd:tiny"} | small
        )
    files = {path.stem for path in (out / "merge/test_by_source").glob("*.jsonl")}
    assert files == {"medical-o1", "medical-r1-distill", "psychology-10k", "hwtcm"}
    assert len(json.loads((out / "summary.json").read_text(encoding="utf-8"))) == 8


@pytest.mark.slow
def test_cases_and_open_datasets_run_offline_together(tmp_path: Path):
    out = tmp_path / "out"
    small = {
        "student": "medkd:tiny",
        "rehearsal": {"cases": 48, "seed": 7},
        "collect": {"source": "iiyi", "base_url": "rehearsal", "delay": 0, "input": None},
        "distill": {"teacher": "rehearsal"},
        "merge": {**OPEN_DATASETS["merge"], "input": ["verify", "rehearsal"]},
        "train": {**OPEN_DATASETS["train"], "trainer": {"max_steps": 2}},
        "evaluate": {"max_tokens": 8, "limit": 20},
        "export": {"max_tokens": 8},
    }
    with pytest.raises(ProofError):
        run_recipe(RECIPES / "cases-and-open-datasets.yaml", out, small)
    rows = (out / "merge/train.jsonl").read_text(encoding="utf-8").splitlines()
    sources = {json.loads(row)["source"] for row in rows}
    assert sources == {"iiyi", "medical-o1", "medical-r1-distill", "psychology-10k", "hwtcm"}


def test_the_test_rows_of_each_source_stand_in_a_file_of_their_own(tmp_path: Path):
    paths = write_open_datasets(tmp_path / "rows", 80, 5)
    fields = {"near": 1, "contained": 1, "val_share": 0, "test_share": 0.5}
    manifest = run(Config(input=tuple(paths), out=tmp_path / "out", **fields))
    files = [*(tmp_path / "out/test_by_source").glob("*.jsonl")]
    assert len(files) == 4
    assert (
        sum(len(path.read_bytes().splitlines()) for path in files)
        == (manifest.facts["splits"]["test"])
    )
