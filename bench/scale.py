"""One engine against the other, and one ledger of many attempts.

`python bench/scale.py merge --times 1` merges 62,766 synthetic rows (those of `bench/merge.py`) on
this machine's processes and on two Ray nodes of one processor each, and compares the bytes;
`--kill-node` kills one node with -9 in the middle. `python bench/scale.py cases --n 20000` does the
same with deidentify and prepare. `python bench/scale.py memory --n 10000` tells what each stage
over records holds in memory for a row, from runs of n and of 4 n. `python bench/scale.py ledger
--attempts 1000000` fills a ledger and opens, resumes and bills it. Every run is a process of its
own; its peak memory is the kernel's.
"""

import argparse
import hashlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from merge import ROWS, judge, make_files
from merge import run as run_command

ENGINES = ("local", "ray")


def hash_outputs(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def start_cluster() -> Generator["list[subprocess.Popen[bytes]]", None, None]:
    """Start two Ray nodes of one processor each on this machine; they end with the context."""
    ray = str(Path(sys.executable).with_name("ray"))
    address = f"127.0.0.1:{free_port()}"
    port = address.partition(":")[2]
    shared = ["--num-cpus=1", "--disable-usage-stats", "--block"]
    wanted = [
        ["start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"],
        ["start", f"--address={address}"],
    ]  # fmt: skip
    nodes: list[subprocess.Popen[bytes]] = []
    os.environ["RAY_AUTH_MODE"] = "token"
    subprocess.run([ray, "get-auth-token", "--generate"], capture_output=True, check=True)
    try:
        for command in wanted:
            nodes.append(
                subprocess.Popen(
                    [ray, *command, *shared],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
            time.sleep(20)
        os.environ["RAY_ADDRESS"] = address
        yield nodes
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        for node in nodes:
            kill_node(node)


def kill_node(node: "subprocess.Popen[bytes]") -> None:
    """Kill a node and all its processes, which are in sessions of their own."""
    import psutil

    try:
        children = psutil.Process(node.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for process in (*children, psutil.Process(node.pid)):
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    node.wait()


def run_stage(stage: str, given: list[Path], out: Path, engine: str, *more: str) -> tuple[float, float, float]:  # fmt: skip
    inputs = [part for path in given for part in ("--input", str(path))]
    command = [sys.executable, "-m", "medkd", stage, *inputs, "--out", str(out), "--engine", engine]
    return run_command([*command, *more])


def report(what: str, engine: str, n: int, run: tuple[float, float, float], out: Path) -> None:
    """Print a run; on Ray the processor time and the memory are the driver's alone."""
    seconds, busy, peak = run
    print(
        f"{what}, {n} rows, {engine}: {seconds:.1f} s, {n / seconds:.0f} rows/s, {busy:.1f} s of "
        f"processor time, {peak:.2f} GB, outputs {hash_outputs(out)}",
        flush=True,
    )


def measure_merge(times: int, kills: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        planted = make_files(folder, times)
        n = sum(ROWS.values()) * times
        files = [folder / f"{name}.json" for name in ROWS]
        done = run_stage("merge", files, folder / "out", "local")
        report("merge", "local", n, done, folder / "out")
        print("near copies: recall {:.4f}, precision {:.4f}".format(*judge(folder, planted)))
        with start_cluster() as nodes:
            if kills:
                threading.Timer(max(20.0, done[0] / 2), kill_node, [nodes[1]]).start()
            done = run_stage("merge", files, folder / "ray", "ray")
        said = "ray, two nodes, one killed" if kills else "ray, two nodes"
        report("merge", said, n, done, folder / "ray")


def measure_cases(n: int) -> None:
    from medkd.core.jsonl import write_records
    from medkd.demo.synthetic_cases import generate_cases

    with tempfile.TemporaryDirectory() as place, start_cluster():
        folder = Path(place)
        cases = generate_cases(n, seed=5)
        write_records(folder / "raw_cases.jsonl", (case.to_raw_case() for case in cases))
        for engine in ENGINES:
            given = folder / "raw_cases.jsonl"
            for stage in ("deidentify", "prepare"):
                out = folder / engine / stage
                report(stage, engine, n, run_stage(stage, [given], out, engine), out)
                given = out


def watch(stage: str, given: Path, out: Path) -> tuple[float, float, float]:
    """Run a stage; gives, in MB, the peak memory of its own process without its workers', and of
    what lies in `--out` the most that `.done` held and what is left at the end."""
    command = [sys.executable, "-m", "medkd", stage, "--input", str(given), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = done = 0
    while process.poll() is None:
        with suppress(OSError):  # it is not there yet, or no longer
            told = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, int(told[1]) if told else 0)
            done = max(done, (out / ".done").stat().st_size)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    left = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return peak / 1024, done / 2**20, left / 2**20


def write_rationales(questions: Path, path: Path) -> None:
    """Let a teacher reason about questions, each in words of its own."""
    from medkd.core.jsonl import RecordReader, write_records
    from medkd.core.records import Cost, Question, Rationale, Usage

    def reason(question: Question) -> Rationale:
        asked, place = question.input, int(question.id.rpartition(":")[2]) % 100
        text = (
            f"先看起病：{asked[:20]}，病程的长短已能缩小范围。再看检查，逐项问它们支持哪一种可能、又排除了"
            f"哪一种：{asked[100 + place : 120 + place]}，与常见的几种疾病相鉴别，其余的都有不符之处。"
            f"最后看{asked[-20:]}，这与前面所想的一致。综合以上，只有一种诊断能把这些表现都解释清楚。"
        )
        return Rationale(
            id=question.id, question=question, reasoning=text, answer=question.reference, sample=0,
            finish_reason="stop", complete=True, model="teacher", mode="rationalize", attempts=1,
            usage=Usage(), cost=Cost(),
        )  # fmt: skip

    write_records(path, map(reason, RecordReader(questions, Question, made_by="prepare")))


def measure_memory(n: int) -> None:
    from medkd.core.jsonl import write_records
    from medkd.demo.synthetic_cases import generate_cases

    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        for times in (1, 4):
            folder = Path(place) / str(times)
            cases = generate_cases(n * times, seed=5)
            write_records(folder / "raw_cases.jsonl", (case.to_raw_case() for case in cases))
            given = {"deidentify": "raw_cases.jsonl", "prepare": "deidentify/cases.jsonl"}
            given |= {"verify": "rationales.jsonl", "merge": "rationales.jsonl"}
            for stage, name in given.items():
                if stage == "verify":
                    write_rationales(folder / "prepare/questions.jsonl", folder / name)
                rows = count_rows(folder / name)
                peak, done, left = watch(stage, folder / name, folder / stage)
                found.setdefault(stage, []).extend((rows, peak))
                print(
                    f"{stage}, {rows} rows: {peak:.0f} MB; .done {done:.1f} MB, "
                    f"output {left:.1f} MB",
                    flush=True,
                )
    for stage, (rows, peak, more_rows, more) in found.items():
        print(f"{stage}: {(more - peak) * 2**20 / (more_rows - rows):.0f} bytes of memory a row")


def count_rows(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def measure_ledger(n: int) -> None:
    """Fill a ledger by SQLite alone, then do with it what a run and a bill do."""
    from medkd.completers.ledger import FILE_NAME, Ledger

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / FILE_NAME
        with Ledger(path):
            pass
        text = "患者发热伴头痛，查体颈强直阳性，支持中枢神经系统感染。" * 12
        with sqlite3.connect(path) as connection:
            connection.executemany(
                "INSERT INTO attempts (run, item, label, provider, model, started_at, outcome, finish_reason, "
                "reasoning, text, n_prompt, n_completion, is_estimate, amount, currency, seconds, price) "
                "VALUES (1, ?, ?, 'deepseek', 'm', '2026-01-01T00:00:00', 'complete', 'stop', ?, '脑膜炎', "
                "400, 300, 0, 0.001, 'CNY', 9.5, '{}')",
                ((hashlib.sha256(str(k).encode()).hexdigest(), f"q:{k}", text) for k in range(n)),
            )
        connection.close()
        time_ledger(path, n)


@contextmanager
def timed(what: str) -> Generator[None, None, None]:
    """Print what a part takes by the clock and of processor time."""
    began, busy = time.perf_counter(), time.process_time()
    yield
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    print(f"{what}: {seconds:.2f} s ({busy:.2f} s of processor time)", flush=True)


def time_ledger(path: Path, n: int) -> None:
    from medkd.completers.costs import list_lines
    from medkd.completers.ledger import Ledger, open_reader

    print(f"ledger of {n} attempts, {path.stat().st_size / 2**30:.2f} GiB", flush=True)
    with open_reader(path) as reader, timed("bill"):
        [line] = list_lines(reader)
        assert line.attempts == n
    with timed("open"):
        ledger = Ledger(path)
    asked = [hashlib.sha256(str(k).encode()).hexdigest() for k in range(0, n, max(1, n // 10_000))]
    with timed(f"look up {len(asked)} questions"):
        assert all(map(ledger.is_complete, asked))
    with timed("close, a copy written"), ledger:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["merge", "cases", "memory", "ledger"])
    parser.add_argument("--times", type=int, default=1, help="times 62,766 rows")
    parser.add_argument("--kill-node", action="store_true")
    parser.add_argument("--n", type=int, default=20_000, help="cases")
    parser.add_argument("--attempts", type=int, default=1_000_000)
    given = parser.parse_args()
    if given.what == "merge":
        measure_merge(given.times, given.kill_node)
    elif given.what == "cases":
        measure_cases(given.n)
    elif given.what == "memory":
        measure_memory(given.n)
    else:
        measure_ledger(given.attempts)


if __name__ == "__main__":
    main()
