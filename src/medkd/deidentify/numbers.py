"""Rules for identifiers that are made of digits and letters: identity cards, phones, record numbers, dates, old ages.

In: a text. Out: spans, through `RULES` in the order in which they claim text. Not done here: names and places.
"""

import re
from datetime import date

from medkd.deidentify.rules import Category, Rule, any_of, by_pattern, load_table

_ID_WEIGHTS = [2**i % 11 for i in range(17, 0, -1)]

_RECORD_LABELS = any_of(load_table("numbers.yaml")["record_labels"].split())


def is_id_card(number: str) -> bool:
    """Tell whether 18 characters are a Chinese identity number with a valid check digit (GB 11643-1999)."""
    if not re.fullmatch(r"\d{17}[\dXx]", number):
        return False
    total = sum(int(digit) * weight for digit, weight in zip(number, _ID_WEIGHTS, strict=False))
    return "10X98765432"[total % 11] == number[-1].upper()


def is_day(year: int, month: int, day: int) -> bool:
    """Tell whether the calendar has this day."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _is_old_id_card(match: re.Match[str]) -> bool:
    number = match[0]
    return is_day(1900 + int(number[6:8]), int(number[8:10]), int(number[10:12]))


def _is_year(match: re.Match[str]) -> bool:
    return match["y"][:2] in {"19", "20"}


def _month(match: re.Match[str]) -> int:
    return 1 if match["m"] == "元" else int(match["m"])


def _is_full_date(match: re.Match[str]) -> bool:
    return _is_year(match) and is_day(int(match["y"]), _month(match), int(match["d"]))


def _is_month(match: re.Match[str]) -> bool:
    return _is_year(match) and 1 <= _month(match) <= 12


_YEAR = r"(?P<y>[12][09]\d\d)(?<![\d.]\d{4})"
"""Look-behinds stand after the first character of a pattern: so the engine can leap to candidates."""
_NO_DIGIT = r"(?!\d|\.\d)"
_NO_RECORD = r"(?<!型)(?<!批)(?<!信)(?<!符)(?<!文)(?<!字)(?<!挂)(?<!称)(?<!括)(?<!引)(?<!问)(?<!序)(?<!代)(?<!星)(?<!暗)(?<!逗)(?<!句)号"
"""Numbers of things that are not the patient's: of a model, a batch, an approval."""
_PARTS_OF_DAY = (
    "上午|下午|凌晨|清晨|早上|早晨|中午|晚上|晚间|夜间|傍晚|晨起|复查|出院|入院|转院|转入|手术|行|予|患者|患儿|再次|突发|突然|出现"
)

