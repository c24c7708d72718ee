"""The overlap scores against the libraries that LLaMA-Factory calls: equal to 4 decimals, and how
much faster.

`python bench/metrics.py`: texts are made on the spot of clauses from the rehearsal world's cases.
Start-up (jieba's dictionary) is left out on both sides, and no text is scored twice, so that
nothing is won by remembering whole texts.
"""

import random
import time

import jieba
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_chinese import Rouge

from medkd.demo.synthetic_cases import generate_cases
from medkd.grading.bleu_rouge import score_pair

N_PAIRS = {150: 300, 1000: 60}


def score_with_originals(prediction: str, label: str) -> tuple[float, ...]:
    """LLaMA-Factory's formula, with its libraries."""
    hypothesis, reference = list(jieba.cut(prediction)), list(jieba.cut(label))
    if not " ".join(hypothesis).split() or not " ".join(reference).split():
        rouge = {name: {"f": 0.0} for name in ("rouge-1", "rouge-2", "rouge-l")}
    else:
        rouge = Rouge().get_scores(" ".join(hypothesis), " ".join(reference))[0]
    bleu = sentence_bleu(
        [list(label)], list(prediction), smoothing_function=SmoothingFunction().method3
    )
    return (
        round(bleu * 100, 4),
        *(round(rouge[name]["f"] * 100, 4) for name in ("rouge-1", "rouge-2", "rouge-l")),
    )


def make_pairs(n: int, length: int) -> list[tuple[str, str]]:
    """Make pairs that share some of their sentences, of one length in characters, no two alike."""
    drawn = random.Random(length)
    cases = ["".join(case.sections.values()) for case in generate_cases(400, seed=5)]
    clauses = [clause for text in cases for clause in text.split("，") if clause]

    def write() -> str:
        return "，".join(drawn.choices(clauses, k=length // 3))[:length]

    pairs = []
    for _ in range(n):
        label, other = write(), write()
        pairs.append((label[: length // 3] + other[: length - length // 3], label))
    return pairs


def main() -> None:
    """Score both ways and print."""
    jieba.setLogLevel(60)
    score_pair("开始", "开始")
    score_with_originals("开始", "开始")
    for length, n in N_PAIRS.items():
        pairs = make_pairs(n, length)
        started = time.perf_counter()
        ours = [tuple(score_pair(*pair)) for pair in pairs]
        between = time.perf_counter()
        theirs = [score_with_originals(*pair) for pair in pairs]
        ended = time.perf_counter()
        worst = max(
            abs(a - b)
            for one, two in zip(ours, theirs, strict=True)
            for a, b in zip(one, two, strict=True)
        )
        print(
            f"{length} characters, {n} pairs: ours {(between - started) / n * 1e3:.2f} ms, theirs {(ended - between) / n * 1e3:.2f} ms, "
            f"{(ended - between) / (between - started):.1f} times as fast; largest difference {worst:.4f}"
        )


if __name__ == "__main__":
    main()
