"""Forms by HTTP: what stands first, what a choice takes away, presets, commands, files brought."""

import io
import json
import os
import re
import shlex
import time
from html import unescape
from pathlib import Path

import pytest
from hostile_samples import make_step
from openpyxl import Workbook

from medkd import background_jobs
from medkd.background_jobs import Job, JobResult
from medkd.core.config import find_recipe, read_shipped_yaml
from medkd.core.jsonl import MANIFEST
from medkd.core.stage_output import Counts, Manifest
from medkd.stages import STAGES
from medkd.studio import jobs
from medkd.studio.forms import N_FIRST, lay_out, read_fields

ROW = {
    "主诉": "咳嗽3天",
    "现病史": "患者张三，2024年5月2日受凉后咳嗽，住北京市海淀区中关村大街1号。",
    "诊断": "肺炎",
}


def read_boxes(page: str) -> dict[str, str]:
    """Read the boxes of a form as a browser would send them."""
    boxes = dict(re.findall(r'<input(?=[^>]*name="([^"]+)")(?=[^>]*value="([^"]*)")[^>]*>', page))
    for name, body in re.findall(
        r'<select[^>]*name="([^"]+)"[^>]*>(.*?)</select>', page, re.DOTALL
    ):
        chosen = re.search(r'<option value="([^"]*)" selected', body)
        boxes[name] = chosen[1] if chosen else ""
    boxes |= re.findall(r'<textarea[^>]*name="([^"]+)"[^>]*>([^<]*)</textarea>', page)
    return boxes


def find_command(page: str) -> list[str]:
    found = re.search(r'data-copy="(medkd [^"]*)"', page)
    return shlex.split(unescape(found[1])) if found else []


@pytest.mark.parametrize("stage", STAGES)
def test_a_layout_names_fields_that_are_there_and_shows_every_one_somewhere(stage: str) -> None:
    fields = read_fields(stage)
    names = {field.name for field in fields}
    table = read_shipped_yaml("medkd.studio", "forms.yaml")
    assert set(table["first"][stage]) <= names
    assert set(table["when"].get(stage, {})) <= names
    every = {field.name for one in STAGES for field in read_fields(one)}
    assert {name for listed in table["groups"].values() for name in listed} <= every
    chosen = {field.name: "x" for field in fields} | {"source": "files"}
    layout = lay_out(stage, fields, chosen)
    assert 1 <= len(layout.first) <= N_FIRST
    hidden = {field.name for field in fields if field not in layout.fields}
    assert hidden <= set(table["when"].get(stage, {}))


def test_what_a_choice_makes_meaningless_is_gone(client) -> None:
    page = client.get("/en/start?kind=collect").text
    assert "--base-url" in page
    assert "--columns" not in page
    boxes = read_boxes(page) | {"v::source": "files"}
    page = client.post("/en/start/form", data=boxes, headers={"hx-request": "true"}).text
    assert "--columns" in page
    assert "--base-url" not in page


def test_the_shipped_student_trains_as_in_the_demo_and_another_model_by_the_defaults(
    client, tmp_path: Path
) -> None:
    make_step(tmp_path / "runs" / "one" / "merge", "merge")
    page = client.get("/en/start?kind=train&run=one").text
    assert {"--model=medkd:tiny", "--epochs=3", "--max-length=1024"} <= set(find_command(page))
    boxes = read_boxes(page) | {"v::model": "Qwen/Qwen3-8B"}
    page = client.post("/en/start/form", data=boxes).text
    assert not {"--epochs=3", "--max-length=1024"} & set(find_command(page))
    assert "--model=Qwen/Qwen3-8B" in find_command(page)
    boxes = read_boxes(page) | {"v::epochs": "7", "v::model": "medkd:tiny"}
    changed = find_command(client.post("/en/start/form", data=boxes).text)
    assert "--epochs=7" in changed, "what a person wrote stays"
    assert "--max-length=1024" in changed


