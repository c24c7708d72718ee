"""Tables, saved pages and folders of both become cases."""

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook

from medkd.collect.columns import Columns
from medkd.collect.files import CaseFiles, read_row
from medkd.collect.sections import load_names
from medkd.collect.stage import Config, run
from medkd.core.errors import InputError, MedkdError
from medkd.core.records import RawCase
from medkd.demo.mock_site import render_case
from medkd.demo.synthetic_cases import generate_cases

HEADINGS = ["编号", "科室", "姓名", "主 诉", "Verlauf", "最终诊断"]
ROWS = [
    ["17", "内科 呼吸科", "张伟", "咳嗽，3天\n发热", "1周前起病。", "1.肺炎；2.哮喘"],
    ["18", "外科", "李娜", "无", "腹痛", "阑尾炎"],
]


def test_a_heading_with_an_equals_sign_is_a_section_of_its_own_name() -> None:
    columns = Columns(["BMI(=kg/m2)=BMI(=kg/m2)", "A=B=查体"], load_names())
    assert columns.place_of("BMI(=kg/m2)") == "BMI(=kg/m2)"
    assert columns.place_of("A=B") == "查体"


def write_csv(path: Path, encoding: str = "utf-8-sig", delimiter: str = ",") -> Path:
    lines = [delimiter.join(f'"{cell}"' for cell in row) for row in (HEADINGS, *ROWS)]
    path.write_bytes("\r\n".join(lines).encode(encoding))
    return path


def write_excel(path: Path) -> Path:
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["病例汇总表"])
    sheet.append([])
    for row in (HEADINGS, [17, *ROWS[0][1:]], ROWS[1]):
        sheet.append(row)
    book.save(path)
    return path


def collect(path: Path, out: Path, **fields: object) -> list[RawCase]:
    run(Config.model_validate({"out": out, "source": "files", "input": path, **fields}))
    return [
        RawCase.model_validate_json(line)
        for line in (out / "raw_cases.jsonl").read_bytes().splitlines()
    ]


@pytest.mark.parametrize("kind", ["utf-8-sig", "gb18030", "utf-16", "semicolon", "excel"])
def test_a_table_is_read_by_its_headings_and_by_what_the_user_says_of_them(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
):
    match kind:
        case "excel":
            path = write_excel(tmp_path / "cases.xlsx")
        case "semicolon":
            path = write_csv(tmp_path / "cases.csv", delimiter=";")
        case _:
            path = write_csv(tmp_path / "cases.csv", encoding=kind)
    first, second = collect(path, tmp_path / "out", columns=("Verlauf=现病史",))
    assert (first.id, first.department, first.diagnosis) == (
        "files:17",
        ("内科", "呼吸科"),
        ("肺炎", "哮喘"),
    )
    assert first.sections == {
        "主诉": "咳嗽，3天\n发热",
        "现病史": "1周前起病。",
        "诊断结果": "1.肺炎；2.哮喘",
    }
    assert second.sections == {"现病史": "腹痛", "诊断结果": "阑尾炎"}
    assert "columns 姓名: left out, for nobody said what they hold" in capsys.readouterr().err
    assert "张伟" not in (tmp_path / "out/raw_cases.jsonl").read_text()


def test_a_case_of_sections_without_a_source_is_read_as_one_from_a_file(tmp_path: Path):
    row = {"id": "a1", "sections": {"Chief complaint": "Cough."}, "diagnosis": ["Asthma", "Eczema"]}
    (tmp_path / "cases.json").write_text(json.dumps([row]))
    (case,) = CaseFiles(tmp_path / "cases.json")
    assert (case.id, case.source) == ("files:a1", "files")
    assert case.sections["主诉"] == "Cough." and case.diagnosis == ("Asthma", "Eczema")


