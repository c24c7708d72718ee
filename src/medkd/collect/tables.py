"""Tables: the rows of a CSV or Excel file in, their cells by what they hold out.

A column is known by its heading (a section's name, 编号, 科室 …) or by what `--columns` says.
Others are left out: what nobody has looked at may hold a patient's name. Not done here: making
cases of rows (`rows`).

>>> from medkd.collect.sections import load_names
>>> columns = Columns(["Befund=查体"], load_names())
>>> columns.sort({"编号": 7, "Befund": "T 38℃", "主 诉": "发热", "姓名": "…"})
{'id': 7, 'id_column': '编号', 'raw_medical_record': {'查体': 'T 38℃', '主诉': '发热'}}
>>> sorted(columns.left_out)
['姓名']
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

from medkd.collect.sections import SectionNames
from medkd.core.config import did_you_mean
from medkd.core.errors import InputError
from medkd.text.normalize import normalize

FIELDS = {
    "id": ("编号", "序号", "case id", "case_id"),
    "title": ("标题", "病例标题", "题目"),
    "department": ("科室", "科别", "所属科室", "就诊科室"),
    "url": ("网址", "链接", "来源网址", "address", "link"),
    "retrieved_at": ("采集时间",),
    "licence": ("license", "许可"),
}
"""What a row has besides its sections, and the headings that say so."""
RECORD_NUMBERS = (
    *("病例编号", "病例号", "住院号", "病案号", "病历号", "门诊号", "登记号", "就诊号", "档案号"),
    *(
        "患者编号",
        "病人编号",
        "患者id",
        "病人id",
        "病案编号",
        "住院编号",
        "住院流水号",
        "就诊流水号",
    ),
    *(
        "mrn",
        "medical record number",
        "record number",
        "patient id",
        "patient_id",
        "admission number",
    ),
    *("hadm_id", "subject_id", "encounter id", "chart number", "hospital number"),
)
"""Headings of numbers that a hospital knows a patient by: an id where there is no other one."""
_FIELD_OF = {other: field for field, others in FIELDS.items() for other in (field, *others)}
_SAVE_AGAIN = "save it again as .xlsx, or as CSV"
_DELIMITERS = ",\t;|"


class Columns:
    """What the columns of a table hold."""

    def __init__(self, given: Sequence[str], names: SectionNames) -> None:
        self._names = names
        self._given: dict[str, str] = {}
        self.left_out: set[str] = set()
        """Headings of columns that nothing is known of."""
        for pair in given:
            heading, mark, target = pair.rpartition("=")
            if not mark or not heading.strip() or not target.strip():
                raise InputError(
                    f"--columns {pair}: say it as COLUMN=NAME, such as Beschwerden=主诉"
                )
            self._given[heading.strip()] = self._target(target.strip())

    def _target(self, name: str) -> str:
        target = _FIELD_OF.get(name) or self._names.unify(name)
        if target not in FIELDS and not self._names.knows(target):
            raise InputError(
                f"--columns: no section {name!r}{did_you_mean(name, [*self._names.table, *FIELDS])}; more names come by --section-names"
            )
        return target

    def place_of(self, heading: str) -> str:
        """Give the field or section that a column holds; empty where nothing is known of it."""
        plain = heading.strip()
        if plain in self._given:
            return self._given[plain]
        if field := _FIELD_OF.get(plain.lower()):
            return field
        if normalize(plain).lower() in RECORD_NUMBERS:
            return "record_number"
        return self._names.unify(plain) if self._names.knows(plain) else ""

    def sort(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Sort a row's cells into fields and sections; a row without any section has no
        `raw_medical_record`."""
        fields: dict[str, Any] = {}
        record: dict[str, Any] = {}
        headings: dict[str, str] = {}
        for heading, cell in row.items():
            place = self.place_of(heading)
            if place in FIELDS or place == "record_number":
                fields.setdefault(place, cell)
                headings.setdefault(place, heading.strip())
            elif place:
                record[place] = [record[place], cell] if place in record else cell
            elif heading.strip():
                self.left_out.add(heading.strip())
        number = fields.pop("record_number", None)
        if not str(fields.get("id") or "").strip() and number is not None:
            fields["id"], headings["id"] = number, headings["record_number"]
        if "id" in fields:
            fields["id_column"] = headings["id"]
        return {**fields, "raw_medical_record": record} if record else fields


def read_csv(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each row of a CSV file with its place, cells by heading."""
    csv.field_size_limit(2**31 - 1)
    head = text.lstrip().split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=head.count)
    reader = csv.reader(io.StringIO(text.replace("\x00", "")), delimiter=delimiter)
    try:
        for number, cells in _with_headings(reader):
            yield f"{path.name}, row {number}", cells
    except csv.Error as error:
        raise InputError(
            f"{path}: no CSV that can be read ({error}); save the table again as CSV in UTF-8, or as .xlsx"
        ) from error


def read_excel(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each row of all sheets of a workbook with its place, cells by heading."""
    from zipfile import BadZipFile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except (
        InvalidFileException,
        BadZipFile,
        KeyError,
        ValueError,
        OSError,
        EOFError,
        TypeError,
        SyntaxError,
    ) as error:
        raise InputError(
            f"{path}: no Excel workbook that can be read ({type(error).__name__}); save it again as .xlsx, or as CSV"
        ) from error
    try:
        for sheet in book.worksheets:
            for number, cells in _with_headings(
                [_as_cell(cell) for cell in row] for row in sheet.iter_rows(values_only=True)
            ):
                yield f"{path.name}, {sheet.title}, row {number}", cells
    except (ValueError, KeyError, TypeError, SyntaxError, BadZipFile, EOFError) as error:
        raise InputError(
            f"{path}: a damaged Excel workbook ({type(error).__name__}); {_SAVE_AGAIN}"
        ) from error
    finally:
        book.close()


def _with_headings(rows: Iterable[Sequence[Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give rows by heading; the first row with two cells or more is the headings', a title above it
    is passed over."""
    headings: list[str] | None = None
    for number, row in enumerate(rows, start=1):
        cells = [str(cell) if cell is not None else "" for cell in row]
        if not any(cell.strip() for cell in cells):
            continue
        if headings is None:
            if sum(bool(cell.strip()) for cell in cells) > 1:
                headings = cells
            continue
        yield (
            number,
            {
                heading: cell
                for heading, cell in zip(headings, cells, strict=False)
                if heading.strip()
            },
        )


def _as_cell(value: Any) -> Any:
    """Write a cell as a person reads it."""
    if isinstance(value, datetime):
        return (
            value.isoformat(sep=" ", timespec="minutes")
            if value.time().isoformat() != "00:00:00"
            else value.date().isoformat()
        )
    if isinstance(value, date):
        return value.isoformat()
    return int(value) if isinstance(value, float) and value.is_integer() else value
