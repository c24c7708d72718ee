"""Configs and recipes, and the YAML they are written in: one frozen config a stage, one file for a
whole run.

In: YAML that people write, or the flags of a command. Out: a validated `StageConfig`, or one line
that names the wrong key and the nearest valid one. Not done here: which stages exist and how they
are wired (`medkd.pipeline`).
"""

import difflib
import errno
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

import medkd
from medkd.core.errors import InputError, Said, say_problem, say_refused
from medkd.core.remote import SCHEMES, STORES, RemotePath, find_place

if TYPE_CHECKING:
    from yaml.nodes import Node


class RuntimeField:
    """Marks a field that says how a stage runs, not what it makes: `delay: Annotated[float,
    RUNTIME]`."""


RUNTIME = RuntimeField()
AcceptIdentified = Annotated[bool, RUNTIME]
"""The type of the field `accept_identified` of every stage that may ask a network model."""


class PositionalField:
    """Marks the field that a command takes without its flag: `medkd compare A B`."""


POSITIONAL = PositionalField()


class ConsentField(NamedTuple):
    """Marks a field that needs `--trust-recipe` where a recipe sets it to another value than its
    default."""

    risk: str
    """What the value does, as the end of a sentence."""


NAMES_KEY = ConsentField("names keys of this machine and the addresses they are sent to")
SENDS_KEY = ConsentField("sends rows, and a key where one is set, to this address")

RECIPES = Path(medkd.__file__).parent / "recipes"
"""The shipped recipes."""
Seed = Annotated[int, Field(ge=0, lt=2**31)]
"""The type of every seed: numpy, torch and scipy all take these."""
MAX_INT = 2**31 - 1
"""Largest whole number in a config; all of them are counts, sizes or seconds."""


class Options(BaseModel):
    """Base of every config: frozen, without unknown keys, its values safe to hand on.

    Numbers are finite, whole numbers have 31 bits, text is UTF-8 without NUL, and a path that
    exists is a file or a directory. `renamed` maps the former spelling of a field to the present
    one; both are read.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )
    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="after")
    def _check_plain_values(self) -> Self:
        for name in type(self).model_fields:
            _check_value(name, getattr(self, name))
        return self

    @classmethod
    def rename_keys(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values under the present names of their fields."""
        return {cls.renamed.get(key, key): value for key, value in values.items()}


def _check_value(name: str, value: Any) -> None:
    if isinstance(value, bool):
        return
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise ValueError(f"{name}: must be at most {MAX_INT}")
    if isinstance(value, str | Path):
        text = str(value)
        if "\0" in text:
            raise ValueError(f"{name}: must not hold the character NUL")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"{name}: must be UTF-8; rename the file {text!r}")
    if isinstance(value, Path):
        _check_path(name, value)
    elif isinstance(value, Mapping):
        for key, item in cast(Mapping[Any, Any], value).items():
            _check_value(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for item in cast(Sequence[Any], value):
            _check_value(name, item)


def _check_path(name: str, path: Path) -> None:
    if isinstance(path, RemotePath):
        return
    if path.parts[:1] and path.parts[0] in STORES:
        raise ValueError(Said("{}: must be on this machine; only input may be an address", name))
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"{name}: the path is too long") from error
        return  # missing or not readable: whoever opens it says so with its next step
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{name}: {path} is a pipe or a device; write its content to a file first")


class StageConfig(Options):
    """The fields that every stage has."""

    out: Annotated[Path, RUNTIME]
    """Directory for the records and the manifest."""
    resume: Annotated[bool, RUNTIME] = False
    """Continue in a directory that was begun with another config."""
    overwrite: Annotated[bool, RUNTIME] = False
    """Delete what this stage wrote in the directory and begin again."""

    @field_validator("input", mode="before", check_fields=False)
    @classmethod
    def _find_input(cls, value: Any) -> Any:
        """Take an address (`s3://…`) for what it is."""
        if isinstance(value, list | tuple):
            return tuple(map(cls._find_input, cast(Sequence[Any], value)))
        is_address = isinstance(value, str | Path) and str(value).startswith(SCHEMES)
        return find_place(value) if is_address else value

    def fingerprint_fields(self) -> dict[str, Any]:
        """Return the fields that decide what the stage makes; inputs are compared by content."""
        how = {
            name
            for name, field in type(self).model_fields.items()
            if is_marked(field, RuntimeField)
        }
        return {k: v for k, v in self.model_dump(mode="json").items() if k not in how}


