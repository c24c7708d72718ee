"""Sets worse answers beside the right rows of the same question, for preference training.

In: rows to train on; directories of verify (what checks or people rejected), of distill, of
evaluate or select (the student's failures, and what a judge said of them). Out: `preferences.jsonl`
and the same in TRL's and LLaMA-Factory's forms. Not done here: choosing rows.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, write_atomically, write_records
from medkd.core.records import Checked, Example, Prediction, Preference, Rationale, Rejected
from medkd.core.reviews import REVIEWS, Decision, read_reviews, settle
from medkd.grading.scores import Row, grade_prediction
from medkd.merge.writers import to_messages
from medkd.text.normalize import make_plain

NAME = "preferences.jsonl"
CHECKED = ("rejected.jsonl", "verified.jsonl")
WRONG, PREDICTIONS, ROWS = "wrong.jsonl", "predictions.jsonl", "rows.jsonl"
FILES = (*CHECKED, REVIEWS, WRONG, PREDICTIONS, ROWS)
BY_REVIEWER, BY_GRADER, BY_JUDGE = "rejected_by_reviewer", "wrong", "judged_wrong"
"""Why an answer is worse, where no check says so."""


class Worse(NamedTuple):
    """A worse answer, and the question that it is of as letters and digits alone."""

    question: str
    rejected: Rejected


def find_worse_files(given: Sequence[Path]) -> list[Path]:
    """Name the files that worse answers are read from; raises InputError for a directory without
    any."""
    found: list[Path] = []
    for folder in given:
        files = [folder / name for name in FILES if (folder / name).exists()]
        if not {path.name for path in files} - {REVIEWS, ROWS}:
            raise InputError(
                "{}: no worse answers there; name a directory of verify, distill "
                "(--until-right or --fallback), evaluate or select",
                folder,
            )
        found += files
    return found


def read_worse(files: Sequence[Path], task: str = "") -> Iterator[Worse]:
    """Read whole answers that are known to be worse, each with the reason."""
    for path in files:
        if path.stat().st_size == 0:
            continue
        if path.name in CHECKED:
            yield from _read_checked(path)
        elif path.name == WRONG:
            for rationale in RecordReader(path, Rationale, made_by="distill"):
                yield _from_rationale(rationale, BY_GRADER)
        elif path.name == PREDICTIONS:
            yield from _read_predictions(path, task)


def _read_checked(path: Path) -> Iterator[Worse]:
    """Read what checks rejected, unless a person took it, and of the sound rows what a person
    rejected."""
    reviews = {key: settle(of_row) for key, of_row in read_reviews(path.parent).items()}
    for checked in RecordReader(path, Checked, made_by="verify"):
        rationale, review = checked.rationale, reviews.get(checked.rationale.id)
        why = next((v.reason for v in checked.verdicts if not v.passed), "")
        if review is not None:
            why = BY_REVIEWER if review.decision is Decision.REJECT else ""
        if why and rationale.complete:
            yield _from_rationale(rationale, why)


def _from_rationale(rationale: Rationale, why: str) -> Worse:
    said = {"reasoning": rationale.reasoning.strip(), "answer": rationale.answer.strip()}
    rejected = Rejected(**said, why=why, origin=rationale.model or "teacher")
    return Worse(make_plain(rationale.question.input), rejected)


def _read_predictions(path: Path, task: str) -> Iterator[Worse]:
    """Read the student's wrong answers; what rules leave undecided is wrong where a judge says
    so."""
    rows_path = path.with_name(ROWS)
    has_rows = rows_path.is_file() and rows_path.stat().st_size
    rows = RecordReader(rows_path, Row, made_by="evaluate") if has_rows else ()
    judged = {
        row.id: row.scores["judged_accuracy"] for row in rows if row.scores.get("judged_decided")
    }
    for prediction in RecordReader(path, Prediction, made_by="evaluate"):
        verdict = grade_prediction(prediction, task).verdict
        why = BY_GRADER if verdict == "wrong" else ""
        if verdict == "undecided" and judged.get(prediction.id) == 0:
            why = BY_JUDGE
        if why and prediction.question:
            said = {"reasoning": prediction.reasoning, "answer": prediction.answer}
            rejected = Rejected(**said, why=why, origin="student")
            yield Worse(make_plain(prediction.question), rejected)


class Pairing:
    """The worse answers of questions while rows are set beside them; each is used once."""

    def __init__(self, worse: Iterator[Worse]) -> None:
        self._waiting: dict[str, list[Rejected]] = {}
        self.n_worse = 0
        self.pairs: list[Preference] = []
        seen = set[tuple[str, str, str]]()
        for question, rejected in worse:
            key = (question, make_plain(rejected.reasoning), make_plain(rejected.answer))
            if rejected.answer.strip() and key not in seen:
                seen.add(key)
                self._waiting.setdefault(question, []).append(rejected)
                self.n_worse += 1

    def add(self, example: Example) -> None:
        """Pair a row to train on with all worse answers to its question that are left."""
        rejections = self._waiting.pop(make_plain(example.input), ())
        for number, rejected in enumerate(rejections, start=1):
            if make_plain(rejected.answer) == make_plain(example.answer) and not rejected.reasoning:
                continue
            fields: dict[str, Any] = {**dict(example), "id": f"{example.id}~{number}"}
            self.pairs.append(Preference(**fields, rejected=rejected))

    def describe(self) -> dict[str, Any]:
        """Count the pairs, why their worse answers are worse, and what found no row."""
        whys = Counter(pair.rejected.why for pair in self.pairs)
        origins = Counter(pair.rejected.origin for pair in self.pairs)
        return {
            "n": len(self.pairs),
            "questions": len({make_plain(pair.input) for pair in self.pairs}),
            "why": dict(whys.most_common()),
            "origin": dict(origins.most_common()),
            "without_row": self.n_worse - len(self.pairs),
        }

    def write(self, directory: Path, folder: Path) -> dict[str, Any]:
        """Write the pairs in all forms, and say how many there are and why one is the worse;
        returns their description."""
        write_records(directory / NAME, self.pairs)
        with write_atomically(directory / "messages" / NAME, binary=True) as file:
            for pair in self.pairs:
                file.write(orjson.dumps(to_trl(pair)) + b"\n")
        rows = [to_ranking(pair) for pair in self.pairs]
        with write_atomically(folder / "medkd_preferences.json", binary=True) as file:
            file.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2) + b"\n")
        facts = self.describe()
        if self.pairs:
            whys = ", ".join(f"{why} {n}" for why, n in facts["why"].items())
            counts = f"{len(self.pairs)} pairs of {facts['questions']} questions"
            print(f"merge: {counts}; worse because {whys}", file=sys.stderr)
        else:
            print(
                f"warning: merge: no pair: of {self.n_worse} worse answers none is of a question "
                "in train; name the directories of the same questions with --pairs",
                file=sys.stderr,
            )
        return facts


def write_answer(reasoning: str, answer: str) -> str:
    """Write a whole answer in the thinking format; one without reasoning is the bare answer."""
    return thinking.write(reasoning, answer) if reasoning.strip() else answer.strip()


def to_trl(pair: Preference) -> dict[str, list[dict[str, str]]]:
    """Write a pair as conversations: TRL's explicit prompt with `chosen` and `rejected`."""
    *prompt, chosen = to_messages(pair)["messages"]
    worse = write_answer(pair.rejected.reasoning, pair.rejected.answer)
    return {
        "prompt": prompt,
        "chosen": [chosen],
        "rejected": [{"role": "assistant", "content": worse}],
    }


def to_ranking(pair: Preference) -> dict[str, str]:
    """Write a pair in LLaMA-Factory's alpaca form for ranking."""
    return {
        "system": pair.system,
        "instruction": pair.instruction,
        "input": pair.input,
        "chosen": thinking.write(pair.reasoning, pair.answer),
        "rejected": write_answer(pair.rejected.reasoning, pair.rejected.answer),
    }
