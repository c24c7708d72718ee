"""The same questions asked again: orders of options, changed records, wrong thoughts begun."""

import json

from medkd.core.records import Prediction
from medkd.evaluate.questions import make_prompts, read_exam
from medkd.evaluate.scoring import score_prediction
from medkd.evaluate.variations import (
    find_cited,
    invert_clause,
    make_changes,
    remove_clause,
    score_changes,
    score_order,
    shuffle_options,
)
from student_samples import make_example


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
