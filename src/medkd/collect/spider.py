"""The spider of the case site, run as a child process: `python -m medkd.collect.spider`.

In: one `CrawlJob` as a line on stdin. Out: one `CrawlEvent` a line on stdout, the last one with the
reason of the end. robots.txt is obeyed, the delay has jitter, at a verification nothing more is
requested. Not done here: keeping anything (`crawl`), reading HTML (`parser`); this module alone
imports Scrapy.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import scrapy
from scrapy import Spider
from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler
from scrapy.crawler import CrawlerProcess
from scrapy.downloadermiddlewares.retry import RetryMiddleware
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.http import Request, Response, TextResponse
from scrapy.utils.reactor import install_reactor
from twisted.python.failure import Failure

from medkd.collect.crawl import (
    CrawlEvent,
    CrawlJob,
    PageOutcome,
    PageVisit,
    StopReason,
    UnreadPage,
    is_layout_changed,
)
from medkd.collect.parser import (
    SOURCE,
    case_address,
    decode_page,
    is_login,
    is_verification,
    parse_case,
    parse_departments,
    parse_list,
)
from medkd.collect.sections import find_department, is_of_department, load_names
from medkd.core.records import RawCase

Send = Callable[[CrawlEvent], None]
MAIN_LIST = "/cull/"
N_CONCURRENT = 16
"""Requests at a time without a delay."""
MAX_FAILED_IN_A_ROW = 8
MIN_PAGES_TO_JUDGE = 10
"""Case pages after which their layout can be judged while the crawl goes on."""
GONE = {404, 410}


class CaseSpider(scrapy.Spider):
    """Walks the list page by page and asks for the cases it names, no more of them than the limit
    still needs.

    So a limited crawl keeps the first cases of the list, whatever the order in which answers
    arrive. A department asked for by name is looked up first, in the links of the main list and of
    the start page; where no page links to it, the main list is walked and cases of other
    departments are left out.
    """

    name = SOURCE

    def __init__(self, order: CrawlJob, send: Send, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order = order
        self.send = send
        self.allowed_domains = [urlsplit(order.base_url).hostname or ""]
        self.section_names = load_names().extended(order.section_names)
        self.todo = deque(order.todo)
        self.seen = set(order.seen)
        self.next_list = order.next_list
        self.department_number = order.department_number
        self.links_of_main_list: list[str] = []
        self.n_kept = order.n_kept
        self.n_in_flight = 0
        self.is_answered = False
        self.n_failed_in_a_row = 0
        self.n_read, self.n_unreadable = 0, 0
        self.is_listing = False
        self.end = CrawlEvent(end=StopReason.DONE)

    async def start(self) -> AsyncIterator[Request]:
        if self.order.department and self.department_number is None and self.next_list is not None:
            yield self._request(MAIN_LIST, self.look_up, self.list_failed)
            return
        for request in self._ask_more():
            yield request

    def look_up(self, response: Response, address: str, native_id: str) -> Iterator[Request]:
        """Find the number of the department asked for by name, else walk the main list and leave
        others out."""
        body = self._body(response)
        number = (
            find_department(parse_departments(body), self.order.department)
            if response.status == 200
            else ""
        )
        if not number and address == MAIN_LIST:
            self.links_of_main_list = parse_list(body)
            yield self._request("/", self.look_up, self.list_failed)
            return
        self.department_number = number
        self._tell(PageVisit(address=address, outcome=PageOutcome.LOOKED_UP, note=number))
        if not number:
            self._take_links(MAIN_LIST, self.links_of_main_list, "")
        yield from self._ask_more()

    def _ask_more(self) -> Iterator[Request]:
        while self.todo and self._has_room(self.n_in_flight):
            self.n_in_flight += 1
            native_id = self.todo.popleft()
            yield self._request(
                case_address(native_id), self.read_case, self.case_failed, native_id=native_id
            )
        if (
            self.next_list is not None
            and not self.is_listing
            and self._has_room(self.n_in_flight + len(self.todo))
        ):
            self.is_listing = True
            yield self._list_request(self.next_list)

    def _has_room(self, n_expected: int) -> bool:
        return self.order.limit is None or self.n_kept + n_expected < self.order.limit

    def _list_request(self, number: int) -> Request:
        """Ask for page 1 as a browser opening the list does, for later ones as its "more" button
        does."""
        department = self.department_number
        if number == 1:
            return self._request(
                f"/dept/{department}-1.html" if department else MAIN_LIST,
                self.read_list,
                self.list_failed,
            )
        address = f"/dept/{department}-{number}.html" if department else f"/cull/{number}.html"
        headers = {"X-Requested-With": "XMLHttpRequest"}
        return self._request(
            address, self.read_list, self.list_failed, method="POST", headers=headers
        )

    def _request(
        self, address: str, callback: Any, errback: Any, native_id: str = "", **how: Any
    ) -> Request:
        names = {"address": address, "native_id": native_id}
        url = self.order.base_url.rstrip("/") + address
        # After the first answer the cookies are the site's to change.
        given = {} if self.is_answered else self.order.cookies
        cookies: list[Any] = [
            {"name": name, "value": value, "path": "/"} for name, value in given.items()
        ]
        return Request(
            url,
            callback,
            errback=errback,
            cb_kwargs=names,
            dont_filter=True,
            cookies=cookies,
            **how,
        )

    def read_list(self, response: Response, address: str, native_id: str) -> Iterator[Request]:
        """Take the links of a list page; the page that adds nothing new is the last."""
        body = self._body(response)
        self.is_listing = False
        if response.status != 200 and response.status not in GONE:
            self._stop(StopReason.UNREACHABLE, response.url, f"HTTP {response.status}")
        links = parse_list(body) if response.status == 200 else []
        if not links and is_login(body):
            self._stop(StopReason.LOGIN, response.url, "login")
        self._take_links(address, links, _status_note(response))
        yield from self._ask_more()

    def _take_links(self, address: str, links: list[str], note: str) -> None:
        new = [link for link in links if link not in self.seen]
        self.seen.update(new)
        self.todo.extend(new)
        self.next_list = self.next_list + 1 if self.next_list is not None and new else None
        self.n_failed_in_a_row = 0
        self._tell(
            PageVisit(address=address, outcome=PageOutcome.LISTED, links=tuple(links), note=note)
        )

    def read_case(self, response: Response, address: str, native_id: str) -> Iterator[Request]:
        """Read a case, or say why there is none."""
        body = self._body(response)
        self.n_in_flight -= 1
        if response.status in GONE:
            self._tell(
                PageVisit(address=address, outcome=PageOutcome.MISSING, note=_status_note(response))
            )
        elif response.status != 200:
            yield from self._count_failure(address, response.url, f"HTTP {response.status}")
            return
        else:
            retrieved_at = datetime.now(UTC).isoformat(timespec="seconds")
            self._sort(
                address,
                response.url,
                body,
                parse_case(body, native_id, response.url, retrieved_at, self.section_names),
            )
        self.n_failed_in_a_row = 0
        yield from self._ask_more()

    def _sort(self, address: str, url: str, body: str, case: RawCase | None) -> None:
        """Keep a case, leave it out, or keep its page aside."""
        if case is None:
            if is_login(body):
                self._stop(StopReason.LOGIN, url, "login")
            self.n_unreadable += 1
            self._tell(
                PageVisit(address=address, outcome=PageOutcome.UNREADABLE),
                unread=UnreadPage(url=url, html=body),
            )
        elif self.department_number == "" and not is_of_department(
            case.department, self.order.department
        ):
            self.n_read += 1
            self._tell(PageVisit(address=address, outcome=PageOutcome.OTHER_DEPARTMENT))
        else:
            self.n_read += 1
            self.n_kept += 1
            self._tell(PageVisit(address=address, outcome=PageOutcome.KEPT), case=case)
        if self.n_read + self.n_unreadable >= MIN_PAGES_TO_JUDGE and is_layout_changed(
            self.n_read, self.n_unreadable
        ):
            self._stop(StopReason.LAYOUT, url, "layout")

    def case_failed(self, failure: Failure) -> Iterator[Request]:
        """Count a case that gave no answer."""
        request: Request = failure.request  # pyright: ignore[reportAttributeAccessIssue]
        self.n_in_flight -= 1
        if self.is_stopped:
            return
        if failure.check(IgnoreRequest):
            self._tell(
                PageVisit(address=request.cb_kwargs["address"], outcome=PageOutcome.FORBIDDEN)
            )
            yield from self._ask_more()
        else:
            yield from self._count_failure(
                request.cb_kwargs["address"], request.url, _reason(failure)
            )

    def list_failed(self, failure: Failure) -> None:
        """StopReason the crawl: without its lists nothing more is known."""
        request: Request = failure.request  # pyright: ignore[reportAttributeAccessIssue]
        if self.is_stopped:
            return
        if failure.check(IgnoreRequest):
            self._stop(StopReason.FORBIDDEN, request.url, "robots.txt")
        self._stop(StopReason.UNREACHABLE, request.url, f"no answer ({_reason(failure)})")

    def _count_failure(self, address: str, url: str, reason: str) -> Iterator[Request]:
        self.n_failed_in_a_row += 1
        self._tell(PageVisit(address=address, outcome=PageOutcome.FAILED, note=reason))
        if self.n_failed_in_a_row >= MAX_FAILED_IN_A_ROW:
            self._stop(
                StopReason.UNREACHABLE,
                url,
                f"{MAX_FAILED_IN_A_ROW} pages in a row gave no answer, the last one {reason}",
            )
        yield from self._ask_more()

    def _body(self, response: Response) -> str:
        """Return the text of an answer; stops at a verification, whose page counts as not asked."""
        self.is_answered = True
        body = response.text if isinstance(response, TextResponse) else ""
        if (
            not isinstance(response, TextResponse) or "\ufffd" in body
        ):  # the answer says another encoding than it has
            body = decode_page(response.body)
        if is_verification(body):
            # Later pages of a list are there for its "more" button alone: a person opens the first.
            is_page = response.request is None or response.request.method == "GET"
            self._stop(
                StopReason.VERIFICATION,
                response.url if is_page else self.order.base_url.rstrip("/") + MAIN_LIST,
                "verification",
            )
        return body

    @property
    def is_stopped(self) -> bool:
        """Whether the crawl has ended before its time, so that nothing more may be asked."""
        return self.end.end is not StopReason.DONE

    def _stop(self, end: StopReason, place: str, reason: str) -> None:
        if not self.is_stopped:
            self.end = CrawlEvent(end=end, place=place, reason=reason)
        raise CloseSpider(end.value)

    def _tell(self, visit: PageVisit, case: Any = None, unread: UnreadPage | None = None) -> None:
        self.send(CrawlEvent(visit=visit, case=case, unread=unread))


class AbortingHandler(HTTP11DownloadHandler):
    """Sends requests until the spider has stopped: what then still waits for its turn is never
    sent."""

    async def download_request(self, request: Request) -> Response:
        if getattr(self.crawler.spider, "is_stopped", False):
            raise IgnoreRequest("the crawl has stopped")
        return await super().download_request(request)


class RetryUnlessVerified(RetryMiddleware):
    """Asks once more where a site is busy, but never where its error page holds the verification:
    that waits for a person."""

    def process_response(
        self, request: Request, response: Response, spider: Spider | None = None
    ) -> Request | Response:
        if response.status in self.retry_http_codes and is_verification(decode_page(response.body)):
            return response
        return super().process_response(request, response, spider)


def make_settings(order: CrawlJob) -> dict[str, Any]:
    """Make Scrapy's settings for an order."""
    is_polite = order.delay > 0
    host = urlsplit(order.base_url).hostname or ""
    return {
        "USER_AGENT": order.user_agent,
        "ROBOTSTXT_OBEY": True,
        "DOWNLOAD_DELAY": order.delay,
        "AUTOTHROTTLE_ENABLED": is_polite,
        "AUTOTHROTTLE_START_DELAY": order.delay,
        "CONCURRENT_REQUESTS": 2 if is_polite else N_CONCURRENT,
        "CONCURRENT_REQUESTS_PER_DOMAIN": 2 if is_polite else N_CONCURRENT,
        # What a callback yields is taken one by one: Scrapy starts this many tasks for every page,
        # 100 unless told.
        "CONCURRENT_ITEMS": 1,
        "WARN_ON_GENERATOR_RETURN_VALUE": False,
        # The order of asking is the order of the lists.
        "SCHEDULER_MEMORY_QUEUE": "scrapy.squeues.FifoMemoryQueue",
        "HTTPERROR_ALLOW_ALL": True,
        "HTTPPROXY_ENABLED": host not in {"127.0.0.1", "localhost", "::1"},
        "RETRY_HTTP_CODES": [408, 429, 500, 502, 503, 504, 521, 522, 524],
        "DOWNLOAD_TIMEOUT": 60,
        "DOWNLOAD_MAXSIZE": 16 * 2**20,
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_HANDLERS": {"http": AbortingHandler, "https": AbortingHandler},
        "DOWNLOADER_MIDDLEWARES": {
            "scrapy.downloadermiddlewares.retry.RetryMiddleware": None,
            RetryUnlessVerified: 550,
        },
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "LOG_LEVEL": "ERROR",
    }


