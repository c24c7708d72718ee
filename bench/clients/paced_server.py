"""A server of many paced streams, cheap enough to leave the cores to the client: the same bytes to
every stream at the same moments.

Run by `bench/teacher_cpu.py`: prints its port, answers every request with `events` events, `pace`
seconds apart, and [DONE].
"""

import asyncio
import json
import sys

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(content: str, finish_reason: str | None = None, **more: object) -> bytes:
    choice = {
        "index": 0,
        "delta": {"content": content, "reasoning_content": None},
        "finish_reason": finish_reason,
    }
    body = {
        "id": "b1d7",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": "m",
        "choices": [choice],
    } | more
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


async def main(n_events: int, pace_s: float) -> None:
    piece = chunk(event("患者"))
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 2 * n_events,
        "total_tokens": 10 + 2 * n_events,
    }
    end = chunk(event("", "stop", usage=usage)) + chunk(b"data: [DONE]\n\n") + chunk(b"")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                await reader.readexactly(length)
                writer.write(HEAD)
                for _ in range(n_events):
                    writer.write(piece)
                    await asyncio.sleep(pace_s)
                writer.write(end)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
