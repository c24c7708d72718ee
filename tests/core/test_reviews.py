"""What people said of rationales: kept, settled, and compared."""

from pathlib import Path

import pytest

from medkd.core.reviews import (
    REVIEWS,
    Decision,
    Review,
    add_review,
    find_user_name,
    measure_agreement,
    read_reviews,
    settle,
)


def say(directory: Path, key: str, reviewer: str, decision: Decision, **words: str) -> None:
    add_review(directory, Review(id=key, reviewer=reviewer, decision=decision, **words))


def test_a_system_without_users_has_a_name_for_who_works_there(monkeypatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("uid 1234")))
    assert find_user_name() == "user"


def test_a_person_may_think_again_and_the_file_keeps_both_judgements(tmp_path: Path) -> None:
    say(tmp_path, "q:1", "a", Decision.ACCEPT)
    say(tmp_path, "q:1", "a", Decision.REJECT, reason="the finding is not there")
    held = read_reviews(tmp_path)["q:1"]
    assert [(review.reviewer, review.decision, review.reason) for review in held] == [
        ("a", "reject", "the finding is not there")
    ]
    assert held[0].at.endswith("+00:00")
    assert len((tmp_path / REVIEWS).read_text(encoding="utf-8").splitlines()) == 2


def test_a_rejection_by_anyone_counts_then_the_last_edit_then_the_acceptance(
    tmp_path: Path,
) -> None:
    say(tmp_path, "q:1", "a", Decision.ACCEPT)
    assert settle(read_reviews(tmp_path)["q:1"]).decision is Decision.ACCEPT
    say(tmp_path, "q:1", "b", Decision.EDIT, answer="older")
    say(tmp_path, "q:1", "c", Decision.EDIT, answer="newer")
    assert settle(read_reviews(tmp_path)["q:1"]).answer == "newer"
    say(tmp_path, "q:1", "a", Decision.REJECT)
    say(tmp_path, "q:1", "d", Decision.ACCEPT)
    assert settle(read_reviews(tmp_path)["q:1"]).decision is Decision.REJECT


def test_a_torn_last_line_costs_that_line_alone(tmp_path: Path) -> None:
    say(tmp_path, "q:1", "a", Decision.ACCEPT)
    with (tmp_path / REVIEWS).open("a", encoding="utf-8") as file:
        file.write('{"id": "q:2", "revi')
    say(tmp_path, "q:3", "a", Decision.ACCEPT)
    assert set(read_reviews(tmp_path)) == {"q:1", "q:3"}


def test_agreement_is_kappa_over_what_both_judged(tmp_path: Path) -> None:
    for number, (first, second) in enumerate(
        [("accept", "accept"), ("accept", "edit"), ("reject", "reject"), ("accept", "reject")]
    ):
        say(tmp_path, f"q:{number}", "a", Decision(first))
        say(tmp_path, f"q:{number}", "b", Decision(second))
    say(tmp_path, "q:9", "a", Decision.REJECT)
    (found,) = measure_agreement(read_reviews(tmp_path))
    assert (found.reviewers, found.n, found.agreed) == (("a", "b"), 4, 3)
    assert found.kappa == pytest.approx(0.5)


def test_agreement_beyond_chance_is_not_claimed_where_all_is_one(tmp_path: Path) -> None:
    for reviewer in ("a", "b"):
        say(tmp_path, "q:1", reviewer, Decision.ACCEPT)
    assert measure_agreement(read_reviews(tmp_path))[0].kappa is None
    assert measure_agreement({}) == []
