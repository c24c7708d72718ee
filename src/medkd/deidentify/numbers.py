"""Rules for identifiers that are made of digits and letters: identity cards, phones, record
numbers, old ages.

In: normalised text. Out: spans, through `RULES` and, behind dates, `AGE_RULES`, in the order in
which they claim text. Not done here: dates (`dates`), names and places.
"""

import re

from medkd.deidentify.dates import is_day
from medkd.deidentify.rules import Category, Rule, any_of, by_pattern, load_table, rules_of
from medkd.text.normalize import normalize

_ID_WEIGHTS = [2**i % 11 for i in range(17, 0, -1)]

_TABLE = load_table("numbers.yaml")
_RECORD_LABELS = any_of(_TABLE["record_labels"].split())
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


def _is_born(number: str) -> bool:
    """Tell whether an identity number with a wrong check digit names a region and a day of birth: a
    slip tells as much."""
    return (
        number[0] in "12345678"
        and number[6:8] in {"19", "20"}
        and is_day(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    )


def _is_old_id_card(match: re.Match[str]) -> bool:
    number = match[0]
    return is_day(1900 + int(number[6:8]), int(number[8:10]), int(number[10:12]))


_NO_RECORD = (
    "".join(f"(?<!{character})" for character in "型批信符文字挂称括引问序代星暗逗句") + "号"
)
"""Numbers of things that are not the patient's: of a model, a batch, an approval."""

RULES: tuple[Rule, ...] = (
    *rules_of(
        Category.WEB,
        web_address=by_pattern(
            r"(?i:https?://|www\.)(?:[^\s,。;、)】》\"'“”<>一-鿿]|[,;](?=[A-Za-z\d]))+",
            needs="://  www. WWW.",
        ),
        web_domain=by_pattern(
            r"(?<![A-Za-z0-9@.-])(?:[A-Za-z0-9-]{1,40}\.){1,3}(?:com|cn|org|net|edu"
            r"|gov)(?![A-Za-z0-9@.-])(?:/[^\s,。;、)】》\"'“”<>一-鿿]*)?",
            needs=".com .cn .org .net .edu .gov",
        ),
    ),
    *rules_of(
        Category.EMAIL,
        email=by_pattern(
            r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.[A-Za-z]{2,}",
            needs="@",
        ),
    ),
    *rules_of(
        Category.ID_CARD,
        id_card=by_pattern(
            r"\d(?<![\dA-Za-z.]\d)\d{16}[\dXx](?![\dA-Za-z])",
            lambda m: is_id_card(m[0]) or _is_born(m[0]),
        ),
        id_card_labelled=r"(?:身[份分]证|身份|证件|护照|医保|健保|社保|社会保障|医疗保险|军官证|士兵证"
        r"|警官证|护士证|执业证|学生证|工作证|居住证|通行证|回乡证|台胞证|残疾证|老年证|新农合|农合|参合|医疗证|医疗卡)(?:医疗"
        r"|号码|编号|[卡证]?号|证|卡){0,3}"
        r"[:为是]?\s*(?:[一-鿿]字第?)?"
        r"(?P<x>[A-Za-z]{0,3}\d[\dA-Za-z* -]{4,20}[\dA-Za-z](?:\s?\([\dA]\))?)",
        id_card_hong_kong=r"[A-Z](?<![A-Za-z\d].)[A-Z]?\d{6}\s?\([\dA]\)",
        id_card_taiwan=by_pattern(
            r"[A-Z](?<![A-Za-z\d-].)[1289]\d{8}(?![A-Za-z\d-])", lambda m: is_taiwan_id(m[0])
        ),
        id_card_15=by_pattern(r"\d(?<![\dA-Za-z.]\d)\d{14}(?![\dA-Za-z.])", _is_old_id_card),
    ),
    *rules_of(
        Category.ACCOUNT,
        account=r"(?:微信群?|QQ群?|qq群?|支付宝|银行卡|银行账户|账号|帐号|账户|抖音|微博)(?:号码"
        r"|卡号|号|账号)?"
        r"[吧:为是(]{0,2}\s*(?P<x>[A-Za-z0-9_][A-Za-z0-9_ -]{3,27}[A-Za-z0-9_])",
        account_at=r"@(?<![A-Za-z\d._-]@)(?=[^:,。;)(\s]{0,12}[A-Za-z\d_]|[一-鿿]{2,8}:)[A-Za-z\d_一-鿿-]{2,20}?(?=[:,。;)(\s]|留言|说|回复|提问|$)",
    ),
    *rules_of(
        Category.WEB,
        ip_address=by_pattern(
            r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])",
            lambda m: all(int(part) < 256 for part in m[0].split(".")) and len(m[0]) > 8,
        ),
    ),
    *rules_of(
        Category.PLATE,
        vin=by_pattern(
            r"(?<![A-Za-z\d])(?=[A-Z\d]{0,16}[A-Z])(?=[A-Z]{0,16}\d)[A-HJ-NPR-Z\d]{11,13}\d{4}(?![A-Za-z\d])",
            lambda m: len(m[0]) == 17,
        ),
    ),
    *rules_of(
        Category.ACCOUNT,
        bank_card=r"[3-9](?<![\d.A-Za-z-].)\d{3}(?:[ -]\d{4}){3}(?:[ -]?\d{1,3})?(?![\d.])",
        bank_card_whole=r"6(?<![\d.A-Za-z-].)2\d{14,17}(?![\dA-Za-z.])",
    ),
    *rules_of(
        Category.PHONE,
        mobile=r"(?:\+86[- ]?)?1(?:(?<![\d.]1)|(?<=861))[3-9]\d"
        r"(?:\d{8}|[- ]\d{4}[- ]\d{4})(?!\d|\.\d)",
        landline=r"[(0](?<![\d.-].)(?:(?<=0)"
        r"|0)\d{2,3}[-) ]{1,2}[2-9]\d{2,3}[- ]?\d{4}(?:[-转]\d{1,5})?(?!\d)",
        service_line=r"[48]00(?<![\d.-]\d{3})-\d{3,4}-\d{3,4}(?!\d)",
        phone_labelled=r"(?:电话|手机|联系方式|座机|传真|Tel|TEL|Phone|phone)(?:号码"
        r"|号)?[:为是.]?\s*(?P<x>\+?\d[\d -]{5,16}\d)",
        phone_inner=r"(?<=内线|分机|短号)\s?:?\s?\d{3,6}(?!\d)|(?<!\d)1[3-9]\d[*×xX]{4}\d{4}(?!\d)",
    ),
    *rules_of(
        Category.ID_CARD,
        id_card_tail=r"(?:身份证|证件)(?:号码?)?(?:尾号|后[四六]位)\s?[:为是]?\s?(?P<x>[\dXx]{3,6})",
    ),
    *rules_of(
        Category.PHONE,
        phone_listed=r"(?:电话|手机|联系方式)(?:号码"
        r"|号)?[:为是]?\s*[\d-]{7,14}(?:\([^()]{1,8}\))?\s*[、,/或;]\s*(?P<x>\d[\d-]{6,13}\d)(?![\d.])",
    ),
    *rules_of(
        Category.PLATE,
        plate=r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]"
        r"[A-HJ-NP-Z][·• ]?[A-HJ-NP-Z0-9]{4,5}[A-HJ-NP-Z0-9挂学警港澳](?![A-Za-z0-9])",
    ),
    *rules_of(
        Category.RECORD,
        record_number=by_pattern(
            rf"(?<![A-Za-z](?=[A-Za-z]))(?:{_RECORD_LABELS})(?:码)?\s*[:为是#.(]?\s*"
            r"(?P<x>(?:[A-Za-z]{1,5}[- ]){0,2}[A-Za-z]{0,5}-?\d[\dA-Za-z/-]*)",
            lambda m: len(m["x"]) >= 3,
            needs="号 ID MRN 卡 证 SN S/N",
        ),
        record_number_any=by_pattern(
            rf"[一-鿿A-Za-z](?:{_NO_RECORD}|条码|编码|单号)(?:码)?(?:\s*[:#]\s*|(?<=号)[ 为是]?)"
            r"(?P<x>(?![A-Za-z]*\d+\.)[A-Za-z]{0,6}-?\d[\dA-Za-z/-]{3,})",
            lambda m: sum(character.isdecimal() for character in m["x"]) >= 4,
            needs="号 码",
        ),
        record_number_of_specimen=r"(?:病理|标本|切片|样本|影像|条码)[^。;\n\d]{0,8}?(?P<x>(?<![A-Za-z])[A-Z]{0,3}\d{2,4}-\d{4,6}"
        r"|[A-Z]{1,3}\d{5,}(?:-\d{1,5})?)(?![\d-])",
        code=r"[A-Z](?<![A-Za-z\d_-].)(?<!准字.)(?!CT\d{8})[A-Z]{0,3}\d{6,14}(?:-\d{1,6}|[A-Z])?(?![A-Za-z\d])",
    ),
    *rules_of(
        Category.BED,
        bed_labelled=r"床(?:(?:位)?号\s*[:为是]?"
        r"|位?:)\s*(?P<x>(?:[A-Za-z东西南北]{1,4}区?)?-?\+?加?\d{1,4}(?:-\d{1,3})?床?)",
        bed=r"(?P<x>(?:(?:加|\+)\d"
        r"|\d(?<![\d.加+]\d))\d{0,2}(?:-\d{1,3})?床)(?![旁上边垫次日被褥单棉位])",
    ),
    *rules_of(
        Category.RECORD,
        long_number=r"\d(?<![\d.A-Za-z-]\d)\d{11,}(?![\d.]|[A-Za-z]|拷贝|[×*^])",
    ),
)

