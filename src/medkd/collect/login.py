"""What lets a crawl past a verification: cookies that a person hands over in a file, or a visible
browser in which a person passes it.

In: a file, or an address. Out: cookies of one site by name; they are written into no file and no
message. The program waits at the browser and never touches what is on the page.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medkd.collect.parser import is_login, is_verification
from medkd.core.errors import HumanActionRequiredError, InputError
from medkd.text.files import read_text

if TYPE_CHECKING:
    from playwright.sync_api import Page

# --- A browser ----------------------------------------------------------------------------------

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
LAUNCH: dict[str, Any] = {"headless": False}
PATIENCE_S = 600.0
LOOK_EVERY_S = 0.5
_ELSEWHERE = "run the same command on a machine with a screen, or give --cookies FILE"


def check_browser() -> None:
    """Raise InputError where there is no way to drive a browser, HumanActionRequiredError where
    there is no screen to show it on."""
    from importlib.util import find_spec

    if find_spec("playwright") is None:
        raise InputError(
            "--browser needs Playwright; pip install 'medkd[browser]', or give --cookies FILE"
        )
    if not has_screen():
        raise HumanActionRequiredError(
            "--browser: there is no screen here for a person to look at; {}", _ELSEWHERE
        )


def has_screen() -> bool:
    """Tell whether a window can be shown."""
    return sys.platform in {"darwin", "win32"} or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def find_browser() -> str | None:
    """Return the installed browser; None leaves it to Playwright's own."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def wait_for_verification(address: str, cookies: dict[str, str], user_agent: str) -> dict[str, str]:
    """Show a page until a person has passed what it asks for; return the cookies of its site.

    Raises InputError where no browser starts, HumanActionRequiredError where nobody passes it in
    time.
    """
    from playwright.sync_api import Error, sync_playwright

    print(
        f"a person is needed: pass the verification in the browser window ({address}); the crawl "
        "then goes on",
        file=sys.stderr,
    )
    with sync_playwright() as playwright:
        try:
            window = playwright.chromium.launch(executable_path=find_browser(), **LAUNCH)
        except Error as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise InputError(
                "--browser: no browser starts ({}); install Chromium or Chrome, or give "
                "--cookies FILE",
                reason,
            ) from error
        try:
            # The crawler's own name, which the site has seen so far: the cookies may hold for it
            # alone.
            context = window.new_context(user_agent=user_agent)
            context.add_cookies(
                [{"name": name, "value": value, "url": address} for name, value in cookies.items()]
            )
            page = context.new_page()
            page.goto(address, wait_until="domcontentloaded")
            _wait_for_person(page, address)
            return {
                str(cookie.get("name")): str(cookie.get("value"))
                for cookie in context.cookies(address)
            }
        except Error as error:
            raise HumanActionRequiredError(
                "{}: the window closed before the page was passed; run the same command again",
                address,
            ) from error
        finally:
            window.close()


def _wait_for_person(page: "Page", address: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    n_passed = 0
    while time.monotonic() < deadline:
        # Twice in a row: in between two pages there is nothing that asks either.
        n_passed = n_passed + 1 if _is_passed(page) else 0
        if n_passed == 2:
            return
        page.wait_for_timeout(LOOK_EVERY_S * 1000)
    raise HumanActionRequiredError(
        "{}: nobody passed the verification within {:.0f} s; run the same command again",
        address,
        PATIENCE_S,
    )


def _is_passed(page: "Page") -> bool:
    from playwright.sync_api import Error

    try:
        html, text = page.content(), page.evaluate("document.body ? document.body.innerText : ''")
    except Error:
        if page.is_closed():
            raise
        return False  # just then on its way to another page
    return bool(str(text).strip()) and not is_verification(html) and not is_login(html)


# --- Cookies of a file --------------------------------------------------------------------------

FORMS = (
    'expected Netscape\'s cookies.txt, or JSON such as [{"name": "…", "value": "…", "domain": "…"}]'
)
_HTTP_ONLY = "#HttpOnly_"
_MAX_BYTES = 4 * 2**20


def read_cookies(path: Path, host: str) -> dict[str, str]:
    """Read the cookies that a file holds for a host, by name.

    Raises InputError where it cannot be read or holds none for this host that is still good.
    """
    text = read_text(path, _MAX_BYTES)
    found = {
        name: value
        for name, value, domain, expires in _read_forms(text, path)
        if _is_for(domain, host) and _is_good(expires)
    }
    if not found:
        raise InputError(
            "{}: holds no cookie for {} that is still good; export the cookies of "
            "that site once more",
            path,
            host,
        )
    for name, value in found.items():
        if not (name + value).isprintable() or not (name + value).isascii() or ";" in name + value:
            raise InputError(
                "{}: a cookie with characters that no cookie has; export the cookies once more",
                path,
            )
    return found


def _read_forms(text: str, path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Return name, value, domain (empty: any) and expiry (0: with the session) of each cookie."""
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
        raise InputError("{}: no cookies; {}", path, FORMS)


def _read_json(text: str, path: Path) -> Iterator[tuple[str, str, str, float]]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("{}: broken JSON; {}", path, FORMS) from error
    if isinstance(content, dict) and isinstance(
        cast("dict[str, Any]", content).get("cookies"), list
    ):
        content = cast("dict[str, Any]", content)["cookies"]
    if isinstance(content, dict):
        for name, value in cast("dict[str, Any]", content).items():
            if not isinstance(value, str | int | float):
                raise InputError("{}: cookie {!r} has no plain value; {}", path, name[:40], FORMS)
            yield name, str(value), "", 0
        return
    for cookie in cast("list[Any]", content):
        if not isinstance(cookie, dict) or "name" not in cookie or "value" not in cookie:
            raise InputError("{}: an entry without name and value; {}", path, FORMS)
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
