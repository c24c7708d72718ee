"""What a personal name is made of, and what only looks like one.

In: characters. Out: patterns and judgements for the rules (`names`, `labels`). Not done here: what
stands around a name.
"""

import re

from medkd.deidentify.rules import any_of, load_table

TABLE = load_table("names.yaml")
SURNAME = f"(?:{any_of(TABLE['compound_surnames'])}|[{TABLE['surnames'].replace(' ', '')}])"
COMPOUND = re.compile(any_of(TABLE["compound_surnames"]))
GIVEN = f"(?:(?!代[诉述])[{''.join(sorted(set((TABLE['given'] + TABLE['more_given']).replace(' ', ''))))}])"
NOT_NAME = re.compile(any_of(word for row in TABLE["not_names"] for word in row))
_RARE = f"[{TABLE['rare_surnames']}]"
_NEVER = f"[{TABLE['never']}]"
ELEMENT = f"(?:{any_of(TABLE['elements'].split())})"
SOUND = f"[{TABLE['sounds']}]"
OF_ELEMENTS = (
    f"(?:{ELEMENT}{{2,3}}|{ELEMENT}{SOUND}{{1,3}}|{SOUND}{{1,2}}{ELEMENT}(?:{SOUND}{{1,2}})?)"
)
"""A name of two parts such as 扎西卓玛, whose people have no surnames."""
DOTTED = r"[一-鿿]{2,8}(?:[·•・][一-鿿]{2,8}){1,3}"
"""A name such as 古丽娜尔·艾合买提."""
FULL = rf"(?P<x>{SURNAME}{GIVEN}{{1,2}})"
"""A surname and a given name of usual characters."""
LATIN = r"[A-Z][a-z]+(?:\s[A-Z]\.)?(?:[\s-][A-Z][a-z]+){1,2}"

_WHOLE = re.compile(
    rf"{SURNAME}(?!{_NEVER})[一-鿿](?:(?!{_NEVER})[一-鿿])?|{SURNAME}{GIVEN}{{3}}|{_RARE}{GIVEN}{{1,2}}|{SURNAME}某{{1,2}}|{OF_ELEMENTS}|{DOTTED}|{LATIN}"
)
_ORDINARY = re.compile(
    f"{SURNAME}[一-鿿]{{1,2}}|[一-鿿]+[·•・][一-鿿·•・]+|{OF_ELEMENTS}|[A-Z][a-z]+ [A-Za-z -]+"
)


def is_name(match: re.Match[str]) -> bool:
    """Tell whether what a pattern found as `x` does not begin with an ordinary word."""
    return not NOT_NAME.match(match["x"])


def is_whole_name(word: str) -> bool:
    """Tell whether a word between two marks could be somebody's name, whatever its characters.

    >>> [is_whole_name(word) for word in ("柏林", "欧阳雨薇", "乌云其其格", "主任", "高血压")]
    [True, True, True, False, False]
    """
    return _WHOLE.fullmatch(word) is not None and not NOT_NAME.match(word)


def is_ordinary_word(name: str) -> bool:
    """Tell whether a name would also be met as an ordinary word, so that it cannot be looked for
    without context."""
    return len(name) < 2 or bool(NOT_NAME.match(name)) or not _ORDINARY.fullmatch(name)
