"""Pages of the case site: HTML in, a `RawCase`, the links of a list or "a person is wanted" out.
Pure, and never raises.

Each layout is one function in `LAYOUTS`; a page is read by the first one that finds sections in it.
Not done here: requests (`spider`), names and diagnoses (`sections`).
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from medkd.collect.sections import (
    SectionNames,
    find_diagnosis,
    join_sections,
    load_names,
    normalize_whitespace,
    unify_departments,
)
from medkd.core.errors import InputError
from medkd.core.records import RawCase
from medkd.text.files import decode

if TYPE_CHECKING:
    from parsel import Selector

SOURCE = "iiyi"
_CASE_LINK = re.compile(r"(?:^|/)show/(\d{1,12})-\d+\.html")
_DEPARTMENT_LINK = re.compile(r"(?:^|/)dept/(\d{1,6})-\d+\.html")
_BREAKING = {"br", "p", "div", "li", "tr", "table", "ul", "ol", "h1", "h2", "h3", "h4"}
_TAG = re.compile(
    r"</?(?:script|style|p|br|div|span|img|a|b|i|strong|em|font|table|tr|td|ul|ol|li"
    r"|h[1-6])(?:\s[^<>]{0,500})?/?>",
    re.IGNORECASE,
)
_MAX_DEPTH = 100
"""Deepest element in which running text is looked for."""
_SILENT = {"script", "style", "noscript", "template"}


@dataclass(frozen=True)
class Content:
    """What a layout finds on a page, white space and names still as they stand there."""

    title: str
    departments: list[str]
    parts: list[tuple[str, str]]
    """Section name and text, in the order of the page."""


def case_address(native_id: str) -> str:
    """Return the path of a case's page."""
    return f"/show/{native_id}-1.html"


def native_id_of(address: str) -> str:
    """Read the site's own id out of an address; empty where there is none."""
    match = _CASE_LINK.search(address)
    return match.group(1) if match else ""


def parse_case(
    html: str,
    native_id: str,
    url: str = "",
    retrieved_at: str = "",
    names: SectionNames | None = None,
) -> RawCase | None:
    """Read a case from its page; None where no layout finds a section."""
    if not native_id:
        return None
    names = names or load_names()
    page = _select(html)
    for read_layout in LAYOUTS:
        content = read_layout(page, names)
        sections = join_sections(content.parts, names)
        if sections:
            return RawCase(
                id=f"{SOURCE}:{native_id}",
                source=SOURCE,
                url=url,
                retrieved_at=retrieved_at,
                licence=_licence(page, url),
                title=normalize_whitespace(content.title).replace("\n", " "),
                department=unify_departments(content.departments),
                sections=sections,
                diagnosis=find_diagnosis(sections),
            )
    return None


def parse_list(body: str) -> list[str]:
    """Return the native ids of a list, in its order, each once; the list is a page, bare HTML, or
    JSON around HTML."""
    page = _select(_unwrap(body))
    for place in _LISTED:
        links = page.css(place).getall()
        if found := [native_id for link in links if (native_id := native_id_of(link))]:
            return list(dict.fromkeys(found))
    return []


# Later pages of a list come as bare items, without the box around them; the oldest lists were plain
# ones.
_LISTED = (
    "div.case_database_box > div.li a.name::attr(href)",
    "div.li a.name::attr(href)",
    "a.name::attr(href)",
    "ul > li > a::attr(href)",
)


def parse_departments(body: str) -> dict[str, str]:
    """Return the numbers of the departments that a page links to, by name."""
    found: dict[str, str] = {}
    for link in _select(_unwrap(body)).css("a[href]"):
        match = _DEPARTMENT_LINK.search(link.attrib["href"])
        names = unify_departments(["".join(link.css("::text").getall())])
        if match and names:
            found.setdefault(names[0], match.group(1))
    return found


