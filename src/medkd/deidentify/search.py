"""Finding identifiers in clinical text, each by a named rule, in one view of the text without
mark-up and gaps; and what may still tell after they are replaced.

In: a text, or all texts of a case. Out: matches that do not overlap, in order, by their place in
the original; residue by kind. Not done here: replacing (`replace`); rare diseases or stories that
tell who a person is without naming anything, bare cities, times of day.
"""

import html
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from medkd.deidentify import dates, names, numbers, places
from medkd.deidentify.recognizers import Known, load_tagger
from medkd.deidentify.rules import Category, Match, Rule, Table, any_of
from medkd.deidentify.tables import TABLE_RULES
from medkd.text.normalize import Edit, View, make_view

# The view in which rules search

_LABELS = Table("labels.yaml")
_SPACED_LABEL = re.compile(f"(?:{any_of(_LABELS['spaced'])})$")
"""The labels of forms, whose characters are often spaced out."""
_MARKUP = re.compile(
    r"<(?P<tag>/?[A-Za-z][A-Za-z0-9]{0,9})(?:\s[^<>]{0,300})?/?>"
    r"|&(?:[A-Za-z]{2,8}|#\d{1,6});"
)
_INLINE = re.compile("b|strong|i|em|u|s|span|font|a|sup|sub|mark|small|label")
_SPACED_HANZI = re.compile(r"(?<![一-鿿A-Za-z\d])[一-鿿](?: {1,4}[一-鿿](?![一-鿿A-Za-z\d])){1,9}")
_SPACED_DIGITS = re.compile(r"(?<![\d.])\d(?: {1,2}\d(?![\d.])){5,}")
_BROKEN = re.compile(
    r"(?<=[一-鿿\d-]) ?\n ?(?=[一-鿿\d-])(?![一-鿿]{2,8} ?:|(?:19|20)\d\d[-/.年]\d)"
)
"""A line that begins with a label or a date is one of its own."""
_GAP = re.compile(" +")
_SPACED_LINE = re.compile(r"(?<!\S)\S(?: \S){6,}(?!\S)")
_SPACED_RUN = (
    r"(?<![^\s:(])(?<!\s[A-Za-z\d] )(?<!:[A-Za-z\d] )"
    r"[A-Za-z\d](?: [A-Za-z\d/.-]){{{}}}(?!\S)"
)
_SPACED_LATIN = re.compile(f"{_SPACED_RUN.format('3,')}(?: {{2,4}}{_SPACED_RUN.format('1,')})*")
"""G R A V E S, E d i t h   M a y, 1 7 / 1 2 / 1 9 4 6."""
_APART = re.compile(r"(?<=[A-Za-z])( )[.,]( *)(?= \S)")
"""A mark that stands apart: D . Graves ,  son."""
_LETTER_IN_YEAR = re.compile(r"(?<![A-Za-z\d][12])(?<=[12])[Oo](?=\d\d\s?[年/.-])")
"""2O22年, as scanned pages have it."""


_ACCENTED = {
    ord(letter): base
    for letter in map(chr, (*range(0xC0, 0x250), *range(0x1E00, 0x1F00)))
    if (base := unicodedata.normalize("NFD", letter)[0]).isascii()
}


@lru_cache(maxsize=4)
def view_of(text: str) -> View:
    """Normalise a text and write its Latin letters without accents, one for one. The texts of a
    case are looked at twice: for identifiers, and for what is left of them."""
    view = make_view(text)
    return view._replace(text=view.text.translate(_ACCENTED))


def make_search_view(text: str) -> View:
    """Make the view in which rules search.

    >>> make_search_view("姓 名：<b>于   洋</b>&nbsp;").text
    '姓名:于洋 '
    """
    view = view_of(text)
    view = view.edit(_without_markup(view.text))
    view = view.sub(_LETTER_IN_YEAR, "0")
    return view.edit(_without_gaps(view.text))


def close_breaks(view: View) -> tuple[View, list[int]] | None:
    """Close the line breaks that may cut an identifier in two; tell where they were. None where
    there are none."""
    edits = [Edit(*found.span(), "") for found in _BROKEN.finditer(view.text)]
    if not edits:
        return None
    seams: list[int] = []
    closed = 0
    for edit in edits:
        seams.append(edit.start - closed)
        closed += edit.end - edit.start
    return view.edit(edits), seams


