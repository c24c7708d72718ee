"""A student's answers to questions, graded: those that are wrong are what a teacher mends.

In: `predictions.jsonl` of evaluate or select. Out: `Attempts`. Not done here: which questions are
asked (`stage`), what the teacher is told (`courses`).
"""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from medkd.core import thinking
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.records import Prediction, Question
from medkd.grading.judge import shorten
from medkd.grading.scores import grade_prediction
from medkd.text.normalize import make_plain

MAX_ATTEMPT = 4000
"""Characters of an attempt that a teacher is shown: its two ends where it is longer."""
_SAMPLE = re.compile(r"#\d{1,9}\Z")
"""What the id of a question's further samples ends with."""


class Attempts(NamedTuple):
    """A student's answers to questions, graded."""

    wrong: dict[str, list[str]]
    """Wrong answers by question, reasoning included."""
    asked: dict[str, str]
    """Every question that was answered, rightly or not, with its known answer in plain form."""

    def has(self, question: Question) -> bool:
        """Tell whether this very question was answered, and not another one of its id."""
        return self.asked.get(question.id) == make_plain(question.reference)


def find_attempt_file(given: Path) -> Path:
    """Find the student's answers; raises InputError where there are none."""
    return resolve_input(given, "predictions.jsonl", made_by="evaluate")


@cache
def read_attempts(given: Path, task: str) -> Attempts:
    """Read and grade a student's answers; one that rules cannot decide is not called wrong."""
    wrong: dict[str, list[str]] = {}
    asked: dict[str, str] = {}
    for prediction in RecordReader(find_attempt_file(given), Prediction, made_by="evaluate"):
        names = {prediction.id, _SAMPLE.sub("", prediction.id)}  # "#15" may be a question's own
        asked |= dict.fromkeys(names, make_plain(prediction.reference))
        if grade_prediction(prediction, task).verdict == "wrong":
            reasoning = prediction.reasoning or thinking.strip_tags(prediction.raw)
            said = shorten(f"{reasoning}\n→ {prediction.answer}", MAX_ATTEMPT)
            for name in names:
                wrong.setdefault(name, []).append(said)
    return Attempts(wrong, asked)
