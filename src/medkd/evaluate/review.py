"""People's judgement of answers: a blinded sample shown, reviews kept, rules and judge held against
it; and the command `review`, which asks in the terminal.

In: a directory of `evaluate` (or two), or of `rubric`. Out: `answer_reviews.jsonl`, append-only,
beside the first, and `agreement.json`. Not done here: asking in a browser (`studio`).
"""

import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from medkd.completers.client import LedgerClient
from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordAppender, RecordReader, resolve_input, write_json
from medkd.core.records import NonEmpty, Prediction, Record, check_deidentified
from medkd.core.reviews import Decision, Review, add_review, find_user_name, read_reviews
from medkd.core.statistics import (
    MIN_QUESTIONS,
    Stratum,
    cohen_kappa,
    correct_rate,
    wilson_interval,
)
from medkd.evaluate.judging import open_judge, show_rubric, to_judge
from medkd.grading.judge import PairToJudge, judge_answers, judge_pairs
from medkd.grading.rubric import RUBRICS, QuestionRubric
from medkd.grading.scores import find_verdict
from medkd.report.material import AGREEMENT, Evaluation, find_shared, read_evaluation

REVIEWS = "answer_reviews.jsonl"
MIN_KAPPA = 0.6
"""Agreement with people below which a judge, or the rules, are not to be trusted."""
Label = Literal["right", "wrong", "undecided", "first", "second", "tie"]
OpenSession = Callable[[], AbstractContextManager[LedgerClient]]


class AnswerReview(Record):
    """One person's word on one answer or one pair; a later one by the same person replaces it."""

    id: NonEmpty
    """Of the question."""
    reviewer: NonEmpty
    label: Label
    other: str = ""
    """Directory of the second answer, where two were compared; `first` is the first directory's."""
    note: str = ""
    at: str = ""
    """ISO 8601, UTC."""


class Shown(NamedTuple):
    """What a person is shown: no model's name, no verdict."""

    id: str
    question: str
    reference: str
    answers: tuple[str, ...]
    """One answer, or two in a random order."""
    is_swapped: bool = False

    def to_label(self, choice: Label) -> Label:
        """Turn what was said of the answers as shown into what it says of the directories."""
        swapped: dict[Label, Label] = {"first": "second", "second": "first"}
        return swapped.get(choice, choice) if self.is_swapped else choice


class Sample(NamedTuple):
    """The evaluations that a sample is drawn from, and what is shown of them."""

    evaluations: list[Evaluation]
    shown: list[Shown]


def draw_sample(directories: Sequence[Path], n: int, seed: int) -> Sample:
    """Draw answers to graded questions at random, in random order; of two evaluations pairs, the
    sides swapped at random. The same seed draws the same."""
    loaded = [read_evaluation(path, path.name) for path in directories]
    graded = {row.id for row in loaded[0].rows if find_verdict(row.scores)}
    ids = [i for i in find_shared(loaded, directories) if i in graded]
    if not ids:
        raise InputError("{}: no answer was graded, so there is nothing to review", directories[0])
    draws = random.Random(seed)
    answers = [{p.id: p for p in e.predictions} for e in loaded]
    shown: list[Shown] = []
    for key in draws.sample(ids, min(n, len(ids))):
        found = [of_model[key] for of_model in answers]
        is_swapped = len(found) > 1 and draws.random() < 0.5
        texts = tuple(p.answer for p in (reversed(found) if is_swapped else found))
        question = found[0].question or found[0].prompt
        shown.append(Shown(key, question, found[0].reference, texts, is_swapped))
    return Sample(loaded, shown)


def add_answer_review(directory: Path, review: AnswerReview) -> None:
    """Append a review, with the time."""
    stamped = review.model_copy(update={"at": datetime.now(UTC).isoformat(timespec="seconds")})
    with RecordAppender(directory / REVIEWS) as file:
        file.append(stamped)


def read_answer_reviews(directory: Path, other: str = "") -> dict[str, dict[str, str]]:
    """Read the reviews that count: question, then person, to label; pairs with `other` alone."""
    path = directory / REVIEWS
    found: dict[str, dict[str, str]] = {}
    if path.exists() and path.stat().st_size:
        for review in RecordReader(path, AnswerReview, made_by="review answers"):
            if review.other == other:
                found.setdefault(review.id, {})[review.reviewer] = review.label
    return found


def join_reviews(of_question: Mapping[str, str]) -> str | None:
    """Return what most people said of one answer; None where no label leads."""
    ranked = Counter(of_question.values()).most_common(2)
    return None if len(ranked) > 1 and ranked[0][1] == ranked[1][1] else ranked[0][0]


def measure(
    sample: Sample, reviews: Mapping[str, Mapping[str, str]], open_judge: OpenSession | None
) -> dict[str, Any]:
    """Hold rules and judge against what people said of the sample; the share that is right by
    people's word, over the whole evaluation.

    Reviews of questions outside the sample do not count: they may have been chosen.
    """
    joined = {s.id: join_reviews(reviews[s.id]) for s in sample.shown if s.id in reviews}
    people = {i: label for i, label in joined.items() if label is not None}
    is_pair = len(sample.evaluations) > 1
    raters: list[dict[str, Any]] = []
    found: dict[str, Any] = {"n": len(people), "n_split": len(joined) - len(people)}
    if not is_pair:
        rules = {row.id: find_verdict(row.scores) for row in sample.evaluations[0].rows}
        raters.append(_rate("rules", {i: str(v) for i, v in rules.items() if v}, people))
        found |= _correct(rules, people)
    else:
        n_won = sum(label == "second" for label in people.values())
        n_lost = sum(label == "first" for label in people.values())
        found |= {"second_preferred": n_won, "first_preferred": n_lost}
        found["interval"] = wilson_interval(n_won, n_won + n_lost)
    if open_judge and people:
        with open_judge() as session:
            raters.append(_rate("judge", _ask_judge(sample, people, session), people))
    return {**found, "raters": raters, "reviewers": _rate_people(reviews, set(joined))}


