"""Makes commands of a `Config`: its fields are the flags, their docs the help.

In: a module with `Config` and `run`. Out: a function for the command line, and one line for an
argument that it cannot read. Not done here: which commands there are (`cli.app`).
"""

import ast
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

import cyclopts
from cyclopts import Parameter, Token
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from medkd import background_jobs
from medkd.core.config import (
    Options,
    PositionalField,
    describe,
    did_you_mean,
    find_recipe,
    is_marked,
    make_config,
    read_recipe,
)
from medkd.core.errors import InputError
from medkd.core.stage_output import Manifest
from medkd.pipeline import check_consent, fill_in
from medkd.stages import STAGES

DETACH_HELP = "Continue without this terminal; see medkd runs, logs and stop."
RECIPE_HELP = "Recipe whose section of this stage supplies fields; flags override it."
TRUST_HELP = (
    "Let the recipe run commands, load code that comes with a model, or send a key to another host."
)


def make_stage_command(name: str, arguments: Sequence[str]) -> Callable[..., None]:
    """Make the command of a stage; `arguments` is the command line it was called with."""
    module = STAGES[name].load()
    positional = find_positional(module.Config)

    def command(
        *first: Any,
        recipe: Path | None = None,
        detach: bool = False,
        trust_recipe: bool = False,
        **given: Any,
    ) -> None:
        given |= {positional: first[0]} if first and positional else {}
        values = read_section(recipe, name, trust_recipe) if recipe else {}
        config = make_config(module.Config, values | read_values(given), f"medkd {name}")
        if detach:
            start_detached(arguments)
            return
        manifest: Manifest = module.run(config)
        if manifest.state == "finished":  # a dry run has already printed its result
            print(f"{name}: {manifest.describe_counts()}; see {config.out / 'manifest.json'}")

    own = [
        _make_flag("recipe", Path | None, None, Parameter(help=RECIPE_HELP)),
        _make_flag("trust_recipe", bool, False, _make_switch(TRUST_HELP)),
        _make_flag("detach", bool, False, _make_switch(DETACH_HELP)),
    ]
    _set_flags(command, sorted([*own, *make_flags(module.Config)], key=lambda flag: flag.kind))
    return command


def _make_switch(text: str) -> Parameter:
    return Parameter(help=text, negative=(), show_default=False)


def make_command(name: str, module: ModuleType) -> Callable[..., Any]:
    """Make the command of a module that is no stage: it prints for itself, and may return an exit
    code."""

    def command(**given: Any) -> Any:
        return module.run(make_config(module.Config, read_values(given), f"medkd {name}"))

    _set_flags(command, make_flags(module.Config))
    return command


def find_positional(config: type[BaseModel]) -> str:
    """Return the name of the field that needs no flag; empty where there is none."""
    fields = config.model_fields.items()
    return next((name for name, field in fields if is_marked(field, PositionalField)), "")


def start_detached(arguments: Sequence[str]) -> None:
    """Start the command line again, without --detach, so that it outlives this terminal."""
    run = background_jobs.start([word for word in arguments if word != "--detach"])
    print(
        f"{run.name}: started; medkd logs {run.name} --follow shows its log, "
        f"medkd stop {run.name} stops it"
    )


def read_section(recipe: Path, name: str, is_trusted: bool) -> dict[str, Any]:
    """Read the first section of a stage in a recipe."""
    recipe = find_recipe(recipe)
    content = read_recipe(recipe)
    section = next((key for key in content if str(key).split("-")[0] == name), None)
    if section is None:
        raise InputError(f"{recipe}: no section {name!r}{did_you_mean(name, list(content))}")
    fields = content[section] or {}
    if not isinstance(fields, dict):
        raise InputError(f"{recipe}: section {section!r} must be a mapping of fields")
    if not is_trusted:
        check_consent(recipe, {section: fields})
    return fill_in(name, dict(fields), content)


def make_flags(config: type[BaseModel]) -> list[inspect.Parameter]:
    """Make keyword parameters of the fields of a config.

    Each is optional: the recipe, which is read later, may supply it. Former names of fields are
    flags too, which the help does not show.
    """
    former = config.renamed if issubclass(config, Options) else {}
    names = {**{name: name for name in config.model_fields}, **former}
    positional = find_positional(config)
    flags: list[inspect.Parameter] = []
    for name, present in names.items():
        field = config.model_fields[present]
        kind: Any = field.annotation
        kinds = {kind, *get_args(kind)}
        parameter = Parameter(
            converter=_read_int if int in kinds and not {float, str} & kinds else None,
            help=f"{describe(field)} ({_show_default(field)})",
            show=name == present,
            show_default=False,
            negative=None if bool in kinds else (),
            consume_multiple=get_origin(kind) in (list, tuple),
        )
        flags.append(_make_flag(name, kind | None, None, parameter, name == positional))
    return flags


