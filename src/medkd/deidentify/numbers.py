"""Identifiers that are known by their digits and letters, such as identity cards, phones and record
numbers, and those of English text, which a label, a title or a relation announces: what a pattern
cannot say of them.

In: normalised text. Out: spans, through `RULES` (in `numbers.yaml`) and `ENGLISH_RULES` (in
`english.yaml`). Not done here: dates and ages (`dates`); English names without such a sign, which
are a tagger's (`recognizers`).
"""

import re
from collections.abc import Iterable, Iterator

from medkd.deidentify.dates import MONTHS, is_day
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
_MONTHS = frozenset(MONTHS)
_NO_NAME_ALONE = frozenset(_ENGLISH.words("no_name_alone"))
_NEVER_TITLED = frozenset(_ENGLISH.words("never_titled"))
_MEDICAL = re.compile(
    "(?:olog(?:y|ist)|iatr(?:y|ist|ics)|ician|urgery|itis|osis|emia|therapy|tension|thma|sclerosis|pathy|plegia|algia)$"
)
"""Specialties and diseases, which stand where names do."""
_GENERIC = frozenset(_ENGLISH.words("generic_hospital"))
_GENERIC_WARD = frozenset(_ENGLISH.words("generic_ward"))
_NO_PLACE = frozenset(_ENGLISH.words("no_place"))
_FIELD = re.compile("(?:al|ic|ics|ive|ary|ory|ology|ing|ion|ment|ency|ent|ity|sis|ery|icine|oma)$")
"""Fields of medicine and tasks, which wards are called after."""
_TITLED_LIST = _ENGLISH.compile(
    r"\b(?:Drs|Profs|Messrs)\.?\s(?P<x>{WORD}(?:(?:,\s(?:and\s)?|\sand\s|\s?[&/]\s?){WORD})*)"
)
_LISTED = _ENGLISH.compile("{WORD}")
_NAME = _ENGLISH.compile("{WORD}|{FULL}|{INITIALS}|{LAST_FIRST}")


def _holds_no_other_word(words: str, but: frozenset[str] = frozenset()) -> bool:
    found = set[str](re.findall(r"[A-Za-z]{2,}", words)) - but
    is_medical = any(_MEDICAL.search(word) for word in found)
    return not is_medical and _NO_NAME.isdisjoint(found | {word.capitalize() for word in found})


def is_plausible_name(words: str) -> bool:
    """Tell whether words read as an English personal name.

    >>> is_plausible_name("Desmond Lee"), is_plausible_name("Chest Pain")
    (True, False)
    """
    return _NAME.fullmatch(words) is not None and _holds_no_other_word(words)


_INITIALS = re.compile(r"[A-Z]\.?|Jr|Sr|I{2,3}|IV")
_SHORTEST_PART = 3
_OF_DISEASE = re.compile(
    r"(?:'s?|’s?)?\s(?:[a-z]+\s)?(?:disease|syndrome|sign|palsy|tumou?r|disorder|test|score|phenomenon"
    r"|contracture|fracture|triangle|classification|criteria|procedure|tube|catheter|drain|staging)\b"
)


def _first_and_last(name: str) -> tuple[str, str]:
    """Split an English name: Vance, Ann M. and Ann M. Vance are one; an initial counts as first."""
    last, comma, first = name.partition(",")
    words = (f"{first} {last}" if comma else name).split()
    full = [word for word in words if not _INITIALS.fullmatch(word)]
    if len(full) == 1 and len(words) > 1:
        return words[0][0], full[0]
    return (full[0] if len(full) > 1 else "", full[-1] if full else "")


def parts_of_name(name: str) -> Iterator[str]:
    """List the parts of an English name that stand for it: Ann Vance is Vance, and Ann.

    >>> list(parts_of_name("Vance, Ann M.")), list(parts_of_name("HART, LEE"))
    (['Ann', 'Vance'], ['LEE', 'Lee', 'HART', 'Hart'])
    """
    if not name.isascii() or " " not in name:
        return
    for part in _first_and_last(name):
        if (
            len(part) >= _SHORTEST_PART
            and _holds_no_other_word(part)
            and part not in _NO_NAME_ALONE
        ):
            yield part
            if part.isupper():
                yield part.title()


