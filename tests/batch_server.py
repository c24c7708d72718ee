"""A server on this machine that takes batches in OpenAI's file form."""

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from serving import serving


class BatchServer(ThreadingHTTPServer):
    """Holds files and batches; a batch ends after `n_polls` looks at it."""

    def __init__(self, answer: Callable[[dict[str, Any]], Any], n_polls: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.n_polls = answer, n_polls
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.lost: set[str] = set()
        self.status = "completed"
        self.refusal = ""
        """Why it opens no batch; it opens them where this is empty."""
        self.share = 1.0
        """Share of a batch's requests that it answers before it ends."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def count_asked(self) -> int:
        return sum(len(self.read_lines(b["input_file_id"])) for b in self.batches.values())

    def read_lines(self, file_id: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files[file_id].splitlines()]

    def open(self, body: dict[str, Any]) -> dict[str, Any]:
        batch = {"id": f"batch_{len(self.batches)}", "status": "in_progress", "n_looks": 0, **body}
        self.batches[batch["id"]] = batch
        return batch

    def look(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["n_looks"] += 1
        if batch["n_looks"] > self.n_polls and batch["status"] == "in_progress":
            batch["status"] = self.status
            asked = self.read_lines(batch["input_file_id"])
            done = asked[: round(len(asked) * self.share)]
            rows = [{"custom_id": a["custom_id"], **self.answer(a["body"])} for a in done]
            name = f"out_{batch['id']}"
            self.files[name] = "\n".join(json.dumps(row) for row in rows).encode()
            batch["output_file_id"] = name
        return batch


def whole(text: str, finish_reason: str = "stop", n_tokens: int = 50) -> dict[str, Any]:
    """Write the line of an answer."""
    choice = {"index": 0, "message": {"content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 100, "completion_tokens": n_tokens}
    return {"response": {"status_code": 200, "body": {"choices": [choice], "usage": usage}}}


class _Handler(BaseHTTPRequestHandler):
    server: BatchServer

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/files":
            boundary = re.search(r"boundary=(\S+)", self.headers["Content-Type"])[1].encode()
            part = next(p for p in content.split(b"--" + boundary) if b"batch.jsonl" in p)
            name = f"file_{len(self.server.files)}"
            self.server.files[name] = part.partition(b"\r\n\r\n")[2].rstrip(b"\r\n")
            self._send(200, {"id": name})
        elif self.path == "/v1/batches" and self.server.refusal:
            self._send(400, {"error": {"message": self.server.refusal}})
        elif self.path == "/v1/batches":
            self._send(200, self.server.open(json.loads(content)))
        else:
            self._send(404, {"error": {"message": "no such path"}})

    def do_GET(self) -> None:
        if found := re.fullmatch(r"/v1/files/(\w+)/content", self.path):
            self._send_bytes(200, self.server.files[found[1]])
        elif self.path.startswith("/v1/batches?"):
            self._send(200, {"data": list(self.server.batches.values())})
        else:
            batch = self.server.batches.get(self.path.rpartition("/")[2])
            if batch is None or batch["id"] in self.server.lost:
                self._send(404, {"error": {"message": "no such batch"}})
            else:
                self._send(200, self.server.look(batch))

    def _send(self, code: int, body: Any) -> None:
        self._send_bytes(code, json.dumps(body).encode())

    def _send_bytes(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve_batches(
    answer: Callable[[dict[str, Any]], Any], n_polls: int = 1
) -> AbstractContextManager[BatchServer]:
    """Serve while the block runs; `answer` makes a result line of a request's body."""
    return serving(BatchServer(answer, n_polls))
