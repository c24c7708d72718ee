"""Dates of one patient, moved together: a date in any of the forms they are written in comes out in
the same form.

In: the text of a date and the days to move by. Out: the moved date. Not done here: finding dates
(`days`, `english`), the number of days (`replace`).

>>> shifter = DateShifter(-20)
>>> [shifter.shift(text) for text in ("2021年3月5日", "3月8日", "March 9, 2021", "二〇二一年三月十日")]
['2021年2月13日', '2月16日', 'February 17, 2021', '二〇二一年二月十八日']
"""

import re
from datetime import date, timedelta

from medkd.deidentify.english import MONTHS

_YEAR_WHERE_NONE_IS_NAMED = 2020
_FULL = re.compile(r"(\d{4})(\s*[-/.年]\s*)(\d{1,2})(\s*[-/.月]\s*)(\d{1,2})(日?号?)")
_COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)")
_MONTH = re.compile(r"(\d{4})(\s*[-/年]\s*)(\d{1,2})(\s*月份?|)")
_PART_OF_MONTH = re.compile(r"(?:(\d{4})(\s*年\s*))?(\d{1,2})(\s*月)(份|初|底|末|[上中下]旬|)")
_DAY_OF_PART = {"初": 3, "上旬": 5, "中旬": 15, "份": 15, "": 15, "下旬": 25, "末": 28, "底": 28}
_YEAR = re.compile(r"(\d{4})(\s*年)")
_SHORT = re.compile(r"(\d\d)([/.-])(\d{1,2})([/.-])(\d{1,2})()")
_SHORT_MONTH = re.compile(r"(\d\d)(年)(?:(\d{1,2})(月份?))?")
_SHORT_YEAR = re.compile(r"(\d\d)(年)(\d{1,2})(月)(\d{1,2})([日号])")
_MONTH_DAY = re.compile(r"(\d{1,2})(\s*[月./-]\s*)(\d{1,2})([日号]?)")
_DAY = re.compile(r"(\d{1,2})([日号])")
_YEAR_LAST = re.compile(r"(\d{1,2})([/-])(\d{1,2})([/-])(\d{4})")
_NAMED_FIRST = re.compile(r"([A-Z][a-z]+)(\.?\s)(\d{1,2})(?:st|nd|rd|th)?(,?\s)(\d{4})")
_DAY_FIRST = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?(\s|-)([A-Z][a-z]+)(\.?,?\s|-)(\d{4})")
_NAMED_MONTH = re.compile(r"([A-Z][a-z]+)(\.?,?\s)(\d{4})")
_IN_WORDS = re.compile(
    r"([一二][^年]{3})年(?:([一二三四五六七八九十]+)月(?:([一二三四五六七八九十]+)([日号]))?)?"
)
_DIGITS = "〇一二三四五六七八九"
_LONG_NAMES = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


