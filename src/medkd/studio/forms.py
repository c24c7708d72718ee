"""Forms made from a stage's `Config`: what each field takes, where it stands, and what was filled
in, as the words of a command line.

In: a config, values of a form. Out: fields to draw, words for `medkd STAGE` or `medkd run`. No
setting is written down here a second time. Not done here: starting anything (`studio.orders`).
"""

import json
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, cast, get_args, get_origin

from pydantic import BaseModel

from medkd.core.config import describe
from medkd.core.errors import InputError
from medkd.core.yaml_io import BrokenYamlError, parse_yaml, read_shipped_yaml
from medkd.stages import STAGES

Kind = Literal["choice", "switch", "whole", "number", "path", "paths", "texts", "mapping", "text"]
NOT_ASKED = ("out", "resume", "overwrite")
"""Fields that the page fills in by itself: where a run is written and whether it goes on."""
LISTS = ("paths", "texts")
N_FIRST = 5
"""Fields of a stage that stand first."""
MORE = "more"


class Field(NamedTuple):
    """One field of a form."""

    name: str
    kind: Kind
    help: str
    default: Any
    choices: tuple[str, ...] = ()
    is_required: bool = False
    is_optional: bool = False

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


class Layout(NamedTuple):
    """Where the fields of a form stand."""

    first: list[Field]
    groups: dict[str, list[Field]]
    """The rest, by the name of a group."""


def list_fields(config: type[BaseModel]) -> list[Field]:
    """List what a form of this config asks for."""
    return [_make_field(name, config) for name in config.model_fields if name not in NOT_ASKED]


@cache
def read_fields(stage: str) -> list[Field]:
    """List the fields of a stage."""
    return list_fields(STAGES[stage].load().Config)


def _make_field(name: str, config: type[BaseModel]) -> Field:
    info = config.model_fields[name]
    kind, choices, is_optional = _find_kind(info.annotation)
    required = info.is_required()
    default = None if required else plain(info.get_default(call_default_factory=True))
    return Field(name, kind, describe(info), default, choices, required, is_optional)


def _find_kind(annotation: Any) -> tuple[Kind, tuple[str, ...], bool]:
    """Find what an annotation takes: the kind, the choices, and whether it may be left empty."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _find_kind(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        found = [_find_kind(part) for part in parts]
        is_optional = len(parts) < len(get_args(annotation))
        if all(kind == "choice" for kind, _, _ in found):
            choices = tuple(choice for _, listed, _ in found for choice in listed)
            return "choice", choices, is_optional
        if found[0][0] == "switch":
            return "choice", ("true", "false"), True
        return found[0][0], found[0][1], is_optional
    if origin is Literal:
        return "choice", tuple(map(str, get_args(annotation))), False
    if origin in (tuple, list):
        return ("paths" if Path in get_args(annotation) else "texts"), (), False
    if origin is dict or annotation is dict:
        return "mapping", (), False
    kinds: dict[Any, Kind] = {bool: "switch", int: "whole", float: "number", Path: "path"}
    return kinds.get(annotation, "text"), (), False


# --- Where fields stand -------------------------------------------------------------------------


def lay_out(stage: str, fields: Sequence[Field], values: Mapping[str, Any]) -> Layout:
    """Put the fields that matter most first and group the rest; what a choice makes meaningless is
    left out."""
    table = _read_layout()
    rules = table["when"].get(stage, {})
    shown = [field for field in fields if _is_meant(rules.get(field.name, ""), values)]
    wanted = table["first"].get(stage, [])
    first = sorted(
        (field for field in shown if field.name in wanted),
        key=lambda field: wanted.index(field.name),
    )
    needed = [field for field in shown if field.is_required and field not in first]
    first = [*needed, *first][: max(N_FIRST, len(needed))]
    groups: dict[str, list[Field]] = {name: [] for name in (*table["groups"], MORE)}
    for field in (field for field in shown if field not in first):
        place = (name for name, listed in table["groups"].items() if field.name in listed)
        groups[next(place, MORE)].append(field)
    return Layout(first, {name: listed for name, listed in groups.items() if listed})


def _is_meant(rule: str, values: Mapping[str, Any]) -> bool:
    """Tell whether a field means anything, by what others hold: `mode=solve`, `judge=!` for any
    value, several rules by `|`."""
    for part in filter(None, rule.split("|")):
        name, _, wanted = part.partition("=")
        value = str(values.get(name) if values.get(name) is not None else "").lower()
        if (wanted == "!" and value) or value in wanted.split():
            return True
    return not rule


@cache
def _read_layout() -> dict[str, Any]:
    return cast(dict[str, Any], read_shipped_yaml("medkd.studio", "forms.yaml"))


# --- What they hold -----------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Turn a config's value into what a form holds.

    >>> plain((Path("a"), Path("b"))), plain(True), plain({"save_steps": 200})
    (['a', 'b'], True, 'save_steps: 200')
    """
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {item}" for key, item in cast(Mapping[str, Any], value).items())
    if isinstance(value, list | tuple):
        return [str(item) for item in cast(Sequence[Any], value)]
    return value


