"""BLEU-4 and ROUGE-1/2/L of two texts, number for number as LLaMA-Factory reports them, without its
cost.

In: a prediction and a label. Out: four scores from 0 to 100, rounded to 4 decimals. BLEU counts
characters, ROUGE counts jieba's words.
Not done here: deciding whether an answer is right (`grading.diagnosis`); these scores cannot tell
that.

>>> score_pair("诊断为急性阑尾炎", "诊断为急性阑尾炎").bleu_4
100.0
>>> score_pair("", "急性阑尾炎")
Overlap(bleu_4=0.0, rouge_1=0.0, rouge_2=0.0, rouge_l=0.0)
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from rapidfuzz.distance import LCSseq

from medkd.text.normalize import load_jieba

N_CACHED_TEXTS = 4096
"""Texts whose words are kept: a label is scored against the answers of several models."""
N_CACHED_CLAUSES = 65536
"""Clauses whose words are kept: answers and labels of one field share many."""


class Overlap(NamedTuple):
    """The overlap scores of one pair."""

    bleu_4: float
    rouge_1: float
    rouge_2: float
    rouge_l: float


def score_pair(prediction: str, label: str) -> Overlap:
    """Score one prediction against one label."""
    predicted, expected = _cut_cached(prediction), _cut_cached(label)
    bleu = round(_bleu_4(prediction, label) * 100, 4)
    if predicted is None or expected is None:
        return Overlap(bleu, 0.0, 0.0, 0.0)
    return Overlap(
        bleu,
        _percent(*_shared_n_grams(predicted, expected, 1)),
        _percent(*_shared_n_grams(predicted, expected, 2)),
        _percent(_common_subsequence(predicted, expected), len(predicted), len(expected)),
    )


def _percent(n_shared: int, n_predicted: int, n_expected: int) -> float:
    """F1 in percent as rouge_chinese has it, its small constant under the fraction included."""
    precision = n_shared / n_predicted if n_predicted else 0.0
    recall = n_shared / n_expected if n_expected else 0.0
    return round(2.0 * ((precision * recall) / (precision + recall + 1e-8)) * 100, 4)


def _shared_n_grams(
    predicted: Sequence[str], expected: Sequence[str], n: int
) -> tuple[int, int, int]:
    """Count shared, predicted and expected n-grams, each kind once: rouge_chinese compares sets by
    default."""
    ours, theirs = set(_n_grams(predicted, n)), set(_n_grams(expected, n))
    return len(ours & theirs), len(ours), len(theirs)


def _n_grams(items: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(items[start:] for start in range(n)), strict=False)


def _common_subsequence(predicted: Sequence[str], expected: Sequence[str]) -> int:
    numbers: dict[str, int] = {}
    as_numbers = [
        [numbers.setdefault(word, len(numbers)) for word in words]
        for words in (predicted, expected)
    ]
    return LCSseq.similarity(*as_numbers)


def _bleu_4(prediction: str, label: str) -> float:
    """Sentence BLEU over characters, uniform weights, NIST geometric smoothing (nltk's method3),
    brevity penalty against one label."""
    precisions: list[float] = []
    n_missing = 0
    for n in range(1, 5):
        counts = Counter(_n_grams(prediction, n))
        n_total = max(1, len(prediction) - n + 1)
        wanted = Counter(_n_grams(label, n)) if counts else Counter[tuple[str, ...]]()
        n_shared = sum(min(counts[gram], wanted[gram]) for gram in counts.keys() & wanted.keys())
        if n_shared == 0:
            if n == 1:
                return 0.0
            n_missing += 1
            precisions.append(1 / (2**n_missing * n_total))
        else:
            precisions.append(n_shared / n_total)
    brevity = 1.0 if len(prediction) > len(label) else math.exp(1 - len(label) / len(prediction))
    return brevity * math.exp(math.fsum(0.25 * math.log(precision) for precision in precisions))


_SENTENCE_ENDS = tuple(
    (re.compile(pattern), r"\1" + "\n" + r"\2")
    for pattern in (
        "([。！？?])([^”’])",
        r"(\.{6})([^”’])",
        "(…{2})([^”’])",
        "([。！？?][”’])([^，。！？?])",
    )
)
"""Where rouge_chinese breaks lines before it counts; it matters because a line of white space
counts as one empty word."""


@lru_cache(maxsize=N_CACHED_TEXTS)
def _cut_cached(text: str) -> tuple[str, ...] | None:
    """Cut a text into the words that ROUGE counts; None for a blank one."""
    joined = " ".join(word for part in _CLAUSE.split(text) for word in _cut_clause(part))
    if not joined.strip():
        return None
    for pattern, replacement in _SENTENCE_ENDS:
        joined = pattern.sub(replacement, joined)
    lines = [" ".join(line.split()) for line in joined.rstrip().split("\n") if line]
    return tuple(word for line in lines for word in line.split(" "))


_CLAUSE = re.compile(r"([\u4E00-\u9FD5a-zA-Z0-9+#&._%\-]+)")
"""What jieba cuts by itself, whatever stands around it: its own pattern."""


@lru_cache(maxsize=N_CACHED_CLAUSES)
def _cut_clause(text: str) -> tuple[str, ...]:
    return tuple(load_jieba().cut(text)) if text else ()
