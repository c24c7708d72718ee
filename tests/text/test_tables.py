"""Every file from outside gives its rows, or one line that names the place and the next step."""

import bz2
import csv
import gzip
import json
import math
import os
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook

from medkd.core.errors import InputError, MedkdError
from medkd.text import files, tables
from medkd.text.tables import is_missing, is_rounded_number, read_rows

ROWS = [{"主诉": "腹痛，3天", "n": 1}, {"主诉": "咳嗽", "n": 2}]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def contents(path):
    return [row.content for row in read_rows(path)]


def dump(value, **options):
    return json.dumps(value, ensure_ascii=False, **options)


FORMS = {
    "array": dump(ROWS),
    "indented array": dump(ROWS, indent=2),
    "lines": "\n".join(map(dump, ROWS)) + "\n",
    "lines with blank ones": "\n\n" + "\n\n".join(map(dump, ROWS)),
    "lines of an old Macintosh": "\r".join(map(dump, ROWS)),
    "lines of Windows": "\r\n".join(map(dump, ROWS)) + "\r\n",
    "indented objects": "\n".join(dump(row, indent=2) for row in ROWS),
    "two arrays": dump(ROWS[:1]) + "\n" + dump(ROWS[1:]),
    "pandas by columns": dump({"主诉": {"0": "腹痛，3天", "1": "咳嗽"}, "n": {"0": 1, "1": 2}}),
    "pandas table": dump({"schema": {"fields": []}, "data": ROWS}),
    "a list under data": dump({"version": "1", "data": ROWS}, indent=1),
    "as Navicat writes it": dump({"RECORDS": ROWS}),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_json_gives_the_same_rows_whatever_its_suffix(form, encoding, tmp_path):
    for name in ("a.json", "a.jsonl"):
        assert contents(write(tmp_path / name, FORMS[form].encode(encoding))) == ROWS


def test_places_name_file_and_row(tmp_path):
    assert [row.place for row in read_rows(write(tmp_path / "a.json", FORMS["array"]))] == [
        "a.json, item 1",
        "a.json, item 2",
    ]
    assert [row.place for row in read_rows(write(tmp_path / "a.json", FORMS["lines"]))] == [
        "a.json:1",
        "a.json:2",
    ]
    assert [row.place for row in read_rows(write(tmp_path / "a.csv", "x,y\n1,2\n"))] == [
        "a.csv, row 2"
    ]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030", "utf-16"])
def test_a_table_is_read_with_any_delimiter_and_encoding(delimiter, encoding, tmp_path):
    path = tmp_path / ("a.tsv" if delimiter == "\t" else "a.csv")
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows(
            [["病例汇总"], [], ["主诉", "查体"], ["腹痛，\n3天", 'T "38"'], ["咳嗽", ""]]
        )
    assert contents(path) == [
        {"主诉": "腹痛，\n3天", "查体": 'T "38"'},
        {"主诉": "咳嗽", "查体": ""},
    ]


def test_excel_names_its_own_separator_and_single_columns_are_tables(tmp_path):
    assert contents(write(tmp_path / "a.csv", "sep=;\nx;y\n1;2,5\n")) == [{"x": "1", "y": "2,5"}]
    assert contents(write(tmp_path / "b.csv", 'messages\n"[1, 2]"\n')) == [{"messages": "[1, 2]"}]
    assert contents(write(tmp_path / "c.xls", "x\ty\n1\t2\n")) == [{"x": "1", "y": "2"}]


def test_repeated_columns_lose_nothing_and_nameless_ones_are_named(tmp_path):
    path = write(tmp_path / "a.csv", "主诉,主诉,,n\n腹痛,发热,,1\n腹痛,腹痛,x,2\n,发热,,3\n")
    assert contents(path) == [
        {"主诉": ["腹痛", "发热"], "n": "1"},
        {"主诉": "腹痛", "column 3": "x", "n": "2"},
        {"主诉": "发热", "n": "3"},
    ]


def test_rows_of_too_many_or_too_few_cells_and_open_quotes_are_named(tmp_path):
    path = write(tmp_path / "a.csv", 'x,y\n1,2\n1,2,3\n1,2,,\n1\n"a"b,2\n5,"6\n')
    rows = list(read_rows(path))
    assert [row.content for row in rows if not row.problem] == [{"x": "1", "y": "2"}] * 2
    assert [row.problem for row in rows if row.problem] == [
        "3 cells under 2 headings; quote a text that holds the delimiter",
        "1 cells under 2 headings; quote a text that holds the delimiter",
        "no row of a table (',' expected after '\"')",
        "no row of a table (unexpected end of data)",
    ]


def write_excel(path, *rows, sheet="病例"):
    book = Workbook()
    book.active.title = sheet
    for row in rows:
        book.active.append(row)
    book.create_chartsheet("图")
    book.save(path)
    return path


def test_a_workbook_is_read_with_its_places_and_numbers_as_people_read_them(tmp_path):
    rows = [
        ["汇总"],
        ["住院号", "主诉", "n"],
        [440106199001011234, "腹痛", 38.0],
        [17, "咳嗽", 0.5],
    ]
    found = list(read_rows(write_excel(tmp_path / "a.data", *rows)))
    assert [row.content for row in found] == [
        {"住院号": "4.40106199001011E+17", "主诉": "腹痛", "n": "38"},
        {"住院号": "17", "主诉": "咳嗽", "n": "0.5"},
    ]
    assert found[1].place == "a.data, 病例, row 4"
    assert is_rounded_number(found[0].content["住院号"])


def bomb(path, part):
    """A workbook with one part of 3 MiB of one character."""
    write_excel(path, ["x", "y"], ["1", "2"])
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in parts.items():
            if name != part:
                book.writestr(name, content)
        with book.open(part, "w") as file:
            for _ in range(3):
                file.write(b"x" * 2**20)


@pytest.mark.parametrize("part", ["xl/sharedStrings.xml", "xl/worksheets/sheet1.xml"])
def test_a_workbook_that_unpacks_without_end_is_refused(part, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_UNPACKED_BYTES", 2**20)
    bomb(tmp_path / "a.xlsx", part)
    with pytest.raises(InputError, match="unpacks to more than 1 MiB; save it as CSV"):
        contents(tmp_path / "a.xlsx")


def rewrite(path, part, old, new):
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    assert old in parts[part]
    parts[part] = parts[part].replace(old, new)
    with zipfile.ZipFile(path, "w") as book:
        for name, content in parts.items():
            book.writestr(name, content)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<row", b"<broken"),
        (b"</sheetData>", b""),
        (b't="inlineStr"', b't="s"'),
        (b'r="A2"', b'r="ZZZZZZ2"'),
        (b'r="A2"', b'r="?"'),
        (b"<sheetData>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><sheetData>"),
    ],
)
def test_a_damaged_workbook_is_one_line_or_rows(old, new, tmp_path):
    path = write_excel(tmp_path / "a.xlsx", ["x", "y"], ["1", "2"])
    rewrite(path, "xl/worksheets/sheet1.xml", old, new)
    try:
        contents(path)
    except InputError as error:
        assert "\n" not in str(error) and "save" in str(error)


