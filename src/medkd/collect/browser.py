"""A person passes what the site asks for, in a visible browser: an address in, the cookies that
came of it out.

The program opens the page, waits, and looks whether it still asks; it never touches what is on it.
Not done here: cookies from a file (`cookies`), the crawl.
"""

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from medkd.collect.pages import is_login, is_verification
from medkd.core.errors import HumanActionRequiredError, InputError

if TYPE_CHECKING:
    from playwright.sync_api import Page

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
    """Raise InputError where there is no way to drive a browser, HumanActionRequiredError where there is
    no screen to show it on."""
    from importlib.util import find_spec

    if find_spec("playwright") is None:
        raise InputError(
            "--browser needs Playwright; pip install 'medkd[browser]', or give --cookies FILE"
        )
    if not has_screen():
        raise HumanActionRequiredError(
            f"--browser: there is no screen here for a person to look at; {_ELSEWHERE}"
        )


def has_screen() -> bool:
    """Tell whether a window can be shown."""
    return sys.platform in {"darwin", "win32"} or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def find_browser() -> str | None:
    """Give the installed browser; None leaves it to Playwright's own."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def pass_in_browser(address: str, cookies: dict[str, str], user_agent: str) -> dict[str, str]:
    """Show a page until a person has passed what it asks for; give the cookies of its site.

    Raises InputError where no browser starts, HumanActionRequiredError where nobody passes it in time.
    """
    from playwright.sync_api import Error, sync_playwright

    print(
        f"a person is needed: pass the verification in the browser window ({address}); the crawl then goes on",
        file=sys.stderr,
    )
    with sync_playwright() as playwright:
        try:
            window = playwright.chromium.launch(executable_path=find_browser(), **LAUNCH)
        except Error as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise InputError(
                f"--browser: no browser starts ({reason}); install Chromium or Chrome, or give --cookies FILE"
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
                f"{address}: the window closed before the page was passed; run the same command again"
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
        f"{address}: nobody passed the verification within {PATIENCE_S:.0f} s; run the same command again"
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
