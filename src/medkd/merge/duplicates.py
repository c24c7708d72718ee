"""Finds questions that are there twice, exactly or nearly.

In: signatures of plain texts, and a way to read them. Out: pairs to leave one of. Near means a
Jaccard similarity of character 3-grams; MinHash signatures propose, the real similarity decides.
Not done here: which of two copies stays (`merge.selection`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medkd.merge.grams import hash_grams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHINGLE = 3
BAND = 5
N_BANDS = 26
"""At a similarity of 0.7 some band of a pair agrees with a probability of 0.991, at 0.8 with
0.99997."""
SLACK = 0.15
"""How far the similarity of two signatures may lie below the real one: four standard deviations."""
MAX_NEIGHBOURS = 200
"""Rows that one row is compared with in one band, where a whole crowd agrees in it."""
_COMPARED_AT_ONCE = 2**18


def sign(texts: Sequence[str]) -> "NDArray[np.uint8]":
    """Give a MinHash signature for each plain text, one byte a place: all that a band needs to tell
    texts apart."""
    import numpy as np
    from rensa import RMinHash  # pyright: ignore[reportMissingTypeStubs, reportAttributeAccessIssue]

    if not texts:
        return np.zeros((0, BAND * N_BANDS), dtype=np.uint8)
    grams = hash_grams(texts, SHINGLE)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
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


def similarity(one: str, other: str) -> float:
    """Give the Jaccard similarity of two plain texts.

    >>> similarity("发热咳嗽三天", "发热咳嗽三日")
    0.6
    """
    first, second = _shingles(one), _shingles(other)
    return len(first & second) / len(first | second)


def _shingles(plain: str) -> set[str]:
    return {plain[start : start + SHINGLE] for start in range(max(1, len(plain) - SHINGLE + 1))}
