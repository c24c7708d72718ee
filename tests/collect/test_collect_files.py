"""Files of cases are read, and what cannot be read is named with its place."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medkd.collect.files import CaseFiles, read_cases
from medkd.collect.stage import Config, run
from medkd.core.errors import InputError, MedkdError
from medkd.core.records import RawCase


def row(number: int = 1, **sections: str) -> dict[str, object]:
    record = {
        "一般资料": "女，30岁",
        "主诉": "咳嗽3天",
        "现病史": "无",
        "诊断结果": "1.肺炎；2.哮喘",
        "": "",
        **sections,
    }
    return {
        "title": "咳嗽一例",
        "department": "内科病例 呼吸科病例",
        "url": f"https://bingli.iiyi.com/show/{number}-1.html",
        "id": str(number),
        "raw_medical_record": record,
    }


def lines(*rows: object) -> str:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows)


def collect(path: Path, **fields: object):
    return run(
        Config.model_validate(
            {"out": path.parent / "out", "source": "files", "input": path, **fields}
        )
    )


def written(path: Path) -> list[RawCase]:
    return [
        RawCase.model_validate_json(line)
        for line in (path.parent / "out/raw_cases.jsonl").read_bytes().splitlines()
    ]


@pytest.mark.parametrize("form", ["array", "lines", "one object"])
def test_an_array_lines_and_a_single_object_are_read_alike(tmp_path: Path, form: str):
    path = tmp_path / "cases.json"
    text = {
        "array": json.dumps([row()], indent=1),
        "lines": lines(row()),
        "one object": json.dumps(row(), indent=2),
    }[form]
    path.write_text(text, encoding="utf-8")
    assert collect(path).counts.model_dump() == {"read": 1, "kept": 1, "dropped": {}}
    assert written(path) == [
        RawCase(
            id="iiyi:1",
            source="iiyi",
            url="https://bingli.iiyi.com/show/1-1.html",
            licence="iiyi.com: text under copyright of the site and its authors; its terms apply, not for redistribution",
            title="咳嗽一例",
            department=("内科", "呼吸科"),
            sections={"基本信息": "女，30岁", "主诉": "咳嗽3天", "诊断结果": "1.肺炎；2.哮喘"},
            diagnosis=("肺炎", "哮喘"),
        )
    ]


def test_our_own_records_are_read_back_as_they_are(tmp_path: Path):
    first = tmp_path / "a" / "cases.jsonl"
    first.parent.mkdir()
    first.write_text(lines(row(1), row(2)), encoding="utf-8")
    collect(first)
    again = tmp_path / "b" / "again.jsonl"
    run(Config(out=again.parent / "out", source="files", input=first.parent / "out"))
    assert written(again) == written(first)


def test_a_broken_line_is_named_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "cases.jsonl"
    path.write_text(
        lines(row(1)) + '{"id": 2, broken\n\n' + lines(row(3), {"a": 1}, [1], row(3)),
        encoding="utf-8",
    )
    manifest = collect(path)
    assert manifest.counts.model_dump() == {
        "read": 6,
        "kept": 2,
        "dropped": {"wrong_schema": 2, "broken_line": 1, "duplicate_id": 1},
    }
    told = capsys.readouterr().err
    assert (
        "cases.jsonl:2: broken JSON" in told
        and "cases.jsonl:5: found the fields a; expected title, department" in told
    )
    assert manifest.facts["problems"][0].startswith("cases.jsonl:2")


def test_gb18030_and_a_byte_order_mark_are_understood(tmp_path: Path):
    path = tmp_path / "cases.jsonl"
    for encoding in ("gb18030", "utf-8-sig"):
        path.write_text(lines(row(1, 主诉="咳嗽，伴胸闷憋气三天余")), encoding=encoding)
        assert read_cases(path)[0].sections["主诉"] == "咳嗽，伴胸闷憋气三天余"


def test_one_bad_byte_does_not_change_how_the_rest_is_read(tmp_path: Path):
    path = tmp_path / "cases.jsonl"
    path.write_bytes(lines(row(1), row(2)).encode().replace("咳嗽".encode(), b"\xff", 1))
    assert [case.sections["主诉"] for case in read_cases(path)] == ["咳嗽3天", "咳嗽3天"]


def test_a_case_of_another_origin_has_its_own_source_and_a_stable_id(tmp_path: Path):
    path = tmp_path / "cases.jsonl"
    own = {
        "raw_medical_record": {"主诉": ["咳嗽", "发热"], "查体": None, "诊断": "肺炎"},
        "department": ["内科", "呼吸科"],
        "id": 17,
    }
    path.write_text(
        lines(own, {**own, "id": None}, {**own, "id": 3, "raw_medical_record": {"主诉": "无"}}),
        encoding="utf-8",
    )
    reader = CaseFiles(path)
    numbered, unnumbered = list(reader)
    assert numbered.id == "files:17" and numbered.department == ("内科", "呼吸科")
    assert numbered.sections == {
        "主诉": "咳嗽\n发热",
        "临床诊断": "肺炎",
    } and numbered.diagnosis == ("肺炎",)
    assert len(unnumbered.id) == len("files:") + 12 and reader.dropped == {"empty": 1}


def test_a_limit_takes_the_first_cases(tmp_path: Path):
    path = tmp_path / "cases.jsonl"
    path.write_text(lines(*(row(i) for i in range(1, 9))), encoding="utf-8")
    assert collect(path, limit=3).counts.kept == 3
    assert [case.id for case in written(path)] == ["iiyi:1", "iiyi:2", "iiyi:3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; check --input"),
        (b" \n\n", "the file is empty; check --input"),
        (b"%PDF-1.7 \x00\x01", "no JSON \\(it begins with '%PDF-1.7"),
        (
            b"title,department\na,b\n",
            "expected a JSON array or JSON Lines with title, department, url, id, raw_medical_record",
        ),
        (b"[1, 2", r"cases.json:1: broken JSON \(.*column 6\)"),
        (b"[]", "holds no case; check --input"),
        (
            b'[{"question": 1, "answer": 2}]',
            "item 1: found the fields question, answer; expected title, department",
        ),
        (
            b'{"question": 1}\n{"answer": 2}\n',
            "cases.json:1: found the fields question; expected title",
        ),
        (b'[{"sections": {"a": "b"}}]', "item 1: no id"),
        (b"[" * 100_000, "cannot be read"),
        (b"{\xff\xfe\xff\xff\xff", "neither UTF-8 nor GB18030"),
    ],
)
def test_a_file_without_any_case_is_refused_in_one_line(
    tmp_path: Path, content: bytes, message: str
):
    path = tmp_path / "cases.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        collect(path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out/raw_cases.jsonl").exists()


def test_a_missing_file_is_named_and_nothing_is_made(tmp_path: Path):
    for given_path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match=r"no such file.*; check --input"):
            run(Config(out=tmp_path / "out", source="files", input=given_path))
    with pytest.raises(InputError, match="--source files needs --input"):
        run(Config(out=tmp_path / "out", source="files"))
    with pytest.raises(InputError, match="--input is read with --source files only"):
        run(Config(out=tmp_path / "out", input=tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_changed_file_needs_a_word_before_its_output_is_replaced(tmp_path: Path):
    path = tmp_path / "cases.jsonl"
    path.write_text(lines(row(1)), encoding="utf-8")
    collect(path)
    path.write_text(lines(row(1), row(2)), encoding="utf-8")
    with pytest.raises(InputError, match="--overwrite"):
        collect(path)
    assert collect(path, overwrite=True).counts.kept == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "url", "title", "department", "sections", "raw_medical_record", "主诉", ""]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.one_of(
        st.lists(json_values, max_size=4).map(json.dumps).map(str.encode),
        st.binary(max_size=60),
        st.just(b'[{"raw_medical_record":{"\\ud800":"\\ud800x"}}]'),
    )
)
def test_no_file_ends_in_a_stack_trace(tmp_path: Path, content: bytes):
    path = tmp_path / "wild.json"
    path.write_bytes(content)
    try:
        for case in read_cases(path):
            case.model_dump_json()
    except MedkdError as error:
        assert "\n" not in str(error)
