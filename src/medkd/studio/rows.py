"""What a row of any stage shows: one question, one reasoning, one answer, verdicts, and where it
comes from; its texts in pieces, with what is cited, unfounded, masked or taken out marked.

In: a decoded line. Out: a `Shown`, whatever the record; what a row is filtered by; pieces of text.
Not done here: HTML (`templates/case.html`), judging (`grading.checks`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from string import ascii_lowercase, ascii_uppercase
from typing import Any, NamedTuple, cast

from medkd.core.records import Verdict
from medkd.grading.checks import find_claims
from medkd.grading.scores import find_verdict
from medkd.studio.jsonl_index import Row
from medkd.text.normalize import View, make_view, normalize

KEPT = "kept"
UNDECIDED = "undecided"
FACTS = (
    *("source", "url", "department", "task", "language", "split", "style", "model", "mode"),
    *("finish_reason", "attempts", "n_tokens", "known", "section", "rule", "state"),
    *("deidentified_by", "lineage"),
)


RUN = 4
"""Characters that record and reasoning must share in a row; of a word in Latin letters all."""
_WORD = re.compile(r"[a-z]+")
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
"""Every letter stays in its place."""
_BREAK = re.compile(r"[\s，。、；：！？,;:!?()（）\[\]【】<>\"“”]")
_NUMBER_AT_END = re.compile(r"\d{1,9}(?:\.\d{1,9})?$")
"""A claim is a number, a measure and its number, or a finding behind 无 or 有."""
_MASK = re.compile(r"\[[^\[\]\n]{1,20}\]|⟦[^⟦⟧]{0,5000}⟧")


class Piece(NamedTuple):
    """A stretch of text and its mark: `cited`, `unfounded`, `found`, `masked`,
    `removed` or none."""

    text: str
    mark: str = ""


Span = tuple[int, int, str]
"""Where a mark begins and ends, and its name."""


class Shown(NamedTuple):
    """The parts of a row that a person reads; what a record lacks is empty."""

    id: str
    question: str
    reasoning: str
    answer: str
    reference: str
    verdicts: list[Verdict]
    facts: Mapping[str, str]
    teacher: str
    """A teacher's whole output, where the row holds one to compare with."""


def show_row(row: Row) -> Shown:
    """Read a row of any stage."""
    inner, question = _open(row)
    both = {**question, **inner}
    return Shown(
        id=find_id(row),
        question=_find_question(question),
        reasoning=_join(inner.get("reasoning")),
        answer=_find_answer(inner),
        reference=_join(question.get("reference") or question.get("diagnosis")),
        verdicts=[Verdict.model_construct(**verdict) for verdict in _take_objects(row, "verdicts")],
        facts={name: _join(both[name]) for name in FACTS if both.get(name)},
        teacher=_join(inner.get("teacher")),
    )


def _open(row: Row) -> tuple[Row, Row]:
    """Return what was answered and what was asked; the same for a record that holds both."""
    inner = row["rationale"] if isinstance(row.get("rationale"), dict) else row
    return inner, inner["question"] if isinstance(inner.get("question"), dict) else inner


def _find_question(asked: Row) -> str:
    if "context" in asked and "rule" in asked:  # a span that `prepare` took out
        return str(asked["context"])
    if isinstance(asked.get("sections"), dict):
        sections = cast(Row, asked["sections"])
        return "\n".join(f"{name}：{text}" for name, text in sections.items())
    known = asked.get("input") or asked.get("question") or asked.get("line")
    return str(known or "\n".join(f"{name}: {_join(value)}" for name, value in asked.items()))


def _find_answer(inner: Row) -> str:
    if "context" in inner and "rule" in inner:
        return _join(inner.get("after"))
    if criteria := _take_objects(inner, "criteria"):  # a rubric
        return "\n".join(f"{c['points']:+g}  {c['text']} 「{c['quote']}」" for c in criteria)
    return _join(inner.get("answer"))


def _take_objects(row: Row, name: str) -> list[Row]:
    listed = cast(Iterable[Any], row[name] if isinstance(row.get(name), list) else ())
    return [cast(Row, one) for one in listed if isinstance(one, dict)]


def _join(value: Any) -> str:
    if isinstance(value, str | int | float) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, dict):
        return "；".join(f"{key}: {_join(part)}" for key, part in cast(Row, value).items() if part)
    return "；".join(_join(part) for part in cast(list[Any], value) if part)


def find_id(row: Row) -> str:
    """Return the id of a row's rationale, or of the row itself."""
    return str(_open(row)[0].get("id", ""))


def find_facets(row: Row) -> dict[str, str]:
    """Return what a row is filtered by: what became of it, and what it is."""
    inner, question = _open(row)
    department = question.get("department")
    found = {
        "reason": _find_reason(row),
        "finish_reason": inner.get("finish_reason"),
        "source": question.get("source"),
        "department": department[0] if isinstance(department, list) and department else "",
        "task": question.get("task"),
        "language": question.get("language"),
        "split": question.get("split"),
        "style": row.get("style"),
    }
    return {name: str(value) for name, value in found.items() if value}


