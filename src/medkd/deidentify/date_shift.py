"""Dates of one patient, moved together: each comes out in the form it was written in.

In: the normalised text of a date and the days to move by. Out: the moved date, or None. Not done
here: finding dates (`dates`); the number of days, and what stands for a date that cannot be moved
(`replace`).

>>> shifter = DateShifter(-20)
>>> [shifter.shift(text) for text in ("2021年3月5日", "3月8日", "March 9, 2021", "2021-00-00")]
['2021年2月13日', '2月16日', 'February 17, 2021', None]
"""

import re
from datetime import date, timedelta

from medkd.deidentify.dates import LONG_MONTHS, MONTHS, NUMERAL

_YEAR_WHERE_NONE_IS_NAMED = 2020
_FULL = re.compile(r"(\d{4})(\s*[-/.年]\s*)(\d{1,2})(\s*[-/.月]\s*)(\d{1,2})(\s*[日号]?)")
_COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)")
_MONTH_OF_YEAR = re.compile(r"(\d{4})(\s*[-/.年]\s*)(\d{1,2})(\s*月份?|)")
_PART_OF_MONTH = re.compile(r"(?:(\d{4})(\s*年\s*))?(\d{1,2})(\s*月)(份|初|底|末|[上中下]旬|)")
_DAY_OF_PART = {"初": 3, "上旬": 5, "中旬": 15, "份": 15, "": 15, "下旬": 25, "末": 28, "底": 28}
_YEAR_ALONE = re.compile(r"((?:19|20)\d\d)(\s*年|)")
_SHORT = re.compile(r"(\d\d)([/.-])(\d{1,2})([/.-])(\d{1,2})()")
_SHORT_MONTH = re.compile(r"(\d\d)(年)(?:(\d{1,2})(月份?))?")
_SHORT_YEAR = re.compile(r"(\d\d)(年)(\d{1,2})(月)(\d{1,2})([日号])")
_MONTH_DAY = re.compile(r"(\d{1,2})(\s*[月./-]\s*)(\d{1,2})(\s*[日号]?)")
_DAY = re.compile(r"(\d{1,2})([日号]?)")
_SHORT_YEAR_LAST = re.compile(r"(\d{1,2})([/-])(\d{1,2})([/-])(\d\d)")
_YEAR_LAST = re.compile(r"(\d{1,2})([/-])(\d{1,2})([/-])(\d{4})")
_NAMED_FIRST = re.compile(r"([A-Z][a-z]+)(\.?\s)(\d{1,2})(?:st|nd|rd|th)?(?:(,?\s)(\d{4}))?")
_DAY_FIRST = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?(\s|-)([A-Z][a-z]+)(?:(\.?,?\s|-)(\d{4}))?")
_NAMED_MONTH = re.compile(r"([A-Z][a-z]+)(\.?,?\s)(\d{4})")
_NAMED_RANGE = re.compile(
    r"(?:([A-Z][a-z]+)\.?\s)?(\d{1,2})[a-z]*(\s?(?:-|to|through|and|&)\s?)(\d{1,2})(?:st|nd|rd|th)?"
    r"(?:\s([A-Z][a-z]+)\.?)?(?:(,?\s)(\d{4}))?"
)
_IN_WORDS = re.compile(
    rf"(?:([一二][^年]{{3}})年)?(?:({NUMERAL}{{1,3}})月(?:({NUMERAL}{{1,3}})([日号]))?)?"
)
_DAY_IN_WORDS = re.compile(rf"({NUMERAL}{{1,3}})([日号])")
_DIGITS = "〇一二三四五六七八九"