def is_marked(field: FieldInfo, mark: type) -> bool:
    """Tell whether a field is annotated with a mark such as `RUNTIME`."""
    return any(isinstance(found, mark) for found in field.metadata)


def describe(field: FieldInfo) -> str:
    """Return the documentation of a config's field, on one line."""
    return " ".join((field.description or "").split())


C = TypeVar("C", bound=BaseModel)


def make_config(config: type[C], values: Mapping[str, Any], place: str) -> C:
    """Validate plain values as a config; raises InputError with one line that starts with
    `place`."""
    known = list(config.model_fields)
    given = _rename(config, values, place)
    for key in given:
        if key not in known:
            raise InputError("{}: unknown key {!r}{}", place, key, did_you_mean(key, known))
    try:
        return config.model_validate(given)
    except RecursionError as error:
        raise InputError("{}: values are nested too deeply; write them flat", place) from error
    except ValidationError as error:
        problems = error.errors(include_url=False)
        first = problems[0]
        is_flag = place.startswith("medkd ")
        field = ".".join(str(part) for part in first["loc"])
        missing = [".".join(map(str, p["loc"])) for p in problems if p["type"] == "missing"]
        if missing:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
            said = "{}: {} is missing; add {}, or write it in the recipe"
            if len(missing) > 1:
                said = "{}: {} are missing; add {}, or write them in the recipe"
            if is_flag and not issubclass(config, StageConfig):  # no recipe has such a step
                said = "{0}: {1} is missing; add {2}, as `{0} --help` shows"
            raise InputError(said, place, ", ".join(missing), flags) from error
        said = say_refused(field, first) if field else say_problem(first)
        if ";" in said:
            raise InputError("{}: {}", place, said) from error
        text = "{0}: {1}; see `{0} --help`" if is_flag else "{0}: {1}; correct it in the file"
        raise InputError(text, place, said) from error


