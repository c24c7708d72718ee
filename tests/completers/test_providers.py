from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.completers.client import LedgerClient
from medkd.completers.endpoint import make_body
from medkd.completers.ledger import Ledger
from medkd.completers.providers import Usage, estimate_tokens, find_target, read_providers
from medkd.completers.resume import PartialAnswer
from medkd.completers.scheduler import RunOptions
from medkd.core.errors import InputError
from medkd.core.records import Message, Request, Sampling
from medkd.demo.teacher import serve_teacher

BEIJING = timezone(timedelta(hours=8))


def test_every_shipped_provider_says_where_its_prices_come_from():
    providers = read_providers()
    assert {
        "deepseek",
        "siliconflow",
        "dashscope",
        "openai",
        "vllm",
        "ollama",
        "custom",
        "rehearsal",
    } <= set(providers)
    for provider in providers.values():
        for terms in provider.models.values():
            assert terms.as_of
            assert terms.source


def test_deepseek_costs_more_in_the_working_hours_of_beijing(monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-secret")
    target = find_target("deepseek")
    usage = Usage(prompt=2_000_000, cache_hit=1_000_000, completion=1_000_000)
    working, night = (
        datetime(2026, 11, 23, 10, tzinfo=BEIJING),
        datetime(2026, 11, 23, 23, tzinfo=BEIJING),
    )
    assert target.price_at(night).amount(usage) == pytest.approx(0.02 + 1 + 4)
    assert target.price_at(working).amount(usage) == pytest.approx(0.04 + 2 + 8)
    assert target.price_at(datetime(2026, 11, 22, 10, tzinfo=BEIJING)) == target.price_at(night)


def test_the_key_is_never_shown(monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-secret")
    assert "sk-secret" not in repr(find_target("deepseek"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "deepsek"}, "did you mean 'deepseek'"),
        ({"name": "deepseek"}, "DEEPSEEK_API_KEY"),
        ({"name": "deepseek", "model": "deepseek-chat"}, "known: deepseek-flash, deepseek-v4-pro"),
        ({"name": "custom", "model": "m"}, "--base-url"),
        ({"name": "custom", "base_url": "http://127.0.0.1:9/v1"}, "--model"),
        ({"name": "custom", "model": "m", "base_url": "teacher.example"}, "not an http(s) address"),
        (
            {"name": "custom", "model": "m", "base_url": "https://u:secret@teacher.example/v1"},
            "the key belongs in the environment",
        ),
        (
            {"name": "custom", "model": "m", "base_url": "https://teacher.example/v1"},
            "MEDKD_API_KEY",
        ),
        *[
            ({"name": "custom", "model": "m", "base_url": address}, "not an http(s) address")
            for address in (
                "http://[::1",
                "http://a:99999/v1",
                "http://",
                "http://a b/v1",
                "http://a\n",
            )
        ],
    ],
)
def test_an_unusable_teacher_is_refused_in_one_line(monkeypatch, given, said):
    for variable in ("DEEPSEEK_API_KEY", "MEDKD_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError) as caught:
        find_target(**given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


OWN = """
deepseek:
  models:
    deepseek-next: {price: {cache_hit: 1, cache_miss: 2, output: 3}, as_of: 2027-01-01, source: a letter}
hospital:
  base_url: http://10.0.0.7:8000/v1
  key_variable: HOSPITAL_KEY
  currency: CNY
  prefix: {message: {partial: true}}
"""


def test_a_file_of_ones_own_adds_and_overrides(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-secret")
    (tmp_path / "own.yaml").write_text(OWN, "utf-8")
    added = find_target("deepseek", "deepseek-next", providers=tmp_path / "own.yaml")
    assert added.price_at(datetime.now(BEIJING)).output == 3
    assert added.base_url == "https://api.deepseek.com"
    assert (
        find_target("deepseek", "deepseek-flash", providers=tmp_path / "own.yaml").terms.concurrency
        == 2500
    )
    own = find_target("hospital", "any", providers=tmp_path / "own.yaml")
    assert (own.base_url, dict(own.prefix.message)) == (
        "http://10.0.0.7:8000/v1",
        {"partial": True},
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hospital: {base_url: x", "own.yaml: broken YAML"),
        ("- hospital", "a mapping of provider names"),
        (
            "hospital: {key_variable: K, currency: CNY, prise: 1}",
            "own.yaml: hospital: unknown field prise",
        ),
        ("hospital: {currency: CNY}", "own.yaml: hospital: no key_variable"),
        ("deepseek: {models: [a, b]}", "own.yaml: deepseek: models must map"),
        ("deepseek: {models: words}", "own.yaml: deepseek: models must map"),
        ("deepseek: {models: 5}", "own.yaml: deepseek: models must map"),
        ("deepseek: {models: {m: null}}", "own.yaml: deepseek: models.m"),
        ("deepseek: {peak: {utc_offset_h: 99, weekdays: [], hours: []}}", "peak.utc_offset_h"),
        (
            "deepseek: {models: {m: {price: {cache_hit: 1, cache_miss: 1, output: .nan}}}}",
            "models.m.price.output",
        ),
        (
            "deepseek: {models: {m: {price: {cache_hit: 1, cache_miss: 1, output: 1}, source: s}}}",
            "own.yaml: deepseek: no models.m.as_of",
        ),
    ],
)
def test_a_broken_file_of_ones_own_is_named_with_what_is_wrong(tmp_path, text, said):
    (tmp_path / "own.yaml").write_text(text, "utf-8")
    with pytest.raises(InputError) as caught:
        find_target("deepseek", providers=tmp_path / "own.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("models", ["null", "{}", "''", "[]"])
def test_no_models_of_ones_own_leave_those_that_are_known(tmp_path, models, monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-secret")
    (tmp_path / "own.yaml").write_text(f"deepseek: {{models: {models}}}", "utf-8")
    assert find_target("deepseek", providers=tmp_path / "own.yaml").model == "deepseek-flash"


def test_a_key_is_sent_to_the_hosts_of_its_provider_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-secret")
    assert find_target("deepseek", base_url="https://api.deepseek.com/v1").key == "sk-secret"
    assert find_target("deepseek", base_url="http://127.0.0.1:9/v1").key == ""
    elsewhere = "https://api.deepseek.com.evil.example/v1"
    for address in (elsewhere, "http://api.deepseek.com", "https://api.deepseek.com:444"):
        with pytest.raises(InputError, match=r"DEEPSEEK_API_KEY is for .* and is not sent else"):
            find_target("deepseek", base_url=address)
    for entry in (
        f"deepseek: {{base_url: '{elsewhere}'}}",
        f"deepseek: {{prefix: {{base_url: '{elsewhere}'}}}}",
        f"deepseek: {{base_url: '{elsewhere}', models: {{}}, key_variable: OPENAI_API_KEY}}",
    ):
        monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
        path = tmp_path / f"{len(entry)}.yaml"
        path.write_text(entry, "utf-8")
        with pytest.raises(InputError, match="is not sent elsewhere"):
            find_target("deepseek", providers=path)


def test_a_key_of_ones_own_goes_where_its_entry_says(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEWAY_KEY", "sk-gateway")
    own = "gateway: {base_url: 'https://gw.example/v1', key_variable: GATEWAY_KEY, currency: CNY}"
    (tmp_path / "own.yaml").write_text(own, "utf-8")
    assert find_target("gateway", "m", providers=tmp_path / "own.yaml").key == "sk-gateway"


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-ключ", "sk\x00x"])
def test_a_key_that_can_be_none_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setattr("os.environ", {"DEEPSEEK_API_KEY": key})
    with pytest.raises(InputError, match="DEEPSEEK_API_KEY: holds a line break") as caught:
        find_target("deepseek")
    assert "sk" not in str(caught.value)


def test_prefix_completion_is_the_providers(monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk")
    assert find_target("deepseek").prefix.base_url == "https://api.deepseek.com/beta"
    assert (
        find_target("deepseek", base_url="http://127.0.0.1:9/v1").prefix.base_url
        == "http://127.0.0.1:9/v1"
    )
    assert find_target("custom", "m", "http://127.0.0.1:9/v1").prefix is None


def test_a_text_to_go_on_from_is_sent_in_the_providers_own_form(monkeypatch):
    request = Request(messages=(Message(role="user", content="发热"),))
    text, thought = PartialAnswer(1, "", "<think>发热"), PartialAnswer(1, "发热", "")
    for variable in ("DEEPSEEK_API_KEY", "SILICONFLOW_API_KEY", "DASHSCOPE_API_KEY"):
        monkeypatch.setenv(variable, "sk")
    deepseek = make_body(find_target("deepseek"), request, thought)
    assert deepseek["messages"][-1] == {
        "role": "assistant",
        "content": "",
        "prefix": True,
        "reasoning_content": "发热",
    }
    assert make_body(find_target("dashscope"), request, text)["messages"][-1]["partial"] is True
    silicon = make_body(find_target("siliconflow"), request, text)
    assert (silicon["prefix"], len(silicon["messages"])) == ("<think>发热", 1)
    assert make_body(find_target("vllm", "m"), request, text)["continue_final_message"] is True


def test_an_endpoint_on_this_machine_needs_no_key(monkeypatch):
    monkeypatch.delenv("MEDKD_API_KEY", raising=False)
    target = find_target("custom", "any", "http://127.0.0.1:8000/v1/chat/completions")
    assert (target.key, target.base_url, target.is_priced) == (
        "",
        "http://127.0.0.1:8000/v1",
        False,
    )


def test_tokens_are_estimated_by_the_kind_of_character():
    assert estimate_tokens(["发热伴颈强直咳嗽咳痰"]) == 6
    assert estimate_tokens(["0123456789"]) == 3
    assert estimate_tokens([]) == 0


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
        options = RunOptions(
            when="off-peak",
            clock=lambda: next(clock, at(2026, 11, 24, 12)),
            on_progress=lambda progress: waits.append(progress.waits_s),
        )
        completer = LedgerClient(find_target("deepseek", "", teacher.base_url), ledger, options)
        [answer] = completer.complete(
            [Request(messages=(Message(role="user", content="【主诉】发热3天。"),))]
        )
    assert answer.complete
    assert max(waits) == 2.0
    assert waits[-1] == 0.0


def test_who_waited_for_a_place_into_the_dear_hours_is_not_sent_before_they_end(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk")
    late = iter([at(2026, 11, 24, 11, 59, 59, 900_000)] * 3)
    answered: list[bool] = []

    def tell() -> datetime:
        return next(late, at(2026, 11, 24, 12)) if answered else at(2026, 11, 24, 8, 59)

    with serve_teacher() as teacher, Ledger(tmp_path / "l.sqlite") as ledger:
        options = RunOptions(
            when="off-peak",
            clock=tell,
            concurrency=1,
            on_progress=lambda progress: progress.n_new and answered.append(True),
        )
        client = LedgerClient(find_target("deepseek", "", teacher.base_url), ledger, options)
        client.complete([Request(messages=(Message(role="user", content=n),)) for n in "一二三"])
        assert len(ledger.select("SELECT DISTINCT price FROM attempts")) == 1


def test_ollama_is_told_not_to_think_in_the_field_that_its_openai_form_knows():
    request = Request(
        messages=(Message(role="user", content="问"),), sampling=Sampling(thinking=False)
    )
    body = make_body(find_target("ollama", "m"), request)
    assert body["reasoning_effort"] == "none" and "think" not in body


def test_waiting_where_no_dear_hours_are_known_is_refused(tmp_path):
    with (
        Ledger(tmp_path / "l.sqlite") as ledger,
        pytest.raises(InputError, match="--when off-peak: no dear hours are known for rehearsal"),
    ):
        LedgerClient(find_target("rehearsal"), ledger, RunOptions(when="off-peak"))


@pytest.mark.parametrize(
    ("provider", "word", "sent"),
    [
        ("deepseek", "ultra", "max"),
        ("deepseek", "medium", "high"),
        ("deepseek", "low", "low"),
        ("openai", "max", "xhigh"),
        ("openai", "high", "high"),
        ("vllm", "medium", "medium"),
    ],
)
def test_words_for_effort_are_put_in_those_the_provider_knows(provider, word, sent):
    target = find_target(provider, "m" if provider == "vllm" else "", is_key_needed=False)
    sampling = Sampling(effort=word)
    request = Request(messages=(Message(role="user", content="问"),), sampling=sampling)
    assert make_body(target, request)["reasoning_effort"] == sent
