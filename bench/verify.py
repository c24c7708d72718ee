"""Checks the labelled rationales of tests/verify, 200 sound and 200 spoiled in every way, and
prints the confusion table.

`python bench/verify.py` also takes `--file FILE`: JSON Lines of `{question, think, answer}`; it
says what would be rejected there and why. `--english` takes the 40 of `english_rationales.jsonl`,
written without knowing the checks: 26 sound, 14 with a fault each. `--rows N` times the whole stage on N
rationales as long as real ones: records with a median of 1,067 characters, a tenth beyond 1,734,
none beyond 4,415, reasonings with a median of 891, a twentieth beyond 2,000. `--rows N --against
REF` times an older commit and this tree by turns, in processor time.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "verify"))

from rationale_samples import make_labelled, make_rationale
from stages import TOP, open_tree

from medkd.core.records import Checked, Rationale
from medkd.text.normalize import is_chinese
from medkd.verify import Config, check_rationale, find_failure, run

CONFIG = Config(input=Path(), out=Path())


def find_reason(rationale) -> tuple[str, str]:
    failure = find_failure(
        Checked(rationale=rationale, verdicts=tuple(check_rationale(rationale, CONFIG)))
    )
    return (str(failure.reason), failure.detail) if failure else ("", "")


def read_english() -> Iterator[tuple[str, Rationale]]:
    path = Path(__file__).with_name("english_rationales.jsonl")
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield row["fault"], Rationale.model_validate(row["rationale"])


def print_confusion(labelled: Iterable[tuple[str, Rationale]], shows: bool) -> None:
    began = time.perf_counter()
    found: dict[str, Counter[str]] = {}
    for fault, rationale in labelled:
        reason, detail = find_reason(rationale)
        found.setdefault(fault or "sound", Counter())[reason or "passes"] += 1
        if shows and bool(reason) != bool(fault):
            print(
                f"-- {fault or 'sound'} but {reason or 'passes'} {detail}\n{rationale.reasoning[:300]}\n"
            )
    seconds = time.perf_counter() - began
    print("| made | n | passes | rejected for |")
    print("|---|---|---|---|")
    for fault, reasons in found.items():
        rejected = ", ".join(
            f"{reason} {n}" for reason, n in reasons.most_common() if reason != "passes"
        )
        print(f"| {fault} | {reasons.total()} | {reasons['passes']} | {rejected} |")
    n_spoiled = sum(reasons.total() for fault, reasons in found.items() if fault != "sound")
    n_missed = sum(reasons["passes"] for fault, reasons in found.items() if fault != "sound")
    print(f"\nsound kept: {found['sound']['passes'] / found['sound'].total():.3f}")
    print(f"spoiled rejected: {1 - n_missed / n_spoiled:.3f}")
    n_read = sum(reasons.total() for reasons in found.values())
    print(f"{n_read / seconds:.0f} rationales a second")


def print_file(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    reasons: dict[str, list[str]] = {}
    for number, row in enumerate(rows):
        reason, detail = find_reason(
            make_rationale(str(number), row["question"], "", row["think"], row["answer"])
        )
        reasons.setdefault(reason or "passes", []).append(f"{number}: {detail}")
    for reason, where in sorted(reasons.items(), key=lambda item: -len(item[1])):
        print(
            f"{len(where):5} {reason}"
            + ("" if reason == "passes" else "\n      " + "\n      ".join(where))
        )


def write_rows(path: Path, n: int, seed: int) -> None:
    rng = random.Random(seed)
    sound = [one for fault, one in make_labelled(200, seed) if not fault]
    samples = [one for one in sound if is_chinese(one.question.input)]
    records = list_sentences(one.question.input for one in samples)
    thoughts = list_sentences(one.reasoning for one in samples)
    with path.open("w", encoding="utf-8") as file:
        for number in range(n):
            one = rng.choice(samples)
            record = grow(one.question.input, records, rng.lognormvariate(6.973, 0.379), rng)
            reasoning = grow(one.reasoning, thoughts, rng.lognormvariate(6.792, 0.5), rng)
            question = one.question.model_copy(update={"input": record[:4415]})
            changed = {"id": f"q:{number}", "reasoning": reasoning, "question": question}
            file.write(one.model_copy(update=changed).model_dump_json() + "\n")


def time_stage(n: int, seed: int) -> None:
    """Run the stage over a file of N rationales and print its speed and memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rationales.jsonl"
        write_rows(path, n, seed)
        used, began = _read_usage()[0], time.perf_counter()
        manifest = run(Config(input=path, out=Path(folder) / "out"))
        wall = time.perf_counter() - began
    ended, own, largest = _read_usage()
    seconds = ended - used
    print(f"{n} rationales, {manifest.counts.kept} kept: {n / seconds:.0f} a second of processor")
    print(f"time ({seconds:.0f} s), {n / wall:.0f} a second by the clock ({wall:.0f} s)")
    print(f"{own:.0f} MB, largest child {largest:.0f} MB")


