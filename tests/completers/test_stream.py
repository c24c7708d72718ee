import orjson
from hypothesis import given
from hypothesis import strategies as st

from medkd.completers.stream import EventReader, StreamedText, read_usage
from medkd.core.records import Usage

texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=40)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "content", "usage", "error", "message", "index"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def write_stream(pieces: list[str], line_end: bytes) -> bytes:
    lines = [b": keep-alive", b""]
    for piece in pieces:
        lines += [
            b"event: message",
            b"data: " + orjson.dumps({"choices": [{"delta": {"content": piece}}]}),
            b"",
        ]
    return line_end.join([*lines, b"data: [DONE]", b"", b""])


@given(
    st.lists(texts, max_size=8),
    st.sampled_from([b"\n", b"\r\n"]),
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
)
def test_a_stream_reads_the_same_however_it_is_cut(pieces, line_end, sizes):
    stream = write_stream(pieces, line_end)
    reader, heard = EventReader(), []
    streamed = StreamedText(lambda piece, is_reasoning: heard.append((piece, is_reasoning)))
    start, turn = 0, 0
    while start < len(stream):
        size = sizes[turn % len(sizes)]
        for payload in reader.feed(stream[start : start + size]):
            streamed.take(payload)
        start, turn = start + size, turn + 1
    for payload in reader.finish():
        streamed.take(payload)
    assert "".join(streamed.text) == "".join(pieces)
    assert heard == [(piece, False) for piece in pieces if piece]
    assert streamed.is_done
    assert not streamed.error
    assert reader.stray() == b""


@given(anything)
def test_no_event_of_any_shape_breaks_the_reader(event):
    streamed = StreamedText(lambda piece, is_reasoning: None)
    streamed.take(orjson.dumps(event))
    streamed.take(b"{broken")
    assert streamed.error


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
