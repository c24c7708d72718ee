"""Pages of the case site: HTML in, a `RawCase`, list links or "this is the verification" out. Pure, and never raises.

Each layout is one function in `LAYOUTS`; a page is read by the first one that finds sections in it.
Not done here: fetching (`iiyi`), names and diagnoses (`sections`).
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from medkd.collect.sections import find_diagnosis, join_sections, tidy, unify_departments
from medkd.core.records import RawCase

if TYPE_CHECKING:
    from parsel import Selector

SOURCE = "iiyi"
_CASE_LINK = re.compile(r"/show/(\d{1,12})-\d+\.html")
_BREAKING = {"br", "p", "div", "li", "tr", "table", "ul", "ol", "h1", "h2", "h3", "h4"}
_SILENT = {"script", "style", "noscript", "template"}


@dataclass(frozen=True)
class Content:
    """What a layout finds on a page, white space and names still as they stand there."""

    title: str
    departments: list[str]
    parts: list[tuple[str, str]]
    """Section name and text, in the order of the page."""


def case_address(native_id: str) -> str:
    """Give the path of a case's page."""
    return f"/show/{native_id}-1.html"


def native_id_of(address: str) -> str:
    """Read the site's own id out of an address; empty where there is none."""
    match = _CASE_LINK.search(address)
    return match.group(1) if match else ""


def parse_case(html: str, native_id: str, url: str = "", retrieved_at: str = "") -> RawCase | None:
    """Read a case from its page; None where no layout finds a section."""
    if not native_id:
        return None
    page = _select(html)
    for read_layout in LAYOUTS:
        content = read_layout(page)
        sections = join_sections(content.parts)
        if sections:
            return RawCase(
                id=f"{SOURCE}:{native_id}",
                source=SOURCE,
                url=url,
                retrieved_at=retrieved_at,
                licence=_licence(page, url),
                title=tidy(content.title).replace("\n", " "),
                department=unify_departments(content.departments),
                sections=sections,
                diagnosis=find_diagnosis(sections),
            )
    return None


def parse_list(body: str) -> list[str]:
    """Give the native ids a list names, in its order, each once; the list is a page, bare HTML, or JSON around HTML."""
    page = _select(_unwrap(body))
    # Later pages of a list come as bare items, without the box around them.
    items = page.css("div.case_database_box > div.li") or page.css("div.li")
    links = items.css("a.name::attr(href)").getall()
    return list(dict.fromkeys(found for link in links if (found := native_id_of(link))))


def is_verification(body: str) -> bool:
    """Tell whether the site asks for a person: its slider stands where a case or a list should be."""
    html = _unwrap(body)
    if "sliderS" not in html:
        return False
    page = _select(html)
    return bool(page.css(".sliderS")) and not page.css(".case_details_cont, div.li a.name")


def licence_note(url: str) -> str:
    """Say under what terms text from this address stands, where the page itself does not."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    if host == "iiyi.com" or host.endswith(".iiyi.com"):
        return "iiyi.com: text under copyright of the site and its authors; its terms apply, not for redistribution"
    return f"{host}: terms unknown, ask its owner" if host else ""


def _read_newest(page: "Selector") -> Content:
    # Each block by its own position class: `.case_study` alone would match the first of them twice.
    places = {
        "var": "div.case_summary.position1 .situation p",
        "h3": "div.case_study.position2 > div, div.case_study.position3 > div",
        "h2": "div.position4",
    }
    parts = [_named_text(block.root, tag) for tag, place in places.items() for block in page.css(place)]
    tags = page.css(".doctors_excel a span::text").getall()
    return Content(
        title="".join(page.css("div.case_details_cont h2")[:1].css("::text").getall()),
        departments=tags or page.css(".breadcrumbs a::text").re(r"^.*病例\s*$"),
        parts=[part for part in parts if part],
    )


LAYOUTS: tuple[Callable[["Selector"], Content], ...] = (_read_newest,)
"""Readers of the page layouts the site has had, the newest first."""


def _named_text(block: Any, tag: str) -> tuple[str, str] | None:
    """Read a block as the name in its first `tag` and the text around that; None without such a tag."""
    heading = next(block.iter(tag), None)
    if heading is None:
        return None
    emphasised = next(heading.iter("em"), None)
    name = heading if emphasised is None else emphasised
    return "".join(_pieces(name)), "".join(_pieces(block, without=heading))


def _pieces(root: Any, without: Any = None) -> Iterator[str]:
    """Give the texts of an element in order; block elements and br end a line.

    The walk is no recursion: hostile pages nest deeper than Python's stack.
    """
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    n_hidden = 0
    for event, element in etree.iterwalk(root, events=("start", "end", "comment", "pi")):
        breaks = element.tag in _BREAKING
        hides = element.tag in _SILENT or element is without
        if event == "start":
            n_hidden += hides
            if breaks:
                yield "\n"
            if not n_hidden:
                yield element.text or ""
            continue
        n_hidden -= hides if event == "end" else 0
        if breaks:
            yield "\n"
        if not n_hidden and element is not root:
            yield element.tail or ""


def _select(html: str) -> "Selector":
    from parsel import Selector

    clean = html.encode("utf-8", "ignore").decode("utf-8").replace("\x00", "")
    return Selector(text=clean if clean.strip() else "<html></html>", type="html")


def _unwrap(body: str) -> str:
    """Take the HTML out of a JSON answer: {"data": {"html": …}} or {"html": …}; anything else is HTML already."""
    if not body.lstrip().startswith("{"):
        return body
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return body
    inner = answer.get("data", answer) if isinstance(answer, dict) else {}
    html = cast("dict[str, Any]", inner).get("html") if isinstance(inner, dict) else inner
    return html if isinstance(html, str) else ""


def _licence(page: "Selector", url: str) -> str:
    stated = page.css("link[rel=license]::attr(title)").get() or page.css("link[rel=license]::attr(href)").get()
    return tidy(stated) if stated else licence_note(url)
