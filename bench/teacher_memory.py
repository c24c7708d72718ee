"""Does memory grow with the number of questions? A real `medkd distill` over many of them, its
resident memory watched.

In: nothing. Out: answers, seconds and the most memory the process ever held, on the screen.
Run: `.venv/bin/python bench/teacher_memory.py --n 100000`
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ANSWER = "<think>\n患者发热伴头痛，查体颈强直阳性，提示脑膜受刺激，支持中枢神经系统感染。\n</think>\n\n化脓性脑膜炎"


def make_response() -> bytes:
    choice = {"index": 0, "delta": {"content": ANSWER}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 400, "completion_tokens": 40}
    events = (
        b"data: "
        + json.dumps({"choices": [choice], "usage": usage}, ensure_ascii=False).encode()
        + b"\n\ndata: [DONE]\n\n"
    )
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(events)}\r\n\r\n"
    return head.encode() + events


class Server:
    """Answers every request at once with the same stream."""

    def __init__(self) -> None:
        self.port, self.n_answered = 0, 0
        self._ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self._ready.wait()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._meet, "127.0.0.1", 0, backlog=4096)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await asyncio.Event().wait()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        response = make_response()
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                await reader.readexactly(length)
                writer.write(response)
                await writer.drain()
                self.n_answered += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def write_questions(path: Path, n: int) -> None:
    """Write records of the usual length, about a thousand characters each."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(n):
            record = (
                f"【主诉】发热伴头痛{number}天。【现病史】"
                + "患者受凉后出现发热，伴头痛、恶心、呕吐，无抽搐。" * 40
            )
            question = {
                "id": f"case:{number}", "case_id": f"case:{number}", "source": "bench", "system": "", "instruction": "",
                "input": record, "reference": "化脓性脑膜炎", "split": "train", "deidentified_by": "born so",
            }  # fmt: skip
            file.write(json.dumps(question, ensure_ascii=False) + "\n")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=200)
    options = parser.parse_args()
    server = Server()
    with tempfile.TemporaryDirectory() as home:
        write_questions(Path(home) / "questions.jsonl", options.n)
        flags = [
            "--teacher",
            "custom",
            "--model",
            "m",
            "--base-url",
            f"http://127.0.0.1:{server.port}/v1",
        ]
        where = [
            "--input",
            f"{home}/questions.jsonl",
            "--out",
            f"{home}/distill",
            "--concurrency",
            str(options.concurrency),
        ]
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "medkd", "distill", *flags, *where],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        with (Path(home) / "distill" / "rationales.jsonl").open("rb") as file:
            n_rationales = sum(1 for _ in file)
    print(
        f"{n_rationales} of {options.n} answers in {seconds:.0f} s, exit {os.waitstatus_to_exitcode(status)}"
    )
    print(f"most resident memory {used.ru_maxrss / 1024:.0f} MB; {server.n_answered} requests sent")


if __name__ == "__main__":
    main()
