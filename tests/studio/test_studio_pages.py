"""Every page by HTTP: both languages, hostile texts, forged forms, paths outside."""

import json
import re
import sqlite3
from html import unescape
from pathlib import Path

import pytest
from hostile_samples import HOSTILE, make_evaluation, make_step, write

from medkd.background_jobs import Job, JobResult
from medkd.completers.ledger import Ledger
from medkd.completers.providers import find_target
from medkd.core.i18n import LANGUAGES, Texts
from medkd.core.jsonl import MANIFEST
from medkd.core.stage_output import Counts, Manifest
from medkd.deidentify import stage as deidentify
from medkd.grading.rubric import read_rubrics
from medkd.prepare import stage as prepare
from medkd.stages import STAGES
from medkd.studio.app import DONE, SHOWN
from medkd.studio.forms import read_fields
from medkd.studio.page import load_environment
from medkd.studio.road import draw_lines
from medkd.studio.routes.evaluate import is_tuned
from medkd.studio.workspace import Step

PARTS = ("run/live", "chat/live")
"""Paths that are nothing without the run or the conversation that they name."""
OPENED = {
    "run": "name=bad",
    "data": "run=bad",
    "review": "file=bad/verify/verified.jsonl",
    "evaluate": "steps=bad/evaluate",
    "evaluate/answers": "steps=bad/evaluate",
    "export": "step=bad/export",
    "curves": "runs=bad",
    "bring/preview": "file=runs/bad/verify/verified.jsonl",
}


def list_paths(language: str) -> list[str]:
    return [
        f"/{language}/{path}?{OPENED.get(path, '')}"
        for path in SHOWN
        if path not in (*PARTS, "bring/preview", "bill", "blind")
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_opens_in_an_empty_directory_and_says_what_will_stand_there(
    client, language: str
) -> None:
    for path in (
        "",
        "new",
        "bring",
        "start",
        "data",
        "review",
        "chat",
        "evaluate",
        "export",
        "bill",
    ):
        answer = client.get(f"/{language}/{path}")
        assert answer.status_code == 200, path
        assert f'<html lang="{language}">' in answer.text
        assert "<h1>" in answer.text


def test_the_browser_is_sent_to_its_language(client) -> None:
    for accepted, language in (("zh-CN,zh;q=0.9", "zh"), ("de", "en")):
        answer = client.get("/", headers={"accept-language": accepted}, follow_redirects=False)
        assert answer.headers["location"] == f"/{language}/"


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_from_models_and_the_web_stay_texts_on_every_page(
    client, hostile_runs: Path, language: str
) -> None:
    seen = 0
    for path in list_paths(language):
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text[-500:])
        for sign in ("<img", "<script>", "<style", "<a href='http://evil", 'javascript:alert(1)"'):
            assert sign not in answer.text, (path, sign)
        assert not re.search(r"<[a-z]+[^<>]*\s(style|on\w+)=", answer.text), path
        assert len(answer.text) < 400_000, path
        seen += "&lt;img src=x" in answer.text
    assert seen >= 4


def test_a_huge_text_is_cut_and_says_so(client, hostile_runs: Path) -> None:
    answer = client.get("/en/data?run=bad&file=bad/verify/verified.jsonl&row=1")
    assert "980,000 characters more" in answer.text


def test_a_page_holds_no_script_or_style_of_its_own() -> None:
    environment = load_environment()
    for name in environment.list_templates():
        text = (Path(__file__).parents[2] / "src/medkd/studio/templates" / name).read_text("utf-8")
        assert "<style" not in text
        assert not re.search(r"\sstyle=|\son\w+=|<script(?![^>]*src=)|js:|hx-on", text), name
        assert "|safe" not in text
        assert "http://" not in text
        assert "https://" not in text