def test_a_sheet_far_to_the_right_or_far_down_is_bounded(tmp_path):
    book = Workbook()
    book.active.append(["x", "y"])
    book.active.cell(1_000_000, 1, "1")
    book.save(tmp_path / "down.xlsx")
    assert contents(tmp_path / "down.xlsx") == [{"x": "1", "y": ""}]
    book.active.cell(2, 16_000, "1")
    book.save(tmp_path / "right.xlsx")
    with pytest.raises(InputError, match="columns; save the part"):
        contents(tmp_path / "right.xlsx")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.xls",
            b"\xd0\xcf\x11\xe0" + b" " * 600,
            "an old Excel workbook .*save it as .xlsx or CSV",
        ),
        ("a.jsonl.bz2", bz2.compress(b"{}"), "a packed file; unpack it first"),
        ("a.jsonl.gz", gzip.compress(b"{}", mtime=0)[:-9], "damaged"),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0), "a packed file; unpack it first"),
        ("a.json.gz", gzip.compress(b'[{"a": 1}]', mtime=0), "a packed file; unpack it first"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "the file is empty"),
        ("a.pdf", b"%PDF-1.7 \x00", "a PDF"),
        ("a.json", b"\x80\x04\x95abc", "a pickle"),
        ("a.xls", "<html><table><tr><td>主诉".encode(), "HTML or XML"),
        ("a.xlsx", b"no workbook", "no Excel workbook"),
        ("a.xlsx", b"PK\x03\x04 no workbook", "an Excel workbook that cannot be read"),
        ("a.json", b"", "the file is empty"),
        ("a.json", b"\xef\xbb\xbf \n\n", "the file is empty"),
        ("a.json", "﻿".encode("utf-16"), "the file is empty"),
        ("a.json", b" " * 5000, "the file is empty"),
        ("a.json", b"title,text\na,b\n", "no JSON .*it begins with 'title,text'"),
        ("a.json", b"[" * 100_000, "nested deeper than 64"),
        (
            "a.json",
            dump(ROWS)[:-1].encode(),
            r"a\.json:1: the JSON array breaks off after 2 elements",
        ),
        ("a.json", dump(ROWS, indent=1)[:-12].encode(), r"item 2: broken JSON in line \d"),
        ("a.json", dump(ROWS).encode()[:-1] + b",", "breaks off after 2 elements"),
        ("a.parquet", b"PAR1 and no more", "damaged Parquet after row 0|needs pyarrow"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_next_step(name, content, words, tmp_path):
    with pytest.raises(InputError, match=words) as refused:
        contents(write(tmp_path / name, content))
    assert "\n" not in str(refused.value)


def test_pipes_devices_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    for path in (tmp_path / "a.csv", tmp_path, tmp_path.__class__("/dev/null")):
        with pytest.raises(InputError, match=r"a pipe or device|a folder"):
            contents(path)


def test_values_that_json_can_spell_and_records_cannot_hold_are_bounded(tmp_path):
    deep = "[" * 70 + "]" * 70
    path = write(
        tmp_path / "a.jsonl",
        f'{{"a": NaN}}\n{{"a": "\\ud800x"}}\n{{"a": {deep}}}\n{{"a": {"9" * 5000}}}\n{{"a": {"9" * 30}}}\n'
        '{"a": 1\n{"a": "\\u0000"}\n',
    )
    rows = list(read_rows(path))
    assert math.isnan(rows[0].content["a"]) and rows[1].content == {"a": "x"}
    assert rows[2].problem == "JSON nested deeper than 64 brackets"
    assert rows[3].problem.startswith("JSON that cannot be read")
    assert rows[4].content == {"a": 1e30} and "broken JSON" in rows[5].problem


def test_a_line_without_end_is_passed_over_and_reading_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 2000)
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": "' + "x" * 9000 + '"}\n{"a": 3}\n')
    assert [(row.place, row.content) for row in read_rows(path)] == [
        ("a.jsonl:1", {"a": 1}),
        ("a.jsonl:2", None),
        ("a.jsonl:3", {"a": 3}),
    ]


