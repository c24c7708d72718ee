from pathlib import Path

import pytest

from medkd.core.config import make_config
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, write_records
from medkd.core.records import Case, RawCase
from medkd.deidentify.stage import Config, run


def write_cases(folder: Path, *cases: RawCase) -> Path:
    write_records(folder / "raw_cases.jsonl", cases)
    return folder


def make_case(number: int, text: str) -> RawCase:
    return RawCase(
        id=f"files:{number}",
        source="files",
        sections={"现病史": text} if text else {},
        diagnosis=("肺炎",),
    )


def test_cases_come_out_clean_and_the_audit_counts_by_rule_without_the_text(tmp_path: Path) -> None:
    source = write_cases(
        tmp_path / "collect",
        make_case(1, "患者王秀英，女，电话13812345678。"),
        make_case(2, "发热3天。"),
    )
    manifest = run(Config(input=source, out=tmp_path / "out"))
    cases = list(RecordReader(tmp_path / "out" / "cases.jsonl", Case, "deidentify"))
    assert [case.sections["现病史"] for case in cases] == [
        "患者[姓名1]，女，电话[电话1]。",
        "发热3天。",
    ]
    assert manifest.facts["finds_by_rule"] == {"mobile": 1, "name_of_patient": 1}
    written = (tmp_path / "out" / "manifest.json").read_text()
    assert "王秀英" not in written
    assert "13812345678" not in written


def test_duplicate_ids_empty_cases_and_broken_lines_are_dropped_with_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_cases(tmp_path, make_case(1, "发热。"), make_case(1, "咳嗽。"), make_case(2, ""))
    with (source / "raw_cases.jsonl").open("a") as file:
        file.write('{"id": \n')
    manifest = run(Config(input=source, out=tmp_path / "out"))
    assert manifest.counts.kept == 1
    assert manifest.counts.dropped == {"broken_line": 1, "duplicate_id": 1, "empty": 1}
    assert "raw_cases.jsonl:4" in capsys.readouterr().err


def test_a_finished_directory_is_not_done_again(tmp_path: Path) -> None:
    config = Config(
        input=write_cases(tmp_path, make_case(1, "2021年3月5日发热。")), out=tmp_path / "out"
    )
    run(config)
    before = (tmp_path / "out" / "cases.jsonl").stat().st_mtime_ns
    assert run(config).state == "finished"
    assert (tmp_path / "out" / "cases.jsonl").stat().st_mtime_ns == before


def test_the_same_cases_get_the_same_dates_again(tmp_path: Path) -> None:
    source = write_cases(tmp_path, make_case(1, "2021年3月5日发热。"))
    for name in ("one", "two"):
        run(Config(input=source, out=tmp_path / name))
    assert (tmp_path / "one" / "cases.jsonl").read_bytes() == (
        tmp_path / "two" / "cases.jsonl"
    ).read_bytes()


def test_a_missing_file_and_one_without_text_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='run "medkd collect" first'):
        run(Config(input=tmp_path / "nowhere", out=tmp_path / "out"))
    with pytest.raises(InputError, match="no case holds any text"):
        run(Config(input=write_cases(tmp_path, make_case(1, "")), out=tmp_path / "out2"))


def test_rules_of_another_version_are_refused() -> None:
    with pytest.raises(InputError, match="rules"):
        make_config(Config, {"input": "a", "out": "b", "rules": "mine 7"}, "recipe")


def test_a_review_marks_what_was_found_in_the_original_and_only_its_owner_may_read_it(
    tmp_path: Path,
) -> None:
    source = write_cases(tmp_path, make_case(1, "患者王秀英，女，<script>alert(1)</script>发热。"))
    config = Config(input=source, out=tmp_path / "out")
    run(config)
    assert not (tmp_path / "out" / "review.html").exists()
    run(config.model_copy(update={"review": True}))
    page = (tmp_path / "out" / "review.html").read_text()
    assert '<mark title="name_of_patient">王秀英<small>姓名</small></mark>' in page
    assert "<script>" not in page and "This page names patients" in page
    assert (tmp_path / "out" / "review.html").stat().st_mode & 0o077 == 0


def test_a_text_no_record_is_as_long_as_is_dropped_with_a_reason(tmp_path: Path) -> None:
    source = write_cases(tmp_path, make_case(1, "患者发热，" * 50_000), make_case(2, "患者发热。"))
    assert run(Config(input=source, out=tmp_path / "out")).counts.dropped == {"too_long": 1}


def test_surrogates_that_look_real_are_a_choice(tmp_path: Path) -> None:
    source = write_cases(tmp_path, make_case(1, "患者王秀英，女，发热。"))
    run(Config(input=source, out=tmp_path / "out", style="surrogate"))
    text = next(iter(RecordReader(tmp_path / "out" / "cases.jsonl", Case, "deidentify"))).sections[
        "现病史"
    ]
    assert "王秀英" not in text and "[" not in text
