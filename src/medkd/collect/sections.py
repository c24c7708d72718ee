"""What pages and files have in common: white space, one name a section, the known diagnoses as a
list.

In: names and texts as a site or a file writes them. Out: the same, white space tidied and names
unified. Not done here: repairs of the text itself (`prepare`).

>>> load_names().unify("3.【一般资料】")
'基本信息'
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, cast

from medkd.core.config import BrokenYamlError, parse_yaml
from medkd.core.errors import InputError
from medkd.text.diagnoses import split_diagnoses
from medkd.text.files import read_text

DIAGNOSIS_SECTIONS = ("诊断结果", "初步诊断", "临床诊断")
"""Where the known diagnosis stands, the most certain place first."""

CLINICAL_SECTIONS = ("主诉", "现病史", "查体", "辅助检查")
"""Sections that nothing but a case has."""

MISSING_WORDS = {"无", "无。", "暂无", "暂无。", "-", "/", "略"}
"""What stands where there is no such section."""

OTHER = "其他"
"""The section of a text that has no name."""

_UNWANTED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\u200b\ufffe\uffff\ud800-\udfff]")
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" {0,9}\n[ \n]*")
_NUMBERING = re.compile(r"^\s*(?:\d{1,2}|[一二三四五六七八九十]{1,2})\s*[.、．]\s*")
_MAX_TABLE_BYTES = 2**20
_FORM = "write a line for each section, such as 主诉: [主要症状, Complaint]"
_LONGEST_LIST = 5000
"""Characters in which the known diagnoses are looked for; what is longer is no list."""


def normalize_whitespace(text: str) -> str:
    """Reduce white space to single blanks and single line breaks, and drop characters that no text
    consists of."""
    text = _UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _LINES.sub("\n", _BLANKS.sub(" ", text)).strip()


class SectionNames:
    """The one name of each section, whatever a site or a file calls it."""

    def __init__(self, table: Mapping[str, Iterable[str]]) -> None:
        self.table = {name: tuple(others) for name, others in table.items()}
        self._names = {
            _bare(other): name for name, others in self.table.items() for other in (name, *others)
        }
        every = sorted({*self.table, *chain(*self.table.values())}, key=len, reverse=True)
        spelt = "|".join("[ 　]{0,2}".join(map(re.escape, name.replace(" ", ""))) for name in every)
        at_beginning = (
            r"(?:(?<=\n)|(?<=^))[ 　]{0,8}"
            r"(?:【(?:[^【】\n]{2,12}|[A-Za-z][A-Za-z /-]{1,30})】"
            rf"|(?:\d{{1,2}}[.、．] ?)?(?:{spelt}) ?[:：])"
        )
        self.heading = re.compile(rf"【\s*(?:{spelt})\s*】[:：]?|{at_beginning}", re.IGNORECASE)
        """Where running text goes over to another section."""

    def unify(self, name: str) -> str:
        """Return the one name that a section has everywhere; an unknown name is kept."""
        plain = _NUMBERING.sub("", normalize_whitespace(name).replace("\n", " ")).strip(
            "【】[]：: "
        )
        return self._names.get(_bare(plain), plain)

    def knows(self, name: str) -> bool:
        """Tell whether the table has this name, on either side."""
        return self.unify(name) in self.table

    def extended(self, table: Mapping[str, Iterable[str]]) -> "SectionNames":
        """Return these names with others on top; what is said anew wins."""
        return SectionNames(
            {
                **self.table,
                **{name: (*self.table.get(name, ()), *others) for name, others in table.items()},
            }
        )

    def without(self, others: Iterable[str]) -> "SectionNames":
        """Return the names less some other words for a section, which then are sections of their
        own."""
        taken = {_bare(other) for other in others}
        return SectionNames(
            {
                name: [o for o in words if _bare(o) not in taken]
                for name, words in self.table.items()
            }
        )

    def cut(self, text: str) -> list[tuple[str, str]]:
        """Cut running text at the headings in it; empty where it does not read like a case."""
        marks = list(self.heading.finditer(text))
        if not marks:
            return []
        ends = [*(mark.start() for mark in marks[1:]), len(text)]
        parts = [(mark[0], text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]
        found = {self.unify(name) for name, body in parts if normalize_whitespace(body)}
        return parts if len(found) > 1 and not found.isdisjoint(CLINICAL_SECTIONS) else []


def _bare(name: str) -> str:
    return re.sub(r"\s", "", name).lower()


@cache
def load_names(path: Path | None = None) -> SectionNames:
    """Read the package's table of section names, and a table of the user's on top of it."""
    if path is None:
        text = files("medkd.collect").joinpath("section_names.yaml").read_text(encoding="utf-8")
        return SectionNames(_read_table(text, "section_names.yaml"))
    try:
        text = read_text(path, _MAX_TABLE_BYTES)
    except InputError as error:
        raise InputError("{}; check --section-names, {}", error, _FORM) from error
    return load_names().extended(_read_table(text, str(path)))


def _read_table(text: str, place: str) -> dict[str, list[str]]:
    try:
        table = parse_yaml(text)
    except BrokenYamlError as error:
        raise InputError("{}: broken YAML; {}", place, _FORM) from error
    named = cast("dict[Any, Any]", table).items() if isinstance(table, dict) else ()
    if not named or not all(
        isinstance(name, str)
        and isinstance(others, list)
        and all(isinstance(other, str) for other in cast("list[Any]", others))
        for name, others in named
    ):
        raise InputError("{}: no table of names; {}", place, _FORM)
    return dict(named)


def join_sections(parts: Iterable[tuple[str, str]], names: SectionNames) -> dict[str, str]:
    """Collect named texts into sections, in order; empty texts fall out, a second text of one name
    follows the first."""
    sections: dict[str, str] = {}
    for name, text in parts:
        key, value = names.unify(name) or OTHER, normalize_whitespace(text)
        if not value or sections.get(key) == value:
            continue
        sections[key] = f"{sections[key]}\n{value}" if key in sections else value
    return sections


def find_diagnosis(sections: Mapping[str, str]) -> tuple[str, ...]:
    """Take the known diagnoses from the most certain section that names any."""
    listed = (sections.get(name, "")[:_LONGEST_LIST] for name in DIAGNOSIS_SECTIONS)
    return next(
        (
            found
            for text in listed
            if text not in MISSING_WORDS and (found := split_diagnoses(text))
        ),
        (),
    )


def unify_departments(names: Iterable[str]) -> tuple[str, ...]:
    """Name departments without the site's suffix (内科病例 is 内科), each once."""
    plain = (normalize_whitespace(name).removesuffix("病例") for name in names)
    return tuple(dict.fromkeys(name for name in plain if name))


def find_department(numbers: Mapping[str, str], name: str) -> str:
    """Find a department's number by its name, or by a part of it that only one has; empty where
    there is none."""
    wanted = next(iter(unify_departments([name])), "")
    alike = {number for known, number in numbers.items() if wanted and wanted in known}
    return numbers.get(wanted) or (alike.pop() if len(alike) == 1 else "")


def is_of_department(departments: Iterable[str], name: str) -> bool:
    """Tell whether a case is of a department, by the whole of its name or a part of it."""
    wanted = next(iter(unify_departments([name])), "")
    return any(wanted in known for known in departments)