def write_value(value: Any) -> str:
    """Write a value as the box of a form holds it: a list line by line."""
    if isinstance(value, list):
        return "\n".join(str(item) for item in cast(list[Any], value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    return "" if value is None else str(value)


def read_value(field: Field, text: str | None) -> Any:
    """Read what a browser sends of a field; a switch that is off is not sent at all."""
    if field.kind == "switch":
        return text is not None and text.lower() in ("on", "true")
    text = (text or "").replace("\r\n", "\n").strip()
    if field.kind in LISTS:
        return [line.strip() for line in text.split("\n") if line.strip()]
    return text


def is_changed(field: Field, value: Any, default: Any) -> bool:
    """Tell whether what a form holds differs from a default; an emptied field is as if never filled
    in."""
    return _normal(field, value) != _normal(field, default)


def _normal(field: Field, value: Any) -> Any:
    if value in (None, "", []):
        return None
    if field.kind in LISTS:
        listed = cast(list[Any], value if isinstance(value, list) else [value])
        return [str(item) for item in listed]
    if field.kind in ("whole", "number"):
        return _read_number(field.name, value)
    if field.kind == "mapping":
        return _read_mapping(field.name, str(value))
    text = str(value).strip()
    return text.lower() if field.choices == ("true", "false") or field.kind == "switch" else text


def write_words(
    fields: Sequence[Field], values: Mapping[str, Any], defaults: Mapping[str, Any], step: str = ""
) -> list[str]:
    """Write what differs from the defaults as words of a command line; with a step, as `medkd run`
    takes them.

    Raises InputError for a required field that is empty.
    """
    words: list[str] = []
    for field in fields:
        value = values.get(field.name)
        default = defaults.get(field.name, field.default)
        if field.is_required and value in (None, "", []) and not step:
            raise InputError(f"{field.name} is missing: {field.help}")
        if is_changed(field, value, default):
            words += _write_field(field, value, f"{step}." if step else "")
    return words


def _write_field(field: Field, value: Any, prefix: str) -> list[str]:
    flag = f"--{prefix}{field.name}" if prefix else field.flag
    if field.kind == "mapping":
        content = _read_mapping(field.name, str(value or ""))
        return [f"{flag}.{key}={item}" for key, item in content.items()]
    if field.kind == "switch" or field.choices == ("true", "false"):
        is_on = str(value).lower() == "true"
        if prefix:
            return [f"{flag}={is_on}"]
        return [flag if is_on else f"--no-{flag[2:]}"]
    if field.kind in LISTS:
        items = [str(item) for item in value or []]
        if prefix:  # `medkd run` reads one flag a field, a list as a literal
            return [f"{flag}={json.dumps(items, ensure_ascii=False)}"]
        return [f"{flag}={item}" for item in items]
    if field.kind == "whole":
        number = _read_number(field.name, value)
        if number != int(number):
            raise InputError(f"{field.name}: {value} is no whole number")
        value = int(number)
    return [f"{flag}={value}"]


def _read_number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {str(value)[:60]!r} is no number") from error
    if abs(number) > 1e15 or number != number:
        raise InputError(f"{name}: {str(value)[:60]!r} is no number of use")
    return number


def _read_mapping(name: str, text: str) -> dict[str, Any]:
    """Read lines of `key: value`."""
    try:
        content = parse_yaml(text) or {}
    except BrokenYamlError as error:
        raise InputError(f"{name}: write one `key: value` a line") from error
    if not isinstance(content, dict):
        raise InputError(f"{name}: write one `key: value` a line")
    return cast(dict[str, Any], content)
