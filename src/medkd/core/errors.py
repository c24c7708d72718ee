"""Errors that a user can act on, as a tree; each class has its exit code.

A message names the thing, the place and the next step, on one line:
`cases.jsonl:17: no deidentified_by; run "medkd deidentify" first`. Printed by `medkd.cli.app`.

    MedkdError
    ├── InputError        exit 2: unusable input or config, nothing was done
    └── StoppedError      exit 3: stopped before the end, what was done is kept, run again to go on
        ├── ProofError        a model was written but did not prove itself
        └── HumanActionRequiredError a person has to do something first
"""

import errno
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class MedkdError(Exception):
    """Any failure the user can act on; its message is one line with the next step."""

    exit_code = 2


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
            f"{place}: the disk is full; free some space and run the same command again, "
            "it continues from here"
        )
    if error.errno == errno.ENOENT:
        return InputError(f"{place}: no such file or directory; check the path")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return InputError(f"{place}: permission denied; choose a place you may read and write")
    if error.errno in _WRONG_KIND:
        return InputError(f"{place}: {_WRONG_KIND[error.errno]}; check the path")
    if error.errno == errno.EADDRINUSE:
        return InputError(
            f"{place}: the port is taken by another process; stop that one or choose another port"
        )
    return StoppedError(
        f"{place}: {error.strerror or error}; see to it and run the same command again"
    )


_PROBLEMS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "too_short": "must hold at least {min_length}",
    "string_too_short": "must not be empty",
}
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


def say_problem(problem: "ErrorDetails") -> str:
    """Describe in plain words what is wrong with a value that pydantic refused.

    >>> say_problem({"type": "int_parsing", "loc": (), "msg": "Input should be …", "input": "x"})
    'must be a whole number'
    """
    kind = problem["type"]
    if kind in _PROBLEMS:
        return _PROBLEMS[kind].format(**problem.get("ctx", {}))
    start, _, rest = kind.partition("_")
    if start in _WANTED and rest in {"type", "parsing", "from_float", "parsing_size"}:
        return f"must be {_WANTED[start]}"
    return problem["msg"].removeprefix("Value error, ")
