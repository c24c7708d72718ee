"""Rules for calendar dates, Chinese and English: whole ones, ranges, and those that name no year.

In: normalised text. Out: spans, through `RULES` in the order in which they claim text.
Not done here: moving a date (`date_shift`). Days that no calendar has are found too.
"""

import re
from collections.abc import Callable, Iterator
from datetime import date

from medkd.deidentify.rules import (
    Category,
    Rule,
    any_of,
    holds,
    load_table,
    pattern_rule,
)

_TABLE = load_table("dates.yaml")
MONTHS = {name: number for number, names in enumerate(_TABLE["months"], start=1) for name in names}
LONG_MONTHS = [names[0] for names in _TABLE["months"]]
_MONTH = any_of(MONTHS)
_NAMES = tuple(name[:3] for name in LONG_MONTHS)
_ORDINAL = "(?:st|nd|rd|th)?"
_TO = r"\s{0,3}(?:-{1,2}|~|至|到|\.{3,6})\s{0,3}"
"""Between the two ends of a range."""
_AND = rf"(?:{_TO}|\s{{0,3}}[、,及和与或]\s{{0,3}})"
_YEAR = r"(?P<y>[12][09]\d\d)(?<!\d\d{4})"
"""Look-behinds stand after the first character of a pattern: so the engine can leap to
candidates."""
_NO_DIGIT = r"(?!(?!\d\d:\d\d)\d|\.\d)"
"""A time of day may be glued to a date."""
NUMERAL = "[一二三四五六七八九十]"
_AFTER_MARK = r"(?:(?<=^.)|(?<=[\s,。;、(于至到].))"
_NO_DURATION = "(?![后前内余间以])"
_PARTS_OF_DAY = any_of(_TABLE["parts_of_day"].split())
_EVENTS = any_of(_TABLE["events"].split())
_TOLD = "[发退出开起又再转输检化去到在来回做查因突服停拔拆晚早上下中夜凌住复入]"
_FESTIVALS = "|".join(_TABLE["festivals"])
_NO_DAY = any_of(_TABLE["numbered_things"].split())


