"""Cases from files: files, a folder or a dataset on a hub in, `RawCase` records out, with a reason
for every row and page left out.

In: saved HTML pages, and rows of any file that `text.tables` reads: a crawler's rows, our own
records, sections side by side, questions with answers (`text.question_rows`). Not done here: what a
column holds (`columns`), what a page says (`parser`).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from medkd.collect.columns import COUNTER, Columns
from medkd.collect.parser import MAX_BYTES, licence_note, read_saved_page, to_plain_text
from medkd.collect.sections import (
    DIAGNOSIS_SECTIONS,
    MISSING_WORDS,
    SectionNames,
    find_diagnosis,
    join_sections,
    load_names,
    normalize_whitespace,
    unify_departments,
)
from medkd.core.errors import InputError, MedkdError
from medkd.core.jsonl import first_problem
from medkd.core.records import RawCase
from medkd.text.exam_rows import write_options
from medkd.text.files import RawRow, open_regular
from medkd.text.hub_datasets import fetch_all
from medkd.text.normalize import is_chinese
from medkd.text.question_rows import RowError, RowProblem, find_schema, read_question_row
from medkd.text.tables import (
    EXCEL_SUFFIXES,
    JSON_SUFFIXES,
    TABLE_SUFFIXES,
    SourceFile,
    find_source,
    is_hub_name,
    is_missing,
    is_rounded_number,
    read_rows,
)

EXPECTED = "title, department, url, id, raw_medical_record"
CASES = "raw_cases.jsonl"
_BETWEEN_DEPARTMENTS = re.compile("[/;>|\n]")
PAGES = {".html", ".htm", ".xhtml"}
MAX_PROBLEMS = 20
KINDS = PAGES | EXCEL_SUFFIXES | TABLE_SUFFIXES | JSON_SUFFIXES | {".parquet", ".xls"}
KNOWN = "JSON, JSON Lines, CSV, Excel (.xlsx), Parquet and saved HTML pages"


class FileDrop(StrEnum):
    """Why a row or page gives no record."""

    BROKEN_LINE = "broken_line"
    """No JSON, or a row of a table with too many or too few cells."""
    WRONG_SCHEMA = "wrong_schema"
    """A row of another shape, or a field of another kind."""
    UNREADABLE = "unreadable"
    """A page in which no layout finds a case."""
    UNREADABLE_FILE = "unreadable_file"
    """A file of a folder that cannot be read at all."""
    EMPTY = "empty"
    """A case without any text."""
    DUPLICATE_ID = "duplicate_id"
    """An id that came before; the first one is kept."""
    HAS_REASONING = "has_reasoning"
    """A question with its reasoning written already."""
    NO_QUESTION = "no_question"
    """A row of question and answer without a question."""
    NO_ANSWER = "no_answer"
    """A row of question and answer without an answer."""
    ODD_TURNS = "odd_turns"
    """A conversation that nobody answers, or in which others than user and assistant speak."""


NEXT_STEPS = {
    FileDrop.BROKEN_LINE: "export the file again",
    FileDrop.WRONG_SCHEMA: "say what its columns hold with --columns COLUMN=NAME",
    FileDrop.UNREADABLE: "save the pages whole, as a logged-in browser shows them",
    FileDrop.UNREADABLE_FILE: "save the file again",
    FileDrop.EMPTY: "look at its columns, or say what they hold with --columns COLUMN=NAME",
    FileDrop.HAS_REASONING: "such rows need no teacher: medkd merge --input takes the file",
    FileDrop.NO_QUESTION: "look at that field, or name the column with --columns COLUMN=question",
    FileDrop.NO_ANSWER: "look at that field, or name the column with --columns COLUMN=answer",
    FileDrop.ODD_TURNS: "name who speaks user and assistant, and end with an answer",
    FileDrop.DUPLICATE_ID: "name a column whose ids tell the cases apart with --columns COLUMN=id",
}
"""What to do where much is dropped for a reason."""


_DROPS = {
    RowProblem.NOT_TEXT: FileDrop.WRONG_SCHEMA,
    RowProblem.TAG_INSIDE: FileDrop.HAS_REASONING,
}
"""Problems of a row of question and answer that have another name here."""


class FieldError(ValueError):
    """A field of a row that holds what no case can; names the field."""


class CaseFiles:
    """The cases of a file, or of all files in a folder; iterating gives records and leaves behind
    what was dropped and why.

    Raises InputError where the path is missing, or nothing under it holds a case.
    """

    def __init__(
        self, path: Path, names: SectionNames | None = None, columns: Columns | None = None
    ) -> None:
        self.names = names or load_names()
        self.columns = columns or Columns((), self.names)
        self._hub = str(path) if is_hub_name(path) else ""
        self.paths = fetch_all([self._hub])[self._hub] if self._hub else _list_files(path)
        self.is_folder = path.is_dir() and self.paths != [path / CASES]
        self.path = path
        self.repairs: Counter[str] = Counter()
        """White space and thinking tags repaired in questions with answers."""
        self.n_read = 0
        self.dropped: Counter[str] = Counter()
        self.problems: list[str] = []
        """One line for each of the first rows, pages and files that cannot be read."""
        self.first_problems: dict[FileDrop, str] = {}
        """The first of them for each drop reason."""

    def __iter__(self) -> Iterator[RawCase]:
        seen: set[str] = set()
        for path in self.paths:
            try:
                for place, read in self._read(path):
                    case = _number_by_content(read) if read.id in seen else read
                    if case.id in seen:
                        self._drop(FileDrop.DUPLICATE_ID, f"{place}: an id that came before", False)
                        continue
                    seen.add(case.id)
                    yield case
            except MedkdError as error:
                if not self.is_folder:
                    raise
                self.n_read += 1
                self._drop(FileDrop.UNREADABLE_FILE, str(error).removesuffix("; check --input"))
        if not seen:
            reason, first = next(
                iter(self.first_problems.items()), (None, f"{self.path}: holds no case")
            )
            step = NEXT_STEPS[reason] if reason is FileDrop.HAS_REASONING else "check --input"
            raise InputError("{}; {}", first, step)

    def describe_columns(self) -> Iterator[str]:
        """Say which columns were left out, and which ids a spreadsheet rounded."""
        if left_out := sorted(self.columns.left_out):
            headings = ", ".join(heading[:30] for heading in left_out[:12])
            yield (
                f"columns {headings}: left out, for nobody said what they hold (--columns "
                f"{left_out[0][:30]}={left_out[0][:30]} keeps one as a section)"
            )
        for heading, example in self.columns.rounded.items():
            yield (
                f"column {heading}: a spreadsheet rounded its numbers ({example}), unlike ones may "
                "look alike; export it as text; until then these cases are numbered by their "
                "content"
            )

    def _read(self, path: Path) -> Iterator[tuple[str, RawCase]]:
        if path.suffix.lower() in PAGES:
            self.n_read += 1
            with open_regular(path) as file:
                content = file.read(MAX_BYTES + 1)
            if not content.strip():
                raise InputError("{}: the file is empty; check --input", path)
            case = read_saved_page(path, content, self.names)
            if case is None:
                self._drop(FileDrop.UNREADABLE, f"{path.name}: no layout finds a case in this page")
            else:
                yield path.name, case
            return
        source = find_source(path, self._hub)
        for row in read_rows(path):
            self.n_read += 1
            case = self._read_row(row, source)
            if case is not None:
                yield row.place, case

    def _read_row(self, row: RawRow, source: SourceFile) -> RawCase | None:
        place = row.place
        if row.problem:
            return self._drop(FileDrop.BROKEN_LINE, f"{place}: {row.problem}")
        if not isinstance(row.content, dict):
            kind = type(row.content).__name__
            return self._drop(
                FileDrop.WRONG_SCHEMA,
                f"{place}: found a {kind}, expected an object with {EXPECTED}",
            )
        fields = cast("dict[str, Any]", row.content)
        try:
            case = self._read_pair(fields, source) or read_row(fields, self.names, self.columns)
        except RowError as error:
            reason = FileDrop(_DROPS.get(error.problem, error.problem))
            return self._drop(
                reason, f"{place}: {error}", is_listed=reason is not FileDrop.HAS_REASONING
            )
        except (ValidationError, FieldError) as error:
            said = first_problem(error) if isinstance(error, ValidationError) else error
            return self._drop(FileDrop.WRONG_SCHEMA, f"{place}: {said}")
        if case is None:
            found = ", ".join(map(str, fields)) or "nothing"
            return self._drop(
                FileDrop.WRONG_SCHEMA,
                f"{place}: found the fields {found[:200]}; expected {EXPECTED}, a RawCase, "
                "sections, or a question and its answer; --columns COLUMN=NAME says what others "
                "hold",
            )
        if not case.sections:
            return self._drop(FileDrop.EMPTY, f"{place}: no section holds any text", False)
        return case

    def _read_pair(self, fields: dict[str, Any], source: SourceFile) -> RawCase | None:
        """Read a question with its answer; None where a row is none, or is a case as well."""
        headings = frozenset(map(str, fields))
        schema = find_schema(headings)
        if not schema or "raw_medical_record" in headings or self.columns.holds_case(headings):
            return None
        found = read_question_row(fields, schema, self.repairs, source.path)
        if found is None:
            return None
        if found.reasoning:
            problem = f"a {schema} row that holds its reasoning"
            raise RowError(RowProblem.TAG_INSIDE, problem)
        rest = {
            str(name): value
            for name, value in fields.items()
            if name not in found.fields and not is_missing(value)
        }
        beside = self.columns.sort(rest)
        self.columns.left_out.update(
            heading for heading in rest if self.columns.is_section(heading)
        )
        if beside.get("id_column") == COUNTER:
            del beside["id"]
        sections = {
            "question": found.question,
            "options": write_options(found.options),
            "answer": found.answer,
        }
        plain = _write_fields(beside, self.columns)
        return RawCase(
            id=f"{source.name}:{plain['id'] or _fingerprint(sections)}",
            id_column=plain["id_column"],
            source=source.name,
            url=plain["url"] or source.url,
            licence=plain["licence"] or source.licence,
            title=plain["title"],
            department=unify_departments(
                [found.subject, *_list_departments(beside.get("department"))]
            ),
            sections={name: text for name, text in sections.items() if text},
        )

    def _drop(self, reason: FileDrop, problem: str, is_listed: bool = True) -> None:
        problem = " ".join(problem.split())
        self.dropped[reason] += 1
        self.first_problems.setdefault(reason, problem)
        if is_listed and len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"{problem}; passed over")


def _list_files(path: Path) -> list[Path]:
    """List the files to read: the file itself, a stage's records, or all of a known kind in a
    folder."""
    try:
        is_there = path.exists()
    except OSError:
        is_there = False
    if not is_there:
        raise InputError("{}: no such file; check --input", path)
    if not path.is_dir():
        return [path]
    if (path / CASES).is_file():
        return [path / CASES]
    found = [
        p
        for p in path.rglob("*")
        if _is_known(p) and p.is_file() and not p.name.startswith((".", "~$"))
    ]
    if not found:
        raise InputError(
            "{}: no such file of cases in this folder; read are {}; check --input", path, KNOWN
        )
    return sorted(found, key=lambda p: (len(p.parts), str(p.parent), len(p.name), p.name))


def _is_known(path: Path) -> bool:
    """Tell by its name whether a file may hold cases: JSON Lines may be packed."""
    is_packed = path.suffix.lower() in {".gz", ".zst"}
    return (path.with_suffix("") if is_packed else path).suffix.lower() in (
        JSON_SUFFIXES if is_packed else KINDS
    )


# --- Rows ---------------------------------------------------------------------------------------


_RECORD_FIELDS = ("sections", "raw_medical_record")
"""Fields that hold all sections of a case."""


def read_row(fields: dict[str, Any], names: SectionNames, columns: Columns) -> RawCase | None:
    """Read a row in whichever of its shapes; None where it has none of them.

    Raises ValidationError for a broken record of our own, FieldError for a field of a wrong kind.
    """
    if isinstance(fields.get("sections"), dict) and "source" in fields:
        return RawCase.model_validate(fields)
    record = fields.get("raw_medical_record")
    if isinstance(record, str) and record.lstrip().startswith("{"):
        fields = {**fields, "raw_medical_record": _parse_cell(record)}
    whole = next((n for n in _RECORD_FIELDS if isinstance(fields.get(n), dict)), "")
    sorted_ = columns.sort({str(name): cell for name, cell in fields.items() if name != whole})
    if whole:
        beside = sorted_.get("raw_medical_record", {})
        sorted_["raw_medical_record"] = {**beside, **fields[whole]}
        if whole == "raw_medical_record" and "id" in fields:  # a crawler's number of the page
            sorted_["id_column"] = ""
    return _read_foreign(sorted_, names, columns) if "raw_medical_record" in sorted_ else None


def _parse_cell(text: str) -> Any:
    """Read an object that a table holds as JSON text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FieldError("raw_medical_record is text that is no JSON") from error


