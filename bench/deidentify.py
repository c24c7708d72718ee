"""How well do the rules of de-identification find what identifies a person, and what do they take
that does not?

In: seven sets of snippets written for this project, one a line, identifiers as ⟦category|text⟧,
lines without any are traps. The rules were adjusted on the first two, and on what was general in
the misses of the others after their first run; docs/benchmarks.md reports what each gave when it
was first met.
Out: recall and precision by category.
An identifier counts as found when all of it is found under its own category; a find is right when
it lies within such an identifier.
Run: `.venv/bin/python bench/deidentify.py`
"""

import re
from collections import Counter
from pathlib import Path

from medkd.deidentify.rules import VERSION, Category
from medkd.deidentify.search import find_identifiers

MARK = re.compile(r"⟦([a-z_]+)\|([^⟧]+)⟧")


def read_snippet(line: str) -> tuple[str, list[tuple[int, int, Category]]]:
    """Take the marks out of a line; give its text and where the identifiers stand."""
    text, gold, position = "", [], 0
    for mark in MARK.finditer(line):
        text += line[position : mark.start()]
        gold.append((len(text), len(text) + len(mark[2]), Category[mark[1].upper()]))
        text += mark[2]
        position = mark.end()
    return text + line[position:], gold


def measure(path: Path, verbose: bool = False) -> dict[str, Counter[Category]]:
    """Count identifiers, those found, finds and right ones, by category."""
    counts: dict[str, Counter[Category]] = {
        name: Counter() for name in ("gold", "found", "finds", "right")
    }
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        text, gold = read_snippet(line)
        finds = find_identifiers(text)
        for start, end, category in gold:
            covered = {
                i
                for find in finds
                if find.category is category
                for i in range(find.start, find.end)
            }
            is_found = all(i in covered for i in range(start, end) if text[i].isalnum())
            counts["gold"][category] += 1
            counts["found"][category] += is_found
            if verbose and not is_found:
                print(
                    f"  missed {category.name} {text[start:end]!r} in {text[:60]!r}; found {[text[f.start : f.end] for f in finds]}"
                )
        for find in finds:
            is_right = any(
                a <= find.start and find.end <= b and find.category is category
                for a, b, category in gold
            )
            counts["finds"][find.category] += 1
            counts["right"][find.category] += is_right
            if verbose and not is_right:
                print(
                    f"  wrong {find.category.name} by {find.rule} {text[find.start : find.end]!r} in {text[:60]!r}"
                )
    return counts


def print_table(path: Path, counts: dict[str, Counter[Category]]) -> None:
    """Print a row a category and one for all."""
    lines = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    n_traps = sum("⟦" not in line for line in lines)
    print(f"\n{path.name}: {len(lines)} snippets, {n_traps} of them traps; rules {VERSION}\n")
    print("| category | identifiers | recall | finds | precision |\n|---|---|---|---|---|")
    rows = [
        (category.name.lower(), {k: c[category] for k, c in counts.items()})
        for category in Category
    ]
    for name, n in [*rows, ("all", {k: c.total() for k, c in counts.items()})]:
        if n["gold"] or n["finds"]:
            recall = f"{n['found'] / n['gold']:.3f}" if n["gold"] else "–"
            precision = f"{n['right'] / n['finds']:.3f}" if n["finds"] else "–"
            print(f"| {name} | {n['gold']} | {recall} | {n['finds']} | {precision} |")


def main() -> None:
    """Measure every set and print."""
    import sys

    here = Path(__file__).parent
    for name in ("snippets", "snippets_2", "held_out", "wards", "letters", "charts", "plain"):
        path = here / f"deidentify_{name}.txt"
        print_table(path, measure(path, verbose="--verbose" in sys.argv))


if __name__ == "__main__":
    main()
