"""Who can be asked and for how much: `providers.yaml`, read and checked, and the key found.

In: the name of a provider, a model, an address. Out: a `Target` that can be asked, with its key and
its prices.
Not done here: sending anything (`completers.endpoint`).
"""

import ipaddress
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from medkd.completers.hours import Peak, When
from medkd.core.config import did_you_mean
from medkd.core.errors import InputError, from_os_error
from medkd.core.jsonl import first_problem
from medkd.core.records import Record, Usage
from medkd.core.yaml_io import BrokenYamlError, parse_yaml

PER_MILLION = 1_000_000


Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Price(Record):
    """Money per million tokens."""

    cache_hit: Amount
    cache_miss: Amount
    output: Amount

    def amount(self, usage: Usage) -> float:
        """Price a usage, in the provider's currency."""
        missed = max(usage.prompt - usage.cache_hit, 0)
        return (
            usage.cache_hit * self.cache_hit
            + missed * self.cache_miss
            + usage.completion * self.output
        ) / PER_MILLION


class PrefixForm(Record):
    """How a provider is asked to go on from a text; the fields are explained in
    `providers.yaml`."""

    base_url: str = ""
    message: Mapping[str, Any] = Field(default_factory=dict)
    body: Mapping[str, Any] = Field(default_factory=dict)
    text_field: str = ""
    while_thinking: bool = False


COMMON_PREFIX = PrefixForm(message={"prefix": True}, while_thinking=True)
"""DeepSeek's form, which others follow."""


class ModelTerms(Record):
    """What a provider says about one of its models."""

    concurrency: Annotated[int, Field(ge=1)] | None = None
    context: Annotated[int, Field(ge=1)] | None = None
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
    effort_field: str = ""
    prefix: PrefixForm | None = None
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
    prefix: PrefixForm | None = None
    """How it is asked to go on from a text; None where it is not."""

    @property
    def is_priced(self) -> bool:
        return self.model in self.provider.models

    @property
    def concurrency_cap(self) -> int | None:
        return self.provider.models[self.model].concurrency if self.is_priced else None

    @property
    def context(self) -> int | None:
        return self.provider.models[self.model].context if self.is_priced else None

    def price_at(self, when: datetime) -> Price | None:
        """Give the price of an aware moment, None where none is known."""
        if not self.is_priced:
            return None
        terms, peak = self.provider.models[self.model], self.provider.peak
        return terms.peak_price if terms.peak_price and peak and peak.covers(when) else terms.price


@cache
def read_providers(path: Path | None = None) -> dict[str, Provider]:
    """Read the shipped providers, and those of a file that adds to them or overrides them, field by
    field."""
    shipped = files("medkd.completers").joinpath("providers.yaml").read_text(encoding="utf-8")
    content = _read_entries(shipped, "providers.yaml")
    if path is not None:
        try:
            own = path.read_text(encoding="utf-8")
        except OSError as error:
            raise from_os_error(error, path) from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: no UTF-8 text; write providers as in providers.yaml"
            ) from error
        for name, entry in _read_entries(own, str(path)).items():
            known = content.setdefault(name, {})
            models = {
                **_read_models(known, name, str(path)),
                **_read_models(entry, name, str(path)),
            }
            content[name] = {**known, **entry, "models": models}
    return {
        name: _make_provider(name, entry, str(path or "providers.yaml"))
        for name, entry in content.items()
    }


def _read_entries(text: str, place: str) -> dict[str, dict[str, Any]]:
    try:
        content = parse_yaml(text)
    except BrokenYamlError as error:
        raise InputError(
            f"{place}: broken YAML ({error}); write providers as in providers.yaml"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(entry, dict) for entry in content.values()
    ):
        raise InputError(
            f"{place}: a mapping of provider names to their fields is needed; write them as in providers.yaml"
        )
    return content


def _make_provider(name: str, entry: dict[str, Any], place: str) -> Provider:
    models = {
        str(model): _with_text_date(terms)
        for model, terms in _read_models(entry, name, place).items()
    }
    try:
        return Provider.model_validate({**entry, "models": models})
    except ValidationError as error:
        raise InputError(
            f"{place}: {name}: {first_problem(error)}; the fields are explained at the top of providers.yaml"
        ) from error


def _read_models(entry: dict[str, Any], name: str, place: str) -> dict[Any, Any]:
    """Read the models of an entry; none, or an empty field, is no model."""
    models = entry.get("models") or {}
    if not isinstance(models, dict):
        raise InputError(
            f"{place}: {name}: models must map each model's name to its price, not be a {type(models).__name__}; write them as in providers.yaml"
        )
    return cast(dict[Any, Any], models)


def _with_text_date(terms: Any) -> Any:
    """Write as text what YAML may have read as a date."""
    return (
        {**terms, "as_of": str(terms["as_of"])}
        if isinstance(terms, dict) and "as_of" in terms
        else terms
    )


