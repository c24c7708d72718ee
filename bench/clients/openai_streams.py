"""Many streams with the plain asynchronous `openai` client; prints CPU seconds, wall seconds and
the characters that came.

Run by `bench/teacher_cpu.py` with the Python of an environment that holds `openai`: base URL,
number of streams.
"""

import asyncio
import json
import sys
import time

from openai import AsyncOpenAI


async def main(base_url: str, n_streams: int) -> None:
    client = AsyncOpenAI(base_url=base_url, api_key="none")

    async def follow(number: int) -> int:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": f"发热{number}天"}], max_tokens=4096, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        text = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        return len("".join(text))

    wall, cpu = time.monotonic(), time.process_time()
    lengths = await asyncio.gather(*(follow(number) for number in range(n_streams)))
    print(
        json.dumps(
            {
                "cpu_s": time.process_time() - cpu,
                "wall_s": time.monotonic() - wall,
                "characters": sum(lengths),
            }
        )
    )


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
