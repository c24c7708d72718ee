import asyncio
import socket
import threading
import time

import pytest

from ledger_reading import list_attempts
from medkd.completers import scheduler
from medkd.completers.client import LedgerClient
from medkd.completers.endpoint import Address, TimeLimits
from medkd.completers.ledger import Ledger
from medkd.completers.outcomes import AttemptOutcome, RetryPolicy
from medkd.completers.providers import find_target
from medkd.completers.scheduler import Places, RunOptions
from medkd.core.errors import InputError
from medkd.core.records import Message, Request
from medkd.demo.teacher import serve_teacher

REQUESTS = [Request(messages=(Message(role="user", content=f"发热{n}天"),)) for n in range(40)]
OPTIONS = RunOptions(concurrency=4, retry=RetryPolicy(backoff_s=0.01, backoff_cap_s=0.05))


def find_free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_addresses_of_one_model_share_the_work_and_pay_once_on_one_ledger(tmp_path):
    with (
        serve_teacher(latency_s=0.02) as one,
        serve_teacher(latency_s=0.02) as other,
        Ledger(tmp_path / "l.sqlite") as ledger,
    ):
        target = find_target("rehearsal", "", f"{one.base_url},{other.base_url}")
        client = LedgerClient(target, ledger, OPTIONS)
        assert all(answer.complete for answer in client.complete(REQUESTS))
        assert min(one.bill.requests, other.bill.requests) > 5
        assert one.bill.requests + other.bill.requests == len(REQUESTS)
        moved = find_target("rehearsal", "", other.base_url)
        assert LedgerClient(moved, ledger).run([("a", REQUESTS[0])], 1).n_cached == 1


def test_an_address_that_nobody_answers_at_is_left_out_and_costs_no_item_a_try(tmp_path, capsys):
    dead = f"http://127.0.0.1:{find_free_port()}/v1"
    with serve_teacher() as alive, Ledger(tmp_path / "l.sqlite") as ledger:
        target = find_target("rehearsal", "", f"{dead},{alive.base_url}")
        options = RunOptions(concurrency=4, retry=RetryPolicy(n_tries=1))
        answers = LedgerClient(target, ledger, options).complete(REQUESTS)
        assert all(answer.complete for answer in answers)
        assert alive.bill.requests == len(REQUESTS)
    assert f"no connection to {dead}" in (said := capsys.readouterr().err)
    assert "left out, tried again in" in said


def test_an_address_that_dies_in_the_middle_loses_no_item(tmp_path):
    dying = serve_teacher(latency_s=0.02)
    dying.__enter__()
    stopped: list[bool] = []

    def stop_at_ten(progress: scheduler.Progress) -> None:
        if progress.n_new >= 10 and not stopped:
            stopped.append(True)
            dying._loop.call_soon_threadsafe(dying._stop.set)

    options = RunOptions(concurrency=4, retry=OPTIONS.retry, on_progress=stop_at_ten)
    with serve_teacher(latency_s=0.02) as alive, Ledger(tmp_path / "l.sqlite") as ledger:
        target = find_target("rehearsal", "", f"{dying.base_url},{alive.base_url}")
        answers = LedgerClient(target, ledger, options).complete(REQUESTS)
    assert stopped and all(answer.complete for answer in answers)
    done = [a.item for a in list_attempts(tmp_path / "l.sqlite") if a.outcome == "complete"]
    assert len(done) == len(set(done)) == len(REQUESTS)


def test_an_address_left_out_is_tried_again_by_one_attempt(monkeypatch):
    monkeypatch.setattr(scheduler, "LEFT_OUT_S", 0.01)

    async def play() -> tuple[bool, bool, int]:
        ports = (1, 2)
        one, other = (
            Address(
                find_target("custom", "m", f"http://127.0.0.1:{port}/v1"),
                TimeLimits(),
                RetryPolicy(),
                8,
            )
            for port in ports
        )
        places = Places([one, other])
        was_left_out = places.leave_out(one, "no connection")
        assert await places.enter() is other
        is_last_kept = not places.leave_out(other, "no connection")
        await asyncio.sleep(0.05)
        assert not one.is_left_out
        return was_left_out, is_last_kept, one.limit.n_free

    assert asyncio.run(play()) == (True, True, 1)


def test_where_no_address_answers_the_run_stops_and_says_so(tmp_path):
    dead = [f"http://127.0.0.1:{find_free_port()}/v1" for _ in range(2)]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        target = find_target("rehearsal", "", ",".join(dead))
        with pytest.raises(InputError, match="start the teacher or check --base-url"):
            LedgerClient(target, ledger, OPTIONS).complete(REQUESTS)
    assert {a.outcome for a in list_attempts(tmp_path / "l.sqlite")} <= {
        AttemptOutcome.UNREACHABLE,
        AttemptOutcome.INTERRUPTED,
    }


def test_a_short_outage_of_the_one_that_answers_is_waited_for_while_another_is_dead(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(scheduler, "LEFT_OUT_S", 0.05)
    port, dead = find_free_port(), f"http://127.0.0.1:{find_free_port()}/v1"
    restarted: list[threading.Thread] = []

    def restart() -> None:
        serving.pop().__exit__()
        time.sleep(0.5)
        serving.append(serve_teacher(port, latency_s=0.02).__enter__())

    def restart_at_ten(progress: scheduler.Progress) -> None:
        if progress.n_new >= 10 and not restarted:
            restarted.append(threading.Thread(target=restart))
            restarted[0].start()

    retry = RetryPolicy(n_tries=1000, backoff_s=0.01, backoff_cap_s=0.05)
    options = RunOptions(concurrency=4, retry=retry, on_progress=restart_at_ten)
    serving = [serve_teacher(port, latency_s=0.02).__enter__()]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        target = find_target("rehearsal", "", f"http://127.0.0.1:{port}/v1,{dead}")
        try:
            answers = LedgerClient(target, ledger, options).complete(REQUESTS)
        finally:
            restarted[0].join()
            serving.pop().__exit__()
    assert all(answer.complete for answer in answers)
