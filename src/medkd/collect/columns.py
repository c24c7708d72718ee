"""What the columns of a table hold: cells by heading in, fields and sections out.

A column is known by its heading (a section's name, 编号, 科室 …) or by what `--columns` says. A
cell that is a whole record with headings of its own is cut at them. Others are left out: what
nobody has looked at may hold a patient's name. Not done here: making cases of rows (`files`).

>>> from medkd.collect.sections import load_names
>>> columns = Columns(["Befund=查体"], load_names())
>>> columns.sort({"编号": 7, "Befund": "T 38℃", "主 诉": "发热", "姓名": "…"})
{'id': 7, 'id_column': '编号', 'raw_medical_record': {'查体': 'T 38℃', '主诉': '发热'}}
>>> sorted(columns.left_out)
['姓名']
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from medkd.collect.sections import CLINICAL_SECTIONS, DIAGNOSIS_SECTIONS, SectionNames
from medkd.core.config import did_you_mean
from medkd.core.errors import InputError
from medkd.core.task import list_sections, load_task
from medkd.text.normalize import normalize
from medkd.text.tables import is_missing

QUESTION_SECTIONS = ("question", "options", "answer", "问题", "选项", "答案")
"""The sections of a question with its answer, in either language."""
COUNTER = "序号"
"""A heading of numbers that may begin again in the next sheet or file."""
FIELDS = {
    "id": ("编号", COUNTER, "case id", "case_id"),
    "title": ("标题", "病例标题", "题目"),
    "department": ("科室", "科别", "所属科室", "就诊科室"),
    "url": ("网址", "链接", "来源网址", "address", "link"),
    "retrieved_at": ("采集时间",),
    "licence": ("license", "许可"),
}
"""What a row has besides its sections, and the headings that say so."""
RECORD_NUMBERS = frozenset(
    [
        "病例编号",
        "病例号",
        "住院号",
        "病案号",
        "病历号",
        "门诊号",
        "登记号",
        "就诊号",
        "档案号",
        "患者编号",
        "病人编号",
        "患者id",
        "病人id",
        "病案编号",
        "住院编号",
        "住院流水号",
        "就诊流水号",
        "mrn",
        "medical record number",
        "record number",
        "patient id",
        "patient_id",
        "admission number",
        "hadm_id",
        "subject_id",
        "encounter id",
        "chart number",
        "hospital number",
    ]
)
"""Headings of numbers that a hospital knows a patient by: an id where there is no other one."""
_FIELD_OF = {other: field for field, others in FIELDS.items() for other in (field, *others)}
_JOINED = {"department", "title"}
"""Fields of which a row may have several columns."""
_REPEATED = re.compile(r"\.\d{1,2}")
"""What pandas puts behind a heading that comes again."""


class Columns:
    """What the columns of a table hold."""

    def __init__(self, given: Sequence[str], names: SectionNames) -> None:
        self._names = names
        self._given: dict[str, str] = {}
        self._places: dict[str, str] = {}
        self.left_out: set[str] = set()
        """Headings of columns that nothing is known of."""
        self.rounded: dict[str, str] = {}
        """Headings of ids that a spreadsheet rounded, with one of them each."""
        for pair in given:
            heading, mark, target = pair.rpartition("=")
            half = pair[: len(pair) // 2]
            if pair == f"{half}={half}":  # the name of a section of one's own may hold a = too
                heading = target = half
            if not mark or not heading.strip() or not target.strip():
                raise InputError(
                    "--columns {}: say it as COLUMN=NAME, such as Beschwerden=主诉", pair
                )
            self._given[heading.strip()] = self._target(target.strip(), heading.strip())

    def _target(self, name: str, heading: str) -> str:
        """Name what is meant: a field, a known section, or a section of the user's own."""
        target = _FIELD_OF.get(name) or self._names.unify(name)
        if target not in FIELDS and not self._names.knows(target):
            hint = did_you_mean(name, [*self._names.table, *FIELDS, *QUESTION_SECTIONS])
            if heading != name and "did you mean" in hint and name not in QUESTION_SECTIONS:
                raise InputError(
                    "--columns: no section {0!r}{1} a section of your own is said as "
                    "{0}={0}, or comes by --section-names",
                    name,
                    hint,
                )
        return target

    @cache  # noqa: B019 - one object a run
    def holds_case(self, headings: frozenset[str]) -> bool:
        """Tell whether a row of these headings is a case though it asks and answers: it has two
        sections of one, for one may be the `history` of a conversation or the name of an `exam`;
        or one that the user named."""
        places = {self.place_of(heading) for heading in headings}
        named = {*self._given.values()} - FIELDS.keys() - {*QUESTION_SECTIONS}
        of_cases = places.intersection((*CLINICAL_SECTIONS, *DIAGNOSIS_SECTIONS))
        return not places.isdisjoint(named) or len(of_cases) > 1

    def is_section(self, heading: str) -> bool:
        """Tell whether a column holds a section."""
        return self.place_of(heading) not in {"", "record_number", *FIELDS}

    def place_of(self, heading: str) -> str:
        """Name the field or section that a column holds; empty where nothing is known of it."""
        if heading not in self._places:
            plain = heading.strip()
            found = self._find_place(plain)
            self._places[heading] = found or self._find_place(_REPEATED.sub("", plain))
        return self._places[heading]

    def _find_place(self, plain: str) -> str:
        if plain in self._given:
            return self._given[plain]
        if field := _FIELD_OF.get(plain.lower()):
            return field
        if normalize(plain).lower() in RECORD_NUMBERS:
            return "record_number"
        return self._names.unify(plain) if self._names.knows(plain) else ""

    def sort(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Sort a row's cells into fields and sections; a row without any section has no
        `raw_medical_record`. A second cell of one section, department or title joins the first."""
        fields: dict[str, Any] = {}
        record: dict[str, Any] = {}
        headings: dict[str, str] = {}
        for heading, cell in row.items():
            place = self.place_of(heading)
            whole = self._names.cut(cell) if not place and isinstance(cell, str) else []
            if whole:
                for name, text in whole:
                    known = self._names.unify(name)
                    record[known] = [record[known], text] if known in record else text
            elif not place or is_missing(cell):
                if not place and heading.strip():
                    self.left_out.add(heading.strip())
            elif place not in FIELDS and place != "record_number":
                record[place] = [record[place], cell] if place in record else cell
            elif place in fields and place in _JOINED:
                fields[place] = [fields[place], cell]
            elif place in fields and fields[place] != cell and heading.strip() not in self._given:
                self.left_out.add(heading.strip())
            else:
                fields[place] = cell
                headings[place] = heading.strip()
        number = fields.pop("record_number", None)
        if "id" not in fields and number is not None:
            fields["id"], headings["id"] = number, headings["record_number"]
        if "id" in fields:
            fields["id_column"] = headings["id"]
        return {**fields, "raw_medical_record": record} if record else fields


def fit_task(task: str, names: SectionNames) -> tuple[SectionNames, list[str]]:
    """Fit the names of sections to a task file: a section that it names is not renamed, one that it
    alone names is a column of that name."""
    if not task:
        return names, []
    sections = list_sections(load_task(task))
    own = names.without(sections)
    known = Columns((), own)
    return own, [f"{name}={name}" for name in sections if not known.place_of(name)]
