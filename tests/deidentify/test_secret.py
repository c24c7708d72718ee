import json
import re
from datetime import date
from pathlib import Path

import pytest

from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, write_records
from medkd.core.records import Case, RawCase
from medkd.deidentify.replace import open_map
from medkd.deidentify.stage import Config, run

SECRET = "a secret of this house, 1234"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    notes = [
        ("files:1", "李建国，男，2021年3月5日入院，王主任查房。"),
        ("files:2", "2021年3月9日复查，患者李建国，女儿王芳陪同。王主任查房。"),
    ]
    cases = [
        RawCase(id=id_, source="files", sections={"病案": "P-77", "现病史": text})
        for id_, text in notes
    ]
    write_records(tmp_path / "raw" / "raw_cases.jsonl", cases)
    (tmp_path / "secret").write_text(SECRET)
    return tmp_path / "raw"


def deidentified(source: Path, out: str, **fields: object) -> list[str]:
    top = source.parent
    run(Config(input=source, out=top / out, secret_file=top / "secret", **fields))  # pyright: ignore[reportArgumentType]
    return [
        case.sections["现病史"]
        for case in RecordReader(top / out / "cases.jsonl", Case, made_by="deidentify")
    ]


def test_one_patient_gets_one_shift_and_one_mark_in_all_notes_and_runs(source: Path) -> None:
    first, second = deidentified(source, "a", patient_key="病案")
    name = first.split("，")[0]
    assert name.startswith("[姓名") and name in second and "李建国" not in first + second
    days = [re.search(r"(\d+)年(\d+)月(\d+)日", text) for text in (first, second)]
    first_day, second_day = (date(*map(int, day.groups())) for day in days if day)
    assert (second_day - first_day).days == 4 and first_day.year < 2022
    assert deidentified(source, "b", patient_key="病案") == [first, second]


def test_another_secret_gives_other_marks_and_dates(source: Path) -> None:
    before = deidentified(source, "a", patient_key="病案")
    (source.parent / "secret").write_text("another secret of this house")
    assert deidentified(source, "b", patient_key="病案") != before


def test_a_case_without_the_key_is_counted(source: Path) -> None:
    deidentified(source, "a", patient_key="就诊人")
    manifest = json.loads((source.parent / "a" / "manifest.json").read_text())
    assert manifest["facts"]["without_patient_key"] == 2


def test_the_map_is_sealed_and_opens_with_the_secret_alone(source: Path) -> None:
    path = source.parent / "map.sealed"
    deidentified(source, "a", patient_key="病案", map=path)
    assert "李建国" not in path.read_text() and path.stat().st_mode & 0o077 == 0
    rows = open_map(path, SECRET.encode())
    assert [row["id"] for row in rows] == ["files:1", "files:2"]
    assert "李建国" in rows[0]["surrogates"].values() and rows[0]["days"] == rows[1]["days"]
    with pytest.raises(InputError, match="another secret"):
        open_map(path, b"not the secret of it")


def test_the_secret_stands_in_no_file(source: Path) -> None:
    deidentified(source, "a", patient_key="病案", map=source.parent / "map.sealed")
    written = [
        path for path in source.parent.rglob("*") if path.is_file() and path.name != "secret"
    ]
    assert all(SECRET.encode() not in path.read_bytes() for path in written)


def test_a_short_secret_and_a_map_among_the_data_are_refused(source: Path) -> None:
    with pytest.raises(InputError, match="outside"):
        deidentified(source, "a", map=source.parent / "a" / "map.sealed")
    (source.parent / "secret").write_text("short")
    with pytest.raises(InputError, match="at least 16 characters"):
        deidentified(source, "a", patient_key="病案")
