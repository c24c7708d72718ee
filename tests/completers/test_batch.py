"""Batches: submitted, waited for, gone on with after a kill, billed at half the price."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from batch_server import BatchServer, serve_batches, whole
from medkd.completers.batch import JOURNAL, BatchClient
from medkd.completers.ledger import FILE_NAME, Ledger
from medkd.completers.providers import Target, find_target, read_providers
from medkd.completers.scheduler import RunOptions
from medkd.core.errors import InputError, StoppedError
from medkd.core.records import Message, Request, Sampling
from medkd.distill.bill import bill, render


@pytest.fixture
def make_target(tmp_path: Path) -> Callable[[BatchServer], Target]:
    def make(server: BatchServer) -> Target:
        price = {"cache_hit": 10, "cache_miss": 10, "output": 20}
        entry = {
            "base_url": server.base_url,
            "key_variable": "NO_KEY",
            "currency": "CNY",
            "batch": {},
            "models": {"big": {"price": price, "as_of": "2026-11", "source": "a test"}},
        }
        path = tmp_path / "providers.yaml"
        path.write_text(json.dumps({"mine": entry}))
        read_providers.cache_clear()
        return find_target("mine", providers=path).as_batch()

    return make


def ask(n: int) -> list[Request]:
    return [Request(messages=(Message(role="user", content=f"问题{i}"),)) for i in range(n)]


def echo(body: dict) -> dict:
    assert "stream" not in body
    return whole(f"答{body['messages'][-1]['content'][2:]}")


def open_client(target: Target, ledger: Ledger, **options) -> BatchClient:
    return BatchClient(target, ledger, RunOptions(**options), poll_s=0.01)


def test_a_batch_is_submitted_waited_for_and_paid_half(tmp_path, make_target):
    with serve_batches(echo, n_polls=2) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        client = open_client(make_target(server), ledger)
        answers = client.complete(ask(5))
        assert [a.text for a in answers] == [f"答{i}" for i in range(5)]
        assert ledger.spent() == pytest.approx(5 * (100 * 10 + 50 * 20) / 1e6 / 2)
        client.complete(ask(6))
        assert (len(server.batches), server.count_asked()) == (2, 6)
        assert not (tmp_path / JOURNAL).exists()


def test_dashscope_takes_the_same_form_and_is_paid_half(tmp_path):
    with serve_batches(echo) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        target = find_target("dashscope", base_url=server.base_url)
        [answer] = open_client(target.as_batch(), ledger).complete(ask(1))
    assert (answer.text, server.batches["batch_0"]["completion_window"]) == ("答0", "24h")
    assert answer.cost.amount == pytest.approx(target.terms.price.amount(answer.usage) / 2)


def test_what_an_answer_calls_for_goes_into_the_next_batch(tmp_path, make_target):
    first, second, third = ask(3)
    calls = {"a": [("b", second)], "b": [("c", third)]}
    with serve_batches(echo) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        client = open_client(make_target(server), ledger)
        progress = client.run([("a", first)], 1, lambda label: calls.pop(label, ()))
        assert (progress.n_new, progress.n_added, len(server.batches)) == (3, 2, 3)


def test_equal_requests_are_sent_and_paid_once(tmp_path, make_target):
    same, other = ask(2)
    heard: list[str] = []
    with serve_batches(echo) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        client = open_client(make_target(server), ledger)
        labelled = [("a", same), ("b", same), ("c", other)]
        progress = client.run(labelled, 3, lambda label: heard.append(label) or ())
        assert (progress.n_new, progress.n_cached, sorted(heard)) == (2, 1, ["a", "b", "c"])
        assert (server.count_asked(), len(list(ledger.attempts()))) == (2, 2)


def test_a_cut_by_the_limit_is_asked_again_with_twice_the_room(tmp_path, make_target):
    def cut_below_200(body: dict) -> dict:
        n = body["max_tokens"]
        return whole("答", "length" if n < 200 else "stop", n_tokens=n)

    request = ask(1)[0].model_copy(update={"sampling": Sampling(max_tokens=50)})
    with serve_batches(cut_below_200) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        [answer] = open_client(make_target(server), ledger).complete([request])
        asked = [server.read_lines(b["input_file_id"]) for b in server.batches.values()]
    assert [line["body"]["max_tokens"] for [line] in asked] == [50, 100, 200]
    assert (answer.complete, answer.attempts) == (True, 3)


def test_a_kill_while_answers_are_written_down_puts_none_on_the_ledger_twice(
    tmp_path, make_target, monkeypatch
):
    keep = BatchClient._write_journal

    def die_at_the_end(self, batch) -> None:
        keep(self, batch) if batch else 1 / 0

    with serve_batches(lambda body: whole("答", "length")) as server:
        with monkeypatch.context() as patched, Ledger(tmp_path / FILE_NAME) as ledger:
            patched.setattr(BatchClient, "_write_journal", die_at_the_end)
            with pytest.raises(ZeroDivisionError):
                open_client(make_target(server), ledger).complete(ask(2))
        with Ledger(tmp_path / FILE_NAME) as ledger:
            with pytest.raises(StoppedError, match="not one of 2 was answered"):
                open_client(make_target(server), ledger).complete(ask(2))
            assert len(list(ledger.attempts())) == server.count_asked()


def test_a_batch_that_the_provider_refuses_to_open_is_forgotten(tmp_path, make_target):
    first, second = ask(2)
    with serve_batches(echo) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        client = open_client(make_target(server), ledger)
        server.refusal = "Billing hard limit has been reached"
        with pytest.raises(StoppedError, match=r"the balance is empty .*Billing hard limit"):
            client.complete([first])
        assert not (tmp_path / JOURNAL).exists()
        server.refusal = ""
        assert client.complete([second])[0].complete
        assert server.count_asked() == 1


def test_a_file_that_was_sent_before_a_kill_and_is_not_wanted_any_more_is_not_paid(
    tmp_path, make_target
):
    first, second = ask(2)
    with serve_batches(echo) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        client = open_client(make_target(server), ledger)
        items = {client.key_of(first): ["a", 3]}
        client._write_journal({"file": "file_9", "items": items, "submitted_at": ""})
        assert client.complete([second])[0].complete
        assert server.count_asked() == 1


@pytest.mark.parametrize(
    ("status", "code", "said"), [(400, "Arrearage", "balance is empty"), (401, "", "wants a key")]
)
def test_a_line_that_no_other_would_fare_better_than_stops_the_run(
    tmp_path, make_target, status, code, said
):
    line = {"response": {"status_code": status, "body": {"error": {"code": code}}}}
    with serve_batches(lambda body: line) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        with pytest.raises(StoppedError, match=said):
            open_client(make_target(server), ledger).complete(ask(3))
        assert not (tmp_path / JOURNAL).exists()


@pytest.mark.parametrize(
    ("status", "words", "does_stop"),
    [(404, "tool x not found", False), (400, "insufficient balance", True)],
)
def test_all_lines_of_a_batch_are_counted_before_one_of_them_stops_the_run(
    tmp_path, make_target, status, words, does_stop
):
    def answer(body):
        if body["messages"][-1]["content"] != ask(1)[0].messages[-1].content:
            return whole("答")
        return {"response": {"status_code": status, "body": {"error": {"message": words}}}}

    with serve_batches(answer) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        client, called = open_client(make_target(server), ledger), list[str]()
        labelled = [(f"q{n}", request) for n, request in enumerate(ask(3))]
        with pytest.raises(StoppedError) if does_stop else nullcontext():
            progress = client.run(labelled, 3, lambda label: called.append(label) or ())
            assert (progress.n_new, progress.n_failed) == (2, 1)
        assert called == ["q0", "q1", "q2"]


@pytest.mark.parametrize("is_opened", [True, False])
def test_after_a_kill_the_open_batch_is_gone_on_with_and_nothing_is_sent_twice(
    tmp_path, make_target, monkeypatch, is_opened
):
    class Killed(BaseException):
        pass

    async def die(self, batch, *more):
        if not is_opened:  # killed between the two calls: the provider has it, the journal not
            del batch["id"]
            self._write_journal(batch)
        raise Killed

    with serve_batches(echo) as server:
        target = make_target(server)
        with monkeypatch.context() as patched, Ledger(tmp_path / FILE_NAME) as ledger:
            patched.setattr(BatchClient, "_wait", die)
            with pytest.raises(Killed):
                open_client(target, ledger).complete(ask(4))
        found = bill(tmp_path)
        assert (found.submitted, found.attempts) == (4, 0)
        assert "4 requests are submitted and not fetched yet" in render(found)
        with Ledger(tmp_path / FILE_NAME) as ledger:
            client = open_client(target, ledger)
            assert [a.text for a in client.complete(ask(4))] == ["答0", "答1", "答2", "答3"]
            assert (len(server.batches), server.count_asked()) == (1, 4)
            assert len(list(ledger.attempts())) == 4
            assert client.totals == Counter(new=4)


def test_what_an_expired_batch_left_out_is_submitted_again(tmp_path, make_target):
    with serve_batches(echo) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        server.status, server.share = "expired", 0.5
        answers = open_client(make_target(server), ledger).complete(ask(4))
        assert sum(a.complete for a in answers) >= 3
        assert [len(server.read_lines(b["input_file_id"])) for b in server.batches.values()][
            :2
        ] == [4, 2]


def test_what_no_batch_answered_is_a_record_with_its_reason_and_costs_nothing(
    tmp_path, make_target
):
    with serve_batches(echo) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        server.status, server.share = "expired", 0.5
        answers = open_client(make_target(server), ledger).complete(ask(8))
        left = [a for a in answers if not a.complete]
        assert len(answers) == 8 and [a.finish_reason for a in left] == ["overloaded"]
        assert "the batch, which is expired" in left[0].error
        assert ledger.spent() == pytest.approx(7 * (100 * 10 + 50 * 20) / 1e6 / 2)


@pytest.mark.parametrize(
    ("line", "reason", "n_batches"),
    [
        ({"response": {"status_code": 400, "body": {"error": {"message": "no"}}}}, "refused", 1),
        ({"response": None, "error": {"message": "internal"}}, "overloaded", 3),
        (whole("", "stop"), "empty", 3),
        ({"response": {"status_code": 200, "body": "text"}}, "stream_error", 3),
    ],
)
def test_a_failed_line_is_a_record_with_its_reason(tmp_path, make_target, line, reason, n_batches):
    with serve_batches(lambda body: line) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        client = open_client(make_target(server), ledger)
        with pytest.raises(StoppedError, match="not one of 1 was answered"):
            client.complete(ask(1))
        answer = client.recall(*ask(1))
        assert (answer.complete, answer.finish_reason) == (False, reason)
        assert len(server.batches) == n_batches


def test_the_open_batch_of_one_model_is_not_taken_for_that_of_another(tmp_path, make_target):
    with serve_batches(echo) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        one = make_target(server)
        first, other = open_client(one, ledger), open_client(replace(one, name="other"), ledger)
        first._write_journal({"file": "file_9", "id": "batch_9", "items": {}, "submitted_at": ""})
        assert all(answer.complete for answer in other.complete(ask(2)))
        assert list(json.loads((tmp_path / JOURNAL).read_bytes())) == ["mine big"]


def test_a_lost_batch_is_one_line_and_the_same_command_submits_anew(tmp_path, make_target):
    with serve_batches(echo) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        client = open_client(make_target(server), ledger)
        server.lost.add("batch_0")
        with pytest.raises(StoppedError, match="batch_0: the provider knows it no more"):
            client.complete(ask(2))
        assert all(answer.complete for answer in client.complete(ask(2)))


def test_a_refused_batch_and_a_budget_below_one_answer_are_one_line(tmp_path, make_target):
    with serve_batches(echo) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        target = make_target(server)
        with pytest.raises(StoppedError, match="next attempt may cost"):
            open_client(target, ledger, budget=1e-6).complete(ask(2))
        assert not server.batches
        server.status = "failed"
        with pytest.raises(StoppedError, match="the provider refuses it"):
            open_client(target, ledger).complete(ask(2))
        gone = Target(target.name, target.provider, "big", f"{server.base_url}/elsewhere")
        with pytest.raises(InputError, match="no batch API answers there"):
            open_client(gone, ledger).complete(ask(2))


def test_a_budget_is_never_passed_and_what_fits_is_bought(tmp_path, make_target):
    with serve_batches(echo) as server, Ledger(tmp_path / FILE_NAME) as ledger:
        each = (3 * 10 + 1024 * 20) / 1e6 / 2
        with pytest.raises(StoppedError, match="--budget"):
            open_client(make_target(server), ledger, budget=2.5 * each).complete(ask(40))
        assert 2 <= len(list(ledger.attempts())) < 40
        assert ledger.spent() <= 2.5 * each


def test_a_provider_without_batches_says_so():
    with pytest.raises(InputError, match="--batch: deepseek has no batch API"):
        find_target("deepseek", is_key_needed=False).as_batch()
