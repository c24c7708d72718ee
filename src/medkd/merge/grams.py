"""Character n-grams of many texts at once, as numbers.

In: texts. Out: the hashes of their n-grams in one flat array, and where each text's begin. Not done
here: comparing them.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NO_LETTER = re.compile(r"[\W_]+")
_FACTORS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9)
"""Odd 64-bit numbers that mix well (those of splitmix64)."""


class Grams(NamedTuple):
    """The n-grams of several texts; those of text i lie at `offsets[i]` to `offsets[i + 1]`."""

    hashes: "NDArray[np.uint64]"
    offsets: "NDArray[np.uint64]"


def make_plain(text: str) -> str:
    """Reduce a text to its letters and digits in one width and case.

    >>> make_plain("血压 １２０／８０ mmHg。")
    '血压12080mmhg'
    """
    return _NO_LETTER.sub("", unicodedata.normalize("NFKC", text).lower())


def hash_grams(texts: Sequence[str], n: int) -> Grams:
    """Hash every n-gram of plain texts; a text shorter than n has one, itself."""
    import numpy as np

    padded = [text.ljust(n) for text in texts]
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths - n + 1)]).astype(np.uint64)
    if not padded:
        return Grams(np.zeros(0, dtype=np.uint64), offsets)
    codes = np.frombuffer(
        "".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32
    ).astype(np.uint64)
    n_starts = len(codes) - n + 1
    hashes = np.zeros(n_starts, dtype=np.uint64)
    for place in range(n):
        hashes = hashes * np.uint64(_FACTORS[0]) + codes[place : place + n_starts]
    hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(_FACTORS[1])
    ends = np.repeat(np.cumsum(lengths), lengths)[:n_starts]
    return Grams(hashes[np.arange(n_starts) + n <= ends], offsets)
