import socket
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from ledger_reading import list_attempts
from medkd.completers.client import LedgerClient
from medkd.completers.endpoint import TimeLimits
from medkd.completers.ledger import Ledger
from medkd.completers.outcomes import (
    FREE,
    AttemptOutcome,
    MissingPart,
    RetryPolicy,
    read_retry_after,
)
from medkd.completers.providers import find_target
from medkd.completers.scheduler import RunOptions
from medkd.core.errors import InputError, StoppedError
from medkd.core.records import Message, Request, Sampling
from medkd.demo.dialogue import Fault
from medkd.demo.teacher import serve_teacher

MISSING = MissingPart("no part", is_at_end=False)
HASTY = RetryPolicy(backoff_s=0.01, backoff_cap_s=0.05, drain_s=1.0)


def ask(number: int, max_tokens: int = 1024, thinking: bool = False) -> Request:
    text = f"<diagnosis>化脓性脑膜炎{number}</diagnosis><record>【主诉】发热伴头痛{number}天。【查体】颈强直，体温39.{number}℃。</record>"
    return Request(
        messages=(Message(role="user", content=text),),
        sampling=Sampling(max_tokens=max_tokens, thinking=thinking),
    )


def open_completer(
    ledger, base_url, concurrency=4, limits=None, has_prefix=False, **more
) -> LedgerClient:
    target = find_target("rehearsal", "", base_url)
    more = {"retry": HASTY, "limits": limits or TimeLimits(), **more}
    return LedgerClient(
        target if has_prefix else replace(target, prefix=None),
        ledger,
        RunOptions(concurrency=concurrency, **more),
    )


@pytest.mark.parametrize("thinking", [True, False])
def test_reasoning_comes_beside_the_content_or_tagged_within_it(tmp_path, thinking):
    with serve_teacher(latency_s=0) as teacher, Ledger(tmp_path / "l.sqlite") as ledger:
        [answer] = open_completer(ledger, teacher.base_url).complete([ask(1, thinking=thinking)])
    assert answer.complete
    assert bool(answer.reasoning) == thinking
    assert ("<think>" in answer.text) != thinking
    assert answer.usage == teacher.bill.usage
    assert answer.cost.amount == pytest.approx(teacher.bill.amount)


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault.RATE_LIMIT, AttemptOutcome.RATE_LIMITED),
        (Fault.SERVER_ERROR, AttemptOutcome.OVERLOADED),
        (Fault.OVERLOADED, AttemptOutcome.OVERLOADED),
        (Fault.EMPTY_BODY, AttemptOutcome.EMPTY),
        (Fault.CUT, AttemptOutcome.CUT),
        (Fault.ERROR_IN_STREAM, AttemptOutcome.STREAM_ERROR),
        (Fault.LENGTH, AttemptOutcome.LENGTH),
        (Fault.SILENCE, AttemptOutcome.SILENT),
    ],
)
def test_each_passing_fault_is_named_and_another_try_is_made(tmp_path, fault, outcome, monkeypatch):
    path = tmp_path / "l.sqlite"
    waits = []
    wait_s = RetryPolicy.wait_s
    monkeypatch.setattr(
        RetryPolicy, "wait_s", lambda *given: waits.append(wait_s(*given)) or waits[-1]
    )
    with serve_teacher(latency_s=0, script=[fault]) as teacher, Ledger(path) as ledger:
        [answer] = open_completer(
            ledger, teacher.base_url, limits=TimeLimits(silence_s=0.2)
        ).complete([ask(1)])
    assert answer.complete
    assert answer.attempts == 2
    first, second = list_attempts(path)
    assert (first.outcome, second.outcome) == (outcome, AttemptOutcome.COMPLETE)
    assert (first.amount > 0) == (outcome not in FREE)
    if outcome is AttemptOutcome.RATE_LIMITED:
        assert waits[0] >= 1.0


def test_text_of_a_broken_attempt_stays_on_the_ledger(tmp_path):
    with (
        serve_teacher(latency_s=0, script=[Fault.CUT]) as teacher,
        Ledger(tmp_path / "l.sqlite") as ledger,
    ):
        completer = open_completer(ledger, teacher.base_url)
        [answer] = completer.complete([ask(1)])
        broken, whole = ledger.attempts_of(completer.key_of(ask(1)))
    assert whole.text == answer.text
    assert len(broken.text) > 10