def _find_reason(row: Row) -> str:
    """Return the reason a row fell for, its first failed verdict; `kept` where there is none,
    nothing for rows without verdicts."""
    if not isinstance(row.get("verdicts"), list):
        return str(row.get("reason") or row.get("rule") or "")
    failed = (v for v in _take_objects(row, "verdicts") if not v.get("passed"))
    return next((str(verdict.get("reason")) for verdict in failed), KEPT)


def find_outcome(prediction: Row, scored: Row | None) -> str:
    """Say how a model's answer came out: its ending where that was no stop, else the verdict that
    the evaluation wrote into `rows.jsonl`."""
    ending = str(prediction.get("finish_reason") or "stop")
    if ending != "stop":  # empty where another tool wrote the answers
        return ending
    scores = cast("dict[str, float]", (scored or {}).get("scores") or {})
    return find_verdict(scores) or UNDECIDED


# --- Marks: texts in pieces ---------------------------------------------------------------------


def cut(text: str, spans: Iterable[Span]) -> list[Piece]:
    """Cut a text where its marks change; of marks that overlap the later one counts.

    >>> cut("abc", [(1, 2, "found")])
    [Piece(text='a', mark=''), Piece(text='b', mark='found'), Piece(text='c', mark='')]
    """
    marks = [""] * len(text)
    for start, end, mark in spans:
        marks[start:end] = [mark] * (min(end, len(text)) - start)
    pieces: list[Piece] = []
    at = 0
    for mark, group in groupby(marks):
        n = len(list(group))
        pieces.append(Piece(text[at : at + n], mark))
        at += n
    return pieces


def mark_record(record: str, reasoning: str) -> list[Piece]:
    """Mark in the record what the reasoning cites."""
    view = make_view(record)
    text, thought = (part.translate(_LOWER) for part in (view.text, normalize(reasoning)))
    parts = _BREAK.split(thought)
    known = {part[at : at + RUN] for part in parts for at in range(len(part) - RUN + 1)}
    runs = (at for at in range(len(text) - RUN + 1) if text[at : at + RUN] in known)
    spans = [(*view.original_span(at, at + RUN), "cited") for at in runs]
    words = set(_WORD.findall(thought))
    others = (found.span() for found in _WORD.finditer(text) if found[0] not in words)
    spans += [(*view.original_span(*span), "") for span in others]
    for claim, is_founded in find_claims(reasoning, record):
        if is_founded and (number := _NUMBER_AT_END.search(claim)):
            spans += _find(view, _number_pattern(number[0]), "cited")
    return cut(record, spans)


def mark_reasoning(reasoning: str, record: str) -> list[Piece]:
    """Mark in the reasoning the numbers and denied findings that do not stand in the record."""
    view = make_view(reasoning)
    spans: list[Span] = []
    for claim, is_founded in find_claims(reasoning, record):
        if not is_founded and (number := _NUMBER_AT_END.search(claim)):
            spans += _find(view, _number_pattern(number[0]), "unfounded")
        elif not is_founded and claim.startswith("无"):
            denied = rf"(?:否认|未见|没有|无)(?:明显的?)?{re.escape(claim[1:])}"
            spans += _find(view, denied, "unfounded")
    return cut(reasoning, spans)


def _number_pattern(number: str) -> str:
    return rf"(?<![\d.]){re.escape(number)}(?![\d])(?!\.\d)"


def _find(view: View, pattern: str, mark: str) -> Iterator[Span]:
    for found in re.finditer(pattern, view.text):
        yield (*view.original_span(*found.span()), mark)


def find_replaced(before: str, after: str, spans: Sequence[tuple[int, int]]) -> list[Span]:
    """Find in a text what stands where these stretches of the text before it stood; nothing where
    it is no such text.

    >>> find_replaced("于2024年5月2日咳嗽", "于2023年11月8日咳嗽", [(1, 10)])
    [(1, 11, 'masked')]
    """
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(before)]
    kept = [before[end:start] for end, start in zip(ends, starts, strict=True)]
    found: list[Span] = []
    at, last = len(kept[0]), len(after) - len(kept[-1])
    for part in kept[1:-1]:
        start = after.find(part, at, last)
        if start < 0:
            return []
        found.append((at, start, "masked"))
        at = start + len(part)
    is_such = bool(spans) and at <= last and after.startswith(kept[0]) and after.endswith(kept[-1])
    return [*found, (at, last, "masked")] if is_such else []


def mark_masks(text: str) -> list[Piece]:
    """Mark what de-identification has put in the place of an identifier, and ⟦what was taken
    out⟧.

    >>> mark_masks("患者[姓名1]，男")
    [Piece(text='患者', mark=''), Piece(text='[姓名1]', mark='masked'), Piece(text='，男', mark='')]
    """
    names = {"⟦": "removed", "[": "masked"}
    return cut(text, ((*found.span(), names[found[0][0]]) for found in _MASK.finditer(text)))
