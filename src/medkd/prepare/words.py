"""Words of answers: other names of diseases, findings said in other words, words that name no
disease.

In: this package's table, the names that grading knows, and a table of the user's on top. Out:
`AnswerWords`. Not done here: which names give a case's answer away (`answers`).
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from medkd.core.errors import InputError
from medkd.core.yaml_io import BrokenYamlError, parse_yaml
from medkd.grading.writing import TABLES_DIR

_WIDE = re.compile(r"[０-９Ａ-Ｚａ-ｚ]")
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF10, 0xFF5B)}
WORDS = re.compile(r"[^\W_]+")
_MAX_NAME = 14
"""Longest name that synonyms are put into."""
_MAX_REWORDINGS = 2
"""Words of one name that are put in other words together."""
_FORM = 'expected "synonyms: [[房颤, 心房颤动], …]", "findings: {咯血: 痰中带血}", "inside: {肺炎症: 肺部炎性改变}" or "generic: 感染 出血"'


@lru_cache(maxsize=256)
def make_plain(text: str) -> str:
    """Reduce a text to its letters, digits and characters, half-width and in lower case, one for
    one."""
    plain = "".join(WORDS.findall(text)).replace("İ", "I").lower()
    return plain.translate(_HALF_WIDTH) if _WIDE.search(plain) else plain


class AnswerWords:
    """What is known of the words in which answers are told."""

    def __init__(
        self,
        synonyms: Iterable[Iterable[str]],
        findings: Mapping[str, str],
        generic: Iterable[str],
        inside: Mapping[str, str],
    ) -> None:
        self.findings = {make_plain(name): said for name, said in findings.items()}
        self.generic = frozenset(generic)
        self.inside = dict(inside)
        self._others: dict[str, dict[str, None]] = {}
        for row in synonyms:
            plain = [name for word in row if (name := make_plain(word))]
            for word in plain:
                self._others.setdefault(word, {}).update(
                    (other, None) for other in plain if other != word
                )

    def has_synonyms(self, plain: str) -> bool:
        """Tell whether a plain name has others in the tables."""
        return plain in self._others

    def reword(self, names: Iterable[str]) -> set[str]:
        """Add the names with words put in other words; long names are lists run together, their
        parts stand beside them."""
        found = set(names)
        fresh = found
        for _ in range(_MAX_REWORDINGS):
            fresh = {
                name.replace(word, other)
                for name in fresh
                if len(name) <= _MAX_NAME
                for word in self._words_in(name)
                # A foreign name stands for the whole, never inside a Chinese one.
                for other in self._others[word]
                if not other.isascii() or word == name
            } - found
            found |= fresh
        return found

    def _words_in(self, name: str) -> set[str]:
        """Find the words of the tables in a short name, those inside one another too."""
        size = len(name)
        return {
            piece
            for i in range(size)
            for j in range(i + 2, size + 1)
            if (piece := name[i:j]) in self._others
        }


@cache
def load_words(path: Path | None = None) -> AnswerWords:
    """Read the tables of the package and of grading, and a table of the user's on top of them."""
    shipped = _read(
        files("medkd.prepare").joinpath("answers.yaml").read_text(encoding="utf-8"), "answers.yaml"
    )
    graded = _parse((TABLES_DIR / "synonyms.yaml").read_text(encoding="utf-8"), "synonyms.yaml")
    rows = [
        [str(name), *map(str, others)]
        for name, others in cast("dict[Any, list[Any]]", graded).items()
    ]
    tables = [shipped]
    if path is not None:
        try:
            tables.append(_read(path.read_text(encoding="utf-8"), str(path)))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as UTF-8 text; check --answers") from error
    return AnswerWords(
        [*rows, *(row for table in tables for row in table["synonyms"])],
        {name: said for table in tables for name, said in table["findings"].items()},
        [word for table in tables for word in table["generic"].split()],
        {word: said for table in tables for word, said in table["inside"].items()},
    )


def _parse(text: str, place: str) -> Any:
    try:
        return parse_yaml(text)
    except BrokenYamlError as error:
        raise InputError(f"{place}: broken YAML; {_FORM}") from error


def _read(text: str, place: str) -> dict[str, Any]:
    """Read a table of synonyms, findings, generic and inside words, each of which may be
    missing."""
    content = _parse(text, place)
    table = {
        "synonyms": [],
        "findings": {},
        "generic": "",
        "inside": {},
        **(cast("dict[str, Any]", content) if isinstance(content, dict) else {"": None}),
    }
    rows = table["synonyms"]
    is_right = isinstance(rows, list) and all(
        isinstance(row, list) and all(isinstance(word, str) for word in row) for row in rows
    )
    for said in (table["findings"], table["inside"]):
        is_right = (
            is_right
            and isinstance(said, dict)
            and all(isinstance(word, str) for pair in said.items() for word in pair)
        )
    if (
        not is_right
        or not isinstance(table["generic"], str)
        or set(table) != {"synonyms", "findings", "generic", "inside"}
    ):
        raise InputError(f"{place}: no table of answers; {_FORM}")
    return table
