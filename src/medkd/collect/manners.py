"""How the crawl behaves towards a site: Scrapy's settings for an order, and which pages its cache
keeps.

Not done here: what is asked for (`iiyi`).
"""

from typing import Any
from urllib.parse import urlsplit

from scrapy import Spider
from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler
from scrapy.downloadermiddlewares.retry import RetryMiddleware
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Request, Response, TextResponse

from medkd.collect.encodings import decode_page
from medkd.collect.messages import Order
from medkd.collect.pages import is_verification, native_id_of, parse_case

N_CONCURRENT = 16
"""Requests at a time without a delay."""


class StoppingHandler(HTTP11DownloadHandler):
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


class CasePages:
    """Cache policy: case pages that could be read are kept for good, all else is asked for anew."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def should_cache_request(self, request: Request) -> bool:
        return request.method == "GET" and bool(native_id_of(request.url))

    def should_cache_response(self, response: Response, request: Request) -> bool:
        body = response.text if isinstance(response, TextResponse) else ""
        return response.status == 200 and parse_case(body, "1") is not None

    def is_cached_response_fresh(self, cachedresponse: Response, request: Request) -> bool:
        return True

    def is_cached_response_valid(
        self, cachedresponse: Response, response: Response, request: Request
    ) -> bool:
        return True


def settings(order: Order) -> dict[str, Any]:
    """Give Scrapy's settings for an order."""
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
        "HTTPCACHE_ENABLED": bool(order.cache_dir),
        "HTTPCACHE_DIR": order.cache_dir,
        "HTTPCACHE_POLICY": CasePages,
        # Before its usual place: it then keeps pages unpacked, which the policy reads.
        "DOWNLOAD_HANDLERS": {"http": StoppingHandler, "https": StoppingHandler},
        "DOWNLOADER_MIDDLEWARES": {
            "scrapy.downloadermiddlewares.httpcache.HttpCacheMiddleware": 585,
            "scrapy.downloadermiddlewares.retry.RetryMiddleware": None,
            RetryUnlessVerified: 550,
        },
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "LOG_LEVEL": "ERROR",
    }
