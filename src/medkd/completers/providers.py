"""Providers, models, prices, peak hours and keys: `providers.yaml`, read and checked.

In: the name of a provider, a model, an address. Out: a `Target` with its key and prices.
Not done here: sending anything (`completers.endpoint`).
"""

import hashlib
import ipaddress
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import BeforeValidator, Field, ValidationError

from medkd.core.config import BrokenYamlError, did_you_mean, parse_yaml
from medkd.core.errors import InputError, from_os_error
from medkd.core.jsonl import first_problem
from medkd.core.records import Record, Request, Usage

SHIPPED = Path(__file__).with_name("providers.yaml")
PER_MILLION = 1_000_000
MAX_COUNT = 10**9
"""No attempt has more tokens; a larger count is not believed."""
HORIZON_DAYS = 15
"""No run of peak days is longer than this."""
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
When = Literal["now", "off-peak"]


class Price(Record):
    """Money per million tokens."""

    cache_hit: Amount
    cache_miss: Amount
    output: Amount

    def amount(self, usage: Usage) -> float:
        """Price a usage, in the provider's currency."""
        n_missed = max(usage.prompt - usage.cache_hit, 0)
        prompt = usage.cache_hit * self.cache_hit + n_missed * self.cache_miss
        return (prompt + usage.completion * self.output) / PER_MILLION

    def scale(self, share: float) -> "Price":
        return Price(
            cache_hit=self.cache_hit * share,
            cache_miss=self.cache_miss * share,
            output=self.output * share,
        )


class PeakHours(Record):
    """The hours in which a provider charges its peak price."""

    utc_offset_h: Annotated[float, Field(ge=-12, le=14)]
    weekdays: tuple[int, ...]
    hours: tuple[tuple[int, int], ...]
    holidays: Literal["", "china"] = ""
    """Whose public holidays are cheap all day."""

    def covers(self, when: datetime) -> bool:
        """Whether an aware moment lies in the peak."""
        local = self._local(when)
        is_hour = any(first <= local.hour < last for first, last in self.hours)
        return is_hour and self._is_peak_day(local.date())

    def end_after(self, when: datetime) -> datetime:
        """Return the moment from which it is cheap: `when` itself outside the peak."""
        local = self._local(when)
        limit = local + timedelta(days=HORIZON_DAYS)
        while self.covers(local) and local < limit:
            local = local.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        return local

    def _local(self, when: datetime) -> datetime:
        return when.astimezone(timezone(timedelta(hours=self.utc_offset_h)))

    def _is_peak_day(self, day: date) -> bool:
        is_holiday = self.holidays == "china" and is_holiday_in_china(day)
        return day.weekday() in self.weekdays and not is_holiday


def is_holiday_in_china(day: date) -> bool:
    """Whether a day is a public holiday in mainland China, by the library `chinesecalendar`; no for
    years that it does not know yet, so that a price is then too high, never too low.

    >>> is_holiday_in_china(date(2026, 10, 1)), is_holiday_in_china(date(2099, 10, 1))
    (True, False)
    """
    import chinese_calendar

    try:
        return chinese_calendar.is_holiday(day)
    except RuntimeError:  # how the library says that it does not know a year yet
        return False


class PrefixForm(Record):
    """How a provider is asked to resume a text; `providers.yaml` explains the fields."""

    base_url: str = ""
    message: Mapping[str, Any] = Field(default_factory=dict)
    body: Mapping[str, Any] = Field(default_factory=dict)
    text_field: str = ""
    while_thinking: bool = False


class ModelTerms(Record):
    """What a provider says about one of its models."""

    concurrency: Annotated[int, Field(ge=1)] | None = None
    context: Annotated[int, Field(ge=1)] | None = None
    price: Price
    peak_price: Price | None = None
    as_of: Annotated[str, BeforeValidator(str)]
    """YAML may have read a date."""
    source: str