def compare_stage(ref: str, n: int, seed: int, repeats: int) -> None:
    """Run the stage of an older commit and of this tree by turns over one file of N rationales, and
    print the rationales a second of processor time, from the start of Python to its end."""
    seconds: dict[str, list[float]] = {ref: [], "now": []}
    with open_tree(ref) as then, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rationales.jsonl"
        write_rows(path, n, seed)
        for repeat in range(repeats):
            for side, tree in ((ref, then), ("now", TOP)):
                out = Path(folder) / f"{side}-{repeat}"
                used = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run(
                    [sys.executable, "-m", "medkd", "verify", "--input", path, "--out", out],
                    env=os.environ | {"PYTHONPATH": str(tree / "src")},
                    check=True,
                    capture_output=True,
                )
                ended = resource.getrusage(resource.RUSAGE_CHILDREN)
                seconds[side].append(
                    ended.ru_utime - used.ru_utime + ended.ru_stime - used.ru_stime
                )
            before, now = seconds[ref][-1], seconds["now"][-1]
            print(f"{n / before:.0f} and {n / now:.0f} a second: {before / now:.2f}", flush=True)
    ratios = [before / now for before, now in zip(*seconds.values(), strict=True)]
    before, now = (n / statistics.median(found) for found in seconds.values())
    print(
        f"medians of {repeats}: {before:.0f} and {now:.0f}; {statistics.median(ratios):.2f} times"
    )


def list_sentences(texts: Iterable[str]) -> list[str]:
    return sorted({f"{part}。" for text in texts for part in text.split("。") if part})


def grow(text: str, sentences: list[str], n_characters: float, rng: random.Random) -> str:
    """Lengthen a text by sentences of its kind, none of them twice."""
    parts, left = [text], n_characters - len(text)
    for sentence in rng.sample(sentences, len(sentences)) if left > 0 else []:
        parts.append(sentence)
        left -= len(sentence)
        if left <= 0:
            break
    return "".join(parts)


def _read_usage() -> tuple[float, float, float]:
    """Read the processor time of this process and its children, and the most memory of each."""
    used = [resource.getrusage(way) for way in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own, child = (one.ru_maxrss / 1024 for one in used)
    return sum(one.ru_utime + one.ru_stime for one in used), own, child


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="check open questions instead")
    parser.add_argument("--english", action="store_true", help="check English ones instead")
    parser.add_argument("--rows", type=int, help="time the stage on so many rationales instead")
    parser.add_argument("--against", metavar="REF", help="time this older commit too")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument(
        "--show", action="store_true", help="print every rationale that is judged wrongly"
    )
    options = parser.parse_args()
    if options.rows and options.against:
        compare_stage(options.against, options.rows, options.seed, options.repeats)
    elif options.rows:
        time_stage(options.rows, options.seed)
    elif options.file:
        print_file(options.file)
    else:
        labelled = read_english() if options.english else make_labelled(200, options.seed)
        print_confusion(labelled, options.show)


if __name__ == "__main__":
    main()
