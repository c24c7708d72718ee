"""Measures how fast rows of every accepted form are read, by `collect` and by `merge`.

`python bench/question_rows.py` writes 10,000 rows of each form, in the lengths that open medical
datasets have (question 56 characters, reasoning 891, answer 231), and prints rows a second; each
figure is the best of `--times` readings.
"""

import argparse
import csv
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openpyxl import Workbook

from medkd.collect.files import CaseFiles
from medkd.core.errors import InputError
from medkd.merge.sources import Row, read_row
from medkd.text.tables import find_source, read_rows

LENGTHS = (56, 891, 231)
FORMS: dict[str, Callable[[str, str, str], dict[str, Any]]] = {
    "alpaca": lambda q, r, a: {"instruction": q, "input": "", "output": a},
    "question, answer": lambda q, r, a: {"question": q, "answer": a},
    "sharegpt": lambda q, r, a: {
        "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]
    },
    "messages, three turns": lambda q, r, a: {
        "messages": [
            {"role": role, "content": text}
            for role, text in zip(["user", "assistant"] * 2, (q[:20], a[:30], q, a), strict=True)
        ]
    },
    "exam, a mapping": lambda q, r, a: {
        "question": q,
        "options": {letter: a[n : n + 12] for n, letter in enumerate("ABCDE")},
        "answer": "C",
    },
    "exam, columns": lambda q, r, a: {
        "题目": q,
        **{letter: a[n : n + 12] for n, letter in enumerate("ABCDE")},
        "答案": "C",
    },
    "question, think, answer": lambda q, r, a: {"question": q, "think": r, "answer": a},
    "alpaca with tags": lambda q, r, a: {"instruction": q, "output": f"<think>{r}</think>{a}"},
}
TABLES = ("question, answer", "exam, columns")
"""Forms that are also written as CSV and Excel."""


def write_files(folder: Path, n: int) -> dict[str, Path]:
    """Write every form as JSON Lines, some also as a table."""
    rng = random.Random(0)
    hanzi = [chr(code) for code in range(0x4E00, 0x4E00 + 2500)]
    texts = [["".join(rng.choices(hanzi, k=length)) for length in LENGTHS] for _ in range(n)]
    found: dict[str, Path] = {}
    for number, (name, make) in enumerate(FORMS.items()):
        rows = [make(*parts) for parts in texts]
        found[name] = folder / f"{number}.jsonl"
        found[name].write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
        if name in TABLES:
            table = [list(rows[0]), *([*row.values()] for row in rows)]
            path = found[f"{name}, CSV"] = folder / f"{number}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(table)
            book = Workbook(write_only=True)
            sheet = book.create_sheet()
            for cells in table:
                sheet.append(cells)
            book.save(path := folder / f"{number}.xlsx")
            found[f"{name}, Excel"] = path
    return found


def time_collect(path: Path) -> tuple[int, float]:
    """Return the cases of a file, and the seconds that reading them took."""
    began = time.perf_counter()
    files = CaseFiles(path)
    try:
        n = sum(1 for _ in files)
    except InputError:  # all rows hold their reasoning
        n = 0
    return n, time.perf_counter() - began


def time_merge(path: Path) -> tuple[int, float]:
    """Return the rows of a file that merge keeps, and the seconds that reading them took."""
    began = time.perf_counter()
    source, repairs = find_source(path), Counter[str]()
    kept = sum(isinstance(read_row(row, source, repairs), Row) for row in read_rows(path))
    return kept, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), given.rows)
        print(f"{'form':<26}{'collect keeps':>14}{'rows/s':>10}{'merge keeps':>14}{'rows/s':>10}")
        for name, path in files.items():
            line = f"{name:<26}"
            for measure in (time_collect, time_merge):
                runs = [measure(path) for _ in range(given.times)]
                line += f"{runs[0][0]:>14,}{given.rows / min(s for _, s in runs):>10,.0f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
