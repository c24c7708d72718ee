"""The same questions asked again (orders of options, changed records, wrong thoughts begun), and
those outside the task: what is right of them, and what was forgotten."""

import json

import pytest

from medkd.core.config import read_shipped_yaml
from medkd.core.records import Prediction
from medkd.evaluate.extra_questions import (
    describe_forgetting,
    find_cited,
    invert_clause,
    make_changes,
    meets,
    read_general,
    remove_clause,
    score_changes,
    score_general,
    score_order,
    shuffle_options,
)
from medkd.evaluate.questions import make_prompts, read_exam
from medkd.evaluate.stage import Config, run
from medkd.grading.scores import Row, score_prediction
from student_samples import make_example, read_lines


def answer(key, text, reasoning="", **changes):
    raw = f"<think>\n{reasoning}\n</think>\n\n{text}" if reasoning else text
    values = {"id": key, "prompt": "…", "reasoning": reasoning, "answer": text, "raw": raw}
    values |= {"reference": "", "finish_reason": "stop", "n_tokens": 3}
    return Prediction.model_validate(values | changes)


def test_a_model_that_looks_at_the_letter_alone_is_seen_when_options_are_turned(tmp_path):
    path = tmp_path / "exam.jsonl"
    rows = [
        {"question": f"哪个？{n}", "options": {k: f"{n}药{k}" for k in "ABCDEFGHIJ"}, "label": "J"}
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions, _ = read_exam(str(path))

    def ask(choose):
        turns = [[q, *(shuffle_options(q, 0, turn) for turn in (1, 2, 3))] for q in questions]
        return score_order(
            [[(q, answer(q.id, f"答案：{choose(q)}")) for q in turned] for turned in turns]
        )

    scores, positions = ask(lambda q: "A")
    assert all(s["exam_consistent"] == 0.0 for s in scores.values())
    assert positions["A"]["chosen"] == 1.0 and positions["A"]["right"] < 0.5
    scores, _ = ask(lambda q: q.answer)
    assert all(
        s == {"exam_consistent": 1.0, "exam_accuracy_shuffled": 1.0} for s in scores.values()
    )
    scores, _ = ask(lambda q: "说不准")
    assert all(s == {"exam_accuracy_shuffled": 0.0} for s in scores.values())


RECORD = "【主诉】发热3天，咳嗽，无胸痛。【查体】双肺湿啰音，心率90次/分。"


def test_the_finding_that_is_changed_is_one_that_the_reasoning_cites():
    assert find_cited(RECORD, "双肺湿啰音，心率90次/分提示感染")[:2] == [
        "双肺湿啰音",
        "心率90次/分",
    ]
    assert find_cited(RECORD, "没有提到任何内容") == []
    assert remove_clause(RECORD, "双肺湿啰音") == RECORD.replace("双肺湿啰音，", "")
    assert "无双肺湿啰音" in invert_clause(RECORD, "双肺湿啰音")
    assert invert_clause("denies chest pain, cough", "denies chest pain") == "chest pain, cough"


def test_a_diagnosis_follows_where_it_changes_and_recovers_where_it_is_right_again():
    examples = [
        make_example(n, input=RECORD, reference=known) for n, known in enumerate(["肺炎", "骨折"])
    ]
    prompts = make_prompts(examples)
    before = {
        e.id: answer(e.id, e.reference, "双肺湿啰音", reference=e.reference) for e in examples
    }
    rows = {i: score_prediction(p) for i, p in before.items()}
    changes = make_changes(prompts, before, rows, 2, seed=0)
    kinds = sorted(change.prompt.id.rpartition("~")[2] for change in changes)
    assert kinds == ["inverted", "inverted", "misled", "misled", "removed", "removed"]
    assert all("双肺湿啰音，" not in c.prompt.example.input for c in changes if "~r" in c.prompt.id)
    thoughts = {c.prompt.id: c.thought for c in changes if c.thought}
    assert "骨折" in thoughts[f"{examples[0].id}~misled"]
    key = examples[0].id
    again = [
        answer(f"{key}~removed", "骨折", reference="肺炎"),
        answer(f"{key}~inverted", "肺炎", reference="肺炎"),
        answer(f"{key}~misled", "肺炎", reference="肺炎"),
    ]
    expected = {"removal_follows": 1.0, "inversion_follows": 0.0, "recovery_rate": 1.0}
    assert score_changes(again, before) == {key: expected}


def test_there_are_sixty_questions_half_chinese_half_sums_and_none_is_right_by_chance():
    items = read_shipped_yaml("medkd.evaluate", "general.yaml")
    assert len(items) == len({item["id"] for item in items}) == 60
    assert sum(item["kind"] == "arithmetic" for item in items) == 30
    assert sum(item["id"].startswith("zh") for item in items) == 30
    for question in read_general(["builtin"]):
        for text in ("", "我不知道，也说不清楚。", "<think>\n42"):
            assert not question.is_right(text), question.example.id


@pytest.mark.parametrize(
    ("key", "right", "wrong"),
    [
        ("zh-sum-5", "36×5=180\n答案：180", "36×5=180，再加5\n答案：185"),
        ("en-sum-8", "25% of 160 is 40.\nAnswer: 120", "Answer: 40"),
        ("zh-do-2", "- 苹果\n- 梨\n- 桃", "苹果、梨、桃"),
        ("zh-do-5", '{"名称": "苹果", "数量": 3}', '{"名称": "苹果"}'),
        ("zh-do-8", "1. 春\n2. 夏\n3. 秋\n4. 冬", "春\n夏\n秋\n冬"),
        ("zh-do-13", "花开了，花香飘来。", "花开了。"),
        ("en-do-1", "Yes.", "Yes, it is."),
        ("en-do-5", '```json\n{"city": "Oslo", "year": 1999}\n```', '{"city": "Oslo"}'),
        ("en-do-6", "READY\nDONE", "READY, DONE"),
        ("en-do-11", "GRASS IS GREEN.", "Grass is green."),
        ("en-do-14", "apple, fig, pear", "fig, apple, pear"),
    ],
)
def test_an_item_is_right_where_it_was_done_as_asked(key, right, wrong):
    by_id = {q.example.id: q for q in read_general(["builtin"])}
    question = by_id[f"general:{key}"]
    assert question.is_right(f"<think>\nlet me see\n</think>\n\n{right}")
    assert not question.is_right(wrong)


def test_a_check_that_nobody_wrote_is_an_error():
    with pytest.raises(KeyError):
        meets("a", {"nonsense": 1})


def test_forgetting_is_called_so_only_where_it_is_significant():
    def rows(marks):
        return [
            Row(id=f"g:{n}", scores={"general_accuracy": float(mark)})
            for n, mark in enumerate(marks)
        ]

    found = describe_forgetting(rows([1] * 30), rows([1] * 18 + [0] * 12))
    assert found["is_drop"] and (found["base"], found["student"], found["lost"]) == (1.0, 0.6, 12)
    assert not describe_forgetting(rows([1] * 30), rows([1] * 28 + [0] * 2))["is_drop"]
    assert not describe_forgetting(rows([1] * 10), rows([0] * 10))["is_drop"]  # too few


def test_any_exam_may_stand_for_what_lies_outside_the_task(tmp_path):
    path = tmp_path / "exam.json"
    path.write_text(
        json.dumps([{"question": "2+2?", "options": {"A": "4", "B": "5"}, "answer": "A"}])
    )
    questions = read_general(["builtin", str(path)])
    assert len(questions) == 61
    last = questions[-1].example.id
    answer = Prediction(
        id=last, prompt="2+2?", reasoning="", answer="", raw="Answer: A", reference="",
        finish_reason="stop", n_tokens=3,
    )  # fmt: skip
    (row,) = score_general(questions, [answer])
    assert row.scores == {"general_accuracy": 1.0}


@pytest.mark.slow
def test_all_of_it_runs_on_a_student_and_its_base(
    random_model_dir, trained_dir, merged_dir, tmp_path
):
    config = Config(
        model=str(random_model_dir),
        adapter=trained_dir / "adapter",
        input=merged_dir,
        max_tokens=64,
        general=("builtin",),
        faithfulness=4,
        out=tmp_path,
    )
    run(config)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert 0 <= scores["general_accuracy"] <= 1 and scores["n_general_accuracy"] == 60
    assert len(read_lines(tmp_path / "general_base.jsonl")) == 60
    breakdown = json.loads((tmp_path / "breakdown.json").read_text())
    assert breakdown["forgetting"]["n"] == 60
    asked_again = {"removal_follows", "inversion_follows", "recovery_rate"} & set(scores)
    assert asked_again and all(scores[f"n_{name}"] <= 4 for name in asked_again)
    started = run(config).started_at
    page = tmp_path / "report.html"
    assert '<html lang="en">' in page.read_text()
    assert run(config.model_copy(update={"lang": "zh"})).started_at == started
    assert '<html lang="zh">' in page.read_text()
