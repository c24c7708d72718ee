"""The names that would give a case's answer away: as listed, their parts, short forms and synonyms.

In: the diagnoses of a case, this package's tables, the names that grading knows, a table of the
user's on top. Out: `AnswerAliases`, in a plain form without punctuation. Not done here: finding and
removing them (`leakage`), grading.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from medkd.core.errors import InputError
from medkd.core.yaml_io import BrokenYamlError, parse_yaml, read_shipped_yaml
from medkd.grading.tables import load_table
from medkd.text.diagnoses import clean_diagnosis, split_diagnoses
from medkd.text.normalize import make_view, normalize

_MAX_NAME = 14
"""Longest name that synonyms are put into."""
_MAX_TRACED = 60
"""Longest name of which pieces are looked for."""
_MAX_REWORDINGS = 2
"""Words of one name that are put in other words together."""
_FORM = (
    'expected "synonyms: [[房颤, 心房颤动], …]", "findings: {咯血: 痰中带血}", '
    '"inside: {肺炎症: 肺部炎性改变}" or "generic: 感染 出血"'
)
_WORDS = re.compile(r"[^\W_]+")
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
LONGEST_NAME = 200
"""Characters of the longest name that is shortened; the forms of a longer one are past counting."""


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


def make_plain(text: str) -> str:
    """Reduce a text to its letters, digits and characters in one width, script and case.

    >>> make_plain("ＨＩＶ（+），膽囊炎 Ⅱ型。")
    'hiv胆囊炎ii型'
    """
    return read_plain(text).text


class AnswerAliases(NamedTuple):
    """Plain names of what a case is diagnosed with."""

    listed: Mapping[str, frozenset[int]]
    """As listed: none of these may remain, wherever it stands. Each with its seams: the places at
    which the listed text has a mark."""
    derived: frozenset[str]
    """Parts, short forms and synonyms: they go where they state the diagnosis."""
    names: tuple[str, ...]
    """All of them, the longest first."""
    traces: frozenset[str]
    """Pieces long enough to show that a suspected diagnosis is a variant of a listed one."""
    findings: Mapping[str, str]
    """How a mere finding is said in other words."""
    inside: Mapping[str, str]
    """Words in which one of the names only happens to stand, and what is said instead."""


class Synonyms:
    """What is known of the words in which answers are told."""

    def __init__(
        self,
        rows: Iterable[Iterable[str]],
        findings: Mapping[str, str],
        generic: Iterable[str],
        inside: Mapping[str, str],
    ) -> None:
        self.findings = {make_plain(name): said for name, said in findings.items()}
        self.generic = frozenset(generic)
        self.inside = dict(inside)
        self._others: dict[str, dict[str, None]] = {}
        for row in rows:
            plain = [name for word in row if (name := make_plain(word))]
            for word in plain:
                self._others.setdefault(word, {}).update(
                    (other, None) for other in plain if other != word
                )

    def has_synonyms(self, plain: str) -> bool:
        """Tell whether a plain name has others in the tables."""
        return plain in self._others

    def reword(self, names: Iterable[str]) -> set[str]:
        """Add the names with words put in other words; long names are lists run together, their
        parts stand beside them."""
        found = set(names)
        fresh = found
        for _ in range(_MAX_REWORDINGS):
            fresh = {
                name.replace(word, other)
                for name in fresh
                if len(name) <= _MAX_NAME
                for word in self._words_in(name)
                # A foreign name stands for the whole, never inside a Chinese one.
                for other in self._others[word]
                if not other.isascii() or word == name
            } - found
            found |= fresh
        return found

    def _words_in(self, name: str) -> set[str]:
        """Find the words of the tables in a short name, those inside one another too."""
        size = len(name)
        return {
            piece
            for i in range(size)
            for j in range(i + 2, size + 1)
            if (piece := name[i:j]) in self._others
        }


@cache
def load_synonyms(path: Path | None = None) -> Synonyms:
    """Read the tables of the package and of grading, and a table of the user's on top of them."""
    tables = [_check(read_shipped_yaml("medkd.prepare", "aliases.yaml"), "aliases.yaml")]
    if path is not None:
        try:
            tables.append(_check(parse_yaml(path.read_text(encoding="utf-8")), str(path)))
        except BrokenYamlError as error:
            raise InputError(f"{path}: broken YAML; {_FORM}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as UTF-8 text; check --answers") from error
    graded = cast("dict[str, list[str]]", load_table("synonyms"))
    rows = [[str(name), *map(str, others)] for name, others in graded.items()]
    return Synonyms(
        [*rows, *(row for table in tables for row in table["synonyms"])],
        {name: said for table in tables for name, said in table["findings"].items()},
        [word for table in tables for word in table["generic"].split()],
        {word: said for table in tables for word, said in table["inside"].items()},
    )


def _check(content: Any, place: str) -> dict[str, Any]:
    """Check a table of synonyms, findings, generic and inside words, each of which may be
    missing."""
    given = cast("dict[str, Any]", content) if isinstance(content, dict) else {"": None}
    table: dict[str, Any] = {"synonyms": [], "findings": {}, "generic": "", "inside": {}, **given}
    rows = table["synonyms"]
    is_right = isinstance(rows, list) and all(
        isinstance(row, list) and all(isinstance(word, str) for word in cast("list[Any]", row))
        for row in cast("list[Any]", rows)
    )
    is_right = is_right and all(
        isinstance(said, dict)
        and all(
            isinstance(word, str) for pair in cast("dict[Any, Any]", said).items() for word in pair
        )
        for said in (table["findings"], table["inside"])
    )
    has_known_keys = set(table) == {"synonyms", "findings", "generic", "inside"}
    if not is_right or not has_known_keys or not isinstance(table["generic"], str):
        raise InputError(f"{place}: no table of answers; {_FORM}")
    return table


