"""Servers nobody here has written for: raw bytes over sockets, in the shapes that gateways and
home-made endpoints were seen to send."""

import asyncio
import gzip
import json
import threading
from collections import Counter
from dataclasses import replace

import pytest

from ledger_reading import list_attempts
from medkd.completers.client import LedgerClient
from medkd.completers.endpoint import TimeLimits
from medkd.completers.ledger import Ledger
from medkd.completers.outcomes import AttemptOutcome, RetryPolicy, classify_status
from medkd.completers.providers import find_target
from medkd.completers.scheduler import RunOptions
from medkd.completers.stream import find_own_words
from medkd.core.errors import InputError, StoppedError
from medkd.core.records import Message, Request
from medkd.distill.courses import find_missing_part

ANSWER = "<think>患者发热伴头痛，查体颈强直阳性，提示脑膜刺激征，脑脊液检查支持细菌感染。</think>化脓性脑膜炎"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSED = OK + b"Connection: close\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(text: str | None = None, end: bytes = b"\n\n", **more) -> bytes:
    choice = {"delta": {"content": text} if text is not None else {}, **more}
    return b"data:" + json.dumps({"choices": [choice]}).encode() + end


class Wild:
    """A server of raw bytes; each connection is handed to the next way of answering, the last one
    for good."""

    def __init__(self, *ways) -> None:
        self.ways, self.n, self.bodies = list(ways), 0, []
        self.ready = threading.Event()

    def __enter__(self) -> "Wild":
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.thread.start()
        self.ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)

    async def _serve(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/openai"
        self.ready.set()
        await self.stop.wait()
        server.close()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                body = json.loads(await reader.readexactly(length))
                self.bodies.append(body)
                way = self.ways[min(self.n, len(self.ways) - 1)]
                self.n += 1
                if not await way(writer, body):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


async def say_it_plainly(writer, body) -> bool:
    writer.write(CHUNKED)
    for start in range(0, len(ANSWER), 5):
        writer.write(chunk(event(ANSWER[start : start + 5])))
    writer.write(chunk(event(None, finish_reason="stop")) + chunk(b"data: [DONE]\n\n") + chunk(b""))
    await writer.drain()
    return True


async def split_every_byte(writer, body) -> bool:
    """Events cut into single bytes, CRLF, comments between, no [DONE], ended by closing."""
    writer.write(UNTIL_CLOSED)
    stream = b": hi\r\n\r\n" + b"".join(
        event(ANSWER[n : n + 9], b"\r\n\r\n") for n in range(0, len(ANSWER), 9)
    )
    stream += event("", b"\r\n\r\n", finish_reason="stop")
    for byte in stream:
        writer.write(bytes([byte]))
    await writer.drain()
    return False


async def hang_up_at_once(writer, body) -> bool:
    writer.transport.abort()
    return False


async def tear_in_the_middle(writer, body) -> bool:
    writer.write(CHUNKED + chunk(event(ANSWER[:30])) + b'400\r\ndata: {"choi')
    await writer.drain()
    await asyncio.sleep(0.05)
    return False


async def send_html_as_200(writer, body) -> bool:
    page = b"<html><h1>502 Bad Gateway</h1></html>"
    writer.write(
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s"
        % (len(page), page)
    )
    await writer.drain()
    return True


async def be_busy_in_json(writer, body) -> bool:
    """Status 200, and the real status inside."""
    words = json.dumps({"error": {"message": "model busy", "code": "429"}}).encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % (len(words), words)
    )
    await writer.drain()
    return True


async def inject_rubbish(writer, body) -> bool:
    """A broken event in the middle: what follows would leave a hole."""
    writer.write(
        CHUNKED
        + chunk(event(ANSWER[:30]))
        + chunk(b'data: {"choices": [{"delta": {"con\n\n')
        + chunk(event(ANSWER[40:]))
    )
    writer.write(chunk(event(None, finish_reason="stop")) + chunk(b""))
    await writer.drain()
    return True


async def say_nothing(writer, body) -> bool:
    writer.write(CHUNKED + chunk(b": still here\n\n"))
    await writer.drain()
    await asyncio.sleep(30)
    return False


async def stop_talking(writer, body) -> bool:
    writer.write(CHUNKED + chunk(event(ANSWER[:30])))
    await writer.drain()
    await asyncio.sleep(30)
    return False