def test_a_cell_that_is_a_whole_note_is_cut_at_its_headings(tmp_path: Path):
    note = "CC: Chest pain.\nHPI: 2 h of pain.\nLabs: troponin 880 ng/L.\nHospital Course: PCI."
    row = {"patient_id": "7", "note": note, "diagnosis": "STEMI", "remark": "Mr Hale: call back"}
    (tmp_path / "cases.json").write_text(json.dumps([row]))
    files = CaseFiles(tmp_path / "cases.json")
    (case,) = files
    assert case.sections == {
        "主诉": "Chest pain.",
        "现病史": "2 h of pain.",
        "辅助检查": "troponin 880 ng/L.",
        "诊治经过": "PCI.",
        "临床诊断": "STEMI",
    }
    assert files.columns.left_out == {"remark"}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("内科 呼吸科", ("内科", "呼吸科")),
        ("Respiratory Medicine", ("Respiratory Medicine",)),
        ("Ear, Nose and Throat", ("Ear, Nose and Throat",)),
        ("Internal medicine / Renal unit", ("Internal medicine", "Renal unit")),
    ],
)
def test_a_department_of_english_words_is_one(tmp_path: Path, given: str, read: tuple[str, ...]):
    row = {"department": given, "Chief complaint": "Cough.", "Diagnosis": "Asthma"}
    (tmp_path / "cases.json").write_text(json.dumps([row]))
    (case,) = CaseFiles(tmp_path / "cases.json")
    assert case.department == read


def test_sections_side_by_side_in_json_are_read_like_a_table(tmp_path: Path):
    (tmp_path / "cases.jsonl").write_text(
        '{"id": 3, "Chief complaint": "cough", "现病史": "3天", "label": ["肺炎"], "诊断": ["肺炎", "哮喘"]}\n'
    )
    case = next(iter(CaseFiles(tmp_path / "cases.jsonl")))
    assert case.sections == {
        "主诉": "cough",
        "现病史": "3天",
        "临床诊断": "肺炎\n哮喘",
    } and case.diagnosis == ("肺炎", "哮喘")


def test_html_in_the_text_of_a_row_comes_out_as_plain_text(tmp_path: Path):
    text = "<p>发热，WBC&lt;4.0</p><script>alert('x')</script><p onclick='y'>咳嗽<br/>3天</p>"
    (tmp_path / "cases.json").write_text(
        json.dumps([{"raw_medical_record": {"现病史": text, "辅助检查": "WBC<4.0，CRP>8"}}])
    )
    assert next(iter(CaseFiles(tmp_path / "cases.json"))).sections == {
        "现病史": "发热，WBC<4.0\n咳嗽\n3天",
        "辅助检查": "WBC<4.0，CRP>8",
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("Verlauf",), "say it as COLUMN=NAME"),
        (("Verlauf=现病",), "no section '现病'; did you mean '现病史'"),
        (("=主诉",), "COLUMN=NAME"),
    ],
)
def test_columns_that_say_nothing_are_refused(
    tmp_path: Path, columns: tuple[str, ...], message: str
):
    with pytest.raises(InputError, match=message):
        collect(write_csv(tmp_path / "cases.csv"), tmp_path / "out", columns=columns)


