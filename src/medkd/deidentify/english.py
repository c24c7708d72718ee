"""Rules for English clinical text: labelled numbers, places, and names that a label, a title or a
relation announces.

In: normalised text. Out: spans, through `RULES`. Not done here: names without such a sign, which
are a tagger's (`tagger`); dates and ages, which `dates` and `numbers` find in any language.
"""

import re

from medkd.deidentify.rules import Category, Rule, any_of, by_pattern, load_table, rules_of

_TABLE = load_table("english.yaml")
_NO_NAME = frozenset(_TABLE["no_name"].split())
_RELATIVES = [way for word in _TABLE["relatives"].split() for way in (word, word.capitalize())]
_RELATIVE = any_of(_RELATIVES)
_SIGNED = any_of(_TABLE["signed"])
_STREET = any_of(_TABLE["streets"])
_PARTICLE = r"(?:Mc|Mac|(?:[Dd]e(?:\sla)?|[Vv]an(?:\s[Dd]e[rn])?|[Vv]on)\s|De|La|Van|Von)"
_WORD = rf"(?:[A-Z]['’][A-Z][a-z]+|{_PARTICLE}?[A-Z][a-z]+(?:[-'’][A-Z][a-z]+)?)"
_FULL = rf"{_WORD}(?:\s[A-Z]\.?)?(?:\s{_WORD}){{1,2}}"
_ANY = rf"{_WORD}(?:\s[A-Z]\.)?(?:\s{_WORD}){{0,2}}"
_LAST_FIRST = rf"{_WORD},\s{_WORD}(?:\s[A-Z]\b\.?)?"
_INITIALS = rf"(?:[A-Z]\.\s?){{1,2}}{_WORD}"
_TWO_WORDS = re.compile(r"[A-Z][A-Za-z'’-]{1,30}\s[A-Z]")
_PARTICULARS = (
    r"(?=,?\s(?:is|was)\san?\s[\d+]+[- ]|,?\s(?:an?\s)?\d{1,3}[- ]?(?:year|yo\b|y/o|[MF]\b)"
    r"|\s\(\d{1,3}\s?[,)MFmfy]|\s\([MF][/,]\d|,\s(?:fe)?male\b)"
)


def _is_name(match: re.Match[str]) -> bool:
    return not _NO_NAME.intersection(re.findall(r"[A-Za-z]{2,}", match["x"]))


def is_plausible_name(words: str) -> bool:
    """Tell whether words read as an English personal name.

    >>> is_plausible_name("Desmond Lee"), is_plausible_name("Chest Pain")
    (True, False)
    """
    return re.fullmatch(
        rf"{_WORD}|{_FULL}|{_INITIALS}|{_LAST_FIRST}", words
    ) is not None and not _NO_NAME.intersection(re.findall(r"[A-Za-z]{2,}", words))


def _is_own_hospital(match: re.Match[str]) -> bool:
    return any(word not in _TABLE["generic_hospital"].split() for word in match["n"].split())


def _spelt(words: list[str]) -> list[str]:
    """List the ways in which labels are spelt: mrn, Mrn, MRN; medical record, Medical Record."""
    return sorted(
        {way for word in words for way in (word, word.capitalize(), word.title(), word.upper())}
    )


def _labelled_number(category: Category, labels: list[str]) -> tuple[Rule, ...]:
    """Find the numbers behind a label: MRN 55-8821, driver license: S514-7739."""
    spelt = any_of(_spelt(labels))
    form = by_pattern(
        rf"(?<![A-Za-z])(?:{spelt})(?:[ -]?(?i:number|no\.?|num|id|code|\#)){{0,2}}"
        r"\s?[:#]?\s?(?P<x>(?=[A-Z-]*\d)[A-Z\d][A-Z\d-]{2,24})(?![A-Za-z\d%/]|\.\d"
        r"|\s?(?:mg|ml|mm|cm|kg|years?|days?|weeks?|patients|cases))",
        lambda m: sum(character.isdecimal() for character in m["x"]) >= 3,
        needs=re.compile(spelt),
    )
    return rules_of(category, **{f"{category.name.lower()}_english": form})