async def keep_alive_for_ever(writer, body) -> bool:
    writer.write(CHUNKED + chunk(event(ANSWER[:30])))
    for _ in range(600):
        writer.write(chunk(b": keep-alive\n\n") + chunk(event("")))
        await writer.drain()
        await asyncio.sleep(0.05)
    return False


async def talk_without_end(writer, body) -> bool:
    writer.write(CHUNKED)
    for _ in range(100_000):
        writer.write(chunk(event(ANSWER) * 50))
        await writer.drain()
    return False


async def compress_unasked(writer, body) -> bool:
    writer.write(OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
    packed = gzip.compress(event(ANSWER) + event(None, finish_reason="stop"))
    for start in range(0, len(packed), 7):
        writer.write(chunk(packed[start : start + 7]))
    writer.write(chunk(b""))
    await writer.drain()
    return True


async def compress_beyond_measure(writer, body) -> bool:
    """A small body that becomes a long line."""
    writer.write(OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(chunk(gzip.compress(b"data: " + b" " * 2**25, 1)))
    writer.write(chunk(b""))
    await writer.drain()
    return True


async def break_the_compression(writer, body) -> bool:
    writer.write(OK + b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nno gzip !")
    await writer.drain()
    return True


async def count_beyond_measure(writer, body) -> bool:
    usage = {"prompt_tokens": 2**63, "completion_tokens": -1}
    words = {"choices": [{"delta": {"content": ANSWER}, "finish_reason": "stop"}], "usage": usage}
    writer.write(CHUNKED + chunk(b"data: " + json.dumps(words).encode() + b"\n\n") + chunk(b""))
    await writer.drain()
    return True


async def ask_to_wait(writer, body) -> bool:
    writer.write(
        b"HTTP/1.1 429 Too Many\r\nRetry-After: 6\r\nContent-Length: 16\r\n\r\nslow\x1b[2J, please"
    )
    await writer.drain()
    return True


def refuse(status: int, words: object):
    async def send(writer, body) -> bool:
        content = json.dumps(words).encode()
        head = b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % (status, len(content)) + content)
        await writer.drain()
        return True

    return send


async def go_on(writer, body) -> bool:
    """Goes on from the last message, as vLLM would, in one fat chunk."""
    before = body["messages"][-1]["content"] if body["messages"][-1]["role"] == "assistant" else ""
    assert ANSWER.startswith(before)
    writer.write(CHUNKED + chunk(event(ANSWER[len(before) :], finish_reason="stop")) + chunk(b""))
    await writer.drain()
    return True


DEEPSEEK = find_target("rehearsal").prefix


BRIEF = RetryPolicy(backoff_s=0.01, backoff_cap_s=0.05)


def answer_all(ways, tmp_path, n=1, prefix=None, tell=lambda trouble: None, retry=BRIEF, **limits):
    requests = [Request(messages=(Message(role="user", content=f"发热{k}天"),)) for k in range(n)]
    options = RunOptions(
        concurrency=8,
        retry=retry,
        limits=TimeLimits(**limits),
        find_missing=find_missing_part,
        on_progress=lambda progress: tell(progress.trouble),
    )
    with Wild(*ways) as server, Ledger(tmp_path / "l.sqlite") as ledger:
        target = find_target("custom", "any", server.base_url)
        if prefix:
            target = replace(target, prefix=prefix.model_copy(update={"base_url": server.base_url}))
        answers = LedgerClient(target, ledger, options).complete(requests)
    return answers, server


@pytest.mark.parametrize(
    "way", [say_it_plainly, split_every_byte, go_on, compress_unasked, count_beyond_measure]
)
def test_a_stream_of_any_shape_is_one_answer(tmp_path, way):
    [answer], _ = answer_all([way], tmp_path)
    assert (answer.complete, answer.text, answer.attempts) == (True, ANSWER, 1)


@pytest.mark.parametrize(
    ("way", "outcome"),
    [
        (hang_up_at_once, AttemptOutcome.NETWORK),
        (tear_in_the_middle, AttemptOutcome.CUT),
        (send_html_as_200, AttemptOutcome.OVERLOADED),
        (be_busy_in_json, AttemptOutcome.RATE_LIMITED),
        (inject_rubbish, AttemptOutcome.STREAM_ERROR),
        (say_nothing, AttemptOutcome.NOT_STARTED),
        (stop_talking, AttemptOutcome.SILENT),
        (keep_alive_for_ever, AttemptOutcome.SILENT),
        (talk_without_end, AttemptOutcome.LENGTH),
    ],
)
def test_every_way_to_go_wrong_is_named_and_survived(tmp_path, way, outcome):
    [answer], _ = answer_all([way, say_it_plainly], tmp_path, start_s=0.4, silence_s=0.3)
    assert (answer.complete, answer.text) == (True, ANSWER)
    assert [a.outcome for a in list_attempts(tmp_path / "l.sqlite")] == [
        outcome,
        AttemptOutcome.COMPLETE,
    ]


@pytest.mark.parametrize("way", [break_the_compression, compress_beyond_measure])
def test_a_compressed_body_that_is_none_or_without_measure_is_an_error(tmp_path, way):
    [answer], _ = answer_all([way, say_it_plainly], tmp_path)
    assert (answer.complete, answer.text) == (True, ANSWER)
    [broken, _] = list_attempts(tmp_path / "l.sqlite")
    assert broken.outcome is AttemptOutcome.STREAM_ERROR


@pytest.mark.parametrize("way", [tear_in_the_middle, inject_rubbish, stop_talking])
def test_with_prefix_completion_tried_the_text_before_the_break_is_kept(tmp_path, way):
    [answer], server = answer_all([way, go_on], tmp_path, prefix=DEEPSEEK, silence_s=0.3)
    assert (answer.complete, answer.text) == (True, ANSWER)
    assert server.bodies[1]["messages"][-1] == {
        "role": "assistant",
        "content": ANSWER[:30],
        "prefix": True,
    }


def test_a_server_that_takes_the_text_for_a_turn_and_begins_anew_is_found_out(tmp_path):
    [answer], server = answer_all([tear_in_the_middle, say_it_plainly], tmp_path, prefix=DEEPSEEK)
    assert (answer.complete, answer.text, server.n) == (True, ANSWER, 2)


def test_all_of_it_at_once_and_every_answer_is_there(tmp_path):
    wild = [
        tear_in_the_middle,
        hang_up_at_once,
        send_html_as_200,
        be_busy_in_json,
        inject_rubbish,
        say_it_plainly,
    ]
    ways = [wild[n % len(wild)] for n in range(120)] + [go_on]
    answers, _ = answer_all(ways, tmp_path, n=80, prefix=DEEPSEEK)
    assert all(a.complete and a.text == ANSWER for a in answers)
    kept = Counter(
        a.item for a in list_attempts(tmp_path / "l.sqlite") if a.outcome is AttemptOutcome.COMPLETE
    )
    assert set(kept.values()) == {1}


def test_counts_that_cannot_be_are_replaced_by_an_estimate_and_marked(tmp_path):
    answer_all([count_beyond_measure], tmp_path)
    [attempt] = list_attempts(tmp_path / "l.sqlite")
    assert attempt.is_estimate
    assert 0 < attempt.usage.completion < 1000


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, {"error": {"code": "Arrearage", "message": "make sure it is in good standing"}}),
        (403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}),
        (403, {"error": {"code": "insufficient_user_quota", "message": "用户额度不足"}}),
        (429, {"error": {"code": "1113", "message": "您的账户已欠费，请充值后重试"}}),
        (400, {"error": {"message": "Your credit balance is too low to access the API"}}),
        (400, {"error": {"message": "Billing hard limit has been reached"}}),
        (200, {"error": {"code": "AccountOverdueError", "message": "an overdue balance"}}),
    ],
)
def test_an_empty_balance_stops_the_run_at_once_whatever_status_it_comes_with(
    tmp_path, status, words
):
    with pytest.raises(StoppedError, match="the balance is empty"):
        answer_all([say_it_plainly] * 5 + [refuse(status, words)], tmp_path, n=30)
    refused = [a for a in list_attempts(tmp_path / "l.sqlite") if a.outcome != "complete"]
    assert {a.outcome for a in refused} == {AttemptOutcome.NO_BALANCE}
    assert len(refused) <= 8


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (429, {"error": {"message": "并发额度不足，请稍后重试"}}),
        (503, {"error": {"message": "upstream channel: insufficient_user_quota"}}),
        (422, {"detail": [{"msg": "x", "input": "患者账户已欠费，要求出院"}]}),
        (400, {"error": {"message": "患者住院欠费", "input": "insufficient balance"}}),
        (400, {"error": {"message": "cannot read: overdue for her second dose"}}),
    ],
)
def test_another_refusal_is_not_taken_for_an_empty_balance(status, words):
    assert classify_status(status, find_own_words(words)) is not AttemptOutcome.NO_BALANCE


