import json
from pathlib import Path

import pytest

from medkd.core.errors import StoppedError
from medkd.core.jsonl import write_records
from medkd.core.records import RawCase
from medkd.deidentify.rules import Category, Match
from medkd.deidentify.search import find_residue
from medkd.deidentify.stage import Config, run


def kinds(text: str, *matches: Match) -> list[tuple[str, str]]:
    return [(left.kind.value, left.text) for left in find_residue([text], [list(matches)])]


def test_dates_and_long_numbers_that_nothing_covers_are_listed() -> None:
    assert kinds("１９９９年起，取药号 8842 0017 9，3月12日") == [
        ("date_shape", "１９９９年"),
        ("long_number", "8842 0017 9"),
        ("date_shape", "3月12日"),
    ]
    assert kinds("WBC 12.35×10^9/L，尿量1500ml，血压130/80mmHg") == []


def test_an_original_that_stands_elsewhere_is_listed_and_a_flag_too() -> None:
    name = Match(2, 5, "name", Category.NAME, "盛夏光")
    flag = Match(6, 9, "tagger_per", Category.NAME, "霍夫曼", is_flag=True)
    assert kinds("患者盛夏光，霍夫曼。盛夏光走了。", name, flag) == [
        ("flag", "霍夫曼"),
        ("original", "盛夏光"),
    ]


def test_strict_ends_with_3_and_the_manifest_counts_without_the_text(tmp_path: Path) -> None:
    case = RawCase(id="files:1", source="files", sections={"现病史": "取药码 8842 0017 9 ，发热。"})
    write_records(tmp_path / "raw_cases.jsonl", [case])
    config = Config(input=tmp_path, out=tmp_path / "out", strict=True)
    for _ in range(2):  # a finished directory is no less strict
        with pytest.raises(StoppedError, match="1 things are left") as caught:
            run(config)
        assert caught.value.exit_code == 3
    manifest = (tmp_path / "out" / "manifest.json").read_text()
    assert json.loads(manifest)["facts"]["residue"] == {"long_number": 1}
    assert "8842" not in manifest
    residue = tmp_path / "out" / "residue.jsonl"
    assert "8842 0017 9" in residue.read_text() and residue.stat().st_mode & 0o077 == 0
