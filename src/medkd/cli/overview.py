"""Which commands there are, and what `medkd` answers without one: their list, the versions, where
one is and what comes next.

Not done here: commands and their own help (`cli.app`), which take long to load.
"""

import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import medkd
from medkd.cli.place import describe_place
from medkd.core.i18n import LANGUAGES, Texts
from medkd.stages import STAGES

RUN, STAGE, LOOK, MACHINE = "A whole run", "One stage", "Look and talk", "This machine"
HELP_ALL, VERSION = "--help-all", "--version"
HELP = ("--help", "-h", HELP_ALL)
OWN_LANGUAGE = ("run", "evaluate", "compare", "report")
"""Commands whose `--lang` is the language of their report too."""


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
            name in {"select", "train", "reinforce", "evaluate", "export"},
        )
        for name, stage in STAGES.items()
    },
    "chat": Command("medkd.chat.session", LOOK, "Chat with one model or several.", True),
    "review": Command(
        "medkd.cli.review:review", LOOK, "Review a sample of answers, or rubrics; see who agrees."
    ),
    "report": Command(
        "medkd.cli.commands:report", LOOK, "Write the report of a run: page, tables and figures."
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
    "completion": Command(
        "medkd.cli.commands:completion", MACHINE, "Print what completes commands in your shell."
    ),
    "mock-servers": Command(
        "medkd.cli.commands:mock_servers", MACHINE, "Serve the demo's case site and teacher."
    ),
}
FORMER_NAMES = {"rehearse": "mock-servers"}


def is_overview(arguments: Sequence[str]) -> bool:
    """Tell whether a command line names no command."""
    return not arguments or arguments[0] in (*HELP, VERSION)


def take_language(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Return the language to speak and the rest of a command line: that of `--lang`, else that of
    the locale. A command with a `--lang` of its own keeps it.

    >>> take_language(["runs", "--lang", "zh"]), take_language(["run", "demo", "--lang=zh"])
    (('zh', ['runs']), ('zh', ['run', 'demo', '--lang=zh']))
    """
    said = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    language = "zh" if said.lower().startswith("zh") else "en"
    rest = list(arguments)
    for at, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        given = value if equals else "".join(arguments[at + 1 : at + 2])
        if flag == "--lang" and given in LANGUAGES:
            language = given
            if arguments[0] not in OWN_LANGUAGE:
                del rest[at : at + (1 if equals else 2)]
            break
    return language, rest


def write_overview(arguments: Sequence[str], texts: Texts) -> str:
    """Write what a command line without a command is answered with."""
    if VERSION in arguments:
        return write_version()
    if not arguments:
        return describe_place(Path(), texts)
    lines = [
        texts.of("cli", "Distil reasoning from a large teacher into a small student."),
        texts.of("cli", "Research software, not a medical device."),
        "",
        texts.of("cli", "Usage: medkd COMMAND [--field VALUE …]"),
        texts.of(
            "cli",
            "medkd COMMAND --help shows its first fields, --help-all all; --lang zh speaks Chinese",
        ),
    ]
    width = max(map(len, COMMANDS)) + 2
    for group in (RUN, STAGE, LOOK, MACHINE):
        listed = [(name, command) for name, command in COMMANDS.items() if command.group == group]
        lines += ["", texts.of("cli", group)]
        lines += [f"  {name:<{width}}{texts.of('cli', c.summary)}" for name, c in listed]
    return "\n".join(lines)


def write_version() -> str:
    """Write the versions of what computes, and on what; nothing of it is loaded.

    >>> write_version().startswith("medkd ")
    True
    """
    found = [f"medkd {medkd.__version__}", f"Python {platform.python_version()}"]
    for library in ("torch", "transformers", "trl", "vllm"):
        with suppress(PackageNotFoundError):
            found.append(f"{library} {version(library)}")
    return ", ".join([*found, f"computes on {_name_device()}"])


def _name_device() -> str:
    """Name what torch would compute on, as the system lists it."""
    models = [
        line.partition(":")[2].strip()
        for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith("Model:")
    ]
    if models:
        return f"cuda ({len(models)} x {models[0]})"
    if Path("/dev/nvidia0").exists():
        return "cuda"
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    return f"cpu ({os.cpu_count()} cores)"
