"""Tells whether a few characters read better as a personal name or as ordinary words.

In: a run of Chinese characters. Out: the log-probability of each reading, from the counts of
jieba's dictionary (270,000 words, 79,000 personal names). Not done here: where a name may stand
(`names`).
"""

import math
import re
from collections import Counter
from functools import cache, lru_cache
from typing import NamedTuple

from medkd.deidentify.rules import load_table
from medkd.text.segmentation import load_jieba

_TABLE = load_table("names.yaml")
SURNAMES = frozenset(_TABLE["surnames"]) - {" "}
COMPOUND_SURNAMES = frozenset(_TABLE["compound_surnames"])
JAPANESE_SURNAMES = frozenset(_TABLE["japanese_surnames"])
_SOUNDS = frozenset(_TABLE["sounds"]) - {" "}
NAME_STARTS = "".join(
    sorted(SURNAMES | _SOUNDS | {name[0] for name in COMPOUND_SURNAMES | JAPANESE_SURNAMES})
)
"""Characters with which a name may begin."""
_SOUND = math.log(1 / len(_SOUNDS))
_UNSEEN = -14.0
"""Log-probability of a character that no counted name or word holds."""
_ROLE_FREQUENCY = 1000
"""Of roles and titles that the dictionary lacks (管床, 三线)."""
_RARE_SURNAME = -12.0
_AT_START = 2.0
"""What it adds that a name begins where a clause does, in log-odds."""
_NO_END = frozenset("班科室院部组级线区床")
"""Names do not end in these; wards, shifts and lists do."""
_LONGEST_WORD = 5
_FREQUENT = 30
"""From this frequency on, what the dictionary takes for a name of two characters is rather a word
(康复, 安静) or somebody famous."""
_HANZI_RUN = re.compile(r"[一-鿿]*")
_HANZI_AT_END = re.compile(r"[一-鿿]{0,8}$")


class _Counts(NamedTuple):
    """Log-probabilities of words, surnames and the characters of given names."""

    words: dict[str, float]
    surnames: dict[str, float]
    given: dict[str, float]


@cache
def _counts() -> _Counts:
    """Count jieba's dictionary: a word, its frequency and its part of speech in each line."""
    words: dict[str, int] = {}
    surnames: Counter[str] = Counter()
    given: Counter[str] = Counter()
    with load_jieba().get_dict_file() as file:
        for line in file:
            word, frequency, tag = line.decode().split()
            if not tag.startswith("nr") or (len(word) == 2 and int(frequency) >= _FREQUENT):
                words[word] = int(frequency)
            elif 2 <= len(word) <= 3 and word[0] in SURNAMES:
                surnames[word[0]] += 1
                given.update(word[1:])
    for row in ("titles", "others", "signed", "deeds"):
        for word in _TABLE[row].split():
            words.setdefault(word, _ROLE_FREQUENCY)
    n_words = sum(words.values())
    n_names, n_given = surnames.total(), given.total()
    return _Counts(
        {word: math.log(max(n, 1) / n_words) for word, n in words.items()},
        {name: math.log((surnames[name] + 1) / n_names) for name in SURNAMES},
        {character: math.log(n / n_given) for character, n in given.items()},
    )


def is_word(text: str) -> bool:
    """Tell whether the dictionary has a text of two or more characters, and not as a name."""
    return len(text) > 1 and text in _counts().words


@lru_cache(maxsize=65536)
def as_words(text: str) -> float:
    """Compute the log-probability of the likeliest way to cut a text into words."""
    words = _counts().words
    best = [0.0]
    for end in range(1, len(text) + 1):
        choices = [best[end - 1] + words.get(text[end - 1], _UNSEEN)]
        choices += [
            best[start] + words[text[start:end]]
            for start in range(max(0, end - _LONGEST_WORD), end - 1)
            if text[start:end] in words
        ]
        best.append(max(choices))
    return best[-1]


def _as_surname(text: str) -> float:
    return -8.0 if text in COMPOUND_SURNAMES else _counts().surnames.get(text, -math.inf)


@lru_cache(maxsize=65536)
def as_name(text: str, any_surname: bool = False) -> float:
    """Compute the log-probability of a text as a name: a surname with a given name, a Japanese
    name, or the sounds that names of other peoples are written with; minus infinity for none."""
    choices = [-math.inf]
    if text[-1] in _NO_END:
        return choices[0]
    given = _counts().given
    if text[:2] in COMPOUND_SURNAMES and 3 <= len(text) <= 4:
        choices.append(-8.0 + sum(given.get(c, _UNSEEN) for c in text[2:]))
    if 2 <= len(text) <= 3 and (any_surname or text[0] in SURNAMES):
        length = math.log(0.8 if len(text) == 3 else 0.2)
        surname = _counts().surnames.get(text[0], _RARE_SURNAME)
        choices.append(length + surname + sum(given.get(c, _UNSEEN) for c in text[1:]))
    if 3 <= len(text) <= 5 and text[:2] in JAPANESE_SURNAMES:
        choices.append(-9.0 + sum(given.get(c, -9.0) for c in text[2:]))
    if 2 <= len(text) <= 8:
        choices.append(-2.0 + sum(_SOUND if c in _SOUNDS else _UNSEEN for c in text))
    return max(choices)


def run_at(text: str, start: int, longest: int = 10) -> str:
    """Take the Chinese characters from a place on."""
    return _HANZI_RUN.match(text, start, start + longest)[0]  # pyright: ignore[reportOptionalSubscript]


def name_until(text: str, end: int, prior: float, prior_alone: float) -> int:
    """Give the length of the name that ends at a place; 0 for none. A surname that stands alone has
    a prior of its own."""
    before = _HANZI_AT_END.search(text[max(0, end - 8) : end])[0]  # pyright: ignore[reportOptionalSubscript]
    plain = as_words(before)
    best, length = 0.0, 0
    for n in range(1, min(len(before), 8) + 1):
        name = before[-n:]
        is_surname = n == 1 or name in COMPOUND_SURNAMES
        is_head = n == len(before) < 8
        likelihood = _as_surname(name) if is_surname else as_name(name, any_surname=is_head)
        edge = _AT_START if is_head and not is_surname else 0.0
        score = (
            (prior_alone if is_surname else prior)
            + edge
            + likelihood
            + as_words(before[:-n])
            - plain
        )
        if score > best:
            best, length = score, n
    return length
