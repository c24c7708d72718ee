"""Questions with answers become cases of two sections, whatever form their rows have."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from openpyxl import Workbook

from medkd.collect.columns import Columns
from medkd.collect.files import CaseFiles
from medkd.collect.sections import load_names
from medkd.collect.stage import Config, run
from medkd.core.errors import InputError
from medkd.core.records import RawCase
from medkd.merge.sources import DropReason, read_row
from medkd.text import hub_datasets
from medkd.text.tables import find_source, read_rows

Q, A = "晚上难以入睡，怎么办？", "先记下担忧，再放松。"
FORMS = {
    "alpaca": {"instruction": Q, "input": "", "output": A},
    "question and answer": {"question": Q, "answer": A},
    "in Chinese": {"问题": Q, "答案": A},
    "sharegpt": {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]},
    "messages": {"messages": [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]},
    "query and response": {"query": Q, "response": A},
}
EXAMS = {
    "options by letter": {"question": Q, "options": {"A": "咖啡", "B": "放松"}, "answer": "B"},
    "columns": {"题目": Q, "A": "咖啡", "B": "放松", "答案": "b"},
    "lines": {"Question": Q, "Options": "A 咖啡\nB 放松", "Answer": "B"},
    "a list": {"question": Q, "choices": ["咖啡", "放松"], "answer": 1},
    "the text of an option": {"question": Q, "options": ["咖啡", "放松"], "answer": "放松"},
    "medmcqa": {"question": Q, "opa": "咖啡", "opb": "放松", "cop": 2},
}


def write(path: Path, *rows: object) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", FORMS)
def test_a_question_with_its_answer_is_a_case_of_two_sections(tmp_path: Path, form: str):
    (case,) = CaseFiles(write(tmp_path / "psy.json", FORMS[form]))
    assert case.sections == {"question": Q, "answer": A}
    assert case.id.startswith("psy:") and case.source == "psy" and not case.diagnosis


@pytest.mark.parametrize("form", EXAMS)
def test_a_row_of_an_exam_has_its_options_and_the_right_letter(tmp_path: Path, form: str):
    (case,) = CaseFiles(write(tmp_path / "exam.json", EXAMS[form]))
    assert case.sections == {"question": Q, "options": "A. 咖啡\nB. 放松", "answer": "B"}


@pytest.mark.parametrize("form", [*FORMS, *EXAMS])
def test_collect_takes_what_merge_sends_to_a_teacher_and_nothing_that_merge_takes(
    tmp_path: Path, form: str
):
    content = (FORMS | EXAMS)[form]
    path = write(tmp_path / "a.json", content)
    (raw,) = read_rows(path)
    row = read_row(raw, find_source(path), Counter())
    assert row.reason is DropReason.NO_REASONING
    written = {**content, "reasoning": "想一想。"}
    if "messages" in content or "conversations" in content:
        return
    files = CaseFiles(write(tmp_path / "b.json", written))
    with pytest.raises(
        InputError, match="holds its reasoning; such rows need no teacher: medkd merge"
    ):
        list(files)


def test_keys_that_count_from_zero_are_told_from_those_that_count_from_one(tmp_path: Path):
    row = EXAMS["medmcqa"]
    zero = write(tmp_path / "zero.json", {**row, "cop": 1}, {**row, "question": "另一问", "cop": 0})
    assert [case.sections["answer"] for case in CaseFiles(zero)] == ["B", "A"]


def test_the_turns_before_the_last_answer_are_the_question(tmp_path: Path):
    turns = [
        "I sleep badly.",
        "<think>hm</think>Since when?",
        "A week.",
        "Try less coffee.",
        "Thanks!",
    ]
    roles = ["user", "assistant", "user", "assistant", "user"]
    row = {"messages": [{"role": r, "content": t} for r, t in zip(roles, turns, strict=True)]}
    (case,) = CaseFiles(write(tmp_path / "a.json", row))
    assert case.sections == {
        "question": "User: I sleep badly.\nAssistant: Since when?\nUser: A week.",
        "answer": "Try less coffee.",
    }


def test_a_table_of_questions_keeps_department_and_title_and_names_what_it_leaves_out(
    tmp_path: Path,
):
    book = Workbook()
    assert book.active is not None
    rows = [["科室", "标题", "问题", "回答", "电话"], ["心理科", "失眠", Q, A, "13812345678"]]
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    with (tmp_path / "a.csv").open("w", encoding="gb18030", newline="") as file:
        csv.writer(file).writerows(rows)
    for name in ("a.xlsx", "a.csv"):
        files = CaseFiles(tmp_path / name)
        (case,) = files
        assert (case.department, case.title) == (("心理科",), "失眠")
        assert case.sections == {"question": Q, "answer": A}
        assert next(iter(files.describe_columns())).startswith("columns 电话: left out")


def test_a_case_that_also_has_a_question_is_a_case(tmp_path: Path):
    row = {"主诉": "失眠1周", "诊断": "失眠症", "question": Q, "answer": A}
    (case,) = CaseFiles(write(tmp_path / "a.json", row))
    assert case.sections == {"主诉": "失眠1周", "临床诊断": "失眠症"}


def test_columns_may_hold_sections_of_the_users_own(tmp_path: Path):
    row = {"故障现象": "轴承温度偏高，振动大", "结论": "润滑不足", "班组": "二班"}
    given = ("故障现象=故障现象", "结论=answer")
    names = load_names()
    files = CaseFiles(write(tmp_path / "a.json", row), names, Columns(given, names))
    (case,) = files
    assert case.sections == {"故障现象": "轴承温度偏高，振动大", "answer": "润滑不足"}
    with pytest.raises(InputError, match="found the fields 故障现象, 结论, 班组"):
        list(CaseFiles(write(tmp_path / "b.json", row)))
    assert "--columns 班组=班组 keeps one as a section" in " ".join(files.describe_columns())


def test_blank_parts_and_conversations_without_an_answer_are_dropped_by_name(tmp_path: Path):
    rows = [
        FORMS["alpaca"],
        {"question": "", "answer": A},
        {"question": Q, "answer": None},
        {"messages": [{"role": "user", "content": Q}]},
        {"question": Q, "answer": 3},
    ]
    manifest = run(
        Config(source="files", input=write(tmp_path / "a.json", *rows), out=tmp_path / "out")
    )
    assert manifest.counts.kept == 1
    assert manifest.counts.dropped == {
        "no_question": 1,
        "no_answer": 1,
        "odd_turns": 1,
        "wrong_schema": 1,
    }


def test_a_dataset_is_read_from_the_folder_it_was_put_into_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hub_datasets, "DATASETS", tmp_path)
    (tmp_path / "owner/name").mkdir(parents=True)
    write(tmp_path / "owner/name/qa.json", FORMS["alpaca"])
    run(Config(source="files", input=Path("hf:owner/name/qa.json"), out=tmp_path / "out"))
    (line,) = (tmp_path / "out/raw_cases.jsonl").read_text(encoding="utf-8").splitlines()
    case = RawCase.model_validate_json(line)
    assert (case.source, case.url) == ("name", "https://huggingface.co/datasets/owner/name")
    assert case.sections == {"question": Q, "answer": A}


def test_every_file_that_no_hub_gives_is_named_with_the_place_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as caught:
        hub_datasets.fetch_all(["hf:o/one/a.json", "hf:o/two"])
    message = str(caught.value)
    assert (
        "https://huggingface.co/datasets/o/one/resolve/main/a.json to datasets/o/one/a.json"
        in message
    )
    assert "the data file of https://huggingface.co/datasets/o/two to datasets/o/two" in message
    assert "\n" not in message


def test_a_task_that_asks_questions_changes_nothing_in_how_their_rows_are_read(tmp_path: Path):
    path = write(
        tmp_path / "psy.json",
        FORMS["question and answer"],
        FORMS["in Chinese"] | {"问题": "另一问"},
    )
    told = {"source": "files", "input": path, "task": "open-question"}
    run(Config.model_validate({**told, "out": tmp_path / "out"}))
    lines = (tmp_path / "out/raw_cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [RawCase.model_validate_json(line) for line in lines]
    assert [case.source for case in cases] == ["psy", "psy"]
    assert [[*case.sections] for case in cases] == [["question", "answer"]] * 2


@pytest.mark.parametrize("keys", [(1, 2), (0.0, 2.0)])
def test_keys_that_may_count_from_either_are_refused_and_floats_are_numbers(
    tmp_path: Path, keys: tuple[float, float]
):
    row = EXAMS["medmcqa"] | {"opc": "散步", "opd": "读书"}
    files = CaseFiles(
        write(tmp_path / "a.json", *({**row, "question": f"{key}?", "cop": key} for key in keys))
    )
    if 0 in keys:
        assert [case.sections["answer"] for case in files] == ["A", "C"]
    else:
        with pytest.raises(InputError, match="no row of the file tells which"):
            list(files)


@pytest.mark.parametrize(
    "beside",
    [
        {"选项1": "咖啡", "选项2": "放松"},
        {"A选项": "咖啡", "B选项": "放松", "C选项": float("nan"), "D选项": "NULL"},
        {"options": '{"A": "咖啡", "B": "放松"}'},
        {"options": '["咖啡", "放松"]'},
        {"options": "A. 咖啡 B. 放松"},
        {"A": "咖啡", "选项A": 5, "B": "放松"},
    ],
)
def test_options_are_read_as_other_exams_write_them(tmp_path: Path, beside: dict[str, object]):
    (case,) = CaseFiles(write(tmp_path / "a.json", {"题目": Q, **beside, "答案": "B"}))
    assert case.sections["options"] == "A. 咖啡\nB. 放松" and case.sections["answer"] == "B"


def test_an_answer_stands_above_a_label(tmp_path: Path):
    row = {"question": Q, "options": ["咖啡", "放松", "读书"], "answer": "C", "label": "B"}
    (case,) = CaseFiles(write(tmp_path / "a.json", row))
    assert case.sections["answer"] == "C"


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "失眠怎么办？", "input": "", "output": A, "history": []},
        {"question": Q, "answer": A, "exam": "USMLE 2019", "course": "Sleep"},
    ],
)
def test_fields_of_a_question_that_are_also_names_of_sections_make_no_case(
    tmp_path: Path, row: dict[str, object]
):
    (case,) = CaseFiles(write(tmp_path / "a.json", row))
    assert case.sections["answer"] == A and set(case.sections) == {"question", "answer"}


def test_a_question_keeps_its_id_address_and_licence(tmp_path: Path):
    row = {"id": "s-7", "question": Q, "answer": A, "url": "https://a.org/7", "licence": "CC0"}
    path = write(tmp_path / "a.json", row, {**row, "id": "s-8"}, {**row, "question": "另一问"})
    first, second, third = CaseFiles(path)
    assert (first.id, first.url, first.licence) == ("a:s-7", "https://a.org/7", "CC0")
    assert second.id == "a:s-8" and third.id not in {first.id, second.id}
