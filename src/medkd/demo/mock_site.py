"""The rehearsal case site: the clinic's cases served on loopback in the real site's page layouts.

In: cases of the rehearsal clinic. Out: case pages in the layouts the site has had, lists with POST
paging in all forms of answer, department lists, robots.txt, 404s and, on request, the verification
page with its slider. Not done here: reading them (`collect`).
"""

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from medkd.demo.knowledge import load_knowledge
from medkd.demo.local_server import LocalServer
from medkd.demo.synthetic_cases import SyntheticCase

if TYPE_CHECKING:
    from aiohttp import web

PAGE_SIZE = 20
"""Cases on one page of a list."""
MISSING_EVERY = 25
"""Every so many list items, one more leads to a page that is not there."""
ROBOTS = "User-agent: *\nDisallow: /admin/\nAllow: /\n"
_INTRODUCTION = ("主诉", "现病史", "既往史", "个人史", "家族史", "查体", "辅助检查")
_CLOSING = ("分析总结",)
_FIRST_OF_SUMMARY = "基本信息"
_CASE = re.compile(r"^/show/(\d+)-1\.html$")
_LIST = re.compile(r"^/cull/(?:(\d+)\.html)?$")
VERIFY = "/verify"
_DEPARTMENT = re.compile(r"^/dept/(\d+)-(\d+)\.html$")


class Answer(NamedTuple):
    """What the site says to one request."""

    status: int
    body: str
    kind: str = "text/html"
    cookie: str = ""


NOT_FOUND = Answer(404, "<html><body><h1>404</h1><p>您访问的页面不存在</p></body></html>")


