"""Identifiers that are known by their digits and letters, such as identity cards, phones and record
numbers, and those of English text, which a label, a title or a relation announces: what a pattern
cannot say of them.

In: normalised text. Out: spans, through `RULES` (in `numbers.yaml`) and `ENGLISH_RULES` (in
`english.yaml`). Not done here: dates and ages (`dates`); English names without such a sign, which
are a tagger's (`recognizers`).
"""

import re
from collections.abc import Iterable

from medkd.deidentify.dates import is_day
from medkd.deidentify.rules import Table, any_of
from medkd.text.normalize import normalize

_ID_WEIGHTS = [2**i % 11 for i in range(17, 0, -1)]
_TABLE = Table("numbers.yaml")
_PLAIN_HEADINGS = frozenset(_TABLE["plain_headings"])


def is_id_card(number: str) -> bool:
    """Tell whether 18 characters are a Chinese identity number with a valid check digit (GB
    11643-1999)."""
    if not re.fullmatch(r"\d{17}[\dXx]", number):
        return False
    total = sum(int(digit) * weight for digit, weight in zip(number, _ID_WEIGHTS, strict=False))
    return "10X98765432"[total % 11] == number[-1].upper()


def is_record_label(heading: str) -> bool:
    """Tell whether a column may hold record numbers: every one but those of mere running numbers.

    >>> [is_record_label(heading) for heading in ("", "编号", "Case ID", "住院號", "MRN")]
    [False, False, False, True, True]
    """
    return normalize(heading).strip().lower() not in _PLAIN_HEADINGS


_TAIWAN_LETTERS = "ABCDEFGHJKLMNPQRSTUVXYWZIO"
"""Each letter stands for 10 and its place here."""


def is_taiwan_id(number: str) -> bool:
    """Tell whether a letter and nine digits are an identity number of Taiwan with a valid check
    digit.

    >>> is_taiwan_id("A123456789"), is_taiwan_id("A123456788")
    (True, False)
    """
    letter = 10 + _TAIWAN_LETTERS.index(number[0])
    digits = [letter // 10, letter % 10, *map(int, number[1:])]
    weights = [1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1]
    return sum(a * b for a, b in zip(digits, weights, strict=True)) % 10 == 0


def _is_id_card(match: re.Match[str]) -> bool:
    """Accept an identity number with a wrong check digit that names a region and a day of birth: a
    slip tells as much."""
    number = match[0]
    return is_id_card(number) or (
        number[0] in "12345678"
        and number[6:8] in {"19", "20"}
        and is_day(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    )


def _is_taiwan_id(match: re.Match[str]) -> bool:
    return is_taiwan_id(match[0])


def _is_old_id_card(match: re.Match[str]) -> bool:
    number = match[0]
    return is_day(1900 + int(number[6:8]), int(number[8:10]), int(number[10:12]))


def _is_ip_address(match: re.Match[str]) -> bool:
    return len(match[0]) > 8 and all(int(part) < 256 for part in match[0].split("."))


def _is_beside_sex(match: re.Match[str]) -> bool:
    """Tell whether a cell stands in a row about a person."""
    start = match.string.rfind("\n", 0, match.start()) + 1
    return re.search(r"\t[男女]\t", match.string[start : match.end() + 20]) is not None


def _has_three_characters(match: re.Match[str]) -> bool:
    return len(match["x"]) >= 3


def _has_four_digits(match: re.Match[str]) -> bool:
    return sum(map(str.isdecimal, match["x"])) >= 4


RULES = _TABLE.rules(
    _is_id_card,
    _is_taiwan_id,
    _is_old_id_card,
    _is_ip_address,
    _is_beside_sex,
    _has_three_characters,
    _has_four_digits,
)


# English


def _spell(words: Iterable[str]) -> str:
    """Write a pattern for the ways in which labels are spelt: mrn, Mrn, MRN; medical record,
    Medical Record."""
    return any_of(
        way for word in words for way in (word, word.capitalize(), word.title(), word.upper())
    )


_ENGLISH = Table("english.yaml")
_ENGLISH.define(
    RELATIVE=any_of(way for w in _ENGLISH.words("relatives") for way in (w, w.capitalize())),
    LABELS=any_of(way for w in _ENGLISH.words("signed") for way in (w, w.upper())),
    ROLE_LABELS=any_of(way for w in _ENGLISH.words("roles") for way in (w, w.upper())),
    **{f"{kind}_LABELS": _spell(labels) for kind, labels in _ENGLISH["numbers"].items()},
)
_NO_NAME = frozenset(_ENGLISH.words("no_name"))
_MEDICAL = re.compile(
    "(?:olog(?:y|ist)|iatr(?:y|ist|ics)|ician|urgery|itis|osis|emia|therapy|tension|thma|sclerosis|pathy|plegia|algia)$"
)
"""Specialties and diseases, which stand where names do."""
_GENERIC = frozenset(_ENGLISH.words("generic_hospital"))
_NAME = _ENGLISH.compile("{WORD}|{FULL}|{INITIALS}|{LAST_FIRST}")


def _holds_no_other_word(words: str) -> bool:
    found = set[str](re.findall(r"[A-Za-z]{2,}", words))
    is_medical = any(_MEDICAL.search(word) for word in found)
    return not is_medical and _NO_NAME.isdisjoint(found | {word.capitalize() for word in found})


def is_plausible_name(words: str) -> bool:
    """Tell whether words read as an English personal name.

    >>> is_plausible_name("Desmond Lee"), is_plausible_name("Chest Pain")
    (True, False)
    """
    return _NAME.fullmatch(words) is not None and _holds_no_other_word(words)


def _is_name(match: re.Match[str]) -> bool:
    return _holds_no_other_word(match["x"])


def _is_own_hospital(match: re.Match[str]) -> bool:
    return not _GENERIC.issuperset(match["n"].split())


def _has_three_digits(match: re.Match[str]) -> bool:
    return sum(map(str.isdecimal, match["x"])) >= 3


ENGLISH_RULES = _ENGLISH.rules(_is_name, _is_own_hospital, _has_three_digits, _has_four_digits)
