"""What a row of any stage shows: one question, one reasoning, one answer, verdicts, and where it
comes from.

In: a decoded line. Out: a `Shown`, whatever the record; what a row is filtered by. Not done here:
HTML (`templates/case.html`), marks (`studio.marks`).
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from medkd.core.records import Verdict
from medkd.report.evaluations import find_verdict
from medkd.studio.jsonl_index import Row

KEPT = "kept"
UNDECIDED = "undecided"
FACTS = (
    *("source", "url", "department", "task", "language", "split", "style", "model", "mode"),
    *("finish_reason", "attempts", "n_tokens", "known", "section", "rule", "state"),
    *("deidentified_by", "lineage"),
)


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
