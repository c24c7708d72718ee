"""Errors that a user can act on, as a tree; each class has its exit code.

A message names the thing, the place and the next step, on one line:
`cases.jsonl:17: no deidentified_by; run "medkd deidentify" first`. Printed by `medkd.cli.app`;
`InputError("{}: no such file", path)` keeps template and fields, by which it is translated.

    MedkdError
    ├── InputError        exit 2: unusable input or config, nothing was done
    └── StoppedError      exit 3: stopped before the end, what was done is kept, run again to go on
        ├── ProofError        a model was written but did not prove itself
        └── HumanActionRequiredError a person has to do something first
"""

import errno
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Said(str):
    """A text of the program with what was filled into its places; catalogues know it by its
    template.

    >>> said = Said("{}: no such file", Path("a.json"))
    >>> said, said.template, said.fields
    ('a.json: no such file', '{}: no such file', ('a.json',))
    """

    template: str
    fields: tuple[Any, ...]
    """Numbers, times and texts, in order; a text may be a `Said` in its turn."""

    def __new__(cls, template: str, *fields: object) -> "Said":
        said = super().__new__(cls, template.format(*fields) if fields else template)
        said.template = template
        said.fields = tuple(
            field if isinstance(field, Said | int | float | datetime) else str(field)
            for field in fields
        )
        return said

    @classmethod
    def of(cls, text: str, *fields: object) -> "Said":
        """Make a text of a template; one that is made already stays as it is."""
        return text if isinstance(text, cls) else cls(text, *fields)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` makes the same text of."""
        kept = (f.to_json() if isinstance(f, Said) else f for f in self.fields)
        fields = [str(field) if isinstance(field, datetime) else field for field in kept]
        return {"text": str(self), "template": self.template, "fields": fields}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Said":
        """Make a text of what `to_json` returned."""
        said = cls(str(content["text"]))
        said.template = str(content["template"])
        said.fields = tuple(
            cls.from_json(cast("dict[str, Any]", f)) if isinstance(f, dict) else f
            for f in content["fields"]
        )
        return said


class MedkdError(Exception):
    """Any failure the user can act on; its message is one line with the next step."""

    exit_code = 2

    def __init__(self, text: str = "", *fields: object) -> None:
        self.said = Said.of(text, *fields)
        super().__init__(self.said)


class InputError(MedkdError):
    """The input or the config cannot be used; nothing was done."""


class StoppedError(MedkdError):
    """The work stopped before its end; what was done is kept and the same command continues."""

    exit_code = 3


class ProofError(StoppedError):
    """A model was written but failed its own proof; it is marked UNPROVEN."""


class HumanActionRequiredError(StoppedError):
    """A person has to act (pass a verification, hand over cookies) before the work can go on."""


_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SAYS_DISK_FULL = ("No space left", "File too large", "file write failed", "Disk quota")
"""How safetensors, tokenizers and torch word it in errors of their own."""


_WRONG_KIND = {
    errno.EISDIR: "is a directory where a file is expected",
    errno.ENOTDIR: "a part of this path is a file, not a directory",
    errno.ENAMETOOLONG: "the path is too long",
    errno.ELOOP: "is a link that leads to itself",
    errno.ENXIO: "is a pipe or a socket where a file is expected",
}


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error of any kind means that a disk is full.

    >>> is_disk_full(Exception("No space left on device (os error 28)"))
    True
    """
    return getattr(error, "errno", None) in _DISK_FULL or any(
        sign in str(error) for sign in _SAYS_DISK_FULL
    )


def from_os_error(error: OSError, path: Path | str = "") -> MedkdError:
    """Turn an operating system error into one line with the next step."""
    place = str(error.filename or path or "a file")
    if error.errno in _DISK_FULL:
        return StoppedError(
            "{}: the disk is full; free some space and run the same command again, "
            "it continues from here",
            place,
        )
    if error.errno == errno.ENOENT:
        return InputError("{}: no such file or directory; check the path", place)
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return InputError("{}: permission denied; choose a place you may read and write", place)
    if error.errno in _WRONG_KIND:
        return InputError("{}: {}; check the path", place, Said(_WRONG_KIND[error.errno]))
    if error.errno == errno.EADDRINUSE:
        return InputError(
            "{}: the port is taken by another process; stop that one or choose another port", place
        )
    return StoppedError(
        "{}: {}; see to it and run the same command again", place, error.strerror or error
    )


_PROBLEMS = {
    "missing": ("is needed", ""),
    "greater_than_equal": ("must be at least {}", "ge"),
    "greater_than": ("must be more than {}", "gt"),
    "less_than_equal": ("must be at most {}", "le"),
    "less_than": ("must be less than {}", "lt"),
    "finite_number": ("must be a finite number", ""),
    "literal_error": ("must be one of {}", "expected"),
    "enum": ("must be one of {}", "expected"),
    "too_short": ("must hold at least {}", "min_length"),
    "string_too_short": ("must not be empty", ""),
}
"""Code of pydantic to what is said, and the part of the context that it tells."""
_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "a mapping of keys to values",
    "mapping": "a mapping of keys to values",
    "model": "a mapping of keys to values",
}


def say_refused(name: str, problem: "ErrorDetails") -> Said:
    """Name a value that pydantic refused, what is wrong with it, and what was given."""
    shown = repr(problem["input"])
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return Said("{}: {} (got {})", name, say_problem(problem), shown)


def say_problem(problem: "ErrorDetails") -> Said:
    """Describe in plain words what is wrong with a value that pydantic refused.

    >>> say_problem({"type": "int_parsing", "loc": (), "msg": "Input should be …", "input": "x"})
    'must be a whole number'
    """
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _PROBLEMS:
        text, name = _PROBLEMS[kind]
        told = context.get(name, "")
        return Said(text, told.replace(" or ", ", ") if isinstance(told, str) else told)
    start, _, rest = kind.partition("_")
    if start in _WANTED and rest in {"type", "parsing", "from_float", "parsing_size"}:
        return Said(f"must be {_WANTED[start]}")
    said = cast("tuple[object, ...]", getattr(context.get("error"), "args", ()))
    if said and isinstance(said[0], Said):
        return said[0]
    return Said(problem["msg"].removeprefix("Value error, "))
