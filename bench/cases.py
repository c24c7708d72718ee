"""How fast are cases collected, de-identified and prepared?

Out: pages a second of a crawl over loopback without a delay, start-up included and not; seconds,
and seconds of processor time, for 10,000 cases of the length of real ones (about 2,000 characters:
four of the rehearsal clinic's in one) through de-identify and prepare.
Run: `.venv/bin/python bench/cases.py`
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from medkd.collect import stage as collect
from medkd.core.jsonl import write_records
from medkd.core.records import RawCase
from medkd.deidentify import stage as deidentify
from medkd.demo.mock_site import serve_site
from medkd.demo.synthetic_cases import generate_cases
from medkd.prepare import stage as prepare

IN_ONE = 4


def processor_time() -> float:
    """Return the seconds that this process and its finished children have computed."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def serve(n: int, pipe: Connection) -> None:
    """Serve a site until told to stop, in a process of its own."""
    with serve_site(generate_cases(n, seed=1)) as site:
        pipe.send(site.base_url)
        pipe.recv()


def crawl(n: int, out: Path) -> float:
    """Crawl so many cases and give the seconds it took."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(n, theirs), daemon=True)
    server.start()
    base_url = ours.recv()
    started = time.monotonic()
    collect.run(collect.Config(out=out, base_url=base_url, delay=0))
    seconds = time.monotonic() - started
    ours.send(None)
    server.join()
    return seconds


def make_long_cases(n: int) -> list[RawCase]:
    """Put several of the clinic's cases into one, as long as real ones."""
    cases = generate_cases(n * IN_ONE, seed=2)
    long: list[RawCase] = []
    for first in range(0, len(cases), IN_ONE):
        parts = cases[first : first + IN_ONE]
        names = dict.fromkeys(name for part in parts for name in part.sections)
        sections = {
            name: "\n".join(part.sections[name] for part in parts if name in part.sections)
            for name in names
        }
        diagnosis = tuple(dict.fromkeys(name for part in parts for name in part.diagnosis))
        long.append(
            RawCase(
                id=f"bench:{first}",
                source="bench",
                title=parts[0].title,
                sections=sections,
                diagnosis=diagnosis,
            )
        )
    return long


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=3000)
    parser.add_argument("--cases", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        short, long = crawl(100, root / "short"), crawl(options.pages, root / "long")
        n_pages = options.pages * (1 + 1 / 25 + 1 / 20)
        print(
            f"crawl: {n_pages:.0f} pages in {long:.1f} s, {n_pages / long:.0f} pages/s; start-up {short:.1f} s, ",
            end="",
        )
        print(
            f"without it {(options.pages - 100) * n_pages / options.pages / (long - short):.0f} pages/s"
        )
        write_records(root / "raw_cases.jsonl", make_long_cases(options.cases))
        seconds: dict[str, float] = {}
        processor: dict[str, float] = {}
        for name, run in (
            (
                "deidentify",
                lambda: deidentify.run(deidentify.Config(input=root, out=root / "deidentify")),
            ),
            (
                "prepare",
                lambda: prepare.run(
                    prepare.Config(input=root / "deidentify", out=root / "prepare")
                ),
            ),
        ):
            started, used = time.monotonic(), processor_time()
            manifest = run()
            seconds[name], processor[name] = time.monotonic() - started, processor_time() - used
            print(
                f"{name}: {manifest.counts.read} cases in {seconds[name]:.1f} s, {processor[name]:.1f} s of processor time"
            )
        print(
            f"both: {sum(seconds.values()):.1f} s, {sum(processor.values()):.1f} s of processor time"
        )


if __name__ == "__main__":
    main()
