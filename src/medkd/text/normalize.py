"""One view of a text, for every place that compares or searches texts.

In: any text. Out: the same in one width, one script and one kind of dash and space, without what
cannot be seen; with a map back to the original where spans matter. Letter case stays.
Not done here: likeness of texts (`text.similarity`), synonyms (`grading`).
"""

import re
import unicodedata
from collections.abc import Sequence
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
    starts: Sequence[int]
    """Offset in the original of each character of `text`."""
    ends: Sequence[int]
    """Offset in the original just behind each character of `text`."""

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """Translate a non-empty span of `text` into a span of the original."""
        return self.starts[start], self.ends[end - 1]


def normalize(text: str) -> str:
    """Bring a text to the form in which texts are compared.

    Width and compatibility forms (NFKC; ① as (1)), traditional to simplified characters, dashes to
    `-`, spaces to one blank each; zero-width characters, controls and variation selectors go.

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
    if not unicodedata.is_normalized("NFC", text):
        return _view_of_clusters(text)
    table = _table()
    resized = {character for character in set(text) if len(table[ord(character)]) != 1}
    if not resized:
        return View(text.translate(table), range(len(text)), range(1, len(text) + 1))
    starts: list[int] = []
    ends: list[int] = []
    done = 0
    for at in (at for at, character in enumerate(text) if character in resized):
        starts.extend(range(done, at))
        ends.extend(range(done + 1, at + 1))
        width = len(table[ord(text[at])])
        starts.extend([at] * width)
        ends.extend([at + 1] * width)
        done = at + 1
    starts.extend(range(done, len(text)))
    ends.extend(range(done + 1, len(text) + 1))
    return View(text.translate(table), starts, ends)


def drop_unseen(text: str) -> str:
    """Leave out what has no picture (zero-width characters, controls); all else stays.

    >>> drop_unseen("急性\u200b胆囊炎，Ⅱ型")
    '急性胆囊炎，Ⅱ型'
    """
    if text.isascii() and text.isprintable():
        return text
    table = _table()
    unseen = [character for character in set(text) if not table[ord(character)]]
    return text.translate({ord(character): None for character in unseen}) if unseen else text


def _view_of_clusters(text: str) -> View:
    """Make the view of a text in which characters join the one before them."""
    table = _table()
    characters: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    at, n = 0, len(text)
    while at < n:
        end = at + 1
        while end < n and _joins(text[end]):
            end += 1
        written = unicodedata.normalize("NFC", text[at:end]).translate(table)
        characters.append(written)
        starts += [at] * len(written)
        ends += [end] * len(written)
        at = end
    return View("".join(characters), starts, ends)


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
    if "①" <= character <= "⑳":  # its digit would join the number behind it: ①2型糖尿病
        return f"({unicodedata.normalize('NFKC', character)})"
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
