import asyncio

from medkd.completers.client import LedgerClient
from medkd.completers.endpoint import Address, TimeLimits
from medkd.completers.ledger import Ledger
from medkd.completers.outcomes import AdaptiveLimit, AttemptOutcome, RetryPolicy
from medkd.completers.providers import find_target
from medkd.completers.scheduler import Places, RunOptions
from medkd.core.records import Message, Request
from medkd.demo.teacher import serve_teacher


def make_address(cap: int, number: int = 1) -> Address:
    target = find_target("custom", "any", f"http://127.0.0.1:{number}/v1")
    return Address(target, TimeLimits(), RetryPolicy(), cap)


def test_nobody_enters_past_the_limit_and_a_place_given_back_is_taken():
    async def play() -> list[int]:
        address, seen = make_address(2), []
        places = Places([address])

        async def visit() -> None:
            assert await places.enter() is address
            seen.append(address.limit.n_inside)
            await asyncio.sleep(0.01)
            places.leave(address)

        await asyncio.gather(*(visit() for _ in range(9)))
        return seen

    seen = asyncio.run(play())
    assert len(seen) == 9
    assert max(seen) == 2


def test_it_shrinks_to_what_is_served_once_a_round_and_grows_back():
    limit = AdaptiveLimit(100)
    for _ in range(30):
        limit.note_accepted()
    for _ in range(50):
        limit.note_ended(AttemptOutcome.RATE_LIMITED, was_accepted=False, seconds=0.0)
    assert limit.limit == 50
    limit._shrunk_at = -1e9
    limit.note_ended(AttemptOutcome.RATE_LIMITED, was_accepted=False, seconds=0.0)
    assert limit.limit == 30
    for _ in range(30):
        limit.note_ended(AttemptOutcome.COMPLETE, was_accepted=True, seconds=0.0)
    assert 34 < limit.limit < 36


def test_faults_that_have_nothing_to_do_with_load_do_not_slow_it_down():
    limit = AdaptiveLimit(100)
    for _ in range(95):
        limit.note_accepted()
    limit.note_ended(AttemptOutcome.OVERLOADED, was_accepted=False, seconds=0.0)
    assert limit.limit == 95


def test_a_closed_gate_lets_nobody_in_and_sends_those_who_wait_away():
    async def play() -> list[Address | None]:
        places = Places([make_address(1)])
        assert await places.enter()
        waiting = [asyncio.create_task(places.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        places.close()
        return [*await asyncio.gather(*waiting), await places.enter()]

    assert asyncio.run(play()) == [None] * 4


def test_a_cap_that_the_provider_never_told_is_found(tmp_path):
    requests = [
        Request(messages=(Message(role="user", content=f"【主诉】发热{n}天。"),))
        for n in range(300)
    ]
    limits: list[int] = []
    with (
        serve_teacher(latency_s=0.1, streams=12) as teacher,
        Ledger(tmp_path / "l.sqlite") as ledger,
    ):
        options = RunOptions(
            concurrency=64,
            retry=RetryPolicy(backoff_s=0.02, backoff_cap_s=0.1),
            on_progress=lambda progress: limits.append(progress.limit),
        )
        target = find_target("rehearsal", "", teacher.base_url)
        answers = LedgerClient(target, ledger, options).complete(requests)
        assert teacher.bill.most_streams <= 12
    assert all(a.complete for a in answers)
    assert sorted(limits[-100:])[50] <= 20
