"""Detects text that repeats itself, exactly or nearly.

In: any text, whole or its tail while it is being generated. Out: a yes or no. Digits and
punctuation do not count, so that a counted repetition (第1次…第2次…) is one and a table of numbers
is none. Not done here: stopping a generation.

>>> is_looping("患者发热。" * 12)
True
>>> is_looping("患者发热三天，咳嗽有痰，右下肺可闻及湿啰音。")
False
"""

import re
from collections import Counter

WINDOW = 240
"""Letters looked at together."""
N_GRAM = 8
MIN_DISTINCT = 0.45
"""Share of distinct n-grams in a window below which it repeats itself; ordinary prose has more than
0.9, a long list of findings 0.7."""
MIN_LETTERS = 40
_STUTTER = re.compile(r"([^\W\d_]{1,8}?)\1{9,}")


def is_looping(text: str) -> bool:
    """Tell whether a text repeats itself anywhere: a stutter of ten, or a stretch whose n-grams
    keep coming back."""
    letters = _keep_letters(text)
    if _STUTTER.search(letters):
        return True
    return _has_dense_window(letters, WINDOW, N_GRAM) or _has_dense_window(
        letters, 5 * WINDOW, 3 * N_GRAM
    )


def count_n_grams(text: str) -> Counter[str]:
    """Count the n-grams of a text's letters, as they are looked at for loops.

    >>> count_n_grams("发热3天，咳嗽有痰。发热")
    Counter({'发热天咳嗽有痰发': 1, '热天咳嗽有痰发热': 1})
    """
    letters = _keep_letters(text)
    return Counter(letters[start : start + N_GRAM] for start in range(len(letters) - N_GRAM + 1))


def _keep_letters(text: str) -> str:
    return re.sub(r"[\W\d_]+", "", text)


def _has_dense_window(letters: str, window: int, n: int) -> bool:
    """Tell whether some window holds few distinct n-grams; the wider window finds whole paragraphs
    that come back."""
    starts = range(0, max(1, len(letters) - window // 2), window // 2)
    return any(
        _distinct_share(letters[start : start + window], n) < MIN_DISTINCT for start in starts
    )


def _distinct_share(letters: str, n: int) -> float:
    n_grams = len(letters) - n + 1
    return (
        len({letters[start : start + n] for start in range(n_grams)}) / n_grams
        if len(letters) >= MIN_LETTERS
        else 1.0
    )