def _rename(config: type[BaseModel], values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Put former spellings of fields into the present ones, with one line of notice for each."""
    words = [name for name in config.model_fields if name.endswith("_")]  # `from` is Python's
    given = {f"{key}_" if f"{key}_" in words else key: value for key, value in values.items()}
    former: Mapping[str, str] = config.renamed if issubclass(config, Options) else {}
    for old, new in former.items():
        if old not in given:
            continue
        if new in given:
            raise InputError("{0}: {1} is the former name of {2}; give only {2}", place, old, new)
        given[new] = given.pop(old)
        print(f"notice: {place}: {old} is now called {new}", file=sys.stderr)
    return given


def did_you_mean(key: object, known: Iterable[object]) -> Said:
    """Name the known key that was most likely meant, or list them all."""
    names = [str(name) for name in known]
    match = difflib.get_close_matches(str(key)[:100], names, n=1, cutoff=0.5)
    return Said("; did you mean {!r}?", *match) if match else Said("; known: {}", ", ".join(names))


def _check_recipe_file(path: Path) -> None:
    """Refuse what would never end or never fit: a pipe, a device, a huge file."""
    try:
        _check_value("recipe", path)
    except ValueError as error:
        raise InputError("{}", error) from error
    if path.is_file() and path.stat().st_size > MAX_YAML_CHARACTERS:
        raise InputError("{}: is too large for a recipe; check the path", path)


def find_recipe(given: Path | str, folder: Path = Path()) -> Path:
    """Find a recipe: a file, named from `folder` on, else a shipped one by its name, `recipes/`
    before it or not."""
    named = Path(given)
    path = folder / named
    _check_recipe_file(path)
    if path.exists():
        return path
    local = path.with_name(f"{path.name}.yaml")
    if not path.name.endswith(".yaml") and local.exists():
        return local
    shipped = RECIPES / f"{named.name.removesuffix('.yaml')}.yaml"
    return shipped if named.parent in {Path(), Path("recipes")} and shipped.is_file() else path


def list_recipes() -> list[Path]:
    """List the shipped recipes by name."""
    return sorted(RECIPES.glob("*.yaml"))


def read_recipe(given: Path | str, folder: Path = Path()) -> dict[str, Any]:
    """Read a recipe, as `find_recipe` finds it, as a mapping of sections; raises InputError where
    it is none."""
    path = find_recipe(given, folder)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = did_you_mean(path.stem, [recipe.stem for recipe in list_recipes()])
        raise InputError(
            "{}: no such recipe{}; `medkd recipes` lists the shipped ones", path, near
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("{}: cannot be read as UTF-8 text; check the path", path) from error
    try:
        content = parse_yaml(text)
    except BrokenYamlError as error:
        place = f"{path}:{error.line}" if error.line else path
        raise InputError(
            "{}: broken YAML ({}); `medkd recipes show demo` shows the form", place, error
        ) from error
    if not isinstance(content, dict) or not content:
        raise InputError(
            "{}: a recipe is a mapping of stages to their fields; `medkd recipes "
            "show demo` shows the form",
            path,
        )
    return cast(dict[str, Any], content)


# --- YAML ---------------------------------------------------------------------------------------

MAX_YAML_CHARACTERS = 8 * 2**20
MAX_DEPTH = 50
MAX_NODES = 1_000_000
"""Values in a file, each counted as often as an alias repeats it."""


class BrokenYamlError(ValueError):
    """Text that is not YAML, in one line; `line` counts from 1 and is None where unknown."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(" ".join(problem.split())[:120])
        self.line = line


def parse_yaml(text: str) -> Any:
    """Parse YAML of at most 8 MiB, 50 levels and a million values; raises BrokenYamlError.

    >>> parse_yaml("主诉: [Complaint]")
    {'主诉': ['Complaint']}
    >>> parse_yaml("day: 2021-13-45")
    Traceback (most recent call last):
    medkd.core.config.BrokenYamlError: month must be in 1..12
    >>> parse_yaml("a: 1\\na: 2")
    Traceback (most recent call last):
    medkd.core.config.BrokenYamlError: the key 'a' is given twice
    """
    import yaml

    if len(text) > MAX_YAML_CHARACTERS:
        raise BrokenYamlError(f"longer than {MAX_YAML_CHARACTERS} characters")
    try:
        _check_depth(text)
        loader = _loader()(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count_nodes(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise BrokenYamlError(str(error.problem), mark.line + 1 if mark else None) from error
    except BrokenYamlError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise BrokenYamlError(str(error)) from error


@cache
def read_shipped_yaml(package: str, name: str) -> Any:
    """Read a YAML file of the package, once a process; the values are shared, so none may be
    changed."""
    import yaml

    text = files(package).joinpath(name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=_loader())  # noqa: S506 - a safe loader


def _loader() -> Any:
    """Return the safe loader, written in C where PyYAML was built with it: ten times as fast."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _check_depth(text: str) -> None:
    """Refuse deep nesting before anything follows it by recursion."""
    import yaml

    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=_loader()):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else None
                raise BrokenYamlError(f"nested more than {MAX_DEPTH} levels deep", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _count_nodes(node: "Node", counted: dict[int, int]) -> int:
    """Count the values below a node, aliases written out; refuse cycles and repeated keys."""
    import yaml

    if (known := counted.get(id(node))) is not None:
        if known == 0:
            raise BrokenYamlError("an alias that holds itself", node.start_mark.line + 1)
        return known
    counted[id(node)] = 0
    children: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    n = 1 + sum(_count_nodes(child, counted) for child in children)
    if n > MAX_NODES:
        raise BrokenYamlError(f"more than {MAX_NODES} values", node.start_mark.line + 1)
    counted[id(node)] = n
    return n


def _check_keys(node: Any) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key.value, str):
            if key.value in seen:
                raise BrokenYamlError(
                    f"the key {key.value!r} is given twice", key.start_mark.line + 1
                )
            seen.add(key.value)