@pytest.mark.parametrize("path", DONE)
def test_no_form_is_taken_without_the_token_of_its_session(client, path: str) -> None:
    for fields in ({}, {"csrf": "x"}, {"csrf": client.csrf[:-1] + "!"}):
        assert client.post(f"/en/{path}", data=fields).status_code == 403
    other = client.csrf
    client.cookies.clear()
    assert client.post(f"/en/{path}", data={"csrf": other}).status_code == 403, "of another session"
    assert client.post(f"/en/{path}", data={}, headers={"x-csrf-token": ""}).status_code == 403


@pytest.mark.parametrize("path", SHOWN)
def test_what_is_asked_of_a_page_is_never_a_stack_trace(
    client, hostile_runs: Path, path: str
) -> None:
    if path in PARTS[:2]:
        return
    for value in ("../../etc/passwd", "/etc/passwd", "\0", "a" * 5000, HOSTILE, "-1", "bad/verify"):
        names = ("file", "run", "name", "step", "steps", "kind", "row", "page", "at", "runs", "c")
        answer = client.get(f"/en/{path}", params=dict.fromkeys(names, value))
        assert answer.status_code in (200, 400), (path, value, answer.text[:500])
        assert "Traceback" not in answer.text
        assert "root:" not in answer.text


@pytest.mark.parametrize("odd", ["many", [1], {"a": 1}, None, 10**40, True])
def test_a_manifest_that_somebody_has_edited_breaks_no_page(
    client, tmp_path: Path, odd: object
) -> None:
    for stage in STAGES:
        folder = make_step(tmp_path / "runs" / "one" / stage, stage)
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["config"] = dict.fromkeys((field.name for field in read_fields(stage)), odd)
        facts = ("splits", "languages", "repairs", "n", "n_thinking", "n_stopped", "gguf")
        manifest["facts"] = dict.fromkeys(facts, odd)
        manifest["counts"] = {"read": 9, "kept": 9}
        manifest["roles"] = {"input": [str(tmp_path / "runs" / "one" / "merge")]}
        (folder / MANIFEST).write_text(json.dumps(manifest))
        write(folder / "metrics.jsonl", {"step": 1, "epoch": 0.5, "loss": 1.0})
    for path in (path for path in SHOWN if path not in PARTS[:2]):
        for kind in STAGES if path == "start" else ("train",):
            names = {"run": "one", "name": "one", "runs": "one", "kind": kind}
            answer = client.get(f"/en/{path}", params=names)
            assert answer.status_code in (200, 400), (path, kind)


def test_pages_that_are_not_there_are_not_there(client) -> None:
    for path in (
        "/fr/",
        "/en/nothing",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/openapi.json",
    ):
        assert client.get(path).status_code == 404, path


def test_the_package_serves_its_style_and_scripts_and_nothing_else(client) -> None:
    for name in ("studio.css", "studio.js", "htmx.min.js", "hx-sse.min.js"):
        assert client.get(f"/static/{name}").status_code == 200
    assert "http" not in re.sub(
        r"http://www\.w3\.org\S*", "", client.get("/static/studio.css").text
    )


def test_a_run_shows_its_road_what_it_dropped_and_what_comes_next(client, tmp_path: Path) -> None:
    folder = make_step(tmp_path / "runs" / "one" / "verify", "verify")
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    manifest.counts.read, manifest.counts.kept, manifest.counts.dropped = 14, 12, {"loop": 2}
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    collected = make_step(tmp_path / "runs" / "one" / "collect", "collect") / MANIFEST
    loss = manifest.model_copy(update={"stage": "collect", "started_at": "2025"})
    loss.counts = Counts(read=40, kept=14, dropped={"wrong_schema": 26})
    collected.write_text(loss.model_dump_json())
    write(folder / "verified.jsonl", {"id": "a"})
    page = client.get("/en/run?name=one").text
    assert "12 rationales wait for review" in page
    assert "The checks are done: make a dataset" in page
    assert "/en/start?kind=merge&amp;run=one" in page
    assert "2 loop" in page
    assert "Collect dropped 26 of 40: 26 wrong schema" in page
    assert "Verify dropped" not in page
    assert "12 份推理等待审阅" in client.get("/zh/run?name=one").text
    first = client.get("/en/").text
    assert "12 rationales wait for review" in first
    assert re.search(r'<span class="count">12 <small>−2</small>', first)


