"""Calendar dates and ages over 89: what a pattern cannot say of them; the move of all dates of a
patient by the same days.

In: normalised text. Out: spans, through `RULES` (in `dates.yaml`); a moved date in its own form, or
None. Not done here: the number of days, what stands for a date that cannot be moved (`replace`).
Days that no calendar has are found too.
"""

import re
from datetime import date, timedelta

from medkd.deidentify.rules import Table

_TABLE = Table("dates.yaml")
MONTHS = {name: number for number, names in enumerate(_TABLE["months"], start=1) for name in names}
LONG_MONTHS = [names[0] for names in _TABLE["months"]]


def is_day(year: int, month: int, day: int) -> bool:
    """Tell whether the calendar has this day."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _is_year(match: re.Match[str]) -> bool:
    return match["y"][:2] in {"19", "20"}


def _is_month(match: re.Match[str]) -> bool:
    return 1 <= int(match["m"]) <= 12


def _could_be_day(match: re.Match[str]) -> bool:
    """Accept every day up to the 31st of every month: a slip tells as much as the day itself."""
    return _is_month(match) and 1 <= int(match["d"]) <= 31


_SCORE = re.compile(r"(?:Apgar|评分)\s?:?\s?$")


def _is_no_score(match: re.Match[str]) -> bool:
    return _SCORE.search(_before(match, 8)) is None


def _is_month_and_day(match: re.Match[str]) -> bool:
    return is_day(_LEAP_YEAR, int(match["m"]), int(match["d"]))


def _is_full_date(match: re.Match[str]) -> bool:
    """Accept a day that the calendar has; one that it has not only where it is written as a day."""
    is_next_value = match["s"] == "," and match["t"] == "." and " " in match[0]
    if not _is_year(match) or is_next_value:  # PSA 4.1 in 2019, 9.6 in 2022
        return False
    month, day = (1 if match["m"] == "元" else int(match["m"])), int(match["d"])
    if is_day(int(match["y"]), month, day) or "年" in match[0]:
        return True
    return match["s"] == match["t"] != ","


_DATE_LABEL = re.compile(
    r"(?:日期|时间|出生|生日|生于|死于|[Dd]ate|DOB|D\.O\.B\.?)[^一-鿿\d]{0,3}$"
)


def _is_compact_date(match: re.Match[str]) -> bool:
    before = _before(match, 8)
    return _is_year(match) and (_could_be_day(match) or _DATE_LABEL.search(before) is not None)


def _is_dotted_day(match: re.Match[str]) -> bool:
    """Tell 2.29入院 from 2.30晚, which is a time of day."""
    return _is_month_and_day(match) or (
        _could_be_day(match) and match.string.startswith(("日", "号", "入院", "出院"), match.end())
    )


def _is_clause_day(match: re.Match[str]) -> bool:
    """Tell 6.18复查 from a value and from a numbered item."""
    month, dot, day = match["x"].partition(".")
    return not dot or is_day(_LEAP_YEAR, int(month), int(day))


_CUE = _TABLE.compile(r"{CUE}:?\s(?:for\s)?\Z")
_LONGEST_CUE = 24


def _is_cued(match: re.Match[str]) -> bool:
    """Tell 3/5 the day from a fraction by the word before it."""
    start = match.start()
    return _CUE.search(match.string, max(0, start - _LONGEST_CUE), start) is not None


_PERSONS, _HISTORY = _TABLE.compile("{PERSONS}"), _TABLE.compile("{HISTORY}")


def _is_no_history(match: re.Match[str]) -> bool:
    """Tell a patient's year from that of a discovery: 1909年在上海召开, and nobody spoken of."""
    text, (start, end) = match.string, match.span()
    return (
        _HISTORY.search(text, end, end + 25) is None
        or _PERSONS.search(text, max(0, start - 30), end + 25) is not None
    )


_LITERATURE = _TABLE.compile("{LITERATURE}")


def _is_no_literature(match: re.Match[str]) -> bool:
    """Tell a patient's year from that of a study or a guideline."""
    around = match.string[max(0, match.start() - 40) : match.end() + 40]
    return _LITERATURE.search(around) is None


