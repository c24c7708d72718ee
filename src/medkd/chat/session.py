"""The command `chat`: questions from the terminal or a pipe, answers streamed side by side.

In: a name or several (`chat.backends` says which). Out: what the models say on the screen; nothing
is written to disk. Not done here: scoring; a chat in the browser.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from medkd.chat.backends import Backend, EndpointBackend, Reply, open_backend
from medkd.core.config import AcceptIdentified, Options
from medkd.core.errors import Said
from medkd.core.i18n import get_spoken, tell
from medkd.core.progress import make_printable
from medkd.core.records import FinishReason, Message, Sampling, check_deidentified
from medkd.models.load import Device

if TYPE_CHECKING:
    from rich.text import Text

HELP = (
    "/reset begins anew, /system TEXT sets the system text, /fold hides or shows the thinking, "
    "/quit or Ctrl-D ends"
)
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
NOTES = {
    FinishReason.LENGTH: "cut off at --max-tokens",
    FinishReason.LOOP: "it repeated itself and was cut off",
    "interrupted": "interrupted",
}


class Config(Options):
    """Talk to a model, or to several side by side."""

    model: str
    """Model: medkd:tiny, a folder, a GGUF file, a directory of train, a hub's name, or
    MODEL@ADDRESS for an endpoint."""
    adapter: Path | None = None
    """Adapter of train, put on the model."""
    versus: list[str] = Field(default_factory=list)
    """Other models to answer beside it, named in the same way."""
    system: str = ""
    """System text of every conversation."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest answer in tokens."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the likeliest token each time."""
    fold: bool = False
    """Hide the thinking; how long it was is told."""
    device: Device = "auto"
    """Where to compute."""
    accept_identified: AcceptIdentified = False
    """Send lines from a pipe or a file to an endpoint; they carry no mark of de-identification."""


class Conversation:
    """One speaker and what was said so far; of its own words only the answers are given back to it,
    as its makers intend."""

    def __init__(self, speaker: Backend) -> None:
        self.speaker = speaker
        self.turns: list[Message] = []

    def ask(
        self, question: str, system: str, sampling: Sampling, on_piece: Callable[[str, bool], None]
    ) -> Reply:
        """Ask one question behind all that was said before."""
        asked = [*self.turns, Message(role="user", content=question)]
        head = [Message(role="system", content=system)] if system else []
        said = self.speaker.say(
            [*head, *asked],
            sampling,
            lambda piece, is_reasoning: on_piece(make_printable(piece), is_reasoning),
        )
        if said.answer:
            self.turns = [*asked, Message(role="assistant", content=said.answer)]
        return said


def run(config: Config) -> None:
    """Load whom to talk to, and talk until the input ends."""
    first = open_backend(config.model, config.adapter, config.device)
    others = [open_backend(name, None, config.device) for name in config.versus]
    if config.adapter is not None:
        first.name = f"{config.model} with {config.adapter}"
    backends = [first, *others]
    guard_patient_text(backends, sys.stdin.isatty(), config.accept_identified)
    chat(backends, config, _read_questions())


def guard_patient_text(
    backends: Sequence[Backend], is_person: bool, accept_identified: bool
) -> None:
    """Say once that what is typed goes to an endpoint; refuse what is piped, for nobody looks at it
    before it is sent. An endpoint of this machine may pass it on. Raises InputError."""
    endpoints = [
        backend.target.base_url for backend in backends if isinstance(backend, EndpointBackend)
    ]
    if not endpoints:
        return
    if not is_person:
        check_deidentified([""], "standard input", endpoints[0], accept_identified)
    tell(
        "note: what you ask is sent to {}, which may lie outside this machine; name no patient",
        ", ".join(dict.fromkeys(endpoints)),
        to=sys.stderr,
    )


def chat(speakers: Sequence[Backend], config: Config, questions: Iterator[str]) -> None:
    """Ask every speaker every question."""
    conversations = [Conversation(speaker) for speaker in speakers]
    system, is_folded = config.system, config.fold
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature or None)
    for question in questions:
        match question.split(maxsplit=1):
            case ["/quit"]:
                return
            case ["/reset"]:
                conversations = [Conversation(speaker) for speaker in speakers]
                tell("begun anew")
            case ["/system", *rest]:
                system = "".join(rest)
                tell("system: {}", system or Said("none"))
            case ["/fold"]:
                is_folded = not is_folded
                tell("thinking is hidden" if is_folded else "thinking is shown")
            case [word, *_] if word.startswith("/"):
                tell(HELP)
            case []:
                continue
            case _ if len(conversations) > 1 and sys.stdout.isatty():
                _answer_side_by_side(conversations, question, system, sampling, is_folded)
            case _:
                for conversation in conversations:
                    if len(conversations) > 1:
                        print(f"== {conversation.speaker.name}")
                    _answer(conversation, question, system, sampling, is_folded)


def _read_questions() -> Iterator[str]:
    """Read lines until the input ends; on a terminal with a prompt and line editing."""
    is_person = sys.stdin.isatty()
    if is_person:
        importlib.import_module("readline")  # gives input() its history and editing

        tell(HELP)
    while True:
        try:
            yield input("> " if is_person else "")
        except (EOFError, KeyboardInterrupt):
            if is_person:
                print()
            return


def _answer(
    conversation: Conversation, question: str, system: str, sampling: Sampling, is_folded: bool
) -> None:
    """Stream one answer to the screen."""
    dim, plain = (DIM, PLAIN) if sys.stdout.isatty() else ("", "")
    was_reasoning = False

    def show(piece: str, is_reasoning: bool) -> None:
        nonlocal was_reasoning
        if was_reasoning and not is_reasoning and not is_folded:
            sys.stdout.write(f"{plain}\n\n")
        was_reasoning = is_reasoning
        if not (is_reasoning and is_folded):
            sys.stdout.write(f"{dim}{piece}{plain}" if is_reasoning else piece)
        sys.stdout.flush()

    if is_folded and sys.stdout.isatty():
        sys.stdout.write(f"{dim}thinking …{plain}\r")
    said = conversation.ask(question, system, sampling, show)
    print(
        "\n" + "".join(f"{dim}({note}){plain}\n" for note in _make_notes(said, is_folded)),
        end="",
        flush=True,
    )


def _make_notes(said: Reply, is_folded: bool) -> list[str]:
    """Say what a reader should know about an answer."""
    notes: list[Said] = []
    if is_folded and said.reasoning:
        notes.append(Said("{} characters of thinking are folded away", len(said.reasoning)))
    if said.why in NOTES:
        notes.append(Said(NOTES[said.why]))
    elif said.why != FinishReason.STOP:
        notes.append(Said("no whole answer: {}", make_printable(said.why)))
    return [get_spoken().say(note) for note in notes]


def _answer_side_by_side(
    conversations: Sequence[Conversation],
    question: str,
    system: str,
    sampling: Sampling,
    is_folded: bool,
) -> None:
    """Stream the answers into columns, one speaker after another."""
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    texts = [Text() for _ in conversations]

    def draw() -> Table:
        table = Table(expand=True, show_lines=False)
        for conversation in conversations:
            table.add_column(Text(conversation.speaker.name), ratio=1, overflow="fold")
        table.add_row(*texts)
        return table

    with Live(draw(), refresh_per_second=8, vertical_overflow="visible") as live:
        for conversation, text in zip(conversations, texts, strict=True):
            said = conversation.ask(
                question,
                system,
                sampling,
                _make_writer(text, is_folded, lambda: live.update(draw())),
            )
            for note in _make_notes(said, is_folded):
                text.append(f"\n({note})", style="dim")
            live.update(draw())


def _make_writer(
    text: "Text", is_folded: bool, redraw: Callable[[], Any]
) -> Callable[[str, bool], None]:
    """Make what puts the pieces of one answer into its column."""
    state = {"was_reasoning": False}

    def write(piece: str, is_reasoning: bool) -> None:
        if state["was_reasoning"] and not is_reasoning and not is_folded:
            text.append("\n\n")
        state["was_reasoning"] = is_reasoning
        if not (is_reasoning and is_folded):
            text.append(piece, style="dim" if is_reasoning else "")
            redraw()

    return write
