"""Models and judges behind an endpoint, over real HTTP on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from medkd.evaluate.stage import Config, run
from student_samples import read_lines, write_examples


class Server(ThreadingHTTPServer):
    """Answers each request with what `reply` makes of the system text and the user's turn; None is
    a 400."""

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.asked = reply, []
        self.address = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        messages = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"]
        self.server.asked.append(messages)
        reply = self.server.reply(messages[0]["content"], messages[-1]["content"])
        if reply is None:
            self.send_error(400)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        for event in (
            {"delta": {"content": reply}, "finish_reason": None},
            {"delta": {}, "finish_reason": "stop"},
        ):
            self.wfile.write(
                f"data: {json.dumps({'choices': [{'index': 0, **event}], 'usage': usage})}\n\n".encode()
            )
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(reply):
        server = Server(reply)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def read_scores(out):
    return json.loads((out / "scores.json").read_text())


def test_a_served_model_is_measured_like_a_local_one(serve, tmp_path):
    names = {"a": "flu", "b": "mumps", "c": "croup"}
    server = serve(
        lambda system, user: (
            None if "case 41" in user else f"<think>\nsign\n</think>\n\n{names[user[-1]]}"
        )
    )
    path = write_examples(tmp_path / "test.jsonl", range(30, 42))
    manifest = run(
        Config(endpoint=server.address, model="student", input=path, out=tmp_path / "out")
    )
    scores = read_scores(tmp_path / "out")
    assert scores["n"] == 11 and scores["diagnosis_accuracy"] == scores["think_format_rate"] == 1.0
    assert manifest.counts.dropped == {"refused": 1}
    assert all(len(messages) == 1 for messages in server.asked)


def write_predictions(path):
    pairs = [
        ("病毒性心肌炎", "急性心肌炎"),
        ("急性阑尾炎", "急性阑尾炎"),
        ("双相情感障碍抑郁发作", "双相障碍"),
        ("肺炎", "骨折"),
    ]
    lines = [
        {"prompt": f"请诊断{n}", "predict": answer, "label": label}
        for n, (answer, label) in enumerate(pairs)
    ]
    path.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
    )
    return path


def test_a_judge_decides_what_the_rules_leave_open_and_is_paid_once(serve, tmp_path):
    server = serve(
        lambda system, user: json.dumps(
            {"principal": "same" if "双相" in user else "different", "why": "clear"}
        )
    )
    config = {
        "predictions": write_predictions(tmp_path / "p.jsonl"),
        "judge": server.address,
        "judge_model": "judge",
    }
    run(Config(**config, out=tmp_path / "out"))
    assert read_scores(tmp_path / "out")["diagnosis_accuracy"] == 0.5
    assert read_scores(tmp_path / "out")["diagnosis_decided"] == 1.0
    assert len(server.asked) == 2
    assert "same: clear" in [line["judged"] for line in read_lines(tmp_path / "out/rows.jsonl")]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest | {"state": "running"}))
    run(Config(**config, out=tmp_path / "out"))
    assert len(server.asked) == 2


def test_a_judgement_that_cannot_be_read_is_counted_and_is_no_zero(serve, tmp_path):
    server = serve(
        lambda system, user: json.dumps({"principal": "same"}) if "双相" in user else "hard to say"
    )
    config = Config(
        predictions=write_predictions(tmp_path / "p.jsonl"),
        judge=server.address,
        judge_model="judge",
        out=tmp_path / "out",
    )
    assert run(config).facts["judge_failed"] == 1
    assert read_scores(tmp_path / "out")["diagnosis_decided"] == 0.75
    assert "the judge failed or could not be read" in (tmp_path / "out/report.html").read_text()


def test_open_answers_are_judged_and_get_no_diagnosis_score(serve, tmp_path):
    server = serve(
        lambda system, user: json.dumps({"correct": 5, "complete": 3, "safe": 5, "why": "fine"})
    )
    path = tmp_path / "p.jsonl"
    path.write_text(
        json.dumps(
            {
                "prompt": "怎么退烧？",
                "predict": "多喝水，必要时服药。",
                "label": "物理降温，可以服用退烧药。",
            }
        )
    )
    run(Config(predictions=path, judge=server.address, judge_model="judge", out=tmp_path / "out"))
    scores = read_scores(tmp_path / "out")
    assert (
        scores["judge_score"] == pytest.approx(5 / 6, abs=1e-3)
        and "diagnosis_accuracy" not in scores
    )