def _rate(name: str, said: Mapping[str, str], people: Mapping[str, str]) -> dict[str, Any]:
    """Measure how far a rater agrees with people on what both decided."""
    shared = [i for i in people if "undecided" not in (people[i], said.get(i, "undecided"))]
    one, other = [said[i] for i in shared], [people[i] for i in shared]
    n_agreed = sum(a == b for a, b in zip(one, other, strict=True))
    kappa = cohen_kappa(one, other) if shared else None
    low, high = wilson_interval(n_agreed, len(shared))
    if len(shared) < MIN_QUESTIONS:
        finding = "too few reviews"
    elif (kappa if kappa is not None else n_agreed / len(shared)) < MIN_KAPPA:
        finding = "not to be trusted"
    else:
        finding = "agrees"
    return {
        "name": name,
        "n": len(shared),
        "n_undecided": sum("undecided" in (people[i], said.get(i)) for i in people),
        "agreed": round(n_agreed / len(shared), 6) if shared else 0.0,
        "interval": [low, high],
        "kappa": kappa,
        "finding": finding,
    }


def _rate_people(reviews: Mapping[str, Mapping[str, str]], shown: set[str]) -> list[dict[str, Any]]:
    """Measure the agreement of every two people."""
    names = sorted({name for i in shown for name in reviews[i]})
    said = {name: {i: reviews[i][name] for i in shown if name in reviews[i]} for name in names}
    return [
        _rate(f"{one} / {other}", said[one], said[other])
        for at, one in enumerate(names)
        for other in names[at + 1 :]
    ]


def _correct(rules: Mapping[str, str | None], people: Mapping[str, str]) -> dict[str, Any]:
    """Correct the share that is right by what people said of each of the rules' verdicts."""
    strata: dict[str, Stratum] = {}
    for verdict in ("right", "wrong", "undecided"):
        members = [i for i, said in rules.items() if said == verdict]
        reviewed = [people[i] for i in members if people.get(i, "undecided") != "undecided"]
        n_right = sum(label == "right" for label in reviewed)
        strata[verdict] = Stratum(len(members), len(reviewed), n_right)
    rate, low, high = correct_rate(strata)
    return {"corrected": rate, "corrected_interval": [low, high]}


def _ask_judge(sample: Sample, people: Mapping[str, str], session: LedgerClient) -> dict[str, str]:
    """Have the judge say of every reviewed answer what people said; what it cannot is left out."""
    answers = [{p.id: p for p in e.predictions} for e in sample.evaluations]
    if len(answers) == 1:
        task = str(sample.evaluations[0].manifest.config.get("task") or "")
        cases = [to_judge(answers[0][i], task) for i in people]
        opinions = judge_answers(cases, session)
    else:
        opinions = judge_pairs([_to_pair(answers[0][i], answers[1][i]) for i in people], session)
    pairs = zip(people, opinions, strict=True)
    return {i: opinion.label for i, opinion in pairs if opinion.label}


def _to_pair(first: Prediction, second: Prediction) -> PairToJudge:
    question = first.question or first.prompt
    return PairToJudge(question, first.reference, first.answer, second.answer)


def write_agreement(directory: Path, found: Mapping[str, Any]) -> Path:
    """Write what people said beside the evaluation; compare's page shows it."""
    path = directory / AGREEMENT
    write_json(path, dict(found))
    return path


def describe(found: Mapping[str, Any]) -> str:
    """Write the agreement for a terminal."""
    lines = [f"{found['n']} answers reviewed; people disagree on {found['n_split']} more"]
    for rater in (*found["raters"], *found["reviewers"]):
        kappa = "none" if rater["kappa"] is None else f"{rater['kappa']:.2f}"
        low, high = rater["interval"]
        agreed = f"{rater['agreed']:.3f} [{low:.3f}, {high:.3f}]" if rater["n"] else "nothing yet"
        lines.append(
            f"  {rater['name']:<10} agrees on {agreed}, kappa {kappa}, n {rater['n']} and "
            f"{rater['n_undecided']} undecided: {rater['finding']}"
        )
    if "corrected" in found:
        low, high = found["corrected_interval"]
        told = f"{found['corrected']:.3f} [{low:.3f}, {high:.3f}], n {found['n']}"
        few = ": too few reviews" if found["n"] < MIN_QUESTIONS else ""
        lines.append(f"  right by people's word: {told}{few}")
    else:
        low, high = found["interval"]
        won, lost = found["second_preferred"], found["first_preferred"]
        few = ": too few reviews" if won + lost < MIN_QUESTIONS else ""
        lines.append(
            f"  the second preferred {won}, the first {lost}; share of the second's "
            f"[{low:.3f}, {high:.3f}]{few}"
        )
    return "\n".join(lines)


# In the terminal

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
    name = reviewer or find_user_name()
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
    ask: OpenSession | None = None
    if judge:
        check_deidentified(
            [""] * len(sample.shown), directory, f"the judge {judge}", accept_identified
        )
        rubric = "pair" if other else "diagnosis"
        ask = partial(open_judge, judge, judge_model, directory / LEDGER, budget, rubric)
    found = measure(sample, reviews, ask)
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