def is_day(year: int, month: int, day: int) -> bool:
    """Tell whether the calendar has this day."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _is_year(match: re.Match[str]) -> bool:
    return match["y"][:2] in {"19", "20"}


def _could_be_day(match: re.Match[str]) -> bool:
    """Accept every day up to the 31st of every month: a slip tells as much as the day itself."""
    return 1 <= int(match["m"]) <= 12 and 1 <= int(match["d"]) <= 31


_DATE_LABEL = re.compile(
    r"(?:日期|时间|出生|生日|生于|死于|[Dd]ate|DOB|D\.O\.B\.?)[^一-鿿\d]{0,3}$"
)


def _is_full_date(match: re.Match[str]) -> bool:
    """Accept a day that the calendar has; one that it has not only where it is written as a day."""
    if not _is_year(match):
        return False
    month, day = (1 if match["m"] == "元" else int(match["m"])), int(match["d"])
    if is_day(int(match["y"]), month, day) or "年" in match[0]:
        return True
    return match["s"] == match["t"]


def _is_compact_date(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - 8) : match.start()]
    return _is_year(match) and (_could_be_day(match) or _DATE_LABEL.search(before) is not None)


def _is_dotted_day(match: re.Match[str]) -> bool:
    """Tell 2.29入院 from 2.30晚, which is a time of day."""
    return is_day(2020, int(match["m"]), int(match["d"])) or (
        _could_be_day(match) and match.string.startswith(("日", "号", "入院", "出院"), match.end())
    )


def _is_clause_day(match: re.Match[str]) -> bool:
    """Tell 6.18复查 from a value and from a numbered item: a range, or two digits for the day."""
    month, day = match["x"].split(".")
    return is_day(2020, int(month), int(day))


_DATE_SEEN = re.compile(
    r"\d月[\d上中下初底末]|\d年\d|[12][09]\d\d[-./]\d"
    r"|[,。;、(于至到]\d{1,2}\.\d{1,2}(?:[日号早晚晨]|[上下]午|入院)"
)
_MONTH_SEEN = re.compile(r"\d月\d{1,2}[日号]")


def _has_date_before(match: re.Match[str]) -> bool:
    """Tell 10.28 the day from a value: only where a date has been named shortly before."""
    before = match.string[max(0, match.start() - 120) : match.start()]
    return _could_be_day(match) and _DATE_SEEN.search(before) is not None


def _has_month_before(match: re.Match[str]) -> bool:
    """Tell days of a month from numbers of days: only where a month has been named before."""
    before = match.string[max(0, match.start() - 2000) : match.start()]
    return _MONTH_SEEN.search(before) is not None


def _by_pieces(
    pattern: str, piece: str, needs: tuple[str, ...] | re.Pattern[str] = (), least: int = 1
) -> Callable[[str], Iterator[tuple[int, int]]]:
    """Find the dates of a range or list: what stands before group `tail`, each piece in it."""
    whole, part = re.compile(pattern), re.compile(piece)

    def spans(text: str) -> Iterator[tuple[int, int]]:
        if needs and not holds(text, needs):
            return
        for match in whole.finditer(text):
            pieces = [found.span() for found in part.finditer(text, *match.span("tail"))]
            if all(least <= _last_number(text[a:b]) <= 31 for a, b in pieces):
                yield match.start(), match.start("tail")
                yield from pieces

    return spans


def _last_number(text: str) -> int:
    numbers = re.findall(r"\d+", text)
    return int(numbers[-1]) if numbers else 1


_RANGES: tuple[Rule, ...] = (
    Rule(
        "date_range_of_days",
        Category.DATE,
        _by_pieces(
            r"(?:(?:19|20)\d\d\s*年\s*)?\d(?<!\d\d)\d?\s*月\s*\d{1,2}[日号]?"
            rf"(?P<tail>(?:{_AND}\d{{1,2}}[日号]?){{1,5}})(?<=[日号]){_NO_DURATION}",
            r"\d{1,2}[日号]?",
            ("月",),
        ),
    ),
    Rule(
        "date_range_of_months",
        Category.DATE,
        _by_pieces(
            rf"(?:19|20)\d\d(?<!\d\d{{4}})\s*年\s*\d{{1,2}}\s*(?:月份?)?"
            rf"(?P<tail>(?:{_AND}\d{{1,2}}(?:月份?)?){{1,5}})(?<=[月份])(?![\d余龄])",
            r"\d{1,2}(?:月份?)?",
            ("月",),
        ),
    ),
    pattern_rule(
        "date_range_of_years",
        Category.DATE,
        rf"(?:19|20)\d\d(?<![\d.]\d{{4}})(?={_AND}(?:19|20)\d\d\s*年)",
        ("年",),
    ),
    Rule(
        "date_range_without_month",
        Category.DATE,
        _by_pieces(
            rf"\d(?<![\d.第月]\d)\d?[日号](?P<tail>{_TO}\d{{1,2}}[日号])"
            rf"{_NO_DURATION}(?!{_NO_DAY})",
            r"\d{1,2}[日号]",
            ("日", "号"),
        ),
    ),
    Rule(
        "date_range_dotted",
        Category.DATE,
        _by_pieces(
            rf"{_YEAR}(?P<s>[/.])\d{{1,2}}(?P=s)\d{{1,2}}(?P<tail>\s*(?:-|~|至|到)\s*"
            r"(?:\d{1,2}(?P=s))?\d{1,2})(?![\d./-]|\s?[%a-zA-Zμ])",
            r"(?:\d{1,2}[/.])?\d{1,2}",
            least=0,
        ),
    ),
    Rule(
        "date_range_in_words",
        Category.DATE,
        _by_pieces(
            rf"(?:[一二][九〇零○O0][〇零○O0一二三四五六七八九]{{2}}年)?{NUMERAL}{{1,2}}月"
            rf"{NUMERAL}{{1,3}}[日号]?(?P<tail>{_AND}{NUMERAL}{{1,3}}[日号])",
            rf"{NUMERAL}{{1,3}}[日号]",
            re.compile(rf"{NUMERAL}月"),
        ),
    ),
    pattern_rule(
        "date_range_english",
        Category.DATE,
        rf"\b(?:{_MONTH})\.?\s\d{{1,2}}{_ORDINAL}\s?(?:-|to|through|and"
        rf"|&)\s?\d{{1,2}}{_ORDINAL}"
        r"(?:,?\s(?:19|20)\d\d)?(?!\d)"
        rf"|(?<!\d)\d{{1,2}}{_ORDINAL}\s?(?:-|to|through|and|&)\s?\d{{1,2}}{_ORDINAL}\s"
        rf"(?:{_MONTH})\b\.?(?:,?\s(?:19|20)\d\d)?(?!\d)",
        _NAMES,
    ),
)
_ENGLISH: tuple[Rule, ...] = (
    pattern_rule(
        "date_english",
        Category.DATE,
        rf"\b(?:{_MONTH})\.?\s\d{{1,2}}{_ORDINAL},?\s(?:19|20)\d\d(?!\d)",
        _NAMES,
    ),
    pattern_rule(
        "date_english_day_first",
        Category.DATE,
        rf"(?<!\d)\d{{1,2}}{_ORDINAL}\s(?:{_MONTH})\.?,?\s(?:19|20)\d\d(?!\d)",
        _NAMES,
    ),
    pattern_rule(
        "date_english_dashed",
        Category.DATE,
        rf"(?<!\d)\d{{1,2}}-(?:{_MONTH})-(?:19|20)\d\d(?!\d)",
        _NAMES,
    ),
    pattern_rule(
        "date_english_month", Category.DATE, rf"\b(?:{_MONTH})\.?,?\s(?:19|20)\d\d(?!\d)", _NAMES
    ),
    pattern_rule(
        "date_year_last",
        Category.DATE,
        r"(?<![\d/.-])\d{1,2}(?P<s>[/-])\d{1,2}(?P=s)(?:19|20)\d\d(?![\d/])",
    ),
    pattern_rule(
        "date_english_without_year",
        Category.DATE,
        rf"\b(?:{_MONTH})\.?\s(?:3[01]|[12]\d|0?[1-9]){_ORDINAL}"
        r"(?![\d%/]|\.\d|\s?(?:mg|ml|mL|cm|mm|kg|g|percent|of)\b)",
        _NAMES,
    ),
)
_CHINESE: tuple[Rule, ...] = (
    pattern_rule(
        "date_full",
        Category.DATE,
        _YEAR
        + r"\s*(?P<s>[-/.年])\s*(?P<m>\d{1,2}|元)\s*(?P<t>[-/.月])\s*(?P<d>\d{1,2})(?:[日号]|"
        + _NO_DIGIT
        + ")",
        (),
        _is_full_date,
    ),
    pattern_rule(
        "date_short_year", Category.DATE, r"[0-389](?<![\d.].)\d年\d{1,2}月\d{1,2}[日号]", ("年",)
    ),
    pattern_rule(
        "date_short",
        Category.DATE,
        rf"[0-3]{_AFTER_MARK}"
        r"\d(?P<s>[/.-])(?P<m>\d{1,2})(?P=s)(?P<d>\d{1,2})(?![\d./%-]|[a-zA-Zμ×*])",
        (),
        _could_be_day,
    ),
    pattern_rule(
        "date_short_month_first",
        Category.DATE,
        r"(?<![\d/.-])(?:(?:0?[1-9]|1[0-2])/(?:0?[1-9]|[12]\d|3[01])/|(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])-)"
        r"\d\d(?![\d./%-]|[a-zA-Zμ×*])",
    ),
    pattern_rule(
        "date_short_month",
        Category.DATE,
        r"[0-289](?:(?<=^.)|(?<=[\s,。;、(于至到自在从].))\d年"
        r"(?:(?:1[0-2]|0?[1-9])月份?(?![余后前内大以来龄])|(?=[起初底末春夏秋冬]))",
        ("年",),
    ),
    pattern_rule(
        "date_short_year_told",
        Category.DATE,
        r"(?<![\d.])[5-9]\d年(?=\d{1,2}月|\s?(?:手术|行|因|曾|确诊|诊断|在|于|患|起|生))(?:\d{1,2}月(?:\d{1,2}日)?)?"
        rf"|(?<![一二三四五六七八九十〇零])[〇零一二三五六七八九]{{2}}年(?={NUMERAL}{{1,2}}月)(?:{NUMERAL}{{1,2}}月)",
        ("年",),
    ),
    pattern_rule("date_short_year_alone", Category.DATE, r"0(?<!\d\d)\d年", ("年",)),
    pattern_rule(
        "date_of_event",
        Category.DATE,
        r"(?:(?<=^)|(?<=[\s,。;:、(至~-])|(?<=[于在到从自]))"
        r"(?P<x>(?:1[0-2]|0?[1-9])(?:/(?:[12]\d|3[01]|0?[1-9])|-(?:[12]\d|3[01]|0[1-9])|\.(?:[12]\d|3[01])))"
        rf"(?![\d./%]|-\d{{1,2}}-)(?=\s?[-~至到]\s?\d{{1,2}}[/.-]\d{{1,2}}(?!\d)|\)?[日号]?\s?(?:{_EVENTS}"
        r"|查|行|血常规|CT|MR|B超|彩超|化验|开始|出现|起|予|术前|术后|停|拔|发热|咳|腹|胸|头|突|外院|当地))",
        ("/", "-", "."),
        lambda m: "." not in m["x"] or _is_clause_day(m),
    ),
    pattern_rule(
        "date_labelled",
        Category.DATE,
        r"(?:日期|时间|日)\s?:?\s?(?P<x>(?P<m>1[0-2]|0?[1-9])[-./](?P<d>[12]\d|3[01]|0?[1-9]))"
        r"(?![\d./%-]|\s?(?:小时|h|min|分|天|d|s|秒|周|个?月|岁|年))",
        ("日期", "时间"),
    ),
    pattern_rule(
        "date_month_of_year",
        Category.DATE,
        r"(?<![\d/.-])(?:0[1-9]|1[0-2])[/.](?:19|20)\d\d(?![\d/.-])"
        r"|(?:19|20)\d\d(?<!\d\d{4}) (?:0[1-9]|1[0-2]) [0-3]\d(?!\d)"
        r"|(?<=\()(?:19|20)\d\d\.(?:1[0-2]|[1-9])(?=\))",
    ),
    pattern_rule(
        "date_era",
        Category.DATE,
        rf"(?:民国|昭和|平成|令和|大正|光绪|宣统)\s?(?:\d{{1,3}}|{NUMERAL}{{1,4}}|元)年(?:\d{{1,2}}月(?:\d{{1,2}}日)?)?",
        ("民国", "昭和", "平成", "令和", "大正", "光绪", "宣统"),
    ),
    pattern_rule(
        "date_day_of_month",
        Category.DATE,
        r"(?:(?<=[本上当同次下]月)\d{1,2}[日号]|元月\d{1,2}[日号]|(?<![\d个第.])(?:1[0-2]|[1-9])月份"
        r"|(?<![\d第.])(?:1[0-2]|[1-9])月(?:[12]\d|3[01]|[1-9])(?![\d个天余年月岁时周次片粒支度例针日号.%/~-]))",
        ("月",),
    ),
    pattern_rule(
        "date_festival",
        Category.DATE,
        rf"(?:(?:[12][09]\d\d年|[一二][九〇零○O0][〇零○O0一二三四五六七八九]{{2}}年|[去今前当]年)的?)?(?:{_FESTIVALS}|(?<=年)国庆)",
        tuple(_TABLE["festival_signs"]),
    ),
    pattern_rule(
        "date_lunar",
        Category.DATE,
        rf"(?:农历|阴历)\s?{NUMERAL}{{1,2}}月{NUMERAL}{{1,3}}日?"
        rf"|[正冬腊]月(?!{NUMERAL}|[初廿])|(?:农历|阴历){NUMERAL}{{1,2}}月(?!{NUMERAL}|[初廿])"
        rf"|(?<!{NUMERAL})[正冬腊二三四五六七八九十]月(?:初{NUMERAL}|廿{NUMERAL}?|二?十{NUMERAL}?|三十)"
        rf"(?!{NUMERAL}|[个余多天年日号])|大年(?:初{NUMERAL}|三十)|(?:农历|阴历)\s?\d{{1,2}}月\d{{1,2}}日?",
        ("月", "大年"),
    ),
    pattern_rule(
        "date_in_words",
        Category.DATE,
        r"[一二][九〇零○O0][〇零○O0一二三四五六七八九]{2}年"
        rf"(?:{NUMERAL}{{1,2}}月(?:{NUMERAL}{{1,3}}[日号])?)?",
        ("年",),
    ),
    pattern_rule(
        "date_in_words_without_year",
        Category.DATE,
        rf"{NUMERAL}(?<!{NUMERAL}{NUMERAL}){NUMERAL}?月{NUMERAL}{{1,3}}[日号]"
        rf"|[正腊冬二三四五六七八九十]月[初廿]{NUMERAL}",
        ("月",),
    ),
    pattern_rule(
        "date_compact",
        Category.DATE,
        _YEAR + r"(?<!\.\d{4})(?P<m>\d\d)(?P<d>\d\d)(?![\d.*×%^A-Za-z])",
        (),
        _is_compact_date,
    ),
    pattern_rule(
        "date_month",
        Category.DATE,
        _YEAR + r"\s*年\s*(?:\d{1,2}|元)\s*月(?:份|初|底|末|[上中下]旬)?",
        ("年",),
        _is_year,
    ),
    pattern_rule(
        "date_month_dashed",
        Category.DATE,
        _YEAR + r"(?<!\.\d{4})[-/](?:00|0?[1-9]|1[0-2])(?![\d./-]|[a-zA-Zμ%])",
        (),
        _is_year,
    ),
    pattern_rule(
        "date_month_dotted",
        Category.DATE,
        _YEAR + r"(?<!\.\d{4})\.(?:0?[1-9]|1[0-2])(?![\d.])"
        r"(?=\s?(?:起|始|开始|出现|行|确诊|在|于|复查|诊断|因|曾|至|[-~]|我院|外院|当地"
        r"|就诊|发现|体检))",
        (".",),
        _is_year,
    ),
    pattern_rule(
        "date_slashed_again",
        Category.DATE,
        r"(?:入院|出院|手术|复查|复诊|转入|转出|拆线|采样|送检|报告|拔管|化疗)\s?[:于]?\s?"
        r"(?P<x>(?P<m>0?[1-9]|1[0-2])[/.-](?P<d>[0-3]?\d))"
        r"(?![\d./%-]|\s?(?:[a-zA-Zμ%×]|小时|分|天|周|个|次|年|日后))",
        ("/", ".", "-"),
        lambda m: is_day(2020, int(m["m"]), int(m["d"])) and _has_date_before(m),
    ),
    pattern_rule(
        "date_slashed_english",
        Category.DATE,
        r"\b(?:on|since|until|from|dated?|[Nn]otes?|seen|[Aa]dmitted|[Dd]ischarged|[Ss]cheduled|[Ff]ollow-?up"
        r"|[Cc]ollected|[Rr]eported|(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs?)?|Fri|Sat(?:ur)?|Sun)(?:day)?\.?,?)\s(?:for\s)?"
        r"(?P<x>(?P<m>0?[1-9]|1[0-2])/(?P<d>0?[1-9]|[12]\d|3[01]))(?![\d/%]|\.\d|\s?(?:mg|ml|tab|strength|power))",
        ("/",),
    ),
    pattern_rule(
        "date_year",
        Category.DATE,
        _YEAR
        + r"(?<!\.\d{4})\s*年(?![龄代版制修]|\s?(?:[Cc][Ss][Cc][Oo]|NCCN|ESC|AHA|ACC|ASCO|KDIGO"
        r"|GOLD|GINA)|指南|标准|中国|美国|欧洲|国际|WHO)",
        ("年",),
        _is_year,
    ),
    pattern_rule(
        "date_without_year", Category.DATE, r"\d(?<!\d\d)\d?\s*月\s*\d{1,2}[日号]", ("月",)
    ),
    pattern_rule(
        "date_range_end",
        Category.DATE,
        r"(?<=[至到~-])\s?(?P<x>(?P<m>0[1-9]|1[0-2])[-/.](?P<d>[0-3]\d))(?![\d./-])",
        (),
        lambda m: _ends_range(m),
    ),
    pattern_rule(
        "date_dashed_again",
        Category.DATE,
        r"(?<=[,。;、(于至到在])(?P<m>0[1-9]|1[0-2])-(?P<d>[0-3]\d)(?![\d./-]|\s?[%a-zA-Zμ])",
        ("-",),
        _has_date_before,
    ),
    pattern_rule(
        "date_dotted",
        Category.DATE,
        rf"(?P<m>[01]{_AFTER_MARK}\d|[1-9]{_AFTER_MARK})"
        r"\.(?P<d>[0-3]?\d)"
        r"(?=\s?(?:[日号]|早|晚|晨|上午|下午|中午|凌晨|夜|入院|出院|就诊|起病))",
        (".",),
        _is_dotted_day,
    ),
    pattern_rule(
        "date_dotted_again",
        Category.DATE,
        r"(?<=[,。;、(于至到])(?P<m>1[0-2]|[1-9])\.(?P<d>[0-3]?\d)"
        r"(?=复查|行|手术|再次|[出入转住]院|[去拍做查发开又再来住看到就起]|~|-|至)",
        (".",),
        lambda m: is_day(2020, int(m["m"]), int(m["d"])) and _has_date_before(m),
    ),
    pattern_rule(
        "date_part_of_month",
        Category.DATE,
        r"(?P<m>\d(?<!\d\d)\d?)月(?:初|底|末|[上中下]旬)",
        ("月",),
        lambda m: 1 <= int(m["m"]) <= 12,
    ),
    pattern_rule(
        "date_month_alone",
        Category.DATE,
        r"(?:[今去前同次当翌]年|年前的?)(?P<x>(?:1[0-2]|[1-9])月份?)(?![\d余后前内大以来龄])",
        ("年",),
    ),
    pattern_rule(
        "date_day",
        Category.DATE,
        rf"(?<=[,。;、于至])(?P<x>\d{{1,2}}[日号])(?=(?:{_PARTS_OF_DAY}"
        rf"|{_EVENTS}))(?!..?[间室台])",
        ("日", "号"),
        lambda m: m["x"].endswith("号") or _has_month_before(m),
    ),
    pattern_rule(
        "date_day_told",
        Category.DATE,
        rf"(?:(?<=^)|(?<=[\s,。;、于至到]))(?P<x>[12]?\d号|3[01]号)(?={_TOLD})(?!{_NO_DAY})",
        ("号",),
    ),
    pattern_rule(
        "date_day_told_again",
        Category.DATE,
        rf"(?<=[\s,。;、于至到])(?P<x>[12]?\d日|3[01]日)(?={_TOLD})",
        ("日",),
        lambda m: (
            re.search(r"\d号|\d月\d{1,2}", m.string[max(0, m.start() - 60) : m.start()]) is not None
        ),
    ),
)
RULES = (*_RANGES, *_CHINESE, *_ENGLISH)
"""In the order in which they claim text."""

MONTH_FIRST = frozenset(["date_short_month_first"])
"""Rules whose dates name the month first."""

_RANGE_BEFORE = re.compile(r"[12][09]\d\d[-/.]\d\d?[-/.]\d\d?\s?[至到~-]\s?$")


def _ends_range(match: re.Match[str]) -> bool:
    """Tell whether a month and day end a range such as 2021-05-03至05-09."""
    start = match.start("x")
    return _RANGE_BEFORE.search(match.string[max(0, start - 16) : start]) is not None
