"""The rehearsal world in English and for other tasks than diagnosis."""

from collections import Counter
from pathlib import Path

import pytest

from medkd.collect.files import CaseFiles
from medkd.core.task import SHIPPED, load_task
from medkd.demo.dialogue import think
from medkd.demo.mock_site import render_case
from medkd.demo.synthetic_cases import (
    OPEN_DATASETS,
    generate_cases,
    make_exam,
    make_pairs,
    write_open_datasets,
    write_pairs,
)
from medkd.merge.sources import Row, read_row
from medkd.text.normalize import is_chinese
from medkd.text.tables import find_source, read_rows

LANGUAGES = ("zh", "en")


def put(task: str, language: str, mode: str, question: str, reference: str) -> str:
    """Write the message that `distill` sends for a question."""
    found = load_task(task)
    prompts = getattr(found.teacher, mode)
    return found.fill(prompts[language], question, reference)


def make_record(case, sections) -> str:
    """Write the sections of a case as `prepare` writes them."""
    part = load_task("treatment").question
    template, labels = part.template[case.language], part.labels.get(case.language, {})
    texts = {**case.sections, "诊断结果": case.diagnosis[0]}
    return "".join(
        template.format(section=labels.get(name, name), text=texts[name])
        for name in sections
        if name in texts
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_in_either_language_are_collected_as_the_cases_they_show(
    tmp_path: Path, language: str
):
    cases = generate_cases(30, 4, language)
    for case in cases:
        path = tmp_path / f"{case.number}-1.html"
        path.write_text(render_case(case), encoding="utf-8")
    found = {case.id: case for case in CaseFiles(tmp_path)}
    own = {
        "Treatment plan": "治疗方案",
        "Cause": "发病原因",
        "Outcome": "治疗结果",
        "Key point": "病案重点",
    }
    for case in cases:
        read = found[f"iiyi:{case.number}"]
        assert {own.get(name, name): text for name, text in read.sections.items()} == {
            **case.sections,
            **case.summary,
        }
        assert read.diagnosis == case.diagnosis


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("mode", ["rationalize", "solve"])
def test_the_teacher_reasons_to_the_answer_of_each_task_in_the_language_of_the_prompt(
    language: str, mode: str
):
    case = generate_cases(20, 9, language)[0]
    record = make_record(case, load_task("diagnosis").question.sections[1:6])
    told = make_record(case, load_task("treatment").question.sections)
    pair, exam = make_pairs(20, 9, language)[0], make_exam(20, 9, language)[0]
    options = "\n".join(f"{key}. {text}" for key, text in exam["options"].items())
    asked = {
        "diagnosis": (record.replace(case.diagnosis[0], ""), case.diagnosis[0]),
        "treatment": (told, case.summary["治疗方案"]),
        "multiple-choice": (f"{exam['question']}\n{options}", exam["answer"]),
    }
    if mode == "rationalize":
        asked["open-question"] = (pair["question"], pair["answer"])
    for task, (question, answer) in asked.items():
        reasoning, said = think(put(task, language, mode, question, answer), 1)
        assert said == answer, task
        assert is_chinese(reasoning) is (language == "zh")
        assert all(clue.text in reasoning for clue in case.clues), task


def test_an_answer_that_the_clinic_does_not_know_is_argued_point_by_point():
    question = "Pump P-12 runs hot. The bearing was greased in May; vibration is 7 mm/s. What next?"
    answer = "Check the alignment first. Then replace the bearing."
    reasoning, said = think(put("open-question", "en", "rationalize", question, answer), 0)
    assert said == answer
    assert "vibration is 7 mm/s" in reasoning and "Check the alignment first" in reasoning
    assert not is_chinese(reasoning)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_files_of_the_open_datasets_hold_the_rows_of_their_schemas(
    tmp_path: Path, language: str
):
    paths = write_open_datasets(tmp_path, 40, 3, language)
    assert [path.name for path in paths] == [*OPEN_DATASETS]
    for path in paths:
        source = find_source(path)
        rows = [read_row(raw, source, Counter()) for raw in read_rows(path)]
        assert len(rows) == 10 and all(isinstance(row, Row) for row in rows)
        assert source.licence == "Apache-2.0"
        assert {row.example.language for row in rows if isinstance(row, Row)} == {language}


@pytest.mark.parametrize("task", ["open-question", "multiple-choice"])
def test_questions_with_answers_are_collected_from_the_file_that_is_made(tmp_path: Path, task: str):
    cases = [*CaseFiles(write_pairs(tmp_path, 30, 3, task))]
    wanted = {"question", "answer"} | ({"options"} if task == "multiple-choice" else set())
    assert len(cases) == 30 and all(set(case.sections) == wanted for case in cases)
    assert task in SHIPPED
