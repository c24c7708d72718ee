import itertools
import os
import pty
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.chat import backends
from medkd.chat.backends import EndpointBackend, LocalBackend, Reply, ThinkingSplitter, open_backend
from medkd.chat.session import Config, Conversation, chat, guard_patient_text
from medkd.core.errors import InputError
from medkd.core.records import Message, Sampling
from medkd.core.thinking import write
from medkd.demo.dialogue import Fault
from medkd.demo.teacher import serve_teacher
from medkd.export.gguf import write_gguf
from medkd.models.load import load_model, load_tokenizer


class Parrot:
    """Says what it was told to, and keeps what it was asked."""

    def __init__(self, name="parrot", said=None):
        self.name, self.said, self.heard = name, said or Reply("because", "flu", "stop"), []

    def say(self, turns, sampling, on_piece):
        self.heard.append([(turn.role, turn.content) for turn in turns])
        on_piece(self.said.reasoning, True)
        on_piece(self.said.answer, False)
        return self.said


def talk(*lines, said=None, **fields):
    parrot = Parrot(said=said)
    chat([parrot], Config(model="parrot", **fields), iter(lines))
    return parrot.heard


def test_what_was_said_before_is_given_again_without_the_thinking():
    first, second = talk("fever?", "and now?")
    assert first == [("user", "fever?")]
    assert second == [("user", "fever?"), ("assistant", "flu"), ("user", "and now?")]


def test_reset_forgets_and_system_stays():
    heard = talk("one", "/reset", "/system be brief", "two", "three", system="be kind")
    assert heard[0] == [("system", "be kind"), ("user", "one")]
    assert heard[1] == [("system", "be brief"), ("user", "two")]
    assert heard[2][0] == ("system", "be brief") and len(heard[2]) == 4


def test_an_empty_line_asks_nothing_and_an_unknown_command_shows_the_help(capsys):
    assert talk("", "   ", "/what", "/quit", "never asked") == []
    assert "/reset" in capsys.readouterr().out


def test_thinking_is_shown_or_folded_away(capsys):
    talk("fever?")
    assert "because" in capsys.readouterr().out
    talk("fever?", fold=True)
    folded = capsys.readouterr().out
    assert "because" not in folded and "7 characters of thinking are folded away" in folded


@pytest.mark.parametrize(
    ("why", "note"),
    [
        ("loop", "it repeated itself and was cut off"),
        ("length", "--max-tokens"),
        ("503: busy", "503: busy"),
    ],
)
def test_an_answer_that_did_not_end_by_itself_carries_a_note(capsys, why, note):
    talk("fever?", said=Reply("", "flu flu flu", why))
    assert note in capsys.readouterr().out


@given(
    reasoning=st.text("ab</think>\n ", max_size=30),
    answer=st.text("ab<think", max_size=20),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
def test_reasoning_and_answer_are_told_apart_wherever_the_stream_is_cut(reasoning, answer, cuts):
    text = write(reasoning.replace(">", ""), answer)  # no whole tag, any part of one
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    heard: dict[bool, str] = {True: "", False: ""}

    def hear(piece, is_reasoning):
        heard[is_reasoning] += piece

    splitter = ThinkingSplitter(hear)
    for start, end in itertools.pairwise(bounds):
        splitter.take(text[start:end])
    splitter.finish()
    inside = text.removeprefix("<think>").partition("</think>")
    assert heard[True].strip() == inside[0].strip()
    assert heard[False].strip() == inside[2].strip()


def test_a_tuned_student_thinks_answers_and_stops(random_model_dir, trained_dir):
    speaker = open_backend(str(trained_dir))
    assert isinstance(speaker, LocalBackend)
    pieces = []
    said = speaker.say(
        [Message(role="user", content="case 24: sign a")],
        Sampling(max_tokens=96),
        lambda *piece: pieces.append(piece),
    )
    assert said == Reply("sign a means flu", "flu", "stop")
    assert "".join(text for text, is_reasoning in pieces if is_reasoning).strip() == said.reasoning


def test_a_model_that_repeats_itself_is_cut_off(random_model_dir, monkeypatch):
    monkeypatch.setattr(backends, "is_looping", lambda text: True)
    speaker = LocalBackend(
        "random", load_model(str(random_model_dir), device="cpu", dtype="float32")
    )
    said = speaker.say(
        [Message(role="user", content="?")],
        Sampling(max_tokens=1000),
        lambda piece, is_reasoning: None,
    )
    assert said.why == "loop"


def test_an_endpoint_is_talked_to_by_model_and_address():
    with serve_teacher() as teacher:
        speaker = open_backend(f"any@{teacher.base_url}")
        assert isinstance(speaker, EndpointBackend)
        talked = Conversation(speaker)
        said = talked.ask(
            "【主诉】发热3天。", "", Sampling(max_tokens=500), lambda piece, is_reasoning: None
        )
    assert said.why == "stop" and said.reasoning and said.answer
    assert [turn.role for turn in talked.turns] == ["user", "assistant"]


def test_a_folder_whose_path_holds_an_at_sign_is_no_endpoint(random_model_dir, tmp_path):
    folder = tmp_path / "me@host"
    folder.symlink_to(random_model_dir)
    assert isinstance(open_backend(str(folder)), LocalBackend)


def test_names_that_stand_for_nobody_are_one_line(tmp_path):
    with pytest.raises(InputError, match="MODEL@PLACE nobody: unknown provider"):
        open_backend("some@nobody")
    with pytest.raises(InputError, match="leave --adapter out"):
        open_backend("some@http://127.0.0.1:9/v1", tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        open_backend("./nowhere")
    with pytest.raises(InputError, match="check the address"):
        open_backend("some@http://127.0.0.1:9/v1").say(
            [Message(role="user", content="?")], Sampling(), lambda piece, is_reasoning: None
        )


def test_an_empty_balance_is_named_by_itself():
    with serve_teacher(latency_s=0, script=[Fault.NO_BALANCE]) as teacher:
        speaker = open_backend(f"any@{teacher.base_url}")
        with pytest.raises(InputError, match=r"the balance is empty .*; top it up"):
            speaker.say([Message(role="user", content="?")], Sampling(), lambda piece, is_it: None)


def test_on_a_terminal_two_models_answer_side_by_side(trained_dir, random_model_dir):
    words = [
        "chat",
        "--model",
        str(trained_dir),
        "--versus",
        str(random_model_dir),
        "--max-tokens",
        "96",
    ]
    main_end, side = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "medkd", *words],
        stdin=side,
        stdout=side,
        stderr=side,
        env=os.environ | {"COLUMNS": "100", "TERM": "xterm"},
    )
    os.close(side)
    os.write(main_end, b"case 24: sign a\n/quit\n")
    shown = b""
    while running.poll() is None:
        try:
            shown += os.read(main_end, 4096)
        except OSError:
            break
    os.close(main_end)
    assert running.wait() == 0, shown[-2000:]
    assert b"\x1b[2m" in shown
    assert b"means flu" in re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown)


