"""The command line: one command a stage, its flags generated from the stage's `Config`, plus `demo`, `run`, `bill`, `rehearse`.

In: arguments. Out: an exit code (0 done, 2 unusable input, 3 stopped and resumable) and, on failure, one line on stderr.
Not done here: anything a stage does.
"""

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from medkd import __version__
from medkd.core.errors import InputError, MedkdError, StoppedError, from_os_error

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

DEMO_RECIPE = "demo.yaml"
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
"""Keep freed memory in the process: torch on CPU otherwise spends up to half its time in page faults (FACTS: x 2)."""
_USES_TORCH = {"demo", "run", "train", "evaluate", "export"}


def main() -> None:
    """Run the command line and exit."""
    arguments = sys.argv[1:]
    _raise_malloc_thresholds(arguments)
    sys.exit(run_command(arguments))


def run_command(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    from cyclopts import CycloptsError

    try:
        _build_app(arguments)(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _fail(InputError(f"medkd: {_one_line(str(error))}; see `medkd {arguments[0] if arguments else ''} --help`"))
    except MedkdError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return _fail(StoppedError("interrupted; what was done is kept, the same command goes on from there"))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(from_os_error(error))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("medkd"):
            raise
        return _fail(InputError(f"medkd: {error.name} is not installed; pip install 'medkd[train]', or make setup in a checkout"))
    except MemoryError:
        return _fail(StoppedError("out of memory; lower --batch-size or --max-length and run the same command again"))
    return 0


def _fail(error: MedkdError) -> int:
    print(f"error: {_one_line(str(error))}", file=sys.stderr)
    return error.exit_code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _raise_malloc_thresholds(arguments: list[str]) -> None:
    """Start the process again with memory settings that glibc reads only at its start."""
    if not sys.platform.startswith("linux") or not _USES_TORCH.intersection(arguments[:1]) or _MALLOC.keys() & os.environ.keys():
        return
    os.execve(sys.executable, [sys.executable, "-m", "medkd", *arguments], {**os.environ, **_MALLOC})  # noqa: S606 - this very program


def _build_app(arguments: list[str]) -> Any:
    """Build the commands; only the one that is called imports its stage."""
    from cyclopts import App

    from medkd.pipeline import STAGES

    app = App(
        name="medkd",
        version=__version__,
        help="Distil clinical reasoning out of a large teacher into a small student. Research software, not a medical device.",
        help_format="plaintext",
        version_flags=["--version"],
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    called = arguments[0] if arguments else ""
    app.command(_demo, name="demo", help="Walk the whole road offline in the rehearsal world.", sort_key=0)
    app.command(_run, name="run", help="Run every step of a recipe; finished, unchanged steps are skipped.", sort_key=1)
    for number, (name, stage) in enumerate(STAGES.items(), start=2):
        command = _stage_command(name) if name == called else _placeholder
        app.command(command, name=name, help=stage.summary, sort_key=number)
    app.command(_bill if called == "bill" else _placeholder, name="bill", help="What the teacher was paid, and for what.", sort_key=20)
    app.command(_rehearse, name="rehearse", help="Serve the rehearsal case site and teacher until interrupted.", sort_key=21)
    return app


def _placeholder() -> None:
    """Stand in the list of commands for one that was not called."""


def _stage_command(name: str) -> Callable[..., None]:
    """Make the command of a stage from its Config."""
    from medkd.core.recipe import make_config, nearest, read_recipe
    from medkd.pipeline import STAGES

    module = STAGES[name].load()

    def command(recipe: Path | None = None, **given: Any) -> None:
        values: dict[str, Any] = {}
        if recipe is not None:
            content = read_recipe(recipe)
            section = next((key for key in content if key.split("-")[0] == name), None)
            if section is None:
                raise InputError(f"{recipe}: no section {name!r}{nearest(name, list(content))}")
            values = dict(content[section] or {})
        values |= {key: _plain(value) for key, value in given.items() if value is not None}
        config = make_config(module.Config, values, f"medkd {name}")
        manifest = module.run(config)
        counts = manifest.counts
        dropped = "".join(f", {n} {reason}" for reason, n in counts.dropped.items())
        print(f"{name}: {counts.read} in, {counts.kept} kept{dropped}; see {config.out / 'manifest.json'}")

    _give_flags(command, module.Config)
    return command


def _give_flags(command: Callable[..., None], config: "type[BaseModel]") -> None:
    """Give a function the fields of a config as keyword parameters, each optional until the recipe is read too."""
    from cyclopts import Parameter

    flags = [
        inspect.Parameter(
            "recipe",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Path | None, Parameter(help="Recipe whose section of this stage gives the fields; flags win.")],
        )
    ]
    for name, field in config.model_fields.items():
        kind: Any = field.annotation
        described = Parameter(
            help=f"{field.description or ''} ({_show_default(field)})",
            show_default=False,
            negative=None if bool in (kind, *get_args(kind)) else (),
            consume_multiple=get_origin(kind) in (list, tuple),
        )
        flags.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, described]))
    command.__signature__ = inspect.Signature(flags)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {flag.name: flag.annotation for flag in flags}


