"""Make the config of a TRL trainer: what the stage decides, then what the recipe's `trainer:`
mapping says.

In: defaults, the stage's settings, the mapping. Out: TRL's config, or one line that names the wrong
key and the nearest valid one.
Not done here: the settings themselves. This module imports nothing of TRL: the class of the config
is handed in.
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from medkd.core.errors import InputError

C = TypeVar("C")

OWN_KEYS = ("output_dir", "resume_from_checkpoint")
"""What every training stage itself decides and `trainer:` may not."""


def check_keys(config: type[Any], extra: Mapping[str, Any], own_keys: tuple[str, ...] = ()) -> None:
    """Raise InputError for a key that the trainer does not know, or that the stage decides."""
    known = {field.name for field in fields(config)}
    for key in extra:
        if key in (*OWN_KEYS, *own_keys):
            raise InputError(f"trainer: {key} is decided by the stage; take it out of the recipe")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise InputError(
                f"trainer: unknown key {key!r}{f'; did you mean {near[0]!r}?' if near else ''}"
            )


def build_config(
    config: type[C], settings: Mapping[str, Any], extra: Mapping[str, Any], checkpoints: Path
) -> C:
    """Build the config; raises InputError with the first line of what TRL has against it."""
    try:
        return config(**{**settings, **read_kinds(config, extra), "output_dir": str(checkpoints)})
    except (ValueError, TypeError, ImportError) as error:
        raise explain_refusal(error) from error


def explain_refusal(error: Exception) -> InputError:
    """Say in one line what TRL, or what it builds on, has against a setting."""
    return InputError(f"trainer: {str(error).splitlines()[0]}; correct the recipe")


def read_kinds(config: type[Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Read what was written as text as what the trainer takes, 1e-4 in YAML too; raises InputError
    for what cannot be read so."""
    hints = get_type_hints(config)
    return {key: _read_kind(key, value, hints[key]) for key, value in extra.items()}


def _read_kind(key: str, value: Any, hint: Any) -> Any:
    try:
        read = TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise InputError(
            f"trainer: {key}: {message[0].lower()}{message[1:]} (got {value!r})"
        ) from error
    return read if isinstance(value, str) else value
