"""Holds the grading of diagnoses against pairs that other people made.

`python bench/grading.py FOLDER` reads CHIP-CDN (CBLUE): `train.json`, diagnoses as physicians wrote
them with the standard names that people mapped them to, and the ICD table beside it. Without FOLDER
the pairs of tests/grading are graded. Two thirds, by hash, are for work; `--part held` is the rest.
"""

import argparse
import hashlib
import json
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from rapidfuzz import process
from rapidfuzz.distance import Indel
from scipy.stats import rankdata

from medkd.core.statistics import wilson_interval
from medkd.grading.diagnosis import Grade, grade

TESTS = Path(__file__).parents[1] / "tests" / "grading"
N_NEAREST = 60
"""Names most like a text, among which one of another category is looked for."""
VERDICTS = ("right", "undecided", "wrong")
TARGETS = [
    ("mapped", "wrong", "<= 0.10"),
    ("look-alike", "right", "<= 0.015"),
    ("far", "wrong", ">= 0.85"),
]


class Pair(NamedTuple):
    answer: str
    reference: str


Pairs = dict[str, list[Pair]]


def read_codes(folder: Path) -> dict[str, str]:
    """Map standard names to their codes; those of morphology name the same diseases once more."""
    import openpyxl

    sheet = openpyxl.load_workbook(next(folder.glob("*.xlsx")), read_only=True).active
    codes: dict[str, str] = {}
    for code, name, *_ in sheet.iter_rows(values_only=True):
        if "/" not in str(code):
            codes.setdefault(str(name).strip(), str(code).strip())
    return codes


def read_mapped(folder: Path, part: str) -> list[Pair]:
    """Read the diagnoses that people mapped to one name, worded otherwise."""
    pairs: list[Pair] = []
    for row in json.loads((folder / "train.json").read_text(encoding="utf-8")):
        text, name = row["text"].strip(), row["normalized_result"].strip('" ')
        is_held = hashlib.sha256(text.encode()).digest()[0] % 3 == 0
        if "##" not in name and text != name and is_held == (part == "held"):
            pairs.append(Pair(text, name))
    return pairs


def make_pairs(folder: Path, part: str, seed: int) -> Pairs:
    """Pair every diagnosis with its own name, with the name most like it of another three-character
    category of the ICD, and with any name of another chapter."""
    codes = read_codes(folder)
    mapped = read_mapped(folder, part)
    coded = [pair for pair in mapped if pair.reference in codes]
    names, used = sorted(codes), sorted({pair.reference for pair in coded})
    rng = random.Random(seed)
    pairs: Pairs = {"mapped": mapped, "look-alike": [], "far": []}
    for text, name in coded:
        likeness = process.cdist([text], names, scorer=Indel.normalized_similarity)[0]
        nearest = np.argpartition(-likeness, N_NEAREST)[:N_NEAREST]
        ordered = [names[at] for at in nearest[np.argsort(-likeness[nearest], kind="stable")]]
        others = [one for one in ordered if codes[one][:3] != codes[name][:3] and one != text]
        if others:
            pairs["look-alike"].append(Pair(text, max(others, key=lambda one: _dice(text, one))))
        far = rng.choice(used)
        while codes[far][0] == codes[name][0]:
            far = rng.choice(used)
        pairs["far"].append(Pair(text, far))
    return pairs


def _dice(one: str, other: str) -> float:
    first, second = ({t[n : n + 2] for n in range(len(t) - 1)} for t in (one, other))
    return 2 * len(first & second) / max(1, len(first) + len(second))


def read_own() -> Pairs:
    """Read the pairs of tests/grading, labelled by hand."""
    pairs: Pairs = {"right": [], "near": [], "wrong": []}
    for path in sorted(TESTS.glob("pairs*.yaml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8")).values():
            for answer, reference, label in group:
                pairs[label if label in pairs else "near"].append(Pair(str(answer), str(reference)))
    return pairs


def read_verdict(found: Grade) -> str:
    return "right" if found.principal else "wrong" if found.decided else "undecided"


def measure_area(above: list[float], below: list[float], seed: int) -> tuple[float, float, float]:
    """Measure how often a value of the first list is above one of the second, with a bootstrap
    interval of 95 %."""
    first, second = np.array(above), np.array(below)
    rng = np.random.default_rng(seed)
    areas = [
        _area(rng.choice(first, len(first)), rng.choice(second, len(second))) for _ in range(500)
    ]
    low, high = np.quantile(areas, [0.025, 0.975])
    return _area(first, second), float(low), float(high)


