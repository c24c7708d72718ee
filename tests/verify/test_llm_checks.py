"""The two checks that cost money, against real endpoints on loopback: the rehearsal teacher, and a
judge that says what it is told to."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rationale_samples import make_rationale

from medkd.core.errors import InputError, StoppedError
from medkd.core.records import Checked
from medkd.core.task import find_task, load_task
from medkd.demo.reasoning import explain
from medkd.demo.synthetic_cases import generate_cases
from medkd.demo.teacher import serve_teacher
from medkd.verify import Config, run
from medkd.verify.llm_checks import ask_blindly, make_judge_check

SHOWN = {"基本信息", "主诉", "现病史", "查体", "辅助检查"}
CRITERIA = ("grounded", "sound", "complete", "leads_there")


def write_clinic(path, n, spoiled=()):
    """Write sound rationales of the clinic; of the spoiled ones the record shows another disease
    than the one that is known."""
    cases = [case for case in generate_cases(60, seed=3) if not case.leaks][:n]
    rows = []
    for number, case in enumerate(cases):
        record = " ".join(
            f"【{name}】{text}" for name, text in case.sections.items() if name in SHOWN
        )
        known = case.diagnosis[0]
        reasoning = explain(record, known)
        if number in spoiled:
            reasoning, known = reasoning.replace(known, "甲状腺髓样癌"), "甲状腺髓样癌"
        rows.append(make_rationale(f"q:{number}", record, known, reasoning, known))
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")
    return path


def blind(path, teacher):
    """Configure the blind check of a file by the rehearsal teacher; the results lie beside it."""
    asked = {"blind": True, "teacher": "rehearsal", "base_url": teacher.base_url}
    return Config(input=path, out=path.parent / "out", **asked)


def judged(path, address):
    """Configure the judge of a file; the results lie beside it."""
    asked = {"judge": True, "teacher": "custom", "model": "judge", "base_url": address}
    return Config(input=path, out=path.parent / "out", **asked)


def judge_records(path, marks):
    """Make what a judge says: of each record in turn a mark on every criterion, or a text."""
    records = [json.loads(line)["question"]["input"] for line in path.open(encoding="utf-8")]

    def says(body):
        mark = marks[records.index(json.loads(body["messages"][1]["content"])["record"])]
        if isinstance(mark, str):
            return mark
        return json.dumps(dict.fromkeys(CRITERIA, mark) | {"why": "so"})

    return says


def read_verdicts(out):
    rows = [
        Checked.model_validate_json(line)
        for name in ("verified", "rejected", "undecided")
        for line in (out / f"{name}.jsonl").open(encoding="utf-8")
    ]
    return {row.rationale.id: {verdict.check: verdict for verdict in row.verdicts} for row in rows}


@contextmanager
def serve_judge(says) -> Iterator[tuple[str, list[dict]]]:
    """Answer each request with what `says` makes of it."""
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            chunk = {
                "choices": [{"index": 0, "delta": {"content": says(body)}, "finish_reason": "stop"}]
            }
            usage = {
                "choices": [],
                "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
            }
            data = (
                "".join(f"data: {json.dumps(part)}\n\n" for part in (chunk, usage))
                + "data: [DONE]\n\n"
            )
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_blind_pass_must_reach_the_answer_and_is_paid_once(tmp_path, capsys):
    path = write_clinic(tmp_path / "rationales.jsonl", 8, spoiled={2})
    with serve_teacher() as teacher:
        config = blind(path, teacher)
        manifest = run(config)
        assert teacher.bill.requests == 8
        said = capsys.readouterr().err
        assert 0 < said.index("8 requests, 0 of them on the ledger") < said.index("8 answers in")
        run(config.model_copy(update={"overwrite": True, "min_grounded": 0.7}))
        assert teacher.bill.requests == 8
    assert manifest.counts.dropped == {"blind_miss": 1}
    assert manifest.cost.amount > 0
    verdicts = read_verdicts(tmp_path / "out")
    assert verdicts["q:1"]["blind"].passed
    assert "different" in verdicts["q:2"]["blind"].detail


def test_what_falls_by_rules_is_not_paid_for(tmp_path):
    path = write_clinic(tmp_path / "rationales.jsonl", 3)
    rows = path.read_text(encoding="utf-8").replace('"complete":true', '"complete":false', 1)
    path.write_text(rows, encoding="utf-8")
    with serve_teacher() as teacher:
        run(blind(path, teacher))
        assert teacher.bill.requests == 2


def test_a_judge_scores_and_what_it_cannot_say_is_no_score(tmp_path):
    path = write_clinic(tmp_path / "rationales.jsonl", 3)
    with serve_judge(judge_records(path, [5, 1, "很好的推理，我给高分。"])) as (address, _):
        manifest = run(judged(path, address))
    assert manifest.counts.kept == 1
    assert manifest.counts.dropped == {"low_score": 1, "unanswered": 1}
    verdicts = read_verdicts(tmp_path / "out")
    assert verdicts["q:0"]["judge"].detail.startswith("1.00")
    assert "no JSON object" in verdicts["q:2"]["judge"].detail


def test_a_judge_that_is_never_readable_stops_the_stage(tmp_path):
    path = write_clinic(tmp_path / "rationales.jsonl", 2)
    with serve_judge(lambda _: "fine") as (address, _), pytest.raises((StoppedError, InputError)):
        run(judged(path, address))
    assert not (tmp_path / "out" / "verified.jsonl").exists()


def test_an_unknown_teacher_is_refused_before_anything_is_written(tmp_path):
    path = write_clinic(tmp_path / "rationales.jsonl", 1)
    with pytest.raises(InputError):
        run(Config(input=path, out=tmp_path / "out", judge=True, teacher="nobody"))
    assert not (tmp_path / "out").exists()


def unmark(path):
    """Leave out what says that the first record was de-identified."""
    first, *others = [json.loads(line) for line in path.open(encoding="utf-8")]
    del first["question"]["deidentified_by"]
    rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in (first, *others)]
    path.write_text("".join(rows), encoding="utf-8")


def test_rows_that_nobody_de_identified_go_to_no_endpoint_unless_accepted(tmp_path):
    path = write_clinic(tmp_path / "rationales.jsonl", 3)
    unmark(path)
    with serve_teacher() as teacher:
        config = blind(path, teacher)
        with pytest.raises(InputError, match="1 of 3 rows have no deidentified_by"):
            run(config)
        assert not (tmp_path / "out").exists() and teacher.bill.requests == 0
        manifest = run(config.model_copy(update={"accept_identified": True}))
        assert teacher.bill.requests == 3
    assert manifest.counts.read == 3 and "broken_line" not in manifest.counts.dropped


def test_each_row_is_checked_once_and_one_ledger_is_opened(tmp_path, monkeypatch):
    from medkd.verify import stage

    checked, opened = [], []
    ledger, check = stage.Ledger, stage.check_rationale
    monkeypatch.setattr(stage, "Ledger", lambda *args: opened.append(args) or ledger(*args))
    monkeypatch.setattr(
        stage, "check_rationale", lambda one, config: checked.append(one.id) or check(one, config)
    )
    path = write_clinic(tmp_path / "rationales.jsonl", 4)
    with serve_teacher() as teacher:
        run(blind(path, teacher))
    assert checked == ["q:0", "q:1", "q:2", "q:3"] and len(opened) == 1


@pytest.mark.parametrize("reply", ["{" * 4000, '{"a":' * 4000, '{"grounded": null}', "[1]"])
def test_a_judgement_of_any_form_is_a_record_with_a_reason(tmp_path, reply):
    path = write_clinic(tmp_path / "rationales.jsonl", 2)
    with serve_judge(judge_records(path, [5, reply])) as (address, _):
        manifest = run(judged(path, address))
    assert manifest.counts.dropped == {"unanswered": 1}
    (rejected,) = (tmp_path / "out" / "rejected.jsonl").open(encoding="utf-8")
    assert Checked.model_validate_json(rejected).verdicts[-1].detail


def test_free_texts_are_not_compared_blindly():
    question = make_rationale("q:1", "Which?\nA. one\nB. two", "B", "", "").question
    with pytest.raises(InputError, match="free text"):
        ask_blindly(question, load_task("open-question"))
    asked = ask_blindly(question, load_task("multiple-choice")).messages[1].content
    assert question.input in asked and "answer: b" not in asked.lower()


def test_a_judge_decides_the_undecided_answers_alone(tmp_path):
    record = (
        "【主诉】转移性右下腹痛12小时，麦氏点压痛、反跳痛，体温38.2℃，白细胞15.2×10^9/L，无腹泻。"
    )
    reasoning = "疼痛由脐周转到右下腹，局部压痛并有反跳痛，体温38.2℃，白细胞升到15.2，没有腹泻，提示右下腹的急性炎症，胃肠炎不像。"
    answers = ["急性阑尾炎", "阑尾炎", "阑尾周围炎", "阑尾炎症", "急性胰腺炎"]
    rows = [
        make_rationale(f"q:{n}", record, "急性阑尾炎", reasoning, answer)
        for n, answer in enumerate(answers)
    ]
    path = tmp_path / "rationales.jsonl"
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")
    says = {"阑尾炎": "right", "阑尾周围炎": "undecided", "阑尾炎症": "wrong"}
    asked = []

    def answer(body):
        system, user = (message["content"] for message in body["messages"])
        if '"verdict"' not in system:
            return json.dumps(dict.fromkeys(CRITERIA, 5))
        asked.append(json.loads(user)["answer"])
        return json.dumps({"verdict": says[asked[-1]], "why": "as told"})

    with serve_judge(answer) as (base_url, _):
        run(judged(path, base_url))
    assert sorted(asked) == sorted([*says, *says])
    verdicts = {key: found["answer"] for key, found in read_verdicts(tmp_path / "out").items()}
    assert verdicts["q:1"].passed and verdicts["q:1"].detail == "judged right: as told"
    assert [verdicts[f"q:{n}"].reason for n in (2, 3, 4)] == [
        "undecided",
        "wrong_diagnosis",
        "wrong_diagnosis",
    ]
    assert "judge" in read_verdicts(tmp_path / "out")["q:1"]


def test_the_judge_of_another_task_is_asked_as_no_clinician():
    rationale = make_rationale("q:1", "Which?\nA. one\nB. two", "B", "One is not it.", "B")
    check = make_judge_check(0.5, find_task)
    (diagnosis,) = check.ask(rationale)
    question = rationale.question.model_copy(update={"task": "multiple-choice"})
    (choice,) = check.ask(rationale.model_copy(update={"question": question}))
    texts = ["".join(message.content for message in r.messages) for r in (diagnosis, choice)]
    assert "clinician" in texts[0] and not any(word in texts[1] for word in ("clinic", "medical"))
