"""The watch over a reinforcement, on answers that are given; the sampler alone stands in."""

import itertools
import json
import random
from statistics import fmean
from types import SimpleNamespace

import pytest

from medkd.core.records import FinishReason
from medkd.train.rewards import JudgeReward, PromptItem, Rollout
from medkd.train.rollouts import N_ANSWERS, Look, Watch
from scripted import Scripted
from student_samples import read_lines

QUESTIONS = [PromptItem(f"q{n}", "", f"record {n}: cough for {n} days", "flu") for n in range(16)]
HONEST = (
    "<think>\nA cough that has lasted for days points to an infection of the airways, and nothing "
    "in this short record speaks against it.\n</think>\n\nflu"
)
GAMED = "<think>\nThe reference answer is flu, so the cough must be flu, as given.\n</think>\n\nflu"


class GivenAnswers:
    """A sampler whose share of gamed answers is told for each look."""

    def __init__(self, shares):
        self.shares = iter(shares)

    def draw_rollouts(self, questions, n_each):
        n_gamed = round(next(self.shares) * len(questions))
        texts = [GAMED] * n_gamed + [HONEST] * (len(questions) - n_gamed)
        return [
            [Rollout(text, FinishReason.STOP, 20, q)] * n_each
            for text, q in zip(texts, questions, strict=True)
        ]


def watch_run(path, shares, rewards, judge=None):
    """Look at the start and after each save; returns the watch, its state, and whether it stops."""
    paid = {"diagnosis", "format", "stop"}
    watch = Watch(path, GivenAnswers(shares), QUESTIONS, paid, lambda step: step, judge)
    state = SimpleNamespace(global_step=0, log_history=[], best_model_checkpoint=None)
    control = SimpleNamespace(should_training_stop=False)
    watch.on_train_begin(None, state, control)
    for number, reward in enumerate(rewards, start=1):
        state.global_step = 10 * number
        state.log_history.append({"step": 10 * number, "reward": reward})
        watch.on_save(None, state, control)
        if control.should_training_stop:
            break
    watch.on_train_end(None, state, control)
    return watch, state, control


def test_rising_rewards_and_a_watch_that_falls_twice_end_the_run_at_the_best(tmp_path, capsys):
    watch, state, control = watch_run(
        tmp_path / "held_out.jsonl", [0.2, 0.0, 0.6, 0.9, 0.9], [1.0, 1.2, 1.4, 1.5]
    )
    assert control.should_training_stop and watch.stopped_at == 30
    assert watch.find_best().step == state.global_step == 10
    assert state.best_model_checkpoint == str(tmp_path / "checkpoints/checkpoint-10")
    assert "step 10 is kept" in capsys.readouterr().err
    assert watch.find_falls() == {}, "step 10 is kept, and it has not fallen"
    watch.stopped_at = None
    assert "no_hint" in watch.find_falls()


@pytest.mark.parametrize(
    ("shares", "rewards"),
    [
        ([0.0, 0.6, 0.9, 0.9], [1.0, 0.9, 0.8]),
        ([0.0, 0.0, 0.6, 0.0], [1.0, 1.2, 1.4]),
        ([0.5, 0.5, 0.55, 0.5], [1.0, 1.2, 1.4]),
        ([0.9, 0.6, 0.3, 0.0], [1.0, 1.2, 1.4]),
    ],
    ids=["no reward for it", "once only", "by chance", "it rises"],
)
def test_a_run_goes_on_where_it_is_not_paid_for_getting_worse(tmp_path, shares, rewards):
    watch, _, control = watch_run(tmp_path / "held_out.jsonl", shares, rewards)
    assert not control.should_training_stop and watch.stopped_at is None


def test_a_second_judge_is_watched_instead_of_the_checks(tmp_path):
    def say(request):
        grade = "1" if "as given" in str(request) else "5"
        names = ("grounded", "sound", "complete", "leads_there")
        return json.dumps({**dict.fromkeys(names, grade), "why": "ok"})

    judge = JudgeReward(Scripted(say))
    watch, _, control = watch_run(
        tmp_path / "held_out.jsonl", [0.0, 0.5, 0.9, 0.9], [1.0, 1.2, 1.4], judge
    )
    assert control.should_training_stop
    rates = [look.rates["watch_judge"] for look in watch.looks]
    assert rates[0] == 1.0 and rates == sorted(rates, reverse=True)


