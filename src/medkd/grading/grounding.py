"""Looks up in the record what a reasoning cites: numbers, named values, findings denied or claimed.

In: a reasoning and its record. Out: each claim that can be looked up, and whether it stands there.
Not done here: findings without a number that the record does not mention, and whether one matters.

>>> find_claims("體溫39.2℃，無胸痛。", "体温39。2℃，咳嗽，无胸痛。")
[('体温39.2', True), ('无胸痛', True)]
"""

import math
import re
from collections.abc import Iterable, Iterator
from functools import cache, cached_property, lru_cache

from medkd.grading import load_table
from medkd.text.normalize import view_of

_NUMBER = re.compile(r"\d(?<![\d.第a-zA-Z^]\d)\d*(?:\.\d+)?(?![\d])(?!\s*[.、)]\s*\D)")
_POWER = re.compile(r"[×xX*]\s*10\s*(?:\^|\*\*)?\s*\d{1,2}(?=\s*/|\b)|10\s*(?:\^|E|e)\s*\d{1,2}")
_THOUSANDS = re.compile(r",(?<=\d,)(?=\d{3}(?![\d]))")
_POINT = re.compile(r"[。·．•](?<=\d.)(?=\d)")
_DEGREES = re.compile(r"度(?<=[34]\d度)(?=\d(?![\d天日次年月周岁小]))")
"""38度5 is 38.5."""
_HOURS = re.compile(r"\s?(?:h\b|hours?\b|小时)")
_LEAST_ROUNDED = 10
"""Below it a decimal counts: potassium 5 is not 5.4."""
_MOST_ROUNDED = 1e12
_VALUE = re.compile(r"\d+(?:\.\d+)?")
_MYRIAD = re.compile(r"\s?万")
_FAHRENHEIT = re.compile(r"\s?(?:°?F\b|℉|华氏)")
_WITH_UNIT = re.compile(r"(\d+(?:\.\d+)?)(?:\s?([%万]))?")
_HANZI_NUMBER = re.compile(
    "(百分之)?([零〇一二两三四五六七八九十百千][零〇一二两三四五六七八九十百千万]*"
    "(?:点[零〇一二三四五六七八九]+)?)"
)
_DIGITS = {hanzi: n for n, hanzi in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_TENS = {"十": 10, "百": 100, "千": 1000}
_OPTIONAL = re.compile(r"\(\?:[^()]*\)\?|.\?")
"""What a pattern may do without."""
_RANK = re.compile(
    r"\s*(?:型|级|期|类|号|代|种|步|条|项|方面|点(?!\d)|个(?!月|半)|%的(?:患者|病例|病人|人)|年版|年指南)"
)
"""What makes a number a name or a count, no finding: 2型糖尿病, 三个方面."""
_LATIN_VALUE = re.compile(r"[A-Za-z](?<![A-Za-z][A-Za-z])[^\d，。；,;、]{0,40}(?=\d)")
_REACH_LATIN = 24
"""Characters behind such a place in which names with digits (SpO2) and their values end."""
_PERCENT = re.compile(r"\s?(?:%|percent)")
_NORM_WIDTH = 12
"""Characters before a number in which a word may say that it is a norm."""
_DENIED = re.compile(
    r"(?:否认|未见|没有|无(?!法|论|关|需|疑|痛|症状|力|菌|不|从|此|明显诱因))(?:明显的?)?"
    r"([一-鿿]{2,6})(?=[，。、；,;\s]|$)"
)
_DENIAL = re.compile("否认|未见|没有|无|未|不")
_REACH = 12
"""Characters behind a denial in which what it denies begins."""
_DENIED_LIST = re.compile(r"(?:否认|未见|未闻及|未触及|没有|无)([一-鿿、]{2,60})(?=[，。；,;\s]|$)")
_LISTED = re.compile("[、及或]")
_CLAIMED = re.compile(
    "(?:伴有?|出现|存在|可见|表现为|具有|患者有|并有|且有|又有|闻及|触及)"
    "(?P<degree>明显|轻度|中度|重度|持续|典型的?|少量|大量)?"
)
_AFTER_DENIAL = re.compile(r"(?:否认|未见|未闻及|未触及|没有|无|未)[^，。；,;]{0,40}")
_CLAUSE_END = re.compile("[，。；,;]")
_LONGEST_FINDING = 6
_UNIT_TOLERANCE = 0.015
"""How far a value told in another unit may be rounded."""


def find_claims(reasoning: str, record: str) -> list[tuple[str, bool]]:
    """List what the reasoning cites that can be looked up, and whether the record has it.

    A number may be told otherwise: 0.88 as 88 %, 1.6万 as 16000, kPa as mmHg, in hanzi, the end of
    a range, rounded to a whole number, days as hours. A denied finding counts only where the record
    speaks of it; a claimed finding is unfounded where the record only denies it.
    """
    return list(_find_claims(reasoning, record))


@lru_cache(maxsize=4)
def _find_claims(reasoning: str, record: str) -> tuple[tuple[str, bool], ...]:
    text, source = _plain(reasoning), _read_source(record)
    claims: dict[str, bool] = {}
    measured = set[int]()
    for name, place, number in _find_measures(text):
        measured.add(place)
        claim = f"{name}{number}"
        if claim not in claims and not _is_norm(text, place):
            claims[claim] = source.has_value(name, text, place, number)
    for match in _NUMBER.finditer(text):
        place, end = match.span()
        if place in measured or match[0] in claims or _RANK.match(text, end):
            continue
        if not _is_norm(text, place):
            is_percent = bool(_PERCENT.match(text, end))
            number = float(match[0])
            claims[match[0]] = source.has_number(number, is_percent) or (
                bool(_HOURS.match(text, end)) and source.has_number(number / 24, is_percent)
            )
    for match in _DENIED.finditer(text):
        finding = match[1]
        if source.mentions(finding):
            claims.setdefault(f"无{finding}", source.denies(finding))
    if source.only_denied:
        claimed = _find_claimed(text)
        claims.update((f"有{one}", False) for one in source.only_denied if one in claimed)
    return tuple(claims.items())


def grounded_rate(reasoning: str, record: str) -> float | None:
    """Compute the share of checkable claims that stand in the record; None where there are none."""
    claims = find_claims(reasoning, record)
    return sum(stands for _, stands in claims) / len(claims) if claims else None


def _plain(text: str) -> str:
    """Write a text in the common view, its numbers in one form, without powers of ten."""
    joined = _THOUSANDS.sub("", text) if "," in text else text  # before ，looks like one
    return _POWER.sub("", _DEGREES.sub(".", _POINT.sub(".", view_of(joined))))


def _find_measures(text: str, wanted: str = "") -> Iterator[tuple[str, int, str]]:
    """Find every named value, or those of one name: the name of the measure, where its number
    begins, the number."""
    for name in (wanted,) if wanted else _measures():
        for stems, pattern in _measures()[name]:
            if stems and not any(map(text.__contains__, stems)):
                continue
            for start, end in [(0, len(text))] if stems else _find_latin(text):
                for match in pattern.finditer(text, start, end):
                    for number in _VALUE.finditer(match["values"]):
                        yield name, match.start("values") + number.start(), number[0]


@lru_cache(maxsize=8)
def _find_latin(text: str) -> list[tuple[int, int]]:
    """Find the stretches of a text with a Latin name before a number."""
    has_name = _any_latin_name().search
    ends = ((found.start(), found.end() + _REACH_LATIN) for found in _LATIN_VALUE.finditer(text))
    return [(start, end) for start, end in ends if has_name(text[start:end].lower())]


@cache
def _measures() -> dict[str, list[tuple[list[str], re.Pattern[str]]]]:
    """Map each measure to a pattern of its names in hanzi, with what a text must hold one of, and
    one of those in Latin letters."""
    number = r"\d+(?:\.\d+)?"
    values = rf"[^\d，。；,;、]{{0,8}}?(?P<values>{number}(?:\s?[-~/至到]\s?{number}){{0,3}})"
    found: dict[str, list[tuple[list[str], re.Pattern[str]]]] = {}
    for name, names in load_table("check_phrases.yaml")["measures"].items():
        hanzi = [one for one in names if re.search("[一-鿿]", one)]
        for group in (hanzi, [one for one in names if one not in hanzi]):
            needed = [_OPTIONAL.sub(" ", one) for one in group if one in hanzi]
            stems = [max(re.findall("[一-鿿]+", one), key=len) for one in needed]
            if group:
                pattern = re.compile(f"(?:{'|'.join(group)}){values}", re.IGNORECASE)
                found.setdefault(name, []).append((stems, pattern))
    return found


@cache
def _any_latin_name() -> re.Pattern[str]:
    listed = (pattern.pattern for groups in _measures().values() for s, pattern in groups if not s)
    joined = "|".join(one.replace("?P<values>", "?:") for one in listed)
    return re.compile(f"(?=[a-z])(?:{joined.lower()})")


def _read_measure(text: str, place: int, number: str) -> set[float]:
    """Read a value in every unit in which it may be told again."""
    value = float(number)
    behind = text[place + len(number) : place + len(number) + 24]
    if _MYRIAD.match(behind):
        return {value, value * 10_000, value * 10}
    if _FAHRENHEIT.match(behind):
        return {value, round((value - 32) / 1.8, 1)}
    return {value}


def _is_near(one: float, other: float) -> bool:
    return abs(one - other) <= _UNIT_TOLERANCE * max(one, other)


def _round_whole(values: Iterable[float]) -> set[float]:
    """List the whole numbers by which values may be told: 37 for 37.2, either way for a half."""
    told = [value for value in values if _LEAST_ROUNDED - 1 < value < _MOST_ROUNDED]
    whole = (float(n) for x in told for n in (math.ceil(x - 0.5), math.floor(x + 0.5)))
    return {n for n in whole if n >= _LEAST_ROUNDED}


@lru_cache(maxsize=1024)
def _read_hanzi(written: str) -> float:
    """Read a number in hanzi.

    >>> [_read_hanzi(number) for number in ("一百零二", "三十八点五", "一万六千", "两")]
    [102.0, 38.5, 16000.0, 2.0]
    """
    whole, _, decimals = written.partition("点")
    total = digit = 0
    for character in whole:
        if character in _TENS:
            total += max(digit, 1) * _TENS[character]
            digit = 0
        elif character == "万":
            total, digit = (total + digit) * 10_000, 0
        else:
            digit = 10 * digit + _DIGITS[character] if digit else _DIGITS[character]
    figures = "".join(str(_DIGITS[character]) for character in decimals)
    return float(f"{min(total + digit, 10**12)}.{figures[:6] or 0}")


def _is_norm(text: str, place: int) -> bool:
    before = text[max(0, place - _NORM_WIDTH) : place].lower()
    norm = _normative()
    return bool(norm.search(before) and norm.search(_CLAUSE_END.split(before)[-1]))


@cache
def _normative() -> re.Pattern[str]:
    return re.compile("|".join(load_table("check_phrases.yaml")["normative"]))


class _Source:
    """A record, read once for all claims."""

    def __init__(self, record: str) -> None:
        self._text = _plain(record)
        self._numbers, self._percentages = set[float](), set[float]()
        for written, unit in _WITH_UNIT.findall(self._text):
            number = float(written)
            self._numbers.add(number)
            if unit == "%":
                self._percentages.add(number)
            elif unit == "万":
                self._numbers |= {number * 10_000, number * 10}
        for match in _HANZI_NUMBER.finditer(self._text):
            value = _read_hanzi(match[2])
            (self._percentages if match[1] else self._numbers).add(value)
        self._measures: dict[str, set[float]] = {}

    @cached_property
    def _rounded(self) -> set[float]:
        return _round_whole(self._numbers)

    def _read_values(self, name: str) -> set[float]:
        """Read the values of one name, when it is first asked for."""
        if name not in self._measures:
            found = _find_measures(self._text, name)
            ways = [_read_measure(self._text, place, number) for _, place, number in found]
            self._measures[name] = set[float]().union(*ways)
        return self._measures[name]

    def mentions(self, finding: str) -> bool:
        """Tell whether a finding stands in it, affirmed or denied."""
        return finding in self._text

    def denies(self, finding: str) -> bool:
        """Tell whether a finding stands behind a denial somewhere."""
        return any(finding in clause for clause in self._denied)

    @cached_property
    def _denied(self) -> list[str]:
        ends = [match.end() for match in _DENIAL.finditer(self._text)]
        behind = (self._text[end : end + _REACH + _LONGEST_FINDING] for end in ends)
        return [_CLAUSE_END.split(clause, maxsplit=1)[0] for clause in behind]

    @cached_property
    def only_denied(self) -> tuple[str, ...]:
        """Findings that it denies and nowhere affirms."""
        found: dict[str, None] = {}
        for listed in _DENIED_LIST.findall(self._text):
            parts = _LISTED.split(listed)
            if all(2 <= len(part) <= _LONGEST_FINDING for part in parts):
                found.update(dict.fromkeys(parts))
        affirmed = _AFTER_DENIAL.sub(",", self._text) if found else ""
        return tuple(finding for finding in found if finding not in affirmed)

    def has_value(self, name: str, text: str, place: int, number: str) -> bool:
        """Tell whether it holds a named value of `text`, in whatever unit."""
        values = self._read_values(name)
        ways = _read_measure(text, place, number)
        if not values:
            is_percent = bool(_PERCENT.match(text, place + len(number)))
            return any(self.has_number(way, is_percent) for way in ways)
        if not ways.isdisjoint(values | _round_whole(values)):
            return True
        ratios = load_table("check_phrases.yaml")["conversions"].get(name, ())
        return any(
            _is_near(value, way * ratio) or _is_near(value * ratio, way)
            for value in values
            for way in ways
            for ratio in map(float, ratios)
        )

    def has_number(self, number: float, is_percent: bool) -> bool:
        """Tell whether it holds a number, as a fraction or a percentage too."""
        if number in self._numbers or number in self._rounded:
            return True
        if is_percent:
            return number in self._percentages or round(number / 100, 6) in self._numbers
        return 0 < number <= 1 and round(number * 100, 6) in self._percentages


_read_source = lru_cache(maxsize=4)(_Source)
"""Several rationales in a row are about one record."""


def _find_claimed(text: str) -> set[str]:
    """List what stands behind words that claim a finding, at every length that a finding has."""
    claimed: set[str] = set()
    for match in _CLAIMED.finditer(text):
        if text[max(0, match.start() - 1)] in "无未不":
            continue
        for start in {match.end(), match.start("degree") if match["degree"] else match.end()}:
            claimed.update(text[start : start + n] for n in range(2, _LONGEST_FINDING + 1))
    return claimed