def _without_markup(text: str) -> list[Edit]:
    if "<" not in text and "&" not in text:
        return []
    edits: list[Edit] = []
    for found in _MARKUP.finditer(text):
        tag = (found["tag"] or "").lower().lstrip("/")
        if not tag:
            written = html.unescape(found[0]).replace("\xa0", " ")
        else:
            written = "" if _INLINE.fullmatch(tag) else "\t" if tag in {"td", "th"} else "\n"
        edits.append(Edit(*found.span(), written))
    return edits


def _without_gaps(text: str) -> list[Edit]:
    """Close the gaps in what is written with a space after each character; a label at the end stays
    apart from what stands before it."""
    edits: list[Edit] = []
    for run in _SPACED_LINE.finditer(text):
        if re.search(r"\d", run[0]) and re.search("[一-鿿]", run[0]):
            gaps = range(run.start() + 1, run.end(), 2)
            text = text[: run.start()] + run[0].replace(" ", "\0") + text[run.end() :]
            edits += [Edit(at, at + 1, "") for at in gaps]
    for run in _SPACED_LATIN.finditer(text):
        gaps = [gap.span() for gap in _GAP.finditer(text, *run.span())]
        edits += [Edit(a, b, "" if b - a == 1 else " ") for a, b in gaps]
        text = text[: run.start()] + run[0].replace(" ", "\0") + text[run.end() :]
    for mark in _APART.finditer(text):
        edits += [Edit(a, b, "") for a, b in (mark.span(1), mark.span(2)) if a < b]
    for run in _SPACED_HANZI.finditer(text):
        label = _SPACED_LABEL.search(run[0].replace(" ", ""))
        n_before = label.start() if label else 0
        edits += [
            Edit(run.start() + gap.start(), run.start() + gap.end(), "")
            for number, gap in enumerate(_GAP.finditer(run[0]), start=1)
            if number != n_before
        ]
    for run in _SPACED_DIGITS.finditer(text):
        edits += [
            Edit(run.start() + gap.start(), run.start() + gap.end(), "")
            for gap in _GAP.finditer(run[0])
        ]
    return sorted(edits)


# Search

RULES: tuple[Rule, ...] = (
    *numbers.RULES,
    *dates.RULES,
    *TABLE_RULES,
    *numbers.ENGLISH_RULES,
    *places.RULES,
    *names.RULES,
)
"""In the order in which they claim text: what an earlier rule took, a later one leaves."""

_HANZI = re.compile("[一-鿿]")
_RULES_WITHOUT_HANZI = tuple(rule for rule in RULES if rule not in {*places.RULES, *names.RULES})
"""Those that can find something in a text without Chinese."""

MARK = re.compile(
    rf"\[(?P<category>{'|'.join((*Category, *(c.english + ' ' for c in Category)))})"
    r"(?P<number>\d{1,6})\]"
)
"""What is written in an identifier's place, as in [姓名1] or [name 1]; what only looks like it is
searched."""


class Help(NamedTuple):
    """What is asked beside the rules: terms that the house knows, before them; a tagger, after."""

    known: Known = Known()
    tagger: str = ""


NO_HELP = Help()


def find_identifiers(text: str, help_: Help = NO_HELP) -> list[Match]:
    """Find all identifiers of a text.

    >>> [(match.rule, match.text) for match in find_identifiers("患者張偉，男，電話１３８12345678")]
    [('name_before_particulars', '张伟'), ('mobile', '13812345678')]
    """
    return [match for match in find_in_all([(text, "")], help_)[0] if not match.is_flag]


def find_in_all(texts: Sequence[tuple[str, str]], help_: Help = NO_HELP) -> list[list[Match]]:
    """Find the identifiers in all texts of a case, each given with what joins it to the next one;
    and what a tagger only flags.

    They are searched at once, which takes a third of the time of one by one; and a name met in one
    of them is found in the others where it stands without its context.
    """
    found = _search_with_breaks("".join(text + joint for text, joint in texts), help_)
    by_text: list[list[Match]] = []
    begin = number = 0
    for text, joint in texts:
        end = begin + len(text)
        by_text.append([])
        while number < len(found) and found[number].start < end:
            match = found[number]
            start, stop = max(match.start, begin), min(match.end, end)
            if start < stop:
                by_text[-1].append(match._replace(start=start - begin, end=stop - begin))
            if match.end > end:
                break
            number += 1
        begin = end + len(joint)
    return by_text


