from pathlib import Path

import pytest

from medkd.core.errors import InputError
from medkd.deidentify.recognizers import Known, read_known
from medkd.deidentify.rules import Category
from medkd.deidentify.search import Help, find_identifiers


def read(tmp_path: Path, text: str) -> Known:
    (tmp_path / "known.txt").write_text(text, encoding="utf-8")
    return read_known(tmp_path / "known.txt")


def masked(text: str, known: Known) -> list[tuple[str, Category]]:
    return [(text[m.start : m.end], m.category) for m in find_identifiers(text, Help(known))]


@pytest.mark.parametrize(
    "written",
    ["边疆", "邊疆", "边 疆", "边\n疆", "边\u200b疆"],
    ids=["as is", "script", "gap", "break", "unseen"],
)
def test_a_known_term_is_masked_in_every_writing(tmp_path: Path, written: str) -> None:
    known = read(tmp_path, "边疆\n")
    assert masked(f"带药由{written}领走。", known) == [(written, Category.NAME)]


def test_a_known_term_has_its_kind_and_latin_words_are_taken_whole(tmp_path: Path) -> None:
    known = read(tmp_path, "# wards and staff\n望江楼东侧\t病区\nLee\n")
    assert masked("转望江楼东侧，ＬＥＥ said so, not Leeds.", known) == [
        ("望江楼东侧", Category.WARD),
        ("ＬＥＥ", Category.NAME),
    ]


def test_what_a_review_exported_is_masked_and_counted(tmp_path: Path) -> None:
    known = read(tmp_path, '{"missed": "小宝", "kind": "姓名", "case": "a:1"}\n{"read": "a:1"}\n')
    assert known.read == {"a:1"} and known.n_missed == 1
    assert masked("小宝好转。", known) == [("小宝", Category.NAME)]


@pytest.mark.parametrize("line", ["王", "王芳\t物品", '{"missed": ""}', "{broken"])
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=r"known\.txt:2: needs a term"):
        read(tmp_path, f"刘卓然\n{line}\n")