def _area(above, below) -> float:
    ranks = rankdata(np.concatenate([above, below]))[: len(above)]
    return float((ranks.sum() - len(above) * (len(above) + 1) / 2) / (len(above) * len(below)))


def print_table(pairs: Pairs, grades: dict[str, list[Grade]]) -> None:
    print("| pairs | n | right | undecided | wrong |")
    print("|---|---|---|---|---|")
    for kind, graded in grades.items():
        counts = Counter(map(read_verdict, graded))
        cells = []
        for verdict in VERDICTS:
            low, high = wilson_interval(counts[verdict], len(graded))
            cells.append(f"{counts[verdict] / len(graded):.3f} ({low:.3f} to {high:.3f})")
        print(f"| {kind} | {len(graded)} | {' | '.join(cells)} |")


def print_targets(grades: dict[str, list[Grade]], seed: int) -> None:
    print("\n| figure | target | measured |")
    print("|---|---|---|")
    for kind, verdict, target in TARGETS:
        share = sum(read_verdict(found) == verdict for found in grades[kind]) / len(grades[kind])
        print(f"| {kind} decided {verdict} | {target} | {share:.3f} |")
    scores = {kind: [found.f1 for found in graded] for kind, graded in grades.items()}
    for kind, target in (("look-alike", ">= 0.72"), ("far", "")):
        area = "{:.3f} ({:.3f} to {:.3f})".format(
            *measure_area(scores["mapped"], scores[kind], seed)
        )
        print(f"| area under the curve of f1, mapped against {kind} | {target} | {area} |")
    print("\nNot measured: answers judged right or wrong by another model; none are at hand.")


def print_relations(grades: dict[str, list[Grade]]) -> None:
    for kind, graded in grades.items():
        counts = Counter(f"{found.relation} {read_verdict(found)}" for found in graded)
        print(f"{kind}: {', '.join(f'{name} {n}' for name, n in counts.most_common())}")


def show(pairs: Pairs, grades: dict[str, list[Grade]], kind: str, verdict: str, n: int) -> None:
    found = [
        (pair, one)
        for pair, one in zip(pairs[kind], grades[kind], strict=True)
        if read_verdict(one) == verdict
    ]
    for pair, one in random.Random(n).sample(found, min(n, len(found))):
        print(f"  {pair.answer} | {pair.reference} | {one.relation} {one.f1}")


def time_pairs(folder: Path, n: int, seed: int) -> None:
    """Grade n random pairs of a physician's wording and a standard name, and a tenth of them first;
    print the speed and the most memory."""
    rng = random.Random(seed)
    texts = [pair.answer for pair in read_mapped(folder, "work")]
    names = sorted(read_codes(folder))
    for count in (n // 10, n):
        pairs = [Pair(rng.choice(texts), rng.choice(names)) for _ in range(count)]
        began = time.process_time()
        for pair in pairs:
            grade(*pair)
        speed = count / (time.process_time() - began)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{count} pairs: {speed:.0f} a second of processor time, {most:.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="CHIP-CDN with its ICD table")
    parser.add_argument("--part", choices=["work", "held"], default="work")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument(
        "--show", nargs=3, metavar=("KIND", "VERDICT", "N"), help="print pairs, work part only"
    )
    parser.add_argument("--time", type=int, metavar="N", help="time N random pairs instead")
    options = parser.parse_args()
    if options.time:
        time_pairs(options.folder, options.time, options.seed)
        return
    pairs = make_pairs(options.folder, options.part, options.seed) if options.folder else read_own()
    began = time.process_time()
    grades = {kind: [grade(*pair) for pair in group] for kind, group in pairs.items()}
    seconds = time.process_time() - began
    print_table(pairs, grades)
    if options.folder:
        print_targets(grades, options.seed)
    if options.part == "work":
        print()
        print_relations(grades)
        if options.show:
            show(pairs, grades, options.show[0], options.show[1], int(options.show[2]))
    n = sum(map(len, pairs.values()))
    print(f"\n{n} pairs, {n / seconds:.0f} a second of processor time", file=sys.stderr)


if __name__ == "__main__":
    main()
