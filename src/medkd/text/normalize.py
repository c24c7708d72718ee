"""One view of a text, for every place that compares or searches texts; and jieba, which cuts it.

In: any text. Out: the same in one width, one script and one kind of dash and space, without what
cannot be seen; with a map back to the original where spans matter. Letter case stays.
Not done here: likeness of texts (`text.similarity`), synonyms (`grading`).
"""

import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

_JAMO = range(0x1160, 0x1200)
"""Korean vowels and finals, which join the letter before them."""
_UNSEEN = {"Cf", "Cc", "Co", "Cs"}
"""Unicode categories without a picture: zero-width and direction marks, controls, private use."""
_KEPT_CONTROLS = "\t\n\r"
_HANZI = re.compile("[\u4e00-\u9fff]+")
_LATIN_LETTERS = re.compile(r"[A-Za-z]{3,}")
_LATIN_WORD = re.compile("[A-Za-z]+")
_WORDS = re.compile(r"[^\W_]+")
_NO_LETTER = re.compile(r"[\W_]+")
_BRIDGED = re.compile(r"[ \t·•'’\"“”‘’「」《》【】_-]*")
"""What may stand inside a name wherever it is written; every other mark ends a clause, or stands in
the listed name too."""
_COMMA = re.compile(r"\s*[,、]\s*")
_LONG = 6
"""Characters of a name that is met over a comma too: 卵巢囊肿，蒂扭转. No shorter one is:
疼痛，风湿科 does not say 痛风."""
_ROMAN = re.compile("[Ⅰ-ⅿ]")
_SHORT = 7
"""Letters below which a Latin name counts as a whole word only: gout is not in drug outside."""


class Edit(NamedTuple):
    """A span of a text and what stands there afterwards."""

    start: int
    end: int
    put: str = ""


class View(NamedTuple):
    """A normalised or edited text, and where each of its characters came from."""

    text: str
    starts: Sequence[int]
    """Offset in the original of each character of `text`."""
    ends: Sequence[int]
    """Offset in the original just behind each character of `text`."""

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """Translate a non-empty span of `text` into a span of the original."""
        return self.starts[start], self.ends[end - 1]

    def edit(self, edits: Iterable[Edit]) -> "View":
        """Make the edits, which are in order and do not overlap; what is put somewhere comes from
        the whole of its span.

        >>> view = View.of("头痛,,3天").edit([Edit(2, 4, "，")])
        >>> view.text, view.original_span(2, 3)
        ('头痛，3天', (2, 4))
        """
        parts: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        done = 0
        for start, end, put in edits:
            parts += [self.text[done:start], put]
            starts += [*self.starts[done:start], *[self.starts[start]] * len(put)]
            ends += [*self.ends[done:start], *[self.ends[end - 1]] * len(put)]
            done = end
        if not done:
            return self
        return View(
            "".join([*parts, self.text[done:]]),
            [*starts, *self.starts[done:]],
            [*ends, *self.ends[done:]],
        )

    def sub(
        self, pattern: re.Pattern[str], replacement: str | Callable[[re.Match[str]], str]
    ) -> "View":
        """Replace every non-empty match of a pattern, as `re.sub` does."""
        return self.edit(
            Edit(
                *match.span(),
                match.expand(replacement) if isinstance(replacement, str) else replacement(match),
            )
            for match in pattern.finditer(self.text)
            if match[0]
        )

    def rstrip(self, characters: str | None = None) -> "View":
        """Drop characters at the end, white space by default."""
        end = len(self.text.rstrip(characters))
        return self.edit([Edit(end, len(self.text))] if end < len(self.text) else [])

    def lstrip(self) -> "View":
        """Drop white space at the beginning."""
        start = len(self.text) - len(self.text.lstrip())
        return self.edit([Edit(0, start)] if start else [])

    @classmethod
    def of(cls, text: str) -> "View":
        """View a text as it is."""
        return cls(text, range(len(text)), range(1, len(text) + 1))


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


def drop_unseen(text: str) -> View:
    """Leave out what has no picture (zero-width characters, controls); all else stays.

    >>> drop_unseen("急性\u200b胆囊炎，Ⅱ型").text
    '急性胆囊炎，Ⅱ型'
    """
    view = View.of(text)
    if text.isascii() and text.isprintable():
        return view
    table = _table()
    unseen = {character for character in set(text) if not table[ord(character)]}
    if not unseen:
        return view
    return view.edit(Edit(at, at + 1) for at, character in enumerate(text) if character in unseen)


view_of = lru_cache(maxsize=8)(normalize)
"""The normalised form of a text that several checks look at in a row."""


def make_plain(text: str) -> str:
    """Reduce a text to its letters, digits and characters in one width, script and case.

    >>> make_plain("ＨＩＶ（+），膽囊炎 Ⅱ型。")
    'hiv胆囊炎ii型'
    """
    return _NO_LETTER.sub("", view_of(text).lower())


