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
_PERIOD, _N_STUTTERED = 8, 10
_STUTTER = re.compile(rf"([^\W\d_]{{1,{_PERIOD}}}?)\1{{{_N_STUTTERED - 1},}}")


def is_looping(text: str) -> bool:
    """Tell whether a text repeats itself anywhere: a stutter of ten, or a stretch whose n-grams
    keep coming back."""
    letters = _keep_letters(text)
    if _may_stutter(letters) and _STUTTER.search(letters):
        return True
    n_repeated = max(0, len(letters) - N_GRAM + 1) - len(_list_n_grams(letters, N_GRAM))
    shortest = min(len(letters), WINDOW // 2) - 3 * N_GRAM
    if n_repeated < (1 - MIN_DISTINCT) * shortest:
        return False  # all repetitions together are too few for any window
    return _has_dense_window(letters, WINDOW, N_GRAM) or _has_dense_window(
        letters, 5 * WINDOW, 3 * N_GRAM
    )


def _may_stutter(letters: str) -> bool:
    """Tell whether enough letters come again at one short distance; a quick look before a slow
    one."""
    import numpy as np

    codes = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return any(
        int((codes[period:] == codes[:-period]).sum()) >= (_N_STUTTERED - 1) * period
        for period in range(1, _PERIOD + 1)
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
    if len(letters) < MIN_LETTERS:
        return 1.0
    return len(_list_n_grams(letters, n)) / (len(letters) - n + 1)


def _list_n_grams(letters: str, n: int) -> set[str]:
    return {letters[start : start + n] for start in range(len(letters) - n + 1)}