DATE_RULES: tuple[Rule, ...] = (
    Rule(
        "date_full",
        Category.DATE,
        by_pattern(_YEAR + r"\s*[-/.年]\s*(?P<m>\d{1,2}|元)\s*[-/.月]\s*(?P<d>\d{1,2})(?:[日号]|" + _NO_DIGIT + ")", (), _is_full_date),
    ),
    Rule(
        "date_short_year",
        Category.DATE,
        by_pattern(
            r"(?<![\d.])(?P<y>[0-3]\d|[89]\d)年(?P<m>\d{1,2})月(?P<d>\d{1,2})[日号]",
            ("年",),
            lambda m: is_day(2000, int(m["m"]), int(m["d"])),
        ),
    ),
    Rule(
        "date_in_words",
        Category.DATE,
        by_pattern(
            r"(?P<y>[一二][九〇零○O0][〇零○O0一二三四五六七八九]{2})年(?:(?P<m>[一二三四五六七八九十]{1,2})月(?:(?P<d>[一二三四五六七八九十]{1,3})[日号])?)?",
            ("年",),
        ),
    ),
    Rule("date_compact", Category.DATE, by_pattern(_YEAR + r"(?P<m>\d\d)(?P<d>\d\d)" + r"(?![\d.*×%^A-Za-z])", (), _is_full_date)),
    Rule("date_month", Category.DATE, by_pattern(_YEAR + r"\s*年\s*(?P<m>\d{1,2}|元)\s*月(?:份|初|底|末|[上中下]旬)?", ("年",), _is_month)),
    Rule("date_month_dashed", Category.DATE, by_pattern(_YEAR + r"[-/](?P<m>0?[1-9]|1[0-2])(?![\d./-]|[a-zA-Zμ%])", (), _is_year)),
    Rule("date_year", Category.DATE, by_pattern(_YEAR + r"\s*年(?![龄代版制修]|\s?(?:[Cc][Ss][Cc][Oo]|NCCN|ESC|AHA|ACC|ASCO|KDIGO|GOLD|GINA)|指南|标准|中国|美国|欧洲|国际|WHO)", ("年",), _is_year)),
    Rule(
        "date_without_year",
        Category.DATE,
        by_pattern(r"(?P<m>\d(?<!\d\d)\d?)\s*月\s*(?P<d>\d{1,2})[日号]", ("月",), lambda m: is_day(2020, int(m["m"]), int(m["d"]))),
    ),
    Rule(
        "date_dotted",
        Category.DATE,
        by_pattern(
            r"(?:(?<=^)|(?<=[\s，,。；;、（(于至到]))(?P<m>1[0-2]|0?[1-9])\.(?P<d>[0-3]?\d)(?=\s?(?:[日号]|早|晚|晨|上午|下午|中午|凌晨|夜|入院|出院|就诊|起病))",
            (".",),
            lambda m: is_day(2020, int(m["m"]), int(m["d"])),
        ),
    ),
    Rule(
        "date_dotted_again",
        Category.DATE,
        by_pattern(
            r"(?<=[，,。；;、（(于至到])(?P<m>1[0-2]|[1-9])\.(?P<d>[0-3]?\d)(?=复查|行|手术|再次|[出入转住]院)",
            (".",),
            lambda m: is_day(2020, int(m["m"]), int(m["d"])) and _has_date_before(m),
        ),
    ),
    Rule(
        "date_part_of_month",
        Category.DATE,
        by_pattern(r"(?P<m>\d(?<!\d\d)\d?)月(?:初|底|末|[上中下]旬)", ("月",), lambda m: 1 <= int(m["m"]) <= 12),
    ),
    Rule(
        "date_month_alone",
        Category.DATE,
        by_pattern(r"(?:[今去前同次当翌]年|年前的?)(?P<x>(?:1[0-2]|[1-9])月份?)(?![\d余后前内大以来龄])", ("年",)),
    ),
    Rule(
        "date_day_of_range",
        Category.DATE,
        by_pattern(r"(?<=[日号至到~～、-])(?P<x>\d{1,2}[日号])(?![后前内余间以])", ("日", "号"), lambda m: _follows_date(m)),
    ),
    Rule(
        "date_day",
        Category.DATE,
        by_pattern(rf"(?<=[，,。；;、于至])(?P<x>\d{{1,2}}日)(?=(?:{_PARTS_OF_DAY}))", ("日",), lambda m: _has_month_before(m)),
    ),
)


def _follows_date(match: re.Match[str]) -> bool:
    """Tell whether a day ends a range such as 9月12日至15日."""
    return re.search(r"月\d{1,2}[日号]?[至到~～、-]$", match.string[max(0, match.start() - 8) : match.start()]) is not None


def _has_date_before(match: re.Match[str]) -> bool:
    """Tell 10.28 the day from a value: only where a date has been named shortly before."""
    before = match.string[max(0, match.start() - 120) : match.start()]
    return (
        re.search(r"\d月\d|\d年\d|[12][09]\d\d[-./]\d|[，,。；;、（(于至到]\d{1,2}\.\d{1,2}(?:[日号早晚晨]|[上下]午|入院)", before)
        is not None
    )