def test_many_requests_survive_half_of_them_failing_and_nothing_complete_is_bought_twice(tmp_path):
    path = tmp_path / "l.sqlite"
    requests = [ask(n) for n in range(60)]
    with serve_teacher(latency_s=0.001, faults=0.5, seed=3) as teacher, Ledger(path) as ledger:
        answers = open_completer(ledger, teacher.base_url, concurrency=16).complete(requests)
        n_before = teacher.bill.requests
        again = open_completer(ledger, teacher.base_url, concurrency=16).complete(
            list(reversed(requests))
        )
        assert teacher.bill.requests == n_before
        edited = [ask(99), *requests[1:]]
        open_completer(ledger, teacher.base_url).complete(edited)
        assert teacher.bill.requests - n_before == len(
            ledger.attempts_of(open_completer(ledger, teacher.base_url).key_of(ask(99)))
        )
    assert all(answer.complete for answer in answers)
    assert [a.text for a in again] == [a.text for a in reversed(answers)]
    assert (
        max(
            Counter(
                a.item for a in list_attempts(path) if a.outcome is AttemptOutcome.COMPLETE
            ).values()
        )
        == 1
    )


def test_equal_requests_at_the_same_time_are_bought_once(tmp_path):
    with serve_teacher(latency_s=0.05) as teacher, Ledger(tmp_path / "l.sqlite") as ledger:
        answers = open_completer(ledger, teacher.base_url, concurrency=8).complete([ask(1)] * 8)
    assert teacher.bill.requests == 1
    assert len({answer.text for answer in answers}) == 1


def test_a_refused_request_fails_alone_with_the_words_of_the_server(tmp_path):
    with (
        serve_teacher(latency_s=0, script=[Fault.BAD_REQUEST]) as teacher,
        Ledger(tmp_path / "l.sqlite") as ledger,
    ):
        first, second = open_completer(ledger, teacher.base_url, concurrency=1).complete(
            [ask(1), ask(2)]
        )
    assert (first.complete, first.finish_reason, first.error, first.attempts) == (
        False,
        "refused",
        "400: invalid request",
        1,
    )
    assert second.complete


@pytest.mark.parametrize(
    ("fault", "said"), [(Fault.BAD_KEY, "wants a key"), (Fault.NO_BALANCE, "balance is empty")]
)
def test_a_refused_key_or_an_empty_balance_stops_everything_and_goes_on_later(
    tmp_path, fault, said
):
    with (
        serve_teacher(latency_s=0, script=[None, None, fault]) as teacher,
        Ledger(tmp_path / "l.sqlite") as ledger,
    ):
        with pytest.raises(StoppedError, match=said) as caught:
            open_completer(ledger, teacher.base_url, concurrency=1).complete(
                [ask(n) for n in range(20)]
            )
        assert teacher.bill.requests == 3
        answers = open_completer(ledger, teacher.base_url).complete([ask(n) for n in range(20)])
        assert teacher.bill.requests == 3 + 18
    assert "the same command again" in str(caught.value)
    assert all(answer.complete for answer in answers)


def test_the_key_stands_in_no_message_and_in_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDKD_REHEARSAL_KEY", "sk-very-secret")
    with (
        serve_foreign(401, b'{"error": {"message": "key sk-very-secret is invalid"}}') as base_url,
        Ledger(tmp_path / "l.sqlite") as ledger,
    ):
        with pytest.raises(StoppedError, match="refuses the key") as caught:
            open_completer(ledger, base_url).complete([ask(1)])
        assert "sk-very-secret" not in str(caught.value)
    assert all(b"sk-very-secret" not in file.read_bytes() for file in tmp_path.iterdir())


def test_the_budget_is_a_hard_stop_that_counts_what_is_in_flight(tmp_path):
    path = tmp_path / "l.sqlite"
    requests = [ask(n, max_tokens=300) for n in range(200)]
    with serve_teacher(latency_s=0.001) as teacher, Ledger(path) as ledger:
        with pytest.raises(StoppedError, match=r"--budget 0\.02"):
            open_completer(ledger, teacher.base_url, concurrency=32, budget=0.02).complete(requests)
        assert 0.01 < teacher.bill.amount <= 0.02
        assert all(a.outcome is AttemptOutcome.COMPLETE for a in list_attempts(path))
        open_completer(ledger, teacher.base_url, concurrency=32, budget=1.0).complete(requests)
    assert teacher.bill.billed == 200


def test_a_budget_without_a_known_price_is_refused(tmp_path):
    target = find_target("custom", "any", "http://127.0.0.1:9/v1")
    with (
        Ledger(tmp_path / "l.sqlite") as ledger,
        pytest.raises(InputError, match="no price is known"),
    ):
        LedgerClient(target, ledger, RunOptions(budget=1.0))


def test_a_limit_that_cut_the_answer_is_raised(tmp_path):
    with serve_teacher(latency_s=0) as teacher, Ledger(tmp_path / "l.sqlite") as ledger:
        [answer] = open_completer(ledger, teacher.base_url).complete([ask(1, max_tokens=40)])
    assert answer.complete
    assert answer.attempts > 1


