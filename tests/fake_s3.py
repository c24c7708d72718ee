"""A server on loopback that speaks as much of S3 as listing and reading need: HEAD, GET with a range
and ListObjectsV2, of one bucket.
"""

from collections import Counter
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from serving import serving

BUCKET = "notes"


class FakeS3(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.refuses = False
        self.cuts_off = False
        """Whether a body breaks off in its middle."""
        self.vanishing: Counter[str] = Counter()
        """How often an object is still given before it is gone; 0 for ever."""
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeS3  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        address = urlsplit(self.path)
        bucket, _, key = unquote(address.path).lstrip("/").partition("/")
        self.server.seen.append(f"{self.command} {key}")
        if self.server.refuses:
            return self._send(403, _fault("AccessDenied"), with_body)
        if bucket != BUCKET:
            return self._send(404, _fault("NoSuchBucket"), with_body)
        if not key:
            return self._send(200, self._list(parse_qs(address.query)), with_body)
        content = self.server.objects.get(key)
        if content is None:
            return self._send(404, _fault("NoSuchKey"), with_body)
        asked = self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last) + 1]
        if with_body and self.server.vanishing[key]:
            self.server.vanishing[key] -= 1
            if not self.server.vanishing[key]:
                del self.server.objects[key]
        return self._send(206 if asked else 200, content, with_body)

    def _list(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        found = [
            f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name, content in sorted(self.server.objects.items())
            if name.startswith(prefix) and "/" not in name[len(prefix) :]
        ]
        inner = {
            name[: name.index("/", len(prefix)) + 1]
            for name in self.server.objects
            if name.startswith(prefix) and "/" in name[len(prefix) :]
        }
        found += [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in sorted(inner)
        ]
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><Delimiter>/</Delimiter>"
            f"<KeyCount>{len(found)}</KeyCount><MaxKeys>1000</MaxKeys>"
            f"<IsTruncated>false</IsTruncated>{''.join(found)}</ListBucketResult>"
        ).encode()

    def _send(self, status: int, content: bytes, with_body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if with_body and self.server.cuts_off and status == 206:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif with_body:
            self.wfile.write(content)


def _fault(code: str) -> bytes:
    return (
        f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
    )


def start_s3() -> AbstractContextManager[FakeS3]:
    return serving(FakeS3())