RULES: tuple[Rule, ...] = (
    *rules_of(
        Category.ID_CARD,
        ssn=r"\d{3}(?<![\d-]\d{3})-\d{2}-\d{4}(?![\d-])",
    ),
    *rules_of(
        Category.PHONE,
        phone_american=r"[(\d](?<![\d.-]\d)(?:(?<=\()\d{3}\) ?|(?<=\d)\d\d[-. ])\d{3}[-.]\d{4}"
        r"(?:\s?(?:x|ext\.?)\s?\d{1,5})?(?![\d-])"
        r"|(?<=[a-z:] )\d{3}-\d{4}(?=\s?\((?:cell|home|work|mobile)\))",
    ),
    *(
        rule
        for kind, labels in _TABLE["numbers"].items()
        for rule in _labelled_number(Category[kind], labels)
    ),
    *rules_of(
        Category.HOSPITAL,
        hospital_english=by_pattern(
            r"(?P<x>(?P<n>(?:(?!The |At |In |From |To |A |Our |This )(?:St\."
            r"|[A-Z][A-Za-z'’.-]{1,30})\s){1,4})"
            r"(?:General |Memorial |University |Children's ){0,3}"
            r"(?:Hospital|Medical Center|Medical Centre|Clinic|Health Center|Infirmary|Nursing Home"
            r"|Rehab|Hospice|Health System))\b",
            _is_own_hospital,
            needs="Hosp Medical Clinic Health Infirmary Nursing Rehab",
        ),
    ),
    *rules_of(
        Category.ADDRESS,
        address_english=rf"(?<![\d.])\d{{1,5}}\s(?:[A-Z][a-z]+\s){{1,3}}(?:{_STREET})\b\.?"
        r"(?:,?\s(?:Apt|Apartment|Unit|Suite|Lot|\#)\.?\s?\w+)?(?:,\s[A-Z][a-z]+"
        r"(?:\s[A-Z][a-z]+)?)?(?:,?\s[A-Z]{2}\b)?(?:,?\s\d{5}(?:-\d{4})?)?"
        r"|\b(?:Exit|Rt\.?|Route|Hwy\.?|Highway|Interstate)\s\d{1,4}"
        r"(?:\s(?:on|off|at)\s(?:Rt\.?|Route|Hwy\.?|Highway|Interstate)\s?\d{1,4})?"
        r"|\b(?:P\.?O\.?\s)Box\s\d+|(?<=\bat\s)\d{1,5}\s[A-Z][a-z]{3,}(?=\s[a-z]|[.,;])",
        home_english=rf"\b(?:lives?|living|resides?|residing|moved|(?i:originally))\b[^.;]{{0,30}}?"
        rf"\b(?:in|from|to)\s(?P<x>{_WORD}(?:\s{_WORD})?,\s(?:{_WORD}(?:\s{_WORD})?|[A-Z]{{2}}\b))",
        employer_english=rf"\b(?:(?P<works>[Ww]ork(?:s|ed|ing)?\s)(?:at|for)|at|from|for|by)\s"
        rf"(?P<x>(?:{_WORD}\s){{1,4}}(?:{any_of(_TABLE['employers'])})\b|(?(works){_ANY}|(?!)))",
    ),
    *rules_of(
        Category.WARD,
        ward_english=r"\b[UuWwFf](?:nit|ard|loor)\s?:?\s?(?P<x>\d{1,2}\s?(?:West|East|North|South|[A-Z]\b))",
    ),
    *rules_of(
        Category.BED,
        room_english=r"\b(?:Room|Bed|Rm|room|bed)\s?[#:]?\s?(?P<x>\d{1,4}[A-Z]?(?:-[A-Z\d]{1,2})?)(?![\d%])(?=[.,;)\s]|$)",
    ),
    *rules_of(
        Category.NAME,
        name_titled_english=by_pattern(
            rf"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Professor|Sr|Rev)(?:\.\s?|\s)(?P<x>{_INITIALS}|{_ANY})",
            _is_name,
        ),
        name_labelled_english=by_pattern(
            rf"\b(?:(?:{_SIGNED}|NAME|PATIENT|姓名)\s?:|(?:{_SIGNED}))\s?"
            rf"(?P<x>{_LAST_FIRST}|{_INITIALS}|{_ANY})",
            _is_name,
        ),
        name_of_relative_english=by_pattern(
            rf"\b(?:{_RELATIVE}),?\s(?:named\s|\()?(?P<x>{_FULL}|{_WORD})(?=[\s,.;)']|$)", _is_name
        ),
        name_before_credentials=by_pattern(
            rf"(?P<x>{_LAST_FIRST}|{_FULL}|{_INITIALS})(?=,?\s(?:M\.?D|R\.?N|N\.?P|P\.?A|D\.?O|Ph\.?D"
            r"|MBBS|DOB|MRN|LPN|BSN|PharmD|LCSW|CRNA)\b)",
            _is_name,
            needs=_TWO_WORDS,
        ),
        name_of_actor_english=by_pattern(
            r"\b(?:(?:seen|evaluated|examined|accompanied|referred|treated|brought in|reported|read"
            r"|obtained|performed|assisted|interpreted|witnessed|notified) by"
            r"|[Rr]esident|[Nn]urse|[Ii]ntern|[Pp]t\.?|[Pp]atient,?|[Ll]abell?ed|[Dd]iscussed with"
            r"|w/|[Pp]er)"
            rf"\s\"?(?P<x>{_FULL}|{_INITIALS}"
            rf"|{_WORD}(?=\s(?:notes?|on|at|in|who|and|[a-z]+ed|has|had|is|was)\b|'s|\s\(|[,;.]))",
            _is_name,
        ),
        name_of_baby=rf"\bBaby\s(?:Girl|Boy)\s{_WORD}",
        name_before_particulars_english=by_pattern(
            rf"(?<![A-Za-z] )(?P<x>{_FULL}){_PARTICULARS}", _is_name, needs=_TWO_WORDS
        ),
    ),
)