class DateShifter:
    """Moves all dates of one patient by the same number of days, whatever form they are written in.

    A date that names no year takes the year named last. A month alone moves as its 15th day does, a
    year alone as its 1st of July does; the 30th of February as the last day of that month.
    """

    def __init__(self, offset_days: int) -> None:
        self.offset = timedelta(days=offset_days)
        self._last = date(_YEAR_WHERE_NONE_IS_NAMED, 1, 1)
        self._has_month = False

    def shift(self, text: str, is_month_first: bool = False) -> str | None:
        """Rewrite one date in its own form; None where it cannot be moved. `is_month_first` reads
        3/5/21 as the 5th of March."""
        try:
            if is_month_first and (m := _SHORT_YEAR_LAST.fullmatch(text.strip())):
                new = self._move(_century(m[5]), m[1], m[3])
                day = f"{_like(m[1], new.month)}{m[2]}{_like(m[3], new.day)}"
                return f"{day}{m[4]}{new.year % 100:02d}"
            return self._shift(text.strip().replace("元月", "1月"))
        except (ValueError, OverflowError, KeyError):
            return None

    def _move(self, year: str | int, month: str | int, day: str | int) -> date:
        year, month, day = int(year), int(month), int(day)
        following = date(year + month // 12, month % 12 + 1, 1)
        month_end = (following - timedelta(days=1)).day
        self._last = date(year, month, min(day, month_end) if day <= 31 else day)
        self._has_month = True
        return self._last + self.offset

    def _shift(self, text: str) -> str | None:
        if m := _FULL.fullmatch(text):
            new = self._move(m[1], m[3], m[5])
            is_padded = "0" in {m[3][0], m[5][0]} or ("-" in m[2] and len(m[3] + m[5]) == 4)
            width = "02d" if is_padded else "d"
            return f"{new.year}{m[2]}{new.month:{width}}{m[4]}{new.day:{width}}{m[6]}"
        if m := _SHORT_MONTH.fullmatch(text):
            new = self._move(_century(m[1]), m[3] or 7, 15 if m[3] else 1)
            month = f"{_like(m[3], new.month)}{m[4]}" if m[3] else ""
            return f"{new.year % 100:02d}{m[2]}{month}"
        if m := _SHORT_YEAR.fullmatch(text) or _SHORT.fullmatch(text):
            new = self._move(_century(m[1]), m[3], m[5])
            rest = f"{m[2]}{_like(m[3], new.month)}{m[4]}{_like(m[5], new.day)}{m[6]}"
            return f"{new.year % 100:02d}{rest}"
        if m := _COMPACT.fullmatch(text):
            return self._move(m[1], m[2], m[3]).strftime("%Y%m%d")
        if m := _MONTH_OF_YEAR.fullmatch(text):
            new = self._move(m[1], m[3], 15)
            return f"{new.year}{m[2]}{_like(m[3], new.month)}{m[4]}"
        if m := _YEAR_ALONE.fullmatch(text):
            return f"{self._move(m[1], 7, 1).year}{m[2]}"
        return (
            self._shift_without_year(text)
            or self._shift_english(text)
            or self._shift_in_words(text)
        )

    def _shift_without_year(self, text: str) -> str | None:
        if m := _PART_OF_MONTH.fullmatch(text):
            new = self._move(m[1] or self._last.year, m[3], _DAY_OF_PART[m[5]])
            year = f"{new.year}{m[2]}" if m[1] else ""
            return f"{year}{_like(m[3], new.month)}{m[4]}{_part_like(m[5], new.day)}"
        if m := _MONTH_DAY.fullmatch(text):
            is_leap_day = (int(m[1]), int(m[3])) == (2, 29)
            year = _YEAR_WHERE_NONE_IS_NAMED if is_leap_day else self._last.year
            new = self._move(year, m[1], m[3])
            padding = "0" if "月" not in m[2] and "0" in {m[1][0], m[3][0]} else ""
            month, day = _like(padding + m[1], new.month), _like(padding + m[3], new.day)
            return f"{month}{m[2]}{day}{m[4]}"
        if m := _DAY.fullmatch(text):
            new, is_new_month = self._move_day(int(m[1]))
            return f"{new.month}月{new.day}{m[2]}" if is_new_month else f"{new.day}{m[2]}"
        return None

    def _shift_english(self, text: str) -> str | None:
        if m := _YEAR_LAST.fullmatch(text):
            # Month first, as Americans write; day first where it can be read in no other way.
            is_month_first = int(m[1]) <= 12
            new = self._move(m[5], *((m[1], m[3]) if is_month_first else (m[3], m[1])))
            first, second = (new.month, new.day) if is_month_first else (new.day, new.month)
            width = "02d" if "0" in {m[1][0], m[3][0]} else "d"
            return f"{first:{width}}{m[2]}{second:{width}}{m[4]}{new.year}"
        if m := _NAMED_FIRST.fullmatch(text):
            new = self._move(m[5] or self._last.year, MONTHS[m[1]], m[3])
            year = f"{m[4]}{new.year}" if m[5] else ""
            return f"{_name_like(m[1], new.month)}{m[2]}{new.day}{year}"
        if m := _DAY_FIRST.fullmatch(text):
            new = self._move(m[5] or self._last.year, MONTHS[m[3]], m[1])
            year = f"{m[4]}{new.year}" if m[5] else ""
            return f"{new.day}{m[2]}{_name_like(m[3], new.month)}{year}"
        if m := _NAMED_MONTH.fullmatch(text):
            new = self._move(m[3], MONTHS[m[1]], 15)
            return f"{_name_like(m[1], new.month)}{m[2]}{new.year}"
        if m := _NAMED_RANGE.fullmatch(text):
            name, year = m[1] or m[5], m[7] or self._last.year
            first, last = (self._move(year, MONTHS[name], day) for day in (m[2], m[4]))
            names = [_name_like(name, day.month) for day in (first, last)]
            end = f"{m[6]}{last.year}" if m[7] else ""
            if m[1]:
                other = f"{names[1]} " if names[0] != names[1] else ""
                return f"{names[0]} {first.day}{m[3]}{other}{last.day}{end}"
            other = f" {names[0]}" if names[0] != names[1] else ""
            return f"{first.day}{other}{m[3]}{last.day} {names[1]}{end}"
        return None

    def _shift_in_words(self, text: str) -> str | None:
        if m := _DAY_IN_WORDS.fullmatch(text):
            new, is_new_month = self._move_day(_read(m[1]))
            month = f"{_in_words(new.month)}月" if is_new_month else ""
            return f"{month}{_in_words(new.day)}{m[2]}"
        m = _IN_WORDS.fullmatch(text)
        if m is None or not m[0]:
            return None
        year = re.sub("[零○O0]", "〇", m[1] or "")
        digits = "".join(str(_DIGITS.index(digit)) for digit in year)
        day = (_read(m[2]), _read(m[3] or "十五")) if m[2] else (7, 1)
        new = self._move(digits or self._last.year, *day)
        written = "".join(_DIGITS[int(digit)] for digit in str(new.year)) + "年" if year else ""
        if m[2]:
            written += _in_words(new.month) + "月"
        return written + (f"{_in_words(new.day)}{m[4]}" if m[3] else "")

    def _move_day(self, day: int) -> tuple[date, bool]:
        """Move a day whose month was named before; tell whether it comes into another month than
        the date before it."""
        written = self._last + self.offset
        is_of_next = self._has_month and day < self._last.day
        following = self._last.replace(day=1) + timedelta(days=31 if is_of_next else 0)
        had_month = self._has_month
        new = self._move(following.year, following.month, day)
        self._has_month = had_month
        return new, had_month and new.month != written.month


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
    name = LONG_MONTHS[month - 1]
    return name if old in LONG_MONTHS and old != "May" else name[:3]


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
