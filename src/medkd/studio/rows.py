"""What a row of any stage shows: one question, one reasoning, one answer, verdicts, and where it
comes from.

In: a decoded line. Out: a `Shown`, whatever the record. Not done here: HTML (`studio.present`).
"""

from typing import Any, NamedTuple, cast

from medkd.core.records import Verdict
from medkd.grading.diagnosis import grade
from medkd.studio.shelf import Row


class Shown(NamedTuple):
    """The parts of a row that a person reads; what a record lacks is empty."""

    id: str
    question: str = ""
    reasoning: str = ""
    answer: str = ""
    reference: str = ""
    verdicts: tuple[Verdict, ...] = ()
    facts: dict[str, str] = {}  # noqa: RUF012 - a default of a NamedTuple, never changed


KEPT = "kept"
RIGHT, WRONG, NO_REFERENCE = "right", "wrong", "no_reference"


def show_row(row: Row) -> Shown:
    """Read a row of any stage."""
    if "rationale" in row and "verdicts" in row:
        verdicts = tuple(Verdict.model_construct(**verdict) for verdict in row["verdicts"])
        return _show_rationale(row["rationale"])._replace(verdicts=verdicts)
    if isinstance(row.get("question"), dict):
        return _show_rationale(row)
    if "sections" in row:
        question = "\n".join(f"{name}：{text}" for name, text in row["sections"].items())
        return Shown(
            str(row.get("id", "")),
            question,
            reference=_join(row.get("diagnosis")),
            facts=_facts(row),
        )
    question = row.get("input") or row.get("question") or row.get("line") or ""
    return Shown(
        str(row.get("id", "")),
        str(question),
        str(row.get("reasoning") or ""),
        str(row.get("answer") or ""),
        str(row.get("reference") or ""),
        facts=_facts(row)
        | (
            {"lineage": _join(list(row["lineage"].values()))}
            if isinstance(row.get("lineage"), dict)
            else {}
        ),
    )


def _show_rationale(row: Row) -> Shown:
    question = cast(Row, row["question"])
    return Shown(
        str(row["id"]),
        str(question["input"]),
        str(row["reasoning"]),
        str(row["answer"]),
        str(question["reference"]),
        facts=_facts(question) | _facts(row),
    )


FACTS = (
    "source",
    "url",
    "department",
    "split",
    "style",
    "model",
    "mode",
    "finish_reason",
    "attempts",
    "n_tokens",
    "deidentified_by",
)


def _facts(row: Row) -> dict[str, str]:
    return {name: _join(row[name]) for name in FACTS if row.get(name)}


def _join(value: Any) -> str:
    if isinstance(value, str | int | float) or value is None:
        return "" if value is None else str(value)
    return "；".join(_join(part) for part in value if part)


def find_reason(row: Row) -> str:
    """Give the reason a row fell for, its first failed verdict; `kept` where there is none, nothing
    for rows without verdicts."""
    if "verdicts" not in row:
        return ""
    return next(
        (str(verdict.get("reason")) for verdict in row["verdicts"] if not verdict.get("passed")),
        KEPT,
    )


def find_outcome(row: Row) -> str:
    """Say how a model's answer came out: its ending where that was no stop, else right or wrong."""
    if row.get("finish_reason") not in (
        "stop",
        "",
        None,
    ):  # empty where another tool wrote the answers
        return str(row["finish_reason"])
    if not row.get("reference"):
        return NO_REFERENCE
    return RIGHT if grade(str(row["answer"]), str(row["reference"])).principal else WRONG


def find_tag(row: Row) -> str:
    """Give what a row is filtered by: the reason it fell for, how its answer came out, or its
    split."""
    if "verdicts" in row:
        return find_reason(row)
    if "n_tokens" in row and "raw" in row:
        return find_outcome(row)
    return str(row.get("split") or row.get("style") or "")


def find_id(row: Row) -> str:
    """Give the id of a row's rationale, or of the row itself."""
    return str(row["rationale"]["id"] if "rationale" in row else row.get("id", ""))
