"""The names that would give a case's answer away: as listed, their parts, short forms and synonyms.

In: the diagnoses of a case, this package's tables, the names that grading knows, a table of the
user's on top. Out: `AnswerAliases`, in a plain form without punctuation. Not done here: finding and
removing them (`leakage`), grading.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from medkd.core.config import BrokenYamlError, parse_yaml, read_shipped_yaml
from medkd.core.errors import InputError
from medkd.grading import load_table
from medkd.grading.compare import Relation, compare
from medkd.grading.names import Name, parse_name
from medkd.prepare.english import EnglishName, read_english
from medkd.text.diagnoses import clean_diagnosis, split_diagnoses
from medkd.text.normalize import make_plain, normalize, read_plain

_MAX_NAME = 14
"""Longest name that synonyms are put into."""
_MIN_LATIN = 3
"""Letters of the shortest Latin name that is looked for."""
_LONGEST_PLACE = 4
"""Characters of a part of a diagnosis that may only say where the disease of the next part is."""
_MAX_REWORDINGS = 2
"""Words of one name that are put in other words together."""
_FORM = (
    'expected "synonyms: [[房颤, 心房颤动], …]", "findings: 咯血 血尿", '
    '"inside: 心梗四项 最高血压" or "generic: 感染 出血"'
)
LONGEST_NAME = 200
"""Characters of the longest name that is shortened; the forms of a longer one are past counting."""


class AnswerAliases(NamedTuple):
    """Plain names of what a case is diagnosed with, by how much they tell."""

    principal: frozenset[str]
    """The principal diagnosis as listed, its leading part, their short forms and synonyms: they go
    wherever they stand for this patient's disease."""
    further: frozenset[str]
    """The later parts of the principal diagnosis: they go where a diagnosis is stated."""
    others: Mapping[str, str]
    """Name of another diagnosis to that diagnosis as listed: it goes where one is stated in so many
    words."""
    seams: Mapping[str, frozenset[int]]
    """Listed name to the places in it at which it has a mark or a blank."""
    names: tuple[str, ...]
    """All of them, the longest first."""
    leading: Name
    """The leading part of the principal diagnosis, as grading reads it."""
    is_finding: bool
    """Whether the principal diagnosis is a mere finding, such as 咯血."""
    english: EnglishName | None
    """The principal diagnosis by its words, where it is English."""
    terms: frozenset[str]
    """Longer plain words in which a name only happens to stand: 心梗四项."""


class Synonyms:
    """What is known of the words in which answers are told."""

    def __init__(
        self,
        rows: Iterable[Iterable[str]],
        findings: Iterable[str],
        generic: Iterable[str],
        inside: Iterable[str],
    ) -> None:
        self.findings = frozenset(map(make_plain, findings))
        self.generic = frozenset(generic)
        self.inside = frozenset(map(make_plain, inside))
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
                if len(name) <= _MAX_NAME or name in self._others
                for word in self._words_in(name)
                # A foreign name stands for the whole, never inside a Chinese one.
                for other in self._others[word]
                if word == name or not (other.isascii() or other in name)
            } - found
            found |= fresh
        return {name for name in found if len(name) >= _MIN_LATIN or not name.isascii()}

    def _words_in(self, name: str) -> set[str]:
        """Find the words of the tables in a short name that stand in no longer one there; in a
        name of the tables itself also those at its ends."""
        size = len(name)
        is_known = name in self._others
        spans = [
            (i, j)
            for i in range(size)
            for j in range(i + 2, size + 1)
            if name[i:j] in self._others and not name[i:j].isascii()
        ]
        return {
            name[i:j]
            for i, j in spans
            if (is_known and (i == 0 or j == size))
            or not any(a <= i and j <= b and (a, b) != (i, j) for a, b in spans)
        } | ({name} if is_known else set())


def _as_words(words: object) -> object:
    """Read words with blanks between; version 0.1 had mappings, whose keys are the words."""
    return words.split() if isinstance(words, str) else list(cast("Iterable[Any]", words or ()))


Words = Annotated[list[str], BeforeValidator(_as_words)]


class _Table(BaseModel):
    """A table of words of answers, each part of which may be missing."""

    model_config = ConfigDict(extra="forbid", strict=True)
    synonyms: list[list[str]] = []
    findings: Words = []
    generic: Words = []
    inside: Words = []


@cache
def load_synonyms(path: Path | None = None) -> Synonyms:
    """Read the tables of the package and of grading, and a table of the user's on top of them."""
    tables = [_Table.model_validate(read_shipped_yaml("medkd.prepare", "aliases.yaml"))]
    if path is not None:
        try:
            tables.append(_Table.model_validate(parse_yaml(path.read_text(encoding="utf-8"))))
        except BrokenYamlError as error:
            raise InputError("{}: broken YAML; {}", path, _FORM) from error
        except (ValidationError, TypeError) as error:
            raise InputError("{}: no table of answers; {}", path, _FORM) from error
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("{}: cannot be read as UTF-8 text; check --answers", path) from error
    graded = cast("dict[str, list[str]]", load_table("synonyms.yaml"))
    return Synonyms(
        [
            *([str(name), *map(str, others)] for name, others in graded.items()),
            *(row for table in tables for row in table.synonyms),
        ],
        (word for table in tables for word in table.findings),
        (word for table in tables for word in table.generic),
        (word for table in tables for word in table.inside),
    )


