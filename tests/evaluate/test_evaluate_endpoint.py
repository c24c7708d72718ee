"""Models and judges behind an endpoint, over real HTTP on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from medkd.core.config import make_config
from medkd.core.errors import InputError
from medkd.core.records import Lineage
from medkd.evaluate.stage import Config, run
from medkd.report.run import write_report
from student_samples import make_example, read_lines, write_examples

MARKED = Lineage(origin="a", deidentified_by="rules 3")


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
    path = write_examples(tmp_path / "test.jsonl", range(30, 42), lineage=MARKED)
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


def test_a_judge_decides_what_the_rules_leave_open_and_is_paid_once(serve, tmp_path, capsys):
    server = serve(
        lambda system, user: json.dumps(
            {"verdict": "right" if "双相" in user else "wrong", "why": "clear"}
        )
    )
    config = {
        "predictions": write_predictions(tmp_path / "p.jsonl"),
        "judge": server.address,
        "judge_model": "judge",
        "accept_identified": True,
    }
    run(Config(**config, out=tmp_path / "out"))
    scores = read_scores(tmp_path / "out")
    rules, judged = (
        [scores[f"{prefix}_{end}"] for end in ("accuracy", "accuracy_high", "decided")]
        for prefix in ("diagnosis", "judged")
    )
    assert rules[1] - rules[0] == pytest.approx(1 - rules[2]) and rules[2] < 1
    assert judged == [0.5, 0.5, 1.0]
    n_asked = len(server.asked)
    assert n_asked == 2 * round(4 * (1 - rules[2]))  # each in both orders
    assert "on the ledger; the rest costs an unknown price" in capsys.readouterr().err
    assert "right: clear" in [line["judged"] for line in read_lines(tmp_path / "out/rows.jsonl")]
    _, page = write_report(tmp_path / "out", tmp_path / "zh", "zh")
    assert "正确: clear" in page.read_text() and "right: clear" not in page.read_text()
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest | {"state": "running"}))
    run(Config(**config, out=tmp_path / "out"))
    assert len(server.asked) == n_asked


def test_a_judgement_that_cannot_be_read_is_counted_and_is_no_zero(serve, tmp_path):
    server = serve(
        lambda system, user: json.dumps({"verdict": "right"}) if "双相" in user else "hard to say"
    )
    config = Config(
        predictions=write_predictions(tmp_path / "p.jsonl"),
        judge=server.address,
        judge_model="judge",
        accept_identified=True,
        out=tmp_path / "out",
    )
    n_failed = run(config).facts["judge_failed"]
    assert n_failed >= 1
    assert read_scores(tmp_path / "out")["judged_decided"] == 1 - n_failed / 4
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
    run(
        Config(
            predictions=path,
            judge=server.address,
            judge_model="judge",
            accept_identified=True,
            out=tmp_path / "out",
        )
    )
    scores = read_scores(tmp_path / "out")
    assert (
        scores["judge_score"] == pytest.approx(5 / 6, abs=1e-3)
        and "diagnosis_accuracy" not in scores
    )


def test_rows_that_nobody_de_identified_are_sent_only_when_accepted(serve, tmp_path, capsys):
    server = serve(lambda system, user: "flu")
    path = tmp_path / "test.jsonl"
    path.write_text(
        "".join(
            make_example(n, lineage=MARKED if n else Lineage(origin="a")).model_dump_json() + "\n"
            for n in range(3)
        )
    )
    settings = {"endpoint": server.address, "model": "student", "input": path}
    with pytest.raises(InputError, match=r"1 of 3 rows have no deidentified_by.*accept-identified"):
        run(Config(**settings, out=tmp_path / "out"))
    assert not server.asked and not (tmp_path / "out").exists()
    manifest = run(Config(**settings, accept_identified=True, out=tmp_path / "out"))
    assert manifest.facts["n_identified"] == 1 and len(server.asked) == 3
    assert "reads 1 rows without deidentified_by" in capsys.readouterr().err


def test_predictions_reach_a_judge_only_when_accepted(serve, tmp_path):
    server = serve(lambda system, user: json.dumps({"verdict": "right"}))
    path = write_predictions(tmp_path / "p.jsonl")
    with pytest.raises(InputError, match="4 of 4 rows have no deidentified_by"):
        run(Config(predictions=path, judge=server.address, judge_model="j", out=tmp_path / "out"))
    assert not server.asked


def test_a_public_exam_needs_no_mark(serve, tmp_path):
    server = serve(lambda system, user: "答案：B")
    path = tmp_path / "exam.json"
    path.write_text(
        json.dumps(
            [{"question": "首选检查？", "options": {"A": "胸片", "B": "CT"}, "answer": "CT"}]
        )
    )
    run(Config(endpoint=server.address, model="student", exam=str(path), out=tmp_path / "out"))
    assert read_scores(tmp_path / "out")["exam_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 10**20),
        ("limit", 10**20),
        ("seed", -1),
        ("seed", 2**64),
        ("samples", 10**20),
        ("faithfulness", 10**20),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
        ("top_p", float("nan")),
        ("budget", float("inf")),
        ("batch_size", 10**20),
    ],
)
def test_numbers_that_no_evaluation_can_mean_are_refused_in_one_line(tmp_path, field, value):
    with pytest.raises(InputError, match=rf"^evaluate: {field}: "):
        make_config(Config, {"out": tmp_path, field: value}, "evaluate")
