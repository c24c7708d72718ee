import json
import os
import shutil
import sys

import pytest

from medkd.core.errors import InputError
from medkd.core.jsonl import RecordWriter, hash_path, list_parts
from medkd.evaluate.questions import (
    ExamQuestion,
    find_seen,
    find_training,
    put_question,
    read_exam,
    score_exam,
)
from medkd.evaluate.stage import Config, run
from student_samples import make_example, write_examples

CMB = {
    "exam_type": "医师考试",
    "exam_class": "执业医师",
    "question": "降压首选药？",
    "question_type": "多项选择题",
    "option": {"A": "氨氯地平", "B": "缬沙坦", "C": "阿司匹林", "D": "青霉素", "E": ""},
    "answer": "BA",
}
MEDQA = {
    "question": "Best drug?",
    "options": {"A": "Aspirin", "B": "Heparin"},
    "answer": "Heparin",
    "answer_idx": "B",
    "meta_info": "step1",
}
MCMLE = {"question": "首选检查？", "options": {"A": "胸片", "B": "CT"}, "answer": "CT"}
MEDMCQA = {
    "question": "Which?",
    "opa": "one",
    "opb": "two",
    "opc": "three",
    "opd": "four",
    "cop": 4,
    "subject_name": "Surgery",
}


def test_the_four_public_forms_are_read(tmp_path):
    (tmp_path / "cmb.json").write_text(json.dumps([CMB]))
    (tmp_path / "medqa.jsonl").write_text(json.dumps(MEDQA) + "\n" + json.dumps(MCMLE) + "\n")
    (tmp_path / "medmcqa.json").write_text(
        json.dumps(MEDMCQA) + "\n" + json.dumps(MEDMCQA | {"cop": 1}) + "\n"
    )
    (tmp_path / "cmexam.csv").write_text(
        '\ufeffQuestion,Options,Answer\n首选药？,"A 青霉素\nB 红霉素",B\n', encoding="utf-8"
    )
    cmb, *_ = read_exam(str(tmp_path / "cmb.json"))[0]
    assert (cmb.answer, cmb.subject, list(cmb.options)) == ("AB", "执业医师", ["A", "B", "C", "D"])
    assert [q.answer for q in read_exam(str(tmp_path / "medqa.jsonl"))[0]] == ["B", "B"]
    assert [q.answer for q in read_exam(str(tmp_path / "medmcqa.json"))[0]] == ["D", "A"]
    cmexam, *_ = read_exam(str(tmp_path / "cmexam.csv"))[0]
    assert (cmexam.answer, cmexam.options) == ("B", {"A": "青霉素", "B": "红霉素"})
    assert "多项选择题" in put_question(cmb) and put_question(cmb).count("\n") == 5


def test_rows_that_are_no_questions_are_counted_and_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "cmb.json"
    path.write_text(json.dumps([CMB, CMB | {"answer": "Z"}, CMB | {"option": None}, 3]))
    questions, n_broken = read_exam(str(path))
    assert (len(questions), n_broken) == (1, 3)
    path.write_text('[{"text": "x"}]')
    with pytest.raises(InputError, match=r"item 1: none of option.*known forms"):
        read_exam(str(path))
    with pytest.raises(InputError, match="no such file; check --exam"):
        read_exam(str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. 缬沙坦", "B"),
        ("答案：B", "B"),
        ("答案：A、B", "AB"),
        ("正确答案是AB。", "AB"),
        ("综上，故选C。", "C"),
        ("<think>应选A</think>\n答案是 **D**", "D"),
        ("The correct answer is (C).", "C"),
        ("Answer: B", "B"),
        (r"$\boxed{A}$", "A"),
        ("A项错误，B项错误。答案：D", "D"),
        ("首先答案似乎是A，但最终答案是C", "C"),
        ("缬沙坦是首选。", "B"),
        ("氨氯地平和缬沙坦都可以。", ""),
        ("答案不是A。", ""),
        ("I do not know.", ""),
        ("<think>答案是A", ""),
        ("", ""),
        ("答案：H", ""),
        ("Aspirin", ""),
    ],
)
def test_letters_are_read_out_of_what_was_generated(text, letters):
    options = {k: v for k, v in CMB["option"].items() if v}
    question = ExamQuestion("1", "", "?", options, letters or "A")
    marks = score_exam(question, text)
    assert marks["exam_accuracy"] == float(bool(letters))
    assert marks["exam_unreadable"] == float(not letters)
    assert marks["exam_decided"] == float(bool(letters) or not text)  # silence is wrong


