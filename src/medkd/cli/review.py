"""The command `review`: answers or rubrics shown to a person in the terminal, one by one.

In: a directory of `evaluate` (or two), or of `rubric`. Out: reviews beside the records; how far
rules and judge agree with people. Not done here: drawing and measuring (`evaluate.review`).
"""

import getpass
import sys
from functools import partial
from pathlib import Path
from typing import Literal

from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.completers.session import find_target_of, open_session
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.records import check_deidentified
from medkd.core.reviews import Decision, Review, add_review, read_reviews
from medkd.evaluate.review import (
    AnswerReview,
    Label,
    OpenSession,
    Sample,
    Shown,
    add_answer_review,
    describe,
    draw_sample,
    measure,
    read_answer_reviews,
    write_agreement,
)
from medkd.evaluate.rubrics import RUBRICS, show_rubric
from medkd.grading.judge import load_rubric, make_fault_finder
from medkd.grading.rubric import QuestionRubric

ANSWER_KEYS: dict[str, Label] = {"r": "right", "w": "wrong", "u": "undecided"}
PAIR_KEYS: dict[str, Label] = {"1": "first", "2": "second", "t": "tie"}
RUBRIC_KEYS = {"a": Decision.ACCEPT, "r": Decision.REJECT}


def review(
    what: Literal["answers", "rubrics"],
    directory: Path,
    other: Path | None = None,
    /,
    *,
    reviewer: str = "",
    n: int = 50,
    seed: int = 0,
    judge: str = "",
    judge_model: str = "",
    budget: float | None = None,
    accept_identified: bool = False,
) -> None:
    """Review a blinded sample of answers, or pairs of two evaluations, or rubrics; see who agrees.

    Parameters
    ----------
    what
        answers or rubrics.
    directory
        Directory of evaluate, or of rubric.
    other
        Second directory of evaluate: the better of two answers is chosen, sides swapped at random.
    reviewer
        Your name or a pseudonym; default: your login. Without a terminal nothing is asked.
    n
        Number of answers; the same seed draws the same ones for everybody.
    seed
        Seed of the sample.
    judge
        Endpoint that judges the reviewed answers too: a provider or an address.
    judge_model
        The judge's model; default: the provider's first.
    budget
        Upper limit of the money on the directory's ledger; a hard stop.
    accept_identified
        Show the judge the answers although predictions do not tell whether they name patients.
    """
    name = reviewer or getpass.getuser()
    if what == "rubrics":
        _review_rubrics(directory, name, n)
        return
    sample = draw_sample([directory, *([other] if other else [])], n, seed)
    other_name = other.resolve().name if other else ""
    if sys.stdin.isatty():
        _review_answers(sample, directory, other_name, name)
    reviews = read_answer_reviews(directory, other_name)
    if not any(shown.id in reviews for shown in sample.shown):
        raise InputError("{}: nobody has reviewed these answers; run it in a terminal", directory)
    open_judge: OpenSession | None = None
    if judge:
        check_deidentified(
            [""] * len(sample.shown), directory, f"the judge {judge}", accept_identified
        )
        target = find_target_of(judge, judge_model, "--judge")
        find_fault = make_fault_finder(load_rubric("pair" if other else "diagnosis"))
        opened = (target, directory / LEDGER, "judge", find_fault, budget)
        open_judge = partial(open_session, *opened)
    found = measure(sample, reviews, open_judge)
    print(describe(found))
    if other is None:
        print(f"written: {write_agreement(directory, found)}")


def _review_answers(sample: Sample, directory: Path, other: str, reviewer: str) -> None:
    """Ask about every answer that this person has not reviewed yet."""
    done = read_answer_reviews(directory, other)
    waiting = [s for s in sample.shown if reviewer not in done.get(s.id, {})]
    keys = PAIR_KEYS if other else ANSWER_KEYS
    for number, shown in enumerate(waiting, start=1):
        print(f"\n[{number}/{len(waiting)}] {_show(shown)}")
        choice = _ask(", ".join(f"{key} {label}" for key, label in keys.items()), set(keys))
        if choice is None:
            return
        label = shown.to_label(keys[choice])
        made = AnswerReview(id=shown.id, reviewer=reviewer, label=label, other=other)
        add_answer_review(directory, made)


def _show(shown: Shown) -> str:
    lines = [f"question:\n{shown.question}", f"known answer:\n{shown.reference}"]
    for number, answer in enumerate(shown.answers, start=1):
        title = "answer" if len(shown.answers) == 1 else f"answer {number}"
        lines.append(f"{title}:\n{answer or '(no answer)'}")
    return "\n".join(lines)


def _review_rubrics(directory: Path, reviewer: str, n: int) -> None:
    path = resolve_input(directory, RUBRICS, made_by="rubric")
    done = {
        i for i, said in read_reviews(directory).items() for r in said if r.reviewer == reviewer
    }
    rubrics = [r for r in RecordReader(path, QuestionRubric, made_by="rubric") if r.id not in done]
    for number, rubric in enumerate(rubrics[:n], start=1):
        print(f"\n[{number}/{min(n, len(rubrics))}] {show_rubric(rubric)}")
        choice = _ask("a accept, r reject", set(RUBRIC_KEYS))
        if choice is None:
            break
        decision = RUBRIC_KEYS[choice]
        add_review(path.parent, Review(id=rubric.id, reviewer=reviewer, decision=decision))
    said = [review for of_row in read_reviews(path.parent).values() for review in of_row]
    n_rejected = sum(review.decision is Decision.REJECT for review in said)
    print(f"{len(said)} reviews of rubrics, {n_rejected} of them rejections")


def _ask(keys: str, allowed: set[str]) -> str | None:
    """Ask until one of the keys is typed; None at the end of the input, or for q."""
    while True:
        try:
            said = input(f"{keys}, q stop: ").strip().lower()
        except EOFError:
            return None
        if said == "q":
            return None
        if said in allowed:
            return said