_PIECES = {
    name: "|".join(words.split())
    for name, words in read_shipped_yaml("medkd.prepare", "disease_words.yaml").items()
}
_BRACKETS = re.compile(r"\(([^()]*)\)")
_ABBREVIATION = re.compile(r"[A-Za-z]{3,}")
_JOINTS = re.compile(
    r"[,、;/?。:]|(?<=[一-鿿)])\s+|\s{1,9}(?=[一-鿿])|伴有?|合并|并发?|及|和|与|导致的?|所致的?|(?<=[一-鿿]{2})致(?![密死残畸])"
    r"|引起的?|\s(?i:with|and|due to|secondary to|complicated by)\s"
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
    """Collect the names of everything that would tell the diagnoses, of which the first listed one
    is the principal one.

    >>> aliases = collect_aliases(["2.高血壓病3级（很高危）", "冠心病"])
    >>> "高血压病3级很高危" in aliases.principal, "高血压" in aliases.principal
    (True, True)
    >>> "冠心病" in aliases.others
    True
    """
    synonyms = synonyms or load_synonyms()
    cleaned = list(
        dict.fromkeys(
            normalize(item)
            for text in diagnoses
            for item in map(clean_diagnosis, split_diagnoses(text) or (text,))
            if item
        )
    )
    seams: dict[str, frozenset[int]] = {}
    for item in cleaned:
        plain = read_plain(item)
        if plain.text:
            # Where a Latin name has a blank, the record may have one too.
            seams[plain.text] = seams.get(plain.text, frozenset()) | plain.gaps
    leading, further = _split_principal(cleaned[0] if cleaned else "", synonyms)
    first = {make_plain(cleaned[0])} if cleaned else set[str]()
    principal = synonyms.reword(first | _name_shortly(leading, synonyms)) - {""}
    later = synonyms.reword(_name_shortly(further, synonyms)) - principal
    others: dict[str, str] = {}
    for item in cleaned[1:]:
        short = {make_plain(item)} | _name_shortly((item, *_parts(item)), synonyms)
        for name in synonyms.reword(short) - principal - later - {""}:
            others.setdefault(name, item)
    return AnswerAliases(
        frozenset(principal),
        frozenset(later),
        others,
        seams,
        tuple(sorted({*principal, *later, *others}, key=lambda name: (-len(name), name))),
        parse_name(leading[-1] if leading else ""),
        bool(first) and all(make_plain(part) in synonyms.findings for part in leading),
        read_english(cleaned[0]) if cleaned else None,
        synonyms.inside,
    )


def _split_principal(diagnosis: str, synonyms: Synonyms) -> tuple[list[str], list[str]]:
    """Split a principal diagnosis into its leading part, with its other name in brackets, and the
    parts behind it; a part that is a kind of the first leads too: 心律失常 室性心动过速."""
    parts = [part.strip() for part in _parts(diagnosis) if part.strip()]
    n_outside = sum(1 for part in _split_outside(diagnosis) if part.strip())
    first = next(
        (
            n
            for n, part in enumerate(parts[:n_outside])
            if len(part) > _LONGEST_PLACE or _names_disease(part, synonyms)
        ),
        0,
    )
    parts = parts[first:]  # 右肺 of 右肺及左肺尖结核 names no disease, 下腔静脉后输尿管 does
    leading = parts[:1]
    for part in parts[1:2]:
        if (
            len(part) <= LONGEST_NAME
            and compare(parse_name(part), parse_name(leading[0][:LONGEST_NAME]))
            is Relation.MORE_SPECIFIC
        ):
            leading.append(part)
    in_brackets = cast("list[str]", _BRACKETS.findall(diagnosis))
    leading[:0] = [text for text in in_brackets if _ABBREVIATION.fullmatch(text)]
    return leading, [part for part in parts if part not in leading]


def _names_disease(part: str, synonyms: Synonyms) -> bool:
    """Tell whether a part of a diagnosis names a disease, and not only where one is."""
    return any(
        _DISEASE_END.search(form)
        or _ENGLISH_END.search(make_plain(form))
        or synonyms.has_synonyms(make_plain(form))
        for form in _shorten(part[:LONGEST_NAME])
    )


def _name_shortly(parts: Iterable[str], synonyms: Synonyms) -> set[str]:
    """List the plain short forms of parts that are specific enough to be removed."""
    return {
        plain
        for part in parts
        if len(part) <= LONGEST_NAME
        for form in _shorten(part)
        if _tells(plain := make_plain(form), synonyms)
    } | {make_plain(part) for part in parts if _ABBREVIATION.fullmatch(part)}


def _parts(diagnosis: str) -> Iterator[str]:
    """Yield the joined or run-together parts of a diagnosis in order, then what in its brackets is
    a name."""
    yield from _split_outside(diagnosis)
    for inside in cast("list[str]", _BRACKETS.findall(diagnosis)):
        if _DISEASE_END.search(inside) and not inside.isascii():  # English ones: see `english`
            yield inside


def _split_outside(diagnosis: str) -> Iterator[str]:
    for part in _JOINTS.split(_BRACKETS.sub(",", diagnosis)):
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
