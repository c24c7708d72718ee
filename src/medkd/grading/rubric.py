"""Rubrics of single questions: weighted criteria that a teacher writes and a judge checks.

In: a question, its record and reference; an answer. Out: criteria whose quotes stand in the record
or the reference; points earned of the points possible. Not done here: the ledger (`completers`).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from medkd.core import thinking
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.records import Completer, Message, NonEmpty, Record, Request, Sampling
from medkd.core.reviews import Decision, read_reviews, settle
from medkd.grading import load_table
from medkd.grading.judge import (
    find_last_object,
    load_rubric,
    make_request,
    read_completion,
    shorten,
)
from medkd.text.normalize import make_plain
from medkd.text.tables import read_rows

RUBRICS = "rubrics.jsonl"
MIN_CRITERIA, MAX_CRITERIA = 5, 12
MAX_POINTS = 10
MIN_QUOTE = 2
"""Characters of the shortest quote."""
WRITER_SAMPLING = Sampling(max_tokens=4096, temperature=0.0)


class Criterion(Record):
    """One thing that an answer should do, or should not."""

    text: NonEmpty
    points: float
    """Weight, -10 to 10 and not 0; below 0 for a fault."""
    quote: str = ""
    """What of the record or the reference it rests on, word for word; empty in public rubrics."""


class QuestionRubric(Record):
    """The rubric of one question: a line of `rubrics.jsonl`."""

    id: NonEmpty
    """Of the question."""
    criteria: tuple[Criterion, ...]
    question: str = ""
    reference: str = ""
    source: str = ""
    """Who wrote it: teacher and model, or a public dataset."""
    deidentified_by: str = ""


class RubricScore(NamedTuple):
    """An answer held against its rubric."""

    low: float
    """Points earned of the points possible, unread criteria counted against the answer."""
    high: float
    """The same, unread criteria counted for it."""
    unreadable: float
    """Share of the criteria on which the judge could not be read."""
    met: tuple[bool | None, ...]
    """Whether each criterion is met; None where unread."""


class UnusableRubricError(ValueError):
    """A teacher's text that is no rubric, with the reason for the count of drops."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


# Writing


def make_writer_request(question: str, reference: str) -> Request:
    """Write what a teacher is asked for a rubric; constant text first, the question last."""
    prompt = load_table("rubric_writer.yaml")
    texts = {"question": question, "reference": reference}
    shown = {name: shorten(text).replace("</", "＜/") for name, text in texts.items()}
    user = str(prompt["user"]).format(**shown)
    system = Message(role="system", content=prompt["system"])
    return Request(
        messages=(system, Message(role="user", content=user)),
        sampling=WRITER_SAMPLING,
    )


def read_criteria(text: str, question: str, reference: str) -> tuple[Criterion, ...]:
    """Read the criteria that a teacher wrote; raises UnusableRubricError.

    A criterion without points, or whose quote stands neither in the question nor in the reference,
    is left out; too few that are left make no rubric, and neither do those without a fault.

    >>> read_criteria("no", "头痛", "偏头痛")
    Traceback (most recent call last):
    medkd.grading.rubric.UnusableRubricError: no JSON object with criteria at the end
    """
    found = find_last_object(thinking.read(text).answer)
    listed = found.get("criteria") if found else None
    if not isinstance(listed, list):
        raise UnusableRubricError("unreadable", "no JSON object with criteria at the end")
    source = make_plain(f"{question}\n{reference}")
    criteria: list[Criterion] = []
    n_unfounded = 0
    for entry in cast(list[Any], listed)[: 2 * MAX_CRITERIA]:
        criterion = _read_criterion(entry)
        if criterion is None:
            continue
        quote = make_plain(criterion.quote)
        if len(quote) >= MIN_QUOTE and quote in source:
            criteria.append(criterion)
        else:
            n_unfounded += 1
    if len(criteria) < MIN_CRITERIA:
        reason = "quote_not_found" if n_unfounded else "too_few_criteria"
        detail = f"{len(criteria)} criteria of {len(listed)}, {n_unfounded} quotes not found"
        raise UnusableRubricError(reason, detail)
    criteria = criteria[:MAX_CRITERIA]
    if all(criterion.points > 0 for criterion in criteria):
        raise UnusableRubricError("no_negative_criterion", "no criterion describes a fault")
    return tuple(criteria)


