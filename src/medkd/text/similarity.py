"""How alike texts are by their character n-grams: exact Jaccard similarity, MinHash for many texts.

In: plain texts (`make_plain`). Out: n-grams, their hashes, signatures, pairs of similar texts.
Not done here: what becomes of duplicates (`prepare`, `merge`).

>>> from medkd.text.normalize import make_plain
>>> first = make_plain("患者于3天前无明显诱因出现头痛，呈持续性胀痛，伴噁心、嘔吐，无发热。")
>>> texts = [first, "咳嗽三天", first + "来院"]
>>> (one, other, alike), = find_similar(texts, sign(texts), 0.7)
>>> one, other, alike > 0.9
(0, 2, True)
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHINGLE = 3
"""Characters of an n-gram, unless the caller says otherwise."""
BAND = 5
N_BANDS = 26
"""At a similarity of 0.7 some band of a pair agrees with a probability of 0.991, at 0.8 with
0.99997."""
SLACK = 0.15
"""How far the similarity of two signatures may lie below the real one: four standard deviations."""
MAX_NEIGHBOURS = 200
"""Rows that one row is compared with in one band, where a whole crowd agrees in it."""
_COMPARED_AT_ONCE = 2**18


_FACTORS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9)
"""Odd 64-bit numbers that mix well (those of splitmix64)."""


class Grams(NamedTuple):
    """The n-grams of several texts; those of text i lie at `offsets[i]` to `offsets[i + 1]`."""

    hashes: "NDArray[np.uint64]"
    offsets: "NDArray[np.uint64]"


def shingles(text: str, n: int = SHINGLE) -> set[str]:
    """List the different n-grams of a text; a text shorter than n has one, itself."""
    return {text[start : start + n] for start in range(max(1, len(text) - n + 1))}


def similarity(one: str, other: str, n: int = SHINGLE) -> float:
    """Compute the Jaccard similarity of the n-grams of two plain texts.

    >>> similarity("发热咳嗽三天", "发热咳嗽三日")
    0.6
    """
    first, second = shingles(one, n), shingles(other, n)
    return len(first & second) / len(first | second)


def find_similar(
    texts: Sequence[str], signatures: "NDArray[np.uint8]", threshold: float, n: int = SHINGLE
) -> Iterator[tuple[int, int, float]]:
    """Find the pairs of plain texts of at least this similarity, by number, the earlier first.

    Their signatures (`sign`, of the same n) propose the pairs, the similarity itself decides.
    """
    for one, other in ((int(row[0]), int(row[1])) for row in propose_pairs(signatures, threshold)):
        alike = similarity(texts[one], texts[other], n)
        if alike >= threshold:
            yield one, other, alike


def cluster(n: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Map each of `n` numbers to the smallest that pairs join it with, directly or through others.

    >>> cluster(5, [(1, 3), (3, 4)])
    [0, 1, 2, 1, 1]
    """
    leader = list(range(n))

    def lead(number: int) -> int:
        while leader[number] != number:
            leader[number] = number = leader[leader[number]]
        return number

    for one, other in pairs:
        first, second = sorted((lead(one), lead(other)))
        leader[second] = first
    return [lead(number) for number in range(n)]


def encode(text: str) -> "NDArray[np.uint32]":
    """Write a text as the codes of its characters."""
    import numpy as np

    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def hash_runs(codes: "NDArray[np.uint32]", n: int) -> "NDArray[np.uint64]":
    """Hash every run of n characters: an array (len(codes) - n + 1,) of 64-bit numbers."""
    import numpy as np

    hashes: NDArray[np.uint64] = codes.astype(np.uint64)
    length: int = 1
    for bit in f"{n:b}"[1:]:  # twice as long, and one more where the bit is set
        factor: int = pow(_FACTORS[0], length, 1 << 64)
        hashes = hashes[:-length] * np.uint64(factor) + hashes[length:]
        length *= 2
        if bit == "1":
            hashes = hashes[:-1] * np.uint64(_FACTORS[0]) + codes[length:]
            length += 1
    return hashes


def find_shared(hashes: "NDArray[np.uint64]", others: "NDArray[np.uint64]") -> "NDArray[np.bool_]":
    """Say of each hash whether it is among others: an array as long as `hashes`."""
    import numpy as np

    shared = np.zeros(1 << 16, dtype=bool)
    shared[others >> np.uint64(48)] = True
    shared = shared[hashes >> np.uint64(48)]  # by their first bits, which leaves few to look up
    ordered, wanted = np.sort(others), hashes[shared]
    places = np.searchsorted(ordered, wanted)
    shared[shared] = ordered[np.minimum(places, len(ordered) - 1)] == wanted
    return shared


def count_distinct(n_grams: Any) -> int:
    """Count the different ones of an array of hashes."""
    import numpy as np

    ordered = np.sort(n_grams)
    return len(ordered) and 1 + int((ordered[1:] != ordered[:-1]).sum())


