"""Commands that are no stage: `demo`, `run`, `tasks`, `recipes`, `bill`, `mock-servers`; their
parameters are their flags.

Not done here: what a step does (`pipeline`), the table of commands (`cli.app`).
"""

import itertools
import sys
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from cyclopts import Parameter

from medkd.cli import app
from medkd.cli.flags import read_value, start_detached
from medkd.cli.overview import fill_next
from medkd.core.config import RECIPES, did_you_mean, list_recipes
from medkd.core.errors import InputError
from medkd.core.i18n import get_spoken, tell
from medkd.core.jsonl import write_text
from medkd.core.records import Language
from medkd.core.task import SHIPPED, load_task, read_shipped_task
from medkd.demo.mock_site import serve_site
from medkd.demo.synthetic_cases import generate_cases
from medkd.demo.teacher import serve_teacher
from medkd.distill import bill as bills
from medkd.models.load import SHIPPED_STUDENTS
from medkd.pipeline import plan_recipe, run_recipe
from medkd.report.run import write_report

Road = Literal["cases", "open-datasets"]


def demo(
    *,
    out: Path | None = None,
    road: Road = "cases",
    task: str = "diagnosis",
    language: Language = "zh",
    teacher_faults: float = 0.0,
    overwrite: bool = False,
) -> None:
    """Run the whole pipeline offline, on synthetic cases with a mock teacher.

    Parameters
    ----------
    out
        Run directory; else runs/demo, with the road, task and language where they are others.
    road
        cases, or open-datasets: the recipe of that name on rows made here.
    task
        With cases, what is asked: a shipped task (medkd tasks).
    language
        Language of cases and questions: zh or en.
    teacher_faults
        Share of the mock teacher's answers that fail.
    overwrite
        Repeat steps that were made with another config.
    """
    overrides: dict[str, Any] = {"rehearsal": {"language": language}}
    student = SHIPPED_STUDENTS[language]
    if teacher_faults:
        overrides["rehearsal"]["faults"] = teacher_faults
    if road == "open-datasets":
        overrides = OPEN_DATASETS | {"student": student} | overrides
        overrides["rehearsal"] |= {"cases": 640, "seed": 7}
    elif task != "diagnosis":
        overrides["task"] = task
        is_of_cases = "主诉" in load_task(task).question.sections
        if not is_of_cases:
            overrides["collect"] = {"source": "files", "input": "rehearsal"}
            overrides["prepare"] = {"val_share": 0.06}  # the proof of the export takes 20 rows
    recipe = "demo.yaml" if road == "cases" else f"{road}.yaml"
    parts = ("demo", road, task, language)
    others = zip(parts, ("demo", "cases", "diagnosis", "zh"), strict=True)
    name = "-".join(["demo", *(part for part, usual in others if part != usual)])
    place = out or Path("runs") / name
    run_recipe(
        RECIPES / recipe, place, overrides, overwrite, say_next=partial(_say_next, "demo", student)
    )


def _say_next(name: str, student: str, run_dir: Path) -> None:
    command = fill_next(name, {"out": run_dir, "student": student})
    print(get_spoken().of("cli", "next: {command}", command=command))


OPEN_DATASETS: dict[str, Any] = {
    "merge": {
        "input": "rehearsal",
        "near": 1,
        "contained": 1,
        "val_share": 0.04,
        "test_share": 0.5,
    },
    "train": {
        "epochs": 3,
        "learning_rate": 2e-3,
        "max_length": 1024,
        "batch_size": 8,
        "trainer": {},
    },
    "evaluate": {"max_tokens": 256},
    "export": {"max_tokens": 256},
}
"""What the recipe of that name takes on a laptop: the tiny student and rows made here."""


