"""What is wrong with a command line, in the words of this project: which flag, what of it, what
next.

In: an error of the command line library. Out: one line. Not done here: what a `Config` has against
a value (`core.config`).
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

import cyclopts


def tell(error: cyclopts.CycloptsError, arguments: Sequence[str]) -> str:
    """Say what is wrong on one line."""
    if isinstance(error, cyclopts.UnknownCommandError):
        return (
            f"medkd: {_shorten(error).partition(' Available')[0].rstrip('.')}; see `medkd --help`"
        )
    return f"medkd {arguments[0]}: {_find_fault(error)}; see `medkd {arguments[0]} --help`"


def _find_fault(error: cyclopts.CycloptsError) -> str:
    flag = _name_flag(error)
    match error:
        case cyclopts.MixedArgumentError():
            return (
                f"{flag}: is given both as a whole and key by key ({flag}.KEY); give it in one way"
            )
        case cyclopts.CoercionError():
            return f"{flag}: {_describe_value(flag, error)}"
        case cyclopts.RepeatArgumentError():
            return f"{flag}: is given more than once; give it once"
        case cyclopts.MissingArgumentError():
            return (
                f"{flag}: no value is given; write one behind it"
                if flag.startswith("-")
                else f"{flag} is missing"
            )
        case cyclopts.UnusedCliTokensError():
            return f"{' '.join(error.unused_tokens or [])!r}: belongs to no flag; a flag begins with --, and a switch takes no value"
        case _:
            return _shorten(error).rstrip(".")


def _name_flag(error: cyclopts.CycloptsError) -> str:
    keyword = getattr(error, "keyword", None) or getattr(
        getattr(error, "token", None), "keyword", None
    )
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
    """List what a hint allows, unions and annotations taken apart."""
    if hasattr(hint, "__metadata__"):
        return _list_kinds(get_args(hint)[0])
    parts = [part for part in get_args(hint) if part is not type(None)]
    if parts and get_origin(hint) not in (Literal, dict, list, tuple):
        return [kind for part in parts for kind in _list_kinds(part)]
    return [hint]


def _shorten(error: cyclopts.CycloptsError) -> str:
    return " ".join(str(error).split())
