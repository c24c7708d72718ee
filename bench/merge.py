"""Merges a synthetic set of the real size and shape: time, memory, planted duplicates found,
against `datasets` with a plain MinHash loop.

`python bench/merge.py` makes and merges 62,766 rows in the four open schemas, 3 % of them exact and
3 % near copies, and runs the peer; `--times 10` makes ten times the rows as well and leaves the
peer out. Every run is a process of its own; its peak memory is the kernel's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROWS = {
    "medical_o1_sft": 24_772,
    "medical_r1_distill": 17_000,
    "psychology-10k": 8_775,
    "hwtcm_deepseek_r1": 12_219,
}
MEDIANS = {
    "medical_o1_sft": (87, 650, 300),
    "medical_r1_distill": (75, 900, 700),
    "psychology-10k": (32, 450, 900),
    "hwtcm_deepseek_r1": (28, 500, 350),
}
"""Characters of question, reasoning and answer; lengths are drawn log-normally around them."""
FORMS = {
    "medical_o1_sft": lambda q, r, a: {"Question": q, "Complex_CoT": r, "Response": a},
    "medical_r1_distill": lambda q, r, a: {
        "question": q,
        "reasoning (reasoning_content)": r,
        "response (content)": a,
    },
    "psychology-10k": lambda q, r, a: {"input": q, "content": a, "reasoning_content": r},
    "hwtcm_deepseek_r1": lambda q, r, a: {
        "instruction": q,
        "output": f"<think>\n{r}\n</think>\n\n{a}",
    },
}
SHARE = 0.03
MIN_QUESTION = 20


class Writer:
    """Writes text of pseudo-words drawn as words are in a language: few of them often, many
    seldom."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        hanzi = np.array([chr(code) for code in range(0x4E00, 0x4E00 + 2500)])
        words = [
            "".join(self.rng.choice(hanzi, size)) for size in self.rng.choice([1, 2, 2, 3], 12_000)
        ]
        rank = self.rng.zipf(1.15, 700_000) % len(words)
        self.stream = "".join(words[place] for place in rank)
        self.words, self.hanzi = words, hanzi

    def length(self, median: int) -> int:
        return max(8, int(median * np.exp(self.rng.normal(0, 0.4))))

    def prose(self, n: int) -> str:
        """Cut prose out of a long stream, in paragraphs as the real files have them."""
        start = int(self.rng.integers(0, len(self.stream) - n))
        text = self.stream[start : start + n]
        return "。 \n\n".join(text[place : place + 180] for place in range(0, n, 180)) + "。"

    def question(self, n: int) -> str:
        n = max(MIN_QUESTION, n)
        text = ""
        while len(text) < n:
            text += self.words[int(self.rng.integers(0, len(self.words)))]
        return text[: n // 2] + "，" + text[n // 2 : n] + "？"

    def edit(self, question: str) -> str:
        """Change one character in forty: replaced, left out or put in."""
        letters = list(question)
        for _ in range(max(1, len(question) // 40)):
            place = int(self.rng.integers(0, len(letters) - 1))
            letters[place : place + int(self.rng.integers(0, 2))] = str(self.rng.choice(self.hanzi))
        return "".join(letters)


def make_files(folder: Path, times: int, seed: int = 5) -> dict[str, str]:
    """Write the four files; gives each planted near copy and its original, by their questions."""
    writer, planted, questions = Writer(seed), {}, []
    for name, n_rows in ROWS.items():
        median_q, median_r, median_a = MEDIANS[name]
        with (folder / f"{name}.json").open("w", encoding="utf-8") as file:
            is_lines = name == "psychology-10k"
            file.write("" if is_lines else "[")
            for number in range(n_rows * times):
                draw = writer.rng.random()
                if questions and draw < 2 * SHARE:
                    original = questions[int(writer.rng.integers(0, len(questions)))]
                    question = f" {original} " if draw < SHARE else writer.edit(original)
                    if draw >= SHARE:
                        planted[question] = original
                else:
                    question = writer.question(writer.length(median_q))
                    questions.append(question)
                row = FORMS[name](
                    question,
                    writer.prose(writer.length(median_r)),
                    writer.prose(writer.length(median_a)),
                )
                before = "" if not number else "\n" if is_lines else ",\n"
                file.write(before + json.dumps(row, ensure_ascii=False))
            file.write("" if is_lines else "]")
    return planted


def run(command: list[str]) -> tuple[float, float, float]:
    """Run a command; gives seconds by the clock and of processor time, and peak memory in GB."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def merge(folder: Path) -> tuple[float, float, float]:
    inputs = [part for name in ROWS for part in ("--input", str(folder / f"{name}.json"))]
    return run([sys.executable, "-m", "medkd", "merge", *inputs, "--out", str(folder / "out")])


def judge(folder: Path, planted: dict[str, str]) -> tuple[float, float]:
    """Return recall and precision of the near copies: a pair is right when one question was made of
    the other, or both of a third."""
    from collections import Counter

    from medkd.merge.sources import read_row
    from medkd.text.tables import find_source, read_rows

    questions = {}
    for name in ROWS:
        source = find_source(folder / f"{name}.json")
        for row in read_rows(source.path):
            example = read_row(row, source, Counter()).example
            questions[example.id] = example.input
    found = [
        row
        for row in json.loads((folder / "out" / "duplicates.json").read_text(encoding="utf-8"))
        if not row["exact"]
    ]
    roots = [
        {planted.get(questions[row[end]], questions[row[end]]) for end in ("id", "of")}
        for row in found
    ]
    n_right = sum(len(pair) == 1 for pair in roots)
    return n_right / len(planted), n_right / len(found)


def measure(times: int) -> tuple[float, float, float, Path, tempfile.TemporaryDirectory]:
    place = tempfile.TemporaryDirectory()
    folder = Path(place.name)
    planted = make_files(folder, times)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    seconds, busy, peak = merge(folder)
    recall, precision = judge(folder, planted)
    print(
        f"medkd merge, {sum(ROWS.values()) * times} rows, {size:.0f} MB: {seconds:.1f} s ({busy:.1f} s of processor time), {peak:.2f} GB; "
        f"{len(planted)} near copies planted, recall {recall:.4f}, precision {precision:.4f}",
        flush=True,
    )
    return seconds, busy, peak, folder, place


PEER = """
import hashlib, sys, unicodedata
import numpy as np
from datasets import Dataset, concatenate_datasets, load_dataset
folder = sys.argv[1]
FIELDS = {
    "medical_o1_sft": ("Question", "Complex_CoT", "Response"),
    "medical_r1_distill": ("question", "reasoning (reasoning_content)", "response (content)"),
    "psychology-10k": ("input", "reasoning_content", "content"),
    "hwtcm_deepseek_r1": ("instruction", None, "output"),
}
def convert(row, fields):
    question, reasoning, answer = fields
    if reasoning is None:
        reasoning, _, answer = row[answer].partition("</think>")
        return {"input": row[question].strip(), "output": f"{reasoning}</think>{answer}"}
    return {"input": row[question].strip(), "output": f"<think>\\n{row[reasoning]}\\n</think>\\n\\n{row[answer]}"}
parts = []
for name, fields in FIELDS.items():
    part = load_dataset("json", data_files=f"{folder}/{name}.json", split="train", cache_dir=f"{folder}/cache")
    parts.append(part.map(convert, fn_kwargs={"fields": fields}, remove_columns=part.column_names))
rows = concatenate_datasets(parts)
rng = np.random.default_rng(1)
P = (1 << 61) - 1
A, B = rng.integers(1, P, 128, dtype=np.uint64), rng.integers(0, P, 128, dtype=np.uint64)
buckets, kept, signatures = {}, [], {}
for number, text in enumerate(rows["input"]):
    plain = "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())
    grams = {plain[i:i+3].encode() for i in range(max(1, len(plain) - 2))}
    hashes = np.array([int.from_bytes(hashlib.sha1(g).digest()[:4], "little") for g in grams], dtype=np.uint64)
    signature = ((np.outer(hashes, A) + B) % P & 0xFFFFFFFF).min(axis=0).astype(np.uint32)
    bands = [(band, signature[5 * band : 5 * band + 5].tobytes()) for band in range(25)]
    near = {other for band in bands for other in buckets.get(band, ())}
    if any((signatures[other] == signature).mean() >= 0.7 for other in near):
        continue
    signatures[number] = signature
    kept.append(number)
    for band in bands:
        buckets.setdefault(band, []).append(number)
chosen = set(kept)
rows = rows.filter(lambda row, number: number in chosen, with_indices=True).shuffle(seed=0)
split = rows.train_test_split(test_size=0.1, seed=0)
for name, part in split.items():
    part.to_json(f"{folder}/peer-{name}.jsonl", force_ascii=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--times",
        type=int,
        default=1,
        help="measure so many times the rows as well, without the peer",
    )
    times = parser.parse_args().times
    seconds, busy, peak, folder, place = measure(1)
    if times > 1:
        place.cleanup()
        more_seconds, more_busy, more_peak, _, more_place = measure(times)
        more_place.cleanup()
        print(
            f"{times} times the rows: {more_seconds / seconds:.1f} times the time by the clock, "
            f"{more_busy / busy:.1f} of processor time, {more_peak / peak:.1f} times the memory"
        )
        return
    peer_seconds, peer_busy, peer_peak = run([sys.executable, "-c", PEER, str(folder)])
    place.cleanup()
    print(
        f"datasets map and filter with a plain MinHash loop: {peer_seconds:.1f} s ({peer_busy:.1f} s of processor time), {peer_peak:.2f} GB"
    )
    print(
        f"ratio of clocks {peer_seconds / seconds:.1f}, of processor time {peer_busy / busy:.1f}, of memory {peer_peak / peak:.1f}; "
        "the peer repairs nothing, describes nothing and looks for no test question in train"
    )


if __name__ == "__main__":
    main()