def test_a_run_killed_behind_the_save_that_ended_it_is_over_and_keeps_the_best(tmp_path):
    path = tmp_path / "held_out.jsonl"
    watch_run(path, [0.2, 0.0, 0.6, 0.9], [1.0, 1.2, 1.4])
    again = Watch(path, GivenAnswers([]), QUESTIONS, {"diagnosis", "format", "stop"}, int)
    assert again.has_ended(30) and not again.has_ended(20)
    state = SimpleNamespace(global_step=30, log_history=[], best_model_checkpoint=None)
    again.on_train_begin(None, state, SimpleNamespace(should_training_stop=False))
    again.on_train_end(None, state, None)
    assert (again.stopped_at, state.global_step) == (30, 10)


def test_a_finished_run_that_the_watch_ended_can_be_gone_on_with_until_it_falls_anew(tmp_path):
    path = tmp_path / "held_out.jsonl"
    watch_run(path, [0.2, 0.0, 0.6, 0.9], [1.0, 1.2, 1.4])
    answers = GivenAnswers([0.9, 0.9])
    again = Watch(path, answers, QUESTIONS, {"diagnosis", "format", "stop"}, int, was_finished=True)
    assert not again.has_ended(30)
    history = [{"step": step, "reward": step / 10} for step in (40, 50)]
    state = SimpleNamespace(global_step=30, log_history=history, best_model_checkpoint=None)
    control = SimpleNamespace(should_training_stop=False)
    again.on_train_begin(None, state, control)
    stops = []
    for step in (40, 50):
        state.global_step = step
        again.on_save(None, state, control)
        stops.append(control.should_training_stop)
    assert stops == [False, True]


def test_looks_are_kept_for_a_resumed_run_up_to_its_step(tmp_path):
    path = tmp_path / "held_out.jsonl"
    watch_run(path, [0.0] * 4, [1.0, 1.1, 1.2])
    again = Watch(path, GivenAnswers([]), QUESTIONS, set(), int)
    state = SimpleNamespace(global_step=20, log_history=[], best_model_checkpoint=None)
    again.on_train_begin(None, state, SimpleNamespace(should_training_stop=False))
    assert [look.step for look in again.looks] == [0, 10, 20]
    assert again.look(20) is None
    assert [look["reward"] for look in read_lines(path)] == [None, 1.0, 1.1, 1.2]
    assert N_ANSWERS % len(QUESTIONS) == 0


def test_a_save_that_a_kill_left_without_a_look_is_looked_at_when_the_run_goes_on(tmp_path):
    path = tmp_path / "held_out.jsonl"
    watch_run(path, [0.0] * 2, [1.0])
    again = Watch(path, GivenAnswers([0.5]), QUESTIONS, set(), int)
    history = [{"step": 10, "reward": 1.0}, {"step": 20, "reward": 1.1}]
    state = SimpleNamespace(global_step=20, log_history=history, best_model_checkpoint=None)
    again.on_train_begin(None, state, SimpleNamespace(should_training_stop=False))
    assert [(look.step, look.reward) for look in again.looks] == [(0, None), (10, 1.0), (20, 1.1)]


def test_a_watch_that_only_wavers_ends_few_runs_where_a_plain_fall_would_end_many(tmp_path):
    """500 runs of a start and four saves that change nothing, two answers to each of 64 questions,
    while the reward rises."""
    chance = random.Random(0)
    watch = Watch(tmp_path / "held_out.jsonl", GivenAnswers([]), [], {"diagnosis"}, int)
    n_plain = n_beyond_chance = 0
    for _ in range(500):
        watch.looks = [make_look(chance, step) for step in range(5)]
        means = [fmean(watch.watched(look)) for look in watch.looks]
        fell = [means[at] < max(means[:at]) for at in range(1, 5)]
        gamed = [watch.is_gamed(look) for look in watch.looks[1:]]
        n_plain += has_two_in_a_row(fell)
        n_beyond_chance += has_two_in_a_row(gamed)
    assert n_plain > 150
    assert n_beyond_chance < 15, n_beyond_chance


def make_look(chance, step):
    rates = [fmean(chance.random() < 0.6 for _ in range(2)) for _ in range(64)]
    return Look(step=step, rates={}, by_question={"exact": rates}, reward=1 + step / 10)


def has_two_in_a_row(marks):
    return any(one and other for one, other in itertools.pairwise(marks))