_DATE_SEEN = _TABLE.compile("{DATE_SEEN}")
_MONTH_SEEN = re.compile(r"\d月\d{1,2}[日号]")
_DAY_SEEN = re.compile(r"\d号|\d月\d{1,2}|\d日\s?[-~至到]")
_DASHED_SEEN = re.compile(r"[12][09]\d\d-\d{1,2}-\d")
_RANGE_BEGUN = re.compile(r"[12][09]\d\d[-/.]\d\d?[-/.]\d\d?\s?[至到~-]\s?$")


def _before(match: re.Match[str], n: int) -> str:
    """Return what stands before the date that a match has found."""
    start = match.start("x" if "x" in match.re.groupindex else 0)
    return match.string[max(0, start - n) : start]


def _has_date_before(match: re.Match[str]) -> bool:
    """Tell 10.28 the day from a value: only where a date has been named shortly before."""
    return _could_be_day(match) and _DATE_SEEN.search(_before(match, 120)) is not None


def _has_day_before(match: re.Match[str]) -> bool:
    return _DAY_SEEN.search(_before(match, 60)) is not None


def _has_dashed_date_before(match: re.Match[str]) -> bool:
    """Tell 9-4 the day from a range of numbers: only where 2021-9-3 is named shortly before."""
    return _is_month_and_day(match) and _DASHED_SEEN.search(_before(match, 60)) is not None


def _is_told_day(match: re.Match[str]) -> bool:
    """Tell days of a month from numbers of days: only where a month has been named before."""
    return match["x"].endswith("号") or _MONTH_SEEN.search(_before(match, 2000)) is not None


def _ends_range(match: re.Match[str]) -> bool:
    """Tell whether a month and day end a range such as 2021-05-03至05-09."""
    return _RANGE_BEGUN.search(_before(match, 16)) is not None


