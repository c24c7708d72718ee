"""The page Export: an adapter becomes a model folder; its proof, answer by answer, and the commands
that serve it.

In: steps of `export`. Out: what is on the screen. Not done here: merging and proving
(`medkd.export`).
"""

import json
import shlex
from typing import Any

from starlette.responses import Response

from medkd.studio.page import Page
from medkd.studio.workspace import Step


def show_exports(page: Page) -> Response:
    """Show an export, the newest where the address names none."""
    steps = page.workspace.list_steps(stage="export")
    if not steps:
        return page.render("nothing.html")
    names = [step.name for step in reversed(steps)]
    step = page.workspace.find_step(page.query.get("step") or names[0])
    facts = {
        name: value
        for name, value in step.manifest.facts.items()
        if isinstance(value, str | int | float | bool)
    }
    return page.render(
        "export.html",
        names=names,
        step=step,
        facts=facts,
        is_unproven=(step.path / "UNPROVEN").exists(),
        commands=write_commands(step) if (step.path / "Modelfile").exists() else {},
        answers=read_proof(step),
    )


def read_proof(step: Step) -> list[dict[str, Any]]:
    """Read the answers of the proof; empty where there is none."""
    try:
        content = json.loads((step.path / "proof.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    answers = content.get("answers", []) if isinstance(content, dict) else []
    return [answer for answer in answers if isinstance(answer, dict)]


def write_commands(step: Step) -> dict[str, str]:
    """Write the commands that serve the folder, by the tool."""
    folder, name = shlex.quote(str(step.path.resolve())), step.name.replace("/", "-").lower()
    name = shlex.quote(name)
    return {
        "Ollama": f"cd {folder}\nollama create {name} -f Modelfile\nollama run {name}",
        "vLLM": f"vllm serve {folder} --served-model-name {name} --reasoning-parser deepseek_r1",
    }