def _show_default(field: "FieldInfo") -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return "optional" if value in (None, "", {}) else f"default: {value}"


def _plain(value: Any) -> Any:
    """Read the values of a mapping given by flags (`--trainer.learning-rate 1e-4`) as Python literals where they are some."""
    if isinstance(value, dict):
        return {key.replace("-", "_"): _plain(item) for key, item in value.items()}
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value


def _demo(*, out: Path = Path("runs/demo"), teacher_faults: float = 0.0, overwrite: bool = False) -> None:
    """Walk the whole road offline.

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

    recipe = find_recipe(DEMO_RECIPE)
    run_recipe(recipe, out, {"rehearsal": {"faults": teacher_faults}} if teacher_faults else {}, overwrite)


def find_recipe(name: str) -> Path:
    """Find a recipe that is shipped in the package."""
    return Path(__file__).parent / "recipes" / name


def _run(recipe: Path, /, *, out: Path | None = None, overwrite: bool = False, **fields: dict[str, Any]) -> None:
    """Run every step of a recipe.

    Parameters
    ----------
    recipe
        Recipe file.
    out
        Run directory; else the recipe's own.
    overwrite
        Make again the steps that were made with another config.
    fields
        A field of a step: --collect.input cases.json
    """
    from medkd.pipeline import run_recipe

    overrides = {step: _plain(given) for step, given in fields.items()}
    for step, given in overrides.items():
        if not isinstance(given, dict):
            raise InputError(f"medkd run: --{step}: unknown option; a field of a step is written --collect.input FILE")
    run_recipe(recipe, out, overrides, overwrite)


def _bill(path: Path, /, *, json: bool = False) -> None:
    """Say what the teacher was paid, and for what.

    Parameters
    ----------
    path
        Ledger, or the directory of a distil stage.
    json
        Print JSON.
    """
    module = importlib.import_module("medkd.distill.bill")
    bill = module.bill(path)
    print(bill.model_dump_json(indent=2) if json else module.render(bill))


def _rehearse(*, site_port: int = 8764, teacher_port: int = 8765, cases: int = 720, seed: int = 7, faults: float = 0.0) -> None:
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

    from medkd.demo.clinic import generate_cases
    from medkd.demo.site import serve_site
    from medkd.demo.teacher import serve_teacher

    with (
        serve_site(generate_cases(cases, seed), port=site_port) as site,
        serve_teacher(port=teacher_port, faults=faults, seed=seed) as teacher,
    ):
        print(f"case site {site.base_url}\nteacher   {teacher.base_url}  (medkd distill --teacher rehearsal)", flush=True)
        print("Ctrl-C ends both", flush=True)
        threading.Event().wait()
