import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.completers.ledger import open_reader
from medkd.core.errors import InputError, StoppedError
from medkd.core.records import Completion, FinishReason
from medkd.demo.teacher import serve_teacher
from medkd.grading.diagnosis import grade
from medkd.grading.grounding import grounded_rate
from medkd.grading.rubric import Criterion, QuestionRubric
from medkd.train.rewards import (
    DEFAULT_WEIGHTS,
    Band,
    JudgeReward,
    PromptItem,
    Rollout,
    RubricReward,
    check_weights,
    choose_band,
    fill_undecided,
    make_rewards,
    open_judge,
    reward_answer,
    reward_format,
    reward_grounded,
    reward_length,
    reward_loop,
    reward_stop,
)
from scripted import Scripted

RECORD = "【主诉】咳嗽三天。体温38.5℃，无胸痛。"
RIGHT = "<think>\n体温38.5℃，咳嗽三天，考虑感染。\n</think>\n\n肺炎"


def make_rollout(text, reason=FinishReason.STOP, n_tokens=40, reference="肺炎", **more):
    return Rollout(text, reason, n_tokens, PromptItem("", "", RECORD, reference, **more))


@settings(deadline=None)
@given(
    text=st.text(max_size=200),
    reference=st.sampled_from(["肺炎", "2型糖尿病；高血压病", ""]),
    reason=st.sampled_from(FinishReason),
)
def test_whatever_was_written_earns_between_zero_and_one(text, reference, reason):
    rewards = make_rewards(DEFAULT_WEIGHTS, Band(10, 80))
    assert all(
        value is None or 0.0 <= value <= 1.0
        for reward in rewards.values()
        for value in reward([make_rollout(text, reason, reference=reference)])
    )


def test_the_diagnosis_is_paid_by_the_grade_of_the_answer_alone():
    assert reward_answer(make_rollout(RIGHT)) == grade("肺炎", "肺炎").f1 == 1.0
    assert reward_answer(make_rollout("<think>\n肺炎肺炎\n</think>\n\n哮喘")) == 0.0


@pytest.mark.parametrize(
    ("kind", "reference", "right", "wrong"),
    [("choice", "B", "答案：B", "答案：C"), ("number", "1250", "共 1,250 mL", "共 1,300 mL")],
)
def test_an_answer_is_paid_by_the_grader_of_its_kind(kind, reference, right, wrong):
    texts = [f"<think>\n想。\n</think>\n\n{answer}" for answer in (right, wrong)]
    rollouts = [make_rollout(text, reference=reference, kind=kind) for text in texts]
    assert [reward_answer(rollout) for rollout in rollouts] == [1.0, 0.0]


def test_what_the_record_itself_tells_as_known_is_not_asked_for():
    both = "肺炎；高血压病"
    told = make_rollout(RIGHT, reference=both, known=("高血压病",))
    assert reward_answer(told) > reward_answer(make_rollout(RIGHT, reference=both))


def test_a_longer_list_of_diagnoses_earns_less():
    assert reward_answer(make_rollout(RIGHT + "；哮喘；肺结核")) < reward_answer(
        make_rollout(RIGHT)
    )


def test_an_undecided_answer_counts_as_neither_right_nor_wrong():
    """Noise is undecided too: it never earns more than the answers beside it do on average."""
    texts = [RIGHT, "<think>\n咳嗽\n</think>\n\n哮喘", "qx%zz tt"]
    rollouts = [make_rollout(text) for text in texts]
    scores = [reward_answer(rollout) for rollout in rollouts]
    assert scores == [1.0, 0.0, None]
    assert fill_undecided(rollouts, scores) == [1.0, 0.0, 0.5]
    assert fill_undecided(rollouts[2:], [None]) == [0.0]


def test_an_answer_that_states_nothing_earns_nothing():
    assert reward_answer(make_rollout("<think>\n咳嗽\n</think>\n\n", reference="肺炎")) == 0.0


def test_a_thought_that_was_never_closed_has_no_answer_to_pay_for():
    unclosed = make_rollout("<think>\n肺炎", FinishReason.LENGTH)
    assert (
        reward_answer(unclosed),
        reward_format(unclosed),
        reward_stop(unclosed),
        reward_grounded(unclosed),
    ) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "肺炎",
        "<think>\n</think>\n\n肺炎",
        RIGHT + "</think>",
        "<think>" + RIGHT,
        "<think>\n咳嗽\n</think>\n\n",
    ],
)
def test_anything_but_one_thought_and_one_answer_has_no_form(text):
    assert reward_format(make_rollout(text)) == 0.0


def test_a_loop_is_seen_whether_it_was_stopped_or_ended_by_itself():
    assert reward_loop(make_rollout("咳嗽" * 60)) == 0.0
    assert reward_loop(make_rollout("咳嗽", FinishReason.LOOP)) == 0.0
    assert reward_loop(make_rollout(RIGHT)) == 1.0


def test_findings_that_do_not_stand_in_the_record_cost_their_share():
    made_up = "<think>\n体温38.5℃，白细胞20.1。\n</think>\n\n肺炎"
    assert reward_grounded(make_rollout(RIGHT)) == 1.0
    assert (
        reward_grounded(make_rollout(made_up))
        == grounded_rate("体温38.5℃，白细胞20.1。", RECORD)
        == 0.5
    )


