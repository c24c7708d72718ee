from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.completers.dispatch import PaidCompleter, Terms
from medkd.completers.endpoint import Endpoint
from medkd.completers.ledger import Ledger
from medkd.completers.providers import find_target, read_providers
from medkd.core.completer import Message, Request
from medkd.core.errors import InputError
from medkd.demo.teacher import serve_teacher

BEIJING = timezone(timedelta(hours=8))
PEAK = read_providers()["deepseek"].peak


def at(*when: int) -> datetime:
    return datetime(*when, tzinfo=BEIJING)


@pytest.mark.parametrize(
    ("when", "cheap_from"),
    [
        (at(2026, 11, 24, 9, 0), at(2026, 11, 24, 12)),
        (at(2026, 11, 24, 11, 59, 59), at(2026, 11, 24, 12)),
        (at(2026, 11, 24, 14, 30), at(2026, 11, 24, 18)),
        (datetime(2026, 11, 24, 3, 30, tzinfo=UTC), at(2026, 11, 24, 12)),
    ],
)
def test_the_cheap_hours_begin_where_the_dear_ones_end(when, cheap_from):
    assert PEAK.covers(when)
    assert PEAK.end_after(when) == cheap_from
    assert not PEAK.covers(cheap_from)


@pytest.mark.parametrize(
    "when",
    [
        at(2026, 11, 24, 12, 30),
        at(2026, 11, 24, 8, 59),
        at(2026, 11, 22, 10),  # a Sunday
        at(2026, 10, 1, 10),  # National Day, a Thursday
        at(
            2026, 2, 14, 10
        ),  # a Saturday that is worked for the Spring Festival: not Monday to Friday
    ],
)
def test_nights_weekends_and_public_holidays_are_cheap(when):
    assert not PEAK.covers(when)
    assert PEAK.end_after(when) == when


@given(st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)))
def test_wherever_one_asks_it_is_cheap_when_it_is_said_to_be(when):
    end = PEAK.end_after(when.replace(tzinfo=UTC))
    assert not PEAK.covers(end)
    assert end - when.replace(tzinfo=UTC) <= timedelta(hours=4)


def test_a_run_waits_for_the_cheap_hours_and_counts_down(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk")
    clock = iter([at(2026, 11, 24, 11, 59, 58), at(2026, 11, 24, 11, 59, 59, 800_000)])
    waits: list[float] = []
    with serve_teacher(latency_s=0) as teacher, Ledger(tmp_path / "l.sqlite") as ledger:
        terms = Terms(
            when="off-peak",
            clock=lambda: next(clock, at(2026, 11, 24, 12)),
            on_progress=lambda tally: waits.append(tally.waits_s),
        )
        completer = PaidCompleter(
            Endpoint(find_target("deepseek", "", teacher.base_url)), ledger, terms
        )
        [answer] = completer.complete(
            [Request(messages=(Message(role="user", content="【主诉】发热3天。"),))]
        )
    assert answer.complete
    assert max(waits) == 2.0
    assert waits[-1] == 0.0


def test_waiting_where_no_dear_hours_are_known_is_refused(tmp_path):
    with (
        Ledger(tmp_path / "l.sqlite") as ledger,
        pytest.raises(InputError, match="--when off-peak: no dear hours are known for rehearsal"),
    ):
        PaidCompleter(Endpoint(find_target("rehearsal")), ledger, Terms(when="off-peak"))
