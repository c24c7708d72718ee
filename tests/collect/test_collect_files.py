"""Files of cases are read, and what cannot be read is named with its place."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook

from medkd.collect.files import CaseFiles
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
        assert next(iter(CaseFiles(path))).sections["主诉"] == "咳嗽，伴胸闷憋气三天余"


def test_one_bad_byte_does_not_change_how_the_rest_is_read(tmp_path: Path):
    path = tmp_path / "cases.jsonl"
    path.write_bytes(lines(row(1), row(2)).encode().replace("咳嗽".encode(), b"\xff", 1))
    files = CaseFiles(path)
    assert [case.sections["主诉"] for case in files] == ["咳嗽3天"]
    assert files.problems == ["cases.jsonl:1: bytes that are no UTF-8; passed over"]


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
        (b"%PDF-1.7 \x00\x01", "a PDF; copy its text"),
        (
            b"title,department\na,b\n",
            "expected a JSON array or JSON Lines; a table goes by its suffix",
        ),
        (b"[1, 2", r"cases.json:1: the JSON array breaks off after 2 elements"),
        (b"[]", "holds no case; check --input"),
        (
            b'[{"question": 1, "answer": 2}]',
            r"item 1: question is a number \(1\); check --input",
        ),
        (
            b'{"question": 1}\n{"answer": 2}\n',
            "cases.json:1: found the fields question; expected title",
        ),
        (b'[{"source": "files", "sections": {"a": "b"}}]', "item 1: no id"),
        (b"[" * 100_000, "nested deeper than 64"),
        (b"{\xff\xfe\xff\xff\xff", "neither UTF-8, UTF-16, GB18030 nor Big5"),
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
        for case in CaseFiles(path):
            case.model_dump_json()
    except MedkdError as error:
        assert "\n" not in str(error)


def collect_rows(tmp_path: Path, name: str, content: str, **fields: object) -> list[RawCase]:
    (tmp_path / name).write_text(content, encoding="utf-8")
    collect(tmp_path / name, **fields)
    return written(tmp_path / name)


NULLS = [
    "\\N",
    "#N/A",
    "nan",
    "None",
    "NULL",
    "N/A",
    "——",
    "#REF!",
    "undefined",
    "[]",
    "{}",
    "--",
    "未填写",
]


@pytest.mark.parametrize("null", NULLS)
def test_what_tables_write_for_nothing_is_no_section(tmp_path: Path, null: str):
    (case,) = collect_rows(tmp_path, "a.csv", f"主诉,既往史,诊断\n腹痛,{null},肺炎\n")
    assert set(case.sections) == {"主诉", "临床诊断"}
    record = {"主诉": "腹痛", "既往史": null, "个人史": float("nan"), "诊断": "肺炎"}
    (tmp_path / "b").mkdir()
    (case,) = collect_rows(tmp_path / "b", "b.json", json.dumps([{"raw_medical_record": record}]))
    assert set(case.sections) == {"主诉", "临床诊断"}


OBJECTS = {
    "by kind": {"主要诊断": "急性胆囊炎", "其他诊断": ["高血压病"]},
    "by number": {"1": "急性胆囊炎", "2": "高血压病"},
    "a list of objects": [
        {"诊断名称": "急性胆囊炎", "诊断编码": "K81.0", "诊断日期": "2021-01-01"},
        {"诊断名称": "高血压病", "诊断编码": "I10"},
    ],
    "with codes": {"入院诊断": "急性胆囊炎", "诊断编码": "K81.0", "出院诊断": "高血压病"},
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_in_place_of_a_section_becomes_its_values(tmp_path: Path, name: str):
    record = {"查体": {"体温": 38.0, "神志": "清", "黄疸": False}, "诊断结果": OBJECTS[name]}
    rows = json.dumps([{"id": 1, "raw_medical_record": record}], ensure_ascii=False)
    (case,) = collect_rows(tmp_path, "a.json", rows)
    assert case.diagnosis == ("急性胆囊炎", "高血压病")
    assert case.sections["查体"] == "体温：38\n神志：清\n黄疸：否"


def test_objects_that_say_nothing_are_refused_by_the_name_of_their_field(tmp_path: Path):
    wrong = [
        {"raw_medical_record": {"主诉": "腹痛", "诊断结果": {"icd": "K81.0"}}},
        {"id": {"a": 1}, "raw_medical_record": {"主诉": "腹痛"}},
        {"id": 1, "raw_medical_record": {"主诉": "腹痛"}},
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(wrong))
    files = CaseFiles(path)
    assert len(list(files)) == 1 and files.dropped == {"wrong_schema": 2}
    assert "a.json, item 1: section 诊断结果 is an object with the fields icd" in files.problems[0]
    assert "a.json, item 2: id is an object with the fields a" in files.problems[1]


def test_pandas_by_columns_gives_its_cases(tmp_path: Path):
    table = {"编号": {"0": "7", "1": "8"}, "主诉": {"0": "腹痛", "1": "咳嗽"}}
    cases = collect_rows(tmp_path, "a.json", json.dumps(table))
    assert [(case.id, case.sections["主诉"]) for case in cases] == [
        ("files:7", "腹痛"),
        ("files:8", "咳嗽"),
    ]


@pytest.mark.parametrize("second", ["主诉", "主诉.1", "Chief complaint"])
def test_a_repeated_column_loses_nothing(tmp_path: Path, second: str):
    (case,) = collect_rows(tmp_path, "a.csv", f"编号,主诉,{second}\n1,腹痛,发热\n")
    assert case.sections == {"主诉": "腹痛\n发热"}


def test_ids_that_a_spreadsheet_rounded_are_named_and_drop_no_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = "编号,主诉,诊断结果\n4.40106E+17,腹痛,胆囊炎\n4.40106E+17,咳嗽,肺炎\n"
    cases = collect_rows(tmp_path, "a.csv", text)
    assert len({case.id for case in cases}) == 2 and not any(case.id_column for case in cases)
    assert "column 编号: a spreadsheet rounded its numbers (4.40106E+17)" in capsys.readouterr().err
    book = Workbook()
    for line in (["住院号", "主诉"], [440106199001011234, "腹痛"], [440106199001011299, "咳嗽"]):
        book.active.append(line)
    (tmp_path / "b").mkdir()
    book.save(tmp_path / "b" / "b.xlsx")
    assert collect(tmp_path / "b" / "b.xlsx").counts.kept == 2
    assert "column 住院号" in capsys.readouterr().err


def test_raw_cases_are_for_their_owner_alone(tmp_path: Path):
    collect_rows(tmp_path, "a.csv", "编号,主诉\n1,腹痛\n")
    assert (tmp_path / "out" / "raw_cases.jsonl").stat().st_mode & 0o077 == 0


def test_a_record_as_json_text_in_a_table_is_read(tmp_path: Path):
    cell = json.dumps({"主诉": "腹痛"}, ensure_ascii=False).replace('"', '""')
    (case,) = collect_rows(tmp_path, "a.csv", f'id,raw_medical_record\n7,"{cell}"\n')
    assert (case.id, case.sections) == ("files:7", {"主诉": "腹痛"})


def test_a_large_share_of_dropped_rows_is_said_with_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "a.jsonl"
    path.write_text(lines(row(1), *({"text": n} for n in range(9))), encoding="utf-8")
    collect(path)
    assert (
        "warning: a.jsonl: 9 of 10 rows dropped as wrong schema; the first is a.jsonl:2: found the "
        "fields text"
    ) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.xls",
            b"\xd0\xcf\x11\xe0" + b" " * 600,
            "an old Excel workbook.*save it as .xlsx or CSV",
        ),
        ("a.csv", b"\x1f\x8b\x08", "damaged"),
        ("a.html", b" ", "the file is empty"),
    ],
)
def test_what_is_not_read_is_one_line(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        collect(tmp_path / name)


def test_the_sections_of_a_task_file_are_columns_of_their_names(tmp_path: Path):
    table = tmp_path / "logs.csv"
    table.write_text("设备,故障现象,故障原因\n1号泵,漏水,密封损坏\n", encoding="utf-8")
    task = tmp_path / "pump.yaml"
    task.write_text(
        "question: {sections: [设备, 故障现象]}\nanswer: {section: 故障原因}\n", encoding="utf-8"
    )
    (case,) = collect_rows(tmp_path, "logs.csv", table.read_text("utf-8"), task=str(task))
    assert case.sections == {"设备": "1号泵", "故障现象": "漏水", "故障原因": "密封损坏"}


def test_a_section_that_the_task_names_keeps_its_name(tmp_path):
    task = tmp_path / "pump.yaml"
    task.write_text(
        "name: pump\nquestion: {sections: [Symptom, Tests]}\nanswer: {section: Cause, kind: text}\n"
    )
    path = tmp_path / "logs.json"
    path.write_text('[{"Symptom": "No flow.", "Tests": "Casing empty.", "Cause": "Lost prime"}]')
    run(Config(source="files", input=path, task=str(task), out=tmp_path / "out"))
    (case,) = (tmp_path / "out" / "raw_cases.jsonl").read_text().splitlines()
    assert '"Tests":"Casing empty."' in case and "辅助检查" not in case
