"""What servers were seen to send, as bytes, and what each must give, however it is cut."""

import json
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.completers.outcomes import AttemptOutcome, classify_finish
from medkd.completers.providers import read_usage
from medkd.completers.stream import AnswerReader, StreamedText, TextFilter, make_line
from medkd.core.records import Usage

KEY = "sk-very-secret-123"
R, T = "患者发热伴颈强直。", "化脓性脑膜炎"
DONE = b"data: [DONE]\n\n"
COMPLETE, CUT, ERROR = AttemptOutcome.COMPLETE, AttemptOutcome.CUT, AttemptOutcome.STREAM_ERROR


class Row(NamedTuple):
    """One stream and what it gives."""

    name: str
    body: bytes
    outcome: AttemptOutcome = COMPLETE
    reasoning: str = R
    text: str = T
    finish: str = "stop"
    said: str = ""
    usage: Usage | None = None


def data(value: object, end: bytes = b"\n\n") -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + end


def chunk(end: bytes = b"\n\n", finish: object = None, **delta: object) -> bytes:
    return data({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}, end)


def stop(word: object = "stop") -> bytes:
    return chunk(finish=word)


def both(end: bytes = b"\n\n") -> bytes:
    return chunk(end, reasoning_content=R) + chunk(end, content=T)