def test_citing_nothing_is_not_the_safest_thing_to_say():
    silent = make_rollout("<think>\n考虑感染。\n</think>\n\n肺炎")
    assert reward_grounded(silent) < reward_grounded(make_rollout(RIGHT))


def test_the_length_reward_falls_off_on_both_sides():
    band = Band(40, 100)
    paid = [reward_length(make_rollout("", n_tokens=n), band) for n in (20, 30, 40, 100, 150, 200)]
    assert paid == [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]


def test_nearly_all_of_the_start_lies_within_the_band():
    band = choose_band([50, *[60] * 300, 90, 4000])
    assert (band.low, band.high) == (45, 75)


def test_what_has_no_weight_is_not_even_computed():
    assert list(make_rewards({"stop": 1.0, "loop": 0.0, "judge": 1.0}, Band(1, 2))) == ["stop"]


ASKED = PromptItem("q1", "", "咳嗽三天", "肺炎")
THOUGHT = Rollout("<think>\n咳嗽\n</think>\n\n肺炎", FinishReason.STOP, 9, ASKED)
GOOD = json.dumps({"grounded": "5", "sound": "5", "complete": "3", "leads_there": "5", "why": "ok"})


def test_a_judge_pays_by_its_rubric():
    assert JudgeReward(Scripted(lambda _: GOOD))([THOUGHT, THOUGHT]) == [0.875, 0.875]


def test_what_has_no_reasoning_is_not_sent_to_the_judge_and_earns_nothing():
    judge = Scripted(lambda _: GOOD)
    assert JudgeReward(judge)(
        [THOUGHT._replace(text="肺炎"), THOUGHT._replace(text="<think>\n咳嗽")]
    ) == [0.0, 0.0]
    assert judge.asked == []


@pytest.mark.parametrize("said", ["It is fine.", Completion(complete=False, error="timeout")])
def test_a_judgement_that_cannot_be_read_stops_the_run_and_is_no_zero(said):
    with pytest.raises(StoppedError, match="the judge could not be read"):
        JudgeReward(Scripted(lambda _: said))([THOUGHT])


def test_a_judgement_over_http_is_paid_between_zero_and_one_and_stands_on_the_ledger(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MEDKD_API_KEY", "none")
    with (
        serve_teacher(faults=0.0, seed=1) as server,
        open_judge(
            "--judge", server.base_url, "rehearsal", None, tmp_path / "ledger.sqlite"
        ) as judge,
    ):
        reward = JudgeReward(judge)
        [score] = reward([THOUGHT])
        assert 0 <= score <= 1
        assert reward([THOUGHT]) == [score]
    assert "answer" not in capsys.readouterr().err, "a judge is asked at every step"
    with open_reader(tmp_path / "ledger.sqlite") as ledger:
        assert len(list(ledger.attempts())) == 1


RUBRIC = QuestionRubric(
    id="q1",
    criteria=(
        Criterion(text="names 肺炎", points=6),
        Criterion(text="cites the cough", points=2),
        Criterion(text="orders surgery", points=-4),
    ),
)


def say_met(*met):
    """A judge that says of each criterion in turn whether it is met."""
    said = iter(met)
    return Scripted(lambda _: json.dumps({"met": next(said), "why": "ok"}))


@pytest.mark.parametrize(
    ("met", "paid"),
    [(("yes", "yes", "no"), 1.0), (("yes", "no", "no"), 0.75), (("no", "no", "yes"), 0.0)],
)
def test_a_questions_own_rubric_pays_the_share_of_its_points(met, paid):
    reward = RubricReward(say_met(*met), {"q1": RUBRIC})
    assert reward([THOUGHT]) == [paid]


def test_a_question_without_a_rubric_is_undecided_and_nobody_is_asked():
    judge = say_met()
    assert RubricReward(judge, {"q1": RUBRIC})(
        [THOUGHT._replace(question=ASKED._replace(id="q2"))]
    ) == [None]
    assert judge.asked == []


def test_a_criterion_that_cannot_be_judged_stops_the_run():
    with pytest.raises(StoppedError, match="the judge could not be read"):
        RubricReward(Scripted(lambda _: "fine"), {"q1": RUBRIC})([THOUGHT])


@pytest.mark.parametrize(
    ("weights", "has_judge", "has_rubric", "says"),
    [
        ({"stop": 0.0}, False, False, "no reward counts"),
        ({"judge": 1.0}, False, False, "judge has a weight, but nobody"),
        ({"rubric": 1.0}, False, True, "rubric has a weight, but nobody"),
        ({"stop": 1.0}, True, False, "has no weight"),
        ({"rubric": 1.0}, True, False, "belong together"),
        ({"stop": 1.0}, False, True, "belong together"),
    ],
)
def test_weights_that_cannot_be_paid_are_named(weights, has_judge, has_rubric, says):
    with pytest.raises(InputError, match=says):
        check_weights(weights, has_judge, has_rubric)
