"""Rules for English clinical text: names, dates, numbers and places as they are written there.

In: a text. Out: spans, through `RULES`. Not done here: names without any context; mail and web
addresses, which `numbers` finds in any language. Eponyms (Parkinson disease) have no context of a
person and stay.
"""

import re

from medkd.deidentify.days import is_day
from medkd.deidentify.rules import Category, Rule, any_of, by_pattern, load_table

_TABLE = load_table("english.yaml")
MONTHS = {name: number for number, names in enumerate(_TABLE["months"], start=1) for name in names}
_MONTH = any_of(name for name in MONTHS)
_NO_NAME = frozenset(_TABLE["no_name"].split())
_RELATIVE = any_of(_TABLE["relatives"].split())
_SIGNED = any_of(_TABLE["signed"])
_WORD = r"(?:[A-Z]['’][A-Z][a-z]+|(?:Mc|Mac|De|La|Van|Von)?[A-Z][a-z]+(?:[-'’][A-Z][a-z]+)?)"
_FULL = rf"{_WORD}(?:\s[A-Z]\.)?(?:\s{_WORD}){{1,2}}"
_ANY = rf"{_WORD}(?:\s[A-Z]\.)?(?:\s{_WORD}){{0,2}}"
_GOES_ON = r"(?=[,.;]|\s(?:in|is|was|has|who|and|from|at|called|reports|states|notified)\b)"
_TOLD = (
    r"(?=,?\s(?:is|was)\san?\s[\d+]+[- ]|,?\s(?:an?\s)?\d{1,3}[- ](?:year|yo|y/o)|\s\(\d{1,3}[,)])"
)


def _is_name(match: re.Match[str]) -> bool:
    return not _NO_NAME.intersection(re.findall(r"[A-Za-z]{2,}", match["x"]))


def _is_date(match: re.Match[str]) -> bool:
    first, second, year = int(match["a"]), int(match["b"]), int(match["y"])
    return is_day(year, first, second) or is_day(year, second, first)


def _is_named_day(match: re.Match[str]) -> bool:
    return is_day(int(match["y"]), MONTHS[match["m"].rstrip(".")], int(match["d"]))


def _is_own_hospital(match: re.Match[str]) -> bool:
    return any(word not in _TABLE["generic_hospital"].split() for word in match["n"].split())


