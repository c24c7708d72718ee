"""Cases that are there twice, nearly: two postings of one case, a case and its copy with a word
changed.

In: the plain texts of records. Out: pairs and how alike they are: the Jaccard similarity of
character 4-grams. MinHash proposes, the real similarity decides. Not done here: what becomes of
them (`stage`), exact duplicates.

>>> first = "患者于3天前无明显诱因出现头痛呈持续性胀痛伴恶心呕吐无发热无抽搐无意识障碍"
>>> [(one, other, round(alike, 2)) for one, other, alike in find_pairs([first, "咳嗽三天", first + "来院"], 0.7)]
[(0, 2, 0.94)]
"""

from collections.abc import Iterable, Iterator

SHINGLE = 4
_N_PERMUTATIONS = 126
_N_BANDS = 21
"""At a similarity of 0.7 some band of a pair agrees with a probability of 0.93, at 0.8 with
0.998."""
_SLACK = 0.15
"""How far the similarity of two signatures may lie below the real one."""
_SEED = 1


def find_pairs(texts: list[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """Give the pairs of texts that are at least so alike, by number, the earlier one first."""
    from rensa import RMinHash, RMinHashLSH  # pyright: ignore[reportMissingTypeStubs, reportAttributeAccessIssue]

    index = RMinHashLSH(threshold, _N_PERMUTATIONS, _N_BANDS)
    signatures: list[RMinHash] = []
    for number, text in enumerate(texts):
        shingles = _shingles(text)
        signature = RMinHash(_N_PERMUTATIONS, _SEED)
        signature.update(list(shingles))
        for earlier in sorted(map(int, index.query(signature))):
            if signatures[earlier].jaccard(signature) < threshold - _SLACK:
                continue
            alike = _similarity(_shingles(texts[earlier]), shingles)
            if alike >= threshold:
                yield earlier, number, alike
        index.insert(number, signature)
        signatures.append(signature)


def group(n: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Give each of `n` numbers the smallest number that it is joined with by pairs, directly or
    through others.

    >>> group(5, [(1, 3), (3, 4)])
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


def _shingles(text: str) -> set[str]:
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def _similarity(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)
