"""Conversations without a page: turns as they stand, stopping, models in memory, hostile words."""

import time
from collections.abc import Callable, Sequence
from threading import Event

import pytest

from medkd.chat.backends import OnPiece, Reply
from medkd.core.errors import InputError
from medkd.core.records import Message, Sampling
from medkd.studio import conversation
from medkd.studio.conversation import Conversation, HeldModels, Turn

LIMIT_S = 20


class Scripted:
    """Says its words one by one, and waits for leave before the last one."""

    name = "scripted"

    def __init__(self, words: Sequence[tuple[str, bool]]) -> None:
        self.words, self.leave, self.heard = words, Event(), list[Message]()

    def say(self, turns: Sequence[Message], sampling: Sampling, on_piece: OnPiece) -> Reply:
        self.heard = list(turns)
        try:
            for word in self.words[:-1]:
                on_piece(*word)
            self.leave.wait(LIMIT_S)
            on_piece(*self.words[-1])
        except KeyboardInterrupt:
            return Reply("", "", "interrupted")
        return Reply(
            *(
                "".join(word for word, is_reasoning in self.words if is_reasoning is part)
                for part in (True, False)
            ),
            "stop",
        )


def wait(talk: Conversation, is_so: Callable[[list[Turn]], bool]) -> list[Turn]:
    deadline = time.monotonic() + LIMIT_S
    while not is_so(turns := talk.read()[0]):
        assert time.monotonic() < deadline, turns
        time.sleep(0.01)
    return turns


def test_a_turn_is_read_as_it_stands_and_kept_when_it_has_ended() -> None:
    talk, speaker = Conversation(2), Scripted([("fever, ", True), ("so ", True), ("flu", False)])
    talk.ask(0, "what?", lambda: speaker, Sampling())
    said = wait(talk, lambda turns: turns[-1].reasoning == "fever, so ")
    assert (said[-1].is_thinking, said[-1].end, talk.is_speaking) == (True, "", True)
    speaker.leave.set()
    said = wait(talk, lambda turns: turns[-1].end == "stop")
    assert [(turn.question, turn.answer) for turn in said] == [("what?", "flu")]
    assert [(turn.role, turn.content) for turn in speaker.heard] == [
        ("user", "what?"),
    ]
    assert not talk.is_speaking
    assert talk.read()[0] == said
    assert talk.read()[1] == [], "the other side was not asked"


def test_a_turn_that_is_stopped_has_ended_at_once_and_hears_no_more() -> None:
    talk, speaker = Conversation(1), Scripted([("flu", False), (" or mumps", False)])
    talk.ask(0, "what?", lambda: speaker, Sampling())
    wait(talk, lambda turns: turns[-1].answer == "flu")
    talk.stop()
    said = talk.read()[0]
    assert (said[-1].answer, said[-1].end) == ("flu", "interrupted")
    speaker.leave.set()
    time.sleep(0.1)
    assert talk.read()[0] == said


def test_who_cannot_speak_is_told_and_the_question_is_not_held_against_the_next_one() -> None:
    def refuse() -> Scripted:
        raise InputError("no such model; choose another")

    talk, speaker = Conversation(1), Scripted([("flu", False)])
    talk.ask(0, "what?", refuse, Sampling())
    said = wait(talk, lambda turns: turns[-1].problem is not None)
    assert str(said[-1].problem) == "no such model; choose another"
    speaker.leave.set()
    talk.ask(0, "and now?", lambda: speaker, Sampling())
    wait(talk, lambda turns: turns[-1].end == "stop")
    assert [turn.content for turn in speaker.heard] == ["and now?"]


def test_a_model_is_loaded_once_and_the_one_not_used_for_longest_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(
        conversation,
        "open_backend",
        lambda name, adapter: loaded.append(name) or Scripted([("x", False)]),
    )
    held = HeldModels()
    for name in ("a", "b", "a", "a", "c", "a"):
        held.get(name)
    assert loaded == ["a", "b", "c"]
    assert len(held.models) == 2
    held.release()
    assert not held.models