BOTH = both()
ENDS = [
    *[Row(f"finish {w}", BOTH + stop(w) + DONE, finish=w) for w in ("end_turn", "eos", "STOP")],
    Row("finish eos_token", BOTH + stop("eos_token"), finish="eos_token"),
    Row("finish as an object", BOTH + stop({"type": "stop"}) + DONE),
    *[
        Row(f"finish {w}", BOTH + stop(w) + DONE, AttemptOutcome.LENGTH, finish=w, said=w)
        for w in (
            "length",
            "max_tokens",
            "model_length",
            "MAX_TOKENS",
            "model_context_window_exceeded",
        )
    ],
    *[
        Row(f"finish {w}", BOTH + stop(w) + DONE, AttemptOutcome.FILTERED, finish=w, said=w)
        for w in ("content_filter", "sensitive", "SAFETY", "refusal")
    ],
    *[
        Row(f"finish {w}", BOTH + stop(w) + DONE, CUT, finish=w, said=w)
        for w in ("abort", "tool_calls", "finished?", "load")
    ],
    *[
        Row(f"finish {w}", BOTH + stop(w) + DONE, ERROR, finish=w, said=w)
        for w in ("insufficient_system_resource", "network_error", "error")
    ],
    Row("finish of a number", BOTH + stop(7), CUT, finish="7"),
    Row("finish of a list", BOTH + stop(["stop"]), CUT, finish="['stop']"),
    Row("no finish, done", BOTH + DONE, CUT, finish="", said="without a finish_reason"),
    Row("no finish, no done", BOTH, CUT, finish=""),
    Row("finish null as text", BOTH + stop("null") + DONE, CUT, finish=""),
    Row("finish beside the last text", chunk(reasoning=R) + chunk(content=T, finish="stop")),
    Row("finish with the key", BOTH + stop(f"bad {KEY}"), CUT, finish="bad …"),
    Row("finish with an escape", BOTH + stop("\x1b[2Jabort"), CUT, finish="[2Jabort"),
    Row("an error behind done", BOTH + stop() + DONE + data({"error": "late"})),
    Row("text behind done", BOTH + stop() + DONE + chunk(content="late")),
    Row("only done", DONE, AttemptOutcome.EMPTY, "", "", "", "without content"),
    Row("nothing", b"", AttemptOutcome.EMPTY, "", "", "", "empty body"),
    Row("comments only", b": a\n\n: b\n\n", AttemptOutcome.EMPTY, "", "", ""),
    Row("blanks for an answer", chunk(content=" \n") + stop(), AttemptOutcome.EMPTY, "", " \n"),
    Row("no answer", chunk(reasoning=R) + stop(), AttemptOutcome.UNREADABLE, R, ""),
]
ERRORS = [
    Row("error object", BOTH + data({"error": {"message": "busy"}}), ERROR, finish="", said="busy"),
    Row("error text", BOTH + data({"error": "busy"}), ERROR, finish="", said="busy"),
    Row("error true", BOTH + data({"error": True, "message": "no"}), ERROR, finish="", said="no"),
    Row("error empty", BOTH + data({"error": {}}) + stop(), ERROR, finish=""),
    Row(
        "object error",
        BOTH + data({"object": "error", "message": "busy", "code": 503}) + stop() + DONE,
        ERROR,
        finish="",
        said="busy",
    ),
    Row("detail", BOTH + data({"detail": "Not Found"}), ERROR, finish="", said="Not Found"),
    Row(
        "detail of FastAPI",
        BOTH + data({"detail": [{"loc": ["body"], "msg": "too long"}]}),
        ERROR,
        finish="",
        said="too long",
    ),
    Row("event error", BOTH + b"event: error\ndata: gone\n\n", ERROR, finish="", said="gone"),
    Row("event error of JSON", BOTH + b'event: error\ndata: {"a": 1}\n\n', ERROR, finish=""),
    Row("event error without data", BOTH + b"event: error\n\n" + stop(), ERROR, finish=""),
    Row(
        "event error behind its data", BOTH + b'data: {"a": 1}\nevent: error\n\n', ERROR, finish=""
    ),
    Row(
        "event error at the very end", BOTH + b"event: error\ndata: gone", ERROR, finish="",
        said="gone",
    ),
    Row("error in a list", data([{"error": {"code": 429, "message": "slow"}}]),
        AttemptOutcome.RATE_LIMITED, "", "", "", "slow"),
    Row("error in a choice", BOTH + data({"choices": [{"error": {"message": "lost"}}]}), ERROR,
        finish="", said="lost"),
    Row("status in base_resp", data({"base_resp": {"status_code": 1002, "status_msg": "limit"}}),
        ERROR, "", "", "", "limit"),
    Row("error code 429 as text", data({"error": {"message": "x", "code": "429"}}),
        AttemptOutcome.RATE_LIMITED, "", "", ""),
    Row("error code ²", data({"error": {"message": "x", "code": "²"}}), ERROR, "", "", ""),
    Row("error code of 5000 digits", data({"error": {"message": "x", "code": "5" * 5000}}),
        ERROR, "", "", ""),
    Row("error number of 5000 digits", b'data: {"error": {"code": ' + b"5" * 5000 + b"}}\n\n",
        ERROR, "", "", "", "no JSON"),
    Row("error with the key", data({"error": "x" * 290 + KEY}), ERROR, "", "", "", "x…"),
    Row("error with an escape", data({"error": "\x1b]0;owned\x07"}), ERROR, "", "", "", "]0;owned"),
    Row("no JSON in the middle", BOTH + b"data: {broken\n\n" + stop(), ERROR, finish=""),
    Row("half an event at the end", BOTH + b'data: {"choi', CUT, finish=""),
    Row("a number for an event", BOTH + data(7) + stop(), ERROR, finish=""),
    Row("deep JSON", BOTH + b"data: " + b"[" * 99_999 + b"\n\n", ERROR, finish=""),
    Row("refusal", chunk(refusal="I cannot") + stop(), AttemptOutcome.FILTERED, "", ""),
]  # fmt: skip
FORMS = [
    Row("plain", BOTH + stop() + DONE),
    Row("byte-order mark", b"\xef\xbb\xbf" + BOTH + stop() + DONE),
    Row("CR", both(b"\r\r") + chunk(b"\r\r", "stop") + b"data: [DONE]\r\r"),
    Row("CRLF", both(b"\r\n\r\n") + chunk(b"\r\n\r\n", "stop") + b"data: [DONE]\r\n\r\n"),
    Row("mixed line ends", both(b"\r\n\n") + chunk(b"\n\r", "stop")),
    Row("one line end an event", both(b"\n") + chunk(b"\n", "stop") + b"data: [DONE]\n"),
    Row("no line end at last", BOTH + stop().rstrip()),
    Row("no blank behind the colon", (BOTH + stop()).replace(b"data: ", b"data:")),
    Row("blank payloads", b"data: \n\n" + BOTH + b"data:\n\n" + stop() + b"data\n\n" + DONE),
    Row("comments", b": hi\n\n" + BOTH + b":\n" + stop() + b": bye\n\n"),
    Row("ids and retries", b"id: 1\nretry: 500\nevent: message\n" + BOTH + b"id: 2\n" + stop()),
    Row("pings", b"event: ping\ndata: pong\n\n" + BOTH + b'event: ping\ndata: {"error": 0}\n\n'
        + stop()),
    Row("JSON over several lines", BOTH + b'data: {"choices": [\ndata: {"delta": {},\n'
        b'data: "finish_reason": "stop"}]}\n\n'),
    Row("a null event", BOTH + b"data: null\n\n" + stop()),
    Row("events without choices", data({"id": "x"}) + BOTH + data({"choices": []}) + stop()),
    Row("a second choice", BOTH + data({"choices": [{"index": 1, "delta": {"content": "b"}}]})
        + stop()),
    Row("not a number", BOTH + b'data: {"choices": [{"delta": {}, "logprobs": NaN}]}\n\n' + stop()),
    Row("a whole message", data({"choices": [{"message": {"content": T, "reasoning": R},
                                              "finish_reason": "stop"}]})),
    Row("the whole message again at the end", BOTH + data({"choices": [
        {"delta": {}, "message": {"content": T}, "finish_reason": "stop"}]})),
    Row("plain JSON", b"\n\n" + data({"choices": [{"message": {"content": T, "reasoning": R},
                                                   "finish_reason": "stop"}]})[6:]),
    Row("plain JSON with a byte-order mark", b"\xef\xbb\xbf" + data({"choices": [
        {"message": {"content": T, "reasoning": R}, "finish_reason": "stop"}]})[6:]),
    Row("half a plain JSON", b'{"choices": [{"mess', ERROR, "", "", "", "breaks off"),
    Row("a plain error", b'{"detail": "busy"}', ERROR, "", "", "", "busy"),
    Row("a page", b"<html>\x1b[1m" + KEY.encode(), AttemptOutcome.NOT_AN_ENDPOINT, "", "", "",
        "'<html>[1m…'"),
    Row("other JSON", b'{"hello": 1}', AttemptOutcome.NOT_AN_ENDPOINT, "", "", ""),
    Row("legacy completions", data({"choices": [{"text": "化脓性"}]}) + data(
        {"choices": [{"text": "脑膜炎", "finish_reason": "stop"}]}), reasoning=""),
]  # fmt: skip
TEXTS = [
    Row("thinking part", chunk(content=[{"type": "thinking", "thinking": [{"type": "text",
        "text": R}]}]) + chunk(content=T) + stop()),
    Row("content in parts", chunk(content=[{"type": "thinking", "thinking": R}, {"type": "text",
        "text": T}, {"type": "image_url"}]) + stop()),
    Row("content as strings in a list", chunk(reasoning=[R]) + chunk(content=[T[:2], T[2:]])
        + stop()),
    Row("content as one part", chunk(reasoning={"text": R}) + chunk(content={"text": T}) + stop()),
    Row("reasoning", chunk(reasoning=R) + chunk(content=T) + stop()),
    Row("reasoning in two fields", chunk(reasoning=R, reasoning_content=R,
        reasoning_details=[{"type": "reasoning.text", "text": R}]) + chunk(content=T) + stop()),
    Row("reasoning_details", chunk(content="", reasoning_details=[
        {"type": "reasoning.text", "text": R}, {"type": "reasoning.encrypted", "data": "x"}])
        + chunk(content=T) + stop()),
    Row("reasoning summary", chunk(reasoning_details=[{"type": "reasoning.summary", "summary": R}])
        + chunk(content=T) + stop()),
    Row("thinking field", chunk(thinking=R) + chunk(content=T) + stop()),
    Row("thinking blocks", chunk(thinking_blocks=[{"type": "thinking", "thinking": R}])
        + chunk(content=T) + stop()),
    Row("nulls and empty texts", chunk(content=None, reasoning_content="", role="assistant") + BOTH
        + chunk(content="", reasoning_content=None, tool_calls=None) + stop()),
    Row("numbers for text", chunk(content=5, reasoning=True) + BOTH + stop()),
    Row("deep parts", chunk(content=[[[[[[[[[[[[[[[[[["x"]]]]]]]]]]]]]]]]]]) + BOTH + stop()),
    Row("tag opens the reasoning field", chunk(reasoning="<thi") + chunk(reasoning=f"nk>\n{R}")
        + chunk(content=T) + stop()),
    Row("tags around the reasoning field", chunk(reasoning=f"<think>{R}</th") + chunk(
        reasoning="ink>") + chunk(content=T) + stop()),
    Row("the answer in the reasoning field", chunk(reasoning=f"{R}</think>\n\n{T}") + stop()),
    Row("tagged content", chunk(content=f"<think>{R}</think>{T}") + stop(), reasoning="",
        text=f"<think>{R}</think>{T}"),
    Row("no opening tag", chunk(content=f"{R}</think>{T}") + stop(), reasoning="",
        text=f"{R}</think>{T}"),
    Row("control characters", chunk(content="化脓\x1b[31m性\x00\x9b", reasoning=f"{R}\x07")
        + chunk(content="脑膜炎") + stop(), text="化脓[31m性脑膜炎"),
    Row("halves of a surrogate pair", b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n'
        b'data: {"choices": [{"delta": {"content": "\\ude00"}}]}\n\n' + stop(), reasoning="",
        text="\U0001f600"),
    Row("a lone surrogate", b'data: {"choices": [{"delta": {"content": "a\\udc00b"}}]}\n\n'
        + stop(), reasoning="", text="a\ufffdb"),
    Row("broken UTF-8", b'data: {"choices": [{"delta": {"content": "a\xffb"}}]}\n\n' + stop(),
        reasoning="", text="a\ufffdb"),
    Row("the key in the content", chunk(content=f"{T[:3]}sk-very-sec") + chunk(content="ret-12")
        + chunk(content=f"3{T[3:]}") + stop(), reasoning="", text=f"{T[:3]}…{T[3:]}"),
    Row("the beginning of the key at the end", chunk(content=f"{T}sk-very") + stop(),
        reasoning="", text=f"{T}sk-very"),
    Row("the key in the reasoning", chunk(reasoning=KEY) + chunk(content=T) + stop(),
        reasoning="…"),
]  # fmt: skip
COUNTS = [
    Row(f"usage {counts!r}", BOTH + stop() + data({"choices": [], "usage": counts}), usage=usage)
    for counts, usage in [
        ({"prompt_tokens": 9, "completion_tokens": 5}, Usage(prompt=9, completion=5)),
        ({"prompt_tokens": 2**63, "completion_tokens": 5}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 5}, None),
        ({"prompt_tokens": -1, "completion_tokens": 5}, None),
        ({"prompt_tokens": 9.0, "completion_tokens": "5"}, Usage(prompt=9, completion=5)),
        ({"prompt_tokens": 9.5, "completion_tokens": 5}, None),
        ({"prompt_tokens": True, "completion_tokens": 5}, None),
        ({"prompt_tokens": {"n": 9}, "completion_tokens": 5}, None),
        ({"prompt_tokens": "²", "completion_tokens": 5}, None),
        ({"prompt_tokens": float("inf"), "completion_tokens": float("nan")}, None),
        ([1], None),
        ("many", None),
    ]
] + [
    Row("usage in the choice", BOTH + data({"choices": [{"delta": {}, "finish_reason": "stop",
        "usage": {"prompt_tokens": 9, "completion_tokens": 5}}]}),
        usage=Usage(prompt=9, completion=5)),
    Row("more cached and thought than there is", BOTH + stop() + data({"usage": {
        "prompt_tokens": 9, "prompt_cache_hit_tokens": 2**64, "completion_tokens": 5,
        "completion_tokens_details": {"reasoning_tokens": 50}}}),
        usage=Usage(prompt=9, completion=5, reasoning=5)),
]  # fmt: skip
TABLE = [*ENDS, *ERRORS, *FORMS, *TEXTS, *COUNTS]


