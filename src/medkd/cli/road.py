"""Commands around the stages: `demo`, `run`, `bill`, `rehearse`; their parameters are their flags.

Not done here: what a step does, and the table of commands (`cli.commands`).
"""

import sys
from pathlib import Path
from typing import Any

from medkd.cli.commands import find_recipe
from medkd.cli.flags import read_value, start_detached
from medkd.core.errors import InputError


def demo(
    *, out: Path = Path("runs/demo"), teacher_faults: float = 0.0, overwrite: bool = False
) -> None:
    """Walk the whole road offline in the rehearsal world.

    Parameters
    ----------
    out
        Run directory.
    teacher_faults
        Share of the rehearsal teacher's answers that go wrong.
    overwrite
        Begin again where the directory was made with another config.
    """
    from medkd.pipeline import run_recipe

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
        Make again the steps that were made with another config.
    detach
        Go on without this terminal; medkd runs, logs and stop watch over it.
    fields
        A field of a step: --collect.input cases.json
    """
    from medkd.pipeline import run_recipe

    overrides = {step: read_value(given) for step, given in fields.items()}
    for step, given in overrides.items():
        if not isinstance(given, dict):
            raise InputError(
                f"medkd run: --{step}: unknown option; a field of a step is written --collect.input FILE"
            )
    if detach:
        start_detached(sys.argv[1:])
        return
    run_recipe(recipe, out, overrides, overwrite)


def bill(path: Path, /, *, json: bool = False) -> None:
    """Say what the teacher was paid, and for what.

    Parameters
    ----------
    path
        Ledger, or the directory of a distil stage.
    json
        Print JSON.
    """
    from medkd.distill import bill as bills

    found = bills.bill(path)
    print(found.model_dump_json(indent=2) if json else bills.render(found))


def rehearse(
    *,
    site_port: int = 8764,
    teacher_port: int = 8765,
    cases: int = 720,
    seed: int = 7,
    faults: float = 0.0,
) -> None:
    """Serve the rehearsal case site and teacher on this machine until interrupted.

    Parameters
    ----------
    site_port
        Port of the case site.
    teacher_port
        Port of the teacher's OpenAI-compatible endpoint.
    cases
        Cases on the site.
    seed
        Seed of the cases.
    faults
        Share of the teacher's answers that go wrong.
    """
    import threading

    from medkd.demo.mock_site import serve_site
    from medkd.demo.synthetic_cases import generate_cases
    from medkd.demo.teacher import serve_teacher

    with (
        serve_site(generate_cases(cases, seed), port=site_port) as site,
        serve_teacher(port=teacher_port, faults=faults, seed=seed) as teacher,
    ):
        print(
            f"case site {site.base_url}\nteacher   {teacher.base_url}  (medkd distill --teacher rehearsal)",
            flush=True,
        )
        print("Ctrl-C ends both", flush=True)
        threading.Event().wait()