@pytest.mark.parametrize(
    ("words", "n_rows"),
    [
        ("train&v::input=runs/one/merge", "166"),
        ("evaluate&v::input=runs/one/merge", "59"),
        ("evaluate&v::input=runs/one/merge/val.jsonl", "15"),
        ("evaluate&v::input=runs/one/merge&v::limit=4", "4"),
        ("distill&v::input=runs/one/merge", "240"),
    ],
)
def test_a_form_counts_the_rows_of_the_split_that_its_stage_works_on(
    client, tmp_path: Path, words: str, n_rows: str
) -> None:
    folder = make_step(tmp_path / "runs" / "one" / "merge", "merge")
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    manifest.counts.kept = 240
    manifest.facts |= {"splits": {"train": 166, "val": 15, "test": 59}, "repairs": {"trimmed": 2}}
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    page = client.get(f"/en/start?kind={words}").text
    assert f"<small>Records</small> {n_rows}<" in page


def test_an_opened_form_is_a_command_that_can_be_started_at_once(client, tmp_path: Path) -> None:
    make_step(tmp_path / "runs" / "one" / "merge", "merge")
    command = find_command(client.get("/en/start?kind=train&run=one").text)
    assert command[:2] == ["medkd", "train"]
    assert any(word.endswith("runs/one/merge") for word in command)
    assert any(word.endswith("runs/one/train") for word in command)


def test_invented_cases_speak_the_language_that_the_form_names(client) -> None:
    link = re.search(r'href="([^"]*rehearsal-data[^"]*)"', client.get("/en/new").text)
    assert link
    page = client.get(unescape(link[1])).text
    assert find_command(page)[-1] == "--rehearsal.language=en"
    boxes = read_boxes(page) | {"language": "zh"}
    command = find_command(client.post("/en/start/form", data=boxes).text)
    assert command[:3] == ["medkd", "run", "rehearsal-data"]
    assert not any("language" in word for word in command)
    page = client.get("/en/start?kind=demo.yaml&language=zh").text
    assert read_boxes(page)["v:train:model"] == "medkd:tiny"
    page = client.post("/en/start/form", data=read_boxes(page) | {"language": "en"}).text
    english = read_boxes(page)
    assert {english[f"v:{step}:model"] for step in ("train", "evaluate-base")} == {"medkd:tiny-en"}
    assert (english["v:merge:near"], find_command(page)[4:]) == ("1", ["--rehearsal.language=en"])
    page = client.post("/en/start/form", data=english | {"v:train:model": "Qwen/Qwen3-8B"}).text
    assert "--train.model=Qwen/Qwen3-8B" in find_command(page)
    assert 'name="language"' not in client.get("/en/start?kind=own-cases.yaml").text


def test_the_next_training_says_how_long_it_will_take_where_one_was_timed(
    client, tmp_path: Path
) -> None:
    for name, stage, config in (
        ("old", "train", {"model": "medkd:tiny", "method": "lora", "epochs": 3.0}),
        ("edited", "train", {"model": "medkd:tiny", "method": "lora", "epochs": "many"}),
        ("short", "train", {"model": "medkd:tiny", "method": "lora", "epochs": 0.1}),
        ("new", "merge", {}),
    ):
        folder = make_step(tmp_path / "runs" / name / stage, stage)
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
        manifest.config, manifest.counts, manifest.seconds = config, Counts(read=9, kept=90), 750
        (folder / MANIFEST).write_text(manifest.model_dump_json())
    assert "train the student: about 12 min 30 s here" in client.get("/en/").text


@pytest.mark.parametrize(
    ("kind", "box"),
    [("deidentify", "v::input"), ("own-cases.yaml", "v:collect:input"), ("merge", "v::against")],
)
def test_a_form_starts_nothing_on_a_path_outside(
    client, tmp_path: Path, monkeypatch, kind: str, box: str
) -> None:
    monkeypatch.setattr("medkd.background_jobs.start", pytest.fail)
    make_step(tmp_path / "runs" / "one" / "verify", "verify")
    boxes = read_boxes(client.get(f"/en/start?kind={kind}&run=one&v::input=runs").text)
    answer = client.post("/en/start", data=boxes | {box: "/etc/passwd"})
    assert (answer.status_code, "lies outside" in answer.text) == (400, True)