_AGE_BEFORE = re.compile(
    r"(?:(?:年龄|[虚实周]岁|现年|享年|终年|时年|高寿|年届|年逾|年近|年过)\s?[:为是约]?"
    r"|[男女]性?\s?[,/|、\t]?|(?<![A-Za-z])(?:[Ff]emale|[Mm]ale)\s?[,/|]?|(?<![A-Za-z])[MF]\s?[,/|\t]"
    r"|\b(?:[Aa]ged?|AGE)(?:\sof)?\s?:?)\s?$",
    re.ASCII,
)
_AGE_AFTER = re.compile(
    r"\s?[,/|、]?\s?[男女](?![A-Za-z\d])|\s?[,/|]\s?[MF](?![A-Za-z\d])|[-\s]{1,2}(?:fe)?male\b"
    r"|[-\s]?(?:[Yy](?:/?[Oo]|\.\s?[Oo]\.?|rs?)?(?![A-Za-z\d])"
    r"|\s[Yy]ears?(?=[,;)])"
    r"|(?:YO|Y/O|[Yy]ears?|yrs?)[-\s]{1,2}(?:old|of\sage))",
    re.ASCII,
)
_GLUED_TO_SEX = re.compile(r"\s?[MF](?![A-Za-z\d])")
_PERSON_BEFORE = re.compile(r"(?:\b(?:[Aa]n?|[Tt]he|[Pp]t|[Pp]atient)\s|\()$", re.ASCII)
_OTHER_UNIT = re.compile(
    r"\s?(?:\.\d|[%/~-]\s?[\da-zA-Z%]|%|[A-Za-zμ°×]|次|分|天|日|月|年|个|床|号|公|毫|厘|千|克|多次)"
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


RULES = _TABLE.rules(
    _is_year,
    _is_month,
    _could_be_day,
    _is_no_score,
    _is_month_and_day,
    _is_full_date,
    _is_compact_date,
    _is_dotted_day,
    _is_clause_day,
    _is_cued,
    _is_no_history,
    _is_no_literature,
    _has_date_before,
    _has_day_before,
    _has_dashed_date_before,
    _is_told_day,
    _ends_range,
    _is_age_in_context,
)
DATE_SHAPE = _TABLE.compile("{DATE_SHAPE}")
"""What may be a date that is left, whatever the rules took."""
MONTH_FIRST = frozenset(["date_short_month_first"])
"""Rules whose dates name the month first."""

_LEAP_YEAR = 2020
_D, _M, _Y = r"(?P<d>\d{1,2})", r"(?P<m>\d{1,2})", r"(?P<y>\d{4})"
_N = _TABLE.fill("{NUMERAL}{1,3}")
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
        rf"{_D}\.{_M}\.{_Y}",
        rf"(?P<m>[A-Z][a-z]+)\.?\s(?P<d>\d{{1,2}})(?P<o>st|nd|rd|th|)(?:,?\s{_Y})?",
        rf"{_Y}-(?P<m>[A-Z][A-Za-z]+)-{_D}",
        rf"{_D}(?P<o>st|nd|rd|th|)[\s-](?P<m>[A-Z][A-Za-z]+)(?:(?:\.?,?\s|-){_Y})?",
        rf"(?P<m>[A-Z][a-z]+)(?:\.?,?\s{_Y})?",
        rf"(?:(?P<y>[一二][^年]{{3}})年)?(?:(?P<m>{_N})月(?:(?P<d>{_N})[日号])?)?",
    )
]
"""Every form of a date, with its year, month and day where it names them."""
_MONTH_FIRST_SHORT = re.compile(rf"{_M}[/.-]{_D}[/.-](?P<y>\d\d)")
_WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_DAY_FIRST_SHORT = re.compile(
    r"(?P<d>(?:1[3-9]|2\d|3[01])(?=[/-])|\d{1,2}(?=\.))[/.-](?P<m>\d{1,2})[/.-](?P<y>\d\d)"
)
"""17/04/24 and 06.04.24, as English is written; 04/06/24 is read with its month first."""
_WITH_WEEKDAY = _TABLE.compile(
    r"(?=.*(?:day|Mon|Tue|Wed|Thu|Fri|Sat|Sun|[期拜周]))"
    r"(?P<before>{WEEKDAY})?[,.]{0,2}\s?(?:the\s)?(?P<rest>.*?\d.*?)?(?:\s?[,(]?\s?(?P<after>{WEEKDAY})\)?)?"
)
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

    def __init__(self, offset_days: int, is_english: bool = False) -> None:
        self._is_english = is_english
        self.offset = timedelta(days=offset_days)
        self._last = date(_LEAP_YEAR, 1, 1)
        self._has_month = False

    def shift(self, text: str, is_month_first: bool = False) -> str | None:
        """Rewrite one date in its own form; None where it cannot be moved. `is_month_first` reads
        3/5/21 as the 5th of March."""
        text = text.strip().replace("元月", "1月")
        try:
            if self._is_english and (found := _DAY_FIRST_SHORT.fullmatch(text)):
                return self._rewrite(found)
            if (is_month_first or self._is_english) and (
                found := _MONTH_FIRST_SHORT.fullmatch(text)
            ):
                return self._rewrite(found)
            found = _WITH_WEEKDAY.fullmatch(text)
            if found and (found["before"] or found["after"]):
                moved = self.shift(found["rest"], is_month_first) if found["rest"] else ""
                day = found["before"] or found["after"]
                return (
                    None
                    if moved is None
                    else text.replace(day, self._weekday(day)).replace(found["rest"] or "\0", moved)
                )
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
        is_day_first = (
            month > 12
            and ("y" not in old or found.start("y") > found.start("m"))
            and "月" not in found[0]
        )
        if is_day_first:
            month, day = day, month  # 25/03/1950, which Americans would not write
        if "part" in old:
            day = _DAY_OF_PART[old["part"]]
        is_leap_day = "y" not in old and (month, day) == (2, 29)
        year = _LEAP_YEAR if is_leap_day else self._last.year
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

    def _weekday(self, day: str) -> str:
        """Move a day of the week, written as the old one is."""
        lead = day[:-1] if day[-1] >= "一" else ""
        names = list("一二三四五六日") if lead else _WEEKDAYS
        old = next(
            n for n, name in enumerate(names) if (lead + name)[:3] == day[:3].replace("天", "日")
        )
        new = names[(old + self.offset.days) % 7]
        return lead + (new if lead or day.endswith("day") else new[:3])

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
        return int(text) if text.isdecimal() else MONTHS[text.capitalize()]
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