def test_a_model_sits_an_exam(random_model_dir, tmp_path):
    path = tmp_path / "cmb.json"
    path.write_text(json.dumps([CMB | {"question": f"{n}？"} for n in range(4)]))
    manifest = run(
        Config(model=str(random_model_dir), exam=str(path), max_tokens=16, out=tmp_path / "out")
    )
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert manifest.counts.kept == 4 and scores["exam_accuracy"] + scores["exam_unreadable"] <= 1.0
    assert "diagnosis_accuracy" not in scores
    with pytest.raises(InputError, match="asks its own questions"):
        run(
            Config(
                model=str(random_model_dir),
                exam=str(path),
                samples=3,
                temperature=0.5,
                out=tmp_path / "again",
            )
        )


def write_dataset(folder):
    folder.mkdir(parents=True)
    for split, cop in (("validation", 1), ("test", -1)):
        rows = [MEDMCQA | {"question": f"{n}?", "cop": cop} for n in range(3)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_files_of_a_dataset_are_chosen_by_split_by_name_or_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "datasets/clinic/exam")
    for source in ("hf:clinic/exam:validation", "ms:clinic/exam/validation.jsonl"):
        questions, n_broken = read_exam(source)
        assert [q.answer for q in questions] == ["B", "B", "B"] and n_broken == 0
    with pytest.raises(InputError, match="the answer -1 is no option"):
        read_exam("hf:clinic/exam")  # the test split, whose answers are not told
    (tmp_path / "datasets/clinic/exam/test.jsonl").unlink()
    assert len(read_exam("hf:clinic/exam")[0]) == 3


def test_a_dataset_that_is_not_there_is_told_in_one_line_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"hf:: no name of a dataset; write hf:owner/name"):
        read_exam("hf:")
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(InputError, match=r"^ms:clinic/exam.*: the modelscope package is missing"):
        read_exam("ms:clinic/exam")


def test_the_share_that_could_not_be_read_is_on_the_page(random_model_dir, tmp_path):
    path = tmp_path / "cmb.json"
    path.write_text(json.dumps([CMB | {"question": f"{n}？"} for n in range(4)]))
    run(Config(model=str(random_model_dir), exam=str(path), max_tokens=8, out=tmp_path / "out"))
    assert "answers in which no letter could be read" in (tmp_path / "out/report.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_an_exam_in_another_encoding_is_asked_as_it_was_written(tmp_path, encoding, form):
    path = tmp_path / f"exam.{form}"
    rows = [CMB | {"question": f"{n}、下列哪种药物是高血压病人降压的首选药物？"} for n in range(3)]
    if form == "csv":
        text = "Question,Options,Answer\n" + 3 * '高血压首选什么药？,"A 青霉素\nB 红霉素",B\n'
    elif form == "json":
        text = json.dumps(rows, ensure_ascii=False)
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode(encoding))
    questions, n_broken = read_exam(str(path))
    assert (len(questions), n_broken) == (3, 0)
    assert "首选" in put_question(questions[0]) and "�" not in put_question(questions[0])


def test_traditional_characters_in_big5_are_read(tmp_path):
    path = tmp_path / "exam.json"
    row = {
        "question": "急性膽囊炎首選檢查？",
        "options": {"A": "超音波", "B": "胃鏡"},
        "answer": "A",
    }
    path.write_bytes(json.dumps([row] * 3, ensure_ascii=False).encode("big5"))
    assert read_exam(str(path))[0][0].question == "急性膽囊炎首選檢查？"


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.write_bytes(b"\x81\x20\xff\xfe" * 50),
        lambda path: path.write_text("[" * 200_000),
        lambda path: path.write_text('[{"question": "a", "options": ' + '{"a":' * 100_000),
        lambda path: path.write_bytes(b"\0" * 10_000),
        lambda path: path.write_bytes(b""),
        lambda path: path.mkdir(),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_what_is_no_exam_is_refused_in_one_line(tmp_path, make, suffix):
    path = tmp_path / f"exam.{suffix}"
    make(path)
    with pytest.raises(InputError, match=r"^[^\n]*exam\.[^\n]*$"):
        read_exam(str(path))


