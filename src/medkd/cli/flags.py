"""Commands made from a `Config`: its fields are the flags, their docs the help, and nothing is
typed twice.

In: a module with `Config` and `run`. Out: a function that the command line calls. Not done here:
which commands there are.
"""

import ast
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from medkd import background_jobs
from medkd.core.config import PositionalField, describe, did_you_mean, make_config, read_recipe
from medkd.core.errors import InputError
from medkd.pipeline import STAGES

if TYPE_CHECKING:
    from cyclopts import Token
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

DETACH_HELP = "Go on without this terminal; medkd runs, logs and stop watch over it."


def make_stage_command(name: str, arguments: Sequence[str]) -> Callable[..., None]:
    """Make the command of a stage; `arguments` is the command line it was called with."""
    from cyclopts import Parameter

    module = STAGES[name].load()

    listed = find_given_first(module.Config)

    def command(
        *first: Any, recipe: Path | None = None, detach: bool = False, **given: Any
    ) -> None:
        given |= {listed: first[0]} if first and listed else {}
        values = read_section(recipe, name) if recipe else {}
        config = make_config(module.Config, values | read_values(given), f"medkd {name}")
        if detach:
            start_detached(arguments)
            return
        manifest = module.run(config)
        if manifest.state != "finished":  # a dry run has said what it has to say
            return
        counts = manifest.counts
        dropped = "".join(f", {n} {reason}" for reason, n in counts.dropped.items())
        print(
            f"{name}: {counts.read} in, {counts.kept} kept{dropped}; see {config.out / 'manifest.json'}"
        )

    own = [
        _make_flag(
            "recipe",
            Path | None,
            None,
            Parameter(help="Recipe whose section of this stage gives the fields; flags win."),
        ),
        _make_flag(
            "detach", bool, False, Parameter(help=DETACH_HELP, negative=(), show_default=False)
        ),
    ]
    _give_flags(command, sorted([*own, *make_flags(module.Config)], key=lambda flag: flag.kind))
    return command


def _make_flag(
    name: str, kind: Any, default: Any, described: Any, is_first: bool = False
) -> inspect.Parameter:
    place = inspect.Parameter.POSITIONAL_OR_KEYWORD if is_first else inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, place, default=default, annotation=Annotated[kind, described])


def find_given_first(config: "type[BaseModel]") -> str:
    """Give the name of the field that needs no flag; empty where there is none."""
    return next(
        (
            name
            for name, f in config.model_fields.items()
            if any(isinstance(m, PositionalField) for m in f.metadata)
        ),
        "",
    )


def start_detached(arguments: Sequence[str]) -> None:
    """Start the command line anew, without --detach, so that it outlives this terminal."""
    run = background_jobs.start([word for word in arguments if word != "--detach"])
    print(
        f"{run.name}: started; medkd logs {run.name} --follow shows what it says, medkd stop {run.name} ends it"
    )


def make_command(name: str, module: ModuleType) -> Callable[..., Any]:
    """Make the command of a module that is no stage: it prints for itself, and may give an exit
    code."""

    def command(**given: Any) -> Any:
        return module.run(make_config(module.Config, read_values(given), f"medkd {name}"))

    _give_flags(command, make_flags(module.Config))
    return command


def read_section(recipe: Path, name: str) -> dict[str, Any]:
    """Read the first section of a stage in a recipe."""
    content = read_recipe(recipe)
    section = next((key for key in content if key.split("-")[0] == name), None)
    if section is None:
        raise InputError(f"{recipe}: no section {name!r}{did_you_mean(name, list(content))}")
    return dict(content[section] or {})


def make_flags(config: "type[BaseModel]") -> list[inspect.Parameter]:
    """Make keyword parameters of the fields of a config, each optional until the recipe is read
    too."""
    from cyclopts import Parameter

    flags: list[inspect.Parameter] = []
    first = find_given_first(config)
    for name, field in config.model_fields.items():
        kind: Any = field.annotation
        kinds = {kind, *get_args(kind)}
        described = Parameter(
            converter=_read_whole_number if int in kinds and not {float, str} & kinds else None,
            help=f"{describe(field)} ({_show_default(field)})",
            show_default=False,
            negative=None if bool in kinds else (),
            consume_multiple=get_origin(kind) in (list, tuple),
        )
        flags.append(_make_flag(name, kind | None, None, described, is_first=name == first))
    return flags


def _read_whole_number(_: Any, tokens: Sequence["Token"]) -> int:
    """Read a number as it is written; the command line library would round it."""
    return int(tokens[0].value)


def _give_flags(command: Callable[..., Any], flags: Sequence[inspect.Parameter]) -> None:
    command.__signature__ = inspect.Signature(flags)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {flag.name: flag.annotation for flag in flags}


def _show_default(field: "FieldInfo") -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return "optional" if value in (None, "", {}) else f"default: {value}"


def read_values(given: dict[str, Any]) -> dict[str, Any]:
    """Keep the flags that were given, their mappings read as Python literals where they are
    some."""
    return {key: read_value(value) for key, value in given.items() if value is not None}


def read_value(value: Any) -> Any:
    """Read the values of a mapping given by flags (`--trainer.learning-rate 1e-4`) as Python
    literals where they are some.

    >>> read_value({"learning-rate": "1e-4", "optim": "adamw_torch"})
    {'learning_rate': 0.0001, 'optim': 'adamw_torch'}
    """
    if isinstance(value, dict):
        return {key.replace("-", "_"): read_value(item) for key, item in value.items()}
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value