def test_broken_bytes_are_a_broken_row_in_lines_arrays_and_tables(tmp_path):
    good = dump({"主诉": "右上腹痛三天，伴发热"}).encode()
    bad = good.replace("发热".encode(), b"\xff\xfe")
    for name, content in (
        ("a.jsonl", b"\n".join([good, bad, good])),
        ("a.json", b"[" + b",".join([good, bad, good]) + b"]"),
        ("a.csv", "主诉,n\n右上腹痛三天,1\n".encode() + b"\xff,2\n" + "右上腹痛三天,3\n".encode()),
    ):
        problems = [row.problem for row in read_rows(write(tmp_path / name, content))]
        assert problems == ["", "bytes that are no UTF-8", ""]


def test_an_array_of_nested_rows_is_read_whole(tmp_path):
    rows = [
        {"Question": f"第{n}问" * (n % 7), "n": n, "deep": [{"a": "\\"}, {"b": '}, {"'}]}
        for n in range(60)
    ]
    for indent in (None, 2):
        path = write(tmp_path / "a.json", dump(rows, indent=indent).encode("utf-8-sig"))
        assert contents(path) == rows


def test_an_array_of_nothing_but_broken_elements_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BROKEN", 3)
    path = write(tmp_path / "a.json", '[{"a": 1}, ' + ", ".join(['{"a": x}'] * 5) + "]")
    with pytest.raises(InputError, match="item 4: broken JSON in line 1"):
        contents(path)


