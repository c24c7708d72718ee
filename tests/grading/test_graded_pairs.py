"""The rules against pairs judged by hand: how often they are right where they decide, and how often
they leave it to a judge."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from medkd.grading.diagnosis import grade

FILES = tuple(
    f"pairs{number}.yaml"
    for number in (
        "",
        "_second",
        "_third",
        "_fourth",
        "_fifth",
        "_sixth",
        "_seventh",
        "_eighth",
        "_ninth",
        "_tenth",
        "_eleventh",
    )
)

NEAR = {"general": "near", "specific": "near"}


def read_pairs(name):
    groups = yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))
    return [
        (str(answer), str(reference), NEAR.get(label, label))
        for group in groups.values()
        for answer, reference, label in group
    ]


def count(pairs):
    """Count pairs by label and by what the rules say: right, wrong or undecided."""
    table = Counter()
    for answer, reference, label in pairs:
        found = grade(answer, reference)
        table[label, "right" if found.principal else "wrong" if found.decided else "undecided"] += 1
    return table


def accuracy(table):
    """A near name that is called wrong is called what it is: not the known diagnosis."""
    decided = {key: n for key, n in table.items() if key[1] != "undecided"}
    return sum(
        n for (label, said), n in decided.items() if (said == "right") == (label == "right")
    ) / sum(decided.values())


def test_there_are_enough_pairs_and_none_twice():
    pairs = [pair for name in FILES for pair in read_pairs(name)]
    assert len(pairs) >= 1000
    assert len({(answer, reference) for answer, reference, _ in pairs}) == len(pairs)
    assert {label for *_, label in pairs} == {"right", "near", "wrong"}


@pytest.mark.parametrize("name", FILES)
def test_where_the_rules_decide_they_are_right(name):
    assert accuracy(count(read_pairs(name))) >= 0.95


def test_few_pairs_are_left_undecided_and_no_dangerous_near_miss_is_called_right():
    table = count([pair for name in FILES for pair in read_pairs(name)])
    undecided = sum(n for (_, said), n in table.items() if said == "undecided")
    assert undecided / table.total() <= 0.05
    assert (table["right", "undecided"] + table["wrong", "undecided"]) / table.total() <= 0.02
    assert table["wrong", "right"] == 0


@pytest.mark.parametrize("name", FILES)
def test_soft_f1_orders_right_above_near_above_wrong(name):
    scores = {}
    for answer, reference, label in read_pairs(name):
        scores.setdefault(label, []).append(grade(answer, reference).f1)
    means = [sum(scores[label]) / len(scores[label]) for label in ("right", "near", "wrong")]
    assert means[0] > means[1] + 0.2 > means[2] + 0.4
