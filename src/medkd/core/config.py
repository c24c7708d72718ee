"""Configs and recipes: one frozen config a stage, one YAML file for a whole run.

In: a YAML mapping, or the flags of a command. Out: a validated `StageConfig`, or one line that
names the wrong key and the nearest valid one. Not done here: which stages exist and how they are
wired (`medkd.pipeline`).
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from medkd.core.errors import InputError
from medkd.core.yaml_io import BrokenYamlError, parse_yaml


class RuntimeField:
    """Marks a field that says how a stage runs, not what it makes: `delay: Annotated[float,
    RUNTIME]`."""


RUNTIME = RuntimeField()


class PositionalField:
    """Marks the field that a command takes without its flag: `medkd compare A B`."""


POSITIONAL = PositionalField()


class StageConfig(BaseModel):
    """What every stage is told."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    out: Annotated[Path, RUNTIME]
    """Directory for the records and the manifest."""
    resume: Annotated[bool, RUNTIME] = False
    """Go on in a directory that was begun with another config."""
    overwrite: Annotated[bool, RUNTIME] = False
    """Begin again in a directory that was made with another config."""

    def fingerprint_fields(self) -> dict[str, Any]:
        """Give the fields that decide what the stage makes; input paths are compared by content
        instead."""
        fields = type(self).model_fields
        how = {
            name
            for name, field in fields.items()
            if any(isinstance(m, RuntimeField) for m in field.metadata)
        }
        return {k: v for k, v in self.model_dump(mode="json").items() if k not in how}


def describe(field: FieldInfo) -> str:
    """Return the documentation of a config's field, on one line."""
    return " ".join((field.description or "").split())


C = TypeVar("C", bound=BaseModel)


def make_config(config: type[C], values: dict[str, Any], place: str) -> C:
    """Validate plain values as a config; raises InputError with one line that starts with
    `place`."""
    known = list(config.model_fields)
    for key in values:
        if key not in known:
            raise InputError(f"{place}: unknown key {key!r}{did_you_mean(key, known)}")
    try:
        return config.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise InputError(
                f"{place}: {field} is missing; give --{field.replace('_', '-')} or write it in the recipe"
            ) from error
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{place}: {field}: {message} (got {first['input']!r})") from error


def did_you_mean(key: str, known: list[str]) -> str:
    """Say which known key was most likely meant, or list them all."""
    match = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known)}"


def is_list_field(config: type[BaseModel], name: str) -> bool:
    """Tell whether a field takes several values, so that its flag may be repeated."""
    annotation = config.model_fields[name].annotation
    candidates = [annotation, *get_args(annotation)]
    return any(getattr(c, "__origin__", c) in (list, tuple) for c in candidates)


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe file as a mapping of sections; raises InputError where it is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such recipe; `ls recipes` shows the shipped ones") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text; check the path") from error
    try:
        content = parse_yaml(text)
    except BrokenYamlError as error:
        place = f"{path}:{error.line}" if error.line else path
        raise InputError(
            f"{place}: broken YAML ({error}); see recipes/demo.yaml for the form"
        ) from error
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{path}: a recipe is a mapping of stages to their fields; see recipes/demo.yaml for the form"
        )
    return cast(dict[str, Any], content)