def test_a_stage_that_stopped_leads_to_its_run_and_not_to_the_next_stage(
    client, tmp_path: Path
) -> None:
    folder = make_step(tmp_path / "runs" / "one" / "train", "train")
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    manifest.state = "stopped"
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    for path in ("/en/", "/en/run?name=one"):
        assert "The training is done" not in client.get(path).text
    assert "Train has not come to its end" in client.get("/en/").text
    assert "训练还没有完成" in client.get("/zh/").text
    make_step(tmp_path / "runs" / "one" / "evaluate", "evaluate")
    assert "Train has not come to its end" in client.get("/en/").text
    assert "The scores are there" in client.get("/en/run?name=one").text


def test_a_folded_panel_of_a_live_page_is_not_taken_for_another(client, tmp_path: Path) -> None:
    folder = make_step(tmp_path / "runs" / "one" / "train", "train")
    write(folder / "samples.jsonl", {"step": 1, "reference": "a", "text": "b"})
    panels = re.findall(r'<details class="panel"[^>]*>', client.get("/en/run?name=one").text)
    assert len(panels) == 2
    assert all(" id=" in panel for panel in panels)


def test_a_run_is_deleted_only_when_its_form_says_so_twice(client, tmp_path: Path) -> None:
    make_step(tmp_path / "runs" / "one" / "verify", "verify")
    assert client.submit("/en/run/delete", name="one").status_code == 400
    assert client.submit("/en/run/delete", name="one", sure="two").status_code == 400
    assert (tmp_path / "runs" / "one").exists()
    assert client.submit("/en/run/delete", name="one", sure="one").status_code == 303
    assert not (tmp_path / "runs" / "one").exists()
    assert client.submit("/en/run/delete", name="..", sure="..").status_code == 400


