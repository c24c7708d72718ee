from pathlib import Path

import pytest

from medkd.core.errors import InputError
from medkd.core.task import (
    SHIPPED,
    VerifyPart,
    check_tasks,
    find_task,
    load_task,
    read_shipped_task,
)

PUMP = """\
name: pump-fault
question: {sections: [设备, 故障现象, 检查记录]}
answer: {section: 故障原因}
"""


def write(folder: Path, text: str, name: str = "task.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_shipped_task_has_its_texts_in_both_languages(name, language):
    task = load_task(name)
    asked = task.student.instructions[language]
    assert len(set(asked)) == len(asked) >= 3
    assert all("<think>" in text for text in asked)
    assert task.student.system[language] and task.teacher.system[language]
    assert task.teacher.rationalize[language].endswith(
        "{question}</question>"
    ) or task.teacher.rationalize[language].endswith("{question}</record>")
    assert "{reference}" not in task.teacher.solve[language]


def test_the_diagnosis_is_asked_as_in_the_record_format():
    student = load_task("diagnosis").student
    assert student.system["zh"] == "你是一名专业的临床医生。"
    assert student.instructions["zh"][0].startswith("请根据以下患者病历进行分析推理，并给出诊断。")


def test_a_file_of_three_lines_is_a_task_and_names_no_other_trade(tmp_path):
    task = load_task(write(tmp_path, PUMP))
    assert (task.name, task.answer.kind, task.question.remove_answer) == (
        "pump-fault",
        "text",
        False,
    )
    assert task.question.template["zh"] == "【{section}】{text} "
    assert task.question.ask["zh"] == "故障原因是什么？"
    texts = [
        *task.teacher.system.values(),
        *task.teacher.rationalize.values(),
        *task.student.system.values(),
    ]
    assert not any(
        word in text for text in texts for word in ("临床", "病历", "患者", "clinic", "patient")
    )


def test_a_text_of_a_file_counts_for_both_languages_or_for_the_one_it_names(tmp_path):
    text = PUMP + "teacher: {system: 你修泵。}\nstudent: {system: {zh: 你是钳工。}}\n"
    task = load_task(write(tmp_path, text))
    assert task.teacher.system == {"zh": "你修泵。", "en": "你修泵。"}
    assert task.student.system["zh"] == "你是钳工。"
    assert task.student.system["en"] == load_task("open-question").student.system["en"]


def test_an_undecided_number_does_not_pass_as_an_undecided_text_does(tmp_path):
    number = load_task(write(tmp_path, "answer: {kind: number}\n", "number.yaml"))
    assert (number.name, number.verify.min_f1) == (
        "number",
        VerifyPart().min_f1,
    )
    assert load_task(write(tmp_path, PUMP)).verify.min_f1 == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nquestons: {}\n", "unknown key 'questons'; did you mean 'question'"),
        (
            "name: a\nquestion: {secions: [b]}\n",
            "question: unknown key 'secions'; did you mean 'sections'",
        ),
        ("name: a\nanswer: {section: b, kind: sentence}\n", "kind: must be"),
        (
            "name: a\nquestion: {sections: [b, c]}\nanswer: {section: c}\n",
            "'c', which is the answer",
        ),
        ("name: a\nteacher: {solve: 回答问题}\n", "teacher.solve: {question} is missing"),
        (
            "name: a\nteacher: {rationalize: '{question}'}\n",
            "teacher.rationalize: {reference} is missing",
        ),
        (
            "name: a\nteacher: {solve: '{question} {reference}'}\n",
            "{reference} is no placeholder here",
        ),
        ("name: a\nquestion: {template: '{section}'}\n", "question.template: {text} is missing"),
        (
            "name: a\nanswer: {kind: diagnosis}\nquestion: {sections: [诊断依据]}\n",
            "question.never forbids",
        ),
        ("name: a\nlanguage: fr\n", "language: must be"),
        ("name: a\nstudent: {system: {fr: x}}\n", "must be one of 'zh', 'en'"),
        ("name: a\nverify: {checks: [loops]}\n", "must be"),
        ("- a\n", "a task is a mapping"),
        ("name: [\n", "broken YAML"),
    ],
)
def test_a_broken_task_is_refused_in_one_line_with_the_place(tmp_path, text, said):
    with pytest.raises(InputError) as error:
        load_task(write(tmp_path, text))
    assert said in str(error.value)
    assert "task.yaml" in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_task_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'treatment'"):
        load_task("treatmnt")
    with pytest.raises(InputError, match="no such task file"):
        load_task("missing.yaml")


def test_a_row_finds_its_task_by_name(tmp_path):
    path = str(write(tmp_path, PUMP))
    assert find_task("pump-fault", path).answer.section == ("故障原因",)
    assert find_task("diagnosis", path) is find_task("diagnosis")
    with pytest.raises(InputError, match="name its file with --task"):
        find_task("pump-fault")
    with pytest.raises(InputError, match=r"--task .* is 'pump-fault'"):
        check_tasks({"diagnosis"}, path, Path("questions.jsonl"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_copied_task_is_the_same_task(tmp_path, name):
    text = read_shipped_task(name)
    with pytest.raises(InputError, match="is a shipped task"):
        load_task(write(tmp_path, text))
    copied = load_task(write(tmp_path, text.replace(f"name: {name}", "name: mine")))
    assert copied == load_task(name).model_copy(update={"name": "mine"})
