import json
import re
from pathlib import Path

import pytest

from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, write_records
from medkd.core.records import NAMES_NOT_SOUGHT, Case, RawCase, check_deidentified
from medkd.deidentify import stage
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
    assert manifest.facts["finds_by_rule"] == {"mobile": 1, "name_before_particulars": 1}
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


def test_a_directory_made_by_other_rules_is_not_taken_for_a_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(
        input=write_cases(tmp_path, make_case(1, "患者王秀英，女。")), out=tmp_path / "out"
    )
    run(config)
    monkeypatch.setattr(stage, "VERSION", "medkd-rules 0")
    with pytest.raises(
        InputError, match=r"rules: medkd-rules \d+ then, medkd-rules 0 now.*--overwrite"
    ):
        run(config)


def test_a_review_marks_what_was_found_in_the_original_and_only_its_owner_may_read_it(
    tmp_path: Path,
) -> None:
    source = write_cases(tmp_path, make_case(1, "患者王秀英，女，<script>alert(1)</script>发热。"))
    config = Config(input=source, out=tmp_path / "out")
    run(config)
    assert not (tmp_path / "out" / "review.html").exists()
    run(config.model_copy(update={"review": True}))
    page = (tmp_path / "out" / "review.html").read_text()
    assert '<mark title="name_before_particulars">王秀英<small>姓名</small></mark>' in page
    assert "<script>alert" not in page and "This page names patients" in page
    assert (tmp_path / "out" / "review.html").stat().st_mode & 0o077 == 0


def test_a_text_no_record_is_as_long_as_is_dropped_with_a_reason(tmp_path: Path) -> None:
    source = write_cases(tmp_path, make_case(1, "患者发热，" * 50_000), make_case(2, "患者发热。"))
    assert run(Config(input=source, out=tmp_path / "out")).counts.dropped == {"too_long": 1}


def test_surrogates_that_look_real_are_a_choice(tmp_path: Path) -> None:
    source = write_cases(tmp_path, make_case(1, "患者王秀英，女，发热。"))
    run(Config(input=source, out=tmp_path / "out", natural=True))
    text = next(iter(RecordReader(tmp_path / "out" / "cases.jsonl", Case, "deidentify"))).sections[
        "现病史"
    ]
    assert "王秀英" not in text and "[" not in text


def read_cases(folder: Path) -> list[Case]:
    return list(RecordReader(folder / "cases.jsonl", Case, "deidentify"))


@pytest.mark.parametrize(
    ("column", "native"),
    [
        ("病例号", "7"),
        ("住院号", "0012345"),
        ("住院號", "0012345"),
        ("MRN", "A-77"),
        ("身份证号", "x"),
        ("", "13812345678"),
        ("", "110105194912310021"),
        ("编号", "王秀英_01"),
        ("id", "患者王秀英"),
        ("", "20210305"),
    ],
)
def test_an_id_that_may_name_the_patient_becomes_a_hash_everywhere(
    tmp_path: Path, column: str, native: str
) -> None:
    case = RawCase(
        id=f"files:{native}",
        id_column=column,
        source="files",
        url=f"https://emr.example/case/{native}?mrn={native}",
        sections={"现病史": "发热3天。"},
    )
    source = write_cases(tmp_path / "collect", case)
    for name in ("one", "two"):
        run(Config(input=source, out=tmp_path / name))
    (one,), (two,) = (read_cases(tmp_path / name) for name in ("one", "two"))
    assert one == two
    hashed = one.id.removeprefix("files:")
    assert hashed.startswith("id") and one.id_column == ""
    assert one.url == f"https://emr.example/case/{hashed}?mrn={hashed}"
    pairs = source / "private_ids.json"
    assert pairs.stat().st_mode & 0o077 == 0
    assert native in pairs.read_text()
    salt = json.loads(pairs.read_text())["salt"]
    assert all(salt not in path.read_text() for path in (tmp_path / "one").iterdir())


def test_the_hash_of_an_id_depends_on_the_secret_beside_the_raw_cases(tmp_path: Path) -> None:
    case = RawCase(id="files:7", id_column="MRN", source="files", sections={"主诉": "发热"})
    for name in ("a", "b"):
        run(Config(input=write_cases(tmp_path / name, case), out=tmp_path / f"{name}-out"))
    assert read_cases(tmp_path / "a-out")[0].id != read_cases(tmp_path / "b-out")[0].id


@pytest.mark.parametrize(
    "native", ["7", "case-001", "66123", "肺炎-01", "0a1b2c3d4e5f", "tcga-0012"]
)
def test_other_ids_stay_and_leave_no_file(tmp_path: Path, native: str) -> None:
    case = RawCase(
        id=f"files:{native}",
        id_column="编号",
        source="files",
        url=f"https://cases.example/show/{native}-1.html",
        sections={"现病史": "发热3天。"},
    )
    source = write_cases(tmp_path / "collect", case)
    run(Config(input=source, out=tmp_path / "out"))
    (cleaned,) = read_cases(tmp_path / "out")
    assert (cleaned.id, cleaned.url) == (case.id, case.url)
    assert not (source / "private_ids.json").exists()


