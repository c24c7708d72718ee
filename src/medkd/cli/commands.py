"""Which commands there are, in the order of `medkd --help`; only the one that is called is
imported.

A command is one of three things: a stage of `medkd.pipeline.STAGES`; a module with a `Config`,
whose fields are its flags, and `run(config)`; or a function, whose parameters are its flags. Not
done here: flags (`cli.flags`), what a command does.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from medkd import __version__
from medkd.pipeline import STAGES


class Command(NamedTuple):
    """Where a command lives (`module`, or `module:function`) and what it does, in one line."""

    place: str
    summary: str
    uses_torch: bool = False


BEFORE_STAGES: dict[str, Command] = {
    "demo": Command(
        "medkd.cli.road:demo",
        "Walk the whole road offline in the rehearsal world.",
        uses_torch=True,
    ),
    "run": Command(
        "medkd.cli.road:run",
        "Run every step of a recipe; finished, unchanged steps are skipped.",
        uses_torch=True,
    ),
}
AFTER_STAGES: dict[str, Command] = {
    "chat": Command(
        "medkd.chat.session", "Talk to a model, or to several side by side.", uses_torch=True
    ),
    "doctor": Command(
        "medkd.train.doctor",
        "Say what this machine can train, and what in a model or dataset would fail.",
        uses_torch=True,
    ),
    "runs": Command(
        "medkd.cli.detached:runs", "List the commands that were started with --detach."
    ),
    "logs": Command(
        "medkd.cli.detached:logs", "Show what a run that was started with --detach says."
    ),
    "stop": Command("medkd.cli.detached:stop", "Interrupt a run; what it has done is kept."),
    "bill": Command("medkd.cli.road:bill", "What the teacher was paid, and for what."),
    "studio": Command("medkd.studio.command", "Walk the whole road in a browser, without code."),
    "rehearse": Command(
        "medkd.cli.road:rehearse", "Serve the rehearsal case site and teacher until interrupted."
    ),
}
STAGES_WITH_TORCH = {"train", "reinforce", "evaluate", "export"}


def list_commands() -> dict[str, str]:
    """Give the summary of every command, in order."""
    own = {name: command.summary for name, command in (BEFORE_STAGES | AFTER_STAGES).items()}
    names = [*BEFORE_STAGES, *STAGES, *AFTER_STAGES]
    return {name: STAGES[name].summary if name in STAGES else own[name] for name in names}


def uses_torch(arguments: list[str]) -> bool:
    """Tell whether the command that is called computes with torch."""
    called = arguments[0] if arguments else ""
    own = (BEFORE_STAGES | AFTER_STAGES).get(called)
    return called in STAGES_WITH_TORCH or (own is not None and own.uses_torch)


def build_app(arguments: list[str]) -> Any:
    """Build the command line around the command that is called; the others stand in the list by
    name alone."""
    from cyclopts import App

    app = App(
        name="medkd",
        version=__version__,
        help="Distil clinical reasoning out of a large teacher into a small student. Research software, not a medical device.",
        help_format="plaintext",
        version_flags=["--version"],
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    called = arguments[0] if arguments else ""
    for number, (name, summary) in enumerate(list_commands().items()):
        app.command(
            _load(name, arguments) if name == called else _placeholder,
            name=name,
            help=summary,
            sort_key=number,
        )
    return app


def _placeholder() -> None:
    """Stand in the list of commands for one that was not called."""


def _load(name: str, arguments: list[str]) -> Callable[..., Any]:
    from medkd.cli.flags import make_command, make_stage_command

    if name in STAGES:
        return make_stage_command(name, arguments)
    module_name, _, function = (BEFORE_STAGES | AFTER_STAGES)[name].place.partition(":")
    module = importlib.import_module(module_name)
    return getattr(module, function) if function else make_command(name, module)


def find_recipe(name: str) -> Path:
    """Find a recipe that is shipped in the package."""
    return Path(__file__).parents[1] / "recipes" / name
