"""The rules against pairs judged by hand: how often they are right where they decide, and how often
they leave it to a judge."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from medkd.grading.compare import Relation
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
    return Counter((label, grade(answer, ref).verdict) for answer, ref, label in pairs)


def test_there_are_enough_pairs_and_none_twice():
    pairs = [pair for name in FILES for pair in read_pairs(name)]
    assert len(pairs) >= 1000
    assert len({(answer, reference) for answer, reference, _ in pairs}) == len(pairs)
    assert {label for *_, label in pairs} == {"right", "near", "wrong"}


def test_no_near_miss_is_called_right_and_what_is_right_is_seldom_missed():
    table = count([pair for name in FILES for pair in read_pairs(name)])
    n_right = sum(n for (label, _), n in table.items() if label == "right")
    assert table["wrong", "right"] == 0
    assert table["right", "right"] >= 0.97 * n_right
    assert table["right", "wrong"] <= 0.005 * n_right


def test_a_near_name_is_right_only_where_it_says_more():
    near = [pair for name in FILES for pair in read_pairs(name) if pair[2] == "near"]
    relations = Counter(
        grade(answer, ref).relation for answer, ref, _ in near if grade(answer, ref).principal
    )
    assert relations.keys() <= {Relation.MORE_SPECIFIC, Relation.SAME}
    assert relations[Relation.SAME] <= 0.06 * len(near)


@pytest.mark.parametrize("name", FILES)
def test_soft_f1_orders_right_above_near_above_wrong(name):
    scores = {}
    for answer, reference, label in read_pairs(name):
        scores.setdefault(label, []).append(grade(answer, reference).f1)
    means = [sum(scores[label]) / len(scores[label]) for label in ("right", "near", "wrong")]
    assert means[0] > means[1] > means[2] + 0.2