def test_an_address_that_names_a_patient_is_hashed_behind_its_host(tmp_path: Path) -> None:
    case = RawCase(
        id="files:7",
        source="files",
        url="https://emr.example/患者王秀英/13812345678.html",
        sections={"现病史": "发热3天。"},
    )
    run(Config(input=write_cases(tmp_path / "collect", case), out=tmp_path / "out"))
    url = read_cases(tmp_path / "out")[0].url
    assert url.startswith("https://emr.example/id") and "王秀英" not in url and "138" not in url


@pytest.mark.parametrize("content", ["", "[]", '{"salt": "xyz"}', '{"ids": {}}'])
def test_a_broken_file_of_pairs_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    case = RawCase(id="files:7", id_column="MRN", source="files", sections={"主诉": "发热"})
    source = write_cases(tmp_path / "collect", case)
    (source / "private_ids.json").write_text(content)
    with pytest.raises(InputError, match=r"private_ids\.json: .*salt of earlier runs"):
        run(Config(input=source, out=tmp_path / "out"))
    assert (source / "private_ids.json").read_text() == content


def test_english_cases_without_a_tagger_are_warned_of_marked_and_refused_at_the_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_cases(
        tmp_path / "collect",
        make_case(1, "A 61-year-old man with fever for three days. Desmond drove him in."),
        make_case(2, "发热3天，咳嗽。"),
    )
    run(Config(input=source, out=tmp_path / "out"))
    assert "warning: 1 of 2 cases are in English" in capsys.readouterr().err
    marks = [case.deidentified_by for case in read_cases(tmp_path / "out")]
    assert [mark.endswith(NAMES_NOT_SOUGHT) for mark in marks] == [True, False]
    with pytest.raises(InputError, match="1 of 2 rows English names were not looked for"):
        check_deidentified(marks, "questions.jsonl", "the teacher", False)
    assert check_deidentified(marks, "questions.jsonl", "the teacher", True) == 1


def test_what_a_reviewer_missed_is_masked_and_gives_an_estimate_of_recall(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_cases(tmp_path, make_case(1, "患者王秀英，女，边疆已知情，电话13812345678。"))
    (tmp_path / "review.jsonl").write_text(
        '{"missed": "边疆", "kind": "姓名", "case": "files:1"}\n{"read": "files:1"}\n'
    )
    manifest = run(Config(input=source, out=tmp_path / "out", known=tmp_path / "review.jsonl"))
    (case,) = read_cases(tmp_path / "out")
    assert "边疆" not in case.sections["现病史"]
    assert manifest.facts["recall_in_review"] == {
        "found": 2,
        "missed": 1,
        "recall": 0.6667,
        "interval": [0.0943, 0.9916],
        "cases_read": 1,
    }
    assert "0.667 [0.094, 0.992], 2 found and 1 missed" in capsys.readouterr().out


def test_a_review_of_other_cases_is_warned_of_and_counts_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_cases(tmp_path, make_case(1, "患者王秀英，女。"))
    (tmp_path / "review.jsonl").write_text('{"read": "files:7"}\n')
    manifest = run(Config(input=source, out=tmp_path / "out", known=tmp_path / "review.jsonl"))
    assert manifest.facts["recall_in_review"] == {"found": 0, "missed": 0, "cases_read": 0}
    assert "1 of the cases read are not in" in capsys.readouterr().err


def test_the_review_draws_the_same_sample_of_three_over_the_share(tmp_path: Path) -> None:
    source = write_cases(tmp_path, *(make_case(n, f"发热{n}天。") for n in range(30)))
    shown: list[list[str]] = []
    for name in ("a", "b"):
        run(Config(input=source, out=tmp_path / name, review=True, review_share=0.5))
        shown.append(
            re.findall(r'data-case="([^"]+)"', (tmp_path / name / "review.html").read_text())
        )
    assert len(shown[0]) == 6 and shown[0] == shown[1]


def test_cells_that_few_cases_share_are_listed(tmp_path: Path) -> None:
    few = make_case(0, "患者王秀英，女，63岁，自江西省来诊。")
    many = [make_case(n, "男，50岁，发热。") for n in range(1, 8)]
    manifest = run(Config(input=write_cases(tmp_path, few, *many), out=tmp_path / "out"))
    assert manifest.facts["small_cells"] == 1
    lines = (tmp_path / "out" / "small_cells.csv").read_text().splitlines()
    assert lines[1].startswith("60-69,女,") and lines[1].endswith("江西省,,1")