def test_a_step_is_started_again_with_its_own_settings(client, tmp_path: Path) -> None:
    folder = make_step(tmp_path / "runs" / "one" / "train", "train")
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    config = STAGES["train"].load().Config
    made = config(model="medkd:tiny", input="runs/one/merge", out=folder, learning_rate=0.01)
    manifest.config = made.model_dump(mode="json")
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    link = re.search(r'href="([^"]*)">Again', client.get("/en/run?name=one").text)
    assert link
    command = find_command(client.get(unescape(link[1])).text)
    assert command[1] == "train"
    assert command[-1].endswith("one/train-2")
    assert {*command[2:-1]} == {
        "--model=medkd:tiny",
        "--input=runs/one/merge",
        "--learning-rate=0.01",
    }


def test_a_base_is_evaluated_again_without_the_adapter_of_its_run(client, tmp_path: Path) -> None:
    make_step(tmp_path / "runs" / "one" / "train", "train")
    folder = make_step(tmp_path / "runs" / "one" / "evaluate-base", "evaluate")
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    config = STAGES["evaluate"].load().Config
    made = config(model="medkd:tiny", input="runs/one/merge", out=folder)
    manifest.config = made.model_dump(mode="json")
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    page = client.get("/en/run?name=one").text.partition("evaluate-base</")[2]
    link = re.search(r'href="([^"]*)">Again', page)
    assert link
    command = find_command(client.get(unescape(link[1])).text)
    assert {*command[2:-1]} == {"--model=medkd:tiny", "--input=runs/one/merge"}


def test_the_student_that_is_offered_first_reads_the_language_of_the_run(
    client, tmp_path: Path
) -> None:
    for run, languages in (("one", {"en": 9, "zh": 1}), ("two", {"zh": 9}), ("three", {})):
        folder = make_step(tmp_path / "runs" / run / "prepare", "prepare")
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
        manifest.facts = {"languages": languages}
        (folder / MANIFEST).write_text(manifest.model_dump_json())
        boxes = read_boxes(client.get(f"/en/start?kind=train&run={run}").text)
        assert boxes["v::model"] == ("medkd:tiny-en" if run == "one" else "medkd:tiny")
        assert boxes["v::epochs"] == "3", "as in the demo"


def test_a_form_of_a_new_run_takes_nothing_of_another(client, tmp_path: Path) -> None:
    make_step(tmp_path / "runs" / "one" / "verify", "verify")
    boxes = read_boxes(client.get("/en/start?kind=merge&run=open-data").text)
    assert boxes["v::input"] == ""
    assert client.post("/en/start", data=boxes).status_code == 400
    boxes = read_boxes(client.get("/en/start?kind=merge&run=one").text)
    assert boxes["v::input"].endswith("one/verify")


def test_what_is_wrong_is_said_at_its_field_in_the_readers_language(client, tmp_path: Path) -> None:
    make_step(tmp_path / "runs" / "one" / "merge", "merge")
    for language, said in (("en", "must be at least 1"), ("zh", "不得小于 1")):
        boxes = read_boxes(client.get(f"/{language}/start?kind=train&run=one").text)
        answer = client.post(f"/{language}/start", data=boxes | {"v::batch_size": "0"})
        assert answer.status_code == 400
        assert said in answer.text


def test_a_key_goes_to_the_process_and_stays_nowhere(client, tmp_path: Path, monkeypatch) -> None:
    handed: list = []
    monkeypatch.setattr(
        "medkd.background_jobs.start", lambda words, environment: handed.append(environment)
    )
    make_step(tmp_path / "runs" / "one" / "prepare", "prepare")
    boxes = read_boxes(client.get("/en/start?kind=distill&run=one").text)
    answer = client.post("/en/start", data=boxes | {"key": "sk-secret"}, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    assert list(handed[0].values()) == ["sk-secret"]
    answer = client.post("/en/start", data=boxes | {"key": "sk-secret", "v::samples": "0"})
    assert "sk-secret" not in answer.text
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and b"sk-secret" in path.read_bytes()
    ]


