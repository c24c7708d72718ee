"""The hours in which a provider charges more, and when the next cheap one begins.

In: an aware moment. Out: whether it is dear, and until when. Public holidays come from the
maintained library `chinesecalendar`; for years it does not know yet every weekday counts as a
workday, so a price is then too high, never too low.
Not done here: the prices themselves (`completers.providers`).
"""

from datetime import date, datetime, timedelta, timezone
from typing import Annotated, Literal

from pydantic import Field

from medkd.core.records import Record

When = Literal["now", "off-peak"]
HORIZON_DAYS = 15
"""No run of dear days is longer than this."""


class Peak(Record):
    """The hours in which a provider charges its peak price."""

    utc_offset_h: Annotated[float, Field(ge=-12, le=14)]
    weekdays: tuple[int, ...]
    hours: tuple[tuple[int, int], ...]
    holidays: Literal["", "china"] = ""
    """Whose public holidays are cheap all day."""

    def covers(self, when: datetime) -> bool:
        """Tell whether an aware moment lies in the peak."""
        local = self._local(when)
        return any(first <= local.hour < last for first, last in self.hours) and self._is_dear_day(
            local.date()
        )

    def end_after(self, when: datetime) -> datetime:
        """Give the moment from which it is cheap: `when` itself outside the peak."""
        local = self._local(when)
        limit = local + timedelta(days=HORIZON_DAYS)
        while self.covers(local) and local < limit:
            local = local.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        return local

    def _local(self, when: datetime) -> datetime:
        return when.astimezone(timezone(timedelta(hours=self.utc_offset_h)))

    def _is_dear_day(self, day: date) -> bool:
        return day.weekday() in self.weekdays and not (
            self.holidays == "china" and is_holiday_in_china(day)
        )


def is_holiday_in_china(day: date) -> bool:
    """Tell whether a day is a public holiday in mainland China; no for years that are not announced
    yet.

    >>> is_holiday_in_china(date(2026, 10, 1)), is_holiday_in_china(date(2099, 10, 1))
    (True, False)
    """
    import chinese_calendar

    try:
        return chinese_calendar.is_holiday(day)
    except RuntimeError:  # how the library says that it does not know a year yet
        return False
