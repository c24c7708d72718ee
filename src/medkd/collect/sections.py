"""What pages and files have in common: tidy white space, one name a section, the known diagnoses as a list.

In: names and texts as a site or a file writes them. Out: the same, white space tidied and names unified.
Not done here: repairs of the text itself (`prepare`).

>>> split_diagnoses("1.肺部真菌感染；2.肝硬化失代偿期；3.2型糖尿病。")
('肺部真菌感染', '肝硬化失代偿期', '2型糖尿病')
>>> unify_name("3.【一般资料】")
'基本信息'
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files

DIAGNOSIS_SECTIONS = ("诊断结果", "初步诊断", "临床诊断")
"""Where the known diagnosis stands, the most certain place first."""

OTHER = "其他"
"""The section of a text that has no name."""

_UNWANTED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\u200b\ufffe\uffff\ud800-\udfff]")
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" *\n[ \n]*")
_NUMBERING = re.compile(r"^\s*(?:\d{1,2}|[一二三四五六七八九十]{1,2})\s*[.、．]\s*")
_CIRCLED = {chr(ord("①") + i): f"{i + 1}." for i in range(20)}
_CHINESE_NUMBERS = "一二三四五六七八九十"
_SEMICOLON = re.compile(r"[；;](?![^（(]*[)）])")
"""Not one within brackets."""
_LEAD = re.compile(r"查因|待查|待排|诊断$|^考虑$")


def tidy(text: str) -> str:
    """Reduce white space to single blanks and single line breaks, and drop characters that no text consists of."""
    text = _UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _LINES.sub("\n", _BLANKS.sub(" ", text)).strip()


@cache
def _known_names() -> dict[str, str]:
    import yaml

    table: dict[str, list[str]] = yaml.safe_load(files("medkd.collect").joinpath("section_names.yaml").read_text(encoding="utf-8"))
    return {alias: name for name, aliases in table.items() for alias in [name, *aliases]}


def unify_name(name: str) -> str:
    """Give a section the one name it has everywhere; a name the table does not know is kept."""
    plain = _NUMBERING.sub("", tidy(name).replace("\n", " ")).strip("【】[]：: ")
    return _known_names().get(plain, plain)


def join_sections(parts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Collect named texts into sections, in order; empty texts fall out, a second text of one name follows the first."""
    sections: dict[str, str] = {}
    for name, text in parts:
        key, value = unify_name(name) or OTHER, tidy(text)
        if not value or sections.get(key) == value:
            continue
        sections[key] = f"{sections[key]}\n{value}" if key in sections else value
    return sections


def find_diagnosis(sections: Mapping[str, str]) -> tuple[str, ...]:
    """Take the known diagnoses from the most certain section that names any."""
    return next((found for name in DIAGNOSIS_SECTIONS if (found := split_diagnoses(sections.get(name, "")))), ())


def unify_departments(names: Iterable[str]) -> tuple[str, ...]:
    """Name departments without the site's suffix (内科病例 is 内科), each once."""
    plain = (tidy(name).removesuffix("病例") for name in names)
    return tuple(dict.fromkeys(name for name in plain if name))


def split_diagnoses(text: str) -> tuple[str, ...]:
    """Split a list of diagnoses at its numbers, else at line breaks, and at semicolons.

    A text before the first number stays when it is a diagnosis itself (左眼钝挫伤：1.…) and goes when it only leads
    up to the list (发热查因：1.…). Diagnoses written one after the other without a mark between them stay together.
    """
    for circled, plain in _CIRCLED.items():
        text = text.replace(circled, plain)
    numbers = [str(n) for n in range(1, 100)]
    groups = _cut_at_numbers(text, list(_CHINESE_NUMBERS)) if text.lstrip().startswith("一") else [text]
    pieces: list[str] = []
    for group in groups:
        lead, *items = _cut_at_numbers(group, numbers)
        if not items:
            pieces.extend(lead.split("\n"))
        else:
            pieces.extend([lead] if not _LEAD.search(_trim(lead)) else [])
            pieces.extend(item.replace("\n", " ") for item in items)
    found = (_trim(part) for piece in pieces for part in _SEMICOLON.split(piece))
    return tuple(dict.fromkeys(diagnosis for diagnosis in found if diagnosis))


def _cut_at_numbers(text: str, numbers: list[str]) -> list[str]:
    """Cut a text at 1. 2. 3. in this order; the first part is what leads up to the list.

    Numbers of the text itself stay: 8.11s, 2型, 第1、2腰椎 (the first number of a list stands at a beginning), 二、三联律.
    """
    same_kind = "0-9" if numbers[0].isascii() else _CHINESE_NUMBERS
    parts: list[str] = []
    rest = text
    for number in numbers:
        before = rf"(?<![{same_kind}.A-Za-z])" if parts else r"(?:(?<=^)|(?<=[\s：:，,；;。]))"
        after = rf"\s*(?:[.、．](?![{same_kind}])|[.、．](?=\d+[型度])|[)）])"
        mark = re.search(rf"{before}{number}{after}|[(（]{number}[)）]", rest)
        if mark is None:
            break
        parts.append(rest[: mark.start()])
        rest = rest[mark.end() :]
    return [*parts, rest]


def _trim(text: str) -> str:
    return tidy(text).strip("。.；;，,、：: \n")
