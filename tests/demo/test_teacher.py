import json
import time
import urllib.error
import urllib.request
from collections import Counter
from threading import Thread

import pytest

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.demo.dialogue import BY_RATE, Fault, FaultPlan, Prefix, think
from medkd.demo.synthetic_cases import generate_cases
from medkd.demo.teacher import serve_teacher

MESSAGE = "请根据 <record> 推理。<diagnosis>化脓性脑膜炎</diagnosis><record>【主诉】发热伴头痛3天。【查体】体温39.2℃。</record>"


def post(base_url: str, **body) -> bytes:
    body.setdefault(
        "messages",
        [{"role": "system", "content": "你是医生。" * 60}, {"role": "user", "content": MESSAGE}],
    )
    request = urllib.request.Request(
        f"{base_url}/chat/completions",
        json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read()


def events(stream: bytes) -> list[dict]:
    lines = stream.decode().splitlines()
    assert lines[0].startswith(": ")
    payloads = [line[6:] for line in lines if line.startswith("data: ")]
    assert payloads.pop() == "[DONE]"
    return [json.loads(payload) for payload in payloads]


def joined(found: list[dict], name: str) -> str:
    return "".join(
        choice["delta"].get(name) or "" for event in found for choice in event["choices"]
    )


def test_a_stream_has_the_shape_of_deepseek_when_thinking():
    with serve_teacher(latency_s=0) as teacher:
        found = events(
            post(
                teacher.base_url,
                stream=True,
                thinking={"type": "enabled"},
                stream_options={"include_usage": True},
            )
        )
    assert "体温39.2℃" in joined(found, "reasoning_content")
    assert joined(found, "content") == "化脓性脑膜炎"
    deltas = [choice["delta"] for event in found for choice in event["choices"]]
    assert any(delta.get("content", "") is None for delta in deltas)
    assert any(delta.get("reasoning_content") == "" for delta in deltas)
    usage = found[-1]["usage"]
    assert found[-1]["choices"] == []
    assert (
        usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"]
        == usage["prompt_tokens"]
    )
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


def test_a_stream_holds_tagged_content_when_not_thinking_and_the_usage_stands_in_its_last_chunk():
    with serve_teacher(latency_s=0) as teacher:
        found = events(post(teacher.base_url, stream=True))
    assert joined(found, "reasoning_content") == ""
    assert thinking.is_well_formed(joined(found, "content"))
    assert found[-1]["choices"][0]["finish_reason"] == "stop"
    assert found[-1]["usage"]["completion_tokens"] > 0


def test_a_whole_answer_follows_blank_lines_and_the_same_prefix_is_cached_the_second_time():
    with serve_teacher(latency_s=0) as teacher:
        first, second = post(teacher.base_url), post(teacher.base_url)
        hits = [
            json.loads(answer)["usage"]["prompt_cache_hit_tokens"] for answer in (first, second)
        ]
        assert teacher.bill.billed == 2
        assert teacher.bill.usage.cache_hit == sum(hits)
    assert first.startswith(b"\n")
    assert hits[0] == 0
    assert hits[1] > 100
    assert thinking.is_well_formed(json.loads(first)["choices"][0]["message"]["content"])


def test_models_are_listed():
    with (
        serve_teacher() as teacher,
        urllib.request.urlopen(f"{teacher.base_url}/models", timeout=10) as response,
    ):
        assert json.load(response)["data"][0]["id"] == "rehearsal"


@pytest.mark.parametrize(
    "body",
    [{"messages": []}, {"messages": "x"}, {"messages": [{"role": "user"}]}, {"messages": None}],
)
def test_a_body_without_messages_is_refused(body):
    with serve_teacher() as teacher:
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(teacher.base_url, **body)
        assert caught.value.code == 422
        assert teacher.bill.billed == 0


def test_a_rate_limit_says_when_to_come_back():
    with (
        serve_teacher(script=[Fault.RATE_LIMIT]) as teacher,
        pytest.raises(urllib.error.HTTPError) as caught,
    ):
        post(teacher.base_url)
    assert (caught.value.code, caught.value.headers["Retry-After"]) == (429, "1")


def test_it_goes_on_from_its_own_text_and_from_anybody_elses():
    with serve_teacher(latency_s=0) as teacher:
        whole = joined(events(post(teacher.base_url, stream=True)), "content")
        half = whole[: len(whole) // 2]
        own = [
            {"role": "user", "content": MESSAGE},
            {"role": "assistant", "content": half, "prefix": True},
        ]
        assert (
            half + joined(events(post(teacher.base_url, stream=True, messages=own)), "content")
            == whole
        )
        other = [
            own[0],
            {
                "role": "assistant",
                "content": "<think>\n患者为青年男性，以发热起病，",
                "prefix": True,
            },
        ]
        text = other[1]["content"] + joined(
            events(post(teacher.base_url, stream=True, messages=other)), "content"
        )
        assert teacher.bill.n_gone_on == 2
    assert thinking.is_well_formed(text)


def test_it_can_refuse_to_go_on_or_begin_anew():
    asked = [
        {"role": "user", "content": MESSAGE},
        {"role": "assistant", "content": "<think>\n患者为青年男性，", "prefix": True},
    ]
    with serve_teacher(latency_s=0, prefix=Prefix.IGNORES) as teacher:
        assert joined(
            events(post(teacher.base_url, stream=True, messages=asked)), "content"
        ).startswith("<think>")
    with (
        serve_teacher(prefix=Prefix.REFUSES) as teacher,
        pytest.raises(urllib.error.HTTPError) as caught,
    ):
        post(teacher.base_url, messages=asked)
    assert caught.value.code == 400


def test_more_requests_at_once_than_it_takes_meet_429():
    with serve_teacher(latency_s=1.0, streams=1) as teacher:
        first = Thread(target=post, args=(teacher.base_url,))
        first.start()
        while not teacher.bill.n_streams:
            time.sleep(0.01)
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(teacher.base_url)
        first.join()
    assert (caught.value.code, teacher.bill.billed) == (429, 1)


def test_a_taken_port_is_said_in_one_line():
    with (
        serve_teacher() as teacher,
        pytest.raises(InputError, match="taken"),
        serve_teacher(port=teacher.port),
    ):
        pass


def test_faults_come_at_their_rate_and_do_not_depend_on_the_order():
    contents = [f"病历{n}" for n in range(2000)]
    forwards, backwards = FaultPlan(0.3, seed=1), FaultPlan(0.3, seed=1)
    drawn = {content: forwards.draw(content)[0] for content in contents}
    assert drawn == {content: backwards.draw(content)[0] for content in reversed(contents)}
    counted = Counter(drawn.values())
    assert counted[None] == pytest.approx(1400, abs=80)
    assert all(counted[fault] == pytest.approx(600 / len(BY_RATE), abs=30) for fault in BY_RATE)


def test_the_teacher_finds_the_diagnosis_by_itself_where_it_is_not_told():
    case = generate_cases(1, seed=7)[0]
    names = ("基本信息", "主诉", "现病史", "既往史", "查体", "辅助检查")
    record = " ".join(f"【{name}】{case.sections[name]}" for name in names if name in case.sections)
    reasoning, diagnosis = think(f"请诊断。<record>{record}</record>", seed=0)
    assert diagnosis == case.diagnosis[0]
    assert case.diagnosis[0] in reasoning
    assert think("【主诉】不适。", seed=0)[1] == "诊断不明"
