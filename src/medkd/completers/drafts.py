"""Guess what a model will write next from what stands before it: in its own prompt and text, and in
the texts of its company.

In: token ids. Out: guesses, which the model then judges many at a time, in one step instead of one
step each. Only tokens that the model itself would have chosen are kept, so a guess can cost time
and never changes a text. Answers about records repeat the record and each other; there most guesses
are right. Sources: prompt lookup decoding (Saxena, 2023), SuffixDecoding (Oliaro et al.,
arXiv:2411.04975).
Not done here: judging the guesses (`completers.transformers_engine`).
"""

from collections.abc import Sequence

LENGTHS = (5, 3, 2, 1)
"""Context lengths that are looked up, in tokens, the longest first."""
N_KEPT = 1_000_000
"""Contexts that are remembered, some 100 MB of them; then memory starts anew."""


class Continuations:
    """What followed the last time, by the tokens before it."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        """By the hash of a context: two that fall together make a bad guess, and save most of the
        memory."""

    def learn(self, ids: Sequence[int], start: int = 0) -> None:
        """Take in `ids[start:]`, each behind what precedes it."""
        if len(self._next) > N_KEPT:
            self._next.clear()
        for at in range(max(start, 1), len(ids)):
            for length in LENGTHS:
                if length <= at:
                    self._next[hash(tuple(ids[at - length : at]))] = ids[at]

    def find(self, context: Sequence[int]) -> int | None:
        """Find what followed this context last, if it was ever met."""
        return self._next.get(hash(tuple(context)))


class Drafter:
    """Guesses for one row: a longer context goes before a shorter one, the company's text before
    its own."""

    def __init__(self, prompt: Sequence[int], company: Continuations) -> None:
        self.ids = list(prompt)
        self.own = Continuations()
        self.own.learn(self.ids)
        self.company = company

    def add(self, ids: Sequence[int]) -> None:
        """Take in what the model wrote."""
        start = len(self.ids)
        self.ids.extend(ids)
        self.own.learn(self.ids, start)
        self.company.learn(self.ids, start)

    def guess(self, n: int) -> list[int]:
        """Guess at most `n` tokens; fewer where nothing like it was met."""
        context = self.ids[-LENGTHS[0] :]
        guesses: list[int] = []
        while len(guesses) < n:
            token = self._guess_one(context)
            if token is None:
                break
            guesses.append(token)
            context = [*context[-LENGTHS[0] + 1 :], token]
        return guesses

    def _guess_one(self, context: list[int]) -> int | None:
        for length in LENGTHS:
            if length <= len(context):
                for table in (self.company, self.own):
                    token = table.find(context[-length:])
                    if token is not None:
                        return token
        return None