def _read_criterion(entry: Any) -> Criterion | None:
    if not isinstance(entry, dict):
        return None
    fields = cast(dict[str, Any], entry)
    text, points, quote = (fields.get(name) for name in ("criterion", "points", "quote"))
    if not isinstance(text, str) or not text.strip():
        return None
    if not isinstance(points, int | float) or isinstance(points, bool):
        return None
    if not math.isfinite(points) or not 0 < abs(points) <= MAX_POINTS:
        return None
    return Criterion(
        text=text.strip(), points=points, quote=quote if isinstance(quote, str) else ""
    )


# Scoring


def criterion_request(question: str, answer: str, criterion: Criterion) -> Request:
    """Write what a judge is asked about one criterion."""
    texts = {
        "conversation": question,
        "answer": thinking.read(answer).answer,
        "criterion": criterion.text,
    }
    return make_request(load_rubric("criterion"), texts)


def score_rubrics(
    answers: Sequence[tuple[str, str, QuestionRubric]], completer: Completer
) -> list[RubricScore]:
    """Have answers judged criterion by criterion; each is a question, an answer and its rubric."""
    requests = [
        criterion_request(question, answer, criterion)
        for question, answer, rubric in answers
        for criterion in rubric.criteria
    ]
    rubric = load_rubric("criterion")
    completions = iter(completer.complete(requests))
    scores: list[RubricScore] = []
    for _, _, asked in answers:
        judged = [read_completion(rubric, next(completions)).judgement for _ in asked.criteria]
        met = [None if j is None else j.said["met"] == "yes" for j in judged]
        scores.append(count_points(asked.criteria, met))
    return scores


def count_points(criteria: Sequence[Criterion], met: Sequence[bool | None]) -> RubricScore:
    """Count the points earned of those possible; faults can take them below zero, as HealthBench
    has it (arXiv:2505.08775).

    >>> fever, fault = Criterion(text="names the fever", points=4), Criterion(text="x", points=-2)
    >>> count_points([fever, fault], [True, None])[:3]
    (0.5, 1.0, 0.5)
    """
    possible = math.fsum(c.points for c in criteria if c.points > 0)
    pairs = list(zip(criteria, met, strict=True))
    earned = math.fsum(c.points for c, is_met in pairs if is_met)
    unread = [c.points for c, is_met in pairs if is_met is None]
    low = earned + math.fsum(points for points in unread if points < 0)
    high = earned + math.fsum(points for points in unread if points > 0)
    return RubricScore(
        round(low / possible, 6), round(high / possible, 6), len(unread) / len(pairs), tuple(met)
    )


# Public rows


def is_healthbench(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is one of HealthBench: a conversation and its rubric."""
    return isinstance(row.get("prompt"), list) and isinstance(row.get("rubrics"), list)


def read_healthbench(row: Mapping[str, Any], name: str) -> tuple[list[Message], QuestionRubric]:
    """Read a row of HealthBench; raises KeyError, TypeError or ValueError where it is none."""
    messages = [
        Message(role=turn["role"], content=str(turn["content"]))
        for turn in cast(list[dict[str, Any]], row["prompt"])
    ]
    criteria = tuple(
        Criterion(text=str(entry["criterion"]), points=float(entry["points"]))
        for entry in cast(list[dict[str, Any]], row["rubrics"])
    )
    if not messages or not any(criterion.points > 0 for criterion in criteria):
        raise ValueError("no conversation, or no criterion that earns a point")
    conversation = "\n\n".join(f"{m.role}: {m.content}" for m in messages)
    key = str(row.get("prompt_id") or name)
    return messages, QuestionRubric(
        id=key, criteria=criteria, question=conversation, source="HealthBench"
    )


def read_rubrics(path: Path) -> dict[str, QuestionRubric]:
    """Read rubrics by question: of a directory of `rubric`, whose rejected ones are left out, or of
    a file in the form of HealthBench."""
    file = resolve_input(path, RUBRICS, made_by="rubric")
    first = next((row.content for row in read_rows(file) if not row.problem), None)
    if isinstance(first, dict) and is_healthbench(first):
        return _read_public(file)
    reviews = read_reviews(file.parent)
    rejected = {i for i, said in reviews.items() if settle(said).decision is Decision.REJECT}
    reader = RecordReader(file, QuestionRubric, made_by="rubric")
    return {rubric.id: rubric for rubric in reader if rubric.id not in rejected}


def _read_public(path: Path) -> dict[str, QuestionRubric]:
    found: dict[str, QuestionRubric] = {}
    for number, row in enumerate(read_rows(path), start=1):
        if isinstance(row.content, dict) and is_healthbench(row.content):
            rubric = read_healthbench(row.content, f"{path.stem}:{number}")[1]
            found[rubric.id] = rubric
    return found