def _search_with_breaks(text: str, help_: Help) -> list[Match]:
    """Search a text, and once more with its line breaks closed for what they cut in two."""
    view = make_search_view(text)
    found = [_in_original(match, view) for match in _search(view.text, help_)]
    closed = close_breaks(view)
    if closed is None:
        return found
    joined, seams = closed
    without_tagger = help_._replace(tagger="")
    for start, end in _windows(seams, len(joined.text)):
        for match in _search(joined.text[start:end], without_tagger, start):
            place = bisect_right(seams, match.start)
            if place < len(seams) and seams[place] < match.end:
                found = _add_over(found, _in_original(match, joined))
    return sorted(found)


def _add_over(found: list[Match], match: Match) -> list[Match]:
    """Add a match that goes over a line break; it takes in what was found of it before."""
    apart = [m for m in found if m.end <= match.start or match.end <= m.start]
    pieces = [match, *(m for m in found if m.start < match.end and match.start < m.end)]
    start, end = min(m.start for m in pieces), max(m.end for m in pieces)
    return [*apart, match._replace(start=start, end=end)]


_REACH = 40
"""Characters on each side of a closed line break that are searched again."""


def _windows(seams: list[int], length: int) -> Iterator[tuple[int, int]]:
    """Cut out what lies around the seams; windows that overlap are one."""
    start = end = 0
    for seam in seams:
        if seam - _REACH > end:
            if end:
                yield start, end
            start = seam - _REACH
        end = min(length, seam + _REACH)
    yield start, end


def _in_original(match: Match, view: View) -> Match:
    start, end = view.original_span(match.start, match.end)
    return match._replace(start=start, end=end)


def _search(text: str, help_: Help, offset: int = 0) -> list[Match]:
    """Apply known terms, rules and tagger to a normalised text, the earlier one first where two
    would overlap; move what is found by an offset."""
    taken = bytearray(len(text))
    for mark in MARK.finditer(text):
        _take(taken, *mark.span())
    found = [
        Match(start, end, "known", category, text[start:end])
        for start, end, category in (help_.known.find(text) if help_.known.terms else ())
        if _claim(taken, start, end)
    ]
    for rule in RULES if _HANZI.search(text) else _RULES_WITHOUT_HANZI:
        found += [
            Match(start, end, rule.name, rule.category, text[start:end])
            for start, end in rule.spans(text)
            if _claim(taken, start, end)
        ]
    if help_.tagger:
        found += _tagged(text, help_.tagger, taken)
    if help_.known.kept:
        found = [match for match in found if not help_.known.keeps(match.text)]
    found += _find_repeated(text, _known_texts(found, text), taken)
    return [
        match._replace(start=match.start + offset, end=match.end + offset)
        for match in _join_weekdays(sorted(found), text)
    ]


def _join_weekdays(found: list[Match], text: str) -> Iterator[Match]:
    """Make one date of a day of the week and the date beside it."""
    last: Match | None = None
    for match in found:
        if last and last.category is match.category is Category.DATE:
            is_before, is_behind = last.rule == "date_weekday", match.rule == "date_weekday_behind"
            if (is_before or is_behind) and _JOINT.fullmatch(text, last.end, match.start):
                whole = text[last.start : match.end]
                last = (match if is_before else last)._replace(
                    start=last.start, end=match.end, text=whole
                )
                continue
        if last:
            yield last
        last = match
    if last:
        yield last


_JOINT = re.compile(r"[ ,.(]{0,3}(?:the )?")


def _tagged(text: str, tagger: str, taken: bytearray) -> list[Match]:
    """Ask a tagger for what the rules left: what is plausible is a match, the rest a flag."""
    found: list[Match] = []
    for start, end, label, category in load_tagger(tagger)(text):
        if category is not Category.NAME:
            while start < end and taken[start]:  # a rule took its beginning
                start += 1
            end = start + (taken[start:end] + b"\1").index(1)
        if end - start > 1 and _claim(taken, start, end):
            rule = f"tagger_{label.lower()}"
            is_flag = category is None
            kind = category or Category.NAME
            found.append(Match(start, end, rule, kind, text[start:end], is_flag))
    return found


