"""What stands in an identifier's place: a mark such as [姓名1], or something that looks real and
belongs to nobody.

In: a category and the text found. Out: its surrogate, the same one for the same text throughout a
case. Not done here: dates and ages, which keep their meaning (`dates`, `replace`). Surrogates that
look real are drawn from a hash of the case: the same run gives them again.
"""

import random
import re
from collections import Counter
from typing import Any, Literal

from medkd.deidentify.rules import Category, load_table

Style = Literal["mask", "surrogate"]
_TRIES = 20


class Surrogates:
    """The surrogates of one case."""

    def __init__(self, style: Style, seed: int) -> None:
        self._style = style
        self._random = random.Random(seed)
        self._given: dict[tuple[Category, str], str] = {}
        self._n: Counter[Category] = Counter()

    def of(self, category: Category, text: str) -> str:
        """Give the surrogate of a text, the same whenever it comes again."""
        key = (category, re.sub(r"[\s-]", "", text))
        if key not in self._given:
            self._n[category] += 1
            self._given[key] = (
                self._draw(category, text)
                if self._style == "surrogate"
                else f"[{category}{self._n[category]}]"
            )
        return self._given[key]

    def _draw(self, category: Category, text: str) -> str:
        """Draw until it is neither the text itself nor what stands for another one."""
        taken = {text, *self._given.values()}
        drawn = ""
        for _ in range(_TRIES):
            drawn = self._imitate(category, text)
            if drawn not in taken:
                break
        return drawn

    def _imitate(self, category: Category, text: str) -> str:
        table = _table()
        is_latin = text.isascii()
        match category:
            case Category.NAME if is_latin:
                return " ".join(
                    [self._pick(table["first_names"]), self._pick(table["last_names"])]
                    if " " in text
                    else [self._pick(table["last_names"])]
                )
            case Category.NAME:
                surname = self._pick(table["surnames"])
                return (
                    surname
                    if len(text) == 1
                    else surname + self._pick(table["given_names"])[: max(1, min(2, len(text) - 1))]
                )
            case Category.HOSPITAL:
                return self._pick(table["hospitals_english"] if is_latin else table["hospitals"])
            case Category.ADDRESS:
                place = self._pick(table["addresses_english"] if is_latin else table["addresses"])
                return str(place).replace("#", str(self._random.randint(2, 199)))
            case Category.EMAIL:
                return f"case{self._random.randint(100, 999)}@example.org"
            case Category.WEB:
                return f"https://example.org/{self._random.randint(100, 999)}"
            case Category.ID_CARD if len(text) == 18:
                return "99" + self._reshape(text[2:])  # no region has this number
            case Category.PLATE:
                return text[:2] + self._reshape(text[2:])
            case _:
                return self._reshape(text)

    def _pick(self, words: list[str]) -> str:
        return self._random.choice(words)

    def _reshape(self, text: str) -> str:
        """Draw other digits and letters in the same places; a first digit stays above zero where it
        was."""
        return "".join(self._other(character) for character in text)

    def _other(self, character: str) -> str:
        if character.isascii() and character.isdigit():
            return str(self._random.randint(0 if character == "0" else 1, 9))
        if character.isascii() and character.isalpha():
            letters = (
                "ABCDEFGHJKLMNPQRSTUVWXYZ" if character.isupper() else "abcdefghjkmnpqrstuvwxyz"
            )
            return self._random.choice(letters)
        if character in _NUMERALS:
            return self._random.choice(_NUMERALS)
        return character


_NUMERALS = "一二三四五六七八九"


def _table() -> dict[str, Any]:
    return load_table("surrogates.yaml")