def _status_note(response: Response) -> str:
    return "" if response.status == 200 else f"HTTP {response.status}"


def _reason(failure: Failure) -> str:
    """Put a network failure into a few words, for one line."""
    words = " ".join(str(failure.value).split())
    return words[:160] or type(failure.value).__name__


def main() -> None:
    """Carry out the order on stdin."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(
        sys.stderr.fileno(), sys.stdout.fileno()
    )  # stray prints of libraries must not mix with events
    order = CrawlJob.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()

    def send(event: CrawlEvent) -> None:
        events.write(event.model_dump_json(exclude_defaults=True).encode() + b"\n")
        events.flush()

    _use_steady_clock()
    process = CrawlerProcess(make_settings(order))
    crawler = process.create_crawler(CaseSpider)
    process.crawl(crawler, order=order, send=send)
    process.start()
    broke = any(name.startswith("spider_exceptions/") for name in crawler.stats.get_stats())
    if isinstance(crawler.spider, CaseSpider) and not broke:
        send(crawler.spider.end)


def _use_steady_clock() -> None:
    """Time the reactor's calls by a clock that nobody sets: by the wall clock, which Twisted takes,
    a crawl would stand still for as long as that is put back."""
    install_reactor("twisted.internet.asyncioreactor.AsyncioSelectorReactor")
    from twisted.internet import reactor

    setattr(reactor, "seconds", time.monotonic)  # noqa: B010 - the module is an object to types


def _leave_with_parent() -> None:
    while sys.stdin.buffer.read(4096):
        continue
    os._exit(0)


if __name__ == "__main__":
    main()