def is_verification(body: str) -> bool:
    """Tell whether the site asks for a person: its slider stands where a case or a list should
    be."""
    html = _unwrap(body)
    if "sliderS" not in html:
        return False
    page = _select(html)
    return (
        bool(page.css(".sliderS"))
        and not page.css(".case_details_cont, div.li a.name")
        and not _has_sections(page)
    )


def is_login(body: str) -> bool:
    """Tell whether the site asks for a login where a case should be."""
    html = _unwrap(body)
    if "password" not in html.lower():
        return False
    page = _select(html)
    return bool(page.css("input[type=password], input[type=PASSWORD]")) and not _has_sections(page)


def _has_sections(page: "Selector") -> bool:
    names = load_names()
    return any(join_sections(read_layout(page, names).parts, names) for read_layout in LAYOUTS)


def to_plain_text(text: str) -> str:
    """Return the text that a piece of HTML shows; what is no HTML comes back as it is, its < and >
    among it."""
    if not _TAG.search(text):
        return text
    body = _select(text).css("body")[:1]
    return "".join(_pieces(body[0].root)) if body else ""


def licence_note(url: str) -> str:
    """Say under what terms text from this address stands, where the page itself does not."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    if host == "iiyi.com" or host.endswith(".iiyi.com"):
        return (
            "iiyi.com: text under copyright of the site and its authors; its terms apply, not for "
            "redistribution"
        )
    return f"{host}: terms unknown, ask its owner" if host else ""


def _read_newest(page: "Selector", names: SectionNames) -> Content:
    # Each block by its own position class: `.case_study` alone would match the first of them twice.
    places = {
        "var": "div.case_summary.position1 .situation p",
        "h3": "div.case_study.position2 div:has(> h3), div.case_study.position3 div:has(> h3)",
        "h2": "div.position4",
    }
    parts = [
        _named_text(block.root, tag) for tag, place in places.items() for block in page.css(place)
    ]
    tags = page.css(".doctors_excel a span::text").getall()
    return Content(
        title="".join(page.css("div.case_details_cont h2")[:1].css("::text").getall()),
        departments=tags or _crumbs(page),
        parts=[part for part in parts if part],
    )


def _read_of_2022(page: "Selector", names: SectionNames) -> Content:
    parts: list[tuple[str, str]] = []
    for block in page.css("div.s_floorbox p"):
        if named := _named_text(block.root, "b"):
            parts.append(named)
        elif parts:  # one more paragraph of the section before it
            parts.append((parts[-1][0], "".join(_pieces(block.root))))
    return Content(_first_heading(page), _crumbs(page), parts)


def _read_oldest(page: "Selector", names: SectionNames) -> Content:
    """Read running text in which the headings are words: 【主诉】 anywhere, 主诉： at the beginning
    of a paragraph."""
    box = _box_of_headings(page.root, names)
    return Content(
        _first_heading(page), _crumbs(page), [] if box is None else names.cut("".join(_pieces(box)))
    )


LAYOUTS: tuple[Callable[["Selector", SectionNames], Content], ...] = (
    _read_newest,
    _read_of_2022,
    _read_oldest,
)
"""Readers of the page layouts the site has had, the newest first."""


def _box_of_headings(root: Any, names: SectionNames) -> Any:
    """Find the smallest element that holds all headings of running text; None without any."""
    around: list[Any] | None = None
    for element in root.iter():
        is_read = isinstance(element.tag, str) and element.tag not in _SILENT
        for text, parent in (
            (element.text if is_read else None, element),
            (element.tail, element.getparent()),
        ):
            if parent is None or not text or not names.heading.search(text.strip()):
                continue
            line = [*list(parent.iterancestors())[::-1], parent][:_MAX_DEPTH]
            around = (
                line
                if around is None
                else [a for a, b in zip(around, line, strict=False) if a is b]
            )
    return around[-1] if around else None


def _first_heading(page: "Selector") -> str:
    return "".join(page.css("div.fl h1, h1")[:1].css("::text").getall())


_NO_DEPARTMENT = {
    "",
    "首页",
    "爱爱医",
    "病例中心",
    "病例",
    "病例库",
    "病例列表",
    "全部病例",
    "正文",
}


def _crumbs(page: "Selector") -> list[str]:
    """Return the departments in a breadcrumb trail."""
    names = [
        normalize_whitespace(name)
        for name in page.css("div.s_wz a::text, .breadcrumbs a::text").getall()
    ]
    return [name for name in names if name not in _NO_DEPARTMENT]


def _named_text(block: Any, tag: str) -> tuple[str, str] | None:
    """Read a block as the name in its first `tag` and the text around that; None without such a
    tag."""
    heading = next(block.iter(tag), None)
    if heading is None:
        return None
    emphasised = next(heading.iter("em"), None)
    name = heading if emphasised is None else emphasised
    return "".join(_pieces(name)), "".join(_pieces(block, without=heading))


def _pieces(root: Any, without: Any = None) -> Iterator[str]:
    """Return the texts of an element in order; block elements and br end a line.

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
    """Take the HTML out of a JSON answer: {"data": {"html": …}} or {"html": …}; anything else is
    HTML already."""
    body = body.lstrip("\ufeff \t\r\n")
    if not body.startswith("{"):
        return body
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return body
    inner = answer.get("data", answer) if isinstance(answer, dict) else {}
    html = cast("dict[str, Any]", inner).get("html") if isinstance(inner, dict) else inner
    return html if isinstance(html, str) else ""


