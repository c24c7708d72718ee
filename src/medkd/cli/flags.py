"""Makes commands of a `Config`: its fields are the flags, their docs the help.

In: a module with `Config` and `run`. Out: a function for the command line, and one line for an
argument that it cannot read. Not done here: which commands there are (`cli.app`).
"""

import ast
import inspect
import re
import shlex
from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from sysconfig import get_path
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import cyclopts
import pydantic
from cyclopts import Group, Parameter, Token
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import medkd
from medkd import background_jobs
from medkd.cli.overview import fill_next, read_help
from medkd.core.config import (
    Options,
    PositionalField,
    RuntimeField,
    describe,
    did_you_mean,
    find_recipe,
    is_marked,
    make_config,
    read_recipe,
)
from medkd.core.errors import InputError, Said, say_refused
from medkd.core.i18n import Texts, tell
from medkd.core.stage_output import Manifest
from medkd.pipeline import check_consent, fill_in
from medkd.rounds import left_nothing
from medkd.stages import STAGES

ENGLISH = Texts("en")
DETACH_HELP = "Continue without this terminal; see medkd runs, logs and stop."
RECIPE_HELP = "Recipe whose section of this stage supplies fields; flags override it."
TRUST_HELP = "Let the recipe name keys of this machine, or send rows and a key to an address."


_WORDS = {"true": True, "false": False, "null": None}
"""What YAML, and so a recipe, writes otherwise than Python."""
INSTALLED_DOCS = "share/doc/medkd"
"""Where an installation has the pages, below its prefix; `pyproject.toml` says so too."""
PARTS = ("Fields", "Fields that decide the result", "How it runs")
"""Parts of a help: what is needed first, then all else."""


class Page(NamedTuple):
    """What a command's help shows, in which language."""

    name: str
    texts: Texts = ENGLISH
    is_whole: bool = True
    """Show every field, not only those that are needed first."""

    @property
    def first(self) -> Sequence[str]:
        """The fields that are needed first; empty where all are."""
        return read_help(self.name).get("first", ())

    def shows(self, field: str) -> bool:
        return self.is_whole or not self.first or field in self.first

    def place(self, field: str, decides: bool) -> Group:
        """Choose the part of the help that a field stands in."""
        at = 0 if field in self.first or not self.first else 1 if decides else 2
        return make_group(self.texts.of("cli", PARTS[at]), at)

    def describe(self, field: str, doc: str) -> str:
        """Say what a field is: as the studio says it, else as the catalogue has its doc."""
        hint = self.texts.field(self.name, field, doc)[1]
        return self.texts.of("cli", doc) if hint == doc else hint


@cache
def make_group(title: str, at: int) -> Group:
    return Group(title, sort_key=at)


def make_stage_command(page: Page, arguments: Sequence[str]) -> Callable[..., None]:
    """Make the command of a stage; `arguments` is the command line it was called with."""
    name, texts = page.name, page.texts
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
        values |= read_values(given)
        if "lang" in module.Config.model_fields:
            values.setdefault("lang", texts.language)
        config = make_config(module.Config, values, f"medkd {name}")
        if detach:
            start_detached(arguments)
            return
        manifest: Manifest = module.run(config)
        if manifest.state == "finished":  # a dry run has already printed its result
            counts = manifest.describe_counts()
            where = config.out / "manifest.json"
            said = {"name": name, "counts": counts, "where": where}
            print(texts.of("cli", "{name}: {counts}; see {where}", **said))
            following = "" if left_nothing(manifest) else fill_next(name, manifest.config)
            if following:
                print(texts.of("cli", "next: {command}", command=following))
        elif getattr(config, "dry_run", False):
            again = shlex.join(["medkd", *(word for word in arguments if word != "--dry-run")])
            print(texts.of("cli", "next: {command}", command=again))

    own = [
        _make_own(page, "recipe", Path | None, None, RECIPE_HELP),
        _make_own(page, "trust_recipe", bool, False, TRUST_HELP),
        _make_own(page, "detach", bool, False, DETACH_HELP),
    ]
    _set_flags(
        command, sorted([*own, *make_flags(module.Config, page)], key=lambda flag: flag.kind)
    )
    return command


def _make_own(page: Page, name: str, kind: Any, default: Any, doc: str) -> inspect.Parameter:
    """Make a flag that every stage has and no `Config`."""
    text = page.texts.of("cli", doc)
    show, group = page.shows(name), page.place(name, decides=False)
    parameter = Parameter(help=text, negative=(), show_default=False, show=show, group=group)
    return _make_flag(name, kind, default, parameter)


