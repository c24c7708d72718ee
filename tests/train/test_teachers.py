"""On-policy distillation from a teacher behind a server, and from the student itself.

The server is a real one that scores with transformers and answers as vLLM does; only TRL's question
whether vLLM is installed is answered for it.
"""

import functools
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch

from medkd.core.errors import InputError, StoppedError
from medkd.models.chat_template import add_thinking_prefix, encode
from medkd.models.load import load_model
from medkd.train.stage import Config, run
from student_samples import read_lines, save_base


@pytest.fixture(scope="module")
def settings(start):
    trainer = {"max_steps": 2, "save_steps": 1}
    return start | {
        "method": "on-policy",
        "batch_size": 4,
        "max_tokens": 48,
        "trainer": trainer,
    }


@pytest.fixture(scope="module")
def teacher(random_model_dir, trained_dir):
    adapter = trained_dir / "adapter"
    return load_model(str(random_model_dir), adapter, device="cpu", dtype="float32")


@contextmanager
def serve(teacher, n_answers=1000, tokens=None):
    """Serve a teacher that is gone after some scored batches; yields its address."""
    left = [n_answers]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply({"data": [{"id": "teacher"}]})

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize":
                return self.reply({"tokens": tokens or encode(teacher.tokenizer, asked["prompt"])})
            left[0] -= 1
            if left[0] < 0:
                return self.connection.close()
            scored = [
                score(teacher.model, ids, asked["prompt_logprobs"]) for ids in asked["prompt"]
            ]
            return self.reply({"choices": [{"prompt_logprobs": each} for each in scored]})

        def reply(self, content):
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def score(model, ids, n_top):
    """Score a sequence as vLLM does: for each token its likeliest rivals, and itself."""
    with torch.inference_mode():
        logps = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    scored = [None]
    for at in range(1, len(ids)):
        best = logps[at - 1].topk(n_top)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        entry = {str(i): {"logprob": p, "rank": rank} for rank, (i, p) in enumerate(pairs, start=1)}
        own = float(logps[at - 1, ids[at]])
        entry.setdefault(str(ids[at]), {"logprob": own, "rank": n_top + 1})
        scored.append(entry)
    return scored


@pytest.fixture
def vllm_is_there(monkeypatch):
    from trl.generation import vllm_client

    monkeypatch.setattr(vllm_client, "is_vllm_available", lambda *_, **__: True)
    once = functools.partial(vllm_client.Retry, total=0)
    monkeypatch.setattr(vllm_client, "Retry", lambda **_: once())


def test_a_teacher_behind_a_server_scores_and_one_that_dies_leaves_a_run_to_go_on_with(
    settings, teacher, tmp_path, vllm_is_there
):
    with serve(teacher, n_answers=1) as url:
        config = Config(**settings, teacher_url=url, out=tmp_path)
        with pytest.raises(StoppedError, match="answers no more; start the server again") as caught:
            run(config)
        assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
    assert not (tmp_path / "adapter").exists()
    with serve(teacher) as url:
        manifest = run(Config(**settings, teacher_url=url, out=tmp_path))
    assert (manifest.facts["resumed_from_step"], manifest.facts["steps"]) == (1, 2)
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    # The teacher is the start itself: tokens and likelihoods are those that it scores.
    assert all(abs(line["loss"]) < 0.01 for line in lines)


def test_a_server_of_another_tokenizer_or_none_is_one_line(settings, teacher, tmp_path):
    with (
        serve(teacher, tokens=[1, 2, 3]) as url,
        pytest.raises(InputError, match="has another tokenizer than the student"),
    ):
        run(Config(**settings, teacher_url=url, out=tmp_path / "other"))
    with pytest.raises(InputError, match="does not answer as a vLLM server does") as caught:
        run(Config(**settings, teacher_url="http://127.0.0.1:9", out=tmp_path / "none"))
    assert "\n" not in str(caught.value)


def test_the_student_teaches_itself_with_the_answer_at_hand(settings, tmp_path):
    manifest = run(Config(**settings, teacher="self", out=tmp_path))
    assert (manifest.facts["teacher"], manifest.facts["steps"]) == ("self", 2)
    samples = read_lines(tmp_path / "samples.jsonl")
    assert {sample["step"] for sample in samples} == {1, 2}
    assert (tmp_path / "adapter/adapter_model.safetensors").exists()


def test_a_base_that_thinks_at_length_does_not_teach_itself(settings, teacher, tmp_path):
    loaded = load_model(settings["model"], device="cpu", dtype="float32")
    loaded.tokenizer.chat_template = add_thinking_prefix(loaded.tokenizer.chat_template)
    base = save_base(loaded, tmp_path / "thinker")
    with pytest.raises(InputError, match="thinks at length by itself"):
        run(Config(**settings | {"model": str(base)}, teacher="self", out=tmp_path / "out"))
