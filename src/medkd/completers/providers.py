"""Who can be asked and for how much: `providers.yaml`, read and checked, and the key found.

In: the name of a provider, a model, an address. Out: a `Target` that can be asked, with its key and its prices.
Not done here: sending anything (`completers.endpoint`).
"""

import ipaddress
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from medkd.core.errors import InputError
from medkd.core.recipe import nearest
from medkd.core.records import Record, Usage

PER_MILLION = 1_000_000


class Price(Record):
    """Money per million tokens."""

    cache_hit: float
    cache_miss: float
    output: float

    def amount(self, usage: Usage) -> float:
        """Price a usage, in the provider's currency."""
        missed = max(usage.prompt - usage.cache_hit, 0)
        return (usage.cache_hit * self.cache_hit + missed * self.cache_miss + usage.completion * self.output) / PER_MILLION


class Peak(Record):
    """The hours in which a provider charges its peak price."""

    utc_offset_h: float
    weekdays: tuple[int, ...]
    hours: tuple[tuple[int, int], ...]

    def covers(self, when: datetime) -> bool:
        """Tell whether an aware moment lies in the peak."""
        local = when.astimezone(timezone(timedelta(hours=self.utc_offset_h)))
        return local.weekday() in self.weekdays and any(first <= local.hour < last for first, last in self.hours)


class ModelTerms(Record):
    """What a provider says about one of its models."""

    concurrency: int | None = None
    price: Price
    peak_price: Price | None = None
    as_of: str
    source: str


class Provider(Record):
    """One entry of `providers.yaml`."""

    base_url: str = ""
    key_variable: str
    key_needed: bool = False
    currency: str
    max_tokens_field: str = "max_tokens"
    thinking_on: Mapping[str, Any] = Field(default_factory=dict)
    thinking_off: Mapping[str, Any] = Field(default_factory=dict)
    peak: Peak | None = None
    models: Mapping[str, ModelTerms] = Field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A model at an address, ready to be asked."""

    name: str
    """Of the provider."""
    provider: Provider
    model: str
    base_url: str
    key: str = field(default="", repr=False)

    @property
    def is_priced(self) -> bool:
        return self.model in self.provider.models

    @property
    def concurrency_cap(self) -> int | None:
        return self.provider.models[self.model].concurrency if self.is_priced else None

    def price_at(self, when: datetime) -> Price | None:
        """Give the price of an aware moment, None where none is known."""
        if not self.is_priced:
            return None
        terms, peak = self.provider.models[self.model], self.provider.peak
        return terms.peak_price if terms.peak_price and peak and peak.covers(when) else terms.price


@cache
def read_providers() -> dict[str, Provider]:
    """Read the shipped providers."""
    import yaml

    content: dict[str, Any] = yaml.safe_load(files("medkd.completers").joinpath("providers.yaml").read_text(encoding="utf-8"))
    for entry in content.values():
        for terms in entry.get("models", {}).values():
            terms["as_of"] = str(terms["as_of"])
    return {name: Provider.model_validate(entry) for name, entry in content.items()}


def find_target(name: str, model: str = "", base_url: str = "") -> Target:
    """Find out whom to ask; raises InputError for an unknown provider or model, no address, or no key."""
    providers = read_providers()
    if name not in providers:
        raise InputError(f"--teacher {name}: unknown provider{nearest(name, list(providers))}")
    provider = providers[name]
    address = _checked_address(base_url or provider.base_url, name)
    chosen = model or next(iter(provider.models), "")
    if not chosen:
        raise InputError(f"--teacher {name}: which model? give --model NAME")
    if provider.models and chosen not in provider.models:
        raise InputError(f"--model {chosen}: {name} has no such model; known: {', '.join(provider.models)}")
    key = os.environ.get(provider.key_variable, "").strip()
    if not key and provider.key_needed and not is_loopback(address):
        raise InputError(f"--teacher {name}: no key; put it in the environment variable {provider.key_variable}")
    return Target(name=name, provider=provider, model=chosen, base_url=address, key=key)


def check_budget(budget: float | None, target: Target) -> None:
    """Refuse a budget that nothing can be counted against."""
    if budget is not None and not target.is_priced:
        raise InputError(f"--budget: no price is known for {target.model} of {target.name}; leave --budget out or choose a priced model")


def _checked_address(base_url: str, name: str) -> str:
    if not base_url:
        raise InputError(f"--teacher {name}: no address; give --base-url http://HOST:PORT/v1")
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InputError(f"--base-url {base_url}: not an http(s) address; give one like http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        place = f"{parts.scheme}://{parts.hostname}"
        raise InputError(f"--base-url {place}…: holds a login or a query; give the bare address, the key belongs in the environment")
    return base_url.rstrip("/").removesuffix("/chat/completions")


def is_loopback(address: str) -> bool:
    """Tell whether an address stays on this machine, where endpoints commonly ask for no key."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def estimate_tokens(texts: Iterable[str]) -> int:
    """Estimate tokens where an endpoint reports none: 0.6 a Chinese character, 0.3 another, as DeepSeek's documentation does."""
    n_wide = n_narrow = 0
    for text in texts:
        narrow = len(text.encode("ascii", "ignore"))
        n_narrow += narrow
        n_wide += len(text) - narrow
    return -int(-(0.6 * n_wide + 0.3 * n_narrow) // 1)