def _has_month_before(match: re.Match[str]) -> bool:
    """Tell days of a month from numbers of days: only where a month has been named before."""
    return re.search(r"\d月\d{1,2}[日号]", match.string[max(0, match.start() - 2000) : match.start()]) is not None


RULES: tuple[Rule, ...] = (
    Rule(
        "web_address",
        Category.WEB,
        by_pattern(r"(?:https?://|www\.)[^\s，。；、）)】》\"'“”<>一-鿿]+", ("://", "www."), None, re.IGNORECASE),
    ),
    Rule(
        "web_domain",
        Category.WEB,
        by_pattern(
            r"(?<![A-Za-z0-9@.-])(?:[A-Za-z0-9-]{1,40}\.){1,3}(?:com|cn|org|net|edu|gov)(?![A-Za-z0-9@.-])(?:/[^\s，。；、）)】》\"'“”<>一-鿿]*)?",
            (".com", ".cn", ".org", ".net", ".edu", ".gov"),
        ),
    ),
    Rule(
        "email", Category.EMAIL, by_pattern(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.[A-Za-z]{2,}", ("@",))
    ),
    Rule("id_card", Category.ID_CARD, by_pattern(r"\d(?<![\dA-Za-z.]\d)\d{16}[\dXx](?![\dA-Za-z])", (), lambda m: is_id_card(m[0]))),
    Rule(
        "id_card_labelled",
        Category.ID_CARD,
        by_pattern(
            r"(?:身份证|身份|证件|护照|医保|社保|社会保障|医疗保险|军官证|士兵证|居住证|通行证|回乡证|台胞证|残疾证|老年证|新农合|农合|参合|医疗证|医疗卡)(?:医疗|号码|编号|卡号|证号|号|证|卡)*"
            r"[:：为是]?\s*(?:[一-鿿]字第?)?(?P<x>[A-Za-z]{0,3}\d[\dA-Za-z* -]{4,20}[\dA-Za-z])",
            ("证", "身份", "保", "护照", "合", "卡"),
        ),
    ),
    Rule("id_card_15", Category.ID_CARD, by_pattern(r"\d(?<![\dA-Za-z.]\d)\d{14}(?![\dA-Za-z.])", (), _is_old_id_card)),
    Rule(
        "account",
        Category.ACCOUNT,
        by_pattern(
            r"(?:微信|QQ|qq|支付宝|银行卡|银行账户|账号|帐号|账户|抖音|微博)(?:号码|卡号|号|账号)?"
            r"[:：为是]?\s*(?P<x>[A-Za-z0-9_][A-Za-z0-9_ -]{3,27}[A-Za-z0-9_])",
            ("微信", "QQ", "qq", "支付宝", "银行", "账", "帐", "抖音", "微博"),
        ),
    ),
    Rule("bank_card", Category.ACCOUNT, by_pattern(r"[3-9](?<![\d.A-Za-z-].)\d{3}(?:[ -]\d{4}){3}(?:[ -]?\d{1,3})?(?![\d.])")),
    Rule("bank_card_whole", Category.ACCOUNT, by_pattern(r"6(?<![\d.A-Za-z-].)2\d{14,17}(?![\dA-Za-z.])", ("62",))),
    Rule("mobile", Category.PHONE, by_pattern(r"1(?:(?<![\d.]1)|(?<=861))[3-9]\d(?:\d{8}|[-－ ]\d{4}[-－ ]\d{4})(?!\d|\.\d)")),
    Rule(
        "landline",
        Category.PHONE,
        by_pattern(r"[(（0](?<![\d.-].)(?:(?<=0)|0)\d{2,3}[-－—)） ]{1,2}[2-9]\d{2,3}[- ]?\d{4}(?:[-转]\d{1,5})?(?!\d)"),
    ),
    Rule("service_line", Category.PHONE, by_pattern(r"[48]00(?<![\d.-]\d{3})-\d{3,4}-\d{3,4}(?!\d)", ("00-",))),
    Rule(
        "phone_labelled",
        Category.PHONE,
        by_pattern(
            r"(?:电话|手机|联系方式|座机|传真|Tel|TEL|Phone|phone)(?:号码|号)?[:：为是.]?\s*(?P<x>\+?\d[\d -]{5,16}\d)",
            ("电话", "手机", "联系", "座机", "传真", "el", "EL", "hone"),
        ),
    ),
    Rule(
        "phone_listed",
        Category.PHONE,
        by_pattern(
            r"(?:电话|手机|联系方式)(?:号码|号)?[:：为是]?\s*[\d-]{7,14}(?:[（(][^（()）]{1,8}[）)])?\s*[、，,/或；;]\s*(?P<x>\d[\d-]{6,13}\d)(?![\d.])",
            ("电话", "手机", "联系"),
        ),
    ),
    Rule(
        "plate",
        Category.PLATE,
        by_pattern(
            r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]"
            r"[A-HJ-NP-Z][·• ]?[A-HJ-NP-Z0-9]{4,5}[A-HJ-NP-Z0-9挂学警港澳](?![A-Za-z0-9])"
        ),
    ),
    Rule(
        "record_number",
        Category.RECORD,
        by_pattern(
            rf"(?:{_RECORD_LABELS})(?:码)?\s*[:：为是#.]?\s*(?P<x>[A-Za-z]{{0,5}}[-—]?\d[\dA-Za-z/-]*)",
            ("号", "ID", "MRN"),
            lambda m: len(m["x"]) >= 3,
        ),
    ),
    Rule(
        "record_number_any",
        Category.RECORD,
        by_pattern(
            rf"[一-鿿A-Za-z](?:{_NO_RECORD}|条码|编码|单号)(?:码)?(?:\s*[:：#]\s*|(?<=号)[ 为是]?)(?P<x>(?![A-Za-z]*\d+\.)[A-Za-z]{{0,6}}[-—]?\d[\dA-Za-z/-]{{3,}})",
            ("号", "码"),
            lambda m: sum(character.isdecimal() for character in m["x"]) >= 4,
        ),
    ),
    Rule(
        "bed_labelled",
        Category.BED,
        by_pattern(
            r"床(?:(?:位)?号\s*[:：为是]?|位?[:：])\s*(?P<x>(?:[A-Za-z东西南北]{1,4}区?)?[-－]?\+?加?\d{1,4}(?:[-－]\d{1,3})?床?)", ("床",)
        ),
    ),
    Rule(
        "bed",
        Category.BED,
        by_pattern(r"(?P<x>(?:(?:加|\+)\d|\d(?<![\d.加+]\d))\d{0,2}(?:-\d{1,3})?床)(?![旁上边垫次日被褥单棉位])", ("床",)),
    ),
    Rule("long_number", Category.RECORD, by_pattern(r"\d(?<![\d.A-Za-z-]\d)\d{11,}(?![\d.]|[A-Za-z]|拷贝|[×*^])")),
    *DATE_RULES,
    Rule(
        "age_over_89",
        Category.AGE,
        by_pattern(
            r"(?P<n>[19](?<![\d.]\d)(?:\d|[0-3]\d))\s*(?<![≥≤>＞<＜]..)(?<![≥≤>＞<＜]...)(?:周岁|岁)(?:零?\d{1,2}个?月)?(?!以|及以|或以|者)",
            ("岁",),
            lambda m: int(m["n"]) >= 90,
        ),
    ),
    Rule("age_over_89_labelled", Category.AGE, by_pattern(r"年龄\s*[:：为是]?\s*(?P<x>9\d|1[0-3]\d)(?![\d.岁])", ("年龄",))),
    Rule(
        "age_over_89_in_words",
        Category.AGE,
        by_pattern(r"(?:九十[一二三四五六七八九]?|一百[零〇]?[一二三四五六七八九十]{0,2})(?:周岁|岁|高龄)", ("九十", "一百")),
    ),
)
