"""Rubrics: written by a teacher, checked against the record, judged criterion by criterion."""

import json

import pytest

from medkd.completers.providers import find_target_of
from medkd.core.errors import InputError
from medkd.core.records import Completion, Lineage
from medkd.core.reviews import Decision, Review, add_review
from medkd.demo.teacher import serve_teacher
from medkd.evaluate.judging import Config, run
from medkd.evaluate.stage import Config as EvaluateConfig
from medkd.evaluate.stage import run as evaluate
from medkd.grading.rubric import (
    Criterion,
    QuestionRubric,
    UnusableRubricError,
    count_points,
    criterion_request,
    make_writer_request,
    read_criteria,
    read_healthbench,
    read_rubrics,
    score_rubrics,
)
from scripted import Scripted
from student_samples import make_example, read_lines, write_examples

RECORD, REFERENCE = "发热3天，咳嗽，右下肺湿啰音，白细胞12.4，胸片斑片影", "肺炎"
QUOTES = ["发热3天", "咳嗽", "湿啰音", "12.4", "斑片影"]
SAID = "诊断不明"
"""What the rehearsal teacher says of a record that it does not know."""
MARKED = Lineage(origin="a", deidentified_by="rules 5")


def write(quotes=QUOTES, fault="肺炎", **changes):
    criteria = [{"criterion": f"提到{q}", "points": 2, "quote": q} for q in quotes]
    if fault:
        criteria.append({"criterion": "排除肺炎", "points": -5, "quote": fault})
    criteria[0] |= changes
    return "如下。\n" + json.dumps({"criteria": criteria}, ensure_ascii=False)


def test_criteria_quote_the_record_or_the_reference_and_name_a_fault():
    found = read_criteria(write(), RECORD, REFERENCE)
    assert [c.points for c in found] == [2, 2, 2, 2, 2, -5]
    assert found[-1].quote == "肺炎"  # stands in the reference alone
    spaced = read_criteria(write(quote="发热 ３天，"), RECORD, REFERENCE)
    assert len(spaced) == 6


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I cannot.", "unreadable"),
        (write(QUOTES[:3]), "too_few_criteria"),
        (write([*QUOTES[:3], "腹痛", "黄疸"]), "quote_not_found"),
        (write(fault=None), "no_negative_criterion"),
        (write(QUOTES[:4], points=11), "too_few_criteria"),
        (write(QUOTES[:4], points=0), "too_few_criteria"),
        (write(QUOTES[:4], points=True), "too_few_criteria"),
        (write(QUOTES[:4], criterion=""), "too_few_criteria"),
    ],
)
def test_what_is_no_rubric_is_dropped_with_its_reason(text, reason):
    with pytest.raises(UnusableRubricError) as caught:
        read_criteria(text, RECORD, REFERENCE)
    assert caught.value.reason == reason


def test_a_record_cannot_close_its_tag_nor_fill_a_placeholder():
    (system, user) = make_writer_request("</record>{reference}", "{question}").messages
    assert user.content.count("</record>") == 1 and "{reference}" in user.content
    assert "</record>" not in system.content


def test_points_are_earned_lost_and_bounded_where_the_judge_was_not_read():
    criteria = [Criterion(text=str(p), points=p) for p in (6, 4, -5)]
    assert count_points(criteria, [True, False, False])[:3] == (0.6, 0.6, 0.0)
    assert count_points(criteria, [True, True, True]).low == 0.5
    assert count_points(criteria, [False, False, True]).low == -0.5
    low, high, unreadable, _ = count_points(criteria, [True, None, None])
    assert (low, high, unreadable) == (pytest.approx(0.1), 1.0, pytest.approx(2 / 3))


def test_every_criterion_is_asked_about_by_itself_and_failures_are_no_zeros():
    rubric = QuestionRubric(
        id="a", criteria=tuple(Criterion(text=t, points=1) for t in ("yes", "no", "cut", "odd"))
    )

    def reply(request):
        wanted = json.loads(request.messages[1].content)["criterion"]
        if wanted == "cut":
            return Completion(text="", complete=False, finish_reason="length")
        return "perhaps" if wanted == "odd" else json.dumps({"met": wanted})

    judge = Scripted(reply)
    (score,) = score_rubrics([("q", "<think>t</think>a", rubric)], judge)
    assert score.met == (True, False, None, None) and len(judge.asked) == 4
    assert (
        "<think>"
        not in criterion_request("q", "<think>t</think>a", rubric.criteria[0]).messages[1].content
    )


HEALTH = {
    "prompt_id": "h1",
    "prompt": [
        {"role": "user", "content": "My child has a fever."},
        {"role": "assistant", "content": "How high?"},
        {"role": "user", "content": "40.2 C since two days."},
    ],
    "rubrics": [
        {"criterion": 'Says "see a doctor"', "points": 7, "tags": ["axis:accuracy"]},
        {"criterion": 'Says "aspirin"', "points": -6, "tags": []},
    ],
}


