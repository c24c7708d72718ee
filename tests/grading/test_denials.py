"""A diagnosis that an answer denies or excludes is not right, in brackets or not."""

from pathlib import Path

import pytest
import yaml

from medkd.grading.diagnosis import grade

ANSWERS = yaml.safe_load((Path(__file__).parent / "denials.yaml").read_text(encoding="utf-8"))


def grade_all(kind):
    return [
        (answer, reference, grade(answer, reference))
        for reference, answers in ANSWERS[kind].items()
        for answer in answers
    ]


@pytest.mark.parametrize("kind", ["first", "second", "third"])
def test_what_is_denied_or_benign_is_decided_wrong(kind):
    graded = grade_all(kind)
    assert len(graded) >= 40
    assert not [
        (answer, reference, str(found.relation))
        for answer, reference, found in graded
        if found.principal or found.exact or not found.decided or found.f1 > 0.3
    ]


def test_denying_another_disease_leaves_the_diagnosis_right():
    assert not [
        (answer, reference)
        for answer, reference, found in grade_all("affirmed")
        if not found.principal
    ]