def test_behind_a_broken_element_reading_goes_on_at_the_next_row_not_inside_it(tmp_path):
    good = json.dumps({"messages": [{"role": "user"}, {"role": "assistant"}]})
    broken = good.replace('"messages"', '"messages')
    rows = contents(write(tmp_path / "a.json", f"[{good}, {broken}, {good}, {good[:-3]}, {good}]"))
    assert rows[0] == json.loads(good)
    assert rows.count(json.loads(good)) >= 3
    assert None in rows
    assert not any(isinstance(row, dict) and "role" in row for row in rows)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(["a.json", "a.jsonl", "a.csv", "a.tsv", "a.xlsx", "a.xls"]),
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.text(alphabet='[]{}",:\n1a ', max_size=80).map(str.encode),
)
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, name, content):
    try:
        for row in read_rows(write(tmp_path / name, content)):
            assert (row.content is None) or not row.problem
    except MedkdError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "value",
    ["", " ", None, math.nan, [], {}, "nan", "NaN", "None", "NULL", "null", "\\N", "#N/A", "N/A",      "#REF!", "#VALUE!", "#DIV/0!", "undefined", "[]", "{}", "-", "--", "——", "/", "未填写", "NA", "<NA>", "NaT", "nil"],
)  # fmt: skip
def test_words_of_tables_for_nothing_are_missing(value):
    assert is_missing(value)


@pytest.mark.parametrize(
    "value", ["无", "0", 0, False, "Na", "阴性", "None of these", "-1", "无。"]
)
def test_what_says_something_is_not_missing(value):
    assert not is_missing(value)


def test_a_case_among_others_keeps_a_list_of_its_own_whatever_it_is_called(tmp_path):
    rows = [{"主诉": "腹痛", "records": [{"体温": "38"}]}, {"主诉": "咳嗽", "records": []}]
    assert contents(write(tmp_path / "a.jsonl", "\n".join(map(dump, rows)))) == rows


def test_a_quote_that_is_left_open_is_told_and_takes_no_rows_in_silence(tmp_path):
    rows = [f"{n},咳嗽{n}天" for n in range(12)]
    rows[3], rows[9] = '3,"咳嗽', '9,发热"'
    closed_late, never_closed = (
        [*read_rows(write(tmp_path / name, "编号,主诉\n" + "\n".join(lines) + "\n"))]
        for name, lines in (("late.csv", rows), ("never.csv", rows[:9]))
    )
    assert [bool(row.problem) for row in closed_late] == [False] * 3 + [True] + [False] * 2
    assert "takes 5 rows into one cell" in closed_late[3].problem
    assert "and 5 lines with it; is a quote left open?" in never_closed[3].problem


def test_a_cell_of_several_lines_is_one_cell_though_some_hold_the_delimiter(tmp_path):
    text = "血常规:\nWBC,5.6\nRBC,4.2\nHGB,130\nPLT,200\n正常"
    path = write(tmp_path / "a.csv", f'编号,诊断\n1,"{text}"\n')
    assert contents(path) == [{"编号": "1", "诊断": text}]


def test_what_excel_escapes_is_read_as_it_was_written(tmp_path):
    path = write_excel(tmp_path / "a.xlsx", ["编号", "主诉"], [1, "咳嗽_x000D_\n发热_x005F_x000D_"])
    assert contents(path) == [{"编号": "1", "主诉": "咳嗽\n发热_x000D_"}]


def test_texts_that_parquet_holds_as_bytes_are_texts(tmp_path):
    import pyarrow
    from pyarrow import parquet

    texts = ["腹痛三天".encode(), "咳嗽三天".encode("gb18030"), b"\xff\xd8\xff\xe0"]
    table = pyarrow.table({"主诉": pyarrow.array(texts, pyarrow.binary())})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert contents(tmp_path / "a.parquet") == [
        {"主诉": text} for text in ("腹痛三天", "咳嗽三天", None)
    ]
