"""A table of terms of the user's: codes and names, an ICD table or local synonyms.

In: a CSV or Excel file with a column of codes and one of names. Out: `Terms`, which says how two
names stand to each other by their codes. Not done here: what the names themselves say.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, cast

from medkd.core.config import RUNTIME
from medkd.core.errors import InputError
from medkd.grading.compare import Relation
from medkd.grading.names import Name, normalize_name, squeeze
from medkd.text.tables import read_rows

_CODE_HEADINGS = re.compile(r"code|icd|编码|代码|编号", re.IGNORECASE)
_NAME_HEADINGS = re.compile(r"name|term|diagnosis|synonym|名称|诊断|术语|疾病|病名", re.IGNORECASE)
_ICD = re.compile(r"([A-Z]\d{2})(?:\.([0-9A-Z]{1,6}))?")
_ALIAS = re.compile(r"[\[\]()（）［］/]")


TermsFile = Annotated[Path | None, RUNTIME]
"""A table of codes and names; what it holds decides results, its path does not."""


def list_terms_inputs(path: Path | None) -> dict[str, Path]:
    """Return the table as an input of a stage, so that its content is hashed."""
    return {} if path is None else {"terms": path}


class Terms:
    """Names of diagnoses by code."""

    def __init__(self, codes: dict[str, frozenset[str]]) -> None:
        self._codes = codes

    def __len__(self) -> int:
        return len(self._codes)

    def relate(self, answer: Name, reference: Name) -> Relation | None:
        """Relate two names: one code is the same diagnosis, a longer code of a category a more
        specific one; None where the table does not tell."""
        ours, theirs = self._find(answer), self._find(reference)
        if not ours or not theirs or answer.negated != reference.negated:
            return None
        if ours & theirs:
            return Relation.SAME
        for special, general, relation in (
            (ours, theirs, Relation.MORE_SPECIFIC),
            (theirs, ours, Relation.MORE_GENERAL),
        ):
            if any(
                one.startswith(other) for one in special for other in general if other[0] != "="
            ):
                return relation
        return None

    def _find(self, name: Name) -> frozenset[str]:
        found = (self._codes.get(form) for form in (*name.spellings, name.kind))
        return next((codes for codes in found if codes), frozenset())


@lru_cache(maxsize=4)
def load_terms(path: Path) -> Terms:
    """Read a table of codes and names; raises InputError where it has no such columns.

    A table without headings is read by what its first row holds.
    """
    codes: dict[str, set[str]] = {}
    columns: tuple[str, str] | None = None
    for row in read_rows(path):
        if not isinstance(row.content, dict):
            continue
        content = cast(dict[Any, Any], row.content)
        cells = {str(key): str(value or "").strip() for key, value in content.items()}
        if columns is None:
            columns, is_headed = _find_columns(list(cells), path)
            if not is_headed:
                _add(codes, *columns)
        _add(codes, cells.get(columns[0], ""), cells.get(columns[1], ""))
    if not codes:
        raise InputError(
            "{}: no row has both a code and a name; see docs/en/verify.md, --terms", path
        )
    return Terms({name: frozenset(found) for name, found in codes.items()})


def _find_columns(headings: list[str], path: Path) -> tuple[tuple[str, str], bool]:
    """Find the headings of the code and of the name, and tell whether they are headings at all."""
    code = next((one for one in headings if _CODE_HEADINGS.search(one)), None)
    name = next((one for one in headings if one != code and _NAME_HEADINGS.search(one)), None)
    if code is not None and name is not None:
        return (code, name), True
    code = next((one for one in headings if _ICD.match(one)), None)
    name = next((one for one in headings if one != code and re.search("[^\\W\\d_]{2}", one)), None)
    if code is not None and name is not None:
        return (code, name), False
    raise InputError(
        "{}: no columns of codes and names among {}; head them `code` and `name`",
        path,
        ", ".join(headings[:6]),
    )


def _add(codes: dict[str, set[str]], code: str, name: str) -> None:
    """Note a name, and each of the names it holds in brackets, under a code."""
    found = _ICD.match(code.upper())
    key = f"{found[1]}{found[2] or ''}" if found else f"={code}"
    if not code or not name:
        return
    for one in {name, *_ALIAS.split(name)}:
        if len(one.strip()) >= 2:
            codes.setdefault(squeeze(normalize_name(one)), set()).add(key)