def test_a_limit_of_tokens_a_minute_in_the_words_of_a_quota_is_waited_out(tmp_path):
    words = {"code": "insufficient_quota", "message": "check your plan and billing details"}
    [answer], _ = answer_all([refuse(429, {"error": words}), say_it_plainly], tmp_path)
    assert answer.complete


def test_an_item_that_meets_a_rate_limit_again_and_again_is_not_lost_while_others_are_answered(
    tmp_path,
):
    n_most = RetryPolicy().n_tries + 4
    turned_away: list[bool] = []

    async def turn_one_away(writer, body) -> bool:
        if body["messages"][-1]["content"] == "发热0天" and len(turned_away) < n_most:
            turned_away.append(True)
            return await refuse(429, {"error": "too many requests a minute"})(writer, body)
        return await say_it_plainly(writer, body)

    answers, _ = answer_all([turn_one_away], tmp_path, n=30)
    assert [answer.attempts for answer in answers] == [n_most + 1, *[1] * 29]
    assert all(answer.complete for answer in answers)


def test_one_refusal_in_a_row_for_all_requests_stops_the_run_also_after_answers(tmp_path):
    with pytest.raises(StoppedError, match="refuses one request after another"):
        answer_all([say_it_plainly] * 5 + [refuse(403, {"error": "disabled"})], tmp_path, n=60)
    assert len(list(list_attempts(tmp_path / "l.sqlite"))) < 40


