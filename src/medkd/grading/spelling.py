"""How two names are alike as strings of characters.

In: two cores of names. Out: whether one is the other with something put in, left out or replaced.
Not done here: what that makes of the two diagnoses (`grading.relations`).
"""

import re
from functools import cache

from rapidfuzz.distance import Indel, Postfix, Prefix

from medkd.grading.names import shorten
from medkd.grading.writing import read_qualities

LIKENESS = 0.75
"""Share of common characters from which two different cores may be spellings of one name."""
_LIGHT = "眼耳侧部区处位段多单发"
"""Characters that say no more than a side or another word has said already."""
_FILLERS = "性型的之病症伴并"
OTHER_ORGAN = re.compile("[膜盂髓旁囊管瓣包周]|内膜")
"""Put into the name of an organ, they make it another one: 脑炎, 脑膜炎."""


def are_kin(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) >= 2 and shorter in longer:
        return not is_generic(shorter)
    return Indel.normalized_similarity(one, other) >= LIKENESS


def find_inserted(one: str, other: str) -> str | None:
    """Give what the longer of two cores of one disease has more than the shorter, in any order;
    None where neither holds the other.

    >>> find_inserted("胃癌", "胃窦腺癌")
    '窦腺'
    """
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) < 2 or shorter in _generic() or shorter[-1] != longer[-1] or shorter.isascii():
        return None
    rest = longer
    for character in reversed(shorter):
        at = rest.rfind(character)
        if at < 0:
            return None
        rest = rest[:at] + rest[at + 1 :]
    return "" if all(character in _LIGHT for character in rest) else rest


def is_replaced(one: str, other: str) -> bool:
    """Tell whether one name is the other with a word replaced by another: 房间隔缺损,
    室间隔缺损."""
    n_before = Prefix.similarity(one, other)
    one, other = one[n_before:], other[n_before:]
    n_after = Postfix.similarity(one, other)
    return n_after < min(len(one), len(other))


def holds_all(text: str, other: str) -> bool:
    """Tell whether every character of the other text that says something stands in the first, in
    any order.

    >>> holds_all("脑出血左侧基底节", "左侧基底节区脑出血")
    True
    """
    return all(
        character in text or character in _LIGHT or character in _FILLERS for character in other
    )


def is_generic(core: str) -> bool:
    """Tell whether a core is a word that two diagnoses may share without being kin: 出血, 感染."""
    return core in _generic()


@cache
def _generic() -> set[str]:
    """List the words that two diagnoses may share without being kin."""
    return {form for word in read_qualities()["generic"] for form in (word, shorten(word))}
