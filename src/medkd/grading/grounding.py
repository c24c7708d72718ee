"""Looks up in the record what a reasoning cites: numbers, vital signs and laboratory values,
findings denied and findings claimed.

In: a reasoning and its record. Out: each claim that can be looked up, and whether the record has
it.
Not done here: findings without a number that the record does not mention at all, and whether a
finding matters.

>>> find_claims("体温39.2℃，无胸痛。", "体温39.2℃，咳嗽，无胸痛。")
[('体温39.2', True), ('无胸痛', True)]
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

from medkd.grading.words import load_table, load_words

_NUMBER = re.compile(r"(?<![\d.第a-zA-Z^])\d+(?:\.\d+)?(?![\d])(?!\s*[.、)）]\s*\D)")
_POWER = re.compile(r"[×xX*]\s*10\s*(?:\^|\*\*)?\s*\d{1,2}(?=\s*/|\b)|10\s*(?:\^|E|e)\s*\d{1,2}")
_RANK = re.compile(
    r"\s*(?:型|级|期|类|号|代|种|步|条|项|方面|点(?!\d)|个(?!月|半)|%的(?:患者|病例|病人|人)|年版|年指南)"
)
"""What makes a number a name or a count, no finding: 2型糖尿病, 三个方面."""
_NORM_WIDTH = 12
"""Characters before a number in which a word may say that it is a norm."""
_DENIED = re.compile(
    r"(?:否认|未见|没有|无(?!法|论|关|需|疑|痛|症状|力|菌|不|从|此|明显诱因))(?:明显的?)?([一-鿿]{2,6})(?=[，。、；,;\s]|$)"
)
_DENIALS = r"(?:否认|未见|没有|无|未|不)[^，。；,;]{0,12}"
_DENIED_LIST = re.compile(
    r"(?:否认|未见|未闻及|未触及|没有|无)((?:[一-鿿]{2,6}[、及或])*[一-鿿]{2,6})(?=[，。；,;\s]|$)"
)
_CLAIMED = r"(?<![无未不])(?:伴有?|出现|存在|可见|表现为|具有|患者有|并有|且有|又有|闻及|触及)(?:明显|轻度|中度|重度|持续|典型的?|少量|大量)?"
_AFTER_DENIAL = re.compile(r"(?:否认|未见|未闻及|未触及|没有|无|未)[^，。；,;]{0,40}")
_HANZI_DIGITS = "零一二三四五六七八九"


def find_claims(reasoning: str, record: str) -> list[tuple[str, bool]]:
    """List what the reasoning cites that can be looked up, and whether the record has it.

    A denied finding counts only where the record speaks of it: 无发热 is unfounded where the record
    affirms 发热. A claimed finding is unfounded where the record only denies it.
    """
    text, source = (_POWER.sub("", unicodedata.normalize("NFKC", t)) for t in (reasoning, record))
    claims: dict[str, bool] = {}
    measured = set[int]()
    for name, place, number in _find_measures(text):
        measured.add(place)
        values = {value for other, _, value in _find_measures(source) if other == name}
        if not _is_norm(text, place):
            claims.setdefault(
                f"{name}{number}",
                float(number) in {float(v) for v in values}
                if values
                else _has_number(source, number),
            )
    for match in _NUMBER.finditer(text):
        if (
            match.start() not in measured
            and not _is_norm(text, match.start())
            and not _RANK.match(text, match.end())
        ):
            claims.setdefault(match[0], _has_number(source, match[0]))
    for finding in map(str, _DENIED.findall(text)):
        if finding in source:
            claims.setdefault(
                f"无{finding}", bool(re.search(_DENIALS + re.escape(finding), source))
            )
    for finding in _only_denied(source):
        if re.search(_CLAIMED + re.escape(finding), text):
            claims.setdefault(f"有{finding}", False)
    return list(claims.items())


def grounded_rate(reasoning: str, record: str) -> float | None:
    """Give the share of checkable claims that stand in the record; None where there are none."""
    claims = find_claims(reasoning, record)
    return sum(stands for _, stands in claims) / len(claims) if claims else None


def _find_measures(text: str) -> Iterator[tuple[str, int, str]]:
    """Find every named value: the name of the measure, where its number begins, the number."""
    for name, pattern in _measures():
        for match in pattern.finditer(text):
            for group in ("one", "two"):
                if match[group]:
                    yield name, match.start(group), match[group]


@cache
def _measures() -> list[tuple[str, re.Pattern[str]]]:
    value = r"[^\d，。；,;、]{0,8}?(?P<one>\d+(?:\.\d+)?)(?:\s*/\s*(?P<two>\d+))?"
    return [
        (name, re.compile(f"(?:{names}){value}", re.IGNORECASE))
        for name, names in load_table("measures").items()
    ]


def _is_norm(text: str, place: int) -> bool:
    before = re.split(r"[，。；,;]", text[max(0, place - _NORM_WIDTH) : place])[-1]
    return bool(load_words("normative").search(before))


def _has_number(source: str, number: str) -> bool:
    """Tell whether a record holds a number, in figures or, where it is small, in hanzi."""
    if float(number) in {float(found) for found in re.findall(r"\d+(?:\.\d+)?", source)}:
        return True
    return any(written in source for written in _in_hanzi(number))


def _in_hanzi(number: str) -> list[str]:
    if not number.isdigit() or not 0 < int(number) < 100:
        return []
    tens, ones = divmod(int(number), 10)
    if not tens:
        return [_HANZI_DIGITS[ones], *(["两"] if ones == 2 else [])]
    return [
        ("" if tens == 1 else _HANZI_DIGITS[tens]) + "十" + (_HANZI_DIGITS[ones] if ones else "")
    ]


def _only_denied(source: str) -> list[str]:
    """List the findings that a record denies and nowhere affirms."""
    found = dict.fromkeys(
        part
        for listed in _DENIED_LIST.findall(source)
        for part in re.split("[、及或]", listed)
        if len(part) >= 2
    )
    rest = _AFTER_DENIAL.sub("", source)
    return [finding for finding in found if finding not in rest]