def find_target(
    name: str,
    model: str = "",
    base_url: str = "",
    providers: Path | None = None,
    prefix: bool | None = None,
    is_key_needed: bool = True,
) -> Target:
    """Find out whom to ask; raises InputError for an unknown provider or model, no address, or no
    key where one is needed.

    `prefix` overrides whether the endpoint is asked to go on from broken answers; None leaves it to
    the provider's entry.
    """
    known = read_providers(providers)
    if name not in known:
        raise InputError(
            f"--teacher {name}: unknown provider{did_you_mean(name, list(known))}; others go in a file for --providers"
        )
    provider = known[name]
    address = _checked_address(base_url or provider.base_url, name)
    chosen = model or next(iter(provider.models), "")
    if not chosen:
        raise InputError(f"--teacher {name}: which model? give --model NAME")
    if provider.models and chosen not in provider.models:
        known_models = ", ".join(provider.models)
        raise InputError(
            f"--model {chosen}: {name} has no such model here; known: {known_models}; add it with its price in a file for --providers"
        )
    form = (
        provider.prefix
        if prefix is None
        else (provider.prefix or COMMON_PREFIX)
        if prefix
        else None
    )
    if form is not None and (base_url or not form.base_url):
        form = form.model_copy(update={"base_url": address})
    addresses = [address, *([form.base_url] if form else [])]
    key = _read_key(provider, addresses)
    if not key and is_key_needed and provider.key_needed and not is_loopback(address):
        raise InputError(
            f"--teacher {name}: no key; put it in the environment variable {provider.key_variable}"
        )
    return Target(
        name=name, provider=provider, model=chosen, base_url=address, key=key, prefix=form
    )


def check_terms(target: Target, budget: float | None, when: When) -> None:
    """Refuse a budget that nothing can be counted against, and a wait for cheap hours where none
    are known."""
    if budget is not None and not target.is_priced:
        raise InputError(
            f"--budget: no price is known for {target.model} of {target.name}; leave it out, or give the price in a file for --providers"
        )
    if when == "off-peak" and not (target.is_priced and target.provider.peak):
        raise InputError(
            f"--when off-peak: no dear hours are known for {target.name}; leave it out, or give `peak` in a file for --providers"
        )


def _read_key(provider: Provider, addresses: Iterable[str]) -> str:
    """Read a provider's key; it is for the hosts of the shipped providers that use it, wherever a
    recipe or a file of providers would have it sent."""
    variable = provider.key_variable
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            f"{variable}: holds a line break or another character that no key has; set it again"
        )
    own = {_origin(address) for address in key_addresses(variable)}
    for address in addresses if key and own else ():
        if _origin(address) in own:
            continue
        if is_loopback(address):
            return ""
        raise InputError(
            f"--base-url {address}: {variable} is for {' and '.join(sorted(own))} alone and is not sent elsewhere; "
            "use --teacher custom with the key in MEDKD_API_KEY, or a provider of your own with a key_variable of its own in a file for --providers"
        )
    return key


def key_addresses(variable: str) -> list[str]:
    """List the addresses of the shipped providers that a key is for; none where any will do."""
    shipped = [entry for entry in read_providers().values() if entry.key_variable == variable]
    addresses = [
        *(entry.base_url for entry in shipped),
        *(entry.prefix.base_url for entry in shipped if entry.prefix),
    ]
    return [address for address in addresses if address and not is_loopback(address)]


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _checked_address(base_url: str, name: str) -> str:
    if not base_url:
        raise InputError(f"--teacher {name}: no address; give --base-url http://HOST:PORT/v1")
    try:
        parts = urlsplit(base_url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname and parts.port != 0)
    except ValueError:
        parts, is_address = urlsplit(""), False
    if not is_address or not base_url.isprintable() or " " in base_url:
        raise InputError(
            f"--base-url {base_url!r}: not an http(s) address; give one like http://127.0.0.1:8000/v1"
        )
    if parts.username or parts.password or parts.query:
        place = f"{parts.scheme}://{parts.hostname}"
        raise InputError(
            f"--base-url {place}…: holds a login or a query; give the bare address, the key belongs in the environment"
        )
    return base_url.rstrip("/").removesuffix("/chat/completions")


def is_loopback(address: str) -> bool:
    """Tell whether an address stays on this machine, where endpoints commonly ask for no key."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def estimate_tokens(texts: Iterable[str]) -> int:
    """Estimate tokens where an endpoint reports none: 0.6 a Chinese character, 0.3 another, as
    DeepSeek's documentation does."""
    n_wide = n_narrow = 0
    for text in texts:
        narrow = len(text.encode("ascii", "ignore"))
        n_narrow += narrow
        n_wide += len(text) - narrow
    return -int(-(0.6 * n_wide + 0.3 * n_narrow) // 1)
