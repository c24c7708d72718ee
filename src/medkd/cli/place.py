"""Where one is: the newest run below a folder, how far it is, and the command that comes next.

In: manifests, and `help.yaml`, which says what follows a command. Out: lines for a terminal.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core.config import read_shipped_yaml
from medkd.core.i18n import Texts

BEGINNINGS = (
    ("medkd demo", "see the whole road offline, without a key"),
    ("medkd run own-cases --collect.input cases.xlsx", "your own cases, every step"),
    ("medkd studio", "the same in a browser"),
)
"""What to type first, and what it is."""


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
    run, steps = max(runs.items(), key=lambda item: item[1][-1].started_at)
    lines = [texts.of("cli", "{run}: the newest of {n} runs here", run=run, n=len(runs))]
    for step in steps:
        state = texts.word("state", step.state)
        said = texts.of("cli", "{read} in, {kept} kept", read=step.read, kept=step.kept)
        lines.append(f"  {step.name:<20}{state:<10}{said}")
    last = steps[-1]
    following = fill_next(last.stage, last.config)
    out = Path(str(last.config.get("out") or ""))
    if last.stage == "export" and (out / "UNPROVEN").exists():
        lines.append(texts.of("cli", "UNPROVEN: {place} says why", place=out / "proof.json"))
        lines.append(texts.of("cli", "next: {command}", command=following))
    elif last.state != "finished":
        lines.append(
            texts.of("cli", "next: repeat the command of {step}; it continues", step=last.name)
        )
    elif following:
        lines.append(texts.of("cli", "next: {command}", command=following))
    if not following.startswith("medkd report "):
        lines.append(texts.of("cli", "report: {command}", command=f"medkd report {run}"))
    return "\n".join(lines)


class PastStep(NamedTuple):
    """What the manifest of a step says."""

    name: str
    stage: str
    state: str
    started_at: str
    read: int
    kept: int
    config: dict[str, Any]


def _find_runs(folder: Path) -> dict[str, list[PastStep]]:
    """Find the steps of each run in a folder or in its `runs`, in order of time."""
    found: dict[str, list[PastStep]] = {}
    for pattern in ("*/manifest.json", "runs/*/manifest.json", "runs/*/*/manifest.json"):
        for path in folder.glob(pattern):
            try:
                read = json.loads(path.read_bytes())
                counts = read["counts"]
                parts = read["stage"], read["state"], read["started_at"]
                step = PastStep(
                    path.parent.name, *parts, counts["read"], counts["kept"], read["config"]
                )
            except (OSError, ValueError, KeyError, TypeError):
                continue  # no manifest of ours
            found.setdefault(str(path.parent.parent), []).append(step)
    return {run: sorted(steps, key=lambda step: step.started_at) for run, steps in found.items()}


def fill_next(name: str, config: Mapping[str, Any]) -> str:
    """Write the command that comes after one that was run with a config; "" after the last."""
    template: str = read_help(name).get("next", "")
    out = Path(str(config.get("out") or ""))
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
    return template.format_map(places) if template else ""


@cache
def read_help(name: str) -> dict[str, Any]:
    """Read what the help of a command says besides its fields."""
    return read_shipped_yaml("medkd.cli", "help.yaml").get(name, {})
