"""A table of codes and names of the user's makes names one, more general or more specific."""

import openpyxl
import pytest

from medkd.core.errors import InputError
from medkd.grading.compare import load_terms
from medkd.grading.graders import get_grader

ROWS = [
    ("E24", "库欣综合征"),
    ("E24.000", "垂体依赖性皮质醇增多症[促肾上腺皮质激素腺瘤病]"),
    ("E24.000", "伊森科病"),
    ("L40.0", "寻常性牛皮癣"),
    ("M16.9+N08*", "骨性髋痹"),
    ("M16.9", "髋部退行病"),
]


def write_csv(path, rows, head="编码,名称\n"):
    path.write_text(head + "".join(f"{c},{n}\n" for c, n in rows), encoding="utf-8")
    return path


@pytest.fixture(params=["csv", "no headings", "xlsx"])
def table(request, tmp_path):
    if request.param == "xlsx":
        book = openpyxl.Workbook()
        for row in [("ICD", "诊断名称"), *ROWS]:
            book.active.append(row)
        book.save(tmp_path / "terms.xlsx")
        return tmp_path / "terms.xlsx"
    head = "" if request.param == "no headings" else "编码,名称\n"
    return write_csv(tmp_path / "terms.csv", ROWS, head)


@pytest.mark.parametrize(
    ("answer", "reference", "verdict", "relation"),
    [
        ("伊森科病", "垂体依赖性皮质醇增多症", "right", "same"),
        ("促肾上腺皮质激素腺瘤病", "伊森科病", "right", "same"),
        ("伊森科病", "库欣综合征", "right", "more_specific"),
        ("库欣综合征", "伊森科病", "undecided", "more_general"),
        ("髋部退行病", "骨性髋痹", "right", "same"),
        ("左侧髋部退行病", "左侧骨性髋痹", "right", "same"),
    ],
)
def test_codes_relate_names_that_share_no_word(table, answer, reference, verdict, relation):
    found = get_grader("diagnosis", table)(answer, reference)
    assert (found.verdict, str(found.relation)) == (verdict, relation)


def test_a_table_does_not_overrule_a_contradiction(table):
    grader = get_grader("diagnosis", table)
    assert grader("左侧髋部退行病", "右侧髋部退行病").verdict == "wrong"
    assert grader("排除伊森科病", "垂体依赖性皮质醇增多症").verdict == "wrong"


def test_codes_that_are_no_icd_are_equal_or_nothing(tmp_path):
    path = write_csv(tmp_path / "own.csv", [("10", "甲症候"), ("101", "乙症候"), ("10", "丙症候")])
    grader = get_grader("diagnosis", path)
    assert grader("丙症候", "甲症候").verdict == "right"
    assert grader("乙症候", "甲症候").verdict != "right"


@pytest.mark.parametrize("text", ["名称,价格\n肺炎,3\n", "code,name\n,\n"])
def test_a_file_without_codes_and_names_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_terms(path)
    assert "bad.csv" in str(caught.value) and "\n" not in str(caught.value)
