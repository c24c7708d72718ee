"""Which commands there are, and the page that lists them.

In: the words behind `medkd`. Out: the help of the whole, or the version. Not done here: commands
and their own help (`cli.app`), which take the time to load that this page does not.
"""

from collections.abc import Sequence
from typing import NamedTuple

import medkd
from medkd.stages import STAGES

RUN, STAGE, LOOK, MACHINE = "A whole run", "One stage", "Look and talk", "This machine"
HELP, VERSION = ("--help", "-h"), "--version"


class Command(NamedTuple):
    """Where a command lives (`module` with `Config` and `run`, or `module:function`), and its one
    line of help."""

    place: str
    group: str
    summary: str
    uses_torch: bool = False


COMMANDS: dict[str, Command] = {
    "demo": Command("medkd.cli.commands:demo", RUN, "Run the whole pipeline offline.", True),
    "run": Command(
        "medkd.cli.commands:run", RUN, "Run every step of a recipe; skip finished ones.", True
    ),
    "recipes": Command("medkd.cli.commands:recipes", RUN, "List, show or copy shipped recipes."),
    "tasks": Command("medkd.cli.commands:tasks", RUN, "List, show or copy shipped tasks."),
    **{
        name: Command(
            stage.module,
            STAGE,
            stage.summary,
            name in {"train", "reinforce", "evaluate", "export"},
        )
        for name, stage in STAGES.items()
    },
    "chat": Command("medkd.chat.session", LOOK, "Chat with one model or several.", True),
    "review": Command(
        "medkd.cli.review:review", LOOK, "Review a sample of answers, or rubrics; see who agrees."
    ),
    "bill": Command("medkd.cli.commands:bill", LOOK, "Show what the teacher cost."),
    "studio": Command("medkd.studio.command", LOOK, "Open the studio in a browser."),
    "doctor": Command(
        "medkd.train.doctor",
        MACHINE,
        "Check this machine, a model and a dataset before training.",
        True,
    ),
    "runs": Command("medkd.cli.jobs:runs", MACHINE, "List the runs started with --detach."),
    "logs": Command("medkd.cli.jobs:logs", MACHINE, "Show the log of a detached run."),
    "stop": Command("medkd.cli.jobs:stop", MACHINE, "Stop a detached run; its work is kept."),
    "mock-servers": Command(
        "medkd.cli.commands:mock_servers", MACHINE, "Serve the demo's case site and teacher."
    ),
}
FORMER_NAMES = {"rehearse": "mock-servers"}


def is_overview(arguments: Sequence[str]) -> bool:
    """Tell whether a command line names no command."""
    return not arguments or arguments[0] in (*HELP, VERSION)


def write_overview(arguments: Sequence[str]) -> str:
    """Write what a command line without a command is answered with."""
    if VERSION in arguments:
        return medkd.__version__
    lines = [
        "Distil reasoning from a large teacher into a small student. Research software, not a",
        "medical device.",
        "",
        "Usage: medkd COMMAND [--field VALUE …]; medkd COMMAND --help explains its fields",
    ]
    width = max(map(len, COMMANDS)) + 2
    for group in (RUN, STAGE, LOOK, MACHINE):
        listed = [(name, command) for name, command in COMMANDS.items() if command.group == group]
        lines += ["", group, *(f"  {name:<{width}}{command.summary}" for name, command in listed)]
    return "\n".join(lines)