def test_live_curves_are_drawn_from_the_metrics_and_several_runs_over_each_other(
    client, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        folder = make_step(tmp_path / "runs" / name / "train", "train")
        lines = [{"step": n, "loss": 1 / n, "seconds": n} for n in range(1, 9)]
        write(folder / "metrics.jsonl", *lines)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 9, "lo')  # torn
    page = client.get("/en/run?name=one").text
    assert page.count("<polyline") == 1
    both = client.get("/en/curves?runs=one&runs=two").text
    assert both.count("<polyline") == 2
    assert "two/train <b>0.125</b>" in both
    numbers = {"loss": 1.0, "eval_loss": 2.0, "eval_mean_token_accuracy": 0.5}
    write(tmp_path / "runs" / "two" / "train" / "metrics.jsonl", {"step": 1, **numbers})
    for language, names in (
        ("en", ["training", "validation", "Token accuracy, validation"]),
        ("zh", ["训练", "验证", "词元准确率（验证）"]),
    ):
        page = client.get(f"/{language}/run?name=two").text
        assert [one for one in names if one not in page] == []
        assert "eval_" not in page


@pytest.mark.parametrize(
    ("value", "low", "high"), [(0.25, "0", "0.25"), (0.0, "0", "1"), (-2.0, "-2", "0")]
)
def test_the_first_point_of_a_curve_stands_over_zero(value: float, low: str, high: str) -> None:
    plot = draw_lines({"loss": [(2, value)]}, "Loss")
    assert plot is not None
    assert plot.ends == ("0", "2")
    assert (plot.grid[0][1], plot.grid[-1][1]) == (low, high)


def test_a_file_is_filtered_by_what_became_of_its_rows(client, tmp_path: Path) -> None:
    folder = make_step(tmp_path / "runs" / "one" / "merge", "merge")
    rows = [{"id": f"q:{n}", "input": "x", "split": "test" if n % 3 else "val"} for n in range(30)]
    write(folder / "train.jsonl", *rows)
    file = "one/merge/train.jsonl"
    assert "<span>20</span>" in client.get(f"/en/data?file={file}").text
    client.app.app.state.workspace.forget()
    page = client.get(f"/en/data?file={file}&split=val").text
    assert "10 of 30" in page
    assert "q:1<" not in page
    assert "1 of 30" in client.get(f"/en/data?file={file}&q=q:17").text
    assert "No row fits" in client.get(f"/en/data?file={file}&q=nothing").text


def test_a_facet_counts_what_it_would_leave_of_the_rows_that_were_found(
    client, tmp_path: Path
) -> None:
    folder = make_step(tmp_path / "runs" / "one" / "merge", "merge")
    rows = [
        {"id": f"q:{n}", "split": "val" if n < 10 else "test", "source": "ab"[n % 2]}
        for n in range(30)
    ]
    write(folder / "train.jsonl", *rows, {"id": "q:30", "split": "test", "source": "c"})

    def count(query: str) -> list[tuple[str, str]]:
        page = client.get(f"/en/data?file=one/merge/train.jsonl{query}").text
        listed = page.partition('id="facets"')[2].partition('role="status"')[0]
        return re.findall(r">(\w+) <span>(\d+)</span>", listed)

    source, split = [("a", "15"), ("b", "15"), ("c", "1")], [("test", "21"), ("val", "10")]
    assert count("") == [*split, *source]
    assert count("&split=val") == [*split, ("a", "5"), ("b", "5")]
    assert count("&split=val&source=c") == [
        ("test", "1"),
        ("val", "0"),
        ("a", "5"),
        ("b", "5"),
        ("c", "0"),
    ]
    assert count("&q=q:17") == [("test", "1"), ("b", "1")]


def test_a_step_leads_to_its_own_records_and_a_run_to_its_rationales(
    client, tmp_path: Path
) -> None:
    for stage, names in (
        ("collect", ("pages.jsonl", "raw_cases.jsonl")),
        ("verify", ("rejected.jsonl", "verified.jsonl")),
        ("evaluate", ("predictions.jsonl",)),
    ):
        folder = make_step(tmp_path / "runs" / "one" / stage, stage)
        for name in names:
            write(folder / name, {"id": f"{stage}/{name}", "input": "x"})
    links = re.findall(r'href="([^"]*)">Look<', client.get("/en/run?name=one").text)
    assert links[0] == "/en/data?run=one&amp;step=one%2Fcollect"
    assert "collect/raw_cases.jsonl</strong>" in client.get(unescape(links[0])).text
    assert "verify/verified.jsonl</strong>" in client.get("/en/data?run=one").text


def test_two_people_review_and_see_how_far_they_agree(client, hostile_runs: Path) -> None:
    file = "bad/verify/verified.jsonl"
    for who, decision, reason in (("Li", "accept", ""), ("Wang", "reject", "no")):
        for at in (0, 1):
            chosen = "accept" if at == 0 else decision
            answer = client.submit(
                "/en/review", file=file, who=who, at=str(at), decision=chosen, reason=reason
            )
            assert answer.status_code == 303, answer.text
    page = client.get(f"/en/review?file={file}&who=Li").text
    assert "Nothing waits here any more; 2 judged by you" in page
    assert "Li – Wang" in page
    assert "50%" in page
    lines = (hostile_runs / "bad" / "verify" / "reviews.jsonl").read_text("utf-8").splitlines()
    decisions = [json.loads(line)["decision"] for line in lines]
    assert decisions == ["accept", "accept", "accept", "reject"]


def test_a_reason_and_enter_reject_and_an_edit_keeps_its_line_ends(
    client, hostile_runs: Path
) -> None:
    file = "bad/verify/verified.jsonl"
    page = client.get(f"/en/review?file={file}&who=Li").text
    first = re.search(r'<button name="decision" value="(\w+)"', page)
    assert first is not None and first[1] == "reject"  # what Enter presses in a form
    words = {"file": file, "who": "Li", "at": "0", "decision": "edit"}
    edited = client.submit("/en/review", **words, reasoning="one\r\ntwo", answer="three")
    assert edited.status_code == 303
    text = (hostile_runs / "bad" / "verify" / "reviews.jsonl").read_text("utf-8")
    assert json.loads(text.splitlines()[-1])["reasoning"] == "one\ntwo"


def test_a_removal_of_prepare_is_shown_marked_and_decided(client, tmp_path: Path) -> None:
    folder = make_step(tmp_path / "runs" / "one" / "prepare", "prepare")
    removal = {"id": "c:1#现病史#3-8#00000000", "case_id": "c:1", "section": "现病史", "start": 3}
    removal |= {"end": 8, "rule": "statement", "before": "诊断脑积水", "after": ""}
    removal |= {"context": "目前⟦诊断脑积水⟧。", "state": "removed"}
    write(folder / "removals.jsonl", removal)
    file = "one/prepare/removals.jsonl"
    for address in (f"/en/review?file={file}", f"/en/data?file={file}"):
        assert '<mark class="removed" title="removed">⟦诊断脑积水⟧' in client.get(address).text
    whole = {"file": file, "who": "Li", "at": "0", "decision": "edit"}
    assert client.submit("/en/review", **whole).status_code == 400
    assert client.submit("/en/review", **whole, answer="入院").status_code == 303
    [line] = (folder / "reviews.jsonl").read_text("utf-8").splitlines()
    review = json.loads(line)
    assert (review["id"], review["answer"]) == (removal["id"], "入院")


def test_a_rubric_is_accepted_or_rejected_by_a_person(client, tmp_path: Path) -> None:
    folder = make_step(tmp_path / "runs" / "one" / "rubric", "rubric")
    criterion = {"text": "names the lobe", "points": 3, "quote": "右下肺"}
    rubric = {"id": "q:1", "criteria": [criterion], "question": "咳嗽3天", "reference": "肺炎"}
    write(folder / "rubrics.jsonl", rubric)
    page = client.get("/en/review?who=Li").text
    assert "+3  names the lobe" in page
    assert "graded by these criteria" in page
    sent = {"file": "one/rubric/rubrics.jsonl", "who": "Li", "at": "0", "decision": "reject"}
    assert client.submit("/en/review", **sent, reason="too vague").status_code == 303
    assert read_rubrics(folder) == {}


def test_masks_are_undone_and_added_and_words_taken_out_by_hand(
    client, tmp_path: Path, monkeypatch
) -> None:
    text = "患者张三，住北京市海淀区，2024年5月2日起头痛伴恶心呕吐，当地医院对症治疗未见好转。同乡光学家陪同就诊，步态不稳，记忆力下降两月余。"
    raw = {"id": "c:1", "source": "files", "sections": {"现病史": text}, "diagnosis": ["脑积水"]}
    runs = tmp_path / "runs"
    write(tmp_path / "raw.jsonl", raw)
    deidentify.run(deidentify.Config(input=Path("raw.jsonl"), out=runs / "one/deidentify"))
    cases = runs / "one/deidentify/cases.jsonl"
    prepare.run(prepare.Config(input=cases, out=runs / "one/prepare"))
    address = "/en/data?file=one/deidentify/cases.jsonl&row=0"
    page = client.get(address).text
    assert '<mark class="found">张三</mark>' in page
    hidden = re.findall(r'<mark class="masked"[^>]*>([^<]*)<', page)
    assert hidden[0] == "[姓名1]"
    assert re.fullmatch(r"202\d年\d+月\d+日", hidden[-1]), "a moved date is marked too"
    sent = {"file": "one/deidentify/cases.jsonl"}
    for words, kind in (("张三", "keep"), ("同乡", "name"), ("陪同", "name"), ("陪同", "")):
        answer = client.submit("/en/data/correct?row=0", **sent, words=words, kind=kind)
        assert answer.status_code == 303, answer.text
    assert (runs / "one/known.txt").read_text("utf-8") == "张三\tkeep\n同乡\tname\n"
    page = client.get(address).text
    assert '<mark class="found">张三</mark>' not in page
    assert not re.search(r'<mark class="masked"[^>]*>同乡', page), "it is not hidden yet"
    started: list = []
    monkeypatch.setattr("medkd.background_jobs.start", started.append)
    assert client.submit("/en/run/again", step="one/deidentify").status_code == 303
    [words] = started
    assert words[0] == "deidentify"
    assert {f"--known={runs}/one/known.txt", "--overwrite"} <= set(words)
    known = Path(runs / "one/known.txt")
    config = deidentify.Config(input=Path("raw.jsonl"), out=runs / "two/deidentify", known=known)
    deidentify.run(config)
    after = (runs / "two/deidentify/cases.jsonl").read_text("utf-8")
    assert "张三" in after
    assert "同乡" not in after

    answer = client.submit("/en/data/correct?row=0", **sent, words="不在其中", kind="removal")
    assert answer.status_code == 400
    answer = client.submit("/en/data/correct?row=0", **sent, words="光学家", kind="removal")
    assert answer.status_code == 303, answer.text
    [line] = (runs / "one/prepare/reviews.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["id"].startswith("c:1#现病史#")
    prepare.run(prepare.Config(input=cases, out=runs / "one/prepare", overwrite=True))
    assert "光学家" not in (runs / "one/prepare/questions.jsonl").read_text("utf-8")


def test_answers_are_judged_blind_one_by_one_and_in_pairs(client, tmp_path: Path) -> None:
    make_evaluation(tmp_path / "runs" / "one" / "evaluate-base", ["肺炎", "胃炎"])
    make_evaluation(tmp_path / "runs" / "one" / "evaluate", ["肺炎", "肺炎"])
    for steps, key, n_answers in (
        (["one/evaluate"], "r", 1),
        (["one/evaluate-base", "one/evaluate"], "1", 2),
    ):
        address = "/en/blind?" + "&".join(f"steps={name}" for name in steps) + "&who=Li"
        for left in (2, 1):
            page = client.get(address).text
            assert f"{left} of 2 wait for you" in page
            assert page.count('class="turn model"') == n_answers
            body = page[page.index("<article") : page.index("</article>")]
            assert "evaluate" not in body, "whose answer it is is not told"
            found = re.search(r'name="id" value="([^"]+)"', page)
            assert found
            asked = f"/en/blind?steps={'&steps='.join(steps)}"
            assert client.submit(asked, who="Li", id=found[1], key="x").status_code == 400
            assert client.submit(asked, who="Li", id=found[1], key=key).status_code == 303
        assert "All of the sample is judged" in client.get(address).text
    lines = (tmp_path / "runs/one/evaluate/answer_reviews.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["right", "right"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"who": ""}, "First write your name"),
        ({"decision": "reject"}, "Say why you reject it"),
        ({"decision": "edit", "reasoning": "x", "answer": " "}, "may not be empty"),
        ({"decision": "burn"}, "Accept, edit or reject it"),
        ({"at": "99"}, "not there any more"),
    ],
)
def test_a_judgement_that_lacks_something_is_not_written(
    client, hostile_runs: Path, fields: dict, said: str
) -> None:
    whole = {"file": "bad/verify/verified.jsonl", "who": "Li", "at": "0", "decision": "accept"}
    answer = client.submit("/en/review", **whole | fields)
    assert answer.status_code == 400
    assert said in answer.text
    assert not (hostile_runs / "bad" / "verify" / "reviews.jsonl").exists()
    if "at" not in fields:
        again = client.submit("/en/review", **whole | fields | {"at": "1"}).text
        assert re.search(r'name="at" value="1"', again), "the row that was judged stays in sight"
    assert client.submit("/en/review", **whole | {"file": "/etc/passwd"}).status_code == 400


def test_answers_are_filtered_by_what_became_of_the_tuned_models(client, tmp_path: Path) -> None:
    make_evaluation(tmp_path / "runs" / "one" / "evaluate-base", ["胃炎", "肺炎", "胃炎"])
    make_evaluation(tmp_path / "runs" / "one" / "evaluate", ["肺炎", "肺炎", "胃炎"])
    steps = "steps=one/evaluate-base&steps=one/evaluate"
    page = client.get(f"/en/evaluate/answers?{steps}").text
    assert "<small>one/evaluate:</small>" in page
    assert re.findall(r"(right|differ|wrong) (\d)</a>", page) == [
        ("right", "2"),
        ("differ", "1"),
        ("wrong", "1"),
    ]
    assert "1 of 3" in client.get(f"/en/evaluate/answers?{steps}&tag=wrong").text


def test_the_base_stands_first_and_the_headline_says_from_where_to_where(
    client, tmp_path: Path
) -> None:
    tuned = tmp_path / "runs" / "one" / "export"
    for name, model, value in (("a-tuned", tuned, 0.89), ("evaluate-base", tmp_path, 0.26)):
        folder = make_step(tmp_path / "runs" / "one" / name, "evaluate")
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
        manifest.config = {"model": str(model)}
        (folder / MANIFEST).write_text(manifest.model_dump_json())
        scores = {"n": 319, "diagnosis_accuracy": value, "intervals": {}}
        (folder / "scores.json").write_text(json.dumps(scores))
    page = client.get("/en/evaluate").text
    assert "from 26 % to 89 % (n = 319)" in page
    assert page.index("one/evaluate-base") < page.index("one/a-tuned")
    assert "从 26 % 到 89 %" in client.get("/zh/evaluate").text


def test_a_model_is_held_against_the_base_that_it_was_made_of(client, tmp_path: Path) -> None:
    folder = make_step(tmp_path / "runs" / "one" / "export", "export")
    (folder / "lineage.json").write_text(json.dumps({"base_model": "Qwen/Qwen3-8B"}))
    chat = client.get("/en/chat").text
    assert re.findall(r'name="(?:before|after)" value="([^"]*)"', chat) == [
        "Qwen/Qwen3-8B",
        str(folder),
    ]
    for page in ("run?name=one", "export"):
        link = re.search(r'href="(/en/chat\?[^"]*)"', client.get(f"/en/{page}").text)
        assert link
        assert "before=Qwen%2FQwen3-8B&amp;after=" in link[1]


def test_chat_opens_with_what_the_newest_run_is_for(client, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, day in (("old/export", 1), ("new/train", 2), ("new/train-answers", 3)):
        folder = make_step(runs / name, name.partition("/")[2].partition("-")[0])
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
        manifest.started_at = f"2026-01-0{day}"
        (folder / MANIFEST).write_text(manifest.model_dump_json())
    assert f'name="after" value="{runs / "new/train"}"' in client.get("/en/chat").text
    make_step(runs / "new/export", "export")
    client.app.app.state.workspace.forget()
    assert f'name="after" value="{runs / "new/export"}"' in client.get("/en/chat").text


def test_a_base_outside_the_folders_of_the_studio_is_not_talked_to(client, tmp_path: Path) -> None:
    folder = make_step(tmp_path / "runs" / "one" / "export", "export")
    base = tmp_path.parent / "elsewhere"
    (folder / "lineage.json").write_text(json.dumps({"base_model": str(base)}))
    for address in ("chat", f"chat?before={base}&after={folder}"):
        page = client.get(f"/en/{address}").text
        assert re.findall(r'name="(?:before|after)" value="([^"]*)"', page) == ["", str(folder)]
        assert f'<option value="{base}"' not in page


def test_models_that_are_no_folders_of_the_runs_are_bases(client, tmp_path: Path) -> None:
    steps = {}
    for model in ("medkd:tiny", "Qwen/Qwen3-8B", "", "gpt"):
        step = make_step(tmp_path / f"e{len(steps)}", "evaluate")
        manifest = Manifest.model_validate_json((step / MANIFEST).read_text())
        manifest.config = {"model": model}
        steps[model] = Step("one/e", "one", step, manifest)
    assert not any(is_tuned(step, tmp_path) for step in steps.values())


def test_an_export_that_had_too_few_questions_for_its_proof_says_so(client, tmp_path: Path) -> None:
    folder = make_step(tmp_path / "runs" / "one" / "export", "export")
    (folder / "UNPROVEN").touch()
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    manifest.state = "stopped"
    job = Job(
        name="export-1", words=["export", f"--out={folder}"], cwd=tmp_path, pid=1, started_at="2026"
    )
    job.folder.mkdir(parents=True)
    (job.folder / "run.json").write_text(job.model_dump_json())
    (job.folder / "end.json").write_text(JobResult(code=3).model_dump_json())
    (job.folder / "alive").touch()
    for n, n_thinking, said in ((1, 1, "too few questions (n = 1,"), (20, 3, "does not think")):
        manifest.facts = {"n": n, "n_thinking": n_thinking, "n_stopped": n, "finding": "few: x"}
        (folder / MANIFEST).write_text(manifest.model_dump_json())
        run = client.get("/en/run?name=one").text
        assert "The model has not proved itself" in run
        assert "Go on" not in run, "the same export would fail the same proof"
        page = client.get("/en/export").text
        assert said in page
        assert f"asked: {n}; thought about: {n_thinking}; ended by itself: {n}." in page
        assert "few: x" not in page


def test_a_bill_tells_who_answered_instead_and_what_is_not_known_for_certain(
    client, tmp_path: Path
) -> None:
    path = make_step(tmp_path / "runs" / "one" / "distill", "distill") / "ledger.sqlite"
    target = find_target("custom", "asked", "http://localhost:1/v1", is_key_needed=False)
    with Ledger(path) as ledger:
        ledger.start_run(1)
        ledger.open_attempt("a", "case", target, 10, None).result()
    with sqlite3.connect(path) as edited:
        edited.execute("UPDATE attempts SET outcome = 'unknown', n_prompt = 10")
        edited.execute("INSERT INTO served VALUES (1, 'other')")
    page = client.get("/en/bill").text
    assert "1 attempt at asked was answered by other" in page
    assert "Of 1 attempt nobody saw the end" in page
    assert "The tokens of 1 attempt are an estimate" in page
    assert "1 attempt has no known price" in page


@pytest.mark.parametrize("name", ["../x", "-f", ".hidden", "uploads/x", "a/b/c", "a\0b", "", "~"])
def test_the_name_of_a_run_leads_nowhere_else(client, name: str) -> None:
    answer = client.submit(
        "/en/start", kind="deidentify", run=name or " ", **{"s:v::input": "1", "v::input": "runs"}
    )
    assert answer.status_code == 400


def test_a_conversation_that_asks_nobody_or_nothing_is_refused(client) -> None:
    for fields, said in (
        ({"question": " ", "after": "medkd:tiny"}, "First write a question"),
        ({"question": "x"}, "First choose a model"),
        ({"question": "x", "after": "/etc"}, "lies outside"),
        ({"question": "x", "after": "medkd:tiny", "temperature": "hot"}, "must be a number"),
    ):
        answer = client.submit("/en/chat", **fields)
        assert answer.status_code == 400
        assert said in answer.text


def test_chinese_pages_hold_no_english_but_names(client, hostile_runs: Path) -> None:
    t = Texts("zh")
    page = client.get("/zh/new").text
    assert t("Bring your own cases") in page
    assert "Three ways" not in page
