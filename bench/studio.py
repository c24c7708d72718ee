"""The studio with 1,000 runs and a file of 100,000 records: start, memory, first byte, whole
answer and processor time of every page, 50 clients at once.

`python bench/studio.py [--source SRC]`: runs and records are made on the spot, the studio is the
real command. `--source` names the `src` of another checkout, measured in the same run where it
answers the same addresses; what it has no answer for is left out. Every figure is the median and
the worst of what was measured.
"""

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from urllib.request import ProxyHandler, build_opener

from medkd.core.jsonl import MANIFEST
from medkd.core.stage_output import Counts, Manifest

N_RUNS, N_RECORDS, N_CLIENTS = 1000, 100_000, 50
ROUNDS = 5
RECORD = "患者三天前受凉后发热，伴咳嗽、咳黄痰，右下肺可闻及湿啰音。" * 20
FILE = "long/verify/verified.jsonl"
PAGES = {
    "projects": "",
    "one project": "run?name=long",
    "form": "start?kind=train",
    "data": f"data?file={FILE}",
    "data, page 2,000": f"data?file={FILE}&page=2000",
    "data, searched": f"data?file={FILE}&q=q%3A77777",
    "data, filtered": f"data?file={FILE}&reason=kept",
    "review": f"review?file={FILE}",
    "chat": "chat",
    "evaluate": "evaluate",
    "export": "export",
    "bill": "bill",
}


def make_step(folder: Path, stage: str, at: int) -> Path:
    folder.mkdir(parents=True)
    started = f"2026-01-{1 + at // 1440 % 28:02}T{at // 60 % 24:02}:{at % 60:02}:00"
    manifest = Manifest(
        stage=stage,
        state="finished",
        identity="x",
        config={},
        started_at=started,
        counts=Counts(read=10, kept=9),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def make_runs(runs: Path) -> None:
    """Make many runs of three steps; the newest holds the long file."""
    for number in range(N_RUNS - 1):
        for stage in ("collect", "merge", "train"):
            make_step(runs / f"run-{number:04}" / stage, stage, number)
    verdict = {"check": "loop", "passed": True, "reason": "", "detail": ""}
    step = make_step(runs / "long" / "verify", "verify", N_RUNS)
    with (step / "verified.jsonl").open("w", encoding="utf-8") as file:
        for n in range(N_RECORDS):
            question = {
                "id": f"q:{n}",
                "input": f"{RECORD}{n}",
                "reference": "肺炎",
                "split": "train",
                "source": "made",
            }
            rationale = {
                "id": f"q:{n}",
                "question": question,
                "reasoning": RECORD,
                "answer": "肺炎",
                "model": "x",
                "mode": "rationalize",
            }
            file.write(
                json.dumps({"rationale": rationale, "verdicts": [verdict]}, ensure_ascii=False)
                + "\n"
            )


def ask(port: int, path: str) -> tuple[float, float, int]:
    """Ask for a page; returns the seconds to its first byte, to its last, and its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    began = time.perf_counter()
    connection.request("GET", path, headers={"Accept": "text/html"})
    answer = connection.getresponse()
    answer.read(1)
    first = time.perf_counter() - began
    answer.read()
    whole = time.perf_counter() - began
    connection.close()
    return first, whole, answer.status


def tell(what: str, seconds: list[float]) -> None:
    times = [1000 * second for second in seconds]
    print(f"  {what:<34} median {median(times):7.0f} ms   worst {max(times):7.0f} ms", flush=True)


def read_memory(pid: int) -> float:
    """Read how many MiB a process holds of its own, mapped files left out."""
    resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20


def read_cpu(pid: int) -> float:
    """Read how many seconds of processor a process has used: what a page costs on a busy machine
    too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait(port: int) -> None:
    opener = build_opener(ProxyHandler({}))
    while True:
        try:
            opener.open(f"http://127.0.0.1:{port}/en/new", timeout=5).read()
            return
        except OSError as error:
            if getattr(error, "code", 0):
                return
            time.sleep(0.02)


def measure(folder: Path, source: Path) -> None:
    """Start the studio of a checkout and measure it."""
    began = time.perf_counter()
    words = [sys.executable, "-m", "medkd", "studio", "--port", "0"]
    environment = os.environ | {"XDG_STATE_HOME": str(folder), "PYTHONPATH": str(source)}
    with subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment
    ) as studio:
        assert studio.stdout
        found = re.search(r":(\d+)", studio.stdout.readline())
        assert found
        port = int(found[1])
        wait(port)
        name = f"start to a page, {1000 * read_cpu(studio.pid):.0f} ms CPU"
        tell(name, [time.perf_counter() - began])
        time.sleep(3)  # what it reads while nobody waits
        for name, path in PAGES.items():
            before = read_cpu(studio.pid)
            times = [ask(port, f"/en/{path}") for _ in range(ROUNDS)]
            cpu = (read_cpu(studio.pid) - before) / ROUNDS
            if all(status == 200 for _, _, status in times):
                tell(f"{name}: first byte", [first for first, _, _ in times])
                tell(f"{name}: whole, {1000 * cpu:.0f} ms CPU", [whole for _, whole, _ in times])
        gathered: list[float] = []

        def browse() -> None:
            gathered.extend(ask(port, f"/en/{path}")[1] for path in ("", PAGES["data"], "chat"))

        clients = [threading.Thread(target=browse) for _ in range(N_CLIENTS)]
        began = time.perf_counter()
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        took = time.perf_counter() - began
        tell(f"{N_CLIENTS} clients, three pages each: whole", gathered)
        n = len(gathered)
        print(f"  {n} answers in {took:.1f} s; memory {read_memory(studio.pid):.0f} MiB")
        studio.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, action="append", default=[])
    given: list[Path] = parser.parse_args().source
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_runs(folder / "runs")
        size = (folder / "runs" / FILE).stat().st_size / 2**20
        cores, load = os.cpu_count(), os.getloadavg()[0]
        print(
            f"{N_RUNS:,} runs, {N_RECORDS:,} records ({size:.0f} MiB), {cores} cores, load {load:.1f}"
        )
        for source in (Path(__file__).parents[1] / "src", *given):
            print(source.resolve().parent.name)
            measure(folder, source.resolve())


if __name__ == "__main__":
    main()