class Plain(NamedTuple):
    """A text reduced to its letters, digits and characters, and where each of them stands."""

    text: str
    starts: list[int]
    ends: list[int]
    gaps: frozenset[int]
    """Places before which anything stands that was left out."""
    breaks: frozenset[int]
    """Those of them at which a clause ends."""
    commas: frozenset[int]
    """Those of them at which a comma ends it."""

    def find(self, name: str, seams: frozenset[int] = frozenset()) -> Iterator[int]:
        """Find where a plain name stands within one clause; at `seams` it has marks itself."""
        is_word = name.isascii() and len(name) < _SHORT
        at = self.text.find(name)
        while at >= 0:
            inside = range(at + 1, at + len(name))
            cuts = [i for i in inside if i in self.breaks and i - at not in seams]
            if all(i in self.commas and _is_joined(name, i - at) for i in cuts) and not (
                is_word and self._is_part_of_word(at, name, seams)
            ):
                yield at
                at = self.text.find(name, at + len(name))
            else:
                at = self.text.find(name, at + 1)

    def _is_part_of_word(self, at: int, name: str, seams: frozenset[int]) -> bool:
        end = at + len(name)
        ending = self.text[end : end + 2]
        if end not in self.gaps and ending[:1].isascii() and ending[:1].isalpha():
            is_plural = ending[0] == "s" and (end + 1 in self.gaps or not ending[1:].isalpha())
            if not is_plural:
                return True
        before = self.text[at - 1 : at]
        if at not in self.gaps and before.isascii() and before.isalpha():
            return True
        return any(i in self.gaps and i - at not in seams for i in range(at + 1, end))


def _is_joined(name: str, at: int) -> bool:
    """Tell whether a name is long enough to be met with a comma at this place in it."""
    return len(name) >= _LONG and 2 <= at <= len(name) - 2


@lru_cache(maxsize=256)
def read_plain(text: str) -> Plain:
    """Reduce a text to the plain form in which names are compared, in one width, script and case.

    >>> plain = read_plain("急性、膽囊炎；ＨＩＶ")
    >>> plain.text, sorted(plain.breaks)
    ('急性胆囊炎hiv', [2, 5])
    """
    view = make_view(text)
    seen = view.text.replace("İ", "I").lower()
    starts: list[int] = []
    ends: list[int] = []
    words: list[str] = []
    gaps: set[int] = set()
    breaks: set[int] = set()
    commas: set[int] = set()
    done = 0
    for word in _WORDS.finditer(seen):
        if word.start() > done and starts:
            gaps.add(len(starts))
            if not _BRIDGED.fullmatch(seen, done, word.start()):
                breaks.add(len(starts))
                if _COMMA.fullmatch(seen, done, word.start()):
                    commas.add(len(starts))
        words.append(word[0])
        starts.extend(view.starts[word.start() : word.end()])
        ends.extend(view.ends[word.start() : word.end()])
        done = word.end()
    if _ROMAN.search(text):  # NRDSⅡ is two words
        for i, start in enumerate(starts):
            if i and start != starts[i - 1] and _ROMAN.search(text[starts[i - 1] : start + 1]):
                gaps.add(i)
    return Plain(
        "".join(words), starts, ends, frozenset(gaps), frozenset(breaks), frozenset(commas)
    )


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


def is_simplified(text: str) -> bool:
    """Tell whether a text holds no traditional character.

    >>> is_simplified("胆囊炎"), is_simplified("膽囊炎")
    (True, False)
    """
    return text.isascii() or _traditional().search(text) is None


def count_characters(text: str) -> int:
    """Count the characters of a text by what it says: a Latin word counts as two, as most words of
    Chinese have, so that one bound fits both.

    >>> count_characters("急性阑尾炎"), count_characters("Acute appendicitis.")
    (5, 6)
    """
    return len(_LATIN_LETTERS.sub("xx", text))


def is_chinese(text: str) -> bool:
    """Tell whether a text is written in Chinese: at least as many hanzi as Latin words.

    A text without letters counts as Chinese.

    >>> is_chinese("WBC 12.4，考虑 CAP"), is_chinese("Patient with 膽囊炎 and fever")
    (True, False)
    """
    left = len(_LATIN_WORD.findall(text))
    for found in _HANZI.finditer(text) if left else ():
        left -= len(found[0])
        if left <= 0:
            break
    return left <= 0


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
def _traditional() -> re.Pattern[str]:
    return re.compile(f"[{''.join(map(chr, _simplified()))}]")


@cache
def load_opencc() -> Any:
    """Load what writes traditional text as simplified text by its phrases, once a process."""
    from opencc import OpenCC

    return cast(Any, OpenCC)("t2s")


@cache
def _simplified() -> dict[int, str]:
    traditional = [chr(code) for code in (*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000))]
    simple: list[str] = load_opencc().convert("\n".join(traditional)).split("\n")
    return {
        ord(old): new
        for old, new in zip(traditional, simple, strict=True)
        if old != new and len(new) == 1
    }


def cache_dir() -> Path:
    """Return this user's own folder for what can be made again, and make it: jieba unmarshals its
    cache, and any other user could put one into the shared folder for temporary files."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "medkd"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder


@cache
def load_jieba() -> Any:
    """Import jieba and set it up, once a process; silent."""
    import jieba  # pyright: ignore[reportMissingTypeStubs]

    jieba.setLogLevel(logging.CRITICAL)
    try:
        folder = str(cache_dir())
    except OSError:  # without a cache the dictionary is read anew each time
        folder = os.devnull
    cast(Any, jieba.dt).tmp_dir = folder
    return jieba
