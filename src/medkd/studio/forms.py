"""Forms made from a stage's `Config`: what each field takes, and what was filled in as the words of
a command line.

In: a config, values of a form. Out: fields to draw, words for `medkd STAGE` or `medkd run`. No
setting is written down here a second time.
Not done here: drawing (`studio.widgets`), starting anything (`studio.starts`).
"""

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, cast, get_args, get_origin

from pydantic import BaseModel

from medkd.core.config import describe
from medkd.core.errors import InputError
from medkd.core.yaml_io import BrokenYamlError, parse_yaml

Kind = Literal["choice", "switch", "whole", "number", "path", "paths", "texts", "mapping", "text"]
NOT_ASKED = ("out", "resume", "overwrite")
"""Fields that the page fills in by itself: where a run is written and whether it goes on."""


class Field(NamedTuple):
    """One field of a form."""

    name: str
    kind: Kind
    help: str
    default: Any
    choices: tuple[str, ...] = ()
    is_required: bool = False
    is_optional: bool = False


def list_fields(config: type[BaseModel]) -> list[Field]:
    """List what a form of this config asks for."""
    return [_make_field(name, config) for name in config.model_fields if name not in NOT_ASKED]


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
        kind, choices, _ = _find_kind(parts[0])
        return ("choice", ("true", "false"), True) if kind == "switch" else (kind, choices, True)
    if origin is Literal:
        return "choice", tuple(map(str, get_args(annotation))), False
    if origin in (tuple, list):
        return ("paths" if Path in get_args(annotation) else "texts"), (), False
    if origin is dict or annotation is dict:
        return "mapping", (), False
    kinds: dict[Any, Kind] = {bool: "switch", int: "whole", float: "number", Path: "path"}
    return kinds.get(annotation, "text"), (), False


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


def is_changed(field: Field, value: Any, default: Any) -> bool:
    """Tell whether what a form holds differs from a default; an emptied field is as if never filled
    in."""
    return _normal(field, value) != _normal(field, default)


def _normal(field: Field, value: Any) -> Any:
    if value in (None, "", []):
        return None
    if field.kind in ("paths", "texts"):
        return [
            str(item) for item in (cast(list[Any], value) if isinstance(value, list) else [value])
        ]
    if field.kind in ("whole", "number"):
        return _read_number(field.name, value)
    if field.kind == "mapping":
        return _read_mapping(field.name, str(value))
    return (
        str(value).strip().lower()
        if field.kind == "choice" and field.choices == ("true", "false")
        else str(value).strip()
    )


def write_words(
    fields: Sequence[Field], values: Sequence[Any], defaults: Mapping[str, Any], step: str = ""
) -> list[str]:
    """Write what differs from the defaults as words of a command line; with a step, as `medkd run`
    takes them.

    Raises InputError for a required field that is empty.
    """
    words: list[str] = []
    for field, value in zip(fields, values, strict=True):
        default = defaults.get(field.name, field.default)
        if field.is_required and value in (None, "", []) and not step:
            raise InputError(f"{field.name} is missing: {field.help}")
        if is_changed(field, value, default):
            words += _write_field(field, value, f"{step}." if step else "")
    return words


def _write_field(field: Field, value: Any, prefix: str) -> list[str]:
    flag = f"--{prefix}{field.name.replace('_', '-') if not prefix else field.name}"
    if field.kind == "mapping":
        return [
            f"{flag}.{key}={item}"
            for key, item in _read_mapping(field.name, str(value or "")).items()
        ]
    if field.kind == "switch" or field.choices == ("true", "false"):
        if prefix:
            return [f"{flag}={str(value).lower() == 'true'}"]
        return [flag if str(value).lower() == "true" else f"--no-{flag[2:]}"]
    if field.kind in ("paths", "texts"):
        return [f"{flag}={item}" for item in value or []]
    if field.kind == "whole":
        value = int(_read_number(field.name, value))
    return [f"{flag}={value}"]


def _read_number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {value!r} is no number") from error


def _read_mapping(name: str, text: str) -> dict[str, Any]:
    """Read lines of `key: value`."""
    try:
        content = parse_yaml(text) or {}
    except BrokenYamlError as error:
        raise InputError(f"{name}: write one `key: value` a line") from error
    if not isinstance(content, dict):
        raise InputError(f"{name}: write one `key: value` a line")
    return cast(dict[str, Any], content)
