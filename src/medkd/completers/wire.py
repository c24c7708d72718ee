"""A request in an endpoint's own terms: the body that is sent, the address it is sent to, the proxy
it goes through.

In: a `Target`, a `Request`, the text to go on from where there is one. Out: the body as a mapping,
an address.
Not done here: sending (`completers.endpoint`).
"""

from typing import Any

from medkd.completers.continuation import SoFar
from medkd.completers.providers import Target, is_loopback
from medkd.core.completer import Request


def make_body(target: Target, request: Request, before: SoFar | None = None) -> dict[str, Any]:
    """Write a request, or the request to go on from a text."""
    provider, sampling = target.provider, request.sampling
    body: dict[str, Any] = {
        "model": target.model,
        "messages": [
            {"role": message.role, "content": message.content} for message in request.messages
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        provider.max_tokens_field: sampling.max_tokens,
    }
    optional: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    }
    if provider.effort_field:
        optional[provider.effort_field] = sampling.effort
    body |= {name: value for name, value in optional.items() if value is not None}
    if sampling.thinking is not None:
        body |= provider.thinking_on if sampling.thinking else provider.thinking_off
    return _with_text_so_far(body, target, before) if before else body


def _with_text_so_far(body: dict[str, Any], target: Target, before: SoFar) -> dict[str, Any]:
    form = target.prefix
    assert form is not None, "only asked where the target has prefix completion"  # noqa: S101
    if form.text_field:
        return {**body, **form.body, form.text_field: before.text}
    last = {"role": "assistant", "content": before.text, **form.message}
    if before.reasoning:
        last["reasoning_content"] = before.reasoning
    return {**body, **form.body, "messages": [*body["messages"], last]}


def address_of(target: Target, before: SoFar | None) -> str:
    """Give the address a request goes to; going on from a text may have one of its own."""
    base_url = target.prefix.base_url if before and target.prefix else target.base_url
    return f"{base_url}/chat/completions"


def find_proxy(url: str) -> str | None:
    """Give the proxy of the environment for an address; this machine is always asked directly."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)