def test_a_folder_of_saved_pages_is_read_in_every_layout_and_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cases = generate_cases(12, seed=2)
    for i, case in enumerate(cases):
        html = render_case(case)
        if i % 2:
            html = html.replace('charset="utf-8"', 'charset="gb2312"')
        (tmp_path / f"{case.number}-1.html").write_bytes(
            html.encode("gb18030" if i % 2 else "utf-8")
        )
    page = render_case(cases[0]).replace(
        "<body>", "<!-- saved from url=(0043)https://bingli.iiyi.com/show/777-1.html --><body>", 1
    )
    (tmp_path / "页面.html").write_text(page, encoding="utf-8")
    (tmp_path / "login.html").write_text("<html>登录</html>", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not read")
    found = collect(tmp_path, tmp_path.parent / f"{tmp_path.name}-out")
    assert {case.id for case in found} == {f"iiyi:{case.number}" for case in cases} | {"iiyi:777"}
    by_id = {case.id: case for case in found}
    for case in cases:
        assert dict(by_id[f"iiyi:{case.number}"].sections) == {**case.sections, **case.summary}
        assert by_id[f"iiyi:{case.number}"].retrieved_at
    assert (
        by_id["iiyi:777"].url.endswith("/show/777-1.html")
        and "synthetic" in by_id["iiyi:777"].licence
    )
    assert "login.html: no layout finds a case in this page" in capsys.readouterr().err


def test_a_folder_may_hold_files_of_many_kinds_and_a_broken_one_is_named(tmp_path: Path):
    write_csv(tmp_path / "a.csv")
    (tmp_path / "b.json").write_text("[{")
    with zipfile.ZipFile(tmp_path / "c.json", "w") as packed:
        packed.writestr("x", "y")
    (tmp_path / "d.xlsx").write_bytes(b"PK\x03\x04 no workbook")
    (tmp_path / "e.html").write_text(render_case(generate_cases(1, seed=1)[0]))
    (tmp_path / "f.csv").write_text("")
    files = CaseFiles(tmp_path)
    assert len(list(files)) == 3
    assert files.dropped == {"unreadable_file": 4}
    told = " ".join(files.problems)
    assert (
        "b.json:1: item 1: broken JSON" in told
        and "c.json: a packed archive" in told
        and "d.xlsx: an Excel workbook that cannot be read" in told
    )


def test_single_files_that_are_something_else_are_refused_in_one_line(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "cases.json", "w") as packed:
        packed.writestr("x", "y")
    (tmp_path / "cases.xlsx").write_text("no workbook")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("cases.json", "packed archive; unpack it"),
        ("cases.xlsx", "no Excel workbook"),
        ("empty", "no such file of cases"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            collect(tmp_path / name, tmp_path / "out")
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_line_of_many_megabytes_is_read_or_refused_without_delay(tmp_path: Path):
    long = "咳嗽；（" * 1_000_000
    (tmp_path / "a.jsonl").write_text(
        '{"raw_medical_record": {"主诉": "' + long + '", "诊断结果": "' + long + '"}}\n'
    )
    (tmp_path / "b.csv").write_text(f"主诉,诊断结果\n{long},肺炎\n")
    (tmp_path / "c.html").write_text("<p>" + long * 2)
    files = CaseFiles(tmp_path)
    assert len(list(files)) == 2 and files.dropped == {"unreadable": 1}


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(
    st.sampled_from(["x.csv", "x.xlsx", "x.html", "x.tsv"]),
    st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")),
)
def test_no_file_of_any_kind_ends_in_a_stack_trace(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    try:
        for case in CaseFiles(tmp_path / name):
            case.model_dump_json()
    except MedkdError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("row", "native", "column"),
    [
        ({"住院号": "0012345", "主诉": "发热"}, "0012345", "住院号"),
        ({"住院號": "0012345", "主诉": "发热"}, "0012345", "住院號"),
        ({"MRN": "77", "主诉": "发热"}, "77", "MRN"),
        ({"病例号": "8", "主诉": "发热"}, "8", "病例号"),
        ({"住院号": "0012345", "编号": "3", "主诉": "发热"}, "3", "编号"),
        ({"住院号": "0012345", "编号": "", "主诉": "发热"}, "0012345", "住院号"),
    ],
)
def test_a_case_tells_which_column_its_id_was_taken_from(
    row: dict[str, str], native: str, column: str
) -> None:
    names = load_names()
    case = read_row(row, names, Columns((), names))
    assert case is not None
    assert (case.id, case.id_column) == (f"files:{native}", column)


def test_what_stands_beside_a_whole_record_is_read_too(tmp_path: Path):
    row = {
        "编号": "B-7",
        "科室": "内科",
        "标题": "腹痛一例",
        "辅助检查": "CT未见异常",
        "病区": "三病区",
        "电话": "无人知道",
        "raw_medical_record": {"主诉": "腹痛"},
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row], ensure_ascii=False), encoding="utf-8")
    columns = Columns(["病区=department"], load_names())
    (case,) = CaseFiles(path, columns=columns)
    assert case.id == "files:B-7" and case.title == "腹痛一例"
    assert set(case.department) == {"内科", "三病区"}
    assert case.sections == {"主诉": "腹痛", "辅助检查": "CT未见异常"}
    assert columns.left_out == {"电话"}


def test_a_running_number_is_no_id_where_it_comes_again(tmp_path: Path):
    book = Workbook()
    for sheet, word in ((book.active, "腹痛"), (book.create_sheet("二"), "咳嗽")):
        sheet.append(["序号", "住院流水", "主诉"])
        for n in (1, 2):
            sheet.append([n, f"{word}-{n}", f"{word}{n}天"])
    book.save(tmp_path / "a.xlsx")
    plain = CaseFiles(tmp_path / "a.xlsx")
    assert len({case.id for case in plain}) == 4 and not plain.dropped
    named = CaseFiles(tmp_path / "a.xlsx", columns=Columns(["住院流水=id"], load_names()))
    assert [case.id for case in named] == [
        f"files:{w}-{n}" for w in ("腹痛", "咳嗽") for n in (1, 2)
    ]