class BatchForm(Record):
    """How a provider takes batches: OpenAI's file form (`/files`, `/batches`)."""

    window: str = "24h"
    """In which time it promises to answer."""
    price: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of the usual price."""


class Provider(Record):
    """One entry of `providers.yaml`."""

    base_url: str = ""
    key_variable: str
    key_needed: bool = False
    currency: str
    max_tokens_field: str = "max_tokens"
    thinking_on: Mapping[str, Any] = Field(default_factory=dict)
    thinking_off: Mapping[str, Any] = Field(default_factory=dict)
    effort_field: str = ""
    efforts: Mapping[str, str] = Field(default_factory=dict)
    batch: BatchForm | None = None
    prefix: PrefixForm | None = None
    peak: PeakHours | None = None
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
    prefix: PrefixForm | None = None
    """How it is asked to resume a text; None if it is not."""
    price_share: float = 1.0
    """What is paid of the listed price: a half in a batch."""
    others: tuple[str, ...] = ()
    """Further addresses of the same model."""

    @property
    def terms(self) -> ModelTerms | None:
        return self.provider.models.get(self.model)

    @property
    def is_priced(self) -> bool:
        return self.terms is not None

    def price_at(self, when: datetime) -> Price | None:
        """Return the price of an aware moment, None if none is known."""
        terms, peak = self.terms, self.provider.peak
        if terms is None:
            return None
        is_peak = peak is not None and peak.covers(when)
        price = terms.peak_price if is_peak and terms.peak_price else terms.price
        return price if self.price_share == 1 else price.scale(self.price_share)

    def list_addresses(self) -> list["Target"]:
        """List the same model at each of its addresses alone."""
        if not self.others:
            return [self]

        def move(address: str) -> Target:
            form = self.prefix.model_copy(update={"base_url": address}) if self.prefix else None
            return replace(self, base_url=address, prefix=form, others=())

        return [move(address) for address in (self.base_url, *self.others)]

    def item_key(self, request: Request) -> str:
        """Hash what decides the answer; the address is no part of it, so that a moved server buys
        nothing twice."""
        decisive = [self.name, self.model, request.model_dump(mode="json")]
        text = json.dumps(decisive, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()

    def as_batch(self) -> "Target":
        """Return the same model at the price of a batch; raises InputError where the provider has
        none."""
        if self.provider.batch is None:
            raise InputError(
                "--batch: {} has no batch API that is known here; leave it out, or describe one "
                "(`batch`) in a file for --providers",
                self.name,
            )
        return replace(self, price_share=self.provider.batch.price)


@cache
def read_providers(path: Path | None = None) -> dict[str, Provider]:
    """Read the shipped providers, and a file that overrides them field by field."""
    place = str(path or SHIPPED)
    content = _read_entries(SHIPPED)
    for name, entry in _read_entries(path).items() if path else ():
        known = content.setdefault(name, {})
        models = _read_models(known, name, place) | _read_models(entry, name, place)
        content[name] = {**known, **entry, "models": models}
    return {name: _make_provider(name, entry, place) for name, entry in content.items()}


def _read_entries(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise from_os_error(error, path) from error
    except (UnicodeDecodeError, BrokenYamlError) as error:
        raise InputError(
            "{}: broken YAML ({}); write providers as in providers.yaml", path, error
        ) from error
    if not isinstance(content, dict) or not all(isinstance(e, dict) for e in content.values()):
        raise InputError(
            "{}: a mapping of provider names to their fields is needed; write them "
            "as in providers.yaml",
            path,
        )
    return {str(name): entry for name, entry in content.items()}


def _make_provider(name: str, entry: dict[str, Any], place: str) -> Provider:
    models = {str(model): terms for model, terms in _read_models(entry, name, place).items()}
    try:
        return Provider.model_validate({**entry, "models": models})
    except ValidationError as error:
        raise InputError(
            "{}: {}: {}; the fields are explained at the top of providers.yaml",
            place,
            name,
            first_problem(error),
        ) from error


def _read_models(entry: dict[str, Any], name: str, place: str) -> dict[Any, Any]:
    """Read the models of an entry; an empty field is no model."""
    models = entry.get("models") or {}
    if not isinstance(models, dict):
        raise InputError(
            "{}: {}: models must map each model's name to its price, not be a {}; "
            "write them as in providers.yaml",
            place,
            name,
            type(models).__name__,
        )
    return cast(dict[Any, Any], models)


class Flags(NamedTuple):
    """The flags by which a provider, its model and its address were named."""

    name: str = "--teacher"
    model: str = "--model"
    base_url: str = "--base-url"

    def show(self, name: str, address: str) -> str:
        """Say who was named: an address where one flag takes a provider or an address."""
        return address if address and self.name == self.base_url else name


def find_target(
    name: str,
    model: str = "",
    base_url: str = "",
    providers: Path | None = None,
    is_key_needed: bool = True,
    flags: Flags = Flags(),
) -> Target:
    """Find a model at its address, or at several, separated by commas; raise InputError for an
    unknown provider or model, no address, or no key where one is needed."""
    known, shown = read_providers(providers), flags.show(name, base_url)
    if name not in known:
        raise InputError(
            "{} {}: unknown provider{}; others go in a file for --providers",
            flags.name,
            name,
            did_you_mean(name, list(known)),
        )
    provider = known[name]
    given = [one.strip(" ") for one in (base_url or provider.base_url).split(",")]
    address, *others = dict.fromkeys(_check_address(one, name, flags) for one in given)
    chosen = model or next(iter(provider.models), "")
    if not chosen:
        raise InputError("{} {}: which model? give {} NAME", flags.name, shown, flags.model)
    if provider.models and chosen not in provider.models:
        raise InputError(
            "{} {}: {} has no such model here; known: {}; add it with its price "
            "in a file for --providers",
            flags.model,
            chosen,
            name,
            ", ".join(provider.models),
        )
    form = provider.prefix
    if form is not None:
        own = (
            address if base_url or not form.base_url else _check_address(form.base_url, name, flags)
        )
        form = form.model_copy(update={"base_url": own})
    key = _read_key(provider, [address, *others, *([form.base_url] if form else [])])
    is_remote = not all(is_loopback(one) for one in (address, *others))
    if not key and is_key_needed and provider.key_needed and is_remote:
        raise InputError(
            "{} {}: no key; put it in the environment variable {}",
            flags.name,
            shown,
            provider.key_variable,
        )
    return Target(name, provider, chosen, address, key, form, others=tuple(others))


def find_target_of(endpoint: str, model: str, flag: str) -> Target:
    """Find whom to ask by the name of a provider or by an address; `flag` named it."""
    name, address = ("custom", endpoint) if "://" in endpoint else (endpoint, "")
    model_flag = "--judge-model" if flag == "--judge" else "--model"
    return find_target(name, model, address, flags=Flags(flag, model_flag, flag))


def check_budget(target: Target, budget: float | None, when: When) -> None:
    """Refuse a budget that nothing can be counted against, and a wait for off-peak hours that are
    not known."""
    if budget is not None and not target.is_priced:
        raise InputError(
            "--budget: no price is known for {} of {}; leave it out, or give the "
            "price in a file for --providers",
            target.model,
            target.name,
        )
    if when == "off-peak" and not (target.is_priced and target.provider.peak):
        raise InputError(
            "--when off-peak: no dear hours are known for {}; leave it out, or give "
            "`peak` in a file for --providers",
            target.name,
        )


def _read_key(provider: Provider, addresses: Iterable[str]) -> str:
    """Read a provider's key. The key of a shipped provider is for its own hosts, wherever a recipe
    or a file of providers would have it sent."""
    variable = provider.key_variable
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            "{}: holds a line break or another character that no key has; set it again", variable
        )
    own = {_origin(address) for address in key_addresses(variable)}
    for address in addresses if key and own else ():
        if _origin(address) in own:
            continue
        if is_loopback(address):
            return ""
        raise InputError(
            "--base-url {}: {} is for {} alone and is not sent elsewhere; use "
            "--teacher custom with the key in MEDKD_API_KEY, or a provider of your "
            "own with a key_variable of its own in a file for --providers",
            address,
            variable,
            " and ".join(sorted(own)),
        )
    return key


def key_addresses(variable: str) -> list[str]:
    """List the addresses of the shipped providers that a key is for; none if any will do."""
    shipped = [entry for entry in read_providers().values() if entry.key_variable == variable]
    addresses = [entry.base_url for entry in shipped]
    addresses += [entry.prefix.base_url for entry in shipped if entry.prefix]
    return [address for address in addresses if address and not is_loopback(address)]


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _check_address(base_url: str, name: str, flags: Flags) -> str:
    if not base_url:
        raise InputError(
            "{} {}: no address; give {} http://HOST:PORT/v1", flags.name, name, flags.base_url
        )
    try:
        parts = urlsplit(base_url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname and parts.port != 0)
    except ValueError:
        parts, is_address = urlsplit(""), False
    if not is_address or not base_url.isprintable() or " " in base_url:
        raise InputError(
            "{} {!r}: not an http(s) address; give one like http://127.0.0.1:8000/v1",
            flags.base_url,
            base_url.rpartition("@")[2],
        )
    if parts.username or parts.password or parts.query:
        raise InputError(
            "{} {}://{}…: holds a login or a query; give the bare address, "
            "the key belongs in the environment",
            flags.base_url,
            parts.scheme,
            parts.hostname,
        )
    return base_url.rstrip("/").removesuffix("/chat/completions")


def is_loopback(address: str) -> bool:
    """Whether an address stays on this machine, where endpoints commonly need no key."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_proxy(url: str) -> str | None:
    """Return the proxy of the environment for an address; this machine is always asked directly."""
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)


