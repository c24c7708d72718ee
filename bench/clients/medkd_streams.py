"""Many streams with MedKD's own client, its ledger written all the while; prints CPU seconds, wall
seconds, characters, memory.

Run by `bench/teacher_cpu.py`: base URL, number of streams, folder for the ledger, streams at once
where that is fewer.
"""

import json
import resource
import sys
import time
from pathlib import Path

from medkd.completers.client import LedgerClient
from medkd.completers.ledger import Ledger
from medkd.completers.providers import find_target
from medkd.completers.scheduler import RunOptions
from medkd.core.records import Message, Request, Sampling


def main(base_url: str, n_streams: int, folder: Path, concurrency: int) -> None:
    import aiohttp  # noqa: F401 - loaded before the clock starts, as the other side's client is

    with Ledger(folder / "ledger.sqlite") as ledger:
        completer = LedgerClient(
            find_target("custom", "m", base_url),
            ledger,
            RunOptions(concurrency=concurrency),
        )
        requests = [
            Request(
                messages=(Message(role="user", content=f"发热{number}天"),),
                sampling=Sampling(max_tokens=4096),
            )
            for number in range(n_streams)
        ]
        wall, cpu = time.monotonic(), time.process_time()
        completer.run(
            ((f"case {number}", request) for number, request in enumerate(requests)), n_streams
        )
        cpu_s, wall_s = time.process_time() - cpu, time.monotonic() - wall
        n_characters = sum(len(attempt.text) for attempt in ledger.attempts())
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {"cpu_s": cpu_s, "wall_s": wall_s, "characters": n_characters, "memory_mb": memory_mb}
        )
    )


main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int((sys.argv[4:] or sys.argv[2:])[0]))