class DateShifter:
    """Moves all dates of one patient by the same number of days, whatever form they are written in.

    A date that names no year takes the year named last. A month alone moves as its 15th day does, a
    year alone as its 1st of July does.
    """

    def __init__(self, offset_days: int) -> None:
        self.offset = timedelta(days=offset_days)
        self._last = date(_YEAR_WHERE_NONE_IS_NAMED, 1, 1)

    def shift(self, text: str) -> str:
        """Rewrite one date in its own form; a text that is no date comes back as it was."""
        try:
            return self._shift(text.replace("元月", "1月"))
        except (ValueError, OverflowError):
            return text

    def _move(self, year: str | int, month: str | int, day: str | int) -> date:
        month_end = (
            31 if int(month) == 12 else (date(int(year), int(month) + 1, 1) - timedelta(days=1)).day
        )
        self._last = date(
            int(year), int(month), min(int(day), month_end) if int(day) <= 31 else int(day)
        )
        return self._last + self.offset

    def _shift(self, text: str) -> str:
        if m := _FULL.fullmatch(text):
            new = self._move(m[1], m[3], m[5])
            is_padded = "0" in {m[3][0], m[5][0]} or ("-" in m[2] and len(m[3] + m[5]) == 4)
            width = "02d" if is_padded else "d"
            return f"{new.year}{m[2]}{new.month:{width}}{m[4]}{new.day:{width}}{m[6]}"
        if m := _SHORT_MONTH.fullmatch(text):
            new = self._move(_century(m[1]), m[3] or 7, 15 if m[3] else 1)
            return f"{new.year % 100:02d}{m[2]}" + (
                f"{_like(m[3], new.month)}{m[4]}" if m[3] else ""
            )
        if m := _SHORT_YEAR.fullmatch(text) or _SHORT.fullmatch(text):
            new = self._move(_century(m[1]), m[3], m[5])
            return f"{new.year % 100:02d}{m[2]}{_like(m[3], new.month)}{m[4]}{_like(m[5], new.day)}{m[6]}"
        if m := _COMPACT.fullmatch(text):
            return self._move(m[1], m[2], m[3]).strftime("%Y%m%d")
        if m := _MONTH.fullmatch(text):
            new = self._move(m[1], m[3], 15)
            return f"{new.year}{m[2]}{_like(m[3], new.month)}{m[4]}"
        if m := _YEAR.fullmatch(text):
            return f"{self._move(m[1], 7, 1).year}{m[2]}"
        if m := _PART_OF_MONTH.fullmatch(text):
            new = self._move(m[1] or self._last.year, m[3], _DAY_OF_PART[m[5]])
            year = f"{new.year}{m[2]}" if m[1] else ""
            return f"{year}{_like(m[3], new.month)}{m[4]}{_part_like(m[5], new.day)}"
        if m := _MONTH_DAY.fullmatch(text):
            is_leap_day = (int(m[1]), int(m[3])) == (2, 29)
            new = self._move(
                _YEAR_WHERE_NONE_IS_NAMED if is_leap_day else self._last.year, m[1], m[3]
            )
            padding = "0" if "月" not in m[2] and "0" in {m[1][0], m[3][0]} else ""
            return f"{_like(padding + m[1], new.month)}{m[2]}{_like(padding + m[3], new.day)}{m[4]}"
        if m := _DAY.fullmatch(text):
            return self._shift_day(int(m[1]), m[2])
        return self._shift_english(text) or self._shift_in_words(text) or text

    def _shift_english(self, text: str) -> str:
        if m := _YEAR_LAST.fullmatch(text):
            # Month first, as Americans write; day first where it can be read in no other way.
            is_month_first = int(m[1]) <= 12
            new = self._move(m[5], *((m[1], m[3]) if is_month_first else (m[3], m[1])))
            first, second = (new.month, new.day) if is_month_first else (new.day, new.month)
            width = "02d" if "0" in {m[1][0], m[3][0]} else "d"
            return f"{first:{width}}{m[2]}{second:{width}}{m[4]}{new.year}"
        if m := _NAMED_FIRST.fullmatch(text):
            new = self._move(m[5], MONTHS[m[1]], m[3])
            return f"{_name_like(m[1], new.month)}{m[2]}{new.day}{m[4]}{new.year}"
        if m := _DAY_FIRST.fullmatch(text):
            new = self._move(m[5], MONTHS[m[3]], m[1])
            return f"{new.day}{m[2]}{_name_like(m[3], new.month)}{m[4]}{new.year}"
        if m := _NAMED_MONTH.fullmatch(text):
            new = self._move(m[3], MONTHS[m[1]], 15)
            return f"{_name_like(m[1], new.month)}{m[2]}{new.year}"
        return ""

    def _shift_in_words(self, text: str) -> str:
        m = _IN_WORDS.fullmatch(text)
        if m is None:
            return ""
        year = re.sub("[零○O0]", "〇", m[1])
        new = self._move(
            "".join(str(_DIGITS.index(digit)) for digit in year),
            *((_read(m[2]), _read(m[3] or "十五")) if m[2] else (7, 1)),
        )
        written = "".join(_DIGITS[int(digit)] for digit in str(new.year)) + "年"
        if m[2]:
            written += _in_words(new.month) + "月"
        return written + (f"{_in_words(new.day)}{m[4]}" if m[3] else "")

    def _shift_day(self, day: int, sign: str) -> str:
        """Move a day whose month was named before; the new month is written where it is another
        one."""
        written = self._last + self.offset
        following = self._last.replace(day=1) + timedelta(days=31 if day < self._last.day else 0)
        new = self._move(following.year, following.month, day)
        return f"{new.day}{sign}" if new.month == written.month else f"{new.month}月{new.day}{sign}"


def _century(year: str) -> int:
    """Write a year of two digits out."""
    return (1900 if int(year) > 50 else 2000) + int(year)


def _like(old: str, new: int) -> str:
    """Write a number as wide as the old one if that was padded."""
    return f"{new:02d}" if old.startswith("0") else str(new)


def _part_like(old: str, day: int) -> str:
    """Name the part of a month in which a day lies; a month alone stays one."""
    return old if old in {"", "份"} else "上旬" if day <= 10 else "中旬" if day <= 20 else "下旬"


def _name_like(old: str, month: int) -> str:
    """Name a month as short as the old one is written."""
    name = _LONG_NAMES[month - 1]
    return name if old in _LONG_NAMES and old != "May" else name[:3]


def _read(numeral: str) -> int:
    """Read a numeral up to 31.

    >>> [_read(numeral) for numeral in ("三", "十", "十二", "二十", "三十一")]
    [3, 10, 12, 20, 31]
    """
    tens, mark, ones = numeral.rpartition("十")
    return (_DIGITS.index(tens or "一") * 10 if mark else 0) + (_DIGITS.index(ones) if ones else 0)


def _in_words(number: int) -> str:
    """Write a number up to 31 as a numeral."""
    tens, ones = divmod(number, 10)
    return ("" if tens == 0 else "十" if tens == 1 else _DIGITS[tens] + "十") + (
        _DIGITS[ones] if ones or not tens else ""
    )
