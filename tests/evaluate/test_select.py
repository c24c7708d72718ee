"""Which training questions a student still learns from."""

import json
from collections import Counter
from pathlib import Path

import pytest

from medkd.core.errors import InputError
from medkd.core.jsonl import write_records
from medkd.core.records import Example, Lineage, Prediction, Question
from medkd.demo.teacher import serve_teacher
from medkd.evaluate.select import Config, Selected, Why, run, select
from medkd.evaluate.stage import Config as EvaluateConfig
from medkd.evaluate.stage import run as evaluate
from rehearsal_questions import make_questions


def answer(question: Question | Example, said: str, k: int = 0) -> Prediction:
    return Prediction(
        id=f"{question.id}#{k}", prompt="", reasoning="想", answer=said, raw="",
        reference=question.reference, finish_reason="stop", n_tokens=1,
    )  # fmt: skip


def config_of(tmp_path: Path, **more) -> Config:
    given = {"input": tmp_path, "out": tmp_path / "select", "model": "rehearsal", **more}
    return Config.model_validate(given)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("rights", "below", "rate", "why"),
    [
        ([1, 1, 1, 1], 1.0, 1.0, Why.SURE),
        ([1, 1, 0, 1], 1.0, 0.75, Why.UNSURE),
        ([1, 1, 0, 1], 0.75, 0.75, Why.SURE),
        ([0, 0, 0, 0], 1.0, 0.0, Why.UNSOLVED),
        ([], 1.0, None, Why.UNANSWERED),
    ],
)
def test_a_question_goes_where_the_student_always_answers_it(tmp_path, rights, below, rate, why):
    (question,) = make_questions(1)
    answers = [
        answer(question, question.reference if ok else "跟骨骨折", k) for k, ok in enumerate(rights)
    ]
    (one,) = select([question], {question.id: answers}, config_of(tmp_path, below=below))
    assert (one.solve_rate, one.why, one.stays) == (rate, why, why is not Why.SURE)


def test_what_rules_cannot_grade_stays(tmp_path):
    (question,) = make_questions(1)
    question = question.model_copy(update={"task": "open-question"})
    (one,) = select([question], {question.id: [answer(question, "多喝水")]}, config_of(tmp_path))
    assert (one.why, one.solve_rate) == (Why.UNDECIDED, None)


@pytest.mark.parametrize("balance", ["department", "rate", "both"])
def test_under_a_limit_the_rest_is_evenly_spread_and_every_row_has_its_reason(tmp_path, balance):
    questions = make_questions(48, n_val=4)
    answers = {
        q.id: [answer(q, q.reference if k < n % 4 and n < 40 else "跟骨骨折", k) for k in range(4)]
        for n, q in enumerate(questions)
    }
    decided = select(questions, answers, config_of(tmp_path, limit=12, balance=balance))
    stays = [one for one in decided if one.stays and one.why is not Why.NOT_TRAIN]
    assert len(stays) == 12 and sum(one.why is Why.NOT_TRAIN for one in decided) == 4
    assert sum(one.why is Why.OVER_LIMIT for one in decided) == 48 - 4 - 12

    def group_of(one: Selected) -> tuple:
        parts = (one.department[:1], one.solve_rate)
        return parts if balance == "both" else parts[balance == "rate" :][:1]

    sizes = Counter(group_of(one) for one in decided if one.why is not Why.NOT_TRAIN)
    counts = {group: sum(group_of(one) == group for one in stays) for group in sizes}
    short = [n for group, n in counts.items() if n < sizes[group]]
    assert max(counts.values()) - min(short) <= 1
    assert decided == select(questions, answers, config_of(tmp_path, limit=12, balance=balance))


def test_a_student_behind_an_endpoint_is_asked_and_what_it_knows_is_left_out(tmp_path):
    questions = make_questions(24, n_val=4)
    write_records(tmp_path / "questions.jsonl", questions)
    with serve_teacher(latency_s=0, skill=0.7) as student:
        config = config_of(tmp_path, endpoint=student.base_url, samples=3)
        manifest = run(config)
        assert student.bill.requests == 20 * 3
        run(config)
        assert student.bill.requests == 20 * 3
    decided = [Selected.model_validate(row) for row in read(tmp_path / "select/selection.jsonl")]
    kept = {row["id"] for row in read(tmp_path / "select" / "questions.jsonl")}
    assert kept == {one.id for one in decided if one.stays}
    assert 0 < manifest.facts["selected"] < 20
    assert {one.id for one in decided if one.why is Why.NOT_TRAIN} <= kept
    assert len(read(tmp_path / "select" / "predictions.jsonl")) == 60
    assert 0.4 < manifest.facts["solve_rate"] < 0.95


def test_rows_of_merge_are_selected_and_val_and_test_come_along(tmp_path):
    rows = [
        Example(
            id=q.id, source="a", style="bare", input=q.input, reasoning="想", answer=q.reference,
            reference=q.reference, lineage=Lineage(origin="a", deidentified_by="rules 1"),
        )
        for q in make_questions(8)
    ]  # fmt: skip
    write_records(tmp_path / "train.jsonl", rows[:6])
    write_records(tmp_path / "val.jsonl", rows[6:])
    with serve_teacher(latency_s=0, skill=0.0) as student:
        run(config_of(tmp_path, endpoint=student.base_url, samples=1))
    assert len(read(tmp_path / "select" / "train.jsonl")) == 6
    assert len(read(tmp_path / "select" / "val.jsonl")) == 2


def test_a_student_that_is_right_everywhere_leaves_nothing_and_says_so(tmp_path, capsys):
    write_records(tmp_path / "questions.jsonl", make_questions(3))
    with serve_teacher(latency_s=0) as student:
        manifest = run(config_of(tmp_path, endpoint=student.base_url, samples=2))
    assert "nothing to buy" in capsys.readouterr().err
    assert manifest.counts.dropped == {"always_right": 3}


def test_questions_of_prepare_are_evaluated_by_their_split(tmp_path):
    write_records(tmp_path / "questions.jsonl", make_questions(9, n_val=4))
    with serve_teacher(latency_s=0) as student:
        given = {"input": tmp_path, "model": "rehearsal", "endpoint": student.base_url}
        config = EvaluateConfig.model_validate({**given, "out": tmp_path / "val", "split": "val"})
        evaluate(config)
        assert student.bill.requests == 4
    assert json.loads((tmp_path / "val" / "scores.json").read_text())["diagnosis_accuracy"] == 1
    with pytest.raises(InputError, match="no questions of the split test"):
        evaluate(config.model_copy(update={"split": "test", "out": tmp_path / "test"}))


def test_a_split_that_got_no_case_says_to_bring_more(tmp_path):
    (tmp_path / "test.jsonl").touch()
    with pytest.raises(InputError, match="no questions of the split test; bring more cases"):
        evaluate(EvaluateConfig(input=tmp_path, model="medkd:tiny", out=tmp_path / "evaluate"))