@pytest.mark.parametrize("address", ["https://models.example.org/v1", "http://127.0.0.1:9/v1"])
def test_what_an_endpoint_gets_is_said_and_lines_from_a_file_are_refused(
    capsys, monkeypatch, address
):
    monkeypatch.setenv("MEDKD_API_KEY", "k")
    far = [open_backend(f"some@{address}")]
    with pytest.raises(InputError, match="--accept-identified"):
        guard_patient_text(far, is_person=False, accept_identified=False)
    guard_patient_text(far, is_person=False, accept_identified=True)
    guard_patient_text(far, is_person=True, accept_identified=False)
    assert capsys.readouterr().err.count(f"sent to {address}, which may lie outside") == 2
    guard_patient_text([Parrot()], False, False)
    assert capsys.readouterr().err == ""


def test_what_a_model_says_never_steers_the_terminal(capsys):
    hostile = "flu\x1b[2J\x1b]0;title\x07\x9b31m\u202eulf\r"
    talk("fever?", said=Reply(hostile, hostile, "503: \x1b[31mbusy"))
    shown = capsys.readouterr().out
    assert "flu" in shown and not set(shown) & set("\x1b\x07\x9b\u202e\r")


def test_a_gguf_file_is_talked_to_and_its_pieces_are_the_whole_answer(tiny_model_dir, tmp_path):
    pytest.importorskip("xllamacpp")
    path = tmp_path / "model.gguf"
    write_gguf(tiny_model_dir, path, "q8_0", load_tokenizer(tiny_model_dir))
    speaker = open_backend(str(path))
    heard = []
    said = speaker.say(
        [Message(role="user", content="【主诉】发热3天。")],
        Sampling(max_tokens=24),
        lambda piece, is_reasoning: heard.append(piece),
    )
    assert len(heard) > 1 and said.why == "stop"
    assert "".join(heard).strip() == said.reasoning + said.answer
    with pytest.raises(InputError, match="a GGUF file takes none"):
        open_backend(str(path), tmp_path)


def test_ctrl_c_ends_the_answer_of_a_gguf_file(tiny_model_dir, tmp_path):
    pytest.importorskip("xllamacpp")
    path = tmp_path / "model.gguf"
    write_gguf(tiny_model_dir, path, "q8_0", load_tokenizer(tiny_model_dir))
    heard = []

    def interrupt(piece, is_reasoning):
        heard.append(piece)
        if len(heard) == 2:
            raise KeyboardInterrupt

    asked = [Message(role="user", content="【主诉】发热3天。")]
    said = open_backend(str(path)).say(asked, Sampling(max_tokens=24), interrupt)
    assert said.why == "interrupted" and len(heard) == 2
