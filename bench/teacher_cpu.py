"""What following a stream costs the client: CPU seconds per 1,000 paced events, MedKD with its
ledger against the `openai` client.

In: `--openai-python`, the Python of an environment that holds `openai` (bench/README.md). Out: a
table and ratios on the screen.
Run: `.venv/bin/python bench/teacher_cpu.py --openai-python PATH/bin/python`
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CLIENTS = Path(__file__).parent / "clients"


def follow(
    command: list[str], n_streams: int, n_events: int, pace_s: float, concurrency: int | None = None
) -> dict[str, float]:
    """Serve paced streams to one client and give what it printed."""
    server = subprocess.Popen(
        [sys.executable, str(CLIENTS / "paced_server.py"), str(n_events), str(pace_s)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        base_url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [*command, base_url, str(n_streams), folder, str(concurrency or n_streams)],
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found = json.loads(done.stdout)
    finally:
        server.terminate()
        server.wait()
    assert found["characters"] == 2 * n_streams * n_events, "text was lost"
    return found | {"per_1000": found["cpu_s"] / (n_streams * n_events / 1000)}


def main() -> None:
    """Measure both sides in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--openai-python", default="")
    parser.add_argument("--streams", type=int, nargs="+", default=[50, 200])
    parser.add_argument(
        "--many", type=int, default=2000, help="streams that MedKD alone is asked to hold"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=10,
        help="answers for each of 200 places, for the share of the ideal rate",
    )
    parser.add_argument("--events", type=int, default=60)
    parser.add_argument("--pace", type=float, default=0.2)
    options = parser.parse_args()
    sides = {"medkd": [sys.executable, str(CLIENTS / "medkd_streams.py")]}
    if options.openai_python:
        sides["openai"] = [options.openai_python, str(CLIENTS / "openai_streams.py")]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("| streams | client | CPU s per 1,000 events | wall s (ideal) | openai / medkd |")
    print("|---|---|---|---|---|")
    ideal = options.events * options.pace
    for n_streams in options.streams:
        found = {
            name: follow(command, n_streams, options.events, options.pace)
            for name, command in sides.items()
        }
        for name, one in found.items():
            ratio = (
                f"{one['per_1000'] / found['medkd']['per_1000']:.1f}" if name == "openai" else ""
            )
            print(
                f"| {n_streams} | {name} | {one['per_1000']:.3f} | {one['wall_s']:.1f} ({ideal:.0f}) | {ratio} |",
                flush=True,
            )
    if options.rounds:
        n_events, pace_s = 20, 0.2
        one = follow(sides["medkd"], 200 * options.rounds, n_events, pace_s, concurrency=200)
        share = options.rounds * n_events * pace_s / one["wall_s"]
        print(
            f"\n200 at once, {200 * options.rounds} answers of {n_events * pace_s:g} s: {share:.3f} of the ideal rate"
        )
    if options.many:
        pace_s = max(options.pace, options.many / 2000)
        one = follow(sides["medkd"], options.many, options.events // 2, pace_s)
        ideal = options.events // 2 * pace_s
        share, wall_s = one["cpu_s"] / one["wall_s"], one["wall_s"]
        print(
            f"{options.many} streams at once: {one['memory_mb']:.0f} MB, {share:.2f} of a core, {wall_s:.1f} s (ideal {ideal:.0f})"
        )


if __name__ == "__main__":
    main()
