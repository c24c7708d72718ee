"""Rules for English clinical text: names, numbers and places as they are written there.

In: normalised text. Out: spans, through `RULES`. Not done here: names without any context; dates,
ages, mail and web addresses, which `dates` and `numbers` find in any language. Eponyms (Parkinson
disease) have no context of a person and stay.
"""

import re

from medkd.deidentify.rules import Category, Rule, any_of, by_pattern, load_table

_TABLE = load_table("english.yaml")
_NO_NAME = frozenset(_TABLE["no_name"].split())
_RELATIVE = any_of(_TABLE["relatives"].split())
_SIGNED = any_of(_TABLE["signed"])
_WORD = r"(?:[A-Z]['’][A-Z][a-z]+|(?:Mc|Mac|De|La|Van|Von)?[A-Z][a-z]+(?:[-'’][A-Z][a-z]+)?)"
_FULL = rf"{_WORD}(?:\s[A-Z]\.)?(?:\s{_WORD}){{1,2}}"
_ANY = rf"{_WORD}(?:\s[A-Z]\.)?(?:\s{_WORD}){{0,2}}"
_TWO_WORDS = re.compile(r"[A-Z][A-Za-z'’-]{1,30}\s[A-Z]")
_GOES_ON = r"(?=[,.;]|\s(?:in|is|was|has|who|and|from|at|called|reports|states|notified)\b)"
_TOLD = (
    r"(?=,?\s(?:is|was)\san?\s[\d+]+[- ]|,?\s(?:an?\s)?\d{1,3}[- ](?:year|yo|y/o)|\s\(\d{1,3}[,)])"
)


def _is_name(match: re.Match[str]) -> bool:
    return not _NO_NAME.intersection(re.findall(r"[A-Za-z]{2,}", match["x"]))


def _is_own_hospital(match: re.Match[str]) -> bool:
    return any(word not in _TABLE["generic_hospital"].split() for word in match["n"].split())


RULES: tuple[Rule, ...] = (
    Rule("ssn", Category.ID_CARD, by_pattern(r"\d{3}(?<![\d-]\d{3})-\d{2}-\d{4}(?![\d-])", ("-",))),
    Rule(
        "phone_american",
        Category.PHONE,
        by_pattern(
            r"[(\d](?<![\d.-]\d)(?:(?<=\()\d{3}\) ?|(?<=\d)\d\d[-.])\d{3}[-.]\d{4}(?![\d-])"
        ),
    ),
    Rule(
        "record_number_english",
        Category.RECORD,
        by_pattern(
            rf"\b(?:{any_of(_TABLE['record_labels'])})\s*(?:[Nn]umber|[Nn]o\.?|ID"
            rf"|#)?\s*[:#]?\s*(?P<x>[A-Z]{{0,4}}-?\d[\dA-Z]*(?:-[\dA-Z]+)*)(?!\d|\.\d)",
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
        "hospital_english",
        Category.HOSPITAL,
        by_pattern(
            r"(?P<x>(?P<n>(?:(?!The |At |In |From |To |A |Our |This )(?:St\."
            r"|[A-Z][A-Za-z'’.-]{1,30})\s){1,4})"
            r"(?:General |Memorial |University |Children's ){0,3}"
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
            rf"\b(?:[Pp]atient|[Nn]ame|NAME|PATIENT)\s*:\s*(?P<x>{_WORD},\s{_WORD}(?:\s[A-Z]\b)?)",
            ("ame", "AME", "atient", "ATIENT"),
            _is_name,
        ),
    ),
    Rule(
        "name_labelled_english",
        Category.NAME,
        by_pattern(rf"\b(?:{_SIGNED})\s*:?\s*(?P<x>{_ANY})", tuple(_TABLE["signed"]), _is_name),
    ),
    Rule(
        "name_after_colon_english",
        Category.NAME,
        by_pattern(rf"(?:姓名|[Pp]atient)\s*:\s*(?P<x>{_ANY})", ("姓名", "atient"), _is_name),
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
            rf"(?P<x>{_FULL})(?=,?\s(?:M\.?D|R\.?N|N\.?P|P\.?A|D\.?O|Ph\.?D|MBBS|DOB|MRN|LPN"
            rf"|BSN)\b|\s\([MF][/,]\d)",
            _TWO_WORDS,
            _is_name,
        ),
    ),
    Rule(
        "name_of_actor_english",
        Category.NAME,
        by_pattern(
            r"\b(?:(?:seen|evaluated|examined|accompanied|referred|treated|brought in) by"
            r"|[Rr]esident|[Nn]urse|[Ii]ntern|[Pp]t\.?)"
            rf"\s(?P<x>{_FULL}|{_WORD}(?=\s[a-z]|[,;.]))",
            ("by", "with", "esident", "urse", "ntern", "t "),
            _is_name,
        ),
    ),
    Rule(
        "name_with_initial",
        Category.NAME,
        by_pattern(
            rf"\b(?:{_SIGNED}|Dr\.?)\s*:?\s*(?P<x>(?:[A-Z]\.\s?){{1,2}}{_WORD})",
            (*_TABLE["signed"], "Dr"),
            _is_name,
        ),
    ),
    Rule(
        "insurance_english",
        Category.ID_CARD,
        by_pattern(
            r"\b(?:Insurance|Member|Policy|Passport|License|Medicare)\s*(?:ID|No\.?|Number"
            r"|#)?\s*[:#]?\s*(?P<x>[A-Z]{0,4}-?\d[\dA-Z-]{4,})",
            ("nsurance", "ember", "olicy", "assport", "icense", "edicare"),
        ),
    ),
    Rule(
        "room_english",
        Category.BED,
        by_pattern(
            r"\b(?:Room|Bed|room"
            r"|bed)\s#?(?P<x>\d{1,4}[A-Z]?(?:-[A-Z\d]{1,2})?)(?![\d%])(?=[.,;)\s]|$)",
            ("oom", "ed "),
        ),
    ),
    Rule(
        "home_english",
        Category.ADDRESS,
        by_pattern(
            rf"\b(?:lives?|living|resides?|residing|moved"
            rf"|(?i:originally))\b[^.;]{{0,30}}?\b(?:in|from"
            rf"|to)\s(?P<x>{_WORD}(?:\s{_WORD})?,\s(?:{_WORD}(?:\s{_WORD})?|[A-Z]{{2}}\b))",
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
        by_pattern(rf"(?<![A-Za-z] )(?P<x>{_FULL}){_TOLD}", _TWO_WORDS, _is_name),
    ),
)
