import os
import subprocess
import sys
from pathlib import Path

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
