"""Cases from files: a JSON array or JSON Lines in, `RawCase` records out, with a reason for every row left out.

Two shapes are known: a crawler's (title, department, url, id, raw_medical_record) and our own `raw_cases.jsonl`.
Not done here: repairs of the text (`prepare`); HTML pages and tables.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from medkd.collect.pages import licence_note
from medkd.collect.sections import find_diagnosis, join_sections, tidy, unify_departments
from medkd.core.artifacts import first_problem
from medkd.core.errors import InputError, from_os_error
from medkd.core.records import RawCase

EXPECTED = "title, department, url, id, raw_medical_record"
MISSING_WORDS = {"无", "无。"}
"""What crawlers write where a page has no such section."""


class FileDrop(StrEnum):
    """Why a row of a file gives no record."""

    BROKEN_LINE = "broken_line"
    """No JSON."""
    WRONG_SCHEMA = "wrong_schema"
    """JSON of another shape."""
    EMPTY = "empty"
    """A case without any text."""
    DUPLICATE_ID = "duplicate_id"
    """An id that came before; the first row of it is kept."""


class CaseFile:
    """The cases of one file; iterating gives records and leaves behind what was dropped and why.

    Raises InputError where the file is missing, empty, no text, no JSON, or holds no case at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_read = 0
        self.dropped: Counter[str] = Counter()
        self.problems: list[str] = []
        """One line for each row that is broken or of another shape: its place and what is wrong."""

    def __iter__(self) -> Iterator[RawCase]:
        text = _read_text(self.path)
        seen: set[str] = set()
        n_good = 0
        for place, row in self._rows(text):
            self.n_read += 1
            case = self._read_row(place, row)
            if case is None:
                continue
            n_good += 1
            if case.id in seen:
                self.dropped[FileDrop.DUPLICATE_ID] += 1
                continue
            seen.add(case.id)
            yield case
        if not n_good:
            raise InputError(f"{self.problems[0] if self.problems else f'{self.path}: holds no case'}; check --input")

    def _rows(self, text: str) -> Iterator[tuple[str, Any]]:
        """Give each row with its place; a row that is no JSON comes as the error."""
        if text.lstrip().startswith("["):
            for number, row in enumerate(cast("list[Any]", self._parse_whole(text)), start=1):
                yield f"{self.path.name}, item {number}", row
            return
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        if _is_one_object(text, lines):
            yield f"{self.path.name}, item 1", json.loads(text)
            return
        for number, line in lines:
            try:
                yield f"{self.path.name}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"{self.path.name}:{number}", error

    def _parse_whole(self, text: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            message = f"{self.path}:{error.lineno}: broken JSON ({error.msg}, column {error.colno}); mend it or save it as JSON Lines"
            raise InputError(message) from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}: JSON that cannot be read ({error}); save it as JSON Lines") from error

    def _read_row(self, place: str, row: Any) -> RawCase | None:
        if isinstance(row, Exception):
            return self._drop(FileDrop.BROKEN_LINE, f"{place}: broken JSON ({row})")
        if not isinstance(row, dict):
            return self._drop(FileDrop.WRONG_SCHEMA, f"{place}: found a {type(row).__name__}, expected an object with {EXPECTED}")
        fields = cast("dict[str, Any]", row)
        try:
            case = _read_own(fields) if "sections" in fields else _read_foreign(fields)
        except ValidationError as error:
            return self._drop(FileDrop.WRONG_SCHEMA, f"{place}: {first_problem(error)}")
        if case is None:
            found = ", ".join(fields) or "nothing"
            return self._drop(FileDrop.WRONG_SCHEMA, f"{place}: found the fields {found[:200]}; expected {EXPECTED}, or a RawCase")
        if not case.sections:
            self.dropped[FileDrop.EMPTY] += 1
            return None
        return case

    def _drop(self, reason: FileDrop, problem: str) -> None:
        self.dropped[reason] += 1
        self.problems.append(problem)


def read_cases(path: Path) -> list[RawCase]:
    """Read all cases of a file at once."""
    return list(CaseFile(path))


def _read_own(fields: dict[str, Any]) -> RawCase:
    return RawCase.model_validate_json(json.dumps(_without_surrogates(fields)))


def _read_foreign(fields: dict[str, Any]) -> RawCase | None:
    """Read a crawler's row; None where it is of another shape."""
    record = fields.get("raw_medical_record")
    if not isinstance(record, dict):
        return None
    texts = {str(name): _as_text(value) for name, value in cast("dict[str, Any]", record).items()}
    sections = join_sections((name, text) for name, text in texts.items() if tidy(text) not in MISSING_WORDS)
    url = tidy(_as_text(fields.get("url")))
    source = "iiyi" if "iiyi.com/" in url else "files"
    department = fields.get("department")
    names = cast("list[Any]", department) if isinstance(department, list) else _as_text(department).split()
    return RawCase(
        id=f"{source}:{tidy(_as_text(fields.get('id'))) or _fingerprint(sections)}",
        source=source,
        url=url,
        licence=licence_note(url),
        title=tidy(_as_text(fields.get("title"))).replace("\n", " "),
        department=unify_departments(_as_text(name) for name in names),
        sections=sections,
        diagnosis=find_diagnosis(sections),
    )


def _as_text(value: Any) -> str:
    """Turn what stands for a text into one: lists line by line, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(_as_text(item) for item in cast("list[Any]", value))
    return str(value)


def _fingerprint(sections: dict[str, str]) -> str:
    """Give a case without an id one that stays the same wherever its row stands."""
    return hashlib.sha256(json.dumps(sections, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:12]


def _without_surrogates(value: Any) -> Any:
    """Drop the halves of characters that JSON can spell and UTF-8 cannot."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-8", "ignore"))


def _is_one_object(text: str, lines: list[tuple[int, str]]) -> bool:
    """Tell a single pretty-printed object from JSON Lines."""
    if not lines or lines[0][1].strip() != "{":
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _read_text(path: Path) -> str:
    """Read a file as UTF-8, else as GB18030; single bad bytes in UTF-8 do not make it GB18030."""
    try:
        content = path.read_bytes()
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a directory; give the file in it with --input") from error
    except OSError as error:
        raise from_os_error(error, path) from error
    if not content.strip():
        raise InputError(f"{path}: the file is empty; check --input")
    text = content.decode("utf-8-sig", "replace")
    n_bad = text.count("\ufffd")
    if n_bad * 100 > len(text):
        try:
            text = content.decode("gb18030")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: neither UTF-8 nor GB18030 text; export it again as UTF-8 JSON") from error
    if text.lstrip()[:1] not in {"[", "{"}:
        start = text.lstrip()[:20].split("\n")[0]
        raise InputError(f"{path}: no JSON (it begins with {start!r}); expected a JSON array or JSON Lines with {EXPECTED}")
    return text
