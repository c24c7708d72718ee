"""Records that tell their own answer in the ways records do, from the raw shape of a crawler to the
question."""

import json
from pathlib import Path

import pytest
import yaml

from medkd.collect import stage as collect
from medkd.deidentify import stage as deidentify
from medkd.prepare import stage as prepare
from medkd.text.normalize import make_plain

LEAKS = yaml.safe_load((Path(__file__).parent / "leaks.yaml").read_text(encoding="utf-8"))


def make_raw(number: int, leak: dict[str, str]) -> dict[str, object]:
    record = {
        "一般资料": "女，46岁",
        "主诉": "不适数日，加重1天。",
        "现病史": leak["h"],
        "既往史": leak["p"],
        "查体": "T是36.8度，P是84次/min，R是20次/min，BP是126/78mmHg，一般情况可，,心肺未见异常，,余见专科检查。",
        "辅助检查": leak["a"],
        "初步诊断": leak["d"],
        "诊断依据": "无",
        "鉴别诊断": "无",
        "诊治经过": leak["t"],
        "诊断结果": leak["d"],
        "": "无",
    }
    url = f"https://cases.example/show/{number}-1.html"
    return {
        "title": f"病例{number}",
        "department": "综合",
        "url": url,
        "id": str(number),
        "raw_medical_record": record,
    }


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    folder = tmp_path_factory.mktemp("leaks")
    raw = folder / "raw.json"
    raw.write_text(
        json.dumps([make_raw(i, leak) for i, leak in enumerate(LEAKS)], ensure_ascii=False),
        encoding="utf-8",
    )
    collect.run(collect.Config(source="files", input=raw, out=folder / "collect"))
    deidentify.run(deidentify.Config(input=folder / "collect", out=folder / "deidentify"))
    prepare.run(prepare.Config(input=folder / "deidentify", out=folder / "prepare"))
    lines = (folder / "prepare" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return {int(row["case_id"].split(":")[-1]): row["input"] for row in map(json.loads, lines)}


def test_every_case_becomes_a_question(questions: dict[int, str]) -> None:
    assert len(questions) == len(LEAKS)


@pytest.mark.parametrize("number", range(len(LEAKS)))
def test_the_answer_is_gone_and_the_findings_stay(questions: dict[int, str], number: int) -> None:
    question, leak = questions[number], LEAKS[number]
    told = [name for name in leak["gone"] if make_plain(name) in make_plain(question)]
    lost = [finding for finding in leak["stays"] if finding not in question]
    assert not told and not lost, question