def estimate_tokens(texts: Iterable[str]) -> int:
    """Estimate tokens if an endpoint reports none: 0.6 a Chinese character, 0.3 another, as
    DeepSeek's documentation does."""
    n_wide = n_narrow = 0
    for text in texts:
        narrow = len(text.encode("ascii", "ignore"))
        n_narrow += narrow
        n_wide += len(text) - narrow
    return -int(-(0.6 * n_wide + 0.3 * n_narrow) // 1)


def read_mapping(value: object) -> Mapping[str, Any]:
    """Take a value for a JSON object; anything else a server may send in its place counts as an
    empty one."""
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else {}


def read_usage(usage: object) -> Usage | None:
    """Read token counts in DeepSeek's or OpenAI's names; None where they cannot be believed."""
    counted = read_mapping(usage)
    cached = counted.get("prompt_cache_hit_tokens")
    if cached is None:
        cached = read_mapping(counted.get("prompt_tokens_details")).get("cached_tokens")
    thought = read_mapping(counted.get("completion_tokens_details")).get("reasoning_tokens")
    prompt, completion = (
        _read_count(counted.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")
    )
    if prompt is None or completion is None or not (prompt or completion):
        return None
    return Usage(
        prompt=prompt,
        cache_hit=min(_read_count(cached) or 0, prompt),
        completion=completion,
        reasoning=min(_read_count(thought) or 0, completion),
    )


def _read_count(value: object) -> int | None:
    """Read a count, also one written as a float or a string; None where it is none."""
    if isinstance(value, str) and len(value) <= len(str(MAX_COUNT)) and value.isascii():
        value = int(value) if value.isdigit() else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        return None
    return int(value) if value == int(value) else None
