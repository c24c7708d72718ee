"""People's reviews of answers, and what they say of rules and of a judge."""

import json

import pytest

from medkd.core.errors import InputError
from medkd.demo.teacher import serve_teacher
from medkd.evaluate.review import (
    AnswerReview,
    add_answer_review,
    describe,
    draw_sample,
    measure,
    read_answer_reviews,
    review,
)
from medkd.evaluate.stage import Config, run


def make_evaluation(folder, answers):
    folder.mkdir()
    path = folder / "p.jsonl"
    rows = [
        {"prompt": f"请诊断。发热{n}", "predict": answer, "label": "急性阑尾炎"}
        for n, answer in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(Config(predictions=path, out=folder / "scored"))
    return folder / "scored"


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("review")
    first = make_evaluation(folder / "a", ["急性阑尾炎"] * 20 + ["骨折"] * 20)
    return first, make_evaluation(folder / "b", ["骨折"] * 10 + ["急性阑尾炎"] * 30)


def test_the_sample_is_blinded_and_the_same_for_everybody(scored):
    first, again = (draw_sample([scored[0]], 25, seed=3) for _ in range(2))
    assert first.shown == again.shown and len(first.shown) == 25
    assert [s.id for s in first.shown] != sorted(s.id for s in first.shown)
    assert first.shown != draw_sample([scored[0]], 25, seed=4).shown


def test_the_sides_of_a_pair_are_swapped_at_random_and_counted_back(scored):
    shown = draw_sample(list(scored), 40, seed=1).shown
    n_swapped = sum(one.is_swapped for one in shown)
    assert 10 <= n_swapped <= 30
    swapped = next(one for one in shown if one.is_swapped)
    assert (swapped.to_label("first"), swapped.to_label("tie")) == ("second", "tie")


def say_all(directory, sample, reviewer, decide):
    for shown in sample.shown:
        label = decide(shown)
        made = AnswerReview(id=shown.id, reviewer=reviewer, label=label)
        add_answer_review(directory, made)


def test_rules_and_people_are_compared_and_the_rate_corrected(scored):
    sample = draw_sample([scored[0]], 30, seed=0)
    say_all(scored[0], sample, "li", lambda s: "right" if "阑尾" in s.answers[0] else "wrong")
    found = measure(sample, read_answer_reviews(scored[0]), None)
    (rules,) = found["raters"]
    assert (rules["n"], rules["kappa"], rules["finding"]) == (30, 1.0, "agrees")
    low, high = found["corrected_interval"]
    assert found["corrected"] == 0.5 and 0.3 < low < 0.5 < high < 0.7


def test_an_answer_that_a_person_leaves_undecided_counts_against_nobody(scored):
    sample = draw_sample([scored[0]], 30, seed=0)
    truth = {s.id: "right" if "阑尾" in s.answers[0] else "wrong" for s in sample.shown}
    unsure = sample.shown[0].id
    reviews = {i: {"li": label, "sun": label} for i, label in truth.items()}
    reviews[unsure] = {"li": "undecided"}
    found = measure(sample, reviews, None)
    (rules,) = found["raters"]
    assert (rules["n"], rules["n_undecided"], rules["agreed"]) == (29, 1, 1.0)
    reviews[unsure] = {"li": truth[unsure], "sun": "undecided"}
    (people,) = measure(sample, reviews, None)["reviewers"]
    assert (people["n"], people["n_undecided"], people["kappa"]) == (29, 1, 1.0)


def test_the_last_word_of_a_person_counts_and_people_who_disagree_are_said(scored):
    sample = draw_sample([scored[0]], 30, seed=0)
    say_all(scored[0], sample, "wang", lambda s: "wrong")
    found = measure(sample, read_answer_reviews(scored[0]), None)
    assert found["n"] + found["n_split"] == 30 and found["n_split"] > 5
    assert found["reviewers"][0]["name"] == "li / wang"
    assert found["reviewers"][0]["finding"] == "not to be trusted"
    say_all(scored[0], sample, "wang", lambda s: "right" if "阑尾" in s.answers[0] else "wrong")
    again = measure(sample, read_answer_reviews(scored[0]), None)
    assert again["n_split"] == 0 and len((scored[0] / "answer_reviews.jsonl").read_text()) > 0


def test_where_people_agree_on_nothing_no_number_is_told(scored):
    sample = draw_sample([scored[0]], 5, seed=0)
    for name, label in (("li", "right"), ("wang", "wrong")):
        say_all(scored[0], sample, name, lambda s, label=label: label)
    said = describe(measure(sample, read_answer_reviews(scored[0]), None))
    assert "rules      agrees on nothing yet" in said
    assert said.endswith("n 0: too few reviews")


def test_the_command_asks_one_by_one_and_goes_on_where_it_stopped(scored, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    typed = iter(["1", "x", "t", "q"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    with serve_teacher() as teacher:
        review(
            "answers",
            *scored,
            reviewer="zhao",
            n=5,
            judge=teacher.base_url,
            judge_model="rehearsal",
            accept_identified=True,
        )
    said = capsys.readouterr().out
    assert "answer 1:" in said and "answer 2:" in said and "scored" not in said.split("reviewed")[0]
    assert "judge" in said and said.rstrip().endswith("]: too few reviews")
    assert len(read_answer_reviews(scored[0], scored[1].resolve().name)) == 2
    typed = iter(["q"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    review("answers", *scored, reviewer="zhao", n=5)
    assert "[1/3]" in capsys.readouterr().out


def test_without_a_terminal_nothing_is_asked(scored, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail("asked"))
    monkeypatch.setattr("medkd.evaluate.review.read_answer_reviews", lambda *_: {})
    with pytest.raises(InputError, match="nobody has reviewed these answers"):
        review("answers", scored[0], reviewer="nobody", seed=77)
    assert capsys.readouterr().out == ""


def test_a_judge_that_says_the_opposite_of_people_is_not_to_be_trusted(scored, capsys):
    sample = draw_sample([scored[0]], 30, seed=9)
    contrary = lambda s: "wrong" if "阑尾" in s.answers[0] else "right"  # noqa: E731
    for name in ("li", "wang", "chen"):
        say_all(scored[0], sample, name, contrary)
    with serve_teacher() as teacher:
        review(
            "answers",
            scored[0],
            reviewer="li",
            n=30,
            seed=9,
            judge=teacher.base_url,
            judge_model="rehearsal",
            accept_identified=True,
        )
    found = {r["name"]: r for r in json.loads((scored[0] / "agreement.json").read_text())["raters"]}
    assert found["judge"]["finding"] == found["rules"]["finding"] == "not to be trusted"
    assert "judge      agrees on 0.000" in capsys.readouterr().out
