"""Rules for calendar dates in Chinese text and numerals, also those that name no year or no day.

In: a text. Out: spans, through `RULES` in the order in which they claim text. Not done here:
English dates (`english`), moving a date (`dates`).
"""

import re
from datetime import date

from medkd.deidentify.rules import Category, Rule, by_pattern


def is_day(year: int, month: int, day: int) -> bool:
    """Tell whether the calendar has this day."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _is_year(match: re.Match[str]) -> bool:
    return match["y"][:2] in {"19", "20"}


def _month(match: re.Match[str]) -> int:
    return 1 if match["m"] == "元" else int(match["m"])


def _is_full_date(match: re.Match[str]) -> bool:
    """Accept days that the calendar has, and with 年月日 also those it has not: a slip tells as
    much."""
    month, day = _month(match), int(match["d"])
    return _is_year(match) and (
        is_day(int(match["y"]), month, day)
        or ("年" in match[0] and 1 <= month <= 12 and 1 <= day <= 31)
    )


def _is_month(match: re.Match[str]) -> bool:
    return _is_year(match) and 1 <= _month(match) <= 12


_YEAR = r"(?P<y>[12][09]\d\d)(?<![\d.]\d{4})"
"""Look-behinds stand after the first character of a pattern: so the engine can leap to
candidates."""
_NO_DIGIT = r"(?!\d|\.\d)"
_PARTS_OF_DAY = "上午|下午|凌晨|清晨|早上|早晨|中午|晚上|晚间|夜间|傍晚|晨起|复查|出院|入院|转院|转入|手术|行|予|患者|患儿|再次|突发|突然|出现"

RULES: tuple[Rule, ...] = (
    Rule(
        "date_full",
        Category.DATE,
        by_pattern(
            _YEAR
            + r"\s*[-/.年]\s*(?P<m>\d{1,2}|元)\s*[-/.月]\s*(?P<d>\d{1,2})(?:[日号]|"
            + _NO_DIGIT
            + ")",
            (),
            _is_full_date,
        ),
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
        "date_short",
        Category.DATE,
        by_pattern(
            r"(?:(?<=^)|(?<=[\s，,。；;、（(于至到]))(?P<y>[0-3]\d)(?P<s>[/.-])(?P<m>\d{1,2})(?P=s)(?P<d>\d{1,2})(?![\d./%-]|[a-zA-Zμ×*])",
            (),
            lambda m: is_day(2000, int(m["m"]), int(m["d"])),
        ),
    ),
    Rule(
        "date_short_month",
        Category.DATE,
        by_pattern(
            r"(?:(?<=^)|(?<=[\s，,。；;、（(于至到自在从]))(?P<x>(?:[0-2]\d|[89]\d)年(?:(?:1[0-2]|0?[1-9])月份?(?![余后前内大以来龄])|(?=[起初底末春夏秋冬])))",
            ("年",),
        ),
    ),
    Rule("date_short_year_alone", Category.DATE, by_pattern(r"0(?<!\d\d)\d年", ("年",))),
    Rule(
        "date_in_words",
        Category.DATE,
        by_pattern(
            r"(?P<y>[一二][九〇零○O0][〇零○O0一二三四五六七八九]{2})年(?:(?P<m>[一二三四五六七八九十]{1,2})月(?:(?P<d>[一二三四五六七八九十]{1,3})[日号])?)?",
            ("年",),
        ),
    ),
    Rule(
        "date_compact",
        Category.DATE,
        by_pattern(_YEAR + r"(?P<m>\d\d)(?P<d>\d\d)" + r"(?![\d.*×%^A-Za-z])", (), _is_full_date),
    ),
    Rule(
        "date_month",
        Category.DATE,
        by_pattern(
            _YEAR + r"\s*年\s*(?P<m>\d{1,2}|元)\s*月(?:份|初|底|末|[上中下]旬)?", ("年",), _is_month
        ),
    ),
    Rule(
        "date_month_dashed",
        Category.DATE,
        by_pattern(_YEAR + r"[-/](?P<m>0?[1-9]|1[0-2])(?![\d./-]|[a-zA-Zμ%])", (), _is_year),
    ),
    Rule(
        "date_year",
        Category.DATE,
        by_pattern(
            _YEAR
            + r"\s*年(?![龄代版制修]|\s?(?:[Cc][Ss][Cc][Oo]|NCCN|ESC|AHA|ACC|ASCO|KDIGO|GOLD|GINA)|指南|标准|中国|美国|欧洲|国际|WHO)",
            ("年",),
            _is_year,
        ),
    ),
    Rule(
        "date_without_year",
        Category.DATE,
        by_pattern(
            r"(?P<m>\d(?<!\d\d)\d?)\s*月\s*(?P<d>\d{1,2})[日号]",
            ("月",),
            lambda m: is_day(2020, int(m["m"]), int(m["d"])),
        ),
    ),
    Rule(
        "date_range_end",
        Category.DATE,
        by_pattern(
            r"(?<=[至到~～—-])\s?(?P<x>(?P<m>0[1-9]|1[0-2])[-/.](?P<d>[0-3]\d))(?![\d./-])",
            (),
            lambda m: _ends_range(m),
        ),
    ),
    Rule(
        "date_dashed_again",
        Category.DATE,
        by_pattern(
            r"(?<=[，,。；;、（(于至到在])(?P<m>0[1-9]|1[0-2])-(?P<d>[0-3]\d)(?![\d./-]|\s?[%a-zA-Zμ])",
            ("-",),
            lambda m: is_day(2020, int(m["m"]), int(m["d"])) and _has_date_before(m),
        ),
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
            r"(?<=[，,。；;、（(于至到])(?P<m>1[0-2]|[1-9])\.(?P<d>[0-3]?\d)(?=复查|行|手术|再次|[出入转住]院|[去拍做查发开又再来住看到就起]|～|-|至)",
            (".",),
            lambda m: is_day(2020, int(m["m"]), int(m["d"])) and _has_date_before(m),
        ),
    ),
    Rule(
        "date_part_of_month",
        Category.DATE,
        by_pattern(
            r"(?P<m>\d(?<!\d\d)\d?)月(?:初|底|末|[上中下]旬)",
            ("月",),
            lambda m: 1 <= int(m["m"]) <= 12,
        ),
    ),
    Rule(
        "date_month_alone",
        Category.DATE,
        by_pattern(
            r"(?:[今去前同次当翌]年|年前的?)(?P<x>(?:1[0-2]|[1-9])月份?)(?![\d余后前内大以来龄])",
            ("年",),
        ),
    ),
    Rule(
        "date_day_of_range",
        Category.DATE,
        by_pattern(
            r"(?<=[日号至到~～、-])(?P<x>\d{1,2}[日号])(?![后前内余间以])",
            ("日", "号"),
            lambda m: _follows_date(m),
        ),
    ),
    Rule(
        "date_day",
        Category.DATE,
        by_pattern(
            rf"(?<=[，,。；;、于至])(?P<x>\d{{1,2}}日)(?=(?:{_PARTS_OF_DAY}))",
            ("日",),
            lambda m: _has_month_before(m),
        ),
    ),
)


def _follows_date(match: re.Match[str]) -> bool:
    """Tell whether a day ends a range such as 9月12日至15日."""
    return (
        re.search(
            r"月\d{1,2}[日号]?[至到~～、-]$",
            match.string[max(0, match.start() - 8) : match.start()],
        )
        is not None
    )


_DATE_SEEN = re.compile(
    r"\d月[\d上中下初底末]|\d年\d|[12][09]\d\d[-./]\d|[，,。；;、（(于至到]\d{1,2}\.\d{1,2}(?:[日号早晚晨]|[上下]午|入院)"
)


def _has_date_before(match: re.Match[str]) -> bool:
    """Tell 10.28 the day from a value: only where a date has been named shortly before."""
    return _DATE_SEEN.search(match.string[max(0, match.start() - 120) : match.start()]) is not None


def _ends_range(match: re.Match[str]) -> bool:
    """Tell whether a month and day end a range such as 2021-05-03至05-09."""
    return (
        re.search(
            r"[12][09]\d\d[-/.]\d\d?[-/.]\d\d?\s?[至到~～—-]\s?$",
            match.string[max(0, match.start("x") - 16) : match.start("x")],
        )
        is not None
    )


def _has_month_before(match: re.Match[str]) -> bool:
    """Tell days of a month from numbers of days: only where a month has been named before."""
    return (
        re.search(r"\d月\d{1,2}[日号]", match.string[max(0, match.start() - 2000) : match.start()])
        is not None
    )