_PIECES = {
    name: "|".join(words.split())
    for name, words in read_shipped_yaml("medkd.prepare", "disease_words.yaml").items()
}
_BRACKETS = re.compile(r"\(([^()]*)\)")
_ABBREVIATION = re.compile(r"[A-Za-z]{3,}")
_JOINTS = re.compile(
    r"[,、;/?。:]|(?<=[一-鿿)])\s+|\s{1,9}(?=[一-鿿])|伴有?|合并|并发?|及|和|与|导致的?|所致的?"
    r"|引起的?"
)
_PREFIX = re.compile(
    "^(?:(?i:(?:acute|chronic|subacute|severe|mild|moderate|left|right|bilateral|primary|secondary"
    r"|recurrent|suspected) )|(?:[A-Za-z]{1,20}\s){0,3}[A-Za-z]{0,20}?[A-Z\d]{1,3}\s?型"
    rf"|{_PIECES['prefixes']})"
)
_ENGLISH_END = re.compile(f"(?:{_PIECES['english_ends']})$")
_INSIDE = re.compile(f"(?<=[一-鿿])(?:{_PIECES['places']})")
_TISSUE = re.compile(f"(?<=[一-鿿])(?:{_PIECES['tissues']}){{1,6}}(?=癌$)")
_HEAD = re.compile(f"(?:{_PIECES['heads']})$")
_SUFFIX = re.compile(f"(?:{_PIECES['suffixes']})$")
_DISEASE_END = re.compile(f"(?:{_PIECES['ends']})$")
_SEAM = re.compile(
    f"(?:{_PIECES['seams']})"
    r"(?=[^性后伴并合术病引所导致期型级及和与部区样灶症史综或毒变原理人因肿态(、,;)\d\s。?][^(、,;)\s。?])"
)


def collect_aliases(diagnoses: Iterable[str], synonyms: Synonyms | None = None) -> AnswerAliases:
    """Collect the names of everything that would tell one of the diagnoses.

    >>> aliases = collect_aliases(["2.高血壓病3级（很高危）"])
    >>> sorted(aliases.listed), "高血压病" in aliases.derived, "高血压" in aliases.derived
    (['高血压病3级很高危'], True, True)
    """
    synonyms = synonyms or load_synonyms()
    cleaned = list(
        dict.fromkeys(
            normalize(item)
            for text in diagnoses
            for item in map(clean_diagnosis, (text, *split_diagnoses(text)))
            if item
        )
    )
    listed: dict[str, frozenset[int]] = {}
    for item in cleaned:
        plain = read_plain(item)
        if plain.text:
            # Where a Latin name has a blank, the record may have one too.
            listed[plain.text] = listed.get(plain.text, frozenset()) | plain.gaps
    short = {
        plain
        for item in cleaned
        for part in _parts(item)
        if len(part) <= LONGEST_NAME
        for form in _shorten(part)
        if _tells(plain := make_plain(form), synonyms)
    }
    short |= {
        make_plain(inside)
        for item in cleaned
        for inside in _BRACKETS.findall(item)
        if _ABBREVIATION.fullmatch(inside)
    }
    derived = synonyms.reword(listed.keys() | short) - listed.keys()
    inside = {
        word: said
        for word, said in synonyms.inside.items()
        if any(name in make_plain(word) for name in listed)
    }
    names = sorted(listed.keys() | derived, key=lambda name: (-len(name), name))
    return AnswerAliases(
        listed,
        frozenset(derived),
        tuple(names),
        frozenset(_traces(names)),
        synonyms.findings,
        inside,
    )


def _parts(diagnosis: str) -> Iterator[str]:
    """Yield a diagnosis without its brackets, what in brackets is a name, and its joined or
    run-together parts."""
    for inside in cast("list[str]", _BRACKETS.findall(diagnosis)):
        if _DISEASE_END.search(inside):
            yield inside
    outside = _BRACKETS.sub(",", diagnosis)
    yield _BRACKETS.sub("", diagnosis)
    for part in _JOINTS.split(outside):
        yield part
        yield from _SEAM.sub(lambda m: m[0] + "\n", part).split("\n")


def _shorten(name: str) -> Iterator[str]:
    """Yield a name, then without its stage, side, course and degree."""
    previous = None
    while name != previous:
        yield name
        previous, name = name, _SUFFIX.sub("", name).strip()
    previous = None
    while name != previous:
        yield name
        yield _INSIDE.sub("", name)
        if name.endswith("癌"):
            organ = _TISSUE.sub("", name)
            yield from (organ, f"{organ[:-1]}Ca")
        previous, name = name, _PREFIX.sub("", name)
    if head := _HEAD.search(name):
        yield head[0]


def _tells(name: str, synonyms: Synonyms) -> bool:
    """Tell whether a derived name is specific enough to be taken out of a record."""
    if synonyms.has_synonyms(name):
        return True
    if name.endswith("ca") and len(name) > 2 and not name.isascii():
        return True
    if name.isascii():
        return len(name) >= 7 and bool(_ENGLISH_END.search(name))
    return len(name) >= 3 and bool(_DISEASE_END.search(name)) and name not in synonyms.generic


def _traces(names: Iterable[str]) -> set[str]:
    """List the pieces of names that are at least four characters and three fifths long."""
    traces: set[str] = set()
    for name in (name for name in names if len(name) <= _MAX_TRACED):
        size = max(4, -(-len(name) * 3 // 5))
        traces.update(name[i : i + size] for i in range(len(name) - size + 1))
    return traces
