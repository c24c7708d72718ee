"""What a row of any stage shows: one question, one reasoning, one answer, verdicts, and where it
comes from.

In: a decoded line. Out: a `Shown`, whatever the record; what a row is filtered by. Not done here:
HTML (`templates/case.html`), marks (`studio.marks`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from medkd.core.records import Verdict
from medkd.evaluate.scoring import find_verdict
from medkd.studio.jsonl_index import Row

KEPT = "kept"
UNDECIDED = "undecided"
FACTS = (
    "source",
    "url",
    "department",
    "task",
    "language",
    "split",
    "style",
    "model",
    "mode",
    "finish_reason",
    "attempts",
    "n_tokens",
    "known",
    "section",
    "rule",
    "state",
    "deidentified_by",
)


class Shown(NamedTuple):
    """The parts of a row that a person reads; what a record lacks is empty."""

    id: str
    question: str = ""
    reasoning: str = ""
    answer: str = ""
    reference: str = ""
    verdicts: tuple[Verdict, ...] = ()
    facts: Mapping[str, str] = {}
    teacher: str = ""
    """A teacher's whole output, where the row holds one to compare with."""


def show_row(row: Row) -> Shown:
    """Read a row of any stage."""
    if isinstance(row.get("rationale"), dict) and isinstance(row.get("verdicts"), list):
        verdicts = tuple(
            Verdict.model_construct(**cast(Row, verdict))
            for verdict in cast(list[Any], row["verdicts"])
            if isinstance(verdict, dict)
        )
        return _show_rationale(cast(Row, row["rationale"]))._replace(verdicts=verdicts)
    if isinstance(row.get("question"), dict):
        return _show_rationale(row)
    if "context" in row and "rule" in row:  # a span that `prepare` took out
        context, after = str(row["context"]), str(row.get("after") or "")
        return Shown(find_id(row), context, answer=after, facts=_facts(row))
    if isinstance(row.get("sections"), dict):
        sections = cast(Row, row["sections"])
        question = "\n".join(f"{name}：{text}" for name, text in sections.items())
        reference = _join(row.get("diagnosis"))
        return Shown(find_id(row), question, reference=reference, facts=_facts(row))
    facts = _facts(row)
    answer = str(row.get("answer") or "")
    if isinstance(row.get("criteria"), list):  # a rubric
        criteria = (cast(Row, one) for one in cast(list[Any], row["criteria"]))
        answer = "\n".join(f"{c['points']:+g}  {c['text']} 「{c['quote']}」" for c in criteria)
    if isinstance(row.get("lineage"), dict):
        facts["lineage"] = _join(list(cast(Row, row["lineage"]).values()))
    question = row.get("input") or row.get("question") or row.get("line")
    if not question:
        question = "\n".join(f"{name}: {_join(value)}" for name, value in row.items())
    return Shown(
        find_id(row),
        str(question),
        reasoning=str(row.get("reasoning") or ""),
        answer=answer,
        reference=str(row.get("reference") or ""),
        teacher=str(row.get("teacher") or ""),
        facts=facts,
    )


def _show_rationale(row: Row) -> Shown:
    question = cast(Row, row["question"])
    return Shown(
        find_id(row),
        str(question.get("input", "")),
        str(row.get("reasoning", "")),
        str(row.get("answer", "")),
        str(question.get("reference", "")),
        facts=_facts(question) | _facts(row),
    )


def _facts(row: Row) -> dict[str, str]:
    return {name: _join(row[name]) for name in FACTS if row.get(name)}


def _join(value: Any) -> str:
    if isinstance(value, str | int | float) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, dict):
        return "；".join(f"{key}: {_join(part)}" for key, part in cast(Row, value).items() if part)
    return "；".join(_join(part) for part in cast(list[Any], value) if part)


def find_id(row: Row) -> str:
    """Return the id of a row's rationale, or of the row itself."""
    inner = row.get("rationale")
    return str(cast(Row, inner if isinstance(inner, dict) else row).get("id", ""))


def find_reason(row: Row) -> str:
    """Return the reason a row fell for, its first failed verdict; `kept` where there is none,
    nothing for rows without verdicts."""
    if not isinstance(row.get("verdicts"), list):
        return str(row.get("reason") or row.get("rule") or "")
    verdicts = (cast(Row, v) for v in cast(list[Any], row["verdicts"]) if isinstance(v, dict))
    return next((str(v.get("reason")) for v in verdicts if not v.get("passed")), KEPT)


def find_facets(row: Row) -> dict[str, str]:
    """Return what a row is filtered by: what became of it, and what it is."""
    inner = cast(Row, row["rationale"]) if isinstance(row.get("rationale"), dict) else row
    question = cast(Row, inner["question"]) if isinstance(inner.get("question"), dict) else inner
    department = question.get("department")
    first = cast(list[Any], department)[:1] if isinstance(department, list) else []
    found = {
        "reason": find_reason(row),
        "finish_reason": str(inner.get("finish_reason") or ""),
        "source": str(question.get("source") or ""),
        "department": str(first[0]) if first else "",
        "task": str(question.get("task") or ""),
        "language": str(question.get("language") or ""),
        "split": str(question.get("split") or ""),
        "style": str(row.get("style") or ""),
    }
    return {name: value for name, value in found.items() if value}


def find_outcome(prediction: Row, scored: Row | None) -> str:
    """Say how a model's answer came out: its ending where that was no stop, else the verdict that
    the evaluation wrote into `rows.jsonl`."""
    ending = str(prediction.get("finish_reason") or "stop")
    if ending != "stop":  # empty where another tool wrote the answers
        return ending
    scores = cast("dict[str, float]", (scored or {}).get("scores") or {})
    return find_verdict(scores) or UNDECIDED
