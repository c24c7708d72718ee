"""Calendar dates, Chinese and English: rules that find them, and the move of all dates of a patient
by the same days.

In: normalised text. Out: spans, through `RULES` in the order in which they claim text; a moved date
in its own form, or None. Not done here: the number of days, what stands for a date that cannot be
moved (`replace`). Days that no calendar has are found too.
"""

import re
from collections.abc import Iterator
from datetime import date, timedelta

from medkd.deidentify.rules import (
    Category,
    Finder,
    any_of,
    by_pattern,
    load_table,
    rules_of,
)

_TABLE = load_table("dates.yaml")
MONTHS = {name: number for number, names in enumerate(_TABLE["months"], start=1) for name in names}
LONG_MONTHS = [names[0] for names in _TABLE["months"]]
_MONTH = any_of(MONTHS)
_NAMES = " ".join(name[:3] for name in LONG_MONTHS)
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
_YEAR_IN_WORDS = "(?:[一二][九〇零○O0][〇零○O0一二三四五六七八九]{2}年)"
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
    return match["s"] == match["t"] != ","


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


GUIDELINE = (
    r"\s?(?:(?i:csco)|NCCN|ESC|AHA|ACC|ASCO|KDIGO|GOLD|GINA|WHO|指南|标准|中国|美国|欧洲|国际)"
)
"""What stands behind the year of a guideline."""
_PERSONS = re.compile(
    r"患者|病人|患儿|既往|病史|我|他(?!克|汀|莫)|她|孩子|父|母|入院|住院|出院|就诊|手术|术后|确诊|发现|发病|起病"
    r"|\d岁|年前|体检|怀孕|分娩|外伤|车祸|骨折|切除|服药|口服|曾"
)
_HISTORY = re.compile(
    "提出|引入|应用|召开|发明|发布|颁布|公布|制定|修订|批准|上市|问世|会议|公约|学者|共识|报道|首次"
    "|成立|获批|诺贝尔|命名|培育|技术|世界|全国"
)


def _is_history(match: re.Match[str]) -> bool:
    """Tell the year of a discovery from a patient's: 1909年在上海召开, and nobody spoken of."""
    text, (start, end) = match.string, match.span()
    return (
        _HISTORY.search(text, end, end + 25) is not None
        and _PERSONS.search(text, max(0, start - 30), end + 25) is None
    )


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


def _by_pieces(pattern: str, piece: str, least: int = 1) -> Finder:
    """Find the dates of a range or list: what stands before group `tail`, each piece in it."""
    whole, part = re.compile(pattern), re.compile(piece)

    def spans(text: str) -> Iterator[tuple[int, int]]:
        for match in whole.finditer(text):
            pieces = [found.span() for found in part.finditer(text, *match.span("tail"))]
            if all(least <= _last_number(text[a:b]) <= 31 for a, b in pieces):
                yield match.start(), match.start("tail")
                yield from pieces

    return spans


def _last_number(text: str) -> int:
    numbers = re.findall(r"\d+", text)
    return int(numbers[-1]) if numbers else 1


