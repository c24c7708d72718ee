"""Uploading an exported folder: what is refused, what a dry run says, a hub that breaks off."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from medkd.core.errors import InputError, StoppedError
from medkd.export.push import Target, find_base_licence, find_licence, push, read_target
from medkd.export.stage import Config, run, write_card

HUB = Target("hf", "me/student")
CARD = "---\nlibrary_name: transformers\nbase_model: Qwen/Qwen2.5-7B\n---\n# student\n"


@pytest.fixture
def folder(tmp_path):
    """What matters of an exported folder here."""
    lineage = {
        "base_model": "Qwen/Qwen2.5-7B",
        "base_licence": "apache-2.0",
        "licences": {"Apache-2.0": 24},
    }
    contents = {
        "model.safetensors": "weights",
        "proof.json": json.dumps({"passed": True}),
        "lineage.json": json.dumps(lineage),
        "MODELCARD.md": CARD,
        "README.md": CARD,
        "manifest.json": json.dumps({"config": {"adapter": "somebody's folder"}}),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.fixture
def login(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.parametrize("text", ["me/student", "hf:student", "gs:me/student", "hf:me/../x", "hf:"])
def test_a_place_that_is_no_hub_is_one_line(text, tmp_path):
    with pytest.raises(InputError, match="write hf:OWNER/NAME or ms:OWNER/NAME"):
        run(Config(adapter=tmp_path, out=tmp_path / "out", push=text))


def test_a_dry_run_names_every_file_and_changes_nothing(folder, capsys):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    push(folder, HUB, is_accepted=False, is_dry=True)
    shown = capsys.readouterr().out
    assert "would upload 3 files" in shown and "private, licence apache-2.0" in shown
    assert "model.safetensors 7" in shown and "manifest.json" not in shown
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("licences", "base", "says"),
    [
        ({"unknown": 3, "MIT": 2}, "mit", "rows unknown 3"),
        ({"CC-BY-NC-4.0": 1}, "mit", "rows CC-BY-NC-4.0 1"),
        (None, "mit", "rows unknown 0"),
        ({"MIT": 1}, "llama3.1", "base me/base llama3.1"),
        ({"MIT": 1}, None, "base me/base unknown"),
    ],
)
def test_an_unknown_or_narrow_licence_is_refused_unless_accepted(licences, base, says):
    lineage = {"licences": licences, "base_model": "me/base", "base_licence": base}
    with pytest.raises(InputError, match=says):
        find_licence(lineage, is_accepted=False)
    assert find_licence(lineage, is_accepted=True) == "other"


def test_one_free_licence_is_named_and_several_are_other():
    lineage = {"licences": {"MIT": 9}, "base_licence": "mit"}
    assert find_licence(lineage, is_accepted=False) == "mit"
    assert find_licence(lineage | {"base_licence": "apache-2.0"}, is_accepted=False) == "other"


def test_the_licence_of_a_base_stands_at_the_head_of_its_card(tmp_path):
    assert find_base_licence(tmp_path) == "unknown"
    card = tmp_path / "README.md"
    card.write_text("---\nlanguage:\n- zh\nlicense: apache-2.0\ntags: [chat]\n---\n# Base\n")
    assert find_base_licence(tmp_path) == "apache-2.0"
    card.write_text("# Base\n\nlicense: mit\n")
    assert find_base_licence(tmp_path) == "unknown"


def test_a_base_that_is_a_folder_here_is_not_named_to_a_hub(tmp_path):
    lineage = {"base_model": str(tmp_path / "mine/qwen"), "target": "reasoned", "rows": 1}
    proof = {"passed": True, "answers": [], "n": 20, "n_thinking": 20, "n_stopped": 20}
    card = write_card("student", lineage, proof)
    assert str(tmp_path) not in card and "| base model | qwen |" in card
    assert card.startswith("---\nlibrary_name: transformers\ntags:")
    published = write_card("student", lineage | {"base_model": "Qwen/Qwen2.5-7B"}, proof)
    assert "\nbase_model: Qwen/Qwen2.5-7B\ntags:" in published


@pytest.mark.parametrize("mark", ["UNPROVEN", "failed"])
def test_a_folder_that_did_not_prove_itself_is_not_uploaded(folder, mark):
    if mark == "UNPROVEN":
        (folder / mark).write_text("1 of 20 answers think")
    else:
        (folder / "proof.json").write_text(json.dumps({"passed": False}))
    with pytest.raises(InputError, match="did not prove"):
        push(folder, HUB, is_accepted=False, is_dry=False)


def test_a_hub_out_of_reach_leaves_the_folder_whole(folder, login, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoppedError, match="run the same command again") as caught:
        push(folder, HUB, is_accepted=False, is_dry=False)
    assert "\n" not in str(caught.value)
    told = (folder / "README.md").read_text()
    assert told == CARD.replace("---\n", "---\nlicense: apache-2.0\n", 1)


class BreaksOff(BaseHTTPRequestHandler):
    """A hub that makes the repository and is gone before the first file."""

    status = 0
    is_private = True

    def do_GET(self):
        body = json.dumps({"id": "me/student", "private": self.is_private}).encode()
        self.send_response(self.status or 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        if not self.path.endswith("/repos/create"):
            self.connection.close()
            return
        url = f"http://{self.headers['Host']}/me/student"
        body = json.dumps({"url": url, "id": "me/student"}).encode()
        if self.status:
            body = b'{"error": "no"}'
        self.send_response(self.status or 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("hub", "kind", "says"),
    [
        ({}, StoppedError, "nothing is half there"),
        ({"is_private": None}, StoppedError, "nothing is half there"),
        ({"status": 403}, InputError, "the hub refuses"),
        ({"is_private": False}, InputError, "is a public repository"),
    ],
)
def test_a_hub_that_breaks_off_refuses_or_would_show_it_to_all_is_one_line(
    folder, login, monkeypatch, hub, kind, says
):
    handler = type("Handler", (BreaksOff,), hub)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(kind, match=says) as caught:
            push(folder, HUB, is_accepted=False, is_dry=False)
    finally:
        server.shutdown()
        server.server_close()
    assert "\n" not in str(caught.value)


def test_a_hub_without_its_package_says_what_to_install(folder):
    with pytest.raises(InputError, match="pip install modelscope"):
        push(folder, read_target("ms:me/student"), is_accepted=False, is_dry=False)


def test_a_dry_run_of_nothing_is_one_line(tmp_path):
    with pytest.raises(InputError, match="add --push"):
        run(Config(adapter=tmp_path, out=tmp_path / "out", dry_run=True))