def read(body: bytes, sizes: list[int] | None = None):
    heard: list[tuple[str, bool]] = []
    reader = AnswerReader(lambda piece, is_reasoning: heard.append((piece, is_reasoning)), KEY)
    start = turn = 0
    while start < len(body):
        size = sizes[turn % len(sizes)] if sizes else len(body)
        reader.feed(body[start : start + size])
        start, turn = start + size, turn + 1
    return reader.finish(), heard


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_every_stream_gives_what_it_must(row):
    assert len(TABLE) >= 60
    answer, heard = read(row.body)
    found = (answer.outcome, answer.reasoning, answer.text, answer.finish_reason, answer.usage)
    assert found == (row.outcome, row.reasoning, row.text, row.finish, row.usage)
    assert row.said in answer.error
    assert bool(answer.error) == (row.outcome is not COMPLETE)
    for text in (answer.error, answer.finish_reason, *(piece for piece, _ in heard)):
        assert KEY not in text
        assert "\x1b" not in text
        text.encode()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TABLE), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_a_stream_cut_at_any_byte_gives_the_same(row, sizes):
    whole, heard = read(row.body)
    cut, heard_cut = read(row.body, sizes)
    assert cut == whole
    for kind in (True, False):
        assert "".join(p for p, k in heard_cut if k is kind) == "".join(
            p for p, k in heard if k is kind
        )


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_a_stream_that_comes_byte_by_byte_gives_the_same(row):
    assert read(row.body, [1])[0] == read(row.body)[0]