def run(
    recipe: Path,
    /,
    *,
    out: Path | None = None,
    student: str = "",
    task: str = "",
    overwrite: bool = False,
    detach: bool = False,
    trust_recipe: bool = False,
    lang: Language | None = None,
    **fields: Annotated[dict[str, Any], Parameter(metavar="VALUE")],
) -> None:
    """Run every step of a recipe.

    Parameters
    ----------
    recipe
        Recipe file, or the name of a shipped recipe (medkd recipes).
    out
        Run directory; else the recipe's own.
    student
        Model that every step trains or asks; else the recipe's own.
    task
        What is asked: a shipped task (medkd tasks) or a task file; else the recipe's own.
    overwrite
        Repeat steps that were made with another config.
    detach
        Continue without this terminal; see medkd runs, logs and stop.
    trust_recipe
        Let the recipe name keys of this machine, or send rows and a key to an address.
    lang
        Language of the reports: en, zh.
    fields
        A field of a step: --collect.input cases.json
    """
    overrides: dict[str, Any] = {step: read_value(given) for step, given in fields.items()}
    for step, given in overrides.items():
        if not isinstance(given, dict):
            raise InputError(
                "medkd run: --{}: unknown option; a field of a step is written "
                "--collect.input FILE",
                step,
            )
    overrides |= {key: given for key, given in (("student", student), ("task", task)) if given}
    if detach:
        with ExitStack() as servers:  # what is wrong is told here, not in a log
            plan_recipe(recipe, out, overrides, overwrite, trust_recipe, lang, servers)
        start_detached(sys.argv[1:])
        return
    say_next = partial(_say_next, "run", student)
    run_recipe(recipe, out, overrides, overwrite, trust_recipe, lang, say_next)


Action = Literal["list", "show", "copy"]


def tasks(action: Action = "list", name: str = "", file: Path | None = None, /) -> None:
    """List the shipped tasks, show one, or copy one to begin a task of your own from.

    Parameters
    ----------
    action
        list, show or copy.
    name
        Name of the task.
    file
        File to write; else NAME.yaml here.
    """
    if action == "list":
        say = partial(get_spoken().of, "cli")
        for shipped in SHIPPED:
            task = load_task(shipped)
            print(f"{shipped:<18}{task.answer.kind:<11}{say(task.about)}")
        tell("\nmedkd tasks copy NAME my-task.yaml writes one to begin from; --task takes either")
        return
    path, text = file or Path(f"my-{name}.yaml"), read_shipped_task(name)
    if action == "copy":
        text = text.replace(f"\nname: {name}\n", f"\nname: {path.stem}\n", 1)
    _show_or_copy(action, text, path)


def recipes(action: Action = "list", name: str = "", file: Path | None = None, /) -> None:
    """List the shipped recipes, show one, or copy one to change.

    Parameters
    ----------
    action
        list, show or copy.
    name
        Name of the recipe.
    file
        File to write; else NAME.yaml here.
    """
    shipped = {path.stem: path for path in list_recipes()}
    if action == "list":
        say = partial(get_spoken().of, "cli")
        width = max(map(len, shipped)) + 2
        for stem, path in shipped.items():
            print(f"{stem:<{width}}{say(describe_recipe(path))}")
        tell("\nmedkd run NAME runs one; medkd recipes copy NAME writes it here to be changed")
        return
    name = name.removesuffix(".yaml")
    if name not in shipped:
        raise InputError("recipe {!r}: no shipped one{}", name, did_you_mean(name, shipped))
    text = shipped[name].read_text(encoding="utf-8")
    _show_or_copy(action, text, file or Path(f"{name}.yaml"))


def describe_recipe(path: Path) -> str:
    """Return the first sentence of what a recipe says about itself."""
    lines = path.read_text(encoding="utf-8").split("\n")[1:]
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    said = " ".join(line.lstrip("# ") for line in comment)
    return said.partition(". ")[0].rstrip(".:")


def _show_or_copy(action: Action, text: str, path: Path) -> None:
    if action == "show":
        print(text, end="")
        return
    if path.exists():
        raise InputError("{}: is there already; name another file", path)
    write_text(path, text)
    tell("{} written", path)


def report(run: Path, /, *, out: Path | None = None, lang: Language | None = None) -> None:
    """Write the report of a run: a page, Markdown, tables and figures for a paper.

    Parameters
    ----------
    run
        Run directory, or the directory of one step.
    out
        Directory for page, tables and figures; else report in the run directory.
    lang
        Language of the report: en, zh.
    """
    language = lang or cast(Language, get_spoken().language)
    document, page = write_report(run, out, language)
    for line in document.headline:
        print(line)
    tell("report: {}", page)


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print what completes commands and fields in your shell.

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    print(app.build_whole_app().generate_completion(prog_name="medkd", shell=shell))


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
        tell("case site {}", site.base_url)
        tell("teacher   {}  (medkd distill --teacher rehearsal)", teacher.base_url)
        tell("Ctrl-C stops both")
        threading.Event().wait()
