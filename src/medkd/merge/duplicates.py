"""Finds questions that are there twice, exactly or nearly.

In: texts in order of preference, the better copy first, and what is known about each. Out: for each text to leave out, the one it repeats.
Near means a Jaccard similarity of character 4-grams; MinHash proposes, the real similarity decides. Not done here: the order of preference.
"""

import unicodedata
import zlib
from collections.abc import Sequence
from typing import NamedTuple

SHINGLE = 4
N_PERMUTATIONS = 64


class Repeat(NamedTuple):
    """A text that repeats an earlier one."""

    of: int
    is_exact: bool


def make_plain(text: str) -> str:
    """Reduce a text to its letters and digits in one width and case.

    >>> make_plain("血压 １２０／８０ mmHg。")
    '血压12080mmhg'
    """
    return "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())


def find_repeats(texts: Sequence[str], references: Sequence[str], threshold: float) -> dict[int, Repeat]:
    """Find which texts repeat an earlier one; `threshold` 1 finds exact copies only.

    Two near questions whose known diagnoses differ are two cases: in a record a single value can make the difference.
    """
    repeats: dict[int, Repeat] = {}
    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        plain = make_plain(text)
        if plain in first:
            repeats[number] = Repeat(first[plain], is_exact=True)
        else:
            first[plain] = number
    if threshold < 1:
        repeats.update(_find_near({number: plain for plain, number in first.items()}, references, threshold))
    return repeats


def _find_near(plain: dict[int, str], references: Sequence[str], threshold: float) -> dict[int, Repeat]:
    from datasketch import MinHash, MinHashLSH  # pyright: ignore[reportMissingTypeStubs]

    index = MinHashLSH(threshold=threshold, num_perm=N_PERMUTATIONS, weights=(0.1, 0.9))
    blank = MinHash(num_perm=N_PERMUTATIONS, hashfunc=zlib.crc32, seed=1)
    repeats: dict[int, Repeat] = {}
    for number, text in plain.items():
        shingles = _shingles(text)
        signature = blank.copy()
        signature.update_batch(shingles)
        for candidate in sorted(int(str(key)) for key in index.query(signature)):
            differ = references[candidate] and references[number] and references[candidate] != references[number]
            if not differ and _similarity(shingles, _shingles(plain[candidate])) >= threshold:
                repeats[number] = Repeat(candidate, is_exact=False)
                break
        else:
            index.insert(str(number), signature)
    return repeats


def _shingles(plain: str) -> set[bytes]:
    return {plain[start : start + SHINGLE].encode("utf-8", "surrogatepass") for start in range(max(1, len(plain) - SHINGLE + 1))}


def _similarity(one: set[bytes], other: set[bytes]) -> float:
    return len(one & other) / len(one | other)
