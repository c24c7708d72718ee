"""Cookies that a person hands over: a file in, the cookies of one site out.

Read: Netscape's form (`cookies.txt`, as curl and browser extensions write it), JSON (a list of
cookies as extensions and browsers export it, Playwright's `{"cookies": […]}`, or a plain `{"name":
"value"}`), and a bare `Cookie:` header. Cookies of other sites in the file are left alone. Not done
here: getting them (`browser`); they are written into no file and no message.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from medkd.core.errors import InputError, from_os_error

FORMS = (
    'expected Netscape\'s cookies.txt, or JSON such as [{"name": "…", "value": "…", "domain": "…"}]'
)
_HTTP_ONLY = "#HttpOnly_"
_MAX_BYTES = 4 * 2**20


def read_cookies(path: Path, host: str) -> dict[str, str]:
    """Read the cookies that a file holds for a host, by name.

    Raises InputError where it cannot be read or holds none for this host that is still good.
    """
    try:
        text = path.read_bytes()[:_MAX_BYTES].decode("utf-8-sig")
    except OSError as error:
        raise from_os_error(error, path) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text; {FORMS}") from error
    found = {
        name: value
        for name, value, domain, expires in _read(text, path)
        if _is_for(domain, host) and _is_good(expires)
    }
    if not found:
        raise InputError(
            f"{path}: holds no cookie for {host} that is still good; export the cookies of that site once more"
        )
    for name, value in found.items():
        if not (name + value).isprintable() or not (name + value).isascii() or ";" in name + value:
            raise InputError(
                f"{path}: a cookie with characters that no cookie has; export the cookies once more"
            )
    return found


def _read(text: str, path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Give name, value, domain (empty: any) and expiry (0: with the session) of each cookie."""
    bare = text.strip()
    if bare[:1] in {"[", "{"}:
        yield from _read_json(bare, path)
        return
    lines = [line.removeprefix(_HTTP_ONLY) for line in bare.splitlines() if line.strip()]
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    if rows and all(len(row) in {6, 7} for row in rows):
        for row in rows:
            yield row[5], row[6] if len(row) == 7 else "", row[0], _as_number(row[4])
    elif len(rows) == 1 and "=" in bare:
        for pair in lines[-1].removeprefix("Cookie:").split(";"):
            name, _, value = pair.strip().partition("=")
            if name:
                yield name, value, "", 0
    else:
        raise InputError(f"{path}: no cookies; {FORMS}")


def _read_json(text: str, path: Path) -> Iterator[tuple[str, str, str, float]]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: broken JSON; {FORMS}") from error
    if isinstance(content, dict) and isinstance(
        cast("dict[str, Any]", content).get("cookies"), list
    ):
        content = cast("dict[str, Any]", content)["cookies"]
    if isinstance(content, dict):
        for name, value in cast("dict[str, Any]", content).items():
            if not isinstance(value, str | int | float):
                raise InputError(f"{path}: cookie {name[:40]!r} has no plain value; {FORMS}")
            yield name, str(value), "", 0
        return
    for cookie in cast("list[Any]", content):
        if not isinstance(cookie, dict) or "name" not in cookie or "value" not in cookie:
            raise InputError(f"{path}: an entry without name and value; {FORMS}")
        fields = cast("dict[str, Any]", cookie)
        expires = fields.get("expires", fields.get("expirationDate", fields.get("expiry", 0)))
        yield (
            str(fields["name"]),
            str(fields["value"]),
            str(fields.get("domain") or ""),
            _as_number(expires),
        )


def _as_number(value: Any) -> float:
    """Read an expiry; what is no number means with the session."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return 0


def _is_for(domain: str, host: str) -> bool:
    domain = domain.lower().lstrip(".")
    return not domain or host == domain or host.endswith("." + domain)


def _is_good(expires: float) -> bool:
    return not expires > 0 or expires > time.time()