@settings(deadline=None)
@given(st.sampled_from(TABLE), st.integers(0, 10_000))
def test_a_stream_that_breaks_off_is_whole_only_behind_its_end(row, at):
    answer, _ = read(row.body[:at])
    if answer.outcome is COMPLETE:
        assert classify_finish(answer.finish_reason) is COMPLETE


def test_a_line_of_fifty_megabytes_is_read_in_linear_time_and_refused_with_a_reason():
    reader = AnswerReader(lambda piece, is_reasoning: None)
    for _ in range(800):
        reader.feed(b"data: " + b"x" * 65530)
    answer = reader.finish()
    assert (answer.outcome, answer.error) == (
        ERROR,
        "the server says: an event of more than 16 MiB",
    )


def test_an_answer_without_end_is_ended():
    reader = AnswerReader(lambda piece, is_reasoning: None, max_characters=1000)
    while not reader.streamed.is_over:
        reader.feed(chunk(content="啊" * 100))
    answer = reader.judge()
    assert answer.outcome is AttemptOutcome.LENGTH
    assert len(answer.text) == 1100
    assert "1100 characters came" in answer.error


EVENT_WORDS = """choices delta content usage error message index text type thinking reasoning
finish_reason prompt_tokens completion_tokens code detail object""".split()  # noqa: SIM905
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["stop", KEY, "<think>", "</think>", "\x1b[2J"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(EVENT_WORDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=16,
)


@settings(deadline=None)
@given(st.lists(anything, max_size=4))
def test_no_event_of_any_shape_breaks_the_reader(events):
    answer, _ = read(b"".join(data(event) for event in events) + b"data: {broken\n\n")
    for text in (answer.error, answer.finish_reason, answer.reasoning, answer.text):
        text.encode()
        assert KEY not in text
        assert "\x1b" not in text
    assert answer.usage is None or 0 <= answer.usage.prompt <= 10**9


@given(st.text(alphabet="sk-very\n发", max_size=60), st.lists(st.integers(1, 7), min_size=1))
def test_a_key_is_hidden_and_all_else_kept_wherever_a_text_is_cut(text, sizes):
    key = "sk-very"
    whole = f"{text}{key}{text}"
    hidden, start, turn = TextFilter(key), 0, 0
    said = ""
    while start < len(whole):
        size = sizes[turn % len(sizes)]
        said += hidden.feed(whole[start : start + size])
        start, turn = start + size, turn + 1
    assert said + hidden.finish() == whole.replace(key, "…")


def test_a_key_too_short_to_be_one_is_not_hidden_in_every_word():
    assert make_line("an EMPTY body", "EMPTY") == "an EMPTY body"


def test_usage_is_read_in_deepseek_and_openai_names():
    deepseek = {
        "prompt_tokens": 9,
        "prompt_cache_hit_tokens": 4,
        "completion_tokens": 5,
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    openai = {
        "prompt_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens": 5,
        "completion_tokens_details": None,
    }
    assert read_usage(deepseek) == Usage(prompt=9, cache_hit=4, completion=5, reasoning=2)
    assert read_usage(openai) == Usage(prompt=9, cache_hit=4, completion=5)
    assert read_usage({"prompt_tokens": "many"}) is None


def test_reasoning_and_content_are_kept_apart_and_null_deltas_add_nothing():
    streamed = StreamedText(lambda piece, is_reasoning: None)
    for delta in (
        {"role": "assistant", "content": None, "reasoning_content": ""},
        {"reasoning_content": "发热", "content": None},
        {"reasoning": "伴颈强直", "content": ""},
        {"content": "脑膜炎", "reasoning_content": None},
    ):
        streamed.take_event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    assert "".join(streamed.reasoning) == "发热伴颈强直"
    assert "".join(streamed.text) == "脑膜炎"