def _licence(page: "Selector", url: str) -> str:
    stated = (
        page.css("link[rel=license]::attr(title)").get()
        or page.css("link[rel=license]::attr(href)").get()
    )
    return normalize_whitespace(stated) if stated else licence_note(url)


# --- Bytes and saved pages ----------------------------------------------------------------------

_CHINESE = {"gb18030", "big5hkscs"}
"""What pages of Chinese sites declare, as w3lib reads it: gb2312 and gbk are the first."""
_MAX_BAD = 0.01
"""Share of bad characters up to which a page is read all the same."""


def decode_page(content: bytes) -> str:
    """Decode a page as it says of itself, where that is true, else by what its bytes are; single
    bad bytes are replaced, so that it never fails."""
    from w3lib.encoding import html_body_declared_encoding

    declared = html_body_declared_encoding(content[:4096])
    if declared in _CHINESE:
        text = content.decode(declared, "replace")
        if text.count("\ufffd") <= _MAX_BAD * len(text):
            return text
    try:
        return decode(content, "page")
    except InputError:
        text = content.decode("utf-8", "replace")
        is_utf8 = text.count("\ufffd") <= _MAX_BAD * len(text)
        return text if is_utf8 else content.decode("gb18030", "replace")


_ADDRESS = re.compile(
    r"saved from url=\(\d{1,6}\)(?P<saved>\S{1,500})|"
    r"<link[^>]{0,200}?rel=[\"']?canonical[\"']?[^>]{0,200}?href=[\"'](?P<link>[^\"']{1,500})|"
    r"<meta[^>]{0,200}?property=[\"']og:url[\"'][^>]{0,200}?content=[\"'](?P<meta>[^\"']{1,500})",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<!\d)(\d{2,12})(?:-\d{1,3})?$")
_LONGEST_HEAD = 20_000
MAX_BYTES = 16 * 2**20
"""A saved page longer than this is none."""


def read_saved_page(path: Path, content: bytes, names: SectionNames) -> RawCase | None:
    """Read a case from a saved page, its address from what the browser noted in it, else its id
    from the file's name."""
    if len(content) > MAX_BYTES:
        return None
    html = decode_page(content)
    url = next(
        (
            address
            for found in _ADDRESS.finditer(html[:_LONGEST_HEAD])
            for address in found.groups()
            if address
        ),
        "",
    )
    stem = path.stem.strip()
    number = _NUMBER.search(stem)
    native_id = native_id_of(url) or (number[1] if number else stem)
    saved_at = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return parse_case(html, native_id, url, saved_at, names)