def test_who_goes_on_is_asked_for_the_key_that_is_kept_nowhere(
    client, tmp_path: Path, monkeypatch
) -> None:
    handed: list = []
    monkeypatch.setattr(
        "medkd.background_jobs.start", lambda words, environment, cwd: handed.append(environment)
    )
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    own = str(find_recipe("own-cases.yaml"))
    there = tmp_path / "elsewhere"
    there.mkdir()
    (there / "mine.yaml").write_text("distill: {teacher: deepseek}")
    for name, words, asks in (
        ("paid", ["distill", "--teacher=deepseek"], True),
        ("usual", ["distill"], True),
        ("play", ["distill", "--teacher=rehearsal"], False),
        ("trained", ["train"], False),
        ("recipe", ["run", own], False),
        ("paid-recipe", ["run", own, "--distill.teacher=deepseek"], True),
        ("own-recipe", ["run", "mine.yaml"], True),
        ("shipped-recipe", ["run", "own-cases", "--distill.teacher=deepseek"], True),
    ):
        step = make_step(tmp_path / "runs" / name / "distill", "distill")
        out = step.parent if words[0] == "run" else step
        job = Job(
            name=f"x-{name}", words=[*words, f"--out={out}"], cwd=there, pid=1, started_at="2026"
        )
        job.folder.mkdir(parents=True)
        (job.folder / "run.json").write_text(job.model_dump_json())
        (job.folder / "alive").touch()
        page = client.get(f"/en/run?name={name}").text
        assert ("Go on" in page, 'name="key"' in page) == (True, asks), name
        form = {"csrf": read_boxes(page)["csrf"], "name": name, "key": "sk-secret"}
        client.post("/en/run/resume", data=form, follow_redirects=False)
        environment = handed.pop()
        assert not asks or environment == {"DEEPSEEK_API_KEY": "sk-secret"}


def test_a_recipe_says_what_its_cases_cost_and_how_long_it_took_the_last_time(
    client, tmp_path: Path
) -> None:
    cases = tmp_path / "runs" / "uploads" / "cases.json"
    cases.parent.mkdir(parents=True)
    cases.write_text(json.dumps([ROW | {"主诉": f"咳嗽{n}天"} for n in range(40)]))
    address = f"/en/start?kind=own-cases.yaml&v:collect:input={cases}"
    page = client.get(f"{address}&v:distill:teacher=deepseek").text
    shown = dict(re.findall(r'class="estimate"><small>(\w+)</small> ([^<]*)<', page))
    assert (shown["Records"], "Time" in shown) == ("40", False)
    assert re.fullmatch(r"about 0\.\d\d CNY", shown["Cost"])
    words = ["run", str(find_recipe("own-cases.yaml")), f"--out={tmp_path / 'runs' / 'before'}"]
    job = Job(name="run-1", words=words, cwd=tmp_path, pid=1, started_at="2026-01-01")
    job.folder.mkdir(parents=True)
    (job.folder / "run.json").write_text(job.model_dump_json())
    (job.folder / "alive").touch()
    (job.folder / "end.json").write_text(JobResult(code=0).model_dump_json())
    for stage in ("collect", "train"):
        manifest = Manifest(
            stage=stage,
            state="finished",
            identity="x",
            config={"model": "medkd:tiny"},
            counts=Counts(read=20, kept=20),
            seconds=30,
        )
        (tmp_path / "runs" / "before" / stage).mkdir(parents=True)
        (tmp_path / "runs" / "before" / stage / MANIFEST).write_text(manifest.model_dump_json())
    shown = dict(
        re.findall(r'class="estimate"><small>(\w+)</small> ([^<]*)<', client.get(address).text)
    )
    assert shown["Time"] == "about 2 min 00 s", "two steps of 30 s for half as many cases"