def make_command(page: Page, module: ModuleType) -> Callable[..., Any]:
    """Make the command of a module that is no stage: it prints for itself, and may return an exit
    code."""

    def command(**given: Any) -> Any:
        return module.run(make_config(module.Config, read_values(given), f"medkd {page.name}"))

    _set_flags(command, make_flags(module.Config, page))
    return command


def translate_doc(function: Callable[..., Any], texts: Texts) -> Callable[..., Any]:
    """Return the function with what its docstring says of its parameters in a language, and their
    defaults."""
    head, mark, parameters = (function.__doc__ or "").partition("\n    Parameters\n")
    if not mark:
        return function

    @wraps(function)
    def command(*values: Any, **given: Any) -> Any:
        return function(*values, **given)

    before, *parts = re.split(r"(?m)^ {4}(\w+)\n", parameters)
    said = [f"{head}{mark}{before}"]
    for name, doc in zip(parts[::2], parts[1::2], strict=True):
        text = texts.of("cli", " ".join(doc.split()))
        default = inspect.signature(function).parameters[name].default
        if default not in (None, "", False, inspect.Parameter.empty):
            text += " (" + texts.of("cli", "default: {value}", value=default) + ")"
        said.append(f"    {name}\n        {text}\n")
    command.__doc__ = "".join(said)
    return command


def write_examples(page: Page) -> str:
    """Write what stands below the fields of a help: how to see all, examples, and a link."""
    say, told = page.texts.of, read_help(page.name)
    lines: list[str] = []
    if page.first and not page.is_whole:
        lines += [say("cli", "medkd {name} --help-all shows all fields.", name=page.name), ""]
    lines += [say("cli", "Examples"), *(f"  {line}" for line in told.get("examples", ()))]
    if "page" in told:
        where = find_docs() / page.texts.language / f"{told['page']}.md"
        lines += ["", say("cli", "More: {where}", where=where)]
    return "\n".join(lines)


def find_docs() -> Path:
    """Find the pages of the documentation: those of a checkout, else those that were installed."""
    for place in (
        Path(medkd.__file__).parents[2] / "docs",
        Path(get_path("data")) / INSTALLED_DOCS,
    ):
        if (place / "en").is_dir():
            return place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    return Path("docs")


def find_positional(config: type[BaseModel]) -> str:
    """Return the name of the field that needs no flag; empty where there is none."""
    fields = config.model_fields.items()
    return next((name for name, field in fields if is_marked(field, PositionalField)), "")


def start_detached(arguments: Sequence[str]) -> None:
    """Start the command line again, without --detach, so that it outlives this terminal."""
    run = background_jobs.start([word for word in arguments if word != "--detach"])
    said = "{0}: started; medkd logs {0} --follow shows its log, medkd stop {0} stops it"
    tell(said, run.name)


def read_section(recipe: Path, name: str, is_trusted: bool) -> dict[str, Any]:
    """Read the first section of a stage in a recipe."""
    recipe = find_recipe(recipe)
    content = read_recipe(recipe)
    section = next((key for key in content if str(key).split("-")[0] == name), None)
    if section is None:
        raise InputError("{}: no section {!r}{}", recipe, name, did_you_mean(name, list(content)))
    fields = content[section] or {}
    if not isinstance(fields, dict):
        raise InputError("{}: section {!r} must be a mapping of fields", recipe, section)
    if not is_trusted:
        check_consent(recipe, {section: fields})
    return fill_in(name, dict(fields), content)