def _make_flag(
    name: str, kind: Any, default: Any, parameter: Parameter, is_positional: bool = False
) -> inspect.Parameter:
    place = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD if is_positional else inspect.Parameter.KEYWORD_ONLY
    )
    return inspect.Parameter(name, place, default=default, annotation=Annotated[kind, parameter])


def _read_int(_: Any, tokens: Sequence[Token]) -> int:
    """Read a whole number as it is written; cyclopts would round 1.5."""
    return int(tokens[0].value)


def _set_flags(command: Callable[..., Any], flags: Sequence[inspect.Parameter]) -> None:
    command.__signature__ = inspect.Signature(flags)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {flag.name: flag.annotation for flag in flags}


def _show_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return "optional" if value in (None, "", {}) else f"default: {value}"


def read_values(given: dict[str, Any]) -> dict[str, Any]:
    """Keep the flags that were given, with their values read as `read_value` does."""
    return {key: read_value(value) for key, value in given.items() if value is not None}


def read_value(value: Any) -> Any:
    """Read text and the values of mappings as Python literals where they are some.

    >>> read_value({"learning-rate": "1e-4", "optim": "adamw_torch"})
    {'learning_rate': 0.0001, 'optim': 'adamw_torch'}
    """
    if isinstance(value, dict):
        return {key.replace("-", "_"): read_value(item) for key, item in value.items()}
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    return value


def explain_usage(error: cyclopts.CycloptsError, arguments: Sequence[str]) -> str:
    """Say in one line what is wrong with a command line."""
    return f"medkd {arguments[0]}: {_find_fault(error)}; see `medkd {arguments[0]} --help`"


def _find_fault(error: cyclopts.CycloptsError) -> str:
    flag = _name_flag(error)
    match error:
        case cyclopts.MixedArgumentError():
            return f"{flag}: is given both as a whole and key by key ({flag}.KEY); use one way"
        case cyclopts.CoercionError():
            return f"{flag}: {_describe_value(flag, error)}"
        case cyclopts.RepeatArgumentError():
            return f"{flag}: is given more than once; give it once"
        case cyclopts.MissingArgumentError() if flag.startswith("-"):
            return f"{flag}: has no value; write one after it"
        case cyclopts.MissingArgumentError():
            return f"{flag} is missing"
        case cyclopts.UnusedCliTokensError():
            return (
                f"{' '.join(error.unused_tokens or [])!r}: belongs to no flag; "
                "a flag begins with --, and a switch takes no value"
            )
        case _:
            return _shorten(error).rstrip(".")


def _name_flag(error: cyclopts.CycloptsError) -> str:
    token = getattr(error, "token", None)
    keyword = getattr(error, "keyword", None) or getattr(token, "keyword", None)
    name = error.argument.name if error.argument is not None else ""
    return name if isinstance(error, cyclopts.MixedArgumentError) else str(keyword or name)


def _describe_value(flag: str, error: cyclopts.CoercionError) -> str:
    given = error.token.value if error.token is not None else ""
    kinds = _list_kinds(error.argument.hint if error.argument is not None else error.target_type)
    choices = [
        str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)
    ]
    if choices:
        return f"there is no {given!r}; choose from {', '.join(choices)}"
    if any((get_origin(kind) or kind) is dict for kind in kinds):
        return f"{given!r} is no mapping; give it key by key ({flag}.KEY VALUE)"
    if {int, float} & set(kinds):
        return f"{given!r} is no {'number' if float in kinds else 'whole number'}"
    return _shorten(error).rstrip(".")


def _list_kinds(hint: Any) -> list[Any]:
    """List the types that a hint allows, with unions and annotations taken apart."""
    if hasattr(hint, "__metadata__"):
        return _list_kinds(get_args(hint)[0])
    parts = [part for part in get_args(hint) if part is not type(None)]
    if parts and get_origin(hint) not in (Literal, dict, list, tuple):
        return [kind for part in parts for kind in _list_kinds(part)]
    return [hint]


def _shorten(error: cyclopts.CycloptsError) -> str:
    return " ".join(str(error).split())