def _claim(taken: bytearray, start: int, end: int) -> bool:
    """Take characters that belong to nothing yet; tell whether they do now."""
    is_free = start < end and 1 not in taken[start:end]
    if is_free:
        _take(taken, start, end)
    return is_free


def _take(taken: bytearray, start: int, end: int) -> None:
    """Mark characters that belong to something already."""
    taken[start:end] = b"\1" * (end - start)


_SURE = frozenset(
    [Category.ID_CARD, Category.PHONE, Category.ACCOUNT, Category.RECORD, Category.HOSPITAL]
)


def _known_texts(found: Iterable[Match], text: str) -> dict[str, Category]:
    """Collect names, hospitals and numbers that are sure enough to be looked for without
    context; of an English name its parts too."""
    known = {
        match.text: match.category
        for match in found
        if not match.is_flag
        and (
            (match.category is Category.NAME and not names.is_ordinary_name(match.text))
            or (match.category in _SURE and len(match.text) >= (4 if "院" in match.text else 6))
        )
    }
    parts = {
        part: Category.NAME
        for name, category in known.items()
        if category is Category.NAME
        for part in numbers.parts_of_name(name)
        if part.lower() not in text  # Hope, and a family that hopes
    }
    return parts | known


def _find_repeated(text: str, known: Mapping[str, Category], taken: bytearray) -> Iterable[Match]:
    """Find the places where a name, a hospital or a number stands without its context."""
    for name in sorted(known, key=len, reverse=True):
        is_english = known[name] is Category.NAME and name.isascii()
        start = text.find(name)
        while start >= 0:
            end = start + len(name)
            is_whole = not is_english or numbers.stands_as_name(text, start, end)
            if is_whole and _claim(taken, start, end):
                yield Match(start, end, "repeated", known[name], name)
            start = text.find(name, end)


_LONG_NUMBER = re.compile(r"(?<![\d.])\d(?:[ -]?\d){6,}(?![\d.]|[x×*^])")
_KEPT = 12
"""Characters shown on each side of what is left."""
_UNTELLING = {Category.AGE, Category.BED, Category.DATE, Category.WARD}
_TELLING = 3
"""Characters of a text that tells somebody: a surname, a bed, an age are ordinary words too."""


class ResidueKind(StrEnum):
    """Why something that is left deserves a look."""

    ORIGINAL = "original"
    """The text of something that was masked elsewhere in the case."""
    DATE_SHAPE = "date_shape"
    """It is written like a calendar date."""
    LONG_NUMBER = "long_number"
    """Seven digits or more."""
    FLAG = "flag"
    """A tagger took it for an identifier, and it is no plausible name."""


class Residue(NamedTuple):
    """One thing that is left in a case."""

    kind: ResidueKind
    text: str
    around: str


def find_residue(
    texts: Sequence[tuple[str, str]], found: Sequence[Sequence[Match]]
) -> list[Residue]:
    """Find what is left in the texts of a case, given as to `find_in_all`."""
    whole = "".join(text + joint for text, joint in texts)
    view = view_of(whole)
    taken = bytearray(len(whole))
    left: list[tuple[int, int, ResidueKind]] = []
    originals: set[str] = set()
    begin = 0
    for (text, joint), matches in zip(texts, found, strict=True):
        for match in matches:
            start, end = begin + match.start, begin + match.end
            if match.is_flag:
                left.append((start, end, ResidueKind.FLAG))
                continue
            _take(taken, start, end)
            if match.category not in _UNTELLING and len(match.text) >= _TELLING:
                originals.add(match.text)
        begin += len(text) + len(joint)
    for kind, pattern in (
        (ResidueKind.DATE_SHAPE, dates.DATE_SHAPE),
        (ResidueKind.LONG_NUMBER, _LONG_NUMBER),
        *((ResidueKind.ORIGINAL, re.compile(re.escape(text))) for text in originals),
    ):
        left += [
            (*view.original_span(*shape.span()), kind) for shape in pattern.finditer(view.text)
        ]
    return [
        Residue(
            kind,
            whole[start:end],
            " ".join(whole[max(0, start - _KEPT) : end + _KEPT].split()),
        )
        for start, end, kind in sorted(left)
        if 1 not in taken[start:end]
    ]
