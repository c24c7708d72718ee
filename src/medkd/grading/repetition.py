"""Detects text that repeats itself, exactly or nearly.

In: any text, whole or its tail while it is being generated. Out: a yes or no. Digits and
punctuation do not count, so that a counted repetition (第1次…第2次…) is one and a table of numbers
is none. Not done here: stopping a generation.

>>> is_looping("患者发热。" * 12)
True
>>> is_looping("患者发热三天，咳嗽有痰，右下肺可闻及湿啰音。")
False
"""

from typing import Any

from medkd.text.similarity import hash_runs

WINDOW = 240
"""Letters looked at together."""
N_GRAM = 8
MIN_DISTINCT = 0.45
"""Share of distinct n-grams in a window below which it repeats itself; ordinary prose has more than
0.9, a long list of findings 0.7."""
MIN_LETTERS = 40
_PERIOD, _N_STUTTERED = 8, 10


def is_looping(text: str) -> bool:
    """Tell whether a text repeats itself anywhere: a stutter of ten, or a stretch whose n-grams
    keep coming back."""
    letters = "".join(filter(str.isalpha, text))
    if _stutters(letters):
        return True
    n_grams = hash_runs(letters, N_GRAM)
    shortest = min(len(letters), WINDOW // 2) - 3 * N_GRAM
    if len(n_grams) - _count_distinct(n_grams) < (1 - MIN_DISTINCT) * shortest:
        return False  # all repetitions together are too few for any window
    return _has_dense_window(n_grams, WINDOW, N_GRAM) or _has_dense_window(
        hash_runs(letters, 3 * N_GRAM), 5 * WINDOW, 3 * N_GRAM
    )


def _stutters(letters: str) -> bool:
    """Tell whether some run of letters stands ten times in a row: each of its letters but the
    first ones equals the one a period before it."""
    import numpy as np

    codes = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    for period in range(1, min(_PERIOD, len(codes) - 1) + 1):
        wanted = (_N_STUTTERED - 1) * period
        differ = codes[period:] != codes[:-period]
        if len(differ) - int(differ.sum()) < wanted:
            continue
        places = np.concatenate([[-1], np.flatnonzero(differ), [len(differ)]])
        if int(np.diff(places).max()) > wanted:
            return True
    return False


def _has_dense_window(n_grams: Any, window: int, n: int) -> bool:
    """Tell whether some window holds few distinct n-grams; the wider window finds whole paragraphs
    that come back."""
    n_letters = len(n_grams) + n - 1
    for start in range(0, max(1, n_letters - window // 2), window // 2):
        found = n_grams[start : start + window - n + 1]
        if len(found) > MIN_LETTERS - n and _count_distinct(found) < MIN_DISTINCT * len(found):
            return True
    return False


def _count_distinct(n_grams: Any) -> int:
    return len(set(n_grams.tolist()))
