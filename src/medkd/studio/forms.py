"""Forms made from a stage's `Config`: what each field takes, where it stands, and what was filled
in, as the words of a command line. Every value is text, as a browser holds it; `Config` checks it.

In: a config, texts. Out: fields to draw, words for `medkd STAGE` or `medkd run`.
"""

import json
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, cast, get_args, get_origin

from pydantic import BaseModel

from medkd.core.config import BrokenYamlError, describe, parse_yaml, read_shipped_yaml
from medkd.core.errors import InputError
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
    default: str
    choices: tuple[str, ...] = ()
    is_required: bool = False
    is_optional: bool = False

    @property
    def flag(self) -> str:
        return f"--{self.name.strip('_').replace('_', '-')}"


class Layout(NamedTuple):
    """Where the fields of a form stand."""

    first: list[Field]
    groups: dict[str, list[Field]]
    """The rest, by the name of a group."""

    main: list[Field]
    """Those of `first` that stand before all steps of a recipe."""

    @property
    def fields(self) -> list[Field]:
        return [*self.first, *(field for listed in self.groups.values() for field in listed)]


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
    default = "" if required else to_text(info.get_default(call_default_factory=True))
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


def lay_out(stage: str, fields: Sequence[Field], values: Mapping[str, str]) -> Layout:
    """Put the fields that matter most first and group the rest; what a choice makes meaningless is
    left out."""
    table = cast(dict[str, Any], read_shipped_yaml("medkd.studio", "forms.yaml"))
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
    main = [field for field in first if field.name in table["main"].get(stage, [])]
    return Layout(first, {name: listed for name, listed in groups.items() if listed}, main)


def _is_meant(rule: str, values: Mapping[str, str]) -> bool:
    """Tell whether a field means anything, by what others hold: `mode=solve`, `judge=!` for any
    value, several rules by `|`."""
    for part in filter(None, rule.split("|")):
        name, _, wanted = part.partition("=")
        value = values.get(name, "").lower()
        if (wanted == "!" and value) or value in wanted.split():
            return True
    return not rule


# --- What they hold -----------------------------------------------------------------------------


def to_text(value: Any) -> str:
    r"""Write a config's value as the box of a form holds it.

    >>> to_text((Path("a"), Path("b"))), to_text(True), to_text({"save_steps": 200}), to_text(1e-4)
    ('a\nb', 'true', 'save_steps: 200', '0.0001')
    """
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {item}" for key, item in cast(Mapping[str, Any], value).items())
    if isinstance(value, list | tuple):
        return "\n".join(str(item) for item in cast(Sequence[Any], value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    return "" if value is None else str(value)


def read_text(field: Field, sent: str | None) -> str:
    """Read what a browser sends of a field; a switch that is off is not sent at all."""
    text = (sent or "").replace("\r\n", "\n").strip()
    return to_text(text.lower() in ("on", "true")) if field.kind == "switch" else text


def to_value(field: Field, text: str) -> Any:
    """Return what `Config` is given for a text; raises InputError for lines that are no mapping."""
    if field.kind == "mapping":
        return _read_mapping(field.name, text)
    return _read_lines(text) if field.kind in LISTS else text


def write_words(
    fields: Sequence[Field], values: Mapping[str, str], given: Mapping[str, str], step: str = ""
) -> list[str]:
    """Write what differs from what is given, else from the defaults, as words of a command line;
    with a step, as `medkd run` takes them."""
    words: list[str] = []
    for field in fields:
        text = values.get(field.name, "").strip()
        if text == given.get(field.name, field.default):
            continue
        flag = f"--{step}.{field.name}" if step else field.flag
        if field.kind == "mapping":
            content = _read_mapping(field.name, text)
            words += [f"{flag}.{key}={item}" for key, item in content.items()]
        elif field.kind in LISTS and not step:
            words += [f"{flag}={item}" for item in _read_lines(text)]
        elif field.kind in LISTS:  # `medkd run` reads one flag a field, a list as a literal
            words.append(f"{flag}={json.dumps(_read_lines(text), ensure_ascii=False)}")
        elif not step and (field.kind == "switch" or field.choices == ("true", "false")):
            words.append(flag if text == "true" else f"--no-{flag[2:]}")
        else:
            words.append(f"{flag}={text}")
    return words


def _read_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _read_mapping(name: str, text: str) -> dict[str, Any]:
    """Read lines of `key: value`."""
    try:
        content = parse_yaml(text) or {}
    except BrokenYamlError:
        content = None
    if not isinstance(content, dict):
        raise InputError("{}: write one `key: value` a line", name)
    return cast(dict[str, Any], content)