def _read_foreign(fields: dict[str, Any], names: SectionNames, columns: Columns) -> RawCase:
    """Read a crawler's row: title, department, url, id and the sections."""
    texts = (
        (str(name), to_plain_text(write_value(value, names.unify(str(name)))))
        for name, value in cast("dict[str, Any]", fields["raw_medical_record"]).items()
    )
    sections = join_sections(((name, text) for name, text in texts if not _is_blank(text)), names)
    plain = _write_fields(fields, columns)
    source = "iiyi" if "iiyi.com/" in plain["url"] else "files"
    return RawCase(
        id=f"{source}:{plain['id'] or _fingerprint(sections)}",
        id_column=plain["id_column"],
        source=source,
        url=plain["url"],
        retrieved_at=plain["retrieved_at"],
        licence=plain["licence"] or licence_note(plain["url"]),
        title=plain["title"],
        department=unify_departments(_list_departments(fields.get("department"))),
        sections=sections,
        diagnosis=find_diagnosis(sections),
    )


def _write_fields(fields: dict[str, Any], columns: Columns) -> dict[str, str]:
    """Write what a row has besides its sections, each on one line; an id that a spreadsheet rounded
    is none."""
    names = ("id", "id_column", "url", "retrieved_at", "licence", "title")
    plain = {
        name: " ".join(normalize_whitespace(_write_plain(fields.get(name), name)).split("\n"))
        for name in names
    }
    if is_rounded_number(plain["id"]):
        columns.rounded.setdefault(plain["id_column"] or "id", plain["id"])
        plain["id"] = ""
    return plain if plain["id"] else plain | {"id_column": ""}