def stands_as_name(text: str, start: int, end: int) -> bool:
    """Tell whether an English name stands at a place as a word of its own, and names no disease."""
    around = text[start - 1 : start] if start else "", text[end : end + 1]
    is_whole = not any(character.isalnum() and character.isascii() for character in around)
    return is_whole and around[1] != "-" and _OF_DISEASE.match(text, end) is None


def link_names(found: Iterable[str]) -> dict[str, str]:
    """Lead each English name of a case to the fullest one of the same person; where two persons
    share a part, that part is its own.

    >>> link_names(["Harlow", "John Harlow", "HARLOW, John T", "Ann Vance", "Ben Vance", "Vance"])
    {'Harlow': 'John Harlow', 'HARLOW, John T': 'John Harlow'}
    """
    texts = [name for name in dict.fromkeys(found) if name.isascii()]
    persons: dict[tuple[str, str], str] = {}
    for name in texts:
        first, last = _first_and_last(name.title())
        if len(first) > 1:
            persons.setdefault((first, last), name)
    linked: dict[str, str] = {}
    for name in texts:
        first, last = _first_and_last(name.title())
        same = {
            full
            for (given, family), full in persons.items()
            if (last == family and given.startswith(first)) or (not first and last == given)
        }
        if len(same) == 1 and name not in same:
            linked[name] = same.pop()
    return linked


def _is_name(match: re.Match[str]) -> bool:
    return match["x"] not in _NO_NAME_ALONE and _holds_no_other_word(match["x"])


def _is_name_of_anybody(match: re.Match[str]) -> bool:
    """Accept May Hart and Jun Ito where nothing but a name can stand."""
    return _holds_no_other_word(match["x"], _MONTHS)


def _is_labelled_name(match: re.Match[str]) -> bool:
    is_told = ":" in match[0] and " " in match["x"]
    return _is_name_of_anybody(match) if is_told else _is_name(match)


_DONE = _ENGLISH.compile(r"(?i)\b(?:{DONE_BY})\s\Z")
_LONGEST_DEED = 16


def _is_done_by(match: re.Match[str]) -> bool:
    """Tell who did something from what caused it: seen by, not due to."""
    start = match.start()
    return _DONE.search(match.string, max(0, start - _LONGEST_DEED), start) is not None


def _is_titled_name(match: re.Match[str]) -> bool:
    """Accept any one word behind a title that is not one of grammar or of a post: Mr May, Dr Ward;
    leave Dr On-call."""
    name = match["x"]
    return _holds_no_other_word(name) or (name.isalpha() and name not in _NEVER_TITLED)


def _is_own_hospital(match: re.Match[str]) -> bool:
    return not _GENERIC.issuperset(match["n"].title().split())


def _is_own_ward(match: re.Match[str]) -> bool:
    """Tell Juniper Ward and Rowan Unit from Surgical Ward and Burns Unit."""
    word = match["n"]
    return (
        word not in _GENERIC_WARD
        and _FIELD.search(word) is None
        and word not in _NO_NAME_ALONE
        and _holds_no_other_word(word)
    )


def _is_place(match: re.Match[str]) -> bool:
    words = match["x"].replace("'s", "").split()
    return words[0] not in _NO_NAME_ALONE and _NO_PLACE.isdisjoint(words)


def _name_lists(text: str) -> Iterator[tuple[int, int]]:
    """Find each name of a list behind one title: Drs. Vance, Osei and Hart."""
    for found in _TITLED_LIST.finditer(text):
        for name in _LISTED.finditer(text, *found.span("x")):
            yield name.span()


def _has_three_digits(match: re.Match[str]) -> bool:
    return sum(map(str.isdecimal, match["x"])) >= 3


ENGLISH_RULES = _ENGLISH.rules(
    _is_name,
    _is_titled_name,
    _is_labelled_name,
    _is_name_of_anybody,
    _is_done_by,
    _is_own_hospital,
    _is_own_ward,
    _is_place,
    _name_lists,
    _has_three_digits,
    _has_four_digits,
)
