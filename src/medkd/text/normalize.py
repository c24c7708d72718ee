"""One view of a text, for every place that compares or searches texts.

In: any text. Out: the same in one width, one script and one kind of dash and space, without what cannot
be seen; with a map back to the original where spans matter. Letter case stays.
Not done here: likeness of texts (`text.similarity`), synonyms (`grading`).
"""

import re
import unicodedata
from functools import cache
from typing import NamedTuple

_JAMO = range(0x1160, 0x1200)
"""Korean vowels and finals, which join the letter before them."""
_UNSEEN = {"Cf", "Cc", "Co", "Cs"}
"""Unicode categories without a picture: zero-width and direction marks, controls, private use."""
_KEPT_CONTROLS = "\t\n\r"
_HANZI = re.compile("[\u4e00-\u9fff]")
_LATIN_WORD = re.compile("[A-Za-z]+")


class View(NamedTuple):
    """A normalised text, and where each of its characters came from."""

    text: str
    starts: tuple[int, ...]
    """Offset in the original of each character of `text`."""
    ends: tuple[int, ...]
    """Offset in the original just behind each character of `text`."""

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """Translate a non-empty span of `text` into a span of the original."""
        return self.starts[start], self.ends[end - 1]


def normalize(text: str) -> str:
    """Bring a text to the form in which texts are compared.

    Width and compatibility forms (NFKC), traditional to simplified characters, dashes to `-`,
    spaces to one blank each; zero-width characters, controls and variation selectors go.

    >>> normalize("急性膽囊炎\u200b　Ⅱ型")
    '急性胆囊炎 II型'
    """
    if text.isascii() and text.isprintable():
        return text
    if unicodedata.is_normalized("NFC", text):
        return text.translate(_table())
    return make_view(text).text


def make_view(text: str) -> View:
    """Normalise a text and keep the map back to it.

    >>> view = make_view("电话：１３８\u200b１")
    >>> view.text, view.original_span(3, 7)
    ('电话:1381', (3, 8))
    """
    table = _table()
    is_composed = unicodedata.is_normalized("NFC", text)
    characters: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    at, n = 0, len(text)
    while at < n:
        end = at + 1
        while not is_composed and end < n and _joins(text[end]):
            end += 1
        cluster = text[at:end] if is_composed else unicodedata.normalize("NFC", text[at:end])
        written = cluster.translate(table)
        characters.append(written)
        starts += [at] * len(written)
        ends += [end] * len(written)
        at = end
    return View("".join(characters), tuple(starts), tuple(ends))


def simplify(text: str) -> str:
    """Write traditional characters as simplified ones, one for one; all else stays."""
    return text if text.isascii() else text.translate(_simplified())


def is_chinese(text: str) -> bool:
    """Tell whether a text is written in Chinese: at least as many hanzi as Latin words.

    A text without letters counts as Chinese.

    >>> is_chinese("WBC 12.4，考虑 CAP"), is_chinese("Patient with 膽囊炎 and fever")
    (True, False)
    """
    return len(_HANZI.findall(text)) >= len(_LATIN_WORD.findall(text))


def _joins(character: str) -> bool:
    return bool(unicodedata.combining(character)) or ord(character) in _JAMO


class _Table(dict[int, str]):
    """What each character is written as, found out when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = written = _write(chr(code))
        return written


@cache
def _table() -> _Table:
    return _Table()


def _write(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Pd" or character == "\u2212":
        return "-"
    if category == "Zs":
        return " "
    if category in _UNSEEN and character not in _KEPT_CONTROLS:
        return ""
    if "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef":
        return ""
    return simplify(unicodedata.normalize("NFKC", character))


@cache
def _simplified() -> dict[int, str]:
    from opencc import OpenCC

    traditional = [chr(code) for code in (*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000))]
    simple = OpenCC("t2s").convert("\n".join(traditional)).split("\n")
    return {
        ord(old): new
        for old, new in zip(traditional, simple, strict=True)
        if old != new and len(new) == 1
    }
