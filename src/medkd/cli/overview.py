"""Which commands there are, and what `medkd` answers without one: their list, the versions, where
one is and what comes next.

In: manifests, and `help.yaml`, which says what follows a command. Not done here: commands and their
own help (`cli.app`), which take long to load.
"""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import medkd
from medkd.core.config import read_shipped_yaml
from medkd.core.errors import MedkdError
from medkd.core.i18n import LANGUAGES, Texts
from medkd.core.stage_output import Manifest, read_manifest
from medkd.models.load import SHIPPED_STUDENTS, TINY
from medkd.stages import STAGES
from medkd.text.normalize import is_chinese

RUN, STAGE, LOOK, MACHINE = "A whole run", "One stage", "Look and talk", "This machine"
HELP_ALL, VERSION = "--help-all", "--version"
HELP = ("--help", "-h", HELP_ALL)
OWN_LANGUAGE = ("run", "evaluate", "compare", "report")
"""Commands whose `--lang` is the language of their report too."""

BEGINNINGS = (
    ("medkd demo", "see the whole road offline, without a key"),
    ("medkd run own-cases --collect.input cases.xlsx", "your own cases, every step"),
    ("medkd studio", "the same in a browser"),
)
"""What to type first, and what it is."""


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
        "medkd.evaluate.review:review",
        LOOK,
        "Review a sample of answers, or rubrics; see who agrees.",
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


# Where one is, and what comes next


def describe_place(folder: Path, texts: Texts) -> str:
    """Say which run was worked on last in a folder, how far it is, and what comes next."""
    runs = _find_runs(folder)
    if not runs:
        return "\n".join(
            [
                texts.of("cli", "There is no run in this folder yet. Begin with one of these:"),
                *(f"  {command:<58}{texts.of('cli', said)}" for command, said in BEGINNINGS),
                texts.of("cli", "medkd --help lists all commands."),
            ]
        )
    run, steps = max(runs.items(), key=lambda item: item[1][-1][1].started_at)
    lines = [texts.of("cli", "{run}: the newest of {n} runs here", run=run, n=len(runs))]
    for name, step in steps:
        state, counts = texts.word("state", step.state), step.counts
        said = texts.of("cli", "{read} in, {kept} kept", read=counts.read, kept=counts.kept)
        lines.append(f"  {name:<20}{state:<10}{said}")
    name, last = steps[-1]
    following = fill_next(last.stage, last.config)
    out = Path(str(last.config.get("out") or ""))
    if last.stage == "export" and (out / "UNPROVEN").exists():
        lines.append(texts.of("cli", "UNPROVEN: {place} says why", place=out / "proof.json"))
        lines.append(texts.of("cli", "next: {command}", command=following))
    elif last.state != "finished":
        lines.append(texts.of("cli", "next: repeat the command of {step}; it continues", step=name))
    elif following:
        lines.append(texts.of("cli", "next: {command}", command=following))
    if not following.startswith("medkd report "):
        lines.append(texts.of("cli", "report: {command}", command=f"medkd report {run}"))
    return "\n".join(lines)


def _find_runs(folder: Path) -> dict[str, list[tuple[str, Manifest]]]:
    """Find the steps of each run in a folder or in its `runs`, by name and in order of time."""
    found: dict[str, list[tuple[str, Manifest]]] = {}
    for pattern in ("*/manifest.json", "runs/*/manifest.json", "runs/*/*/manifest.json"):
        for path in folder.glob(pattern):
            with suppress(MedkdError):  # no manifest of ours
                step = path.parent.name, read_manifest(path.parent)
                found.setdefault(str(path.parent.parent), []).append(step)
    return {run: sorted(steps, key=lambda step: step[1].started_at) for run, steps in found.items()}


def fill_next(name: str, config: Mapping[str, Any]) -> str:
    """Write the command that comes after one that was run with a config; "" after the last."""
    out = Path(str(config.get("out") or ""))
    if name == "select" and (out / "train.jsonl").is_file():  # rows, which no teacher is asked
        name = "merge"
    template: str = read_help(name).get("next", "")
    places = {key: str(value) for key, value in config.items()} | {"run": out.parent}
    if name == "compare":  # its --out may lie anywhere; the report is of what was compared
        compared = [Path(str(one)) for one in config["input"]]
        runs = {path.parent for path in compared}
        places["compared"] = runs.pop() if len(runs) == 1 else compared[-1]
    if "{base}" in template:
        others = sorted(out.parent.glob("evaluate*/scores.json"))
        base = next((path.parent for path in others if path.parent != out), None)
        if base is None:
            return f"medkd report {out}"
        places["base"] = base
    if "{student}" in template and not places.get("student"):
        places["student"] = _choose_student(out / "train.jsonl")
    return template.format_map(places) if template else ""


def _choose_student(rows: Path) -> str:
    """Choose the shipped student that reads the language of rows."""
    try:
        with rows.open(encoding="utf-8") as file:
            return SHIPPED_STUDENTS["zh" if is_chinese(json.loads(next(file))["input"]) else "en"]
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return TINY


@cache
def read_help(name: str) -> dict[str, Any]:
    """Read what the help of a command says besides its fields."""
    return read_shipped_yaml("medkd.cli", "help.yaml").get(name, {})