class CaseSite(LocalServer):
    """The pages of a case site and the record of who asked for them.

    `verify_after` asks for a person after so many case pages: it then serves only who sends the
    cookie that passing the slider gives, until `pass_verification` opens it to all.
    """

    def __init__(
        self, cases: Sequence[SyntheticCase], verify_after: int | None = None, port: int = 0
    ) -> None:
        super().__init__(port)
        self.asked: list[str] = []
        """Method and path of every request, in order."""
        self.agents: set[str] = set()
        self.robots = ROBOTS
        self._cases = {case.number: case for case in cases}
        self._index = _list_items(cases)
        self._departments = list(dict.fromkeys(name for case in cases for name in case.department))
        self._n_until_verification = verify_after
        self.passed = f"passed={secrets.token_hex(8)}"
        """The cookie that passing the slider gives."""

    def pass_verification(self) -> None:
        """Do what a person does with the slider: the site serves again, to the end."""
        self._n_until_verification = None

    def add_routes(self, router: "web.UrlDispatcher") -> None:
        router.add_route("*", "/{path:.*}", self._respond)

    async def _respond(self, request: "web.Request") -> "web.Response":
        from aiohttp import web

        await request.read()
        self.asked.append(f"{request.method} {request.path}")
        self.agents.add(request.headers.get("User-Agent", ""))
        is_xhr = request.headers.get("X-Requested-With") == "XMLHttpRequest"
        cookie = request.headers.get("Cookie", "")
        found = self.answer(request.method, request.path, is_xhr, cookie)
        response = web.Response(
            status=found.status, text=found.body, content_type=found.kind, charset="utf-8"
        )
        if found.cookie:
            response.headers["Set-Cookie"] = f"{found.cookie}; Path=/; HttpOnly"
        return response

    def answer(self, method: str, path: str, is_xhr: bool, cookie: str = "") -> Answer:
        """Answer one request, whatever the path."""
        if path == "/robots.txt":
            return Answer(200, self.robots, "text/plain")
        if path.startswith("/admin/"):
            return Answer(200, "<html><body>for the site's owner</body></html>")
        if path == VERIFY and method == "POST":
            return Answer(204, "", cookie=self.passed)
        if self.passed not in cookie.split("; ") and self._wants_person(path):
            return Answer(200, str(_pages().verification_page(VERIFY)))
        if match := _CASE.match(path):
            case = self._cases.get(int(match[1]))
            return Answer(200, render_case(case)) if case and method == "GET" else NOT_FOUND
        if match := _LIST.match(path):
            return self._answer_list(self._index, int(match[1] or 1), method, is_xhr)
        if match := _DEPARTMENT.match(path):
            return self._answer_list(self._index_of(int(match[1])), int(match[2]), method, is_xhr)
        return NOT_FOUND

    def _wants_person(self, path: str) -> bool:
        if self._n_until_verification is None:
            return False
        if _CASE.match(path) and self._n_until_verification > 0:
            self._n_until_verification -= 1
            return False
        return self._n_until_verification == 0

    def _index_of(self, department: int) -> list[tuple[int, str]]:
        """List a department's cases; departments are numbered from 1 in the order of their first
        case."""
        name = self._departments[department - 1] if 0 < department <= len(self._departments) else ""
        return [
            item
            for item in self._index
            if (case := self._cases.get(item[0])) and name in case.department
        ]

    def _answer_list(
        self, index: list[tuple[int, str]], page: int, method: str, is_xhr: bool
    ) -> Answer:
        """Answer GET with page 1 and POST with later ones.

        Past the end the last page comes again, as lists on the web do.
        """
        n_pages = max(1, -(-len(index) // PAGE_SIZE))
        start = PAGE_SIZE * (min(max(page, 1), n_pages) - 1)
        cases = index[start : start + PAGE_SIZE]
        if method == "GET" and page == 1:
            departments = [*enumerate(self._departments, start=1)]
            return Answer(200, str(_pages().list_page("病例中心", cases, departments)))
        if method == "POST" and is_xhr:
            return _wrap(str(_pages().items(cases)), page)
        return NOT_FOUND


def _wrap(html: str, page: int) -> Answer:
    """Answer with a page of a list in one of the three forms that the site has used."""
    if page % 3 == 0:
        return Answer(200, html)
    content = {"html": html} if page % 3 == 1 else {"code": 1, "data": {"html": html}}
    return Answer(200, json.dumps(content, ensure_ascii=False), "application/json")


def serve_site(
    cases: Sequence[SyntheticCase], port: int = 0, verify_after: int | None = None
) -> CaseSite:
    """Make a site of cases at a loopback port, 0 for any free one; it serves inside `with`."""
    return CaseSite(cases, verify_after, port)


def _list_items(cases: Sequence[SyntheticCase]) -> list[tuple[int, str]]:
    """List the cases, with an item in between here and there whose page is gone."""
    taken = {case.number for case in cases}
    gone = max(taken, default=0) + 1000
    items: list[tuple[int, str]] = []
    for i, case in enumerate(cases, start=1):
        items.append((case.number, case.title))
        if i % MISSING_EVERY == 0:
            items.append((gone + i, "该病例已下线"))
    return items


def layout_of(number: int) -> str:
    """Say in which layout a case's page is: most in the newest, as cases still come in."""
    return "oldest" if number % 10 == 7 else "of_2022" if number % 5 == 3 else "newest"


def render_case(case: SyntheticCase) -> str:
    """Write a case's page."""
    headings = load_knowledge(case.language).headings
    sections = case.sections
    layout = layout_of(case.number)
    if layout != "newest":
        everything = {**sections, **case.summary}.items()
        write = _pages().oldest_case_page if layout == "oldest" else _pages().case_page_of_2022
        return str(write(case.title, case.department, _head(everything, headings)))
    beside = {_FIRST_OF_SUMMARY, *_INTRODUCTION, *_CLOSING}
    summary = {**dict(_pick(sections, (_FIRST_OF_SUMMARY,))), **case.summary}
    treatment = [item for item in sections.items() if item[0] not in beside]
    return str(
        _pages().case_page(
            title=case.title,
            departments=case.department,
            summary=_head(summary.items(), headings),
            introduction=_head(_pick(sections, _INTRODUCTION), headings),
            treatment=_head(treatment, headings),
            closing=_head(_pick(sections, _CLOSING), headings),
        )
    )


def _head(
    sections: Iterable[tuple[str, str]], headings: Mapping[str, str]
) -> list[tuple[str, str]]:
    return [(headings.get(name, name), text) for name, text in sections]


def _pick(sections: dict[str, str], names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, sections[name]) for name in names if name in sections]


@cache
def _pages() -> Any:
    from jinja2 import Environment

    template = files("medkd.demo").joinpath("pages.jinja").read_text(encoding="utf-8")
    return Environment(autoescape=True).from_string(template).module
