"""Names told by how words are cut: what jieba's tagger takes for a person's name, asked only where
one may stand.

In: a few characters after a context such as 患者. Out: how long the name is with which they begin.
Not done here: the contexts (`names`). The tagger reads about 70,000 characters a second, a
hundredth of what the patterns do: it sees windows, never whole records.
"""

from functools import cache, lru_cache
from typing import Any

WINDOW = 9
"""Characters looked at."""


@cache
def _tagger() -> Any:
    import logging

    import jieba
    import jieba.posseg

    jieba.setLogLevel(logging.WARNING)
    return jieba.posseg.dt


@lru_cache(maxsize=16384)
def leading_name(window: str) -> int:
    """Give the length of the name with which a window begins; 0 where it begins with something
    else."""
    word, tag = next(iter(_tagger().cut(window)))
    return len(word) if tag.startswith("nr") and 2 <= len(word) <= 4 else 0


def is_ordinary(word: str) -> bool:
    """Tell whether the dictionary has a word, and not as a name."""
    return not _tagger().word_tag_tab.get(word, "nr").startswith("nr")


def has_ordinary_word(candidate: str) -> bool:
    """Tell whether what could be a name, or all of it but its first character, is a word and no
    name.

    >>> [has_ordinary_word(word) for word in ("满意", "易疲劳", "席慕云")]
    [True, True, False]
    """
    return is_ordinary(candidate) or (len(candidate) > 2 and is_ordinary(candidate[1:]))