def test_files_of_a_browser_are_read_mapped_masked_and_led_to_a_form(
    client, tmp_path: Path
) -> None:
    book, sheet = Workbook(), io.BytesIO()
    assert book.active is not None
    book.active.append(["编号", "咨询内容", "现病史", "诊断"])
    book.active.append([1, ROW["主诉"], ROW["现病史"], ROW["诊断"]])
    book.save(sheet)
    table = "编号,咨询内容,现病史,诊断\n1,{主诉},{现病史},{诊断}\n".format(**ROW).encode("gb18030")
    for name, content in (
        ("a.csv", table),
        ("b.xlsx", sheet.getvalue()),
        ("c.json", json.dumps([ROW], ensure_ascii=False).encode()),
        ("d.jsonl", json.dumps(ROW, ensure_ascii=False).encode()),
    ):
        sent = client.post(
            "/en/bring",
            data={"csrf": client.csrf},
            files={"files": (name, content)},
            follow_redirects=False,
        )
        assert sent.status_code == 303, sent.text
        assert (tmp_path / "runs" / "uploads" / name).read_bytes() == content
        address = sent.headers["location"]
        page = client.get(address).text
        assert "肺炎" in page
        assert re.search(r'<mark class="found"[^>]*>张三', page)
        assert re.search(r'<mark class="masked"[^>]*>\[姓名1\]', page)
        assert re.search(r'<mark class="masked"[^>]*>202\d年', page), "a moved date is marked too"
        if name.startswith(("a", "b")):
            assert re.search(r'name="c:咨询内容".*?– left out –', page, re.DOTALL)
            address += "&c:咨询内容=主诉"
            page = client.get(address).text
        assert "咳嗽3天" in page
        link = re.search(r'href="(/en/start[^"]+)"', page)
        assert link
        command = find_command(client.get(link[1].replace("&amp;", "&")).text)
        assert command[:3] == ["medkd", "run", "own-cases"]
        assert any(word.startswith("--collect.input=") and name in word for word in command)
        assert ('--collect.columns=["咨询内容=主诉"]' in command) == name.startswith(("a", "b"))


def test_columns_that_nobody_knows_are_named_in_the_readers_language(
    client, tmp_path: Path
) -> None:
    table = tmp_path / "ward.csv"
    table.write_text("No,Story,Dx,Q\n1,Fever for three days,Flu,x\n", encoding="utf-8")
    page = client.get(f"/en/bring/preview?file={table}").text
    assert "Its columns are not known yet" in page
    assert "wrong" not in page and "--columns" not in page
    for place, word in (("主诉", "Chief complaint · 主诉"), ("question", "question"), ("id", "id")):
        assert f'<option value="{place}">{word}</option>' in page
    page = client.get(f"/en/bring/preview?file={table}&c:Story=现病史&c:Dx=诊断结果&c:Q=Q").text
    assert '<option value="Q" selected>a section of this name' in page
    assert "<h4>History of present illness · 现病史</h4>" in page
    assert "English names are found only where" in page
    table.write_text("No,Story,Dx,备注：\n1,Fever for three days,Flu,x\n", encoding="utf-8")
    page = client.get(f"/en/bring/preview?file={table}&c:备注：=备注：").text
    assert '<option value="备注：" selected>a section of this name' in page
    chinese = client.get(f"/zh/bring/preview?file={table}").text
    assert '<option value="主诉">主诉</option>' in chinese
    assert '<option value="question">问题</option>' in chinese