_DAYS_ENGLISH = rf"\d{{1,2}}{_ORDINAL}\s?(?:-|to|through|and|&)\s?\d{{1,2}}{_ORDINAL}"
_RANGES = rules_of(
    Category.DATE,
    date_range_of_days=_by_pieces(
        r"(?:(?:19|20)\d\d\s*年\s*)?\d(?<!\d\d)\d?\s*月\s*\d{1,2}[日号]?"
        rf"(?P<tail>(?:{_AND}\d{{1,2}}[日号]?){{1,5}})(?<=[日号]){_NO_DURATION}",
        r"\d{1,2}[日号]?",
    ),
    date_range_of_months=_by_pieces(
        rf"(?:19|20)\d\d(?<!\d\d{{4}})\s*年\s*\d{{1,2}}\s*(?:月份?)?"
        rf"(?P<tail>(?:{_AND}\d{{1,2}}(?:月份?)?){{1,5}})(?<=[月份])(?![\d余龄])",
        r"\d{1,2}(?:月份?)?",
    ),
    date_range_of_years=rf"(?:19|20)\d\d(?<![\d.]\d{{4}})(?={_AND}(?:19|20)\d\d\s*年)",
    date_range_without_month=_by_pieces(
        rf"\d(?<![\d.第月]\d)\d?[日号](?P<tail>{_TO}\d{{1,2}}[日号]){_NO_DURATION}(?!{_NO_DAY})",
        r"\d{1,2}[日号]",
    ),
    date_range_dotted=_by_pieces(
        rf"{_YEAR}(?P<s>[/.])\d{{1,2}}(?P=s)\d{{1,2}}(?P<tail>\s*(?:-|~|至|到)\s*"
        r"(?:\d{1,2}(?P=s))?\d{1,2})(?![\d./-]|\s?[%a-zA-Zμ])",
        r"(?:\d{1,2}[/.])?\d{1,2}",
        least=0,
    ),
    date_range_in_words=_by_pieces(
        rf"{_YEAR_IN_WORDS}?{NUMERAL}{{1,2}}月{NUMERAL}{{1,3}}[日号]?"
        rf"(?P<tail>{_AND}{NUMERAL}{{1,3}}[日号])",
        rf"{NUMERAL}{{1,3}}[日号]",
    ),
    date_range_english=by_pattern(
        rf"\b(?:{_MONTH})\.?\s{_DAYS_ENGLISH}(?:,?\s(?:19|20)\d\d)?(?!\d)"
        rf"|(?<!\d){_DAYS_ENGLISH}\s(?:{_MONTH})\b\.?(?:,?\s(?:19|20)\d\d)?(?!\d)",
        needs=_NAMES,
    ),
)
_ENGLISH = rules_of(
    Category.DATE,
    date_english=by_pattern(
        rf"\b(?:{_MONTH})\.?(?:\s\d{{1,2}}{_ORDINAL},?|,)?\s(?:19|20)\d\d(?!\d)"
        rf"|(?<!\d)\d{{1,2}}(?:{_ORDINAL}\s(?:{_MONTH})\.?,?\s|-(?:{_MONTH})-)(?:19|20)\d\d(?!\d)",
        needs=_NAMES,
    ),
    date_year_last=r"(?<![\d/.-])\d{1,2}(?P<s>[/-])\d{1,2}(?P=s)(?:19|20)\d\d(?![\d/])",
    date_english_without_year=by_pattern(
        rf"\b(?:{_MONTH})\.?\s(?:3[01]|[12]\d|0?[1-9]){_ORDINAL}"
        r"(?![\d%/]|\.\d|\s?(?:mg|ml|mL|cm|mm|kg|g|percent|of)\b)",
        needs=_NAMES,
    ),
)
_CHINESE = rules_of(
    Category.DATE,
    date_full=by_pattern(
        _YEAR
        + r"\s*(?P<s>[-/.年,])\s*(?P<m>\d{1,2}|元)\s*(?P<t>[-/.月,])\s*(?P<d>\d{1,2})(?:[日号]|"
        + _NO_DIGIT
        + ")",
        _is_full_date,
    ),
    date_short_year=r"[0-389](?<![\d.].)\d年\d{1,2}月\d{1,2}[日号]",
    date_short=by_pattern(
        rf"[0-3](?:{_AFTER_MARK}|(?<=[一-鿿'].)(?=\d\.))"
        r"\d(?P<s>[/.-])(?P<m>\d{1,2})(?P=s)(?P<d>\d{1,2})(?![\d./%-]|[a-zA-Zμ×*])",
        _could_be_day,
    ),
    date_short_month_first=r"(?<![\d/.-])(?:(?:0?[1-9]|1[0-2])/(?:0?[1-9]|[12]\d|3[01])/|(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])-|(?:0?[1-9]|1[0-2])\.(?:1[3-9]|2\d|3[01])\.)"
    r"\d\d(?![\d./%-]|[a-zA-Zμ×*])",
    date_short_month=r"[0-289](?:(?<=^.)|(?<=[\s,。;、(于至到自在从].))\d年"
    r"(?:(?:1[0-2]|0?[1-9])月份?(?![余后前内大以来龄])|(?=[起初底末春夏秋冬]))",
    date_short_year_told=r"(?<![\d.])[5-9]\d年(?=\d{1,2}月|\s?(?:手术|行|因|曾|确诊|诊断|在|于|患|起|生))(?:\d{1,2}月(?:\d{1,2}日)?)?"
    rf"|(?<![一二三四五六七八九十〇零])[〇零一二三五六七八九]{{2}}年(?={NUMERAL}{{1,2}}月)(?:{NUMERAL}{{1,2}}月)",
    date_short_year_alone=r"0(?<!\d\d)\d年",
    date_of_event=by_pattern(
        r"(?:(?<=^)|(?<=[\s,。;:、(至~-])|(?<=[于在到从自]))"
        r"(?P<x>(?:1[0-2]|0?[1-9])(?:/(?:[12]\d|3[01]|0?[1-9])|-(?:[12]\d|3[01]|0[1-9])|\.(?:[12]\d|3[01])))"
        rf"(?![\d./%]|-\d{{1,2}}-)(?=\s?[-~至到]\s?\d{{1,2}}[/.-]\d{{1,2}}(?!\d)|\)?[日号]?\s?(?:{_EVENTS}"
        r"|查|行|血常规|CT|MR|B超|彩超|化验|开始|出现|起|予|术前|术后|停|拔|发热|咳|腹|胸|头|突|外院|当地))",
        lambda m: "." not in m["x"] or _is_clause_day(m),
    ),
    date_labelled=r"(?:日期|时间)\s?:?\s?(?P<x>(?P<m>1[0-2]|0?[1-9])[-./](?P<d>[12]\d|3[01]|0?[1-9]))"
    r"(?![\d./%-]|\s?(?:小时|h|min|分|天|d|s|秒|周|个?月|岁|年))",
    date_month_of_year=r"(?<![\d/.-])(?:0[1-9]|1[0-2])[/.](?:19|20)\d\d(?![\d/.-])"
    r"|(?:19|20)\d\d(?<!\d\d{4}) (?:0[1-9]|1[0-2]) [0-3]\d(?!\d)"
    r"|(?<=\()(?:19|20)\d\d\.(?:1[0-2]|[1-9])(?=\))",
    date_era=rf"(?:民国|昭和|平成|令和|大正|光绪|宣统)\s?(?:\d{{1,3}}|{NUMERAL}{{1,4}}|元)年(?:\d{{1,2}}月(?:\d{{1,2}}日)?)?",
    date_day_of_month=by_pattern(
        r"(?:(?<=[本上当同次下]月)\d{1,2}[日号]|元月\d{1,2}[日号]|(?<![\d个第.])(?:1[0-2]|[1-9])月份"
        r"|(?<![\d第.])(?:1[0-2]|[1-9])月(?:[12]\d|3[01]|[1-9])(?![\d个天余年月岁时周次片粒支度例针日号.%/~-]))",
        needs="月",
    ),
    date_festival=by_pattern(
        rf"(?:(?:[12][09]\d\d年|{_YEAR_IN_WORDS}|[去今前当]年)的?)?(?:{_FESTIVALS}|(?<=年)国庆)",
        needs=_TABLE["festival_signs"],
    ),
    date_lunar=by_pattern(
        rf"(?:农历|阴历)\s?(?:[正冬腊]|{NUMERAL}{{1,2}})月(?:初?{NUMERAL}{{1,3}}|廿{NUMERAL}?)日?"
        rf"|[正冬腊]月(?!{NUMERAL}|[初廿])|(?:农历|阴历){NUMERAL}{{1,2}}月(?!{NUMERAL}|[初廿])"
        rf"|(?<!{NUMERAL})[正冬腊二三四五六七八九十]月(?:初{NUMERAL}|廿{NUMERAL}?|二?十{NUMERAL}?|三十)"
        rf"(?!{NUMERAL}|[个余多天年日号])|大年(?:初{NUMERAL}|三十)|(?:农历|阴历)\s?\d{{1,2}}月\d{{1,2}}日?",
        needs="月 大年",
    ),
    date_in_words=rf"{_YEAR_IN_WORDS}"
    rf"(?:{NUMERAL}{{1,2}}月(?:{NUMERAL}{{1,3}}[日号])?)?",
    date_in_words_without_year=rf"{NUMERAL}(?<!{NUMERAL}{NUMERAL}){NUMERAL}?月{NUMERAL}{{1,3}}[日号]"
    rf"|[正腊冬二三四五六七八九十]月[初廿]{NUMERAL}",
    date_compact=by_pattern(
        _YEAR + r"(?<!\.\d{4})(?P<m>\d\d)(?P<d>\d\d)(?![\d.*×%^A-Za-z])", _is_compact_date
    ),
    date_month=by_pattern(
        _YEAR + r"\s*年\s*(?:\d{1,2}|元)\s*月(?:份|初|底|末|[上中下]旬)?", _is_year
    ),
    date_month_dashed=by_pattern(
        _YEAR + r"(?<!\.\d{4})[-/](?:00|0?[1-9]|1[0-2])(?![\d./-]|[a-zA-Zμ%])", _is_year
    ),
    date_month_dotted=by_pattern(
        _YEAR + r"(?<!\.\d{4})\.(?:0?[1-9]|1[0-2])(?![\d.])"
        r"(?=\s?(?:起|始|开始|出现|行|确诊|在|于|复查|诊断|因|曾|至|[-~]|我院|外院|当地"
        r"|就诊|发现|体检))",
        _is_year,
    ),
    date_slashed_again=by_pattern(
        r"(?:入院|出院|手术|复查|复诊|转入|转出|拆线|采样|送检|报告|拔管|化疗)\s?[:于]?\s?"
        r"(?P<x>(?P<m>0?[1-9]|1[0-2])[/.-](?P<d>[0-3]?\d))"
        r"(?![\d./%-]|\s?(?:[a-zA-Zμ%×]|小时|分|天|周|个|次|年|日后))",
        lambda m: is_day(2020, int(m["m"]), int(m["d"])) and _has_date_before(m),
    ),
    date_slashed_english=r"\b(?:on|since|until|from|dated?|RTC|[Rr]eturns?|[Nn]otes?|seen|[Aa]dmitted|[Dd]ischarged|[Ss]cheduled|[Ff]ollow-?up"
    r"|[Cc]ollected|[Rr]eported|(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs?)?|Fri|Sat(?:ur)?|Sun)(?:day)?\.?,?)\s(?:for\s)?"
    r"(?P<x>(?P<m>0?[1-9]|1[0-2])/(?P<d>0?[1-9]|[12]\d|3[01]))(?![\d/%]|\.\d|\s?(?:mg|ml|tab|strength|power))",
    date_year=by_pattern(
        _YEAR + rf"(?<!\.\d{{4}})\s*年(?![龄代版制修]|{GUIDELINE})",
        lambda m: _is_year(m) and not _is_history(m),
    ),
    date_without_year=r"\d(?<!\d\d)\d?\s*月\s*\d{1,2}[日号]",
    date_range_end=by_pattern(
        r"(?<=[至到~-])\s?(?P<x>(?P<m>0[1-9]|1[0-2])[-/.](?P<d>[0-3]\d))(?![\d./-])",
        lambda m: _ends_range(m),
    ),
    date_dashed_again=by_pattern(
        r"(?<=[,。;、(于至到在])(?P<m>0[1-9]|1[0-2])-(?P<d>[0-3]\d)(?![\d./-]|\s?[%a-zA-Zμ])",
        _has_date_before,
    ),
    date_dotted=by_pattern(
        rf"(?P<m>[01]{_AFTER_MARK}\d|[1-9]{_AFTER_MARK})"
        r"\.(?P<d>[0-3]?\d)"
        r"(?=\s?(?:[日号]|早|晚|晨|上午|下午|中午|凌晨|夜|入院|出院|就诊|起病))",
        _is_dotted_day,
    ),
    date_dotted_again=by_pattern(
        r"(?<=[,。;、(于至到])(?P<m>1[0-2]|[1-9])\.(?P<d>[0-3]?\d)"
        r"(?=复查|行|手术|再次|[出入转住]院|[去拍做查发开又再来住看到就起]|~|-|至)",
        lambda m: is_day(2020, int(m["m"]), int(m["d"])) and _has_date_before(m),
    ),
    date_part_of_month=by_pattern(
        r"(?P<m>\d(?<!\d\d)\d?)月(?:初|底|末|[上中下]旬)", lambda m: 1 <= int(m["m"]) <= 12
    ),
    date_month_alone=r"(?:[今去前同次当翌]年|年前的?)(?P<x>(?:1[0-2]|[1-9])月份?)(?![\d余后前内大以来龄])",
    date_day=by_pattern(
        rf"(?<=[,。;、于至])(?P<x>\d{{1,2}}[日号])(?=(?:{_PARTS_OF_DAY}"
        rf"|{_EVENTS}))(?!..?[间室台])",
        lambda m: m["x"].endswith("号") or _has_month_before(m),
    ),
    date_day_told=by_pattern(
        rf"(?:(?<=^)|(?<=[\s,。;、于至到]))(?P<x>[12]?\d号|3[01]号)(?={_TOLD})(?!{_NO_DAY})",
        needs="号",
    ),
    date_day_told_again=by_pattern(
        rf"(?<=[\s,。;、于至到])(?P<x>[12]?\d日|3[01]日)(?={_TOLD})",
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


_YEAR_WHERE_NONE_IS_NAMED = 2020
_D, _M, _Y = r"(?P<d>\d{1,2})", r"(?P<m>\d{1,2})", r"(?P<y>\d{4})"
_N = f"{NUMERAL}{{1,3}}"
_NAMED_RANGE = re.compile(
    r"(?:(?P<m>[A-Z][a-z]+)\.?\s)?(?P<d>\d{1,2})[a-z]*(?P<to>\s?(?:-|to|through|and|&)\s?)"
    r"(?P<last>\d{1,2})(?:st|nd|rd|th)?(?:\s(?P<behind>[A-Z][a-z]+)\.?)?(?:(?P<s>,?\s)(?P<y>\d{4}))?"
)
_FORMS = [
    re.compile(form)
    for form in (
        rf"{_Y}\s*[-/.年,]\s*{_M}\s*[-/.月,]\s*{_D}\s*[日号]?",
        rf"(?P<y>\d\d)年(?:{_M}月(?:份?|{_D}[日号]))?",
        rf"(?P<y>\d\d)[/.-]{_M}[/.-]{_D}",
        r"(?P<y>\d{4})(?P<m>\d\d)(?P<d>\d\d)",
        rf"{_Y}\s*[-/.年]\s*{_M}(?:\s*月份?)?",
        r"(?P<y>(?:19|20)\d\d)\s*年?",
        rf"(?:{_Y}\s*年\s*)?{_M}\s*月(?P<part>份|初|底|末|[上中下]旬|)",
        rf"{_M}\s*[月./-]\s*{_D}\s*[日号]?",
        rf"{_M}[/-]{_D}[/-]{_Y}",
        rf"(?P<m>[A-Z][a-z]+)\.?\s(?P<d>\d{{1,2}})(?P<o>st|nd|rd|th|)(?:,?\s{_Y})?",
        rf"{_D}(?P<o>st|nd|rd|th|)[\s-](?P<m>[A-Z][a-z]+)(?:(?:\.?,?\s|-){_Y})?",
        rf"(?P<m>[A-Z][a-z]+)\.?,?\s{_Y}",
        rf"(?:(?P<y>[一二][^年]{{3}})年)?(?:(?P<m>{_N})月(?:(?P<d>{_N})[日号])?)?",
    )
]
"""Every form of a date, with its year, month and day where it names them."""
_MONTH_FIRST_SHORT = re.compile(rf"{_M}[/.-]{_D}[/.-](?P<y>\d\d)")
_DAY = re.compile(rf"(?P<d>\d{{1,2}}|{_N})[日号]?")
_DAY_OF_PART = {"初": 3, "上旬": 5, "中旬": 15, "份": 15, "": 15, "下旬": 25, "末": 28, "底": 28}
_DIGITS = "〇一二三四五六七八九"


class DateShifter:
    """Moves all dates of one patient by the same number of days, each in the form it is written in.

    A date that names no year takes the year named last. A month alone moves as its 15th day does, a
    year alone as its 1st of July does; the 30th of February as the last day of that month.

    >>> shifter = DateShifter(-20)
    >>> [shifter.shift(text) for text in ("2021年3月5日", "3月8日", "March 9, 2021", "2021-00-00")]
    ['2021年2月13日', '2月16日', 'February 17, 2021', None]
    """

    def __init__(self, offset_days: int) -> None:
        self.offset = timedelta(days=offset_days)
        self._last = date(_YEAR_WHERE_NONE_IS_NAMED, 1, 1)
        self._has_month = False

    def shift(self, text: str, is_month_first: bool = False) -> str | None:
        """Rewrite one date in its own form; None where it cannot be moved. `is_month_first` reads
        3/5/21 as the 5th of March."""
        text = text.strip().replace("元月", "1月")
        try:
            if is_month_first and (found := _MONTH_FIRST_SHORT.fullmatch(text)):
                return self._rewrite(found)
            if text and (found := _DAY.fullmatch(text)):
                return self._shift_day(found)
            for form in _FORMS:
                if text and (found := form.fullmatch(text)):
                    return self._rewrite(found)
            return self._shift_range(text)
        except (ValueError, OverflowError, KeyError):
            return None

    def _move(self, year: int, month: int, day: int) -> date:
        following = date(year + month // 12, month % 12 + 1, 1)
        month_end = (following - timedelta(days=1)).day
        self._last = date(year, month, min(day, month_end) if day <= 31 else day)
        self._has_month = True
        return self._last + self.offset

    def _rewrite(self, found: re.Match[str]) -> str:
        """Put the moved year, month and day in the places of the old ones."""
        old = {name: text for name, text in found.groupdict().items() if text is not None}
        month, day = _read(old.get("m", "7")), _read(old.get("d", "15" if "m" in old else "1"))
        is_day_first = month > 12 and "y" in old and found.start("y") > found.start("m")
        if is_day_first:
            month, day = day, month  # 25/03/1950, which Americans would not write
        if "part" in old:
            day = _DAY_OF_PART[old["part"]]
        is_leap_day = "y" not in old and (month, day) == (2, 29)
        year = _YEAR_WHERE_NONE_IS_NAMED if is_leap_day else self._last.year
        new = self._move(_read_year(old["y"]) if "y" in old else year, month, day)
        is_padded = any(old.get(name, "")[:1] == "0" for name in "md") or (
            "-" in found[0] and len(old.get("m", "") + old.get("d", "")) == 4
        )
        values = {"y": new.year, "m": new.month, "d": new.day}
        if is_day_first:
            values |= {"m": new.day, "d": new.month}
        written = found[0]
        for name in sorted(old, key=found.start, reverse=True):
            match name:
                case "o":
                    put = ""  # the 3rd becomes the 4
                case "part":
                    put = _part_like(old[name], new.day)
                case _:
                    put = _write_like(old[name], values[name], is_padded)
            written = written[: found.start(name)] + put + written[found.end(name) :]
        return written

    def _shift_range(self, text: str) -> str | None:
        """Move both days of March 5-8, 2021; name the second month where it is another one."""
        found = _NAMED_RANGE.fullmatch(text)
        if found is None:
            return None
        name, year = found["m"] or found["behind"], int(found["y"] or self._last.year)
        first, last = (self._move(year, MONTHS[name], int(found[day])) for day in ("d", "last"))
        names = [_name_like(name, day.month) for day in (first, last)]
        second = names[1] if names[0] != names[1] else ""
        end = f"{found['s']}{last.year}" if found["y"] else ""
        if found["m"]:
            return f"{names[0]} {first.day}{found['to']}{second and f'{second} '}{last.day}{end}"
        return f"{first.day}{second and f' {names[0]}'}{found['to']}{last.day} {names[1]}{end}"

    def _shift_day(self, found: re.Match[str]) -> str:
        """Move a day whose month was named before; name the month where it comes into another one
        than the date before it."""
        written = self._last + self.offset
        day, had_month = _read(found["d"]), self._has_month
        is_of_next = had_month and day < self._last.day
        following = self._last.replace(day=1) + timedelta(days=31 if is_of_next else 0)
        new = self._move(following.year, following.month, day)
        self._has_month = had_month
        is_new_month = had_month and new.month != written.month
        month = f"{_write_like(found['d'], new.month, False)}月" if is_new_month else ""
        return month + _write_like(found["d"], new.day, False) + found[0][found.end("d") :]


def _read_year(text: str) -> int:
    """Read a year; write one of two digits out."""
    digits = re.sub("[零○O0]", "〇", text) if not text.isdecimal() else text
    year = int("".join(str(_DIGITS.index(d)) if d in _DIGITS else d for d in digits))
    return year if len(text) == 4 else year + (1900 if year > 50 else 2000)


def _read(text: str) -> int:
    """Read a number, a numeral up to 31 or the name of a month.

    >>> [_read(text) for text in ("03", "十", "十二", "二十", "三十一", "Mar")]
    [3, 10, 12, 20, 31, 3]
    """
    if text.isdecimal() or text.isascii():
        return int(text) if text.isdecimal() else MONTHS[text]
    tens, mark, ones = text.rpartition("十")
    return (_DIGITS.index(tens or "一") * 10 if mark else 0) + (_DIGITS.index(ones) if ones else 0)


def _write_like(old: str, new: int, is_padded: bool) -> str:
    """Write a year, month or day as the old one is written.

    >>> [_write_like(old, 12, True) for old in ("1", "正", "三", "Mar", "January")]
    ['12', '十二', '十二', 'Dec', 'December']
    """
    if old.isdecimal():
        return f"{new % 100:02d}" if new > 31 and len(old) == 2 else f"{new:0{1 + is_padded}d}"
    if old.isascii():
        return _name_like(old, new)
    if new > 31:
        return "".join(_DIGITS[int(digit)] for digit in str(new))
    tens, ones = divmod(new, 10)
    return ("" if not tens else "十" if tens == 1 else _DIGITS[tens] + "十") + (
        _DIGITS[ones] if ones or not tens else ""
    )


def _part_like(old: str, day: int) -> str:
    """Name the part of a month in which a day lies; a month alone stays one."""
    return old if old in {"", "份"} else "上旬" if day <= 10 else "中旬" if day <= 20 else "下旬"


def _name_like(old: str, month: int) -> str:
    """Name a month as short as the old one is written."""
    name = LONG_MONTHS[month - 1]
    return name if old in LONG_MONTHS and old != "May" else name[:3]