RULES: tuple[Rule, ...] = (
    Rule("ssn", Category.ID_CARD, by_pattern(r"\d{3}(?<![\d-]\d{3})-\d{2}-\d{4}(?![\d-])", ("-",))),
    Rule(
        "phone_american",
        Category.PHONE,
        by_pattern(r"(?:\(\d{3}\) ?|(?<![\d.-])\d{3}[-.])\d{3}[-.]\d{4}(?![\d-])"),
    ),
    Rule(
        "record_number_english",
        Category.RECORD,
        by_pattern(
            rf"\b(?:{any_of(_TABLE['record_labels'])})\s*(?:[Nn]umber|[Nn]o\.?|ID|#)?\s*[:#]?\s*(?P<x>[A-Z]{{0,4}}-?\d[\dA-Z]*(?:-[\dA-Z]+)*)(?!\d|\.\d)",
            tuple(_TABLE["record_labels"]),
            lambda m: len(m["x"]) >= 4,
        ),
    ),
    Rule(
        "account_english",
        Category.ACCOUNT,
        by_pattern(
            r"\b[Aa]ccount\s*(?:[Nn]umber|[Nn]o\.?|#)?\s*[:#]\s*(?P<x>[\dA-Z-]{5,24}\d)",
            ("ccount",),
        ),
    ),
    Rule(
        "date_english",
        Category.DATE,
        by_pattern(
            rf"\b(?P<m>{_MONTH})\.?\s(?P<d>\d{{1,2}})(?:st|nd|rd|th)?,?\s(?P<y>(?:19|20)\d\d)(?!\d)",
            (),
            _is_named_day,
        ),
    ),
    Rule(
        "date_english_day_first",
        Category.DATE,
        by_pattern(
            rf"(?<!\d)(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\s(?P<m>{_MONTH})\.?,?\s(?P<y>(?:19|20)\d\d)(?!\d)",
            (),
            _is_named_day,
        ),
    ),
    Rule(
        "date_english_dashed",
        Category.DATE,
        by_pattern(
            rf"(?<!\d)(?P<d>\d{{1,2}})-(?P<m>{_MONTH})-(?P<y>(?:19|20)\d\d)(?!\d)",
            (),
            _is_named_day,
        ),
    ),
    Rule(
        "date_english_month",
        Category.DATE,
        by_pattern(rf"\b(?:{_MONTH})\.?,?\s(?:19|20)\d\d(?!\d)"),
    ),
    Rule(
        "date_year_last",
        Category.DATE,
        by_pattern(
            r"(?<![\d/.-])(?P<a>\d{1,2})(?P<s>[/-])(?P<b>\d{1,2})(?P=s)(?P<y>(?:19|20)\d\d)(?![\d/])",
            (),
            _is_date,
        ),
    ),
    Rule(
        "hospital_english",
        Category.HOSPITAL,
        by_pattern(
            r"(?P<x>(?P<n>(?:(?!The |At |In |From |To |A |Our |This )(?:St\.|[A-Z][A-Za-z'’.-]+)\s){1,4})"
            r"(?:General |Memorial |University |Children's )*"
            r"(?:Hospital|Medical Center|Medical Centre|Clinic|Health Center|Infirmary))\b",
            ("Hospital", "Medical Cent", "Clinic", "Health Center", "Infirmary"),
            _is_own_hospital,
        ),
    ),
    Rule(
        "address_english",
        Category.ADDRESS,
        by_pattern(
            rf"(?<![\d.])\d{{1,5}}\s(?:[A-Z][a-z]+\s){{1,3}}(?:{any_of(_TABLE['streets'])})\b\.?(?:,?\s(?:Apt|Apartment|Unit|Suite)\.?\s?\w+)?"
            r"(?:,\s[A-Z][a-z]+(?:\s[A-Z][a-z]+)?)?(?:,\s[A-Z]{2}\b)?(?:\s\d{5}(?:-\d{4})?)?",
            tuple(_TABLE["streets"]),
        ),
    ),
    Rule(
        "age_over_89_english",
        Category.AGE,
        by_pattern(
            r"(?<![\d.])(?P<x>9\d|1[0-3]\d)(?=(?:-|\s)(?:year|yr)s?(?:-|\s)old|\s?(?:y/o|yo)\b)",
            ("old", "y/o", "yo"),
        ),
    ),
    Rule(
        "age_over_89_english_labelled",
        Category.AGE,
        by_pattern(r"\b[Aa]ged?\s*:?\s*(?P<x>9\d|1[0-3]\d)(?![\d.%])", ("ge",)),
    ),
    Rule(
        "name_titled_english",
        Category.NAME,
        by_pattern(
            rf"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Professor)\.?\s(?P<x>{_ANY})",
            ("Mr", "Ms", "Miss", "Dr", "Prof"),
            _is_name,
        ),
    ),
    Rule(
        "name_last_first",
        Category.NAME,
        by_pattern(
            rf"\b(?:[Pp]atient|[Nn]ame|NAME|PATIENT)\s*[:：]\s*(?P<x>{_WORD},\s{_WORD}(?:\s[A-Z]\b)?)",
            ("ame", "AME", "atient", "ATIENT"),
            _is_name,
        ),
    ),
    Rule(
        "name_labelled_english",
        Category.NAME,
        by_pattern(rf"\b(?:{_SIGNED})\s*[:：]?\s*(?P<x>{_ANY})", tuple(_TABLE["signed"]), _is_name),
    ),
    Rule(
        "name_after_colon_english",
        Category.NAME,
        by_pattern(rf"(?:姓名|[Pp]atient)\s*[:：]\s*(?P<x>{_ANY})", ("姓名", "atient"), _is_name),
    ),
    Rule(
        "name_of_relative_english",
        Category.NAME,
        by_pattern(
            rf"\b(?:{_RELATIVE}),?\s(?:named\s)?(?P<x>{_FULL}|{_WORD}{_GOES_ON})",
            tuple(_TABLE["relatives"].split()),
            _is_name,
        ),
    ),
    Rule(
        "name_before_credentials",
        Category.NAME,
        by_pattern(
            rf"(?P<x>{_FULL})(?=,?\s(?:M\.?D|R\.?N|N\.?P|P\.?A|D\.?O|Ph\.?D|MBBS|DOB|MRN|LPN|BSN)\b|\s\([MF][/,]\d)",
            (),
            _is_name,
        ),
    ),
    Rule(
        "name_of_actor_english",
        Category.NAME,
        by_pattern(
            r"\b(?:(?:seen|evaluated|examined|accompanied|referred|treated|brought in) by|[Rr]esident|[Nn]urse|[Ii]ntern|[Pp]t\.?)"
            rf"\s(?P<x>{_FULL}|{_WORD}(?=\s[a-z]|[,;.]))",
            ("by", "with", "esident", "urse", "ntern", "t "),
            _is_name,
        ),
    ),
    Rule(
        "name_with_initial",
        Category.NAME,
        by_pattern(
            rf"\b(?:{_SIGNED}|Dr\.?)\s*[:：]?\s*(?P<x>(?:[A-Z]\.\s?){{1,2}}{_WORD})",
            (*_TABLE["signed"], "Dr"),
            _is_name,
        ),
    ),
    Rule(
        "insurance_english",
        Category.ID_CARD,
        by_pattern(
            r"\b(?:Insurance|Member|Policy|Passport|License|Medicare)\s*(?:ID|No\.?|Number|#)?\s*[:#]?\s*(?P<x>[A-Z]{0,4}-?\d[\dA-Z-]{4,})",
            ("nsurance", "ember", "olicy", "assport", "icense", "edicare"),
        ),
    ),
    Rule(
        "room_english",
        Category.BED,
        by_pattern(
            r"\b(?:Room|Bed|room|bed)\s#?(?P<x>\d{1,4}[A-Z]?(?:-[A-Z\d]{1,2})?)(?![\d%])(?=[.,;)\s]|$)",
            ("oom", "ed "),
        ),
    ),
    Rule(
        "home_english",
        Category.ADDRESS,
        by_pattern(
            rf"\b(?:lives?|living|resides?|residing|moved|(?i:originally))\b[^.;]{{0,30}}?\b(?:in|from|to)\s(?P<x>{_WORD}(?:\s{_WORD})?,\s(?:{_WORD}(?:\s{_WORD})?|[A-Z]{{2}}\b))",
            ("liv", "resid", "moved", "riginally"),
        ),
    ),
    Rule(
        "employer_english",
        Category.ADDRESS,
        by_pattern(
            rf"\b[Ww]ork(?:s|ed|ing)?\s(?:at|for)\s(?P<x>{_WORD}(?:\s{_WORD}){{0,3}})",
            ("ork",),
            _is_name,
        ),
    ),
    Rule(
        "name_of_patient_english",
        Category.NAME,
        by_pattern(rf"\b[Pp]atient,?\s(?P<x>{_FULL})(?=,|\s[a-z(])", ("atient",), _is_name),
    ),
    Rule(
        "name_before_age_english",
        Category.NAME,
        by_pattern(rf"(?<![A-Za-z] )(?P<x>{_FULL}){_TOLD}", (), _is_name),
    ),
)