def test_options_run_from_a_to_z_in_every_form(tmp_path):
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    ten = {letter: f"drug {letter}" for letter in letters[:10]}
    rows = [
        {"question": "Which?", "options": ten, "label": "J"},
        {"question": "Which?", "option": dict.fromkeys(letters, "x") | {"Z": "y"}, "answer": "Z"},
        {"Question": "哪个？", "Options": "\n".join(f"{k} 药{k}" for k in letters), "Answer": "Y"},
        {"question": "Which?", "options": list(ten.values()), "answer": "drug I"},
        {"question": "Which?", "options": {"ａ": "one", "ｂ": "two"}, "answer": "Ｂ"},
        {"question": "Which?", "options": {"A": "one", "B": "two", "C": "x"}, "answer": ["C", "A"]},
        {"Question": "哪个？", "Options": "A、胸片\nB、CT 检查\nC．磁共振", "Answer": "B;C"},
    ]
    path = tmp_path / "exam.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions, n_broken = read_exam(str(path))
    assert [q.answer for q in questions] == ["J", "Z", "Y", "I", "B", "AC", "BC"]
    assert n_broken == 0 and len(questions[1].options) == 26
    assert questions[6].options == {"A": "胸片", "B": "CT 检查", "C": "磁共振"}


@pytest.mark.parametrize("answer", ["", "未知", "The first one", "K", "AK", None, 3, {}, "无BC"])
def test_an_answer_that_names_no_option_makes_the_row_no_question(tmp_path, answer):
    path = tmp_path / "exam.json"
    path.write_text(json.dumps([CMB | {"answer": answer}, CMB]))
    questions, n_broken = read_exam(str(path))
    assert (len(questions), n_broken) == (1, 1)


def test_medxpertqa_is_read_its_options_once_and_questions_about_images_left_out(tmp_path):
    options = {letter: f"choice {letter}" for letter in "ABCDEFGHIJ"}
    listed = " ".join(f"({k}) {v}" for k, v in options.items())
    row = {"id": "Text-1", "question": f"Which one?\nAnswer Choices: {listed}", "options": options}
    path = tmp_path / "medxpertqa.jsonl"
    rows = [row | {"label": "J"}, row | {"id": "MM-1", "label": "A", "images": ["a.jpg"]}]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    questions, n_broken = read_exam(str(path))
    assert [(q.question, q.answer, len(q.options)) for q in questions] == [("Which one?", "J", 10)]
    assert n_broken == 1


def write_manifest(folder, stage, inputs):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(
        json.dumps({"stage": stage, "identity": "x", "config": {}, "inputs": inputs})
    )


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A run made in `tmp_path` with paths as they were typed there: training rows, an adapter, an
    exported model."""
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "runs/mine/merge/train.jsonl"
    rows.parent.mkdir(parents=True)
    write_examples(rows, range(4))
    write_manifest(
        tmp_path / "runs/mine/train", "train", {"runs/mine/merge/train.jsonl": hash_path(rows)}
    )
    adapter = tmp_path / "runs/mine/train/adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    write_manifest(
        tmp_path / "runs/mine/export", "export", {"runs/mine/train/adapter": hash_path(adapter)}
    )
    return tmp_path / "runs/mine"


@pytest.mark.parametrize("model", ["train/adapter", "export"])
def test_the_training_rows_are_found_from_any_directory(made, tmp_path, monkeypatch, model):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_training(made / model).samefile(made / "merge/train.jsonl")
    seen = find_seen(
        [make_example(2, id="renamed:2"), make_example(9)], tmp_path / "test.jsonl", made / model
    )
    assert seen.ids == {"renamed:2"}


@pytest.mark.parametrize("model", ["train/adapter", "export"])
def test_the_training_rows_are_found_in_a_run_that_was_moved(made, tmp_path, model):
    moved = tmp_path / "kept/other-name"
    moved.parent.mkdir()
    shutil.move(made, moved)
    assert find_training(moved / model).samefile(moved / "merge/train.jsonl")


def test_the_training_rows_are_found_in_parts_too(tmp_path):
    rows = tmp_path / "merge/train.jsonl"
    with RecordWriter(rows, 2) as writer:
        for number in range(5):
            writer.add(make_example(number))
    adapter = tmp_path / "train/adapter"
    adapter.mkdir(parents=True)
    hashes = {str(part): hash_path(part) for part in list_parts(rows)}
    write_manifest(adapter.parent, "train", hashes)
    assert find_training(adapter) == rows
    examples = [make_example(4, id="renamed:4"), make_example(9)]
    assert find_seen(examples, tmp_path / "test.jsonl", adapter).ids == {"renamed:4"}


def test_other_rows_of_the_same_name_are_not_taken_for_them(made, tmp_path):
    moved = tmp_path / "kept/mine"
    moved.parent.mkdir()
    shutil.move(made, moved)
    write_examples(moved / "merge/train.jsonl", range(9))
    assert find_training(moved / "train/adapter") is None


def test_the_manifest_of_another_program_tells_nothing(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    assert find_training(tmp_path / "model") is None
