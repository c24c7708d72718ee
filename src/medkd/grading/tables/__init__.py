"""The word tables of grading: YAML, read once a process, their words as patterns.

In: the name of a table and of a list in it. Out: its values, or its phrases to search for.
"""

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

from medkd.core.config import read_shipped_yaml

TABLES_DIR = Path(__file__).parent
_LATIN = re.compile(r"[\x20-\x7e]{2,}")
_TELLING = re.compile(r"[A-Za-z]{2}|\d{5}")


def load_table(name: str) -> dict[str, Any]:
    """Load a table; its values are shared, so none may be changed."""
    return cast(dict[str, Any], read_shipped_yaml(__name__, f"{name}.yaml"))


class Phrases:
    """Alternatives of regular expressions, in any case.

    Each is searched for by itself, which is several times as fast where it begins with hanzi; those
    of Latin letters are searched for in the Latin stretches of a text alone.
    """

    def __init__(self, alternatives: list[str]) -> None:
        latin = [one for one in alternatives if one.isascii()]
        self.joined = re.compile("|".join(f"(?:{one})" for one in alternatives), re.IGNORECASE)
        """All of them in one pattern, which is quicker in a short text."""
        self._latin = re.compile("|".join(f"(?:{one})" for one in latin), re.IGNORECASE)
        self._others = [re.compile(one, re.IGNORECASE) for one in alternatives if one not in latin]

    def search(self, text: str) -> re.Match[str] | None:
        """Find a phrase; the match is one of the text or of its Latin stretches."""
        found = (pattern.search(text) for pattern in self._others)
        return next(filter(None, found), None) or self._latin.search(_keep_latin(text))

    def count_letters(self, text: str) -> int:
        """Count the letters and digits of a text that stand in phrases."""
        spans = sorted(f.span() for one in self._others for f in one.finditer(text))
        found = [match[0] for match in self._latin.finditer(_keep_latin(text))]
        done = 0
        for start, end in spans:
            found.append(text[max(start, done) : end])
            done = max(done, end)
        return sum(map(str.isalnum, "".join(found)))


@lru_cache(maxsize=8)
def _keep_latin(text: str) -> str:
    """Keep the Latin stretches of a text that hold a word or a long number."""
    return "\n".join(one for one in _LATIN.findall(text) if _TELLING.search(one))


@cache
def load_phrases(name: str) -> Phrases:
    """Load a list of `check_phrases.yaml`."""
    return Phrases(cast(list[str], load_table("check_phrases")[name]))