def _number_by_content(case: RawCase) -> RawCase:
    """Number a case by its content where its number only counts rows, or is that of a question:
    another sheet, or another turn of a conversation, may have it too."""
    if case.id_column != COUNTER and "question" not in case.sections:
        return case
    return case.model_copy(update={"id": f"{case.source}:{_fingerprint(case.sections)}"})


def _is_blank(text: str) -> bool:
    plain = normalize_whitespace(text)
    return plain in MISSING_WORDS or is_missing(plain)


def _list_departments(value: Any) -> Iterable[str]:
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from (
                _list_departments(item)
                if isinstance(item, list)
                else [_write_plain(item, "department")]
            )
    else:
        text = _write_plain(value, "department")
        yield from (
            text.split() if is_chinese(text) else map(str.strip, _BETWEEN_DEPARTMENTS.split(text))
        )


def _write_plain(value: Any, name: str) -> str:
    """Write a field that is one text; raises FieldError for an object."""
    if isinstance(value, dict):
        raise FieldError(f"{name} is an object with the fields {_name_fields(value)}; write a text")
    return write_value(value, name)


def write_value(value: Any, name: str) -> str:
    """Write what a section holds as text: lists line by line, objects as `key：value`, nothing for
    what is missing; of a section of diagnoses the names alone. Raises FieldError where it holds
    none.

    >>> write_value({"主要诊断": "急性胆囊炎", "其他诊断": ["高血压病"]}, "诊断结果")
    '急性胆囊炎\\n高血压病'
    >>> write_value({"体温": 38.0, "神志": "清"}, "查体")
    '体温：38\\n神志：清'
    """
    if is_missing(value):
        return ""
    if isinstance(value, bool):
        yes, no = ("是", "否") if is_chinese(name) else ("yes", "no")
        return yes if value else no
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else str(value)
    if isinstance(value, list):
        lines = (write_value(item, name) for item in cast("list[Any]", value))
        return "\n".join(line for line in lines if line)
    if not isinstance(value, dict):
        return str(value)
    fields = cast("dict[str, Any]", value)
    if name in DIAGNOSIS_SECTIONS:
        fields = _pick_diagnoses(fields, name)
    written = ((key, write_value(inner, name)) for key, inner in fields.items())
    is_named = name not in DIAGNOSIS_SECTIONS and not all(str(key).isdecimal() for key in fields)
    return "\n".join(f"{key}：{text}" if is_named else text for key, text in written if text)


_NAMES_OF_DIAGNOSES = ("诊断名称", "疾病名称", "名称", "name", "text", "value", "diagnosis")


def _pick_diagnoses(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """Pick the names out of an object of diagnoses, which may hold codes and dates beside them."""
    lowered = {str(key).strip().lower(): value for key, value in fields.items()}
    for key in _NAMES_OF_DIAGNOSES:
        if not is_missing(lowered.get(key)):
            return {key: lowered[key]}
    no_names = ("编码", "代码", "code", "日期", "时间", "date", "医师", "医生")
    picked = {
        key: value
        for key, value in fields.items()
        if (str(key).isdecimal() or "诊断" in str(key) or "diagnos" in str(key).lower())
        and not any(word in str(key).lower() for word in no_names)
    }
    if not picked:
        raise FieldError(
            f"section {name} is an object with the fields {_name_fields(fields)}, none of them a "
            "diagnosis; write the diagnoses as text or as a list"
        )
    return picked


def _name_fields(fields: Iterable[Any]) -> str:
    return ", ".join(str(key)[:30] for key in list(fields)[:8]) or "none"


def _fingerprint(sections: dict[str, str]) -> str:
    """Make an id for a case without one that stays the same wherever its row stands."""
    text = json.dumps(sections, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
