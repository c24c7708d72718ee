from datetime import datetime, timedelta, timezone

import pytest

from medkd.completers.providers import Usage, estimate_tokens, find_target, read_providers
from medkd.core.errors import InputError

BEIJING = timezone(timedelta(hours=8))


def test_every_shipped_provider_says_where_its_prices_come_from():
    providers = read_providers()
    assert {"deepseek", "siliconflow", "dashscope", "openai", "vllm", "ollama", "custom", "rehearsal"} <= set(providers)
    for provider in providers.values():
        for terms in provider.models.values():
            assert terms.as_of
            assert terms.source


def test_deepseek_costs_more_in_the_working_hours_of_beijing(monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-secret")
    target = find_target("deepseek")
    usage = Usage(prompt=2_000_000, cache_hit=1_000_000, completion=1_000_000)
    working, night = datetime(2026, 11, 23, 10, tzinfo=BEIJING), datetime(2026, 11, 23, 23, tzinfo=BEIJING)
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
        ({"name": "custom", "model": "m", "base_url": "https://u:secret@teacher.example/v1"}, "the key belongs in the environment"),
        ({"name": "custom", "model": "m", "base_url": "https://teacher.example/v1"}, "MEDKD_API_KEY"),
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


def test_an_endpoint_on_this_machine_needs_no_key(monkeypatch):
    monkeypatch.delenv("MEDKD_API_KEY", raising=False)
    target = find_target("custom", "any", "http://127.0.0.1:8000/v1/chat/completions")
    assert (target.key, target.base_url, target.is_priced) == ("", "http://127.0.0.1:8000/v1", False)


def test_tokens_are_estimated_by_the_kind_of_character():
    assert estimate_tokens(["发热伴颈强直咳嗽咳痰"]) == 6
    assert estimate_tokens(["0123456789"]) == 3
    assert estimate_tokens([]) == 0
