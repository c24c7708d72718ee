"""Finding identifiers in Chinese clinical text, each by a named rule.

In: a text. Out: finds that do not overlap, in order. Not done here: replacing them (`replace`),
rare diseases or stories that tell who a person is without naming anything, bare cities, times of
day.

>>> text = "患者张伟，男，联系电话13812345678。"
>>> [(find.rule, text[find.start:find.end]) for find in find_identifiers(text)]
[('name_of_patient', '张伟'), ('mobile', '13812345678')]
"""

import re
from collections.abc import Iterable, Mapping

from medkd.deidentify import english, names, numbers, places
from medkd.deidentify.rules import Category, Find, Rule

RULES: tuple[Rule, ...] = (*numbers.RULES, *english.RULES, *places.RULES, *names.RULES)
"""In the order in which they claim text: what an earlier rule took, a later one leaves."""

_SURROGATE = re.compile(r"\[[一-鿿]{2,3}\d+\]")


def find_identifiers(text: str) -> list[Find]:
    """Find all identifiers of a text by the rules, the earlier rule first where two would
    overlap."""
    taken = _mark_taken(text, [match.span() for match in _SURROGATE.finditer(text)])
    found: list[Find] = []
    for rule in RULES:
        for start, end in rule.spans(text):
            if start < end and 1 not in taken[start:end]:
                taken[start:end] = b"\1" * (end - start)
                found.append(Find(start, end, rule.name, rule.category))
    return sorted(found)


def _mark_taken(text: str, spans: Iterable[tuple[int, int]]) -> bytearray:
    """Mark the characters that belong to something already."""
    taken = bytearray(len(text))
    for start, end in spans:
        taken[start:end] = b"\1" * (end - start)
    return taken


def find_repeated(text: str, known: Mapping[str, Category], found: list[Find]) -> list[Find]:
    """Add the places where a name or a hospital met elsewhere in the case stands without its
    context."""
    taken = _mark_taken(text, [(find.start, find.end) for find in found])
    repeated: list[Find] = []
    for name in sorted(known, key=len, reverse=True):
        start = text.find(name)
        while start >= 0:
            end = start + len(name)
            if 1 not in taken[start:end]:
                taken[start:end] = b"\1" * (end - start)
                repeated.append(Find(start, end, "repeated", known[name]))
            start = text.find(name, end)
    return sorted(found + repeated) if repeated else found