def test_a_content_filter_that_refuses_many_neighbours_ends_neither_the_run_nor_the_next(tmp_path):
    async def filter_some(writer, body) -> bool:
        if int(body["messages"][-1]["content"].strip("发热天")) >= 10:
            return await refuse(400, {"error": "Content Exists Risk"})(writer, body)
        return await say_it_plainly(writer, body)

    for _ in range(2):
        answers, _ = answer_all([filter_some], tmp_path, n=60)
        assert sum(answer.complete for answer in answers) == 10


def test_requests_too_large_for_the_limit_of_a_minute_fail_alone(tmp_path):
    async def turn_some_away(writer, body) -> bool:
        if int(body["messages"][-1]["content"].strip("发热天")) < 6:
            return await refuse(429, {"error": "Request too large (TPM)"})(writer, body)
        await asyncio.sleep(0.02)
        return await say_it_plainly(writer, body)

    brisk = RetryPolicy(backoff_s=0.001, backoff_cap_s=0.002, quiet_s=0.1)
    answers, _ = answer_all([turn_some_away], tmp_path, n=40, retry=brisk)
    assert sum(answer.complete for answer in answers) == 34
    endless = RetryPolicy(n_tries=2, backoff_s=0.001, backoff_cap_s=0.002)
    answers, _ = answer_all([turn_some_away], tmp_path / "other", n=40, retry=endless)
    assert max(answer.attempts for answer in answers) == 20


def test_requests_that_are_refused_each_for_a_reason_of_its_own_stop_nothing(tmp_path):
    ways = [refuse(400, {"error": f"{n} tokens are too many"}) for n in range(25)]
    answers, _ = answer_all([say_it_plainly] * 5 + ways + [say_it_plainly], tmp_path, n=40)
    assert sum(answer.complete for answer in answers) == 15


def test_who_waits_at_the_servers_wish_is_told_the_reason(tmp_path):
    troubles: list[str] = []
    [answer], _ = answer_all([ask_to_wait, say_it_plainly], tmp_path, tell=troubles.append)
    assert answer.complete
    assert "429: slow[2J, please; the server asks to wait 6 s" in troubles


def test_inside_a_running_event_loop_the_way_out_is_named(tmp_path):
    async def ask() -> None:
        answer_all([say_it_plainly], tmp_path)

    with pytest.raises(InputError, match=r"asyncio\.to_thread"):
        asyncio.run(ask())


def test_a_body_in_an_unknown_encoding_is_refused_with_its_name(tmp_path):
    async def send_brotli(writer, body) -> bool:
        writer.write(OK + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\nxx")
        await writer.drain()
        return True

    with pytest.raises(InputError, match="Content-Encoding br, though identity was asked for"):
        answer_all([send_brotli], tmp_path)


def test_a_port_that_speaks_no_http_is_said_in_one_line(tmp_path):
    async def speak_ssh(writer, body) -> bool:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        return False

    with pytest.raises(InputError, match="start the teacher or check --base-url") as caught:
        answer_all([speak_ssh], tmp_path, n=3)
    assert "\n" not in str(caught.value)