_OVER_89 = r"(?:9(?<![\d.]9)\d|1(?<![\d.]1)[0-3]\d)(?!\d)"
_OVER_89_IN_WORDS = (
    "(?:九十(?:有?[一二三四五六七八九])?"
    "|一百(?:零?[一二三四五六七八九]|[一二三]?十[一二三四五六七八九]?)?)"
)
_AGE_BEFORE = re.compile(
    r"(?:(?:年龄|[虚实周]岁|现年|享年|终年|时年|高寿|年届|年逾|年近|年过)\s?[:为是约]?"
    r"|[男女]性?\s?[,/|、]?|(?<![A-Za-z])(?:[Ff]emale|[Mm]ale)\s?[,/|]?|(?<![A-Za-z])[MF]\s?[,/|]"
    r"|\b(?:[Aa]ged?|AGE)(?:\sof)?\s?:?)\s?$",
    re.ASCII,
)
_AGE_AFTER = re.compile(
    r"\s?[,/|、]?\s?[男女](?![A-Za-z\d])|\s?[,/|]\s?[MF](?![A-Za-z\d])|[-\s]{1,2}(?:fe)?male\b"
    r"|[-\s]?(?:[Yy](?:/?[Oo]|\.\s?[Oo]\.?|rs?)?(?![A-Za-z\d])"
    r"|(?:YO|Y/O|[Yy]ears?|yrs?)[-\s]{1,2}(?:old|of\sage))",
    re.ASCII,
)
_GLUED_TO_SEX = re.compile(r"\s?[MF](?![A-Za-z\d])")
_PERSON_BEFORE = re.compile(r"(?:\b(?:[Aa]n?|[Tt]he|[Pp]t|[Pp]atient)\s|\()$", re.ASCII)
_OTHER_UNIT = re.compile(
    r"\s?(?:[.%/~-]\s?[\da-zA-Z%]|%|[A-Za-zμ°×]|次|分|天|日|月|年|个|床|号|公|毫|厘|千|克|多次)"
)
_ISOTOPE = re.compile(r"Y[-\s]?(?:[A-Z]|微球|树脂|玻璃|标记|resin|glass|micro)")
"""Yttrium-90 is written like an age."""


