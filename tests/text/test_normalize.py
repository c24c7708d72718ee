"""Texts that say the same are equal in the normalised view, and every span of it leads back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.text.normalize import drop_unseen, make_view, normalize


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("急性膽囊炎", "急性胆囊炎"),
        ("心房顫動", "心房颤动"),
        ("１３８１２３４５６７８", "13812345678"),
        ("138\u200b1234\ufeff5678", "13812345678"),
        ("2021–03—05", "2021-03-05"),
        ("电\u00ad话", "电话"),
        ("cafe\u0301", "café"),
        ("肺\u3000炎", "肺 炎"),
        ("㎎", "mg"),
    ],
)
def test_width_script_dashes_and_unseen_marks_make_no_difference(one, other):
    assert normalize(one) == normalize(other)


@given(st.text())
def test_the_view_holds_the_normalised_text_and_leads_back_in_order(text):
    view = make_view(text)
    assert view.text == normalize(text)
    assert len(view.starts) == len(view.ends) == len(view.text)
    assert list(view.starts) == sorted(view.starts)
    for start, end in zip(view.starts, view.ends, strict=True):
        assert 0 <= start < end <= len(text)


@given(st.text())
def test_lines_stay(text):
    assert normalize(text).count("\n") >= text.count("\n")


def test_a_circled_number_does_not_join_the_number_behind_it():
    assert normalize("①2型糖尿病") == "(1)2型糖尿病"


@given(st.text())
def test_only_what_cannot_be_seen_is_dropped(text):
    left = drop_unseen(text).text
    assert normalize(left) == normalize(text)
    assert left == drop_unseen(left).text


CODE = """
from medkd.text.normalize import load_jieba
jieba = load_jieba()
print(list(jieba.cut("患者咳嗽三天")))
"""


def cut(cache: Path, temporary: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "TMPDIR": str(temporary)}
    return subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    )


def test_the_dictionarys_cache_is_the_users_own_and_one_in_the_shared_folder_is_not_read(
    tmp_path: Path,
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "jieba.cache").write_bytes(b"planted by another user")
    done = cut(tmp_path / "own", shared)
    assert done.stdout == "['患者', '咳嗽', '三天']\n"
    assert done.stderr == ""
    assert (shared / "jieba.cache").read_bytes() == b"planted by another user"
    folder = tmp_path / "own" / "medkd"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["jieba.cache"]


def test_without_a_folder_for_it_words_are_cut_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = cut(tmp_path / "file", tmp_path)
    assert done.stdout == "['患者', '咳嗽', '三天']\n"
    assert done.stderr == ""
