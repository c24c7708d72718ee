"""How many removals of `prepare` took a finding away or broke a sentence? A person reads them.

In: directories of `prepare` (their `removals.jsonl`). Out: a seeded sample as a numbered list, each
removal in its sentence before and after; with `--judged`, a file of lines `ID<tab>good|bad`, the
share of bad ones by rule with the exact interval of 95 %. Removals of `--seen` are left out, so that
a sample is one that nobody has tuned on. Nothing of the records is kept.
Run: `.venv/bin/python bench/removals.py runs/mine/prepare [--sample 100] [--seed 0] [--seen DIR]
[--judged FILE]`
"""

import argparse
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from scipy.stats import binomtest

from medkd.core.jsonl import RecordReader
from medkd.core.records import Removal


def read_removals(directory: Path) -> list[Removal]:
    """Read what the rules removed; what a person took back is no removal."""
    reader = RecordReader(directory / "removals.jsonl", Removal, made_by="prepare")
    return [removal for removal in reader if removal.state == "removed"]


def key_of(removal: Removal) -> tuple[str, str]:
    """Tell a removal by what stands there: the same of another run is the same one."""
    return removal.section, removal.context


def draw(removals: Iterable[Removal], n: int, seed: int) -> list[Removal]:
    """Draw removals, the same ones for the same seed."""
    waiting = sorted(removals, key=lambda one: one.id)
    return random.Random(seed).sample(waiting, min(n, len(waiting)))


def show(number: int, removal: Removal) -> str:
    """Write a removal on one line: the words around it before, and what stands there now."""
    before, _, behind = removal.context.partition(f"⟦{removal.before}⟧")
    after = f"{before[-16:]}⟦{removal.after}⟧{behind[:16]}"
    line = f"{number:>4} {removal.rule:<10} {removal.section}: {removal.context}  →  {after}"
    return f"{line}  ({removal.id})".replace("\n", "⏎")


def read_judged(path: Path) -> dict[str, bool]:
    """Read which removals a person called bad."""
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line)
    return {row[0]: row[1].strip() == "bad" for row in rows}


def print_share(removals: Iterable[Removal], judged: dict[str, bool]) -> None:
    """Print how many of the judged removals are bad, by rule and in all."""
    read = [removal for removal in removals if removal.id in judged]
    n, bad = Counter(one.rule for one in read), Counter(one.rule for one in read if judged[one.id])
    print("\n| rule | read | bad | share, 95 % |\n|---|---|---|---|")
    for rule in (*sorted(n), "all"):
        k, of = (bad.total(), n.total()) if rule == "all" else (bad[rule], n[rule])
        interval = binomtest(k, of).proportion_ci() if of else None
        share = f"{k / of:.2f} ({interval.low:.2f} to {interval.high:.2f})" if interval else "–"
        print(f"| {rule} | {of} | {k} | {share} |")


def main() -> None:
    """List a sample, or count what was judged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seen", type=Path, nargs="*", default=[], help="prepare's, read before")
    parser.add_argument("--judged", type=Path, help="lines of ID, a tab and good or bad")
    args = parser.parse_args()
    seen = {key_of(one) for directory in args.seen for one in read_removals(directory)}
    removals = {
        key_of(one): one
        for directory in args.directories
        for one in read_removals(directory)
        if key_of(one) not in seen
    }
    drawn = draw(removals.values(), args.sample, args.seed)
    if args.judged:
        print_share(removals.values(), read_judged(args.judged))
        return
    print(f"{len(removals)} removals that are not among the seen, {len(drawn)} drawn")
    print("\n".join(show(number, one) for number, one in enumerate(drawn, start=1)))


if __name__ == "__main__":
    main()
