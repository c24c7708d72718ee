"""The page Export: an adapter becomes a model folder; its proof, answer by answer, and the commands
that serve it.

In: steps of `export`. Out: what is on the screen. Not done here: merging and proving
(`medkd.export`).
"""

import json
import shlex
from typing import Any

import gradio as gr

from medkd.studio.next_steps import show_next
from medkd.studio.places import Places, Step
from medkd.studio.present import render, shorten, show_facts, show_notice
from medkd.studio.starts import build_start
from medkd.studio.texts import Texts

REFRESH_S = 3.0


def build(page: gr.Blocks, places: Places, t: Texts) -> None:
    """Lay the page out."""
    build_start(page, places, t, ["export"], t("start.export"))
    chosen = gr.Dropdown(label=t("export.chosen"), choices=[], visible=False)
    head = gr.HTML()
    ollama = gr.Code(label="Ollama", language=None, interactive=False, visible=False)
    vllm = gr.Code(label="vLLM", language=None, interactive=False, visible=False)
    proof = gr.HTML()

    def list_names(wanted: str | None) -> Any:
        """List what was exported; what was chosen stays so, else the newest is."""
        names = [step.name for step in reversed(places.list_steps(stage="export"))]
        return gr.update(
            choices=names,
            value=wanted if wanted in names else next(iter(names), None),
            visible=bool(names),
        )

    def arrive(request: gr.Request) -> Any:
        return list_names(dict(request.query_params).get("step", ""))

    def show(name: str | None) -> tuple[Any, ...]:
        if not name:
            return (
                show_next("export", "export", places, t),
                gr.update(visible=False),
                gr.update(visible=False),
                "",
            )
        step = places.find_step(name)
        commands = write_commands(step)
        is_whole = (step.path / "Modelfile").exists()
        code = [gr.update(value=command, visible=is_whole) for command in commands]
        return show_export(step, t), *code, show_proof(step, t)

    outputs: list[Any] = [head, ollama, vllm, proof]
    page.load(arrive, None, chosen).then(show, chosen, outputs)
    chosen.input(show, chosen, outputs)
    clock = gr.Timer(REFRESH_S).tick(list_names, chosen, chosen, show_progress="hidden")
    clock.then(show, chosen, outputs, show_progress="hidden")


def show_export(step: Step, t: Texts) -> str:
    """Say how the export stands and what was written."""
    manifest = step.manifest
    facts: dict[str, Any] = {
        t("export.state"): t.word("state", manifest.state),
        t("export.folder"): str(step.path),
    }
    facts |= {
        t.word("fact", name): t.say(value) if isinstance(value, str) else value
        for name, value in manifest.facts.items()
        if isinstance(value, str | int | float | bool)
    }
    facts[t("export.written")] = ", ".join(manifest.outputs)
    if (step.path / "UNPROVEN").exists():
        return show_notice(t("export.unproven"), "bad") + show_facts(facts, t)
    return (
        show_notice(t("export.proven"), "good") if manifest.state == "finished" else ""
    ) + show_facts(facts, t)


def show_proof(step: Step, t: Texts) -> str:
    """Show the answers of the proof."""
    path = step.path / "proof.json"
    if not path.exists():
        return ""
    answers = [
        {
            **answer,
            "question": shorten(str(answer.get("question", "")), 400)[0],
            "text": shorten(str(answer.get("text", "")))[0],
        }
        for answer in json.loads(path.read_text(encoding="utf-8")).get("answers", [])
    ]
    return render("proof", t, answers=answers)


def write_commands(step: Step) -> tuple[str, str]:
    """Write the commands that serve the folder with Ollama and with vLLM."""
    folder, name = step.path.resolve(), step.name.replace("/", "-").lower()
    ollama = f"cd {shlex.quote(str(folder))}\nollama create {shlex.quote(name)} -f Modelfile\nollama run {shlex.quote(name)}"
    return (
        ollama,
        f"vllm serve {shlex.quote(str(folder))} --served-model-name {shlex.quote(name)} --reasoning-parser deepseek_r1",
    )
