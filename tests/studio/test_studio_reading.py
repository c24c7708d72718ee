"""The pages can be read and reached: contrast in light and dark, every control by keyboard, focus
in sight."""

from pathlib import Path

import pytest

from medkd.studio.app import PAGES

WITH_FORM = ("runs", "evaluate", "export")
PATIENCE, N_TEXTS = 15, 8
LOOK = Path(__file__).with_name("look.js")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(
    open_studio, watch, hostile_runs: Path, scheme: str
) -> None:
    studio = open_studio()
    watched = watch(color_scheme=scheme)
    watched.context.add_init_script(path=LOOK)
    page = watched.page
    for name in PAGES:
        page.goto(f"{studio.url}/en/{name if name != PAGES[0] else '?run=bad'}")
        page.locator(".head h1").wait_for()
        for opener in page.locator("button.label-wrap").all():
            opener.click()
        if name in WITH_FORM:
            page.get_by_text("The same on the command line").wait_for()
        for row in page.locator(".rows button").all()[:1]:
            row.click()
            page.locator("article.case").wait_for()
        for _ in range(PATIENCE):
            page.wait_for_timeout(
                1000
            )  # a part that waits for its first answer is drawn faint by the framework
            faint, n = page.evaluate("findFaint()"), page.evaluate("nMeasured")
            if not faint and n > N_TEXTS:
                break
        assert (faint, n > N_TEXTS) == ([], True), name
        print(
            f"{scheme} {name}: lowest {page.evaluate('lowest'):.2f} of {page.evaluate('nMeasured')} texts"
        )


@pytest.mark.slow
def test_every_control_is_reached_by_keyboard_and_shows_that_it_is(
    open_studio, watch, hostile_runs: Path
) -> None:
    studio = open_studio()
    watched = watch()
    watched.context.add_init_script(path=LOOK)
    page = watched.page
    for name in PAGES:
        page.goto(f"{studio.url}/en/{name if name != PAGES[0] else '?run=bad'}")
        page.locator(".head h1").wait_for()
        page.wait_for_timeout(1000)
        n = page.evaluate(
            "listControls().forEach((one) => (one.unreached = true)) ?? listControls().length"
        )
        unmarked: set[str] = set()
        page.evaluate("document.body.focus()")
        for _ in range(n + 10):
            page.keyboard.press("Tab")
            found = page.evaluate(
                "() => { const one = document.activeElement; one.unreached = false; const mark = [one, one.parentElement,"
                " one.closest('.wrap, .block, label') ?? one].some((part) => { const s = getComputedStyle(part);"
                " return s.outlineStyle !== 'none' || s.boxShadow !== 'none' || s.borderStyle !== 'none'; });"
                " return [nameControl(one), mark || one === document.body]; }"
            )
            unmarked |= set() if found[1] else {found[0]}
        assert (
            page.evaluate("listControls().filter((one) => one.unreached).map(nameControl)") == []
        ), name
        assert unmarked == set(), name