def test_healthbench_is_asked_turn_by_turn_and_judged_by_its_own_rubric(tmp_path):
    messages, rubric = read_healthbench(HEALTH, "x")
    assert [m.role for m in messages] == ["user", "assistant", "user"] and rubric.id == "h1"
    path = tmp_path / "healthbench.jsonl"
    path.write_text(json.dumps(HEALTH) + "\n" + json.dumps(HEALTH | {"rubrics": [{}]}) + "\n")
    asked = {"endpoint": "", "model": "rehearsal", "exam": str(path)}
    with serve_teacher() as teacher:
        asked["endpoint"] = teacher.base_url
        with pytest.raises(InputError, match="want a judge"):
            evaluate(EvaluateConfig(**asked, out=tmp_path / "none"))
        judge = {"judge": teacher.base_url, "judge_model": "rehearsal"}
        manifest = evaluate(EvaluateConfig(**asked, **judge, out=tmp_path / "out"))
    assert manifest.counts.dropped == {"not_a_question": 1}
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["n"] == 1 and scores["rubric_score"] == scores["rubric_score_high"] == 0.0
    (line,) = read_lines(tmp_path / "out/predictions.jsonl")
    assert (
        "How high?" in line["prompt"]
        and "not met (+7)" in (read_lines(tmp_path / "out/rows.jsonl")[0]["judged"])
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rubric")
    path = write_examples(
        folder / "test.jsonl", range(3), input=RECORD, reference=SAID, lineage=MARKED
    )
    with serve_teacher() as teacher:
        config = Config(input=path, teacher=teacher.base_url, model="rehearsal", out=folder / "out")
        manifest = run(config)
        assert run(config).started_at == manifest.started_at
        yield folder, manifest, teacher


def test_a_teacher_writes_rubrics_and_their_source_stands_with_them(written):
    folder, manifest, _ = written
    rubrics = read_lines(folder / "out/rubrics.jsonl")
    assert manifest.counts.kept == len(rubrics) == 3
    assert all(5 <= len(r["criteria"]) <= 12 for r in rubrics)
    assert all(any(c["points"] < 0 for c in r["criteria"]) for r in rubrics)
    assert rubrics[0]["source"] == "custom rehearsal" and rubrics[0]["deidentified_by"] == "rules 5"


def test_evaluate_scores_by_rubric_and_a_rejected_one_is_not_used(written, tmp_path):
    folder, _, teacher = written
    asked = {"model": "rehearsal", "endpoint": teacher.base_url, "input": folder / "test.jsonl"}
    judge = {"judge": teacher.base_url, "judge_model": "rehearsal", "rubric": folder / "out"}
    evaluate(EvaluateConfig(**asked, **judge, out=tmp_path / "all"))
    scores = json.loads((tmp_path / "all/scores.json").read_text())
    criteria = read_lines(folder / "out/rubrics.jsonl")[0]["criteria"]
    possible = sum(c["points"] for c in criteria if c["points"] > 0)
    assert scores["rubric_score"] == pytest.approx(10 / possible, abs=1e-6)
    assert scores["rubric_unreadable"] == 0.0
    first = next(iter(read_rubrics(folder / "out")))
    add_review(folder / "out", Review(id=first, reviewer="li", decision=Decision.REJECT))
    assert first not in read_rubrics(folder / "out")
    (folder / "out/reviews.jsonl").unlink()


def test_answers_of_another_tool_find_their_rubrics_by_the_text_of_the_question(
    written, tmp_path, capsys
):
    folder, _, teacher = written
    path = tmp_path / "generated_predictions.jsonl"
    prompts = [f"<|im_start|>user\n{RECORD}<|im_end|>", "<|im_start|>user\n腹痛。<|im_end|>"]
    rows = [{"prompt": prompt, "predict": SAID, "label": SAID} for prompt in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"predictions": path, "rubric": folder / "out"}
    with pytest.raises(InputError, match="--rubric: criteria are checked by a judge"):
        evaluate(EvaluateConfig(**asked, out=tmp_path / "none"))
    judge = {"judge": teacher.base_url, "judge_model": "rehearsal", "accept_identified": True}
    evaluate(EvaluateConfig(**asked, **judge, out=tmp_path / "out"))
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["n"] == 2 and scores["n_rubric_score"] == 1 and scores["rubric_score"] > 0
    assert "1 of 2 questions have a rubric" in capsys.readouterr().err


def test_patients_records_reach_a_teacher_only_with_their_mark(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(make_example(0, lineage=Lineage(origin="a")).model_dump_json() + "\n")
    with pytest.raises(InputError, match="no deidentified_by"):
        run(Config(input=path, teacher="http://127.0.0.1:9/v1", model="m", out=tmp_path / "out"))


def test_a_judge_without_a_model_names_the_flag_that_gives_it() -> None:
    with pytest.raises(InputError, match="give --judge-model NAME"):
        find_target_of("http://127.0.0.1:1/v1", "", "--judge")
