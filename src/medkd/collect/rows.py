"""One row of a file to a case: a crawler's row, our own record, or sections side by side.

In: a JSON object or the cells of a table. Out: a `RawCase`, or None where it is none of these. Not
done here: reading files (`files`).
"""

import hashlib
import json
from typing import Any, cast

from medkd.collect.pages import licence_note, to_plain_text
from medkd.collect.sections import (
    MISSING_WORDS,
    SectionNames,
    find_diagnosis,
    join_sections,
    tidy,
    unify_departments,
)
from medkd.collect.tables import Columns
from medkd.core.records import RawCase


def read_row(fields: dict[str, Any], names: SectionNames, columns: Columns) -> RawCase | None:
    """Read a row in whichever of its shapes; None where it has none of them. Raises ValidationError
    for a broken record of our own."""
    if "sections" in fields:
        return RawCase.model_validate_json(json.dumps(_without_surrogates(fields)))
    if not isinstance(fields.get("raw_medical_record"), dict):
        fields = columns.sort({str(name): value for name, value in fields.items()})
    return _read_foreign(fields, names) if "raw_medical_record" in fields else None


def _read_foreign(fields: dict[str, Any], names: SectionNames) -> RawCase:
    """Read a crawler's row: title, department, url, id and the sections."""
    texts = {
        str(name): to_plain_text(_as_text(value))
        for name, value in cast("dict[str, Any]", fields["raw_medical_record"]).items()
    }
    sections = join_sections(
        ((name, text) for name, text in texts.items() if tidy(text) not in MISSING_WORDS), names
    )
    url = tidy(_as_text(fields.get("url")))
    source = "iiyi" if "iiyi.com/" in url else "files"
    department = fields.get("department")
    departments = (
        cast("list[Any]", department)
        if isinstance(department, list)
        else _as_text(department).split()
    )
    return RawCase(
        id=f"{source}:{tidy(_as_text(fields.get('id'))) or _fingerprint(sections)}",
        id_column=tidy(_as_text(fields.get("id_column"))),
        source=source,
        url=url,
        retrieved_at=tidy(_as_text(fields.get("retrieved_at"))),
        licence=tidy(_as_text(fields.get("licence"))) or licence_note(url),
        title=tidy(_as_text(fields.get("title"))).replace("\n", " "),
        department=unify_departments(_as_text(name) for name in departments),
        sections=sections,
        diagnosis=find_diagnosis(sections),
    )


def _as_text(value: Any) -> str:
    """Turn what stands for a text into one: lists line by line, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(_as_text(item) for item in cast("list[Any]", value))
    return str(value)


def _fingerprint(sections: dict[str, str]) -> str:
    """Give a case without an id one that stays the same wherever its row stands."""
    return hashlib.sha256(
        json.dumps(sections, ensure_ascii=False, sort_keys=True).encode()
    ).hexdigest()[:12]


def _without_surrogates(value: Any) -> Any:
    """Drop the halves of characters that JSON can spell and UTF-8 cannot."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-8", "ignore"))