def make_flags(config: type[BaseModel], page: Page) -> list[inspect.Parameter]:
    """Make keyword parameters of the fields of a config, those that are needed first at the head.

    Each is optional: the recipe, which is read later, may supply it. Former names of fields are
    flags too, which the help does not show.
    """
    former = config.renamed if issubclass(config, Options) else {}
    shown = [name for name in page.first if name in config.model_fields]
    names = {name: name for name in (*shown, *config.model_fields)} | {**former}
    positional = find_positional(config)
    flags: list[inspect.Parameter] = []
    for name, present in names.items():
        field = config.model_fields[present]
        kind: Any = field.annotation
        origins = _list_origins(kind)
        parameter = Parameter(
            converter=None if dict in origins else _as_written,
            help=f"{page.describe(name, describe(field))} ({_show_values(field, page.texts)})",
            show=name == present and page.shows(name),
            group=page.place(present, decides=not is_marked(field, RuntimeField)),
            show_default=False,
            negative=None if bool in origins else (),
            consume_multiple=bool({list, tuple} & origins),
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


def _as_written(kind: Any, tokens: Sequence[Token]) -> Any:
    """Hand on what was typed: the config reads it, so that a wrong value is told as in a recipe."""
    written = [token.value for token in tokens]
    return written if get_origin(kind) in (list, tuple) else written[0]


def _set_flags(command: Callable[..., Any], flags: Sequence[inspect.Parameter]) -> None:
    command.__signature__ = inspect.Signature(flags)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {flag.name: flag.annotation for flag in flags}


def _show_values(field: FieldInfo, texts: Texts) -> str:
    """Say what a field is by default, and what it can be where that is a few words."""
    parts = (field.annotation, *get_args(field.annotation))
    choices = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    listed = ", ".join(filter(None, choices))
    shown = _show_default(field, texts)
    return (
        texts.of("cli", "{shown}; one of {listed}", shown=shown, listed=listed) if listed else shown
    )


def _show_default(field: FieldInfo, texts: Texts) -> str:
    if field.is_required():
        return texts.of("cli", "required")
    value = field.get_default(call_default_factory=True)
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    if value in (None, "", {}):
        return texts.of("cli", "optional")
    return texts.of("cli", "default: {value}", value=value)


def read_values(given: dict[str, Any]) -> dict[str, Any]:
    """Keep the flags that were given; only in a mapping a value tells its own type."""
    return {
        key: read_value(value) if isinstance(value, dict) else value
        for key, value in given.items()
        if value is not None
    }


def read_value(value: Any) -> Any:
    """Read text and the values of mappings as literals of Python or YAML where they are some.

    >>> read_value({"learning-rate": "1e-4", "optim": "adamw_torch", "bf16": "false"})
    {'learning_rate': 0.0001, 'optim': 'adamw_torch', 'bf16': False}
    """
    if isinstance(value, dict):
        return {key.replace("-", "_"): read_value(item) for key, item in value.items()}
    if isinstance(value, str):
        try:
            return _WORDS[value] if value in _WORDS else ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    return value


def explain_usage(error: cyclopts.CycloptsError, arguments: Sequence[str]) -> Said:
    """Say in one line what is wrong with a command line."""
    return Said("medkd {0}: {1}; see `medkd {0} --help`", arguments[0], _find_fault(error))


def _find_fault(error: cyclopts.CycloptsError) -> Said:
    flag = _name_flag(error)
    match error:
        case cyclopts.MixedArgumentError():
            return Said("{0}: is given both as a whole and key by key ({0}.KEY); use one way", flag)
        case cyclopts.UnknownOptionError():
            given = error.token.keyword or error.token.value
            known = [name for argument in error.argument_collection for name in argument.names]
            hint = did_you_mean(given, known) if known else ""
            return Said("{}: no such flag{}", given, hint)
        case cyclopts.CoercionError() if get_origin(error.target_type) is Literal:
            given = error.token.value if error.token is not None else ""
            choices = ", ".join(map(repr, get_args(error.target_type)))
            return Said("{}: {} (got {})", flag, Said("must be one of {}", choices), repr(given))
        case cyclopts.CoercionError():
            given = error.token.value if error.token is not None else ""
            is_mapping = error.argument is not None and dict in _list_origins(error.argument.hint)
            said = "{0}: {1!r} is no mapping; give it key by key ({0}.KEY VALUE)"
            return Said(said, flag, given) if is_mapping else Said("{}", _shorten(error))
        case cyclopts.RepeatArgumentError():
            return Said("{}: is given more than once; give it once", flag)
        case cyclopts.MissingArgumentError() if flag.startswith("-"):
            return Said("{}: has no value; write one after it", flag)
        case cyclopts.MissingArgumentError():
            return Said("{} is missing", flag)
        case cyclopts.UnusedCliTokensError():
            return Said(
                "{!r}: belongs to no flag; a flag begins with --, and a switch takes no value",
                " ".join(error.unused_tokens or []),
            )
        case cyclopts.ValidationError() if isinstance(error.__cause__, pydantic.ValidationError):
            return say_refused(flag, error.__cause__.errors(include_url=False)[0])
        case _:
            return Said("{}", _shorten(error))


def _name_flag(error: cyclopts.CycloptsError) -> str:
    token = getattr(error, "token", None)
    keyword = getattr(error, "keyword", None) or getattr(token, "keyword", None)
    name = error.argument.name if error.argument is not None else ""
    return name if isinstance(error, cyclopts.MixedArgumentError) else str(keyword or name)


def _list_origins(hint: Any) -> set[Any]:
    """List what a hint and the parts of its union are made of: `dict[str, Any] | None` of dict."""
    plain = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    return {get_origin(part) or part for part in (plain, *get_args(plain))}


def _shorten(error: cyclopts.CycloptsError) -> str:
    return " ".join(str(error).split()).rstrip(".")