def _is_age_in_context(match: re.Match[str]) -> bool:
    """Tell an age from another number by what stands on its sides: a label, a sex, years."""
    text, (start, end) = match.string, match.span()
    before, after = text[max(0, start - 12) : start], text[end : end + 16]
    if _AGE_AFTER.match(after):
        return not _ISOTOPE.match(after) and not re.search(r"[A-Za-z^]$", before)
    if _AGE_BEFORE.search(before):
        return not _OTHER_UNIT.match(after)
    return bool(_GLUED_TO_SEX.match(after) and _PERSON_BEFORE.search(before))


AGE_RULES: tuple[Rule, ...] = (
    *rules_of(
        Category.AGE,
        age_over_89=rf"{_OVER_89}(?<![≥≤><]\d\d)(?<![≥≤><]\d\d\d)(?<![≥≤><]\s\d\d)(?<![≥≤><]\s\d\d\d)"
        r"(?:\s{0,2}[-~至到、]\s{0,2}(?:9\d|1[0-3]\d))?"
        r"\s{0,2}[余多来几]?\s?(?:周岁|岁)(?:零?\d{1,2}个?月)?(?!以|及以|或以|者)",
        age_over_89_in_context=by_pattern(_OVER_89, _is_age_in_context),
        age_over_89_in_words=rf"{_OVER_89_IN_WORDS}[余多来几]?(?:周岁|岁|高龄)(?!以|及以|或以|者)|九旬"
        rf"|期颐(?=之年|老人)"
        r"|九十有[一二三四五六七八九]|百(?<![一二三四五六七八九几长命]百)岁(?=老|高龄|寿"
        r"|[,。;、]|$)",
        age_over_89_in_words_labelled=by_pattern(
            r"(?:年龄|[虚实周]岁|现年|享年|终年|时年|高寿|年届|年逾|年近|年过)\s?[:为是约]?\s?"
            rf"(?P<x>{_OVER_89_IN_WORDS}余?)(?![一二三四五六七八九十旬])",
            needs="九十 一百",
        ),
        age_over_89_spelled=r"\b(?:[Nn]inety|[Oo]ne[-\s]hundred)"
        r"(?:(?:[-\s]|\sand\s)(?:one|two|three|four|five|six|seven|eight|nine|ten))?"
        r"(?=[-\s](?:years?|yrs?)[-\s](?:old|of\sage))|\b(?:[Nn]onagenarian|[Cc]entenarian)",
    ),
)
