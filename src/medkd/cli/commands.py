"""Commands that are no stage: `demo`, `run`, `bill`, `mock-servers`; their parameters are their
flags.

Not done here: what a step does (`pipeline`), the table of commands (`cli.app`).
"""

import sys
import threading
from pathlib import Path
from typing import Any

from medkd.cli.flags import read_value, start_detached
from medkd.core.errors import InputError
from medkd.demo.mock_site import serve_site
from medkd.demo.synthetic_cases import generate_cases
from medkd.demo.teacher import serve_teacher
from medkd.distill import bill as bills
from medkd.pipeline import find_recipe, run_recipe


def demo(
    *, out: Path = Path("runs/demo"), teacher_faults: float = 0.0, overwrite: bool = False
) -> None:
    """Run the whole pipeline offline, on synthetic cases with a mock teacher.

    Parameters
    ----------
    out
        Run directory.
    teacher_faults
        Share of the mock teacher's answers that fail.
    overwrite
        Repeat steps that were made with another config.
    """
    recipe = find_recipe("demo.yaml")
    run_recipe(
        recipe, out, {"rehearsal": {"faults": teacher_faults}} if teacher_faults else {}, overwrite
    )


def run(
    recipe: Path,
    /,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    detach: bool = False,
    trust_recipe: bool = False,
    **fields: dict[str, Any],
) -> None:
    """Run every step of a recipe.

    Parameters
    ----------
    recipe
        Recipe file.
    out
        Run directory; else the recipe's own.
    overwrite
        Repeat steps that were made with another config.
    detach
        Continue without this terminal; see medkd runs, logs and stop.
    trust_recipe
        Let the recipe run commands, load code that comes with a model, or send a key to another
        host.
    fields
        A field of a step: --collect.input cases.json
    """
    overrides = {step: read_value(given) for step, given in fields.items()}
    for step, given in overrides.items():
        if not isinstance(given, dict):
            raise InputError(
                f"medkd run: --{step}: unknown option; "
                "a field of a step is written --collect.input FILE"
            )
    if detach:
        start_detached(sys.argv[1:])
        return
    run_recipe(recipe, out, overrides, overwrite, trust_recipe)


def bill(path: Path, /, *, json: bool = False) -> None:
    """Show what the teacher cost, and for what.

    Parameters
    ----------
    path
        Ledger, or the --out of medkd distill.
    json
        Print JSON.
    """
    found = bills.bill(path)
    print(found.model_dump_json(indent=2) if json else bills.render(found))


def mock_servers(
    *,
    site_port: int = 8764,
    teacher_port: int = 8765,
    cases: int = 720,
    seed: int = 7,
    faults: float = 0.0,
) -> None:
    """Serve the demo's case site and teacher on this machine until interrupted.

    Parameters
    ----------
    site_port
        Port of the case site.
    teacher_port
        Port of the teacher's OpenAI-compatible endpoint.
    cases
        Number of cases on the site.
    seed
        Seed of the cases.
    faults
        Share of the teacher's answers that fail.
    """
    with (
        serve_site(generate_cases(cases, seed), port=site_port) as site,
        serve_teacher(port=teacher_port, faults=faults, seed=seed) as teacher,
    ):
        print(f"case site {site.base_url}", flush=True)
        print(f"teacher   {teacher.base_url}  (medkd distill --teacher rehearsal)", flush=True)
        print("Ctrl-C stops both", flush=True)
        threading.Event().wait()