def test_an_answer_without_a_part_is_asked_for_again_and_then_kept_as_a_failure(tmp_path):
    with serve_teacher(latency_s=0) as teacher, Ledger(tmp_path / "l.sqlite") as ledger:
        completer = open_completer(
            ledger,
            teacher.base_url,
            find_missing=lambda reasoning, text: MISSING if "脑膜炎1<" in text else None,
        )
        assert all(a.complete for a in completer.complete([ask(1)]))
        picky = open_completer(
            ledger,
            teacher.base_url,
            find_missing=lambda reasoning, text: None if "炎3" in text else MISSING,
        )
        failed, whole = picky.complete([ask(2), ask(3)])
    assert (failed.finish_reason, failed.error, failed.attempts, whole.complete) == (
        "unreadable",
        "no part",
        HASTY.n_unusable,
        True,
    )
    assert failed.text


def test_a_teacher_that_is_down_is_said_in_one_line(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        Ledger(tmp_path / "l.sqlite") as ledger,
        pytest.raises(
            InputError, match=r"no connection to .* start the teacher or check --base-url"
        ),
    ):
        open_completer(ledger, f"http://127.0.0.1:{port}/v1").complete([ask(n) for n in range(9)])


def test_a_teacher_that_does_nothing_but_fail_opens_the_breaker(tmp_path):
    with (
        serve_teacher(latency_s=0, script=[Fault.EMPTY_BODY] * 500) as teacher,
        Ledger(tmp_path / "l.sqlite") as ledger,
        pytest.raises(StoppedError, match="nothing but failures"),
    ):
        open_completer(ledger, teacher.base_url, concurrency=8).complete(
            [ask(n) for n in range(50)]
        )
    assert teacher.bill.requests <= HASTY.n_failures + 8


def test_whoever_waits_reads_why_nothing_comes_until_something_comes_again(tmp_path):
    troubles: list[str] = []
    with (
        serve_teacher(latency_s=0, script=[Fault.OVERLOADED] * 36) as teacher,
        Ledger(tmp_path / "l.sqlite") as ledger,
    ):
        completer = open_completer(
            ledger,
            teacher.base_url,
            retry=RetryPolicy(backoff_s=0.5, backoff_cap_s=1.0),
            on_progress=lambda progress: troubles.append(progress.trouble),
        )
        assert all(answer.complete for answer in completer.complete([ask(n) for n in range(8)]))
    assert any(trouble.startswith("503") for trouble in troubles)
    assert troubles[-1] == ""


class serve_foreign:  # noqa: N801 - reads as the verb it is
    """A server that answers every POST with one status and body."""

    def __init__(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "content_type", "said"),
    [
        (200, b"<html>welcome</html>", "text/html", "no chat completion but '<html>"),
        (200, b'{"hello": 1}', "application/json", "JSON that is no chat completion"),
        (404, b'{"detail": "no such model"}', "application/json", "404: no such model"),
        (302, b"", "text/html", "check --base-url"),
        (501, b"<html>Unsupported method</html>", "text/html", "not what was expected .501"),
        (
            400,
            b'{"error": "Model Not Exist"}',
            "application/json",
            "every request is refused .400: Model Not Exist",
        ),
    ],
)
def test_what_is_no_endpoint_or_knows_no_such_model_is_said_at_once(
    tmp_path, status, body, content_type, said
):
    with (
        serve_foreign(status, body, content_type) as base_url,
        Ledger(tmp_path / "l.sqlite") as ledger,
        pytest.raises(InputError, match=said) as caught,
    ):
        open_completer(ledger, base_url).complete([ask(n) for n in range(40)])
    assert "\n" not in str(caught.value)


def test_an_endpoint_that_does_not_stream_is_understood(tmp_path):
    body = (
        b'\n\n{"choices": [{"index": 0, "message": {"content": "ok", "reasoning_content": "so"}, "finish_reason": "stop"}],\n'
        b'"usage": {"prompt_tokens": 3, "completion_tokens": 2}}'
    )
    with serve_foreign(200, body) as base_url, Ledger(tmp_path / "l.sqlite") as ledger:
        [answer] = open_completer(ledger, base_url).complete([ask(1)])
    assert (answer.complete, answer.reasoning, answer.text, answer.usage.prompt) == (
        True,
        "so",
        "ok",
        3,
    )


def test_a_retry_after_header_is_seconds_or_a_date():
    assert read_retry_after("7") == 7.0
    assert read_retry_after("1e9") == 600.0
    assert read_retry_after("nan") == 0.0
    assert read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert read_retry_after("Fri, 21 Oct 2099 07:28:00 GMT") == 600.0
