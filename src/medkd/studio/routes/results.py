"""The pages of what a run leaves: a model's folder with its proof, and what a teacher was paid.

In: steps of `export`, ledgers. Out: what is on the screen. Not done here: proving (`export.proof`),
counting money (`medkd.distill.bill`).
"""

import json
import shlex
from typing import Any

from starlette.responses import Response

from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.distill.bill import bill
from medkd.studio.orders import PAYING
from medkd.studio.page import Page
from medkd.studio.workspace import Step


def _choose(page: Page, steps: list[Step]) -> dict[str, Any] | None:
    """Name the steps, the newest first, and choose the one that the address names, or the newest;
    None where there are none."""
    names = [step.name for step in reversed(steps)]
    if not names:
        return None
    return {"names": names, "step": page.workspace.find_step(page.query.get("step") or names[0])}


def show_exports(page: Page) -> Response:
    """Show an exported model."""
    chosen = _choose(page, page.workspace.list_steps(stage="export"))
    if chosen is None:
        return page.render("nothing.html")
    step: Step = chosen["step"]
    plain = (str, int, float, bool)
    return page.render(
        "export.html",
        facts={k: v for k, v in step.manifest.facts.items() if isinstance(v, plain)},
        is_unproven=(step.path / "UNPROVEN").exists(),
        commands=write_commands(step) if (step.path / "Modelfile").exists() else {},
        answers=read_proof(step),
        **chosen,
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
    folder = shlex.quote(str(step.path.resolve()))
    name = shlex.quote(step.name.replace("/", "-").lower())
    return {
        "Ollama": f"cd {folder}\nollama create {name} -f Modelfile\nollama run {name}",
        "vLLM": f"vllm serve {folder} --served-model-name {name} --reasoning-parser deepseek_r1",
    }


def show_bill(page: Page) -> Response:
    """Show the bill of a step."""
    asking = (step for stage in PAYING for step in page.workspace.list_steps(stage=stage))
    paid = (step for step in asking if (step.path / LEDGER).exists())
    chosen = _choose(page, sorted(paid, key=lambda step: step.manifest.started_at))
    if chosen is None:
        return page.render("nothing.html")
    return page.render("bill.html", bill=bill(chosen["step"].path), money=write_money, **chosen)


def write_money(amounts: dict[str, float]) -> str:
    """Write money in every currency there is.

    >>> write_money({"CNY": 1.5}), write_money({})
    ('1.5000 CNY', '0')
    """
    return " + ".join(f"{amount:,.4f} {currency}" for currency, amount in amounts.items()) or "0"
