"""Names of diagnoses: normalised, their synonyms replaced, taken apart; and how alike two are.

In: names as somebody wrote them. Out: a `Name`: its core and its modifiers (side, course, type …);
a number that orders pairs. Not done here: deciding that two names are one (`grading.compare`).

>>> name = parse_name("左侧 Ⅱ型 糖尿病足")
>>> name.core, sorted(name.modifiers)
('糖尿病足', ['side', 'type'])
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cache, lru_cache
from itertools import chain
from typing import NamedTuple

from medkd.grading import load_table
from medkd.text.normalize import normalize

N_CACHED_NAMES = 16384
MAX_NAME = 400
"""Characters of a name that are read; what is longer is no name."""
Modifiers = dict[str, frozenset[str]]
_TYPE = re.compile(r"(?:[a-z]{3,20})?([0-9]{1,4}[a-z]?|[a-z]{1,2}|[甲乙丙丁戊])型")
_DEGREE = re.compile(r"([0-9]{1,4})度(?=[^度]{0,5}传导阻滞)")
_STAGE = re.compile(r"([0-9]{1,4}[a-c]?)[期级度]")
_LATIN = re.compile("[\u00e0-\u024f]")
"""Letters with accents."""
_VERTEBRAE = {"颈": "c", "胸": "t", "腰": "l", "骶": "s"}
_ROMAN = {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5", "vi": "6", "vii": "7", "viii": "8"}


@lru_cache(maxsize=4096)
def normalize_name(text: str) -> str:
    """Bring a name to one width, case and numbering; white space, punctuation and quotation marks
    go.

    >>> normalize_name("Ⅱ型 糖尿病（T2DM）")
    '2型糖尿病t2dm'
    """
    plain = normalize(text).translate(variants()).lower().replace("°", "度")
    for old, new in _words():
        plain = old.sub(new, plain)
    plain = _LATIN.sub(lambda found: unicodedata.normalize("NFKD", found[0])[0], plain)
    if re.search("[a-z]{3}", plain):
        for pattern, form in _english_forms():
            plain = pattern.sub(form, plain)
    plain = re.sub(r"\bstage\s*([0-9ivx]+[abc]?)\b", r"\1期", plain)
    plain = re.sub(r"甲状腺([左右])侧?叶", r"\1侧甲状腺", plain)
    plain = re.sub(r"(?<=[左右双侧])乳(?![腺房头突糜])|乳房", "乳腺", plain)
    plain = re.sub(r"([胸腰颈骶])(?=[0-9])", lambda found: _VERTEBRAE[found[0]], plain)
    plain = _english().sub(
        lambda found: load_table("modifiers.yaml")["english"][found[0].removesuffix("-sided")],
        plain,
    )
    plain = re.sub(
        r"(?:(?<![a-z])|(?<=ckd))(viii|vii|vi|iv|v|iii|ii|i)(?=[a-c]?[型期级度类])",
        lambda found: _ROMAN[found[1]],
        re.sub(r"\s", "", plain),
    )
    plain = re.sub(r"(?<=type)(iv|iii|ii|i)(?=[a-z])", lambda found: _ROMAN[found[1]], plain)
    plain = re.sub(
        r"[一二三四五六](?=[型期级度](?!联))",
        lambda found: str("一二三四五六".index(found[0]) + 1),
        plain,
    )
    return re.sub(r"[\W_]", "", plain)


def is_listed(text: str) -> bool:
    """Tell whether a whole text is a name of the shipped table."""
    return normalize_name(text) in _synonyms()[0]


def is_known(plain: str) -> bool:
    """Tell whether a plain text is the one name of a diagnosis of the shipped table."""
    return _synonyms()[0].get(plain) == plain


def _replace_synonyms(plain: str) -> str:
    """Put the one name in the place of every other name for it that stands in a plain text, the
    longest first; a Latin name only as a whole word."""
    names, lengths = _synonyms()
    pieces: list[str] = []
    at = 0
    while at < len(plain):
        for length in lengths.get(plain[at], ()):
            written = plain[at : at + length]
            if written in names and (not written.isascii() or _is_word(plain, at, at + length)):
                pieces.append(names[written])
                at += length
                break
        else:
            pieces.append(plain[at])
            at += 1
    return "".join(pieces)


def _is_word(plain: str, start: int, end: int) -> bool:
    around = plain[max(0, start - 1) : start] + plain[end : end + 1]
    return not re.search("[a-z]", around)


@cache
def _synonyms() -> tuple[dict[str, str], dict[str, list[int]]]:
    """Map each shipped name to the one name, and each first character to the lengths of names."""
    names: dict[str, str] = {}
    for name, others in load_table("synonyms.yaml").items():
        plain = normalize_name(name)
        names.update((normalize_name(other), plain) for other in (name, *others))
    for written, name in list(names.items()):
        if len(written) > 4 and "性" in written[2:]:  # 高血压性肾病 is written 高血压肾病 as well
            names.setdefault(written[:2] + written[2:].replace("性", ""), name)
        for word, chinese in load_table("modifiers.yaml")["eponyms"].items():
            if written.isascii() and written.endswith(word) and len(written) > len(word) + 3:
                names.setdefault(written.removesuffix(word) + chinese, name)  # Guillain-Barré综合征
    lengths: dict[str, set[int]] = {}
    for name in names:
        lengths.setdefault(name[0], set()).add(len(name))
    return names, {first: sorted(found, reverse=True) for first, found in lengths.items()}


@cache
def _english() -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(load_table('modifiers.yaml')['english'])})(?:-sided)?\b")


@cache
def _english_forms() -> list[tuple[re.Pattern[str], str]]:
    return [
        (re.compile(pattern), form)
        for pattern, form in load_table("modifiers.yaml")["english_forms"]
    ]


@cache
def _words() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), form) for pattern, form in load_table("modifiers.yaml")["words"]]


@cache
def variants() -> dict[int, str]:
    """Map variant characters to the ones that the tables are written in."""
    return {ord(old): new for old, new in load_table("modifiers.yaml")["variants"]}


class Name(NamedTuple):
    """A diagnosis taken apart."""

    core: str
    modifiers: Mapping[str, frozenset[str]]
    negated: bool = False
    plain: str = ""
    """The whole name under its one name."""
    kind: str = ""
    """The whole name without side and soft modifiers: what `is_a.yaml` knows it by."""
    written: Mapping[str, frozenset[str]] = {}
    """The modifiers as they were written, before one name took the place of many: 原发性 of
    原发性高血压."""
    spellings: tuple[str, ...] = ()
    """The whole name as it was written, squeezed, with and without its side."""


@lru_cache(maxsize=N_CACHED_NAMES)
def parse_name(text: str, negated: bool = False) -> Name:
    """Take a diagnosis apart; a name that is nothing but modifiers is its own core."""
    written = normalize_name(text[:MAX_NAME])
    plain = _replace_synonyms(written)
    rest, modifiers = _take_modifiers(plain)
    as_written = dict(modifiers) if written == plain else _take_modifiers(written)[1]
    if (
        rest.endswith("炎")
        and modifiers.get("stage") == frozenset({"急性加重"})
        and "course" not in modifiers
    ):
        modifiers = {axis: values for axis, values in modifiers.items() if axis != "stage"} | {
            "course": frozenset({"急性"})
        }
    core = shorten(rest)
    if _always_acute().search(core):
        modifiers["course"] = modifiers.get("course", frozenset()) - {"急性"}
        modifiers = {axis: values for axis, values in modifiers.items() if values}
    kind, found = plain, modifiers.keys()
    for axis, _, pattern in modifier_patterns():
        if axis in found and (axis == "side" or axis in soft_axes()):
            kind = pattern.sub("", kind)
    kind = squeeze(_STAGE.sub("", kind))
    spellings = (squeeze(written), squeeze(_side().sub("", written)))
    if not core:
        return Name(plain, {}, negated, plain, kind, as_written, spellings)
    return Name(core, modifiers, negated, plain, kind, as_written, spellings)


def squeeze(plain: str) -> str:
    """Leave out what is written or not in one and the same name: 2型糖尿病, 骨质疏松症."""
    return re.sub("[性型的症]", "", plain)


@cache
def _side() -> re.Pattern[str]:
    return re.compile("|".join(load_table("modifiers.yaml")["exclusive"]["side"].values()))


def _take_modifiers(plain: str) -> tuple[str, Modifiers]:
    rest = plain
    modifiers: Modifiers = {}
    for axis, value, pattern in modifier_patterns():
        if pattern.search(rest):
            rest = pattern.sub("", rest)
            modifiers[axis] = modifiers.get(axis, frozenset()) | {value}
    for axis, pattern in (("degree", _DEGREE), ("type", _TYPE), ("stage", _STAGE)):
        values = frozenset("".join(found.groups("")) for found in pattern.finditer(rest))
        if values:
            rest = pattern.sub("", rest)
            modifiers[axis] = modifiers.get(axis, frozenset()) | values
    return rest, modifiers


def shorten(core: str) -> str:
    """Leave out what two writers of one name do or do not write."""
    core = re.sub(
        r"[性型的之]|(?<=血栓)形成|(?<=.)部(?!分)|疾(?=病)|(?<=.)[伴并](?=.)|(?<=..)区(?!获得|性)|(?<=..)氏(?=.)",
        "",
        core,
    )
    return re.sub(r"(?<=..)(?:症(?![候状])|(?<![瘤节肉])病{1,3}$)", "", core)


@cache
def _always_acute() -> re.Pattern[str]:
    """Find what is acute by itself, so that nobody need say so."""
    names = load_table("modifiers.yaml")["always_acute"]
    return re.compile(f"(?:{'|'.join(shorten(normalize_name(name)) for name in names)})$")


@cache
def soft_axes() -> frozenset[str]:
    """List the axes whose values are grades of one and the same diagnosis."""
    return frozenset(load_table("modifiers.yaml")["soft"])


@cache
def modifier_patterns() -> list[tuple[str, str, re.Pattern[str]]]:
    """List the words of all axes in the order in which they are looked for: soft ones first, since
    急性加重 is no 急性."""
    tables = load_table("modifiers.yaml")
    axes = [item for kind in ("soft", "strict", "exclusive") for item in tables[kind].items()]
    return [
        (axis, value, re.compile(pattern))
        for axis, values in axes
        for value, pattern in values.items()
    ]


# Likeness

MIN_SHARED = 1.4
"""Information, in nats over `_COMMON`, that two names share at the least if they may be kin."""
_COMMON = 0.5
"""Information of a character that nearly every second name holds: 性, 病."""
_POWER = 6
"""How far the rarest character outweighs the others."""
_RUN = 5
_QUALITY, _ALIKE = 9.0, 9.0
"""Weight, in nats, of a quality and of an end for which there are other words."""
_RAREST = 20.0
"""No character weighs more, in nats."""
_SHARES = (0.5, 0.3, 0.2)
"""What counts for likeness: how much of the known name is said, its site, its rarest character."""


def measure_likeness(answer: Name, reference: Name) -> float:
    """Measure how much of the known name an answer says, 0 to 1, the rare parts before the others.

    A part stands for its region (膝, 下肢), and what physicians use for one another counts as said
    (包块, 占位).
    """
    said, known = _plain(answer.plain), _plain(reference.plain)
    parts = _with_regions(said)
    matched: list[float] = []
    missing: list[float] = []
    for quality in set(_pattern("qualities").findall(known)):
        (matched if quality in said else missing).append(_QUALITY)
    known = _pattern("qualities").sub("", known)
    for number in sorted(_find_alike(said) & _find_alike(known)):
        words = _alike()[number]
        if words.search(known):
            known = words.sub("", known)
            matched.append(_ALIKE)
    for part in _list_parts(known):
        (matched if part in parts else missing).append(min(_rarity()[part], _RAREST))
    whole = sum(weight**_POWER for weight in chain(matched, missing))
    coverage = sum(weight**_POWER for weight in matched) / whole if whole else 0.0
    names_site = reference.core[:1] in parts or known[:_RUN] in parts
    rarest = 1 - max(missing, default=0.0) / _RAREST
    return sum(
        share * part for share, part in zip(_SHARES, (coverage, names_site, rarest), strict=True)
    )


def share_information(one: Name, other: Name) -> bool:
    """Tell whether two names share characters that few names hold."""
    shared = _list_parts(_plain(one.plain)) & _list_parts(_plain(other.plain))
    weights = _information()
    return sum(max(0.0, weights[part] - _COMMON) for part in shared) > MIN_SHARED


def have_other_sites(one: Name, other: Name) -> bool:
    """Tell whether each name speaks of an organ, and of none that the other one speaks of."""
    organs = set(load_table("likeness.yaml")["organs"])
    ours, theirs = (organs & set(name.plain) for name in (one, other))
    if not ours or not theirs or ours & theirs:
        return False
    return not (_with_regions(one.plain) & theirs or _with_regions(other.plain) & ours)


def are_other_lesions(one: Name, other: Name) -> bool:
    """Tell whether two names end in different kinds of disease, neither of which the other name
    speaks of: 肺炎, 肺癌."""
    first, second = _find_lesion(one.core), _find_lesion(other.core)
    if not first or not second or first == second:
        return False
    kinds = _lesions()
    return not kinds[first].search(other.plain) and not kinds[second].search(one.plain)


@lru_cache(maxsize=N_CACHED_NAMES)
def _find_lesion(core: str) -> str:
    ends = {kind: [m.end() for m in pattern.finditer(core)] for kind, pattern in _lesions().items()}
    return next((kind for kind, places in ends.items() if len(core) in places), "")


@lru_cache(maxsize=N_CACHED_NAMES)
def _list_parts(plain: str) -> frozenset[str]:
    """List what a name is made of: its hanzi, and the runs of five letters of its Latin words."""
    parts = {character for character in plain if not character.isascii()}
    for word in re.findall("[a-z0-9]+", plain):
        parts.update(word[at : at + _RUN] for at in range(max(1, len(word) - _RUN + 1)))
    return frozenset(parts)


@lru_cache(maxsize=N_CACHED_NAMES)
def _plain(plain: str) -> str:
    return _pattern("fillers").sub("", plain)


@lru_cache(maxsize=N_CACHED_NAMES)
def _with_regions(plain: str) -> frozenset[str]:
    """List the parts of a name, and those of the regions whose parts it names."""
    found = set(_list_parts(plain))
    for region, parts in load_table("likeness.yaml")["regions"].items():
        if not found.isdisjoint(parts):
            found.update(region)
    return frozenset(found)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    listed = load_table("likeness.yaml")[name]
    return re.compile(listed if isinstance(listed, str) else "|".join(listed))


@lru_cache(maxsize=N_CACHED_NAMES)
def _find_alike(plain: str) -> frozenset[int]:
    """Find the groups of words for one thing of which a name holds one."""
    return frozenset(number for number, words in enumerate(_alike()) if words.search(plain))


@cache
def _alike() -> list[re.Pattern[str]]:
    return [re.compile(words) for words in load_table("likeness.yaml")["alike"]]


@cache
def _lesions() -> dict[str, re.Pattern[str]]:
    return {
        kind: re.compile(words) for kind, words in load_table("likeness.yaml")["lesions"].items()
    }


class _Weights(dict[str, float]):
    """Weights in nats; what was never met weighs as much as the rarest."""

    def __missing__(self, part: str) -> float:
        return max(self.values())


@cache
def _information() -> dict[str, float]:
    """Map parts of the shipped names to how few of these hold them, in nats."""
    tables = (load_table("synonyms.yaml"), load_table("is_a.yaml"))
    groups = chain.from_iterable(table.items() for table in tables)
    names = {normalize_name(str(name)) for key, others in groups for name in (key, *others)}
    counts = Counter(chain.from_iterable(map(_list_parts, names)))
    return _Weights({part: math.log((len(names) + 1) / (n + 1)) for part, n in counts.items()})


@cache
def _rarity() -> dict[str, float]:
    """Map characters to how rarely Chinese texts hold them, in nats."""
    bands = load_table("rarity.yaml").items()
    return _Weights({part: float(nats) for nats, parts in bands for part in parts})
