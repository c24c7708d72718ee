"""What chance decides, by hashing: the same on every machine, and no other row has a part in it.

In: a seed, a purpose, a key. Out: numbers, splits. Not done here: what belongs together in one
split.
"""

import hashlib

from medkd.core.records import Split


def hash_uniform(*parts: object) -> float:
    """Draw a number from 0 to 1 that depends on nothing but its arguments.

    >>> round(hash_uniform(0, "split", "case 1"), 4)
    0.9939
    """
    key = ":".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64


def draw_split(place: float, val_share: float, test_share: float) -> Split:
    """Turn a draw into a split: the first share of all draws is test, the next one val."""
    if place < test_share:
        return "test"
    return "val" if place < test_share + val_share else "train"