def test_cases_that_are_too_short_and_too_few_are_told_before_anything_goes_on(
    client, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "uploads"
    folder.mkdir(parents=True)
    whole = {**ROW, "现病史": ROW["现病史"] + "咳嗽咳痰，伴发热。" * 9}
    few = [whole | {"id": "1"}, {"id": "2", "主诉": "咳嗽", "诊断": "肺炎"}]
    (folder / "few.json").write_text(json.dumps(few))
    many = [{**whole, "id": str(n), "主诉": f"咳嗽{n}天"} for n in range(40)]
    (folder / "many.json").write_text(json.dumps(many))
    page = client.get(f"/en/bring/preview?file={folder / 'few.json'}").text
    assert "Of the first 2 cases 1 make no question: 1 too short" in re.sub(r"\s+", " ", page)
    assert "These are few" in page
    page = client.get(f"/en/bring/preview?file={folder / 'many.json'}").text
    assert "make no question" not in page
    assert "These are few" not in page


def test_a_preview_reads_no_task_file_that_its_address_names(client, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "uploads"
    folder.mkdir(parents=True)
    (folder / "cases.json").write_text(json.dumps([ROW]))
    secret = tmp_path / "elsewhere.yaml"
    secret.write_text("passphrase: open sesame")
    answer = client.get(f"/en/bring/preview?file={folder / 'cases.json'}&task={secret}")
    assert answer.status_code == 200
    assert "passphrase" not in answer.text


def test_no_estimate_reads_a_task_file_outside_the_folders(
    client, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path / "runs" / "uploads"
    folder.mkdir(parents=True)
    (folder / "cases.json").write_text(json.dumps([ROW]))
    outside = tmp_path_factory.mktemp("elsewhere") / "outside.yaml"
    os.mkfifo(outside)  # whoever opens it waits for ever
    form = {"kind": "own-cases.yaml", "v:prepare:task": str(outside)}
    form |= {"v:collect:source": "files", "v:collect:input": str(folder / "cases.json")}
    page = client.get("/en/start", params=form)
    assert page.status_code == 200
    assert "outside" in page.text.partition("outside.yaml")[2]


def test_a_task_is_not_taken_among_files_of_cases(client, tmp_path: Path) -> None:
    files = [("files", ("rows.json", b"[]")), ("files", ("pump.yaml", b"name: pump-fault"))]
    answer = client.post("/en/bring", data={"csrf": client.csrf}, files=files)
    assert answer.status_code == 400
    assert "by itself" in answer.text
    assert not (tmp_path / "runs" / "uploads").exists()


def test_a_task_of_ones_own_is_brought_chosen_and_known_to_every_step(
    client, tmp_path: Path
) -> None:
    def bring(name: str, content: str, query: str = ""):
        files = {"files": (name, content.encode())}
        sent = {"data": {"csrf": client.csrf}, "follow_redirects": False}
        return client.post(f"/en/bring{query}", files=files, **sent)

    broken = bring("broken.yaml", "collect: {}")
    assert broken.status_code == 400
    assert not (tmp_path / "runs" / "uploads" / "broken.yaml").exists()
    task = "name: pump-fault\nquestion: {sections: [设备, 故障现象]}\nanswer: {section: 故障原因, kind: text}\n"
    kept = bring("pump.yaml", task)
    page = client.get(kept.headers["location"]).text
    assert "The task pump-fault is kept" in page
    query = kept.headers["location"].partition("?")[2]
    row = {"设备": "一号循环水泵", "故障现象": "启动后剧烈振动", "故障原因": "叶轮不平衡"}
    preview = client.get(bring("rows.json", json.dumps([row]), f"?{query}").headers["location"])
    path = str(tmp_path / "runs" / "uploads" / "pump.yaml")
    assert f'<option value="{path}" selected>pump-fault' in preview.text
    assert "Of 1 rows 1 are cases" in preview.text
    assert "make no question" not in preview.text
    link = re.search(r'href="([^"]*/start\?[^"]*)"', preview.text)
    assert link
    form = client.get(unescape(link[1])).text
    assert {f"--prepare.task={path}", f"--task={path}"} <= set(find_command(form))
    assert "pump.yaml" not in client.get("/en/start").text.partition("Recipes")[2][:2000]
    folder = make_step(tmp_path / "runs" / "one" / "prepare", "prepare")
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    manifest.config = {"task": path}
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    client.app.app.state.workspace.forget()
    assert f"--task={path}" in find_command(client.get("/en/start?kind=distill&run=one").text)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.exe", b"MZ"),
        ("a.sh", b"#!/bin/sh"),
        ("a.json", b"\0\0\0"),
        ("a.xlsx", b"no zip"),
        ("a.parquet", b"PK\x03\x04"),
        ("", b"x"),
    ],
)
def test_a_file_that_is_none_of_the_known_kinds_is_refused(
    client, tmp_path: Path, name: str, content: bytes
) -> None:
    sent = client.post("/en/bring", data={"csrf": client.csrf}, files={"files": (name, content)})
    assert sent.status_code in (400, 403)
    assert not (tmp_path / "runs" / "uploads").exists()


def test_files_that_are_too_large_together_are_refused(client, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("medkd.studio.routes.bring.MAX_BYTES", 5)
    files = [("files", (f"{n}.json", b"[1]")) for n in range(2)]
    sent = client.post("/en/bring", data={"csrf": client.csrf}, files=files)
    assert (sent.status_code, "--data folder" in sent.text) == (400, True)
    assert not (tmp_path / "runs" / "uploads").exists()


@pytest.mark.parametrize(
    "name", ["../../x.json", "/etc/x.json", "..\\..\\x.json", "a\0/x.json", ".hidden/../x.json"]
)
def test_no_name_of_a_file_leads_out_of_the_uploads(client, tmp_path: Path, name: str) -> None:
    client.post("/en/bring", data={"csrf": client.csrf}, files={"files": (name, b"[]")})
    kept = list(tmp_path.rglob("*.json"))
    assert all(
        path.parent.parent.name == "uploads" or path.parent.name == "uploads" for path in kept
    )
    assert not Path("/etc/x.json").exists()


def test_a_file_that_is_there_is_taken_and_another_of_its_name_overwrites_nothing(
    client, tmp_path: Path
) -> None:
    uploads = tmp_path / "runs" / "uploads"
    (uploads / "x-2.json").mkdir(parents=True)  # a folder that somebody brought
    for content, name in ((b"[1]", "x.json"), (b"[2]", "x-3.json"), (b"[1]", "x.json")):
        sent = client.post(
            "/en/bring",
            data={"csrf": client.csrf},
            files={"files": ("x.json", content)},
            follow_redirects=False,
        )
        assert sent.headers["location"].endswith(f"uploads%2F{name}")
        assert (uploads / name).read_bytes() == content
    assert len(list(uploads.iterdir())) == 3


def test_a_folder_is_kept_as_one(client, tmp_path: Path) -> None:
    row = json.dumps([ROW], ensure_ascii=False).encode()
    files = [("files", (f"cases/{n}.json", row)) for n in range(3)]
    sent = client.post("/en/bring", data={"csrf": client.csrf}, files=files, follow_redirects=False)
    assert sent.status_code == 303, sent.text
    assert len(list((tmp_path / "runs" / "uploads" / "cases").iterdir())) == 3
    assert "3 files" in client.get(sent.headers["location"]).text


def finish(out: Path, limit_s: float = 120) -> str:
    deadline = time.monotonic() + limit_s
    while True:
        found = [run for run in background_jobs.list_runs() if jobs.find_out(run) == out]
        if found and (state := background_jobs.read_state(found[-1])) != "running":
            return state
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_a_started_stage_runs_detached_and_a_refused_one_says_why(client, tmp_path: Path) -> None:
    raw = {"id": "files:1", "source": "files", "sections": ROW, "diagnosis": ["肺炎"]}
    (tmp_path / "raw.jsonl").write_text(json.dumps(raw, ensure_ascii=False) + "\n")
    fields = {"s:v::input": "1", "s:v::style": "1", "v::style": "mask"}
    answer = client.submit(
        "/en/start", kind="deidentify", run="one", **fields, **{"v::input": "raw.jsonl"}
    )
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == "/en/run?name=one"
    assert finish(tmp_path / "runs" / "one" / "deidentify") == "done"
    assert "张三" not in (tmp_path / "runs/one/deidentify/cases.jsonl").read_text(encoding="utf-8")
    page = client.get("/en/run?name=one").text
    assert "Identifiers are hidden: make questions" in page
    assert "medkd deidentify" in page

    answer = client.submit(
        "/en/start", kind="deidentify", run="two", **fields, **{"v::input": "missing.jsonl"}
    )
    said = answer.text if answer.status_code == 400 else ""
    if not said:
        assert finish(tmp_path / "runs" / "two" / "deidentify") == "failed"
        said = client.get("/en/run?name=two").text
    assert "missing.jsonl" in said