def hash_grams(texts: Sequence[str], n: int) -> Grams:
    """Hash every n-gram of plain texts; a text shorter than n has one, itself."""
    import numpy as np

    padded = [text.ljust(n) for text in texts]
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths - n + 1)]).astype(np.uint64)
    if not padded:
        return Grams(np.zeros(0, dtype=np.uint64), offsets)
    hashes = hash_runs(encode("".join(padded)), n)
    hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(_FACTORS[1])
    ends = np.repeat(np.cumsum(lengths), lengths)[: len(hashes)]
    return Grams(hashes[np.arange(len(hashes)) + n <= ends], offsets)


def sign(texts: Sequence[str], n: int = SHINGLE) -> "NDArray[np.uint8]":
    """Compute a MinHash signature of each plain text, one byte a place."""
    import numpy as np
    from rensa import RMinHash  # pyright: ignore[reportMissingTypeStubs, reportAttributeAccessIssue]

    if not texts:
        return np.zeros((0, BAND * N_BANDS), dtype=np.uint8)
    grams = hash_grams(texts, n)
    matrix: Any = cast(Any, RMinHash).digest_matrix_from_flat_token_hashes(
        grams.hashes, grams.offsets, BAND * N_BANDS, 1
    )
    return np.array(matrix.to_rows(), dtype=np.uint32).astype(np.uint8)


def propose_pairs(signatures: "NDArray[np.uint8]", threshold: float) -> "NDArray[np.int64]":
    """List pairs of rows that agree in some band and look similar enough, as two columns, the
    smaller number first."""
    import numpy as np

    n = len(signatures)
    found: list[NDArray[np.int64]] = []
    for band in range(N_BANDS):
        key, next_key = _band_keys(signatures, band), _band_keys(signatures, (band + 1) % N_BANDS)
        order = np.lexsort((next_key, key))
        for distance in range(1, min(MAX_NEIGHBOURS, n - 1) + 1):
            agree = np.flatnonzero(key[order[:-distance]] == key[order[distance:]])
            if not len(agree):
                break
            one, other = order[:-distance][agree], order[distance:][agree]
            alike = _look_alike(signatures, one, other, threshold - SLACK)
            found.append(np.minimum(one, other)[alike] * n + np.maximum(one, other)[alike])
    codes = np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
    return np.stack([codes // max(n, 1), codes % max(n, 1)], axis=1)


def _band_keys(signatures: "NDArray[np.uint8]", band: int) -> "NDArray[np.uint64]":
    import numpy as np

    keys = np.zeros((len(signatures), 8), dtype=np.uint8)
    keys[:, :BAND] = signatures[:, band * BAND : (band + 1) * BAND]
    return keys.view(np.uint64).ravel()


def _look_alike(
    signatures: "NDArray[np.uint8]",
    one: "NDArray[np.int64]",
    other: "NDArray[np.int64]",
    share: float,
) -> "NDArray[np.bool_]":
    import numpy as np

    parts = [
        (
            signatures[one[start : start + _COMPARED_AT_ONCE]]
            == signatures[other[start : start + _COMPARED_AT_ONCE]]
        ).mean(axis=1)
        >= share
        for start in range(0, len(one), _COMPARED_AT_ONCE)
    ]
    return np.concatenate(parts)


# Likeness of a text with itself

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
    keep coming back. Letters alone count: 第1次 … 第2次 … is a repetition, a table of numbers none.

    >>> is_looping("患者发热。" * 12), is_looping("患者发热三天，咳嗽有痰，右下肺可闻及湿啰音。")
    (True, False)
    """
    codes = encode(text)
    letters = codes[_are_letters()[codes]]
    n_grams = hash_runs(letters, N_GRAM)
    n_repeated = len(n_grams) - count_distinct(n_grams)
    if _stutters(letters, n_repeated):
        return True
    shortest = min(len(letters), WINDOW // 2) - 3 * N_GRAM
    if n_repeated < (1 - MIN_DISTINCT) * shortest:
        return False  # all repetitions together are too few for any window
    return _has_dense_window(n_grams, WINDOW, N_GRAM) or _has_dense_window(
        hash_runs(letters, 3 * N_GRAM), 5 * WINDOW, 3 * N_GRAM
    )


@cache
def _are_letters() -> "NDArray[np.bool_]":
    """Say of every character whether it is a letter."""
    import numpy as np

    return np.fromiter(map(str.isalpha, map(chr, range(sys.maxunicode + 1))), dtype=bool)


def _stutters(letters: "NDArray[np.uint32]", n_repeated: int) -> bool:
    """Tell whether some run of letters stands ten times in a row: each of its letters but the
    first ones equals the one a period before it. `n_repeated` n-grams are not the first ones."""
    import numpy as np

    for period in range(1, min(_PERIOD, len(letters) - 1) + 1):
        wanted = (_N_STUTTERED - 1) * period
        if n_repeated <= wanted - N_GRAM:
            return False
        differ = letters[period:] != letters[:-period]
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
        if len(found) > MIN_LETTERS - n and count_distinct(found) < MIN_DISTINCT * len(found):
            return True
    return False
